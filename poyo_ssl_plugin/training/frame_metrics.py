"""How like two images are: the measures of reconstructed frames, image by image."""

from __future__ import annotations

import torch
from torchmetrics.functional import pearson_corrcoef
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

FRAME_METRICS = ("ssim", "psnr", "correlation")
# Images of 8 bits do not tell smaller errors from none: 20 log10(255) dB.
MAX_PSNR = 48.13


@torch.no_grad()
def frame_metrics(predicted: torch.Tensor, true: torch.Tensor) -> dict[str, torch.Tensor]:
    """Structural similarity, peak signal-to-noise ratio in dB, and correlation over pixels.

    Args:
        predicted: Images of values in [0, 1], :math:`(B, H, W)`, at least 11 pixels high and wide.
        true: The images they should be.

    Returns:
        ``"ssim"``, ``"psnr"`` and ``"correlation"`` of every image, each :math:`(B,)`. The correlation with
        a uniform image is 0; the signal-to-noise ratio of equal images, 48.13 dB, is that of one grey level.

    Example:
        >>> true = torch.linspace(0, 0.9, 256).view(1, 16, 16)
        >>> measured = frame_metrics(true + 0.1, true)
        >>> [round(measured[name].item(), 3) for name in ("psnr", "correlation")]
        [20.0, 1.0]
    """
    p, t = predicted.float(), true.float()
    correlation = torch.stack(
        [
            pearson_corrcoef(a, b) if a.std() > 1e-6 and b.std() > 1e-6 else a.new_zeros(())
            for a, b in zip(p.flatten(1), t.flatten(1), strict=True)
        ]
    )
    p, t = p[:, None], t[:, None]
    similarity = structural_similarity_index_measure(p, t, data_range=1.0, reduction="none")
    noise = peak_signal_noise_ratio(p, t, data_range=1.0, dim=(1, 2, 3), reduction="none")
    assert isinstance(similarity, torch.Tensor)
    return {"ssim": similarity.reshape(-1), "psnr": noise.reshape(-1).clamp_max(MAX_PSNR), "correlation": correlation}
