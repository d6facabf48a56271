"""One pretraining step at 250 neurons: the default recipe, the paper's, and torch_brain's POYO on spikes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import hydra.utils
import torch
import torch.nn.functional as F

from benchmarks.harness import Row, Settings, race
from poyo_ssl_plugin.compat import create_linspace_latent_tokens
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.models import adapt, adapter_class
from poyo_ssl_plugin.training import PretrainRecipe, parse_recipe
from poyo_ssl_plugin.training.optim import make_optimizer

N_NEURONS, SECONDS, RATE = 250, 2.0, 30
# Of the session of the real recording: 200,905 spikes of 242 neurons in 3,855 s.
SPIKES_PER_SECOND = 0.215
TASK, N_CLASSES = "drifting_gratings", 8


def run(settings: Settings) -> Iterator[Row]:
    torch.set_num_threads(1)
    n_windows = settings.pick(8, 2)
    best = race(
        {
            "default": step("pretrain", [], n_windows),
            "paper": step("paper_pretrain", [], n_windows),
            "POYO": step("pretrain", ["model=poyo", "ssl=paper"], n_windows),
        },
        settings.pick(3, 1),
        clock=time.process_time,
    )
    against = {
        "paper": "--recipe paper: a token for every sample, 128 latents, six layers",
        "POYO": "torch_brain.models.POYO on spikes, the paper's objective",
    }
    for peer, what in against.items():
        yield Row(
            f"pretraining step at {N_NEURONS} neurons against {peer}",
            what,
            best[peer] / best["default"],
            3,
            details={"processor seconds": best, "windows": n_windows},
        )


def step(recipe: str, overrides: list[str], n_windows: int) -> Callable[[], None]:
    """Forward, backward and the optimiser's step of a pretraining recipe on windows with every neuron."""
    torch.manual_seed(0)
    parsed = parse_recipe(PretrainRecipe, compose_recipe("pretrain", recipe, overrides))
    adapter = adapter_class(hydra.utils.get_class(parsed.model["_target_"]))
    model = hydra.utils.instantiate(
        parsed.model, sequence_length=SECONDS, **adapter.readout({TASK: N_CLASSES}), _convert_="all"
    ).train()
    vocabulary = [f"u{i}" for i in range(N_NEURONS)]
    inputs = {**(traces if hasattr(model, "set_vocabs") else spikes)(model, n_windows), **asked(n_windows)}
    if hasattr(model, "set_vocabs"):
        model.set_vocabs(unit_ids=vocabulary, session_ids=["s"])
        inputs["output_task_index"] = torch.zeros(n_windows, 1, dtype=torch.long)
    else:
        model.unit_emb.initialize_vocab(vocabulary)
        model.session_emb.initialize_vocab(["s"])
    objective = hydra.utils.instantiate(parsed.ssl, _convert_="all")
    if hasattr(objective, "attach"):
        objective.attach(model)
    optimizer = make_optimizer([model, objective], lr=1e-3)
    answers, target = adapt(model).answers, torch.randint(N_CLASSES, (n_windows,))

    def run() -> None:
        optimizer.zero_grad()
        found = objective(model, inputs)
        logits = answers(found.latent_pass.output, torch.ones(n_windows, 1, dtype=torch.bool), TASK)
        (found.loss + parsed.aux.weight * F.cross_entropy(logits, target)).backward()
        optimizer.step()

    return run


def asked(n_windows: int) -> dict[str, torch.Tensor]:
    """Each window is asked once, in its middle."""
    return {
        "session_index": torch.ones(n_windows, dtype=torch.long),
        "output_timestamps": torch.full((n_windows, 1), SECONDS / 2),
    }


def traces(model: Any, n_windows: int) -> dict[str, Any]:
    """Windows of traces of every neuron, in patches."""
    n_patches = round(SECONDS * RATE) // model.patch_size
    return {
        "input_values": torch.randn(n_windows, N_NEURONS, n_patches, model.patch_size),
        "input_unit_index": torch.arange(1, N_NEURONS + 1).repeat(n_windows, 1),
        "input_timestamps": (torch.arange(n_patches) + 0.5).repeat(n_windows, 1) * model.patch_size / RATE,
        "input_mask": torch.ones(n_windows, N_NEURONS, n_patches, dtype=torch.bool),
    }


def spikes(model: Any, n_windows: int) -> dict[str, Any]:
    """Windows of spikes as POYO tokenizes them: a start and an end token of every unit, and one for every spike."""
    n_spikes = round(N_NEURONS * SPIKES_PER_SECOND * SECONDS)
    ends = torch.arange(1, N_NEURONS + 1).repeat(2)
    index, times = create_linspace_latent_tokens(
        0, SECONDS, step=model.latent_step, num_latents_per_step=model.num_latents_per_step
    )
    unit = torch.cat([ends.repeat(n_windows, 1), torch.randint(1, N_NEURONS + 1, (n_windows, n_spikes))], dim=1)
    kind = torch.cat([torch.ones(N_NEURONS), torch.full((N_NEURONS,), 2), torch.zeros(n_spikes)]).long()
    return {
        "input_unit_index": unit,
        "input_timestamps": torch.rand(unit.shape) * SECONDS,
        "input_token_type": kind.repeat(n_windows, 1),
        "input_mask": torch.ones(unit.shape, dtype=torch.bool),
        "latent_index": torch.from_numpy(index).repeat(n_windows, 1),
        "latent_timestamps": torch.from_numpy(times).float().repeat(n_windows, 1),
    }
