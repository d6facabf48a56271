"""Losses between a reconstructed and a true image, their weighted sum, and the measures of a test.

Images have shape :math:`(B, H, W)` and values in [0, 1]. The paper (arXiv 2510.18516) sums focal, L1, FFT,
perceptual and SSIM terms; its text does not define them, so where it is silent these follow what the
authors' published code computes, but for scale: spectra are orthonormal here, so that a weight means the
same at any image size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure

from poyo_ssl_plugin.errors import RecipeError

logger = logging.getLogger(__name__)

PAPER_WEIGHTS = {"focal": 50.0, "l1": 50.0, "fft_magnitude": 50.0, "perceptual": 1.0, "ssim": 0.1}
LIGHT_WEIGHTS = {"l1": 1.0, "ssim": 1.0}
IMAGE_METRICS = ("ssim", "psnr", "correlation")


def focal(predicted: torch.Tensor, true: torch.Tensor, gamma: float = 1.0) -> torch.Tensor:
    r"""Mean absolute error, weighted towards the pixels that are most wrong.

    :math:`\mathrm{mean}\big[(|e| / \max |e|)^\gamma |e|\big]`, the maximum being that of the image. The
    weights take no gradient.

    Example:
        >>> focal(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.5]]])).item()
        0.625
    """
    error = (predicted - true).abs()
    weight = (error / error.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-8)) ** gamma
    return (weight.detach() * error).mean()


def fft(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean modulus of the difference of both images' orthonormal spectra: amplitude and phase.

    Example:
        >>> round(fft(torch.zeros(1, 4, 4), torch.ones(1, 4, 4)).item(), 3)  # one coefficient of 4, of 16
        0.25
    """
    return torch.fft.fft2(predicted - true, norm="ortho").abs().mean()


