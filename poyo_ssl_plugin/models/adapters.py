"""One way to train every POYO: how to build a model for a task, ask it, and read its answers.

POYO-family models agree between encoder and decoder (:mod:`~poyo_ssl_plugin.models.latents`) and differ
at both ends. There are four contracts, told apart by what ``forward`` takes, each with its adapter:

=========================  ==========================  =====================  ===================
contract of                queries                     answers                readout argument
=========================  ==========================  =====================  ===================
``CalciumPOYO``            session and task index      by task                ``dim_out``
``POYO``, torch_brain 0.2  session index               padded                 ``dim_out``
``POYO``, torch_brain 0.1  session index per query     padded                 ``readout_spec``
``POYOPlus``, 0.1          session index per query,    by task, those asked   ``readout_specs``
``CalciumPOYOPlus``, 0.1   decoder index
=========================  ==========================  =====================  ===================

Whatever the contract, a batch of windows asks one task at the times in ``output_timestamps``, and
:meth:`Adapter.answers` gives one row per real query, in the order of the batch.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from poyo_ssl_plugin.compat import Data, IrregularTimeSeries, modality, pad
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models.readout import PrototypeReadout
from poyo_ssl_plugin.plain import ModelInputs, Values
from poyo_ssl_plugin.recordings import SPIKES, TRACES

# Where a window carries the queries for a tokenizer that takes them from the data.
_QUERIES = "asked"


class Adapter(ABC):
    """A model, and how to ask it.

    Args:
        model: A model of the contract that this adapter is for.

    Attributes:
        field: The activity the model reads, ``"calcium_traces.df_over_f"`` or ``"spikes"``.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> adapter = adapt(CalciumPOYO(sequence_length=2.0, latent_step=0.5, dim=16, dim_out={"turn": 2}))
        >>> adapter.field, adapter.readout({"speed": 1})
        ('calcium_traces.df_over_f', {'dim_out': {'speed': 1}})
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        takes = inspect.signature(type(model).forward).parameters
        self.field = SPIKES if "input_token_type" in takes else TRACES

    @staticmethod
    @abstractmethod
    def readout(tasks: Mapping[str, int]) -> Values:
        """The constructor arguments that give a model a readout for each task.

        Args:
            tasks: Task name to number of outputs; none gives a readout that nothing uses.

        Raises:
            RecipeError: If the model cannot have that many tasks.
        """

    @abstractmethod
    def inputs(self, data: Data, times: np.ndarray, task: str | None) -> ModelInputs:
        """The model's inputs for a window, asked at ``times`` (K,), in seconds from its start."""

    @abstractmethod
    def answers(self, output: Any, asked: torch.Tensor, task: str) -> torch.Tensor:
        """The answers to the real queries of a batch, (K, D_out).

        Args:
            output: What the model returned.
            asked: Which queries are real and not padding, bool :math:`(B, N_{out})`.
            task: The task that was asked.
        """

    def recorded(self) -> Values:
        """Arguments of the readout that a checkpoint has to name for ``load_pretrained``."""
        return {}


class CalciumPOYOAdapter(Adapter):
    """:class:`~poyo_ssl_plugin.CalciumPOYO`."""

    @staticmethod
    def readout(tasks: Mapping[str, int]) -> Values:
        return {"dim_out": dict(tasks) or 1}

    def inputs(self, data: Data, times: np.ndarray, task: str | None) -> ModelInputs:
        tasks = getattr(self.model.readout, "tasks", [])
        index = tasks.index(task) if task in tasks else 0
        return {
            **self.model.tokenize(data),
            "output_timestamps": pad(torch.from_numpy(times.astype(np.float32))),
            "output_task_index": pad(torch.from_numpy(np.full(len(times), index, dtype=np.int64))),
        }

    def answers(self, output: dict[str, torch.Tensor], asked: torch.Tensor, task: str) -> torch.Tensor:
        return output[task]

    def recorded(self) -> Values:
        readout = self.model.readout
        return {
            "dim_out": readout.dims_out() if hasattr(readout, "dims_out") else readout.out_features,
            "readout": "prototypes" if isinstance(readout, PrototypeReadout) else "linear",
        }


