"""Simple reconstructions of movie frames from the same windows: what a model has to beat.

All see the mean of every neuron in quarters of a second of the window, standardised by training windows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader

from poyo_ssl_plugin.data import Trials
from poyo_ssl_plugin.frames.images import MovieFrames
from poyo_ssl_plugin.frames.losses import image_metrics
from poyo_ssl_plugin.frames.task import FrameData, FrameDecoding, FrameReconstruction, as_images
from poyo_ssl_plugin.plain import Batch, Values
from poyo_ssl_plugin.recordings import TRACES, open_signal
from poyo_ssl_plugin.training.decoding import TestResult
from poyo_ssl_plugin.training.inputs import Inputs
from poyo_ssl_plugin.training.trainer import make_tester, quiet_lightning

# Times the number of windows; features are standardised.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
BIN_SECONDS = 0.25
# Principal components of the images that are told from the activity.
_COMPONENTS = 200
_AT_ONCE = 64


def frame_references(decoding: FrameReconstruction, folds: Iterable[Inputs]) -> dict[str, TestResult]:
    """Test simple decoders on the neurons, windows and folds of a recipe.

    Returns:
        ``"mean frame"``, ``"template"`` and ``"linear decoder"`` to what their test measured over all folds.
    """
    rows: dict[str, list[Values]] = {}
    for inputs in folds:
        data = decoding.data(inputs)
        # One recording after another: the images of all of them are large.
        for recording in data.recordings:
            shown = data.trials("test")[recording].label
            for name, images in reference_images(data, recording, decoding).items():
                rows.setdefault(name, []).extend(score_images(images, shown, decoding.movie, [recording] * len(shown)))
    return {name: decoding.test_result(of_name) for name, of_name in rows.items() if of_name}


def score_images(images: np.ndarray, frames: np.ndarray, movie: MovieFrames, recordings: Sequence[str]) -> list[Values]:
    """Compare reconstructions (R, H, W) with the frames shown (R,), in rows like those of a model's test."""
    rows = []
    for i in range(0, len(frames), _AT_ONCE):
        label = frames[i : i + _AT_ONCE]
        true = as_images(movie.image[movie.rows(label)])
        scores = image_metrics(torch.from_numpy(images[i : i + _AT_ONCE]), true)
        columns = zip(recordings[i : i + _AT_ONCE], label.tolist(), *(x.tolist() for x in scores.values()), strict=True)
        rows += [dict(zip(("recording_id", "label", *scores), row, strict=True)) for row in columns]
    return rows


def reference_images(data: FrameData, recording: str, decoding: FrameReconstruction) -> dict[str, np.ndarray]:
    """Reconstruct every tested presentation of a recording without a network.

    The decoders are fitted to this recording; the ridge's penalty is chosen by leaving out of training what the
    recipe's test holds out.

    Returns:
        ``"mean frame"`` (of the training images), ``"template"`` (the image of the training frame whose mean
        response correlates best) and ``"linear decoder"`` (ridge regression), each float32 (R, H, W) in [0, 1], in
        the order of the test's trials.
    """
    movie, protocol = decoding.movie, decoding.options.protocol
    train, test = data.trials("train")[recording], data.trials("test")[recording]
    mean = movie.image[movie.rows(data.frames["train"])].mean(axis=0).astype(np.float32) / 255
    made = dict.fromkeys(("mean frame", "template", "linear decoder"), np.tile(mean, (len(test), 1, 1)))
    if len(train) and len(test):
        x, y = _standardised(window_features(data, recording, train), window_features(data, recording, test))
        made["template"] = as_images(movie.image[movie.rows(template(x, train.label, y))]).numpy()
        made["linear decoder"] = ridge_images(x, train.label, y, movie, leave_out=protocol)
    return made


