"""Masks over the input: which neurons, or which patches of time, a model does not get to see."""

from __future__ import annotations

from collections.abc import Callable

import torch

from poyo_ssl_plugin.plain import ModelInputs

ActivityMask = Callable[[torch.Tensor, float, "torch.Generator | None"], torch.Tensor]


def mask_neurons(real: torch.Tensor, ratio: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Hide random neurons of every window, at all times; never all of them.

    Args:
        real: Which patches of the traces are no padding, bool :math:`(B, N, P)`.
        ratio: Share of the neurons to hide.
        generator: Source of randomness.

    Returns:
        What to hide, bool :math:`(B, N, P)`; padding is never hidden.

    Example:
        >>> real = torch.tensor([[[True, True]] * 4, [[True, True]] * 2 + [[False, False]] * 2])
        >>> mask_neurons(real, 0.5).sum(dim=(1, 2)).tolist()
        [4, 2]
    """
    return _random_part(real.any(dim=2), ratio, generator)[:, :, None] & real


def mask_time(real: torch.Tensor, ratio: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Hide random patches of time of every window, of all neurons; arguments as :func:`mask_neurons`.

    Example:
        >>> mask_time(torch.ones(1, 3, 4, dtype=torch.bool), 0.5).sum(dim=(1, 2)).tolist()
        [6]
    """
    return _random_part(real.any(dim=1), ratio, generator)[:, None, :] & real


def mask_both(real: torch.Tensor, ratio: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Hide random neurons at all times and random times of all neurons, together ``ratio`` of all patches.

    Example:
        >>> mask_both(torch.ones(1, 4, 4, dtype=torch.bool), 0.75).sum(dim=(1, 2)).tolist()
        [12]
    """
    part = 1 - (1 - ratio) ** 0.5
    return mask_neurons(real, part, generator) | mask_time(real, part, generator)


ACTIVITY_MASKS: dict[str, ActivityMask] = {"neurons": mask_neurons, "time": mask_time, "both": mask_both}


def real_patches(inputs: ModelInputs) -> torch.Tensor:
    """Which patches of the traces in a model's inputs are no padding, bool (B, N, P)."""
    values, real = inputs["input_values"], inputs.get("input_mask")
    return torch.ones(values.shape[:3], dtype=torch.bool, device=values.device) if real is None else real


def _random_part(candidates: torch.Tensor, ratio: float, generator: torch.Generator | None) -> torch.Tensor:
    """A random ``ratio`` of the true entries of each row, and never all; bool (B, N) both ways."""
    n = candidates.sum(dim=1)
    wanted = torch.minimum((ratio * n).round().clamp_min(1), (n - 1).clamp_min(0))
    draw = torch.rand(candidates.shape, generator=generator).masked_fill(~candidates, 2.0)
    return (draw.argsort(dim=1).argsort(dim=1) < wanted[:, None]) & candidates
