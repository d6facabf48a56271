"""ROI traces or spikes, and trials, of an NWB file, read by pynwb."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from poyo_ssl_plugin.data.importing.csv_table import Table
from poyo_ssl_plugin.data.importing.df_over_f import df_over_f
from poyo_ssl_plugin.data.importing.traces import Spikes, Traces, reading, sampling_rate_of
from poyo_ssl_plugin.errors import RecordingError

if TYPE_CHECKING:
    from pynwb import NWBFile
    from pynwb.ophys import RoiResponseSeries


def read_nwb(path: str | Path, *, sampling_rate: float | None = None, series: str | None = None) -> Traces | Spikes:
    """dF/F of the ROI response series of an NWB file, else the spikes of its units, and its trials.

    A series in a ``DfOverF`` is dF/F. One in a ``Fluorescence`` is turned into dF/F, with the series of the same ROIs
    whose name, or whose container's, says neuropil. Where the table of ROIs says which are cells or accepted
    (``iscell``, ``is_accepted``, ``accepted``), only these are read.

    Args:
        path: The file.
        sampling_rate: In Hz; by default what the file says.
        series: Name of the series, where there are several; also behind that of its container: ``Fluorescence/plane0``.

    Raises:
        RecordingError: If there are neither traces nor spikes, or several traces, or their clock is not regular, or no
            ROI is accepted.

    Example:
        >>> import datetime
        >>> import tempfile
        >>> from pynwb import NWBHDF5IO, NWBFile
        >>> file = NWBFile("two neurons", "mouse1", datetime.datetime.now(datetime.timezone.utc))
        >>> for times in ([0.5, 1.5], [1.0]):
        ...     file.add_unit(spike_times=times)
        >>> path = Path(tempfile.mkdtemp()) / "mouse1.nwb"
        >>> with NWBHDF5IO(str(path), "w") as io:
        ...     io.write(file)
        >>> spikes = read_nwb(path)
        >>> spikes.times.tolist(), spikes.unit_index.tolist()
        ([0.5, 1.5, 1.0], [0, 0, 1])
    """
    path = Path(path)
    try:
        from pynwb import NWBHDF5IO
        from pynwb.ophys import RoiResponseSeries
    except ImportError:
        raise RecordingError("pynwb is not installed, which reads NWB: pip install 'poyo-ssl-plugin[import]'") from None
    with reading(path, "NWB file"), warnings.catch_warnings(), NWBHDF5IO(str(path), "r") as io:
        warnings.simplefilter("ignore")  # pynwb's, of what is refused below in a sentence
        file = io.read()
        found = [item for item in file.objects.values() if isinstance(item, RoiResponseSeries)]
        if not found and series is None and file.units is not None:
            return _spikes(path, file)
        chosen = _choose(path, found, series)
        values, n_rois = np.asarray(chosen.get_data_in_units()), len(chosen.rois)
        where = f"{path}: {chosen.name}"
        if values.ndim != 2 or values.shape[1] != n_rois:
            swapped = "; its axes are swapped" if values.shape[:1] == (n_rois,) else ""
            raise RecordingError(f"{where} has shape {values.shape} for {n_rois} ROIs, not (frames, ROIs){swapped}")
        start, rate = _clock(where, chosen)
        rate = sampling_rate_of(path, rate, sampling_rate)
        if not _is_df_over_f(chosen):
            values = df_over_f(values, _neuropil(chosen, found), rate)
        accepted = _accepted(chosen)
        if len(accepted) == 0:
            raise RecordingError(f"{where}: none of its {n_rois} ROIs is accepted as a cell; curate them first")
        return Traces(values[:, accepted], rate, _ids(chosen)[accepted].astype(str), start, _trials(path, file))


def _choose(path: Path, found: list[RoiResponseSeries], name: str | None) -> RoiResponseSeries:
    names = ", ".join(sorted(map(_label, found)))
    if name is not None:
        found = [series for series in found if name in (series.name, _label(series))]
    else:
        found = [series for series in found if not _says(series, *_DERIVED)]
        found = [series for series in found if _is_df_over_f(series)] or found
    if not found:
        having = f"it has {names}" if names else "it has neither a RoiResponseSeries nor units"
        raise RecordingError(f"{path}: has no traces{f' {name!r}' if name else ''}; {having}")
    if len(found) > 1:
        several = ", ".join(sorted(map(_label, found)))
        raise RecordingError(f"{path}: has several traces ({several}); choose one with --traces")
    return found[0]


def _spikes(path: Path, file: NWBFile) -> Spikes:
    units = file.units
    if "spike_times" not in units.colnames:
        raise RecordingError(f"{path}: its units have no spike_times; it has no traces either")
    index = units["spike_times"]
    counts = np.diff(np.r_[0, np.asarray(index.data[:], np.int64)])
    unit_index = np.repeat(np.arange(len(counts)), counts)
    return Spikes(
        np.asarray(index.target.data[:]), unit_index, np.asarray(units.id[:]).astype(str), _trials(path, file)
    )


# What suite2p, CaImAn and neuroconv write beside the fluorescence itself, by names of series or containers.
_DERIVED = ("neuropil", "deconvolved", "denoised", "baseline")
_ACCEPTED = {"iscell", "accepted", "isaccepted"}


def _label(series: RoiResponseSeries) -> str:
    return f"{series.parent.name}/{series.name}"


def _says(series: RoiResponseSeries, *words: str) -> bool:
    return any(word in _label(series).lower() for word in words)


def _is_df_over_f(series: RoiResponseSeries) -> bool:
    return type(series.parent).__name__ == "DfOverF" or series.name.lower().replace("_", "").startswith(
        ("dff", "dfoverf")
    )


def _ids(series: RoiResponseSeries) -> np.ndarray:
    return np.asarray(series.rois.table.id[:])[np.asarray(series.rois.data)]


def _neuropil(chosen: RoiResponseSeries, found: list[RoiResponseSeries]) -> np.ndarray | None:
    for series in found:
        same = series.rois.table is chosen.rois.table and np.array_equal(_ids(series), _ids(chosen))
        if same and series is not chosen and _says(series, "neuropil") and series.data.shape == chosen.data.shape:
            return np.asarray(series.get_data_in_units())
    return None


def _accepted(series: RoiResponseSeries) -> np.ndarray:
    """Which ROIs of a series are cells, as their table says it: 0 or 1, with the probability beside it in suite2p's."""
    table = series.rois.table
    for name in table.colnames:
        column = np.asarray(table[name][:]) if name.lower().replace("_", "") in _ACCEPTED else np.empty(0, object)
        if column.dtype.kind in "biuf":
            return np.flatnonzero((column if column.ndim == 1 else column[:, 0])[np.asarray(series.rois.data)])
    return np.arange(len(series.rois))


