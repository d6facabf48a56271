"""Supervised steps on batches of unit dropout: padded to the longest window, and without padding."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.harness import Row, Settings, race
from benchmarks.steps import with_stock_attention
from poyo_ssl_plugin import CalciumPOYO
from poyo_ssl_plugin.compat import TriangleDistribution
from poyo_ssl_plugin.models import calcium_poyo

# As many as unit dropout may keep, so that what it draws is what a window has.
N_NEURONS = 300
DROPOUT = {"min_units": 10, "mode_units": 50, "max_units": 300, "tail_right": 100}
BATCH, N_BATCHES = 32, 4
# As in recipes/model: name to width, depth, samples per token, latents.
MODELS: dict[str, dict[str, Any]] = {
    "small": {"dim": 64, "depth": 2, "dim_head": 32, "patch_size": 10, "latent_step": 0.5, "num_latents_per_step": 8},
    "medium": {"dim": 128, "depth": 4, "dim_head": 32, "patch_size": 5, "latent_step": 0.25, "num_latents_per_step": 8},
    "paper": {
        "dim": 64,
        "depth": 6,
        "dim_head": 64,
        "self_heads": 8,
        "patch_size": 1,
        "latent_step": 0.125,
        "encoder": "attention",
        "readout": "linear",
        "layer_scale": None,
    },
}


def run(settings: Settings) -> Iterator[Row]:
    torch.set_num_threads(1)
    for name in settings.pick(("small", "medium", "paper"), ("small",)):
        torch.manual_seed(0)
        model = make(name)
        stock = with_stock_attention(make(name))
        size = 8 if name == "paper" else BATCH
        batches = [batch(model.patch_size, size, seed) for seed in range(N_BATCHES)]
        packed = step(model, batches)
        best = race(
            {
                "packed": packed,
                "padded": partial(as_padded, packed),
                "padded, torch_brain's attention": partial(as_padded, step(stock, batches)),
            },
            settings.pick(5, 1),
            clock=time.process_time,
        )
        filled = np.mean([inputs["input_mask"].float().mean() for inputs, _ in batches])
        yield Row(
            f"supervised step, unit dropout, model {name}, batch {size}",
            "padding to the longest with a mask",
            best["padded"] / best["packed"],
            1.5,
            details={"processor seconds": best, "share of a padded batch that is real": float(filled)},
        )
        yield Row(
            "  the same against POYO's attention",
            "padding to the longest with a mask, torch_brain's attention",
            best["padded, torch_brain's attention"] / best["packed"],
            1.5,
        )


def make(name: str) -> CalciumPOYO:
    model = CalciumPOYO(sequence_length=2.0, dim_out=8, **MODELS[name])
    model.set_vocabs(unit_ids=[f"u{i}" for i in range(N_NEURONS)], session_ids=["s"])
    return model.train()


def batch(patch_size: int, size: int, seed: int) -> tuple[dict[str, Any], torch.Tensor]:
    """A collated batch of windows of 2 s with torch_brain's numbers of units."""
    distribution = TriangleDistribution(seed=seed, **DROPOUT)
    counts = torch.tensor([min(int(distribution.sample(N_NEURONS)), N_NEURONS) for _ in range(size)])
    n_units, n_patches = int(counts.max()), 60 // patch_size
    real = torch.arange(n_units) < counts[:, None]
    inputs = {
        "input_values": torch.randn(size, n_units, n_patches, patch_size) * real[..., None, None],
        "input_unit_index": torch.randint(1, N_NEURONS + 1, (size, n_units)) * real,
        "input_timestamps": (torch.arange(n_patches) + 0.5).repeat(size, 1) * patch_size / 30,
        "input_mask": real[:, :, None].repeat(1, 1, n_patches),
        "session_index": torch.ones(size, dtype=torch.long),
        "output_timestamps": torch.ones(size, 1),
    }
    return inputs, torch.randint(8, (size,))


def step(model: CalciumPOYO, batches: list[tuple[dict[str, Any], torch.Tensor]]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run() -> None:
        for inputs, target in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(**inputs)[:, 0], target).backward()
            optimizer.step()

    return run


def as_padded(run: Callable[[], None]) -> None:
    """Run with the padding left in, as on a model that knows no other way."""
    with mock.patch.object(calcium_poyo, "pads_whole_neurons", lambda mask: False):
        run()
