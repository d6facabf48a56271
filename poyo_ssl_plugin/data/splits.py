"""Which times are for training, validation and test.

A split is a mapping ``{"train": {recording: times}, "valid": ..., "test": ...}`` with times in seconds
of shape (R, 2). It comes from the recordings themselves, or holds out repeats of a stimulus in folds.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from poyo_ssl_plugin.compat import Data, Interval
from poyo_ssl_plugin.data.dataset import Recordings
from poyo_ssl_plugin.data.series import is_series, sample_times
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.recordings import intersect_intervals, split_intervals

Split = dict[str, dict[str, np.ndarray]]
PARTS = ("train", "valid", "test")

_BLOCKS_A_FOLD = 5


def recorded_split(dataset: Recordings, name: str = "recorded") -> Split:
    """A split that each recording brings; one without time for validation is not validated on.

    Args:
        dataset: The recordings.
        name: ``"recorded"`` for ``train_domain``, ``valid_domain`` and ``test_domain``; another name is
            put before these, so ``"paper"`` is ``paper_train_domain`` and so on.

    Raises:
        RecordingError: If a recording has no such split.
    """
    prefix = "" if name == "recorded" else f"{name}_"
    return {
        part: {
            recording: _recorded(dataset.get_recording(recording), prefix, part) for recording in dataset.recording_ids
        }
        for part in PARTS
    }


def _recorded(data: Data, prefix: str, part: str) -> np.ndarray:
    domain = getattr(data, f"{prefix}{part}_domain", None)
    if part == "valid" and domain is not None and len(domain.start) == 0:
        return np.empty((0, 2))
    return split_intervals(data, prefix + part)


def repeat_fold(dataset: Recordings, source: str, fold: int, n_folds: int, *, contiguous: bool = False) -> Split:
    """Hold out some repeats of a repeated stimulus for test, every ``n_folds``-th one; train on all other time.

    Trials without ``repeat`` numbers, and a time series, are cut into five blocks a fold in the order of time.

    Nothing is left for validation, so a run on folds trains for a fixed budget.

    Args:
        dataset: The recordings.
        source: Name of the stimulus, the trials or the series, such as ``"natural_movie_one"``.
        fold: Which fold, in [0, n_folds).
        n_folds: Number of folds.
        contiguous: Hold out neighbouring repeats instead.

    Raises:
        RecordingError: If a recording lacks the stimulus or has fewer repeats than folds.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin.data import Recordings, simulate
        >>> dataset = Recordings(simulate(tempfile.mkdtemp(), n_recordings=1, n_units=4, minutes=4))
        >>> split = repeat_fold(dataset, "natural_movie_one", fold=1, n_folds=2)
        >>> [part.tolist() for part in split["test"].values()]
        [[[63.0, 93.0], [123.0, 153.0]]]
    """
    if not 0 <= fold < n_folds:
        raise RecordingError(f"fold {fold} is not in [0, {n_folds})")
    split: Split = {part: {} for part in PARTS}
    for name in dataset.recording_ids:
        data = dataset.get_recording(name)
        repeats = _repeats(data, name, source, n_folds)
        if len(repeats) < n_folds:
            raise RecordingError(f"recording {name}: {source} has {len(repeats)} repeats, too few for {n_folds} folds")
        everything = np.concatenate([split_intervals(data, part) for part in PARTS])
        # Where trials are cut out, time that lies between them is in no part.
        held_out = np.array_split(repeats, n_folds)[fold] if contiguous else repeats[fold::n_folds]
        split["test"][name] = intersect_intervals(held_out, split_intervals(data, None))
        split["train"][name] = _without(everything, split["test"][name])
        split["valid"][name] = np.empty((0, 2))
    return split


def part_within(part: dict[str, np.ndarray], dataset: Recordings, domain: str | None) -> dict[str, np.ndarray]:
    """Restrict times to a domain of the recordings, such as ``"drifting_gratings"``; drop empty ones.

    A recording without ``<domain>_domain``, such as an imported one, has it from the start of its first trial to the
    end of its last, where ``domain`` names its trials.
    """
    if domain is None:
        return {name: times for name, times in part.items() if len(times)}
    restricted = {}
    for name, times in part.items():
        both = intersect_intervals(times, _time_of(dataset.get_recording(name), domain))
        if len(both):
            restricted[name] = both
    if not restricted:
        raise RecordingError(f"no recording has time in '{domain}_domain'; leave data.stimulus empty to use all time")
    return restricted


def _time_of(data: Data, domain: str) -> np.ndarray:
    """When a stimulus was shown, (P, 2); empty if it was not."""
    if f"{domain}_domain" in data.keys():
        return split_intervals(data, domain)
    trials = getattr(data, domain, None)
    if not isinstance(trials, Interval) or not len(trials.start):
        return np.empty((0, 2))
    return np.array([[trials.start.min(), trials.end.max()]])


def _repeats(data: Data, name: str, source: str, n_folds: int) -> np.ndarray:
    """Start and end of every repeat, or of every block of trials that have no repeats, (R, 2)."""
    if source not in data.keys():
        raise RecordingError(f"recording {name}: has no {source!r} to make folds of")
    table = getattr(data, source)
    if is_series(table):
        times = sample_times(table)
        edges = np.linspace(times[0], times[-1], _BLOCKS_A_FOLD * n_folds + 1)
        return np.stack([edges[:-1], edges[1:]], axis=1)
    start, end = np.asarray(table.start, float), np.asarray(table.end, float)
    if "repeat" in table.keys():
        repeat = np.asarray(table.repeat)
        return np.array([[start[repeat == r].min(), end[repeat == r].max()] for r in np.unique(repeat)])
    blocks = np.array_split(np.argsort(start), min(_BLOCKS_A_FOLD * n_folds, max(len(start), 1)))
    # Blocks meet midway between trials, so that there is room for windows around the outer ones.
    middle = [(end[a].max() + start[b].min()) / 2 for a, b in pairwise(blocks)]
    edges = np.r_[start.min(initial=np.inf), middle, end.max(initial=-np.inf)]
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _without(times: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """``times`` minus ``removed``, which is merged, (R, 2)."""
    edges = np.r_[-np.inf, removed.reshape(-1), np.inf].reshape(-1, 2)
    return intersect_intervals(times, edges)
