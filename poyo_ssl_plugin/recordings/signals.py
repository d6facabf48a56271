"""The activity of a recording, read interval by interval in bounded memory."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeGuard, overload

import numpy as np

from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.recordings.contents import TRACES, own_ids, recording_id, refuse_duplicates, unit_ids
from poyo_ssl_plugin.recordings.intervals import merge_intervals

if TYPE_CHECKING:
    import h5py

    from poyo_ssl_plugin.compat import Data, IrregularTimeSeries

_EPSILON = float(np.finfo(float).eps)

# Samples read at a time, in bytes: few enough to be summed from the cache of a processor.
_BYTES_PER_READ = 2 << 20

Piece = Callable[[], np.ndarray]


class Signal(ABC):
    """Samples of :math:`N` neurons that can be read interval by interval.

    Attributes:
        unit_ids: Ids of the neurons within the recording, shape (N,).

    Example:
        >>> from poyo_ssl_plugin.data.importing import recording_from_spikes
        >>> times, unit_index = np.array([0.0, 0.25, 4.0]), np.array([0, 0, 1])
        >>> data = recording_from_spikes(times, unit_index, recording="mouse1", unit_ids=["a", "b"])
        >>> signal = open_signal(data, "spikes", bin_width=0.5)
        >>> next(signal.blocks(np.array([[0.0, 1.0]]))).tolist()  # counts in two bins
        [[2.0, 0.0], [0.0, 0.0]]
        >>> signal.means(np.array([[0.0, 1.0]])).tolist()  # spikes a second
        [[2.0, 0.0]]
    """

    unit_ids: np.ndarray

    @abstractmethod
    def pieces(self, intervals: np.ndarray) -> Iterator[Piece]:
        """Yield functions that each read an array (rows, N), together each sample of ``intervals`` once.

        They can be called in any order, from any thread.
        """

    @abstractmethod
    def means(self, intervals: np.ndarray) -> np.ndarray:
        """The mean of each neuron over each interval (R, N): of a trace, or spikes per second."""

    def blocks(self, intervals: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the arrays of :meth:`pieces` in order."""
        return (read() for read in self.pieces(intervals))


@dataclass(frozen=True)
class SampleClock:
    """When the rows of a regular time series were sampled: row :math:`i` at ``start + i / rate``.

    Attributes:
        start: Time of the first row, in seconds.
        rate: Sampling rate, in Hz.
        n_rows: Number of rows.

    Example:
        >>> clock = SampleClock(start=100.0, rate=30.0, n_rows=300)
        >>> clock.row(101.0), clock.rows(np.array([[100.0, 101.0], [109.0, 200.0]])).tolist()
        (30, [[0, 30], [270, 300]])
    """

    start: float
    rate: float
    n_rows: int

    @overload
    def row(self, time: float) -> int: ...

    @overload
    def row(self, time: np.ndarray) -> np.ndarray: ...

    def row(self, time: float | np.ndarray) -> int | np.ndarray:
        """The first row at or after ``time`` (as torch_brain's slicing), clipped to the series."""
        if np.ndim(time) == 0:
            return self._row_at(float(time))
        time = np.asarray(time, float)
        position = (time - self.start) * self.rate
        nearest = np.round(position)
        # A time that is a row's own time up to rounding means that row, not the next one; the further from
        # zero, the coarser times are.
        rounding = 4 * _EPSILON * np.maximum(np.abs(time), abs(self.start)) * self.rate
        row = np.where(np.abs(position - nearest) < np.maximum(1e-6, rounding), nearest, np.ceil(position))
        return np.clip(row, 0, self.n_rows).astype(np.int64)

    def _row_at(self, time: float) -> int:
        """:meth:`row` of one time, without numpy."""
        position = (time - self.start) * self.rate
        nearest = round(position)
        rounding = 4 * _EPSILON * max(abs(time), abs(self.start)) * self.rate
        row = nearest if abs(position - nearest) < max(1e-6, rounding) else math.ceil(position)
        return min(max(row, 0), self.n_rows)

    def rows(self, intervals: np.ndarray) -> np.ndarray:
        """Half-open row ranges (R, 2) of the samples in ``intervals``, each row in one range only."""
        merged = merge_intervals(intervals)
        return merge_intervals(np.stack([self.row(merged[:, 0]), self.row(merged[:, 1])], axis=1))


