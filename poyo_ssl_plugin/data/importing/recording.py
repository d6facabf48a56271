"""A brainsets recording from arrays: checked once, here, so that all later steps can trust it."""

from __future__ import annotations

import datetime
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from poyo_ssl_plugin import compat
from poyo_ssl_plugin.compat import ArrayDict, Data, Interval, IrregularTimeSeries, RegularTimeSeries
from poyo_ssl_plugin.data.importing.csv_table import Columns, Table
from poyo_ssl_plugin.data.importing.parts import FRACTIONS, split_recording
from poyo_ssl_plugin.errors import OutputError, RecordingError
from poyo_ssl_plugin.files import atomic_path
from poyo_ssl_plugin.recordings import refuse_duplicates

logger = logging.getLogger(__name__)

# brainsets wants a date of every session.
_LONG_AGO = datetime.datetime(1970, 1, 1)

# Rates outside are not in Hz: 0.033 is a period in seconds.
_RATES = (0.5, 2000.0)
# A series this many times as long as the recording is not in seconds.
_LONGEST_SERIES = 20
_RESERVED = {"session", "subject", "brainset", "rois", "units", "trials", "calcium_traces", "spikes", "domain"}


def recording_from_arrays(
    traces: np.ndarray,
    *,
    recording: str,
    sampling_rate: float,
    trials: Columns | None = None,
    series: Mapping[str, Columns] | None = None,
    split: str | Sequence[float] = FRACTIONS,
    unit_ids: Sequence[str] | np.ndarray | None = None,
    subject: str | None = None,
    cre_line: str = "",
    start: float = 0.0,
) -> Data:
    """A recording of your own that torch_brain reads like any prepared one.

    Args:
        traces: dF/F, (T, N). Trials that were cut out are (R, T, N): they are laid side by side on one time axis, with
            a domain interval each, which no window crosses.
        recording: Id of the recording and name of its file.
        sampling_rate: In Hz.
        trials: Columns ``start`` and ``end`` in seconds, and labels: a mapping of arrays or a DataFrame. They become
            the intervals ``trials``. For (R, T, N) one row per trial, with times from the first sample of the trial.
        series: Name to columns ``time`` (seconds, increasing) and values, such as running speed.
        split: Three fractions of the recording for training, validation and test; ``"blocks:N"`` for 70, 10 and 20 %
            of each of N blocks of it; or the column of the trials that says train, valid or test.
        unit_ids: Ids of the neurons within the recording, (N,); by default their numbers. The file has them
            behind the id of the recording, so that no two recordings share one.
        subject: Id of the animal; by default the recording's.
        cre_line: Its Cre line, for diets by Cre line.
        start: Time of the first sample in seconds, on the clock of trials and series.

    Raises:
        RecordingError: If something does not fit; it names the table, column and row.

    Example:
        >>> trials = {"start": [0.0, 4.0, 8.0], "end": [3.0, 7.0, 10.0], "direction": ["left", "right", "left"]}
        >>> data = recording_from_arrays(
        ...     np.random.default_rng(0).normal(size=(100, 4)), recording="mouse1", sampling_rate=10.0, trials=trials,
        ...     split="0.4,0.3,0.3",
        ... )
        >>> data.trials.direction.tolist(), data.train_domain.end.tolist(), data.rois.id.tolist()[:2]
        (['left', 'right', 'left'], [3.5], ['mouse1/0', 'mouse1/1'])
    """
    _check_names(recording, subject)
    values = _checked_traces(recording, traces)
    rate = _checked_rate(recording, sampling_rate)
    ids = _checked_ids(recording, unit_ids, values.shape[-1])
    domain = _domain(values, rate, float(start))
    table = None
    if trials is not None:
        table = Table.of("trials", trials)
        n_cut = len(values) if values.ndim == 3 else None
        swapped = table.numbers("end").max(initial=0.0) <= values.shape[-1] / rate
        table = _checked_trials(table, domain, 0.5 / rate, n_cut, f" at {rate:g} Hz", swapped)
    flat = np.ascontiguousarray(values.reshape(-1, values.shape[-1]))
    activity = {
        "rois": ArrayDict(id=ids),
        "calcium_traces": compat.regular_series(sampling_rate=rate, start=domain[0, 0], df_over_f=flat),
    }
    return _recording(activity, domain, table, series or {}, split, recording, subject, cre_line)


