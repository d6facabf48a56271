"""Decorrelation: latents of unit variance that repeat nothing, over width and over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from poyo_ssl_plugin.distributed import whole_batch
from poyo_ssl_plugin.models import model_inputs, run_without_dropout
from poyo_ssl_plugin.objectives.output import ObjectiveOutput


def decorrelation(latents: torch.Tensor, n_steps: int) -> torch.Tensor:
    r"""How far latents are from white, a scalar of at least about 1.

    The latents of a time step, side by side, are a vector of width :math:`W`. With :math:`C` the second
    moment over windows and steps between entries of that vector, :math:`C_t` the one between the
    :math:`T` steps, and :math:`d` the mean variance,

    .. math:: \mathcal{L} = \frac{\|C / d\|^2}{W} + \frac{\|C_t / d\|^2}{T} + (d - 1)^2 ,

    after the mean over windows of every latent is removed. This is the variance and covariance of VICReg
    (Bardes et al. 2022) on what depends on the input, and at its minimum it whitens: for the linear
    read-in, :math:`C` falls to its minimum where embeddings whiten the population and :math:`C_t` where the
    temporal filter undoes the decay of calcium.

    Args:
        latents: Shape :math:`(B, L, D)`, steps in the order of time.
        n_steps: Number of time steps :math:`T`.

    Example:
        >>> white = torch.randn(4096, 4, 2, generator=torch.Generator().manual_seed(0))
        >>> round(decorrelation(white, n_steps=2).item(), 1), decorrelation(white[:, :1].repeat(1, 4, 1), 2).item() > 3
        (2.0, True)
    """
    steps = latents.unflatten(1, (n_steps, -1)).flatten(2)
    steps = steps - steps.mean(dim=0)
    n_windows, _, width = steps.shape
    flat = steps.flatten(0, 1)
    over_width = flat.T @ flat / len(flat)
    over_time = torch.einsum("btw,bsw->ts", steps, steps) / (n_windows * width)
    variance = over_width.diagonal().mean()
    scale = variance.clamp_min(1e-8)
    return (
        (over_width / scale).square().sum() / width
        + (over_time / scale).square().sum() / n_steps
        + (variance - 1).square()
    )


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
        self, model: nn.Module, inputs: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Loss of one batch; arguments as of :class:`MaskedLatentReconstruction`."""
        latent_pass = run_without_dropout(model, model_inputs(inputs))
        latents = latent_pass.encoder_latents
        windows = whole_batch(latents) if self.training else latents
        per_step: Any = model.latent_emb.num_embeddings  # type: ignore[union-attr]
        loss = decorrelation(windows, latents.shape[1] // per_step)
        return ObjectiveOutput(loss, {"decorrelation": loss.detach()}, latent_pass)
