"""Which tasks a recording supports: named ones, and those that its labelled columns let a user declare."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from poyo_ssl_plugin.compat import Data
from poyo_ssl_plugin.data.dataset import Recordings
from poyo_ssl_plugin.data.series import is_series, is_timed
from poyo_ssl_plugin.data.splits import PARTS, recorded_split
from poyo_ssl_plugin.data.tasks import MOST_CLASSES, TASKS, Kind, Task, fit_task, plain_labels
from poyo_ssl_plugin.data.trials import find_trials
from poyo_ssl_plugin.errors import PoyoSSLError
from poyo_ssl_plugin.recordings import SPIKES, TRACES


def tasks_of(data: Data) -> list[Task]:
    """The tasks that a recording supports: named ones first, then those that its other columns let declare.

    Args:
        data: A recording.

    Example:
        >>> from poyo_ssl_plugin.compat import Data, Interval
        >>> trials = Interval(start=np.arange(4.0), end=np.arange(4.0) + 1, side=np.array(["l", "r", "l", "r"]))
        >>> [(task.name, task.source, task.kind) for task in tasks_of(Data(trials=trials, domain=trials))]
        [('side', 'trials', 'classification')]
    """
    named = [task for task in TASKS.values() if _supports(data, task)]
    taken = {(task.source, column) for task in named for column in task.columns}
    found = list(named)
    for source, column, kind in _label_columns(data):
        if (source, column) not in taken:
            names = {task.name for task in found} | TASKS.keys()
            name = column if column not in names else f"{source}_{column}"
            found.append(Task(name, source, column, kind))
    return found


def obstacles(dataset: Recordings) -> list[str]:
    """Why tasks of the recordings cannot be trained on their recorded splits, as fine-tuning would say it.

    Args:
        dataset: The recordings, all readable.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin.data import Recordings, simulate
        >>> obstacles(Recordings(simulate(tempfile.mkdtemp(), n_recordings=1, n_units=4, minutes=4)))
        []
    """
    recordings = {name: dataset.get_recording(name) for name in dataset.recording_ids}
    found = []
    for task in dict.fromkeys(task for data in recordings.values() for task in tasks_of(data)):
        having = {name: data for name, data in recordings.items() if _supports(data, task)}
        try:
            split = recorded_split(dataset)
            fitted = fit_task(task, dataset, {name: split["train"][name] for name in having})
            for part in PARTS:
                for name, data in having.items():
                    find_trials(data, fitted, None, split[part][name])
        except PoyoSSLError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def _supports(data: Data, task: Task) -> bool:
    return task.source in data.keys() and set(task.columns) <= set(getattr(data, task.source).keys())


def _label_columns(data: Data) -> Iterator[tuple[str, str, Kind]]:
    """Source, column and kind of everything that looks like a label."""
    activity = {SPIKES, TRACES.partition(".")[0], "domain", "units", "rois"}
    tables = {str(source): getattr(data, source) for source in data.keys()}
    timed = {source: table for source, table in tables.items() if is_timed(table)}
    for source in sorted(timed, key=lambda source: (is_series(timed[source]), source)):
        table = timed[source]
        if source in activity or source.endswith("_domain") or "unit_index" in table.keys():
            continue
        for column in table.keys():
            if column not in ("start", "end", "timestamps", "repeat"):
                kind = _kind(np.asarray(getattr(table, column)), is_series(table))
                if kind is not None:
                    yield source, column, kind


def _kind(column: np.ndarray, series: bool) -> Kind | None:
    """What a column can be a task of: few values are classes, real numbers a regression."""
    if series:
        return "regression" if column.dtype.kind == "f" and np.isfinite(column).any() else None
    if column.ndim != 1 or column.dtype.kind not in "iubfSUO":
        return None
    n_labels = len(np.unique(plain_labels(column)))
    if 2 <= n_labels <= min(len(column) / 2, MOST_CLASSES):
        return "classification"
    return "regression" if column.dtype.kind == "f" and n_labels > 2 else None
