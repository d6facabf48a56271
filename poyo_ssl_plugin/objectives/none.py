"""No self-supervision: the control that learns from labels alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from poyo_ssl_plugin.models import run_with_latents
from poyo_ssl_plugin.objectives.masked_latent import Reconstruction


class NoReconstruction(nn.Module):
    """In the place of an objective, a loss of nothing, so that the auxiliary task is all that is learned.

    Example:
        >>> sum(p.numel() for p in NoReconstruction().parameters())
        0
    """

    def forward(
        self, model: nn.Module, inputs: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> Reconstruction:
        """Run the model; the loss is zero. Arguments as of :class:`MaskedLatentReconstruction`."""
        latent_pass = run_with_latents(model, inputs)
        return Reconstruction(latent_pass.last.new_zeros(()), {}, latent_pass)
