"""What is decoded: labelled moments of a stimulus, and the queries that ask for them in a window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from poyo_ssl_plugin.compat import DatasetIndex
from poyo_ssl_plugin.data.windows import WindowIndex
from poyo_ssl_plugin.errors import RecipeError, RecordingError
from poyo_ssl_plugin.recordings import recording_id, split_intervals

# A trial may stick out of its split by this much: splits end on imaging frames, trials on stimulus frames.
_TOLERANCE = 0.05
IGNORED = -100


@dataclass(frozen=True)
class Task:
    """A classification task on labelled presentations of a stimulus.

    Attributes:
        name: Name of the task and of the model's readout.
        source: Intervals of the recording that hold the presentations.
        label: Their column with the label.
        n_classes: Number of classes; chance is one over it.
        trial: Length in seconds of the moment that has one label, for tests and sampling.
        labels_per_class: Consecutive values of ``label`` that make one class (30 movie frames a second).
        class_names: How to print the classes.
    """

    name: str
    source: str
    label: str
    n_classes: int
    trial: float
    labels_per_class: int = 1
    class_names: tuple[str, ...] = field(default=(), compare=False)

    def labels(self, presentations: Any) -> np.ndarray:
        """Class of every presentation, int64 (R,)."""
        return np.asarray(getattr(presentations, self.label), np.int64) // self.labels_per_class


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "drifting_gratings",
            source="drifting_gratings",
            label="orientation_id",
            n_classes=8,
            trial=2.0,
            class_names=tuple(f"{45 * i} deg" for i in range(8)),
        ),
        Task(
            "natural_movie",
            source="natural_movie_one",
            label="frame",
            n_classes=30,
            trial=1.0,
            labels_per_class=30,
            class_names=tuple(f"second {i}" for i in range(30)),
        ),
    )
}


def get_task(name: str) -> Task:
    """A task by name.

    Raises:
        RecipeError: If there is none of that name.
    """
    if name not in TASKS:
        raise RecipeError(f"unknown task {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name]


@dataclass(frozen=True)
class Trials:
    """Trials of one recording: contiguous runs of presentations of one class.

    Attributes:
        start: Start times in seconds, (R,).
        end: End times in seconds, (R,).
        label: Classes, int64 (R,).
        bounds: Start and end of the split interval that each trial lies in, (R, 2).
    """

    start: np.ndarray
    end: np.ndarray
    label: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def first_of_each_class(self, fraction: float) -> Trials:
        """The earliest trials of every class, ``fraction`` of them and at least one: as if fewer had been recorded.

        Args:
            fraction: Fraction of the trials to keep, in (0, 1].

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
        order = np.lexsort((self.start, self.label))
        _, first, counts = np.unique(self.label[order], return_index=True, return_counts=True)
        rank = np.arange(len(order)) - np.repeat(first, counts)
        # Rounded up, but not by what floating point adds to a whole number.
        kept = np.maximum(np.ceil(fraction * counts - 1e-9), 1)
        rows = np.sort(order[rank < np.repeat(kept, counts)])
        return self.rows(rows)

    def rows(self, rows: np.ndarray, label: np.ndarray | None = None) -> Trials:
        """Some of the trials, with other labels if given."""
        return Trials(self.start[rows], self.end[rows], self.label[rows] if label is None else label, self.bounds[rows])

    def without(self, centre: np.ndarray) -> Trials:
        """All trials but those with these centres in seconds, (K,)."""
        return self.rows(np.flatnonzero(~np.isclose(self.centre[:, None], centre, rtol=0, atol=1e-6).any(axis=1)))

    def joined(self, other: Trials) -> Trials:
        """These trials and others."""
        names = ("start", "end", "label", "bounds")
        return Trials(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))

    @property
    def centre(self) -> np.ndarray:
        """Middle of every trial, in seconds, (R,)."""
        return (self.start + self.end) / 2


