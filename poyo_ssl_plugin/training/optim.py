"""Optimisers and schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn

# Parameters that belong to single neurons or sessions. A batch says little about each of them, so they
# learn at a rate of their own.
EMBEDDINGS = ("unit_emb", "session_emb")
# What belongs to a task: readout and decoder and, in POYOPlus, the embedding of its queries.
READOUT = ("readout", "task_emb", "dec_atn", "dec_ffn")
OPTIMIZERS = ("adamw", "lamb")


def make_optimizer(
    modules: Iterable[nn.Module],
    *,
    name: Literal["adamw", "lamb"] = "adamw",
    lr: float,
    unit_lr_factor: float = 1.0,
    backbone_lr_factor: float = 1.0,
    weight_decay: float = 0.01,
    fresh: tuple[str, ...] = (),
) -> torch.optim.Optimizer:
    """An optimiser over the trainable parameters, in three groups with their own learning rates.

    Args:
        modules: Whose parameters to train.
        name: ``"adamw"``, or ``"lamb"`` (You et al. 2020, from pytorch-optimizer) as in the paper.
        lr: Learning rate.
        unit_lr_factor: Times ``lr`` for unit and session embeddings.
        backbone_lr_factor: Times ``lr`` for everything that is neither an embedding nor ``fresh``.
        weight_decay: Weight decay; embeddings and vectors have none.
        fresh: Attributes of the first module that are trained at ``lr`` whatever the backbone's.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for module in modules:
        for key, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            owner = key.split(".")[0]
            kind = "units" if owner in EMBEDDINGS else "fresh" if owner in fresh else "backbone"
            groups.setdefault((kind, kind != "units" and parameter.ndim > 1), []).append(parameter)
    factor = {"units": unit_lr_factor, "fresh": 1.0, "backbone": backbone_lr_factor}
    settings = [
        {
            "params": parameters,
            "lr": lr * factor[kind],
            "weight_decay": weight_decay if decays else 0.0,
            "name": kind if decays else f"{kind}_no_decay",
        }
        for (kind, decays), parameters in groups.items()
    ]
    if name == "adamw":
        return torch.optim.AdamW(settings, lr=lr, weight_decay=weight_decay)
    from pytorch_optimizer import Lamb

    return Lamb(settings, lr=lr, weight_decay=weight_decay)


def make_schedule(
    optimizer: torch.optim.Optimizer,
    *,
    total_steps: int,
    warmup: float = 0.1,
    start_factor: float = 25.0,
    backbone_start: int = 0,
) -> torch.optim.lr_scheduler.LambdaLR:
    """One cycle: up to each group's learning rate, then down along a cosine to zero.

    Args:
        optimizer: The optimiser, holding the peak learning rates.
        total_steps: Number of steps.
        warmup: Fraction of the steps until the peak. With ``start_factor=1`` the rate is constant for
            that fraction: the paper's schedule is ``warmup=0.5, start_factor=1``.
        start_factor: Peak over initial learning rate.
        backbone_start: The step at which the cycle of the backbone's groups begins; before it their learning
            rate is zero. ``total_steps`` or more keeps them as they are.
    """

    def factor_from(start: int) -> Callable[[int], float]:
        length = max(total_steps - start, 1)
        rise = max(warmup * length, 1.0)

        def factor(step: int) -> float:
            done = step - start
            if done < 0 or start >= total_steps:
                return 0.0
            if done < rise:
                low = 1 / start_factor
                return low + (1 - low) * (1 - math.cos(math.pi * done / rise)) / 2
            return (1 + math.cos(math.pi * min((done - rise) / max(length - rise, 1.0), 1.0))) / 2

        return factor

    starts = [backbone_start if group.get("name", "").startswith("backbone") else 0 for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, [factor_from(start) for start in starts])
