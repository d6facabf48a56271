"""No self-supervision: the control that learns from labels alone."""

from __future__ import annotations

import torch
from torch import nn

from poyo_ssl_plugin.models import model_inputs, run_without_dropout
from poyo_ssl_plugin.objectives.output import ObjectiveOutput
from poyo_ssl_plugin.plain import Batch, ModelInputs


class NoReconstruction(nn.Module):
    """In the place of an objective, a loss of nothing, so that the auxiliary task is all that is learned.

    Example:
        >>> sum(p.numel() for p in NoReconstruction().parameters())
        0
    """

    def forward(
        self, model: nn.Module, inputs: ModelInputs | Batch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Run the model; the loss is zero. Arguments as of :class:`MaskedLatentReconstruction`."""
        latent_pass = run_without_dropout(model, model_inputs(inputs))
        return ObjectiveOutput(latent_pass.processor_latents.new_zeros(()), {}, latent_pass)
