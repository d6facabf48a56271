"""Trials of a task, the windows around them, and what a window is asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from poyo_ssl_plugin.compat import Data, DatasetIndex
from poyo_ssl_plugin.data.series import Series, Timed, interpolate, is_series
from poyo_ssl_plugin.data.tasks import IGNORED, Task, refuse_missing_labels
from poyo_ssl_plugin.data.windows import WindowIndex
from poyo_ssl_plugin.errors import RecipeError, RecordingError
from poyo_ssl_plugin.recordings import recording_id, split_intervals

logger = logging.getLogger(__name__)

# A trial may stick out of its split by this much: splits end on imaging frames, trials on stimulus frames.
_TOLERANCE = 0.05
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Trials:
    """Trials of one recording: moments that have one label each.

    Attributes:
        start: Start times in seconds, (R,).
        end: End times in seconds, (R,).
        label: Classes, int64 (R,), or standardized targets of a regression, float32 (R, D).
        bounds: Start and end of the split interval that each trial lies in, (R, 2).

    Example:
        >>> trials = Trials(
        ...     start=np.array([0.0, 2.0]), end=np.array([1.0, 4.0]), label=np.array([0, 1]),
        ...     bounds=np.array([[0.0, 4.0], [0.0, 4.0]]),
        ... )
        >>> trials.centre.tolist(), len(trials[trials.label == 1])
        ([0.5, 3.0], 1)
    """

    start: np.ndarray
    end: np.ndarray
    label: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: np.ndarray) -> Trials:
        """Some of the trials, by number or by a boolean (R,)."""
        return Trials(self.start[rows], self.end[rows], self.label[rows], self.bounds[rows])

    def without(self, centre: np.ndarray) -> Trials:
        """All trials but those with these centres in seconds, (K,)."""
        return self[~np.isclose(self.centre[:, None], centre, rtol=0, atol=1e-6).any(axis=1)]

    def joined(self, other: Trials) -> Trials:
        """These trials and others."""
        names = ("start", "end", "label", "bounds")
        return Trials(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))

    @property
    def centre(self) -> np.ndarray:
        """Middle of every trial, in seconds, (R,)."""
        return (self.start + self.end) / 2

    def first_of_each_class(self, fraction: float) -> Trials:
        """The earliest trials of every class, ``fraction`` of them and at least one: as if fewer had been recorded.

        Args:
            fraction: Fraction of the trials to keep, in (0, 1]. The targets of a regression count as one class.

        Raises:
            RecipeError: If it is not.

        Example:
            >>> times, bounds = np.arange(6.0), np.tile([0.0, 6.0], (6, 1))
            >>> trials = Trials(times, times + 1, np.array([0, 1, 0, 1, 0, 1]), bounds)
            >>> trials.first_of_each_class(0.5).start.tolist()
            [0.0, 1.0, 2.0, 3.0]
        """
        if not 0 < fraction <= 1:
            raise RecipeError(f"label_fraction must be in (0, 1], not {fraction}")
        label = self.label if self.label.ndim == 1 else np.zeros(len(self), int)
        order = np.lexsort((self.start, label))
        _, first, counts = np.unique(label[order], return_index=True, return_counts=True)
        rank = np.arange(len(order)) - np.repeat(first, counts)
        # Rounded up, but not by what floating point adds to a whole number.
        kept = np.maximum(np.ceil(fraction * counts - 1e-9), 1)
        return self[np.sort(order[rank < np.repeat(kept, counts)])]

    def that_fit(self, window_length: float, delay: float = 0.0) -> Trials:
        """The trials around whose middle a window fits into their part of the split.

        A window that was moved to fit would tell by its offset which trial it is of, and one that was not would
        show a neighbouring part. Where trials and splits end a few frames apart, a middle may move by 0.05 s.

        Args:
            window_length: Length of a window in seconds.
            delay: Seconds from the moment that is decoded to the middle of its window.
        """
        low, high = self.moments(window_length, delay)
        moved = np.abs(np.clip(self.centre, low, np.maximum(low, high)) - self.centre)
        return self[(high - low >= -_ROUNDING) & (moved <= _TOLERANCE)]

    def moments(self, window_length: float, delay: float) -> tuple[np.ndarray, np.ndarray]:
        """First and last moment of every trial's part that can be in the middle of a window, (R,) each."""
        margin = window_length / 2
        return self.bounds[:, 0] + margin - delay, self.bounds[:, 1] - margin - delay


