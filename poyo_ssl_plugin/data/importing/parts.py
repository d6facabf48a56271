"""Which time is for training, validation and the test, decided when a recording is imported."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from poyo_ssl_plugin.data.importing.csv_table import Table
from poyo_ssl_plugin.data.splits import PARTS
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.recordings import intersect_intervals

FRACTIONS = (0.7, 0.1, 0.2)


def split_recording(split: str | Sequence[float], domain: np.ndarray, trials: Table | None) -> dict[str, np.ndarray]:
    """Times of ``"train"``, ``"valid"`` and ``"test"``, (R, 2) each.

    Trials are never cut: where two that follow each other are in different parts, the parts meet midway between
    them. Without trials time itself is cut.

    Args:
        split: Three fractions that add up to 1, also as ``"0.7,0.1,0.2"``, for the first, next and last part of the
            recording; ``"blocks"`` or ``"blocks:N"`` for 70, 10 and 20 % of each of N (10) blocks of it; or the name
            of a column of the trials that says train, valid or test.
        domain: Times of the recording, (R, 2), disjoint and in order.
        trials: Its trials, sorted and disjoint.

    Raises:
        RecordingError: If the split does not fit, or leaves nothing for training or for the test.

    Example:
        >>> parts = split_recording("0.5,0.25,0.25", np.array([[0.0, 8.0]]), None)
        >>> {part: times.tolist() for part, times in parts.items()}
        {'train': [[0.0, 4.0]], 'valid': [[4.0, 6.0]], 'test': [[6.0, 8.0]]}
    """
    if trials is not None and isinstance(split, str) and split in trials.columns:
        of_trial = _from_column(trials, split)
    else:
        fractions, n_blocks = _parsed(split, trials)
        n = len(trials) if trials is not None else len(domain) if len(domain) > 1 else 0
        if n == 0:
            return _refuse_empty(split, _cut_time(domain, fractions, n_blocks))
        of_trial = _ranked(n, fractions, n_blocks)
    times = domain
    if trials is not None:
        times = np.stack([trials.columns["start"], trials.columns["end"]], axis=1)
    edges = np.r_[-np.inf, (times[:-1, 1] + times[1:, 0]) / 2, np.inf]
    around = np.stack([edges[:-1], edges[1:]], axis=1)
    return _refuse_empty(split, {part: _within(domain, around[of_trial == i]) for i, part in enumerate(PARTS)})


def _parsed(split: str | Sequence[float], trials: Table | None) -> tuple[np.ndarray, int]:
    """Fractions of the parts and number of blocks."""
    blocks = re.fullmatch(r"blocks(?::(\d{1,6}))?", split) if isinstance(split, str) else None
    if blocks:
        n_blocks = int(blocks[1] or 10)
        if n_blocks < 1:
            raise RecordingError(f"split {split!r}: give at least one block")
        return np.array(FRACTIONS), n_blocks
    try:
        fractions = np.array([float(f) for f in (split.split(",") if isinstance(split, str) else split)])
    except ValueError:
        columns = ", ".join(trials.columns) if trials is not None else "no trials"
        raise RecordingError(
            f"split {split!r} is not three fractions (0.7,0.1,0.2), blocks or a column of the trials ({columns})"
        ) from None
    if len(fractions) != 3 or not (fractions >= 0).all() or abs(fractions.sum() - 1) > 1e-6:
        raise RecordingError(f"split {split!r}: give three fractions for train, valid and test that add up to 1")
    return fractions, 1


def _ranked(n: int, fractions: np.ndarray, n_blocks: int) -> np.ndarray:
    """The part of each of n trials, by its place within its block."""
    place = np.concatenate(
        [(np.arange(len(b)) + 0.5) / len(b) for b in np.array_split(np.arange(n), n_blocks) if len(b)]
    )
    return np.minimum(np.searchsorted(np.cumsum(fractions) + 1e-9, place), 2)


def _from_column(trials: Table, column: str) -> np.ndarray:
    names = np.array([str(value).strip().lower() for value in trials.columns[column].tolist()])
    trials.check(~np.isin(names, PARTS), column, f"must be {', '.join(PARTS)}")
    return np.array([PARTS.index(name) for name in names])


def _cut_time(domain: np.ndarray, fractions: np.ndarray, n_blocks: int) -> dict[str, np.ndarray]:
    edges = np.linspace(domain[0, 0], domain[-1, 1], n_blocks + 1)
    cuts = edges[:-1, None] + np.diff(edges)[:, None] * np.r_[0, np.cumsum(fractions)[:2], 1]
    return {part: _within(domain, cuts[:, i : i + 2]) for i, part in enumerate(PARTS)}


def _within(domain: np.ndarray, times: np.ndarray) -> np.ndarray:
    return intersect_intervals(domain, times) if len(times) else np.empty((0, 2))


def _refuse_empty(split: str | Sequence[float], parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for part in ("train", "test"):
        if len(parts[part]) == 0:
            raise RecordingError(f"split {split!r} leaves nothing for {part}; choose other fractions or fewer blocks")
    return parts
