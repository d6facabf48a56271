"""What the paper (arXiv 2510.18516) says of the data: two halves by Cre line, and how stimuli are split.

Only numpy, so that it can be tested where AllenSDK is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

HALVES = ("pretrain", "finetune")
PRETRAIN_CRE_LINES = ("Sst", "Vip", "Pvalb", "Ntsr1")
PARTS = ("train", "valid", "test")

GRATINGS_FRACTIONS = (0.7, 0.1, 0.2)
MOVIE_FRACTIONS = (0.8, 0.1, 0.1)

# Deepest imaging plane of each class, in um below the pia. Nominal: layers differ between areas.
DEPTH_CLASSES: Mapping[str, float] = {"layer_2_3": 250, "layer_4": 350, "layer_5": 500, "layer_6": np.inf}


def half_of(cre_line: str) -> str:
    """Which half of the paper's animals a Cre line is in.

    Example:
        >>> half_of("Sst-IRES-Cre"), half_of("Cux2_CreERT2")
        ('pretrain', 'finetune')
    """
    return HALVES[0] if cre_line.startswith(PRETRAIN_CRE_LINES) else HALVES[1]


def depth_class(imaging_depth: float) -> str:
    """The cortical layer that an imaging depth in micrometres nominally lies in.

    Example:
        >>> [depth_class(depth) for depth in (175, 275, 375, 550)]
        ['layer_2_3', 'layer_4', 'layer_5', 'layer_6']
    """
    return next(name for name, deepest in DEPTH_CLASSES.items() if imaging_depth <= deepest)


def cuts(n: int, fractions: tuple[float, float, float]) -> tuple[int, int, int, int]:
    """Where to cut ``n`` items in order into train, valid and test.

    Each gets at least one; fewer than three items, of an epoch that broke off, are all for training.

    Args:
        n: Number of items.
        fractions: Fractions of train, valid and test.

    Example:
        >>> cuts(200, GRATINGS_FRACTIONS), cuts(10, MOVIE_FRACTIONS), cuts(3, MOVIE_FRACTIONS), cuts(2, MOVIE_FRACTIONS)
        ((0, 140, 160, 200), (0, 8, 9, 10), (0, 1, 2, 3), (0, 2, 2, 2))
    """
    if n < len(PARTS):
        return 0, n, n, n
    valid, test = (max(1, round(fraction * n)) for fraction in fractions[1:])
    return 0, n - valid - test, n - test, n


def split_items(
    start: np.ndarray,
    end: np.ndarray,
    epoch: np.ndarray,
    fractions: tuple[float, float, float],
    *,
    per_epoch: bool,
) -> dict[str, np.ndarray]:
    """Split presentations that follow each other into train, valid and test times.

    Parts are contiguous: what comes between two parts (the grey screen between gratings) is in
    neither, and no presentation is cut.

    Args:
        start: Start times in seconds, sorted, (n,).
        end: End times in seconds, (n,).
        epoch: Number of the stimulus epoch that each presentation is in, (n,); a part never reaches
            over the gap between two epochs.
        fractions: Fractions of train, valid and test.
        per_epoch: Take the fractions of every epoch, so that each part samples the whole session, rather
            than of all presentations.

    Returns:
        Times in seconds by part, each (R, 2).

    Example:
        >>> time = np.arange(10.0)
        >>> times = split_items(time, time + 0.5, np.zeros(10), MOVIE_FRACTIONS, per_epoch=False)
        >>> {part: pairs.tolist() for part, pairs in times.items()}
        {'train': [[0.0, 7.5]], 'valid': [[8.0, 8.5]], 'test': [[9.0, 9.5]]}
    """
    part = np.empty(len(start), np.int64)
    for group in [epoch == number for number in np.unique(epoch)] if per_epoch else [np.ones(len(start), bool)]:
        part[group] = np.repeat(np.arange(len(PARTS)), np.diff(cuts(int(group.sum()), fractions)))
    return {name: _spans(start, end, epoch, part == number) for number, name in enumerate(PARTS)}


def movie_repeats(start: np.ndarray, end: np.ndarray, repeat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of every repeat of a movie, from those of its frames; both (R,), in seconds."""
    numbers = np.unique(repeat)
    return (
        np.array([start[repeat == number].min() for number in numbers]),
        np.array([end[repeat == number].max() for number in numbers]),
    )


def epoch_of(start: np.ndarray, epoch_start: np.ndarray) -> np.ndarray:
    """Index of the last epoch that begins at or before each time, (n,)."""
    return np.searchsorted(np.sort(epoch_start), start, side="right") - 1


def _spans(start: np.ndarray, end: np.ndarray, epoch: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """One pair of times for every run of chosen presentations within an epoch, (R, 2)."""
    index = np.flatnonzero(chosen)
    if len(index) == 0:
        return np.empty((0, 2))
    new = np.r_[True, (np.diff(index) > 1) | (np.diff(epoch[index]) != 0)]
    first = index[new]
    last = np.r_[index[np.flatnonzero(new)[1:] - 1], index[-1]]
    return np.stack([start[first], end[last]], axis=1)