def _clock(where: str, series: RoiResponseSeries) -> tuple[float, float | None]:
    """Time of the first sample in seconds, and the rate in Hz."""
    if series.rate is not None:
        return float(series.starting_time or 0.0), float(series.rate)
    times = np.asarray(series.timestamps, float)
    if len(times) < 2 or not np.isfinite(times).all() or times[-1] <= times[0]:
        raise RecordingError(f"{where} has timestamps that do not increase")
    step = (times[-1] - times[0]) / (len(times) - 1)
    late = np.abs(times - (times[0] + step * np.arange(len(times))))
    if late.max() > step / 2:
        row = int(np.flatnonzero(late > step / 2)[0])
        raise RecordingError(f"{where}: timestamps are not regular from row {row} on ({times[row]} s); resample it")
    return float(times[0]), float(1 / step)


def _trials(path: Path, file: NWBFile) -> Table | None:
    if file.trials is None or len(file.trials) == 0:
        return None
    renamed = {"start_time": "start", "stop_time": "end"}
    # An indexed column has several values a row, and its data are where the rows end.
    single = [name for name in file.trials.colnames if f"{name}_index" not in file.trials]
    columns = {renamed.get(name, name): np.asarray(file.trials[name].data[:]) for name in single}
    return Table.of(f"{path}: trials", {name: column for name, column in columns.items() if column.ndim == 1})