def recording_from_spikes(
    times: np.ndarray,
    unit_index: np.ndarray,
    *,
    recording: str,
    unit_ids: Sequence[str] | np.ndarray,
    trials: Columns | None = None,
    series: Mapping[str, Columns] | None = None,
    split: str | Sequence[float] = FRACTIONS,
    subject: str | None = None,
    cre_line: str = "",
) -> Data:
    """A recording of spikes, which scores and models take with ``field=spikes``.

    It lasts from the first to the last spike, and as long as a trial that reaches beyond them.

    Args:
        times: Times of all spikes in seconds, (S,), in any order.
        unit_index: The neuron of each spike, its place in ``unit_ids``, (S,).
        recording: As :func:`recording_from_arrays`, like all that follow.
        unit_ids: Ids of the neurons, (N,).
        trials: Columns ``start``, ``end`` and labels.
        series: Time series by name.
        split: Which time is for training, validation and test.
        subject: Id of the animal.
        cre_line: Its Cre line.

    Raises:
        RecordingError: If something does not fit; it names the table, column and row.

    Example:
        >>> data = recording_from_spikes(
        ...     np.array([0.2, 9.0, 4.0]), np.array([0, 1, 1]), recording="mouse1", unit_ids=["a", "b"]
        ... )
        >>> data.spikes.timestamps.tolist(), data.spikes.unit_index.tolist(), data.units.id.tolist()
        ([0.2, 4.0, 9.0], [0, 1, 1], ['mouse1/a', 'mouse1/b'])
    """
    _check_names(recording, subject)
    times, unit_index = np.asarray(times, float), np.asarray(unit_index, np.int64)
    ids = _checked_ids(recording, unit_ids, len(unit_ids))
    if times.shape != unit_index.shape or times.ndim != 1 or len(times) < 2 or not np.isfinite(times).all():
        raise RecordingError(
            f"recording {recording}: spikes have times of shape {times.shape} and neurons of shape {unit_index.shape}; "
            "both must be (spikes,), at least two, and times finite"
        )
    if not 0 <= unit_index.min() <= unit_index.max() < len(ids):
        raise RecordingError(f"recording {recording}: spikes refer to neuron {unit_index.max()} of {len(ids)}")
    first, last = times.min(), times.max()
    domain = np.array([[first, last]])
    table = None
    if trials is not None:
        table = Table.of("trials", trials)
        start, end = table.numbers("start"), table.numbers("end")
        domain = np.array([[start[end > first].min(initial=first), end[start < last].max(initial=last)]])
        table = _checked_trials(table, domain)
    order = np.argsort(times, kind="stable")
    spikes = IrregularTimeSeries(timestamps=times[order], unit_index=unit_index[order], domain=compat.interval(domain))
    activity = {"units": ArrayDict(id=ids), "spikes": spikes}
    return _recording(activity, domain, table, series or {}, split, recording, subject, cre_line)


def _recording(
    activity: Mapping[str, ArrayDict | RegularTimeSeries | IrregularTimeSeries],
    domain: np.ndarray,
    trials: Table | None,
    series: Mapping[str, Columns],
    split: str | Sequence[float],
    recording: str,
    subject: str | None,
    cre_line: str,
) -> Data:
    parts = split_recording(split, domain, trials)
    return Data(
        brainset=compat.BrainsetDescription(
            id="imported",
            origin_version="unknown",
            derived_version="1.0.0",
            source="local files",
            description="imported",
        ),
        subject=compat.SubjectDescription(id=subject or recording, species="unknown", cre_line=cre_line),
        session=compat.SessionDescription(id=recording, recording_date=_LONG_AGO),
        **activity,
        **({} if trials is None else {"trials": Interval(**trials.columns, timekeys=["start", "end"])}),
        **{name: _series(name, Table.of(name, columns), domain) for name, columns in series.items()},
        **{f"{part}_domain": compat.interval(times) for part, times in parts.items()},
        domain=compat.interval(domain),
    )


