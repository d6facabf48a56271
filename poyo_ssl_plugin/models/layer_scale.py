"""Residual layers that begin near the identity (LayerScale, Touvron et al. 2021)."""

from __future__ import annotations

import torch
from torch import nn


class LayerScale(nn.Module):
    """Multiply every dimension by a learned factor.

    Args:
        dim: Width.
        scale: The factors at first.

    Example:
        >>> LayerScale(2, 0.1)(torch.ones(1, 2)).tolist()
        [[0.10000000149011612, 0.10000000149011612]]
    """

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((dim,), float(scale)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale x of shape (..., D)."""
        return x * self.factor


def scaled_attention(attention: nn.Module, dim: int, scale: float | None) -> nn.Module:
    """The attention with its output scaled, in place; ``scale=None`` leaves it as it is."""
    if scale is not None:
        attention.to_out = nn.Sequential(attention.to_out, LayerScale(dim, scale))  # type: ignore[arg-type]
    return attention
