"""Pretraining to a fixed validation score: our tokens and step, and the paper's.

The score is what the auxiliary loss says of validation windows (cross-entropy of the gratings' direction,
2.08 by chance), the one score that both have. Width, depth, latents, windows, optimiser and learning rates
are the same. Only steps count, not loading or validating. Who has not arrived after so many times the
time of ours is stopped, and the ratio is then a lower bound.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.harness import Row, Settings
from benchmarks.recordings import simulated
from benchmarks.steps import EncodingTwice
from poyo_ssl_plugin import CalciumPOYO, Diet, MaskedLatentReconstruction, Recordings, score_dataset
from poyo_ssl_plugin.data import get_task
from poyo_ssl_plugin.data.splits import recorded_split
from poyo_ssl_plugin.data.tasks import IGNORED
from poyo_ssl_plugin.models import Adapter
from poyo_ssl_plugin.training.data import PretrainingData
from poyo_ssl_plugin.training.optim import make_optimizer
from poyo_ssl_plugin.training.tokens import answered

WINDOW, BATCH, DIM = 2.0, 32, 64
BACKBONE = {"latent_step": 0.5, "num_latents_per_step": 8, "dim": DIM, "depth": 2, "dim_head": 32, "self_heads": 4}
# As in recipes/model/paper.yaml; the numbers of latents and layers are the backbone's above.
PAPER_TOKENS = {
    "patch_size": 1,
    "encoder": "attention",
    "readout": "linear",
    "layer_scale": None,
    "emb_init_scale": 0.02,
}
PAPER_OBJECTIVE = {"mask": "causal_time", "hide_neurons": 0.0, "target": "live", "decorrelation_weight": 0.0}
DROPOUT = {"min_units": 10, "mode_units": 50, "max_units": 300, "tail_right": 100}
AUXILIARY_WEIGHT = 1.0
TARGET = 1.6
STEPS_BETWEEN_SCORES = 25
PATIENCE = 4.0


def run(settings: Settings) -> Iterator[Row]:
    torch.set_num_threads(1)
    folder = simulated(settings, n_units=settings.pick(60, 20), minutes=settings.pick(14, 5), n_recordings=2)
    seeds = settings.pick((0, 1), (0,))
    target = settings.pick(TARGET, 2.5)
    ours = [train(folder, seed, target, float("inf"), tokens={"patch_size": 10}, objective={}) for seed in seeds]
    peers: dict[str, dict[str, Any]] = {
        "the paper's tokens and step": {"tokens": PAPER_TOKENS, "objective": PAPER_OBJECTIVE},
        "the paper's tokens, our objective, encoding twice": {"tokens": PAPER_TOKENS, "objective": {}},
    }
    for name, options in peers.items():
        theirs = [
            train(folder, seed, target, PATIENCE * mine["seconds"], twice=True, **options)
            for seed, mine in zip(seeds, ours, strict=True)
        ]
        ratio = sum(run["seconds"] for run in theirs) / sum(run["seconds"] for run in ours)
        arrived = all(run["arrived"] for run in theirs)
        yield Row(
            f"pretraining to a validation score of {target}" + ("" if arrived else " (at least)"),
            name,
            ratio,
            3,
            details={"ours": ours, "theirs": theirs, "seeds": seeds, "clock": "processor time of the steps"},
        )


def train(
    folder: Path,
    seed: int,
    target: float,
    budget: float,
    *,
    tokens: dict[str, Any],
    objective: dict[str, Any],
    twice: bool = False,
) -> dict[str, Any]:
    """Pretrain until the validation score is reached or the budget, in seconds, is spent."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    data = windows(folder, seed)
    assert data.task is not None
    task = data.task.name
    model = CalciumPOYO(sequence_length=WINDOW, dim_out={task: data.task.n_classes}, **{**BACKBONE, **tokens})
    sessions = [str(data.dataset.get_recording(name).session.id) for name in data.recordings]
    model.set_vocabs(unit_ids=data.unit_ids, session_ids=sessions)
    data.attach(model)
    assert data.adapter is not None
    reconstruct = (EncodingTwice if twice else MaskedLatentReconstruction)(DIM, **objective)
    optimizer = make_optimizer([model, reconstruct], lr=2e-3, unit_lr_factor=20.0)
    validation = list(data.val_dataloader())
    seconds, n_steps, scores = 0.0, 0, []
    while True:
        for batch in data.train_dataloader():
            begin = time.process_time()
            model.train()
            outcome = reconstruct(model, batch["inputs"])
            logits, answers = answered(data.adapter, outcome.latent_pass.output, batch, task)
            auxiliary = F.cross_entropy(logits, answers, ignore_index=IGNORED)
            optimizer.zero_grad()
            (outcome.loss + AUXILIARY_WEIGHT * auxiliary).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            seconds += time.process_time() - begin
            n_steps += 1
            if n_steps % STEPS_BETWEEN_SCORES == 0:
                scores.append(score(data.adapter, validation, task))
            arrived = bool(scores) and scores[-1] <= target
            if arrived or seconds > budget:
                return {"seconds": seconds, "steps": n_steps, "arrived": arrived, "scores": scores}


def windows(folder: Path, seed: int) -> PretrainingData:
    dataset = Recordings(folder)
    table = score_dataset(dataset)
    return PretrainingData(
        dataset,
        table,
        Diet.from_thresholds(table),
        recorded_split(dataset),
        task=get_task("drifting_gratings"),
        within="drifting_gratings",
        window_length=WINDOW,
        batch_size=BATCH,
        unit_dropout=DROPOUT,
        seed=seed,
    )


@torch.no_grad()
def score(adapter: Adapter, validation: list[dict[str, Any]], task: str) -> float:
    """Cross-entropy of the direction over all validation windows that have one."""
    adapter.model.eval()
    parts = [answered(adapter, adapter.model(**batch["inputs"]), batch, task) for batch in validation]
    logits, answers = (torch.cat(part) for part in zip(*parts, strict=True))
    return F.cross_entropy(logits, answers, ignore_index=IGNORED).item()