class POYOAdapter(Adapter):
    """``torch_brain.models.POYO`` of torch_brain 0.2."""

    @staticmethod
    def readout(tasks: Mapping[str, int]) -> Values:
        return {"dim_out": _only(tasks)[1]}

    def inputs(self, data: Data, times: np.ndarray, task: str | None) -> ModelInputs:
        return {**self.model.tokenize(data), "output_timestamps": pad(times.astype(np.float32))}

    def answers(self, output: torch.Tensor, asked: torch.Tensor, task: str) -> torch.Tensor:
        return output[asked]


class LegacyPOYOAdapter(Adapter):
    """``torch_brain.models.POYO`` of torch_brain 0.1, whose tokenizer finds the queries in the data."""

    @staticmethod
    def readout(tasks: Mapping[str, int]) -> Values:
        name, dim = _only(tasks)
        return {"readout_spec": modality(name, dim, 1)}

    def inputs(self, data: Data, times: np.ndarray, task: str | None) -> ModelInputs:
        return _tokenized(self.model, data, times, {"readout": _asked(task)})

    def answers(self, output: torch.Tensor, asked: torch.Tensor, task: str) -> torch.Tensor:
        # Its tokenizer pads to a multiple of eight.
        return output[:, : asked.shape[1]][asked]


class POYOPlusAdapter(Adapter):
    """``POYOPlus`` and ``CalciumPOYOPlus`` of torch_brain 0.1, with a readout per task."""

    @staticmethod
    def readout(tasks: Mapping[str, int]) -> Values:
        tasks = tasks or {_UNUSED: 1}
        # Decoder indices start at 1 and number the rows of the model's task embedding.
        return {"readout_specs": {name: modality(name, dim, i + 1) for i, (name, dim) in enumerate(tasks.items())}}

    def inputs(self, data: Data, times: np.ndarray, task: str | None) -> ModelInputs:
        task = task or next(iter(self.model.readout_specs))
        return _tokenized(self.model, data, times, {"multitask_readout": [_asked(task)]})

    def answers(self, output: dict[str, torch.Tensor], asked: torch.Tensor, task: str) -> torch.Tensor:
        return output[task]


_UNUSED = "unused"


def adapter_class(model: type) -> type[Adapter]:
    """The adapter for a class of models, by what its ``forward`` takes.

    Raises:
        RecipeError: If it is none of the known contracts.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> adapter_class(CalciumPOYO).__name__
        'CalciumPOYOAdapter'
    """
    takes = set(inspect.signature(model.forward).parameters) if hasattr(model, "forward") else set()
    if "output_decoder_index" in takes:
        return POYOPlusAdapter
    if "output_session_index" in takes:
        return LegacyPOYOAdapter
    if {"session_index", "output_task_index"} <= takes:
        return CalciumPOYOAdapter
    if {"session_index", "output_timestamps"} <= takes:
        return POYOAdapter
    raise RecipeError(
        f"{model.__name__} is not a POYO-family model: its forward() takes neither session_index nor "
        "output_session_index; use CalciumPOYO or a POYO of torch_brain"
    )


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a model.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=2.0, latent_step=0.5, dim=16, **CalciumPOYOAdapter.readout({"x": 3}))
        >>> adapt(model).field, adapt(model).recorded()
        ('calcium_traces.df_over_f', {'dim_out': {'x': 3}, 'readout': 'prototypes'})
    """
    return adapter_class(type(model))(model)


def _only(tasks: Mapping[str, int]) -> tuple[str, int]:
    """Name and number of outputs of the one task of a model with one readout."""
    if len(tasks) > 1:
        raise RecipeError(f"POYO has one readout, not one for each of {', '.join(tasks)}; use CalciumPOYO")
    return next(iter(tasks.items()), (_UNUSED, 1))


def _asked(task: str | None) -> dict[str, str]:
    """What a tokenizer of torch_brain 0.1 wants to know of a task."""
    task = task or _UNUSED
    return {"readout_id": task, "timestamp_key": f"{_QUERIES}.timestamps", "value_key": f"{_QUERIES}.value"}


def _tokenized(model: Any, data: Data, times: np.ndarray, config: dict[str, object]) -> ModelInputs:
    """A window as a tokenizer of torch_brain 0.1 makes inputs of it, with the queries and the tasks in the data."""
    queries = IrregularTimeSeries(
        timestamps=times.astype(np.float64), value=np.zeros(len(times), dtype=np.int64), domain="auto"
    )
    setattr(data, _QUERIES, queries)
    data.config = config
    return model.tokenize(data)["model_inputs"]
