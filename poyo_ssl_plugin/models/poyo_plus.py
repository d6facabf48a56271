"""Weights of torch_brain's Calcium POYO+ for a :class:`~poyo_ssl_plugin.CalciumPOYO` of tokens.

Its tokens hold a linear map of the sample in their first half and the neuron's vector in the second. As a sum,
which our tokens are, that is a map whose second half is zero plus a vector whose first half is the map's bias. Its
queries are the recording's vector plus the task's, as ours are. So nothing is lost but names: with the same windows,
latents and heads, the model decodes the same.
"""

from __future__ import annotations

import torch

from poyo_ssl_plugin.plain import ReadOnlyValues, State, Values

_MARK = "input_value_map.weight"
# Ours has the start and end of a window in no token, and counts tasks from 0.
_UNUSED = ("token_type_emb.", "task_emb.", "input_value_map.", "unit_emb.weight")


def is_calcium_poyo_plus(state: State) -> bool:
    """Whether a state is in the layout of torch_brain's ``CalciumPOYOPlus``."""
    return _MARK in state and "unit_emb.weight" in state


def as_calcium_poyo(state: State) -> State:
    """The state of a ``CalciumPOYOPlus`` as that of a ``CalciumPOYO(encoder="attention", patch_size=1, ...)``.

    What has no place in it (types of tokens) is left out. Tasks keep their names, numbered as their readouts are.

    Example:
        >>> state = {"input_value_map.weight": torch.ones(2, 1), "input_value_map.bias": torch.full((2,), 3.0),
        ...          "unit_emb.weight": torch.zeros(5, 2)}
        >>> made = as_calcium_poyo(state)
        >>> made["value_map.weight"].T.tolist(), made["unit_emb.weight"][1].tolist()
        ([[1.0, 1.0, 0.0, 0.0]], [3.0, 3.0, 0.0, 0.0])
    """
    made = {name: value for name, value in state.items() if not name.startswith(_UNUSED)}
    weight, units = state[_MARK], state["unit_emb.weight"]
    made["value_map.weight"] = torch.cat([weight, weight.new_zeros(units.shape[1], 1)])
    made["unit_emb.weight"] = torch.cat([state["input_value_map.bias"].expand(len(units), -1), units], dim=1)
    tasks = state.get("task_emb.weight")
    if tasks is not None:
        # The first row is padding.
        made |= {f"readout.queries.{name}": tasks[row] for row, name in enumerate(_tasks(state), start=1)}
    return made


def arguments_of(state: State, arguments: ReadOnlyValues) -> Values:
    """The arguments of the ``CalciumPOYO`` that :func:`as_calcium_poyo` gives the weights of.

    Args:
        state: The state of a ``CalciumPOYOPlus``.
        arguments: What it was made with.
    """
    outputs = {name: len(state[f"readout.projections.{name}.weight"]) for name in _tasks(state)}
    return {
        **{key: value for key, value in arguments.items() if key != "readout_specs"},
        # Those that it need not name, as torch_brain has them.
        **{key: arguments.get(key, value) for key, value in _DEFAULTS.items()},
        "dim_out": outputs,
        "encoder": "attention",
        "readout": "linear",
        "layer_scale": None,
        "patch_size": 1,
    }


_DEFAULTS = {
    "num_latents_per_step": 64,
    "dim": 512,
    "depth": 2,
    "dim_head": 64,
    "cross_heads": 1,
    "self_heads": 8,
    "lin_dropout": 0.4,
    "emb_init_scale": 0.02,
    "t_min": 1e-4,
    "t_max": 2.0627,
}


def _tasks(state: State) -> list[str]:
    """Names of the readouts, in their order."""
    start, end = "readout.projections.", ".weight"
    return [name[len(start) : -len(end)] for name in state if name.startswith(start) and name.endswith(end)]
