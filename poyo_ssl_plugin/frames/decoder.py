"""From a latent vector to an image: a UNet's decoder whose skip connections all come from the latent."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from poyo_ssl_plugin.errors import RecipeError


class SkipConnectionDecoder(nn.Module):
    r"""Decode latent vectors into grayscale images, as POYO-SSL reconstructs movie frames.

    Starts at one pixel and doubles: every scale upsamples and convolves what the coarser one gave,
    concatenates a linear projection of the latent to its own shape, and mixes both by a 1x1
    convolution. The projections take the place of a UNet's skip connections (there is no encoder to skip
    from); the finest one alone is a linear decoder of pixels. Upsampling is interpolation followed by a
    convolution, not a transposed convolution, whose unequal overlaps draw checkerboards.

    The output is not squashed: add a base image if you like, and apply a sigmoid for values in [0, 1].
    At first it is close to 0.

    Args:
        latent_dim: Length :math:`D` of a latent vector.
        size: Height and width of the images, such as ``(64, 128)`` or ``(128, 256)``.
        width: Channels at the finest scale; doubled at every coarser one.
        max_width: Most channels at any scale.
        skip_channels: Channels of the projection of the latent at every scale.
        upsample: ``"bilinear"`` or ``"nearest"``.

    Raises:
        RecipeError: If an argument is out of range.

    Example:
        >>> decoder = SkipConnectionDecoder(latent_dim=16, size=(64, 128), width=4)
        >>> decoder.scales
        [(1, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 128)]
        >>> tuple(decoder(torch.randn(3, 16)).shape)
        (3, 64, 128)
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        size: tuple[int, int] = (64, 128),
        width: int = 8,
        max_width: int = 128,
        skip_channels: int = 2,
        upsample: Literal["bilinear", "nearest"] = "bilinear",
    ) -> None:
        super().__init__()
        sizes = {"latent_dim": latent_dim, "height": size[0], "width of the images": size[1], "width": width}
        for name, value in {**sizes, "max_width": max_width, "skip_channels": skip_channels}.items():
            if not value > 0:
                raise RecipeError(f"the frame decoder's {name} must be greater than 0, not {value}")
        if upsample not in ("bilinear", "nearest"):
            raise RecipeError(f"upsample must be 'bilinear' or 'nearest', not {upsample!r}")
        self.scales = _scales(*map(int, size))
        widths = [min(width * 2**i, max_width) for i in reversed(range(len(self.scales)))]
        self.start = nn.Linear(latent_dim, widths[0])
        self.blocks = nn.ModuleList(
            _Scale(latent_dim, shape, channels_in=before, channels=channels, skip=skip_channels, upsample=upsample)
            for shape, before, channels in zip(self.scales[1:], widths[:-1], widths[1:], strict=True)
        )
        self.out = nn.Conv2d(widths[-1], 1, 3, padding=1)
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Images :math:`(B, H, W)` of latent vectors :math:`(B, D)`."""
        x = self.start(latent)[:, :, None, None]
        for block in self.blocks:
            x = block(x, latent)
        return self.out(x)[:, 0]


class _Scale(nn.Module):
    """One scale: upsample, convolve, join the projected latent, mix."""

    def __init__(
        self, latent_dim: int, shape: tuple[int, int], *, channels_in: int, channels: int, skip: int, upsample: str
    ) -> None:
        super().__init__()
        self.shape, self.upsample = shape, upsample
        self.conv = nn.Sequential(nn.Conv2d(channels_in, channels, 3, padding=1), nn.GroupNorm(1, channels), nn.GELU())
        self.project = nn.Linear(latent_dim, skip * shape[0] * shape[1])
        self.mix = nn.Conv2d(channels + skip, channels, 1)

    def forward(self, x: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        align = False if self.upsample == "bilinear" else None
        x = self.conv(F.interpolate(x, self.shape, mode=self.upsample, align_corners=align))
        skip = self.project(latent).unflatten(1, (-1, *self.shape))
        return self.mix(torch.cat([x, skip], dim=1))


def _scales(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes from one pixel up to the image, each at most twice the one before."""
    scales = [(height, width)]
    while scales[-1] != (1, 1):
        scales.append((-(-scales[-1][0] // 2), -(-scales[-1][1] // 2)))
    return scales[::-1]
