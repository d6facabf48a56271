"""How like the true frames reconstructed ones are, and which of them count as samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from poyo_ssl_plugin.compare.statistics import Estimate, estimate
from poyo_ssl_plugin.data import MovieFrames
from poyo_ssl_plugin.training.frame_metrics import FRAME_METRICS, frame_metrics

# What a test of each protocol holds out.
METRIC = {
    "repeats": "SSIM of frames, on repeats of the movie that training did not see",
    "frames": "SSIM of frames that training did not see",
}
_FRAMES_PER_SECOND = 30
_AT_ONCE = 64


def score_frames(images: np.ndarray, frames: np.ndarray, movie: MovieFrames) -> dict[str, np.ndarray]:
    """Compare reconstructions with the frames that were shown.

    Args:
        images: Reconstructions, float (R, H, W) of values in [0, 1].
        frames: Which frame of the movie each should be, (R,).
        movie: The images.

    Returns:
        Name of a metric to its value for every reconstruction, float64 (R,).
    """
    scores: dict[str, list[torch.Tensor]] = {metric: [] for metric in FRAME_METRICS}
    for i in range(0, len(frames), _AT_ONCE):
        wanted = torch.from_numpy(movie.image[movie.rows(frames[i : i + _AT_ONCE])]).float() / 255
        for metric, measured in frame_metrics(torch.from_numpy(images[i : i + _AT_ONCE]), wanted).items():
            scores[metric].append(measured)
    return {metric: torch.cat(parts).double().numpy() for metric, parts in scores.items()}


def second_means(rows: Sequence[Mapping[str, Any]], values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean over each second of the movie in each recording: frames that follow each other are no samples of their own.

    Args:
        rows: Tested presentations, with ``recording_id`` and ``frame``.
        values: One number for each.

    Returns:
        ``"<recording>/<second>"`` to the mean over its presentations, those of all repeats together.

    Example:
        >>> rows = [{"recording_id": "a", "frame": frame} for frame in (0, 29, 30)]
        >>> second_means(rows, [0.25, 0.75, 0.9])
        {'a/0': 0.5, 'a/1': 0.9}
    """
    seconds: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        name = f"{row['recording_id']}/{row['frame'] // _FRAMES_PER_SECOND}"
        seconds.setdefault(name, []).append(float(value))
    return {name: float(np.mean(of_second)) for name, of_second in seconds.items()}


def over_seconds(rows: Sequence[Mapping[str, Any]], values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean and 95 % interval over seconds of movie; arguments as :func:`second_means`."""
    return estimate(list(second_means(rows, values).values()))
