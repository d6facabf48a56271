"""What an objective says of one batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from poyo_ssl_plugin.models import LatentPass


@dataclass(frozen=True)
class ObjectiveOutput:
    """Loss, its terms, the latents behind it, and what was predicted.

    Attributes:
        loss: The loss, a scalar.
        terms: Its terms before weighting, scalars by name, without gradient.
        latent_pass: The model's output and latents; the output serves an auxiliary loss.
        predicted: Prediction at every position, :math:`(B, L, D)`, without gradient; ``None`` where the objective
            predicts nothing.
        target: What it should be, same shape.
        hidden: Which positions count, bool, same shape.
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    latent_pass: LatentPass
    predicted: torch.Tensor | None = None
    target: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