def save_recording(data: Data, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write ``<recording id>.h5`` to a folder, whole or not at all.

    Raises:
        OutputError: If the file is there and ``overwrite`` is not set, or it cannot be written.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin import Recordings
        >>> data = recording_from_arrays(np.zeros((100, 4)), recording="mouse1", sampling_rate=10.0)
        >>> path = save_recording(data, tempfile.mkdtemp())
        >>> path.name, Recordings(path.parent).recording_ids
        ('mouse1.h5', ['mouse1'])
    """
    path = Path(folder) / f"{data.session.id}.h5"
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: is there already; choose another --recording or --out, or pass --force")
    with atomic_path(path) as temporary:
        compat.write_recording(data, temporary)
    return path


def _check_names(recording: str, subject: str | None) -> None:
    for what, name in (("recording", recording), ("subject", subject or recording)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", str(name)):
            raise RecordingError(
                f"{what} {name!r}: an id has at most 100 letters, digits, '_', '-' and '.', and begins with one of the "
                f"first two; choose another --{what}"
            )


def _checked_traces(recording: str, traces: np.ndarray) -> np.ndarray:
    values = np.asarray(traces)
    if values.ndim not in (2, 3) or values.dtype.kind not in "fiub" or 0 in values.shape:
        raise RecordingError(
            f"recording {recording}: traces have shape {values.shape} and type {values.dtype}; they must be numbers of "
            "shape (frames, neurons) or (trials, frames, neurons)"
        )
    if values.shape[-2] < 2:
        raise RecordingError(f"recording {recording}: traces have {values.shape[-2]} frames; are their axes swapped?")
    with np.errstate(over="ignore"):  # what is infinite then is refused
        values = values.astype(np.float32)
    infinite = np.isinf(values)
    if infinite.any():
        place = tuple(int(i[0]) for i in np.nonzero(infinite))
        raise RecordingError(f"recording {recording}: traces are infinite at frame {place[-2]} of neuron {place[-1]}")
    empty = np.isnan(values).reshape(-1, values.shape[-1]).all(axis=0)
    if empty.all():
        raise RecordingError(f"recording {recording}: no neuron has a trace; dF/F needs a baseline above zero")
    if empty.any():
        # Kept, so that numbers stay; scoring finds them not usable and no diet takes them.
        logger.warning(
            "recording %s: %d of %d neurons have no dF/F (their baseline is not above zero, or all is NaN): number %s",
            recording, empty.sum(), len(empty), ", ".join(map(str, np.flatnonzero(empty)[:10])),
        )  # fmt: skip
    return values


def _checked_rate(recording: str, rate: float) -> float:
    if not isinstance(rate, (int, float, np.number)) or not _RATES[0] <= rate <= _RATES[1]:
        raise RecordingError(
            f"recording {recording}: sampling rate {rate} is not in Hz, from {_RATES[0]:g} to {_RATES[1]:g}; a period "
            "is not a rate: 33 ms is 30 Hz"
        )
    return float(rate)


def _checked_ids(recording: str, ids: Sequence[str] | np.ndarray | None, n_units: int) -> np.ndarray:
    own = np.arange(n_units).astype(str) if ids is None else np.asarray(ids).astype(str)
    if own.shape != (n_units,):
        raise RecordingError(
            f"recording {recording}: {own.size} unit ids for traces of {n_units} neurons; swapped axes?"
        )
    refuse_duplicates(own, recording)
    return np.array([f"{recording}/{unit}" for unit in own.tolist()])


def _domain(values: np.ndarray, rate: float, start: float) -> np.ndarray:
    """Times of the recording, (R, 2): one interval, or one per trial that ends half a sample early."""
    if not np.isfinite(start):
        raise RecordingError(f"the first sample is at {start} s, which is not a time")
    if values.ndim == 2:
        return np.array([[start, start + len(values) / rate]])
    first = start + np.arange(len(values)) * values.shape[1] / rate
    # Intervals that touched would be joined, and a window could cross from one trial into the next.
    return np.stack([first, first + (values.shape[1] - 0.5) / rate], axis=1)


def _checked_trials(
    trials: Table,
    domain: np.ndarray,
    slack: float = 0.0,
    n_cut: int | None = None,
    clock: str = "",
    swapped: bool = False,
) -> Table:
    """Trials sorted and on the time of the recording.

    Args:
        trials: As the user gave them.
        domain: Times of the recording, (R, 2).
        slack: Seconds that a trial may reach beyond it.
        n_cut: Number of trials that were cut out; ``None`` if the recording has no gaps.
        clock: What to say of the clock of the recording.
        swapped: Whether trials would fit if axes were swapped.
    """
    start, end = trials.numbers("start"), trials.numbers("end")
    if len(trials) == 0:
        raise RecordingError(f"{trials.name}: has no trials")
    trials.check(end <= start, "end", "is not after its start")
    low, high, offset = domain[0, 0], domain[0, 1], np.zeros(len(trials))
    if n_cut is not None:
        if len(trials) != n_cut:
            raise RecordingError(f"{trials.name}: has {len(trials)} rows for {n_cut} trials that were cut out")
        low, high, offset = 0.0, domain[0, 1] - domain[0, 0], domain[:, 0]
    span = f"the recording, from {low:g} to {high:g} s{clock}"
    trials.check(start < low - slack, "start", f"is before {span}")
    hint = "are times in seconds and the rate in Hz?" + ("; are axes swapped?" if swapped else "")
    trials.check(end > high + slack, "end", f"is beyond {span}; {hint}")
    start, end = np.maximum(start, low) + offset, np.minimum(end, high) + offset
    order = np.argsort(start, kind="stable")
    overlapping = np.zeros(len(trials), bool)
    overlapping[order[1:]] = start[order[1:]] < np.maximum.accumulate(end[order])[:-1] - 1e-9
    trials.check(overlapping, "start", "is before the trial ahead of it has ended; trials must not overlap")
    labels = {name: column for name, column in trials.columns.items() if name not in ("start", "end")}
    for name, column in labels.items():
        _check_label(trials, name, column)
    columns = {"start": start, "end": end, **labels}
    return Table(trials.name, {name: column[order] for name, column in columns.items()}, trials.first_row)


def _check_label(trials: Table, name: str, column: np.ndarray) -> None:
    _check_column(trials, name, Interval)
    if column.ndim != 1:
        raise RecordingError(f"{trials.name}: column {name!r} has shape {column.shape}; give one value per trial")
    missing = column == "" if column.dtype.kind == "U" else ~np.isfinite(column)
    trials.check(missing, name, "is no label; leave the trial out or fill it in")
    if column.dtype.kind == "U":
        foreign = np.array([not text.isascii() for text in column.tolist()])
        trials.check(foreign, name, "has letters that are not ASCII, which the file cannot hold; rename it")


def _check_column(table: Table, name: str, kind: type) -> None:
    """Columns become attributes, so they must not hide what the class has."""
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or hasattr(kind, name) or name in ("timestamps", "domain"):
        raise RecordingError(
            f"{table.name}: column {name!r} cannot be kept by that name, which is taken or is not a word of letters, "
            "digits and '_'; rename it"
        )


def _series(name: str, table: Table, domain: np.ndarray) -> IrregularTimeSeries:
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in _RESERVED or hasattr(Data, name) or "domain" in name:
        raise RecordingError(f"series {name!r}: that name is taken or is not a word of letters, digits and '_'")
    time = table.numbers("time")
    columns = {key: column for key, column in table.columns.items() if key != "time"}
    if len(time) < 2 or not columns:
        raise RecordingError(f"{table.name}: a series needs a column 'time', one more column, and two rows")
    table.check(np.r_[False, np.diff(time) <= 0], "time", "is not after the row before")
    length = domain[-1, 1] - domain[0, 0]
    if time[-1] < domain[0, 0] or time[0] > domain[-1, 1] or time[-1] - time[0] > _LONGEST_SERIES * length:
        raise RecordingError(
            f"{table.name}: column 'time' is from {time[0]:g} to {time[-1]:g} and the recording from "
            f"{domain[0, 0]:g} to {domain[-1, 1]:g} s; are times in seconds?"
        )
    for key, column in columns.items():
        _check_column(table, key, IrregularTimeSeries)
        if column.dtype.kind not in "iuf":
            table.refuse(0, key, "is not a number")
        with np.errstate(over="ignore"):
            columns[key] = column.astype(np.float32)
        table.check(np.isinf(columns[key]), key, "is not finite")
    return IrregularTimeSeries(timestamps=time, **columns, domain=compat.interval(domain))