def find_trials(data: Data, task: Task, split: str | None, intervals: np.ndarray | None = None) -> Trials:
    """Trials of a task that lie wholly in a split.

    A time series has no trials; its split is cut into pieces of ``task.step`` seconds, each with the value in
    its middle. Pieces without a value there are left out.

    Args:
        data: The recording.
        task: The task, fitted (:func:`~poyo_ssl_plugin.data.fit_task`).
        split: Name of the split.
        intervals: Times (R, 2) to use instead of the split's.

    Raises:
        RecordingError: If the recording lacks the labels or the split, or has a label that training has not.

    Example:
        >>> from poyo_ssl_plugin.data import get_task
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays
        >>> turns = {"start": [0.0, 4.0, 8.0], "end": [3.0, 7.0, 9.0], "turn": ["left", "right", "left"]}
        >>> data = recording_from_arrays(np.zeros((100, 4)), recording="mouse1", sampling_rate=10.0, trials=turns)
        >>> task = get_task({"name": "turn", "source": "trials", "label": "turn", "classes": ["left", "right"]})
        >>> find_trials(data, task, None).label.tolist()  # None: in all time of the recording
        [0, 1, 0]
        >>> find_trials(data, task, None, np.array([[0.0, 7.5]])).centre.tolist()
        [1.5, 5.5]
    """
    table = task.table(data)
    times = split_intervals(data, split) if intervals is None else np.asarray(intervals, float)
    if is_series(table):
        return _pieces(table, task, times)
    start, end = np.asarray(table.start, float), np.asarray(table.end, float)
    label = task.labels(table)
    first = last = np.arange(len(start))
    if task.labels_per_class > 1:
        # Presentations of one class that follow each other without a gap are one trial.
        new = np.r_[True, (label[1:] != label[:-1]) | (start[1:] > end[:-1] + _TOLERANCE)][: len(label)]
        first = np.flatnonzero(new)
        last = np.r_[first[1:], len(label)] - 1
    start, end, label = start[first], end[last], label[first]
    inside = (start[:, None] >= times[:, 0] - _TOLERANCE) & (end[:, None] <= times[:, 1] + _TOLERANCE)
    keep = inside.any(axis=1)
    keep &= np.isfinite(label).all(axis=1) if label.ndim == 2 else True
    _refuse_unknown(task, data, table, first[keep], label[keep])
    bounds = times[inside[keep].argmax(axis=1)] if keep.any() else np.empty((0, 2))
    return Trials(start[keep], end[keep], label[keep], bounds)


def _pieces(series: Series, task: Task, times: np.ndarray) -> Trials:
    """A time series cut into pieces of one step each."""
    n = np.floor((times[:, 1] - times[:, 0]) / task.step + _ROUNDING).astype(int)
    of = np.repeat(np.arange(len(times)), n)
    place = np.arange(len(of)) - np.repeat(np.cumsum(n) - n, n)
    start = times[of, 0] + place * task.step
    label = task.standardize(interpolate(series, task.raw_labels(series), start + task.step / 2))
    pieces = Trials(start, start + task.step, label, times[of])
    return pieces[np.isfinite(label).all(axis=1)]


def _refuse_unknown(task: Task, data: Data, table: Timed, rows: np.ndarray, label: np.ndarray) -> None:
    if task.kind == "regression" or not (label == IGNORED).any():
        return
    refuse_missing_labels(task, data, task.raw_labels(table)[rows])
    row = int(rows[label == IGNORED][0])
    value = task.raw_labels(table)[row].item()
    classes = ", ".join(map(str, task.classes[:8])) + (", ..." if len(task.classes) > 8 else "")
    raise RecordingError(
        f"recording {recording_id(data)}: row {row} of {task.source} has the {task.columns[0]} {value!r}, which is not "
        f"among the classes of the task {task.name!r} in training ({classes}); leave those trials out or split the "
        "recording otherwise"
    )


