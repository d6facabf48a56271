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

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO, MaskedLatentReconstruction
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> output = MaskedLatentReconstruction(dim=16, hide_neurons=0.0)(model, dict(
        ...     input_values=torch.randn(4, 2, 3, 10), input_unit_index=torch.tensor([[1, 2]] * 4),
        ...     input_timestamps=torch.arange(3).repeat(4, 1) / 3, input_mask=None,
        ... ))
        >>> tuple(output.predicted.shape), output.hidden.float().mean().item()  # half of the latents were hidden
        ((4, 16, 16), 0.5)
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    latent_pass: LatentPass
    predicted: torch.Tensor | None = None
    target: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