def find_trials(data: Any, task: Task, split: str | None, intervals: np.ndarray | None = None) -> Trials:
    """Trials of a task that lie wholly in a split.

    Args:
        data: The recording.
        task: The task.
        split: Name of the split.
        intervals: Times (R, 2) to use instead of the split's.

    Raises:
        RecordingError: If the recording lacks the stimulus or the split.
    """
    if task.source not in data.keys():
        raise RecordingError(
            f"recording {recording_id(data)}: has no {task.source!r}, which the task {task.name!r} decodes"
        )
    presentations = getattr(data, task.source)
    start, end = np.asarray(presentations.start, float), np.asarray(presentations.end, float)
    label = task.labels(presentations)
    # Presentations of one class that follow each other without a gap are one trial.
    new = np.r_[True, (label[1:] != label[:-1]) | (start[1:] > end[:-1] + _TOLERANCE) | (task.labels_per_class == 1)]
    first = np.flatnonzero(new[: len(label)])
    last = np.r_[first[1:], len(label)] - 1
    start, end, label = start[first], end[last], label[first]
    times = split_intervals(data, split) if intervals is None else np.asarray(intervals, float)
    inside = (start[:, None] >= times[:, 0] - _TOLERANCE) & (end[:, None] <= times[:, 1] + _TOLERANCE)
    keep = inside.any(axis=1)
    return Trials(start[keep], end[keep], label[keep], times[inside.argmax(axis=1)][keep])


class TrialSampler(torch.utils.data.Sampler[DatasetIndex]):
    """One window per trial, around a moment of it that is to be decoded, inside the trial's split.

    Args:
        trials: Recording id to its trials.
        window_length: Length of a window in seconds.
        jitter: Draw the moment uniformly from the trial (and shuffle) instead of its centre.
        generator: Source of randomness; torch's global generator by default.
        repeats: Windows per trial and epoch.
        delay: Seconds from the moment to the middle of its window: the latency of the response.

    Raises:
        RecordingError: If no recording has a trial, or a window is longer than every split interval.

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
        fits = {
            name: recording.bounds[:, 1] - recording.bounds[:, 0] >= window_length - _TOLERANCE
            for name, recording in trials.items()
        }
        self.recording = np.concatenate(
            [np.full(int(fit.sum()), name) for name, fit in fits.items()] or [np.empty(0, dtype=str)]
        )
        columns = [
            np.column_stack([recording.start, recording.end, recording.bounds])[fits[name]]
            for name, recording in trials.items()
        ]
        self.times = np.concatenate(columns or [np.empty((0, 4))])
        if len(self.times) == 0:
            raise RecordingError(
                f"no trial to sample: {sum(map(len, trials.values()))} trials in {len(trials)} recordings, and "
                f"none of their split intervals holds a window of {window_length} s; choose a shorter window"
            )

    def __len__(self) -> int:
        return len(self.times) * self.repeats

    def __iter__(self) -> Iterator[WindowIndex]:
        seed = int(torch.randint(2**62, (1,), generator=self.generator).item())
        rng = np.random.default_rng(seed)
        rows = np.tile(np.arange(len(self.times)), self.repeats)
        rows = rng.permutation(rows) if self.jitter else rows
        start, end, low, high = self.times[rows].T
        moment = start + (end - start) * (rng.uniform(0.02, 0.98, len(rows)) if self.jitter else 0.5)
        first = moment + self.delay - self.window_length / 2
        first = np.clip(first, low, np.maximum(low, high - self.window_length))
        seeds = rng.integers(2**63, size=len(rows))
        for row, t, m, s in zip(rows.tolist(), first.tolist(), moment.tolist(), seeds.tolist(), strict=True):
            name = str(self.recording[row])
            yield WindowIndex(name, t, t + self.window_length, seed=s, target_time=m)


def find_targets(data: Any, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Moments of a window that have a label, and their classes.

    A window with a target time has this one; else every presentation whose middle is inside counts.

    Args:
        data: A window.
        task: The task.

    Returns:
        Times in seconds from the start of the window, float32 (K,), and classes, int64 (K,).
    """
    if task.source not in data.keys() or len(getattr(data, task.source).start) == 0:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    presentations = getattr(data, task.source)
    start, end = np.asarray(presentations.start, float), np.asarray(presentations.end, float)
    labels = task.labels(presentations)
    moment = getattr(data, "window_target_time", None)
    if moment is not None:
        time = moment - data.absolute_start
        row = int(np.argmin(np.abs((start + end) / 2 - time) - (end - start) / 2))
        return np.array([time], np.float32), labels[row : row + 1]
    centre = (start + end) / 2
    inside = (centre >= 0) & (centre < data.domain.end[-1])
    return centre[inside].astype(np.float32), labels[inside]
