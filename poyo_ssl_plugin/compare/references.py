"""Simple decoders on the same neurons, windows and splits: what a model has to beat.

Both see one number per neuron and trial, its mean trace or its rate of spikes, standardised by training trials.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from poyo_ssl_plugin.data import Task, Trials, find_trials
from poyo_ssl_plugin.data.splits import Split
from poyo_ssl_plugin.predictability import Diet
from poyo_ssl_plugin.recordings import TRACES, Signal, open_signal

PENALTIES = (1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class Decoded:
    """How a baseline did.

    Attributes:
        correct: Number of test trials it told right.
        n: Number of test trials.
    """

    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """Share of test trials told right."""
        return self.correct / self.n

    def __add__(self, other: Decoded) -> Decoded:
        return Decoded(self.correct + other.correct, self.n + other.n)


def run_baselines(
    dataset: Any, diet: Diet, task: Task, split: Split, *, field: str = TRACES, label_share: float = 1.0
) -> dict[str, Decoded]:
    """Fit and test every baseline on each recording that the diet feeds; sum over recordings.

    Args:
        dataset: The recordings.
        diet: The neurons to decode from.
        task: What to decode.
        split: Times of training and test.
        field: What to decode: traces, or ``"spikes"``.
        label_share: Train on the earliest trials of each class only, so many of them.

    Returns:
        ``"linear decoder"`` (ridge regression on indicators, its penalty chosen by leaving training
        trials out) and ``"template"`` (correlation with the mean response to each class).
    """
    total: dict[str, Decoded] = {}
    for name in dataset.recording_ids:
        data = dataset.get_recording(name)
        if diet.count(name) == 0 or task.source not in data.keys():
            continue
        signal = open_signal(data, field)
        keep = diet.mask(name, signal.unit_ids)
        parts = {}
        for part, share in (("train", label_share), ("test", 1.0)):
            trials = find_trials(data, task, None, split[part][name]).first_of_each_class(share)
            parts[part] = trial_means(signal, trials, keep), trials.label
        (train, label), (test, truth) = parts["train"], parts["test"]
        if len(train) == 0 or len(test) == 0:
            continue
        mean, std = train.mean(axis=0), train.std(axis=0) + 1e-9
        train, test = (train - mean) / std, (test - mean) / std
        for decoder, decode in {"linear decoder": _ridge, "template": _template}.items():
            correct = int((decode(train, label, test, task.n_classes) == truth).sum())
            total[decoder] = total.get(decoder, Decoded(0, 0)) + Decoded(correct, len(truth))
    return total


def trial_means(signal: Signal, trials: Trials, keep: np.ndarray) -> np.ndarray:
    """Mean of each kept neuron over each trial, (R, N)."""
    return np.nan_to_num(signal.means(np.stack([trials.start, trials.end], axis=1))[:, keep])


def _ridge(train: np.ndarray, label: np.ndarray, test: np.ndarray, n_classes: int) -> np.ndarray:
    target = np.eye(n_classes)[label] - 1 / n_classes
    # Ridge with leave-one-out in closed form: residual / (1 - leverage).
    left, values, right = np.linalg.svd(train, full_matrices=False)
    best, weights = -1.0, np.zeros((train.shape[1], n_classes))
    for penalty in PENALTIES:
        shrink = values**2 / (values**2 + penalty)
        fitted = left @ (shrink[:, None] * (left.T @ target))
        leverage = (left**2 * shrink).sum(axis=1, keepdims=True)
        left_out = target - (target - fitted) / (1 - leverage)
        score = float((left_out.argmax(axis=1) == label).mean())
        if score > best:
            best = score
            weights = right.T @ ((values / (values**2 + penalty))[:, None] * (left.T @ target))
    return (test @ weights).argmax(axis=1)


def _template(train: np.ndarray, label: np.ndarray, test: np.ndarray, n_classes: int) -> np.ndarray:
    templates = np.full((n_classes, train.shape[1]), np.nan)
    for k in np.unique(label):
        templates[k] = train[label == k].mean(axis=0)

    def unit(x: np.ndarray) -> np.ndarray:
        x = x - x.mean(axis=1, keepdims=True)
        return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-12)

    return np.nan_to_num(unit(test) @ unit(templates).T, nan=-np.inf).argmax(axis=1)
