"""What recordings hold: how much time, how many neurons, which splits, stimuli and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from poyo_ssl_plugin.compat import Data, Interval
from poyo_ssl_plugin.data.check import examine_recordings
from poyo_ssl_plugin.data.dataset import Recordings
from poyo_ssl_plugin.data.splits import PARTS
from poyo_ssl_plugin.data.supported import tasks_of
from poyo_ssl_plugin.data.transforms import activity_field
from poyo_ssl_plugin.errors import PoyoSSLError, RecordingError
from poyo_ssl_plugin.recordings import TraceSignal, merge_intervals, open_signal, recording_errors, split_intervals


@dataclass(frozen=True)
class Inventory:
    """What a recording holds.

    Attributes:
        recording: Its id.
        minutes: How long it is, without gaps.
        rate: Samples of the traces a second, in Hz; ``None`` for spikes.
        n_units: Number of neurons.
        splits: Minutes by split.
        domains: Minutes by the other domains, such as those of stimuli.
        stimuli: Number of presentations, trials or other labelled intervals, by name.
        tasks: What can be decoded.
    """

    recording: str
    minutes: float
    rate: float | None
    n_units: int
    splits: Mapping[str, float]
    domains: Mapping[str, float]
    stimuli: Mapping[str, int]
    tasks: tuple[str, ...]

    def row(self) -> tuple[str, ...]:
        """The attributes as texts."""
        rate = "spikes" if self.rate is None else f"{self.rate:g}"
        times = (", ".join(f"{name} {t:.1f}" for name, t in kind.items()) for kind in (self.splits, self.domains))
        stimuli = ", ".join(f"{name} ({n})" for name, n in self.stimuli.items())
        counts = (f"{self.minutes:.1f}", rate, str(self.n_units))
        return self.recording, *counts, *times, stimuli, ", ".join(self.tasks)


def take_inventory(
    dataset: Recordings, *, field: str | None = None, timeout: float | None = None
) -> tuple[list[Inventory], dict[str, str]]:
    """What the recordings hold, and by id what is wrong with those that cannot be used.

    Args:
        dataset: The recordings.
        field: The activity; by default traces where there are any, else spikes.
        timeout: As :func:`~poyo_ssl_plugin.data.check.examine_recordings`.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin.data import simulate
        >>> folder = simulate(tempfile.mkdtemp(), n_recordings=1, n_units=12, minutes=4)
        >>> (held,), damaged = take_inventory(Recordings(folder))
        >>> held.n_units, held.rate, held.tasks[0], damaged
        (12, 30.0, 'drifting_gratings', {})
    """
    held, damaged = [], {}
    for name, error in examine_recordings(dataset, field=field, timeout=timeout):
        try:
            if error is not None:
                raise error
            with recording_errors(name):
                held.append(_inventory(dataset.get_recording(name), name, field))
        except PoyoSSLError as found:
            damaged[name] = str(found)
    return held, damaged


def _inventory(data: Data, name: str, field: str | None) -> Inventory:
    signal = open_signal(data, field or activity_field(data))
    rate = signal.clock.rate if isinstance(signal, TraceSignal) else None
    if rate is not None and rate < 1:
        raise RecordingError(
            f"has {rate:g} samples a second; if that is the time between samples, in s, write the rate, {1 / rate:g} Hz"
        )
    intervals = {key: getattr(data, key) for key in data.keys() if isinstance(getattr(data, key), Interval)}
    times = {
        key.removesuffix("_domain"): _minutes(split_intervals(data, key.removesuffix("_domain")))
        for key, found in intervals.items()
        if key.endswith("_domain") and len(found.start)
    }
    splits = {key: minutes for key, minutes in times.items() if key.endswith(PARTS)}
    if not splits:
        raise RecordingError("has no splits (train_domain, valid_domain, test_domain); prepare or import it with them")
    return Inventory(
        name,
        _minutes(split_intervals(data, None)),
        rate,
        len(signal.unit_ids),
        splits,
        {key: minutes for key, minutes in times.items() if key not in splits},
        {key: len(found.start) for key, found in intervals.items() if not key.endswith("domain")},
        tuple(task.name for task in tasks_of(data)),
    )


def _minutes(intervals: np.ndarray) -> float:
    merged = merge_intervals(intervals)
    return float((merged[:, 1] - merged[:, 0]).sum()) / 60
