"""Masks over latents: which of them the model must reconstruct.

A mask is a function of the latents' shape and layout that returns a boolean tensor, true where a
latent is hidden. The paper (arXiv 2510.18516, section 3.3) hides the trailing half ("causal").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.extensions import extension_names, load_extension

MaskFunction = Callable[["LatentLayout", float, "torch.Generator | None"], torch.Tensor]


@dataclass(frozen=True)
class LatentLayout:
    """How the latents of a batch are laid out: ``n_steps`` time steps of ``per_step`` latents each.

    Attributes:
        n_windows: Batch size :math:`B`.
        n_steps: Latent time steps :math:`T`.
        per_step: Latents per step :math:`K`; :math:`L = T K`, steps in the order of time.
        dim: Width :math:`D`.
        device: Where masks are to live.

    Example:
        >>> layout = LatentLayout(n_windows=2, n_steps=4, per_step=3, dim=8)
        >>> tuple(mask_causal_time(layout, 0.5, None).shape)  # of the 12 latents of each window
        (2, 12, 1)
    """

    n_windows: int
    n_steps: int
    per_step: int
    dim: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def mask_causal_time(layout: LatentLayout, ratio: float, generator: torch.Generator | None) -> torch.Tensor:
    """Hide the last steps of every window: the future is to be told from the past. (B, L, 1)

    Example:
        >>> mask_causal_time(LatentLayout(1, 4, 1, 8), 0.5, None)[0, :, 0].int().tolist()
        [0, 0, 1, 1]
    """
    hidden = torch.arange(layout.n_steps, device=layout.device) >= layout.n_steps - _part(layout.n_steps, ratio)
    return _over_steps(hidden.expand(layout.n_windows, -1), layout)


def mask_random_time(layout: LatentLayout, ratio: float, generator: torch.Generator | None) -> torch.Tensor:
    """Hide random steps, others in every window. (B, L, 1)"""
    return _over_steps(_random((layout.n_windows, layout.n_steps), ratio, generator).to(layout.device), layout)


def mask_random_latents(layout: LatentLayout, ratio: float, generator: torch.Generator | None) -> torch.Tensor:
    """Hide random latents, whatever their time. (B, L, 1)"""
    shape = (layout.n_windows, layout.n_steps * layout.per_step)
    return _random(shape, ratio, generator).to(layout.device)[..., None]


def mask_causal_dim(layout: LatentLayout, ratio: float, generator: torch.Generator | None) -> torch.Tensor:
    """Hide the last dimensions of every latent. (B, L, D)"""
    hidden = torch.arange(layout.dim, device=layout.device) >= layout.dim - _part(layout.dim, ratio)
    return hidden.expand(layout.n_windows, layout.n_steps * layout.per_step, -1)


def mask_random_dim(layout: LatentLayout, ratio: float, generator: torch.Generator | None) -> torch.Tensor:
    """Hide random dimensions, the same of all latents of a window. (B, L, D)"""
    hidden = _random((layout.n_windows, layout.dim), ratio, generator).to(layout.device)
    return hidden[:, None].expand(-1, layout.n_steps * layout.per_step, -1)


def mask_random_both(layout: LatentLayout, ratio: float, generator: torch.Generator | None) -> torch.Tensor:
    """Hide random dimensions of random steps; together ``ratio`` of all entries. (B, L, D)"""
    part = ratio**0.5
    return mask_random_time(layout, part, generator) & mask_random_dim(layout, part, generator)


MASKS: dict[str, MaskFunction] = {
    "causal_time": mask_causal_time,
    "random_time": mask_random_time,
    "random_latents": mask_random_latents,
    "causal_dim": mask_causal_dim,
    "random_dim": mask_random_dim,
    "random_both": mask_random_both,
}


def get_mask(name: str) -> MaskFunction:
    """A mask function by name: one of ours, or one that an installed distribution offers.

    Raises:
        RecipeError: If there is none of that name.
        ExtensionError: If the distribution that offers it is broken.

    Example:
        >>> mask = get_mask("random_time")
        >>> hidden = mask(LatentLayout(n_windows=2, n_steps=4, per_step=1, dim=8), 0.5, None)
        >>> hidden.sum(dim=1).flatten().tolist()  # 2 of the 4 steps of either window
        [2, 2]
    """
    mask = MASKS.get(name) or load_extension("masks", name)
    if mask is None:
        raise RecipeError(f"unknown mask {name!r}; there are {', '.join([*MASKS, *extension_names('masks')])}")
    return mask


def _part(n: int, ratio: float) -> int:
    """At least one of ``n``, and never all."""
    return min(max(round(ratio * n), 1), max(n - 1, 1))


def _random(shape: tuple[int, int], ratio: float, generator: torch.Generator | None) -> torch.Tensor:
    """Exactly the same number of true entries in every row, at random places."""
    order = torch.rand(shape, generator=generator).argsort(dim=1)
    return order < _part(shape[1], ratio)


def _over_steps(hidden: torch.Tensor, layout: LatentLayout) -> torch.Tensor:
    return hidden.repeat_interleave(layout.per_step, dim=1)[..., None]