def fft_magnitude(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the moduli of both spectra, blind to phase: where things are.

    Example:
        >>> image = torch.rand(1, 8, 8)
        >>> fft_magnitude(image, image.roll(3, dims=-1)).item() < 1e-5
        True
    """
    return F.l1_loss(torch.fft.fft2(predicted, norm="ortho").abs(), torch.fft.fft2(true, norm="ortho").abs())


def gradient(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of differences between vertical plus between horizontal neighbours: edges.

    Example:
        >>> gradient(torch.zeros(1, 2, 2), torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])).item()
        1.0
    """
    error = predicted - true
    return error.diff(dim=-2).abs().mean() + error.diff(dim=-1).abs().mean()


def ssim(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Structural similarity (Wang et al. 2004) of each image, :math:`(B,)`; 1 for equal images.

    Gaussian window of 11 x 11 pixels and standard deviation 1.5, data range 1, images reflected at their
    borders: what ``torchmetrics`` computes, 33 times faster with its gradient on one CPU core (32 images of
    64 x 128 pixels), since the window is applied as two products with banded matrices.

    Raises:
        RecipeError: If the images are smaller than the window.

    Example:
        >>> image = torch.rand(2, 16, 16)
        >>> ssim(image, image).tolist()
        [1.0, 1.0]
    """
    if min(true.shape[-2:]) < 11:
        raise RecipeError(f"SSIM needs images of at least 11 x 11 pixels, not {tuple(true.shape[-2:])}")
    stack = torch.stack([predicted, true, predicted**2, true**2, predicted * true], dim=1)
    down, across = (_window(n).to(stack) for n in stack.shape[-2:])
    mean_p, mean_t, square_p, square_t, product = (down @ stack @ across.T).unbind(dim=1)
    variance_p, variance_t = (square_p - mean_p**2).clamp_min(0), (square_t - mean_t**2).clamp_min(0)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_p * mean_t + c1) / (mean_p**2 + mean_t**2 + c1)
    structure = (2 * (product - mean_p * mean_t) + c2) / (variance_p + variance_t + c2)
    return (luminance * structure).mean(dim=(-2, -1))


@lru_cache
def _window(n: int) -> torch.Tensor:
    """The Gaussian window at each of n pixels, (n, n); what sticks out is folded back."""
    offset = torch.arange(-5, 6)
    window = torch.exp(-(offset.double() ** 2) / (2 * 1.5**2))
    pixel = (torch.arange(n)[:, None] + offset).abs()
    pixel = torch.where(pixel >= n, 2 * (n - 1) - pixel, pixel)
    return torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, pixel, (window / window.sum()).expand(n, -1))


def perceptual(predicted: torch.Tensor, true: torch.Tensor, features: nn.Module) -> torch.Tensor:
    """Mean squared error of the features of a network for colour images, such as :func:`alexnet_features`."""
    mean = true.new_tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = true.new_tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    seen = [features((image[:, None].expand(-1, 3, -1, -1) - mean) / std) for image in (predicted, true)]
    return F.mse_loss(*seen)


TERMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "l1": F.l1_loss,
    "focal": focal,
    "fft": fft,
    "fft_magnitude": fft_magnitude,
    "gradient": gradient,
    "ssim": lambda predicted, true: 1 - ssim(predicted, true).mean(),
}


class FrameLoss(nn.Module):
    r"""Weighted sum of terms between reconstructed and true images.

    The perceptual term needs torchvision and its AlexNet weights on disk; where either is missing it
    is left out. Nothing is downloaded. The log says which terms are on.

    Args:
        weights: Term (``l1``, ``focal``, ``fft``, ``fft_magnitude``, ``gradient``, ``ssim``, ``perceptual``)
            to its weight; a weight of 0 turns a term off. ``LIGHT_WEIGHTS`` by default,
            ``PAPER_WEIGHTS`` are the paper's.

    Raises:
        RecipeError: If a term is unknown, a weight negative, or none is left.

    Example:
        >>> loss = FrameLoss({"l1": 2.0, "gradient": 0.5})
        >>> total, terms = loss(torch.zeros(1, 16, 16), torch.ones(1, 16, 16))
        >>> total.item(), {name: term.item() for name, term in terms.items()}
        (2.0, {'l1': 1.0, 'gradient': 0.0})
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = {name: float(weight) for name, weight in (weights or LIGHT_WEIGHTS).items() if weight}
        known = (*TERMS, "perceptual")
        for name, weight in self.weights.items():
            if name not in known:
                raise RecipeError(f"unknown term {name!r} of the frame loss; there are {', '.join(known)}")
            if weight < 0:
                raise RecipeError(f"the weight of {name!r} in the frame loss must not be negative, it is {weight}")
        self.features = alexnet_features() if "perceptual" in self.weights else None
        off = ""
        if "perceptual" in self.weights and self.features is None:
            del self.weights["perceptual"]
            off = "; perceptual off (no torchvision or no AlexNet weights)"
        if not self.weights:
            raise RecipeError("the frame loss has no term left: give one a weight greater than 0")
        on = ", ".join(f"{weight:g} {name}" for name, weight in self.weights.items())
        logger.info("frame loss: %s%s", on, off)

    def forward(self, predicted: torch.Tensor, true: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of images :math:`(B, H, W)`, and its terms before weighting, without gradient."""
        terms = {name: TERMS[name](predicted, true) for name in self.weights if name in TERMS}
        if self.features is not None:
            terms["perceptual"] = perceptual(predicted, true, self.features)
        total = sum((self.weights[name] * term for name, term in terms.items()), predicted.new_zeros(()))
        return total, {name: term.detach() for name, term in terms.items()}


def alexnet_features(layers: int = 5) -> nn.Module | None:
    """The first layers of AlexNet, frozen; ``None`` without torchvision or without its weights on disk.

    Weights are looked for where torch.hub keeps them (``TORCH_HOME``), and read without unpickling.
    """
    try:
        from torchvision.models import AlexNet_Weights, alexnet  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.IMAGENET1K_V1.url).name
    if not file.is_file():
        return None
    network = alexnet()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network.features[:layers].eval().requires_grad_(False)


@torch.no_grad()
def image_metrics(predicted: torch.Tensor, true: torch.Tensor) -> dict[str, torch.Tensor]:
    """Structural similarity, peak signal-to-noise ratio in dB, and correlation over pixels.

    Args:
        predicted: Images of values in [0, 1], :math:`(B, H, W)`, at least 11 pixels high and wide.
        true: The images they should be.

    Returns:
        ``"ssim"``, ``"psnr"`` and ``"correlation"`` of every image, each :math:`(B,)`. The correlation with
        a uniform image is 0; the signal-to-noise ratio is at most 48.13 dB, that of one grey level of 255.

    Example:
        >>> true = torch.linspace(0, 0.9, 256).view(1, 16, 16)
        >>> measured = image_metrics(true + 0.1, true)
        >>> [round(measured[name].item(), 3) for name in ("psnr", "correlation")]
        [20.0, 1.0]
    """
    p, t = predicted.float(), true.float()
    similarity = structural_similarity_index_measure(p[:, None], t[:, None], data_range=1.0, reduction="none")
    assert isinstance(similarity, torch.Tensor)
    error = (p - t).square().mean(dim=(-2, -1)).clamp_min(1 / 255**2)
    p, t = (x.flatten(1) - x.mean(dim=(-2, -1))[:, None] for x in (p, t))
    return {
        "ssim": similarity.reshape(-1),
        "psnr": -10 * error.log10(),
        "correlation": F.cosine_similarity(p, t, eps=1e-4),
    }