class TrialSampler(torch.utils.data.Sampler[DatasetIndex]):
    """One window per trial, its middle on a moment of the trial, inside the trial's part of the split.

    A trial around whose middle no window fits is left out, of training as of the test; the log says how many.

    Args:
        trials: Recording id to its trials.
        window_length: Length of a window in seconds.
        jitter: Draw the moment uniformly from the trial (and shuffle) instead of its centre.
        generator: Source of randomness; torch's global generator by default.
        repeats: Windows per trial and epoch.
        delay: Seconds from the moment to the middle of its window: the latency of the response.

    Raises:
        RecordingError: If no recording has a trial that a window fits around.

    Example:
        >>> trials = Trials(np.array([4.0]), np.array([6.0]), np.array([3]), np.array([[0.0, 10.0]]))
        >>> [(w.start, w.end, w.target_time) for w in TrialSampler({"a": trials}, window_length=2.0)]
        [(4.0, 6.0, 5.0)]
    """

    def __init__(
        self,
        trials: Mapping[str, Trials],
        *,
        window_length: float,
        jitter: bool = False,
        generator: torch.Generator | None = None,
        repeats: int = 1,
        delay: float = 0.0,
    ) -> None:
        self.window_length = window_length
        self.delay = delay
        self.jitter = jitter
        self.generator = generator
        self.repeats = repeats
        kept = {name: of.that_fit(window_length, delay) for name, of in trials.items()}
        self.recording = np.repeat(np.array(list(kept), dtype=str), [len(of) for of in kept.values()])
        columns = [np.column_stack([of.start, of.end, *of.moments(window_length, delay)]) for of in kept.values()]
        self.times = np.concatenate(columns or [np.empty((0, 4))])
        n_trials = sum(map(len, trials.values()))
        if len(self.times) == 0:
            raise RecordingError(
                f"no trial to sample: of {n_trials} trials in {len(trials)} recordings none has room for a window of "
                f"{window_length:g} s around its middle in its part of the split; choose a shorter window"
            )
        if len(self.times) < n_trials:
            logger.info(
                "%d of %d trials are left out: a window of %g s around their middle does not fit into their part of "
                "the split",
                n_trials - len(self.times),
                n_trials,
                window_length,
            )

    def __len__(self) -> int:
        return len(self.times) * self.repeats

    def __iter__(self) -> Iterator[WindowIndex]:
        seed = int(torch.randint(2**62, (1,), generator=self.generator).item())
        rng = np.random.default_rng(seed)
        rows = np.tile(np.arange(len(self.times)), self.repeats)
        rows = rng.permutation(rows) if self.jitter else rows
        start, end, low, high = self.times[rows].T
        moment = (start + end) / 2
        if self.jitter:
            edge = 0.02 * (end - start)
            first, last = np.maximum(start + edge, low), np.minimum(end - edge, high)
            moment = np.where(last > first, first + (last - first) * rng.uniform(size=len(rows)), moment)
        moment = np.clip(moment, low, np.maximum(low, high))
        begin = moment + self.delay - self.window_length / 2
        seeds = rng.integers(2**63, size=len(rows))
        for row, t, m, s in zip(rows.tolist(), begin.tolist(), moment.tolist(), seeds.tolist(), strict=True):
            name = str(self.recording[row])
            yield WindowIndex(name, t, t + self.window_length, seed=s, target_time=m)


def find_targets(data: Data, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Moments of a window that have a label, and their targets.

    A window with a target time has this one; else every presentation whose middle is inside counts, and every
    step of a time series.

    Args:
        data: A window.
        task: The task, fitted.

    Returns:
        Times in seconds from the start of the window, float32 (K,), and classes, int64 (K,), or standardized
        targets, float32 (K, D), NaN where unknown.

    Example:
        >>> from poyo_ssl_plugin.data import get_task
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays
        >>> turns = {"start": [0.0, 4.0, 8.0], "end": [3.0, 7.0, 9.0], "turn": ["left", "right", "left"]}
        >>> data = recording_from_arrays(np.zeros((100, 4)), recording="mouse1", sampling_rate=10.0, trials=turns)
        >>> task = get_task({"name": "turn", "source": "trials", "label": "turn", "classes": ["left", "right"]})
        >>> times, classes = find_targets(data.slice(4.0, 7.0), task)
        >>> times.tolist(), classes.tolist()  # 1.5 s after the start of this window the mouse turned right
        ([1.5], [1])
    """
    moment = getattr(data, "window_target_time", None)
    table = getattr(data, task.source) if task.source in data.keys() else None
    if table is None or (len(table) == 0 and not is_series(table)):
        return np.empty(0, np.float32), np.empty(0, np.int64)
    times = None if moment is None else np.array([moment - data.absolute_start])
    shuffled = getattr(data, "window_target_label", None)
    if times is not None and shuffled is not None:
        return times.astype(np.float32), shuffled
    if is_series(table):
        if times is None:
            length = float(data.domain.end[-1])
            times = (np.arange(max(int(length / task.step), 1)) + 0.5) * min(task.step, length)
        return times.astype(np.float32), task.standardize(interpolate(table, task.raw_labels(table), times))
    start, end = np.asarray(table.start, float), np.asarray(table.end, float)
    centre, labels = (start + end) / 2, task.labels(table)
    if times is not None:
        row = int(np.argmin(np.abs(centre - times) - (end - start) / 2))
        return times.astype(np.float32), labels[row : row + 1]
    inside = (centre >= 0) & (centre < data.domain.end[-1])
    return centre[inside].astype(np.float32), labels[inside]
