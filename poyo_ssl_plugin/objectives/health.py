"""Is the representation alive? Input-dependent scale and effective rank of latents.

A reconstruction loss between two branches of one network has a trivial solution: latents that do not
depend on the input. Both numbers here fall to nothing when that happens, and neither is fooled by
latents that differ from each other but not from window to window.
"""

from __future__ import annotations

import torch


def centred_latents(latents: torch.Tensor) -> torch.Tensor:
    """Latents minus their mean over windows, latent by latent: what depends on the input.

    Args:
        latents: Shape :math:`(B, L, D)`.

    Returns:
        Shape :math:`(B L, D)`.

    Example:
        >>> centred_latents(torch.tensor([[[1.0, 5.0]], [[3.0, 5.0]]])).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    return (latents - latents.mean(dim=0, keepdim=True)).flatten(0, 1)


def input_dependent_std(latents: torch.Tensor) -> torch.Tensor:
    r"""Root mean square of :func:`centred_latents` of latents :math:`(B, L, D)`, a scalar.

    Example:
        >>> latents = torch.tensor([[[1.0, 5.0]], [[3.0, 5.0]]])
        >>> round(input_dependent_std(latents).item(), 4)
        0.7071
    """
    return centred_latents(latents.double()).square().mean().sqrt()


def effective_rank(latents: torch.Tensor) -> torch.Tensor:
    r"""Effective rank (Roy & Vetterli 2007) of the input-dependent part of latents :math:`(B, L, D)`, a scalar.

    :math:`\exp H(p)` with :math:`p_i = \sigma_i / \sum_j \sigma_j` the normalised singular values of
    :func:`centred_latents`; between 1 and :math:`\min(B L, D)`, and 0 where nothing depends on the input.

    Example:
        >>> one_direction = torch.arange(4.0)[:, None, None] * torch.ones(1, 2, 3)
        >>> round(effective_rank(one_direction).item(), 3)
        1.0
    """
    centred = centred_latents(latents.double())
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0).sqrt()
    total = values.sum()
    if total <= 1e-12:
        return torch.zeros((), dtype=torch.float64, device=latents.device)
    p = values / total
    return torch.exp(-(p * torch.log(p.clamp_min(1e-300))).sum())


@torch.no_grad()
def latent_health(latents: torch.Tensor) -> dict[str, torch.Tensor]:
    """Input-dependent standard deviation and effective rank of latents (B, L, D), to be logged.

    Example:
        >>> alive = latent_health(torch.randn(64, 2, 4, generator=torch.Generator().manual_seed(0)))
        >>> {name: round(value.item(), 1) for name, value in alive.items()}
        {'latent_std': 1.0, 'effective_rank': 4.0}
        >>> collapsed = latent_health(torch.ones(64, 2, 4))  # the same whatever the input
        >>> {name: value.item() for name, value in collapsed.items()}
        {'latent_std': 0.0, 'effective_rank': 0.0}
    """
    return {
        "latent_std": input_dependent_std(latents),
        "effective_rank": effective_rank(latents),
    }
