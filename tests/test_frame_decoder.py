from __future__ import annotations

import pytest
import torch
from torch import nn

from poyo_ssl_plugin import SkipConnectionDecoder
from poyo_ssl_plugin.errors import RecipeError


@pytest.mark.parametrize("size", [(64, 128), (128, 256), (30, 45), (11, 11)])
@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_images_of_any_size(size, upsample):
    decoder = SkipConnectionDecoder(6, size=size, width=2, max_width=8, upsample=upsample)
    images = decoder(torch.randn(2, 6))
    assert images.shape == (2, *size) and torch.isfinite(images).all()
    assert decoder.scales[0] == (1, 1) and decoder.scales[-1] == size
    for (h, w), (height, width) in zip(decoder.scales, decoder.scales[1:], strict=False):
        assert height <= 2 * h and width <= 2 * w


def test_it_starts_near_zero_and_every_parameter_learns():
    torch.manual_seed(0)
    decoder = SkipConnectionDecoder(8, size=(16, 32), width=4)
    images = decoder(torch.randn(4, 8))
    assert images.abs().mean() < 0.2
    images.square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_latent_enters_at_every_scale():
    """With the coarse path cut, each scale's own projection still changes the image."""
    torch.manual_seed(0)
    decoder = SkipConnectionDecoder(8, size=(16, 16), width=4)
    nn.init.zeros_(decoder.start.weight)
    for chosen in range(len(decoder.blocks)):
        for i, block in enumerate(decoder.blocks):
            nn.init.normal_(block.project.weight, std=1.0 if i == chosen else 0.0)
        one, two = decoder(torch.randn(2, 8))
        assert (one - two).abs().max() > 1e-4, decoder.scales[chosen + 1]


def checkerboard(images: torch.Tensor) -> float:
    """Share of the power that is at the highest frequency of both axes."""
    power = torch.fft.fft2(images - images.mean(dim=(-2, -1), keepdim=True)).abs().square()
    height, width = images.shape[-2:]
    return (power[:, height // 2, width // 2] / power.sum(dim=(-2, -1))).mean().item()


def test_no_checkerboard():
    """From the coarse latent alone, against the transposed convolutions that are not used for it."""
    torch.manual_seed(0)
    decoder = SkipConnectionDecoder(16, size=(32, 32), width=8)
    for block in decoder.blocks:
        nn.init.zeros_(block.project.weight)
        nn.init.zeros_(block.project.bias)
    layers = []
    for _ in range(5):
        layers += [nn.ConvTranspose2d(16, 16, 3, stride=2, padding=1, output_padding=1), nn.GELU()]
    transposed = nn.Sequential(*layers, nn.Conv2d(16, 1, 1))
    latent = torch.randn(64, 16)
    with torch.no_grad():
        ours, theirs = checkerboard(decoder(latent)), checkerboard(transposed(latent[:, :, None, None])[:, 0])
    assert ours < 0.01 < theirs


@pytest.mark.parametrize(
    "wrong",
    [{"latent_dim": 0}, {"size": (0, 8)}, {"width": 0}, {"skip_channels": 0}, {"max_width": 0}, {"upsample": "cubic"}],
)
def test_bad_arguments(wrong):
    with pytest.raises(RecipeError):
        SkipConnectionDecoder(**{"latent_dim": 4, "size": (16, 16), **wrong})
