"""Label-free identification: learn who new neurons are from their unlabelled activity."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import encoder_latents
from poyo_ssl_plugin.objectives import decorrelation
from poyo_ssl_plugin.training.data import PretrainingData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identification:
    """How new neurons are identified before any label is used.

    Attributes:
        method: ``"none"``, or ``"unlabelled"``: fit the embeddings of units to unlabelled training time.
        steps: Steps of Adam, along a cosine.
        batch_size: Windows per step.
        lr: Learning rate at first.
    """

    method: str = "none"
    steps: int = 300
    batch_size: int = 128
    lr: float = 0.02

    def __post_init__(self) -> None:
        if self.method not in ("none", "unlabelled"):
            raise RecipeError(f"identify.method must be none or unlabelled, not {self.method!r}")


def identify(model: Any, data: PretrainingData, options: Identification) -> float:
    """Fit the unit embeddings of a model to unlabelled windows, all other weights fixed.

    The loss is :func:`~poyo_ssl_plugin.objectives.decorrelation`: with shared weights that undo what all
    neurons have in common, embeddings that whiten the new population put it to use best.

    Args:
        model: A POYO-family model, its vocabularies initialised; changed in place.
        data: Windows of the training split of the neurons to identify, without labels.
        options: Steps, batch size and learning rate.

    Returns:
        The loss of the last step.
    """
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    model.unit_emb.requires_grad_(True)
    optimizer = torch.optim.Adam(model.unit_emb.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * min(step / max(options.steps, 1), 1.0))) / 2
    )
    loss = torch.full((), math.nan)
    done = 0
    while done < options.steps:
        for batch in data.train_dataloader():
            latents = encoder_latents(model, batch["inputs"])
            loss = decorrelation(latents, latents.shape[1] // model.latent_emb.num_embeddings)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.unit_emb.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            if done == options.steps:
                break
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained[name])
    logger.info("identified %d neurons on unlabelled training time: decorrelation %.2f", len(data.unit_ids), loss)
    return float(loss.detach())
