"""Supervised steps on batches of unit dropout: padded to the longest window, and without padding."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.harness import Row, Settings, race
from poyo_ssl_plugin import CalciumPOYO
from poyo_ssl_plugin.compat import RotaryCrossAttention, RotarySelfAttention, TriangleDistribution
from poyo_ssl_plugin.models.packed_attention import packed_by

# As many as unit dropout may keep, so that what it draws is what a window has.
N_NEURONS = 300
DROPOUT = {"min_units": 10, "mode_units": 50, "max_units": 300, "tail_right": 100}
N_BATCHES = 2
# As in recipes/model: name to width, depth, samples per token, latents.
MODELS: dict[str, dict[str, Any]] = {
    "small": {"dim": 64, "depth": 2, "dim_head": 32, "patch_size": 6, "latent_step": 0.2, "num_latents_per_step": 4},
    "paper": {
        "dim": 64,
        "depth": 6,
        "dim_head": 64,
        "self_heads": 8,
        "patch_size": 1,
        "latent_step": 0.125,
        "num_latents_per_step": 16,
        "encoder": "attention",
        "readout": "linear",
        "layer_scale": None,
    },
}


def run(settings: Settings) -> Iterator[Row]:
    torch.set_num_threads(1)
    size = settings.pick(8, 2)
    torch.manual_seed(0)
    model, stock = make("paper"), with_stock_attention(make("paper"))
    batches = [batch(model.patch_size, size, seed) for seed in range(N_BATCHES)]
    packed = step(model, batches)
    best = race(
        {
            "packed": packed,
            "padded": partial(as_padded, packed),
            "padded, torch_brain's attention": partial(as_padded, step(stock, batches)),
        },
        settings.pick(2, 1),
        clock=time.process_time,
    )
    filled = np.mean([inputs["input_mask"].float().mean() for inputs, _ in batches])
    yield Row(
        f"supervised step, unit dropout, model=paper, batch {size}",
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
    with packed_by(None):
        run()


class StockCrossAttention(RotaryCrossAttention):
    """torch_brain's, given the times of all tokens as torch_brain wants them."""

    def forward(self, x_query: Any, x_context: Any, query_pos_emb: Any, context_pos_emb: Any, *rest: Any) -> Any:
        n_repeats = x_context.shape[1] // context_pos_emb.shape[1]
        mask = rest[0] if rest else None
        return super().forward(x_query, x_context, query_pos_emb, context_pos_emb.repeat(1, n_repeats, 1), mask)


def with_stock_attention(model: CalciumPOYO) -> CalciumPOYO:
    """The model with the attention of torch_brain in place of ours: same parameters, same results."""
    for module in (model.enc_atn, model.dec_atn):
        module.__class__ = StockCrossAttention
    for layer in model.proc_layers:
        layer[0].__class__ = RotarySelfAttention
    return model
