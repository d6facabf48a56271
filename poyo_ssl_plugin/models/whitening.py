"""How white latents are: of unit variance, repeating nothing over width and over time."""

from __future__ import annotations

import torch


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
