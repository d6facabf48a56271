"""Decorrelation of the encoder's latents as an objective."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from poyo_ssl_plugin.distributed import whole_batch
from poyo_ssl_plugin.models import decorrelation, model_inputs, run_without_dropout
from poyo_ssl_plugin.models.latents import latents_per_step
from poyo_ssl_plugin.objectives.output import ObjectiveOutput
from poyo_ssl_plugin.plain import Batch, ModelInputs


class Decorrelation(nn.Module):
    """:func:`decorrelation` of the encoder's latents as the whole objective.

    Attributes:
        untrained: Parts of the model that get no gradient from this loss.

    Example:
        >>> sum(p.numel() for p in Decorrelation().parameters())
        0
    """

    untrained: ClassVar[tuple[str, ...]] = ("proc_layers",)

    def forward(
        self, model: nn.Module, inputs: ModelInputs | Batch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Loss of one batch; arguments as of :class:`MaskedLatentReconstruction`."""
        latent_pass = run_without_dropout(model, model_inputs(inputs))
        latents = latent_pass.encoder_latents
        windows = whole_batch(latents) if self.training else latents
        loss = decorrelation(windows, latents.shape[1] // latents_per_step(model))
        return ObjectiveOutput(loss, {"decorrelation": loss.detach()}, latent_pass)