class Rows:
    """Rows of an array, in memory or in an HDF5 file.

    HDF5 takes longer to find out where the rows of a window are than it takes to read them, and lets one
    thread read at a time. Where an array is one piece of the file, as brainsets writes it, they are read
    from there instead.

    Args:
        samples: An array or h5py dataset, (T, ...).

    Raises:
        RecordingError: When rows are read, if the file has become shorter since it was opened.

    Example:
        >>> rows = Rows(np.arange(6.0).reshape(3, 2))
        >>> len(rows), rows[1:3].tolist()
        (3, [[2.0, 3.0], [4.0, 5.0]])
    """

    def __init__(self, samples: np.ndarray | h5py.Dataset) -> None:
        self._samples = samples
        self.shape, self.dtype = samples.shape, samples.dtype
        self._row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        self._file: BinaryIO | None = None
        if _in_one_piece(samples):
            self._offset = samples.id.get_offset()
            self._file = open(samples.file.filename, "rb", buffering=0)  # noqa: SIM115  open as long as this is

    def __del__(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None:
            file.close()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        if self._file is None:
            return self._samples[rows]
        first, last, step = rows.indices(self.shape[0])
        assert step == 1, "only consecutive rows are read at once"
        values = np.empty((max(last - first, 0), *self.shape[1:]), dtype=self.dtype)
        n_read = os.preadv(self._file.fileno(), [values.data], self._offset + first * self._row_bytes)
        if n_read != values.nbytes:
            raise RecordingError(f"{self._file.name}: is shorter than when it was opened; prepare it again")
        return values


def _in_one_piece(samples: np.ndarray | h5py.Dataset) -> TypeGuard[h5py.Dataset]:
    """Whether the samples are an h5py dataset that is one plain piece of a file."""
    import h5py  # takes long, and tables of scores do not need it

    if not isinstance(samples, h5py.Dataset):
        return False
    plain = samples.chunks is None and samples.external is None and not samples.is_virtual
    return (
        plain
        and samples.dtype.kind in "biuf"
        and samples.dtype.isnative
        and samples.id.get_offset() is not None
        and samples.file.driver == "sec2"
        and hasattr(os, "preadv")
    )


@dataclass(frozen=True)
class TraceSignal(Signal):
    """The traces of a recording, dF/F for calcium.

    Attributes:
        unit_ids: Ids of the neurons within the recording, (N,).
        samples: The samples (T, N), an array, an open h5py dataset or its :class:`Rows`.
        clock: When they were sampled.

    Example:
        >>> clock = SampleClock(start=0.0, rate=2.0, n_rows=4)
        >>> signal = TraceSignal(np.array(["a"]), np.array([[1.0], [2.0], [3.0], [4.0]]), clock)
        >>> signal.means(np.array([[0.0, 1.0], [1.0, 2.0]])).tolist()
        [[1.5], [3.5]]
    """

    unit_ids: np.ndarray
    samples: np.ndarray | h5py.Dataset | Rows
    clock: SampleClock

    def pieces(self, intervals: np.ndarray) -> Iterator[Piece]:
        height = _rows_per_read(self.samples.shape[1], self.samples.dtype.itemsize)
        for first, last in self.clock.rows(intervals).tolist():
            for row in range(first, last, height):
                yield partial(self._read, row, min(row + height, last))

    def _read(self, first: int, last: int) -> np.ndarray:
        return self.samples[first:last]

    def means(self, intervals: np.ndarray) -> np.ndarray:
        rows = self.clock.row(np.asarray(intervals).reshape(-1, 2))
        means = [np.nanmean(self.samples[first:last], axis=0) for first, last in rows]
        return np.array(means, dtype=float).reshape(len(rows), len(self.unit_ids))


@dataclass(frozen=True)
class SpikeSignal(Signal):
    """Spike counts in bins.

    Each interval is cut into whole bins from its start; a last part shorter than a bin is left out.

    Attributes:
        timestamps: Sorted spike times in seconds, shape (S,).
        unit_index: Index of the neuron of every spike, shape (S,).
        bin_width: Width of a bin in seconds.
    """

    unit_ids: np.ndarray
    timestamps: np.ndarray
    unit_index: np.ndarray
    bin_width: float

    def pieces(self, intervals: np.ndarray) -> Iterator[Piece]:
        for start, end in merge_intervals(intervals):
            n_bins = math.floor((end - start) / self.bin_width + 1e-9)
            height = _rows_per_read(len(self.unit_ids), 8)
            for first in range(0, n_bins, height):
                last = min(first + height, n_bins)
                yield partial(self._count, start + first * self.bin_width, last - first)

    def means(self, intervals: np.ndarray) -> np.ndarray:
        intervals = np.asarray(intervals, float).reshape(-1, 2)
        places = np.searchsorted(self.timestamps, intervals)
        counts = [np.bincount(self.unit_index[low:high], minlength=len(self.unit_ids)) for low, high in places]
        duration = intervals[:, 1:] - intervals[:, :1]
        return np.array(counts, dtype=float).reshape(len(intervals), len(self.unit_ids)) / duration

    def _count(self, start: float, n_bins: int) -> np.ndarray:
        end = start + n_bins * self.bin_width
        low, high = np.searchsorted(self.timestamps, [start, end])
        n_units = len(self.unit_ids)
        bins = ((self.timestamps[low:high] - start) / self.bin_width).astype(np.int64)
        flat = np.minimum(bins, n_bins - 1) * n_units + self.unit_index[low:high]
        return np.bincount(flat, minlength=n_bins * n_units).reshape(n_bins, n_units).astype(float)


def _rows_per_read(n_units: int, itemsize: int) -> int:
    return max(1, _BYTES_PER_READ // max(1, n_units * itemsize))


def open_signal(data: Data, field: str = TRACES, *, bin_width: float = 0.1) -> Signal:
    """Open the activity of a recording for reading by intervals, without loading it.

    Args:
        data: A recording of either torch_brain generation, lazy or in memory.
        field: ``"calcium_traces.df_over_f"`` or another dotted path to a regular time series of
            shape (T, N); a name without a dot, such as ``"spikes"``, means spike times.
        bin_width: Bin width for spikes, in seconds.

    Raises:
        RecordingError: If the recording has no such field, or its shape and its ids disagree.

    Example:
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays
        >>> data = recording_from_arrays(np.zeros((100, 4)), recording="mouse1", sampling_rate=10.0)
        >>> signal = open_signal(data)
        >>> signal.unit_ids.tolist(), [block.shape for block in signal.blocks(np.array([[0.0, 2.0]]))]
        (['0', '1', '2', '3'], [(20, 4)])
    """
    group, _, name = field.partition(".")
    series = getattr(data, group, None) if group in data.keys() else None
    if series is None or (name and name not in series.keys()):
        have = [key for key in data.keys() if {"timestamps", "sampling_rate"} & set(dir(getattr(data, key)))]
        raise RecordingError(
            f"recording {recording_id(data)}: has no {field!r}; its time series are "
            f"{', '.join(sorted(have)) or 'none'}. Choose one with --field"
        )
    ids = own_ids(unit_ids(data, field), recording_id(data))
    refuse_duplicates(ids, recording_id(data))
    if not name:
        return _spikes(data, series, ids, bin_width)
    samples = series.__dict__[name]
    if len(samples.shape) != 2 or samples.shape[1] != len(ids):
        raise RecordingError(
            f"recording {recording_id(data)}: {field} has shape {tuple(samples.shape)} but there are "
            f"{len(ids)} neurons; it must be (frames, neurons)"
        )
    if samples.dtype.kind not in "fiub":
        raise RecordingError(f"recording {recording_id(data)}: {field} holds {samples.dtype}, not numbers")
    clock = SampleClock(float(series.domain.start[0]), float(series.sampling_rate), len(samples))
    if not (math.isfinite(clock.start) and math.isfinite(clock.rate) and clock.rate > 0):
        raise RecordingError(
            f"recording {recording_id(data)}: {field} starts at {clock.start} s and has {clock.rate} samples a second; "
            "prepare it again"
        )
    return TraceSignal(ids, Rows(samples), clock)


def _spikes(data: Data, series: IrregularTimeSeries, ids: np.ndarray, bin_width: float) -> SpikeSignal:
    if not bin_width > 0:
        raise RecordingError(f"bin_width must be a positive number of seconds, not {bin_width}")
    if "unit_index" not in series.keys():
        raise RecordingError(
            f"recording {recording_id(data)}: a field of spike times needs 'unit_index'; for traces "
            "name the array too, for example calcium_traces.df_over_f"
        )
    unit_index = np.asarray(series.unit_index)
    if len(unit_index) and not 0 <= unit_index.min() <= unit_index.max() < len(ids):
        raise RecordingError(
            f"recording {recording_id(data)}: spikes refer to unit {int(unit_index.max())} of {len(ids)}"
        )
    return SpikeSignal(ids, np.asarray(series.timestamps), unit_index, bin_width)