def reconstruct(
    module: FrameDecoding, loader: DataLoader[Batch], decoding: FrameReconstruction
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Reconstruct the windows of a loader with a trained model.

    Returns:
        Latent vectors (R, D), images float32 (R, H, W) in [0, 1], the frames shown (R,), and ids of recordings.
    """
    with quiet_lightning():
        batches = make_tester(decoding.recipe.trainer).predict(module, loader)
    *tensors, recordings = zip(*batches, strict=True)
    latent, images, frame = (torch.cat(column).cpu().numpy() for column in tensors)
    return latent.astype(np.float64), as_images(images).numpy(), frame, list(itertools.chain(*recordings))


def latent_images(
    module: FrameDecoding, data: FrameData, decoding: FrameReconstruction, latent: np.ndarray
) -> np.ndarray:
    """What a linear decoder makes of a model's latent vectors (R, D), in place of its frame decoder."""
    train, _, frame, _ = reconstruct(module, data.fitting_dataloader(), decoding)
    x, y = _standardised(train, latent)
    return ridge_images(x, frame, y, decoding.movie, leave_out=decoding.options.protocol)


def window_features(data: FrameData, recording: str, trials: Trials) -> np.ndarray:
    """Mean trace of each neuron of the diet in quarters of a second of each window, (R, N * bins)."""
    signal = open_signal(data.dataset.get_recording(recording), TRACES)
    low, high = trials.bounds.T
    start = trials.centre + data.delay - data.window_length / 2
    start = np.clip(start, low, np.maximum(low, high - data.window_length))
    n_bins = max(1, round(data.window_length / BIN_SECONDS))
    edges = start[:, None] + np.linspace(0, data.window_length, n_bins + 1)
    means = signal.means(np.stack([edges[:, :-1], edges[:, 1:]], axis=-1))
    return np.nan_to_num(means[:, data.diet.mask(recording, signal.unit_ids)]).reshape(len(trials), -1)


def template(train: np.ndarray, label: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The class, or frame, whose mean response correlates best with each test response, (R,).

    Training responses are (K, F), their labels (K,), test responses (R, F).

    Example:
        >>> train = np.array([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
        >>> template(train, np.array([3, 5]), np.array([[5.0, 1.0, 3.0]])).tolist()
        [3]
    """
    labels = np.unique(label)
    templates = np.stack([train[label == one].mean(axis=0) for one in labels])
    templates, test = (rows - rows.mean(axis=1, keepdims=True) for rows in (templates, test))
    # The length of a test response does not change which template is nearest.
    templates /= np.linalg.norm(templates, axis=1, keepdims=True) + 1e-12
    return labels[(test @ templates.T).argmax(axis=1)]


def ridge_images(x: np.ndarray, frame: np.ndarray, y: np.ndarray, movie: MovieFrames, *, leave_out: str) -> np.ndarray:
    """Images (R, H, W) by ridge regression, its penalty chosen by leaving ``"repeats"`` or ``"frames"`` out.

    Training responses ``x`` are (K, F) of mean 0, their frames ``frame`` (K,) in the order of time, test
    responses ``y`` (R, F).
    """
    used, row = np.unique(frame, return_inverse=True)
    flat = movie.image[movie.rows(used)].reshape(len(used), -1).astype(np.float64) / 255
    mean = np.bincount(row, minlength=len(used)) @ flat / len(row)
    left, values, components = np.linalg.svd(flat - mean, full_matrices=False)
    n = min(_COMPONENTS, len(values))
    # The movie starts anew where the frame number falls.
    groups = np.r_[0, np.cumsum(np.diff(frame) < 0)] if leave_out == "repeats" else row * 8 // len(used)
    weights = ridge(x, (left[:, :n] * values[:n])[row], groups)
    images = (y @ weights) @ components[:n] + mean
    return np.clip(images, 0, 1).astype(np.float32).reshape(len(y), *movie.size)


def ridge(x: np.ndarray, target: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Weights (F, D) of the ridge regression of ``target`` (K, D) on ``x`` (K, F) that predicts left-out groups best.

    A group is left out by taking its part from the Gram matrix, so that every window is multiplied once.
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


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-9
    return (train - mean) / std, (test - mean) / std
