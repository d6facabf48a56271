"""Simple reconstructions of movie frames from the same windows: what a model has to beat.

All see the mean of every neuron in quarters of a second of the window, standardised by training windows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from poyo_ssl_plugin.data import MovieFrames, Trials
from poyo_ssl_plugin.recordings import TRACES, open_signal
from poyo_ssl_plugin.training import FrameData

# Times the number of windows; features are standardised.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
BIN_SECONDS = 0.25
# Principal components of the images that are told from the activity.
_COMPONENTS = 200


def run_frame_baselines(data: FrameData, movie: MovieFrames, *, leave_out: str) -> dict[str, np.ndarray]:
    """Reconstruct every tested presentation without a network.

    Args:
        data: The windows; baselines are fitted to each recording.
        movie: The images.
        leave_out: What the ridge's penalty is chosen by leaving out of training, ``"repeats"`` or
            ``"frames"``: what the test holds out too.

    Returns:
        ``"mean frame"`` (of the training images), ``"template"`` (the image of the training frame whose mean
        response correlates best) and ``"linear decoder"`` (ridge regression), each float32 (R, H, W) in [0, 1], in
        the order in which :class:`~poyo_ssl_plugin.training.FrameDecoding` tests.
    """
    images = movie.image.astype(np.float32) / 255
    mean = images[movie.rows(data.frames["train"])].mean(axis=0)
    made: dict[str, list[np.ndarray]] = {"mean frame": [], "template": [], "linear decoder": []}
    parts = {part: data.trials(part) for part in ("train", "test")}
    for name in data.recordings:
        train, test = parts["train"][name], parts["test"][name]
        if len(test) == 0:
            continue
        n_test = len(test)
        made["mean frame"].append(np.broadcast_to(mean, (n_test, *mean.shape)))
        if len(train) == 0:
            for baseline in ("template", "linear decoder"):
                made[baseline].append(made["mean frame"][-1])
            continue
        x, y = window_features(data, name, train), window_features(data, name, test)
        centre, scale = x.mean(axis=0), x.std(axis=0) + 1e-9
        x, y = (x - centre) / scale, (y - centre) / scale
        made["template"].append(images[movie.rows(template_frames(x, train.label, y))])
        made["linear decoder"].append(ridge_images(x, train.label, y, movie, leave_out=leave_out))
    return {baseline: np.concatenate(blocks).astype(np.float32) for baseline, blocks in made.items()}


def window_features(data: FrameData, recording: str, trials: Trials) -> np.ndarray:
    """Mean trace of each neuron of the diet in quarters of a second of each window, (R, N * bins)."""
    recorded = data.dataset.get_recording(recording)
    signal: Any = open_signal(recorded, TRACES)
    keep = data.diet.mask(recording, signal.unit_ids)
    low, high = trials.bounds.T
    start = np.clip(
        trials.centre + data.delay - data.window_length / 2, low, np.maximum(low, high - data.window_length)
    )
    n_bins = max(1, round(data.window_length / BIN_SECONDS))
    edges = signal.clock.row(start[:, None] + np.linspace(0, data.window_length, n_bins + 1))
    first = int(edges.min())
    traces = np.nan_to_num(signal.samples[first : int(edges.max())].astype(np.float64)[:, keep])
    sums = np.concatenate([np.zeros((1, traces.shape[1])), traces.cumsum(axis=0)])[edges - first]
    return (np.diff(sums, axis=1) / np.maximum(np.diff(edges, axis=1), 1)[:, :, None]).reshape(len(trials), -1)


def template_frames(x: np.ndarray, frame: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The training frame whose mean response correlates best with each test response, (R,).

    Args:
        x: Training responses (K, F).
        frame: Their frames (K,).
        y: Test responses (R, F).
    """
    frames, row = np.unique(frame, return_inverse=True)
    templates = np.zeros((len(frames), x.shape[1]))
    np.add.at(templates, row, x)
    templates /= np.bincount(row)[:, None]

    def unit(z: np.ndarray) -> np.ndarray:
        z = z - z.mean(axis=1, keepdims=True)
        return z / (np.linalg.norm(z, axis=1, keepdims=True) + 1e-12)

    return frames[(unit(y) @ unit(templates).T).argmax(axis=1)]


def ridge_images(x: np.ndarray, frame: np.ndarray, y: np.ndarray, movie: MovieFrames, *, leave_out: str) -> np.ndarray:
    """Images by ridge regression, its penalty chosen by leaving repeats or stretches of frames out.

    Args:
        x: Training responses (K, F), of mean 0.
        frame: Their frames (K,), in the order of time.
        y: Test responses (R, F).
        movie: The images.
        leave_out: ``"repeats"`` or ``"frames"``.

    Returns:
        Float32 (R, H, W) in [0, 1].
    """
    used, row = np.unique(frame, return_inverse=True)
    flat = movie.image[movie.rows(used)].reshape(len(used), -1).astype(np.float64) / 255
    mean = np.bincount(row, minlength=len(used)) @ flat / len(row)
    left, values, components = np.linalg.svd(flat - mean, full_matrices=False)
    n = min(_COMPONENTS, len(values))
    target = (left[:, :n] * values[:n])[row]
    weights = ridge(x, target, _groups(frame, leave_out))
    images = (y @ weights) @ components[:n] + mean
    return np.clip(images, 0, 1).astype(np.float32).reshape(len(y), *movie.size)


def ridge(x: np.ndarray, target: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Weights (F, D) of the ridge regression whose penalty predicts left-out groups best.

    Args:
        x: Features (K, F) of mean 0 and variance 1.
        target: Targets (K, D) of mean 0.
        groups: Group of each row (K,).
    """
    penalties = [len(x) * penalty * np.eye(x.shape[1]) for penalty in PENALTIES]
    gram, cross = x.T @ x, x.T @ target
    error = np.zeros(len(penalties))
    for group in np.unique(groups):
        out, wanted = x[groups == group], target[groups == group]
        rest_gram, rest_cross = gram - out.T @ out, cross - out.T @ wanted
        for i, penalty in enumerate(penalties):
            error[i] += ((out @ np.linalg.solve(rest_gram + penalty, rest_cross) - wanted) ** 2).sum()
    return np.linalg.solve(gram + penalties[int(error.argmin())], cross)


def _groups(frame: np.ndarray, leave_out: str) -> np.ndarray:
    if leave_out == "repeats":
        # The movie starts anew where the frame number falls.
        return np.r_[0, np.cumsum(np.diff(frame) < 0)]
    used = np.unique(frame)
    return np.searchsorted(used, frame) * 8 // len(used)
