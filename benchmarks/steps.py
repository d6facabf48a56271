"""The pretraining step against its parts: what does hiding latents cost on top of decoding?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.harness import Row, Settings, race
from poyo_ssl_plugin import CalciumPOYO, MaskedLatentReconstruction
from poyo_ssl_plugin.compat import RotaryCrossAttention, RotarySelfAttention
from poyo_ssl_plugin.models import LatentPass, process_latents

# The shapes at which sharing was measured on the paper's code: 50 neurons of 59 frames, 8 steps of 16 latents.
N_UNITS, N_FRAMES, N_STEPS, PER_STEP = 50, 59, 8, 16
AUXILIARY_WEIGHT = 1.0
BATCH = 8


def run(settings: Settings) -> Iterator[Row]:
    torch.set_num_threads(1)
    for dim in settings.pick((64, 128, 256), (16,)):
        best = race(peers(dim, settings.pick(6, 1)), settings.pick(6, 1), clock=time.process_time)
        shape = f"dim {dim}, {N_UNITS * N_FRAMES:,} tokens, {N_STEPS * PER_STEP} latents"
        yield Row(
            f"pretraining step, {shape}",
            "supervised step + one pass of the processor",
            best["pretraining"] / (best["supervised"] + best["processor"]),
            1.1,
            "<=",
            details={"processor seconds": best, "batch": BATCH},
        )
        yield Row(
            "  encoder shared by both branches",
            "encoding twice, everything else the same",
            best["encoding twice"] / best["pretraining"],
            1.25,
        )
        yield Row(
            "  the same against the paper's step",
            "encoding twice, torch_brain's attention, dropout in both branches",
            best["the paper's step"] / best["pretraining"],
            1.25,
        )


def peers(dim: int, depth: int) -> dict[str, Callable[[], None]]:
    torch.manual_seed(0)
    model, stock = make(dim, depth), with_stock_attention(make(dim, depth))
    inputs, target = batch()
    first, rotary = model.encode(**inputs)
    first = first.detach().requires_grad_()
    paper = {"mask": "causal_time", "hide_neurons": 0.0, "target": "live", "decorrelation_weight": 0.0}
    ours = MaskedLatentReconstruction(dim, hide_neurons=0.0)
    twice, theirs = EncodingTwice(dim, hide_neurons=0.0), EncodingTwice(dim, **paper)
    return {
        "pretraining": step(lambda: pretraining(model, ours, inputs, target), model),
        "supervised": step(lambda: supervised(model, inputs, target), model),
        "processor": step(lambda: process_latents(model, first, rotary).square().mean(), model),
        "encoding twice": step(lambda: pretraining(model, twice, inputs, target), model),
        "the paper's step": step(lambda: pretraining(stock, theirs, inputs, target), stock),
    }


def make(dim: int, depth: int) -> CalciumPOYO:
    """The paper's backbone at another width."""
    model = CalciumPOYO(
        sequence_length=N_STEPS * 0.25,
        latent_step=0.25,
        num_latents_per_step=PER_STEP,
        dim_out=8,
        dim=dim,
        depth=depth,
        dim_head=64,
        cross_heads=2,
        self_heads=8,
        encoder="attention",
        readout="linear",
        layer_scale=None,
    )
    model.set_vocabs(unit_ids=[f"u{i}" for i in range(N_UNITS)], session_ids=["s"])
    return model.train()


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


def batch() -> tuple[dict[str, Any], torch.Tensor]:
    inputs = {
        "input_values": torch.randn(BATCH, N_UNITS, N_FRAMES, 1),
        "input_unit_index": torch.arange(1, N_UNITS + 1).repeat(BATCH, 1),
        "input_timestamps": torch.arange(N_FRAMES).repeat(BATCH, 1) / 30,
        "input_mask": torch.ones(BATCH, N_UNITS, N_FRAMES, dtype=torch.bool),
        "session_index": torch.ones(BATCH, dtype=torch.long),
        "output_timestamps": torch.ones(BATCH, 1),
    }
    return inputs, torch.randint(8, (BATCH,))


def supervised(model: CalciumPOYO, inputs: dict[str, Any], target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(**inputs)[:, 0], target)


def pretraining(
    model: CalciumPOYO,
    objective: MaskedLatentReconstruction,
    inputs: dict[str, Any],
    target: torch.Tensor,
) -> torch.Tensor:
    reconstruction = objective(model, inputs)
    auxiliary = F.cross_entropy(reconstruction.latent_pass.output[:, 0], target)
    return reconstruction.loss + AUXILIARY_WEIGHT * auxiliary


class EncodingTwice(MaskedLatentReconstruction):
    """The objective with an encoder pass for each branch, as in the paper's code."""

    def _whole(self, model: Any, inputs: Any) -> LatentPass:
        again, _ = model.encode(**inputs)
        return replace(super()._whole(model, inputs), encoder_latents=again)


def step(loss: Callable[[], torch.Tensor], model: CalciumPOYO) -> Callable[[], None]:
    def run() -> None:
        model.zero_grad()
        loss().backward()

    return run
