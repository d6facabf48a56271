"""ROI traces or spikes, and trials, of an NWB file, read by pynwb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from poyo_ssl_plugin.data.importing.csv_table import Table
from poyo_ssl_plugin.data.importing.df_over_f import df_over_f
from poyo_ssl_plugin.data.importing.traces import Spikes, Traces, reading, sampling_rate_of
from poyo_ssl_plugin.errors import RecordingError


def read_nwb(path: str | Path, *, sampling_rate: float | None = None, series: str | None = None) -> Traces | Spikes:
    """dF/F of the ROI response series of an NWB file, else the spikes of its units, and its trials.

    A series in a ``DfOverF`` is dF/F. One in a ``Fluorescence`` is turned into dF/F, with the series whose name says
    neuropil, if there is one of the same shape, as neuropil.

    Args:
        path: The file.
        sampling_rate: In Hz; by default what the file says.
        series: Name of the series, where there are several.

    Raises:
        RecordingError: If there are neither traces nor spikes, or several traces, or their clock is not regular.

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
    with reading(path, "NWB file"), NWBHDF5IO(str(path), "r") as io:
        file: Any = io.read()
        found = [item for item in file.objects.values() if isinstance(item, RoiResponseSeries)]
        if not found and series is None and file.units is not None:
            return _spikes(path, file)
        chosen = _choose(path, found, series)
        values, n_rois = np.asarray(chosen.data), len(chosen.rois)
        where = f"{path}: {chosen.name}"
        if values.ndim != 2 or values.shape[1] != n_rois:
            swapped = "; its axes are swapped" if values.shape[:1] == (n_rois,) else ""
            raise RecordingError(f"{where} has shape {values.shape} for {n_rois} ROIs, not (frames, ROIs){swapped}")
        start, rate = _clock(where, chosen)
        rate = sampling_rate_of(path, rate, sampling_rate)
        if not _is_df_over_f(chosen):
            values = df_over_f(values, _neuropil(chosen, found), rate)
        rois = np.asarray(chosen.rois.table.id[:])[np.asarray(chosen.rois.data)]
        return Traces(values, rate, rois.astype(str), start, _trials(path, file))


def _choose(path: Path, found: list[Any], name: str | None) -> Any:
    names = ", ".join(sorted(series.name for series in found))
    if name is not None:
        found = [series for series in found if series.name == name]
    else:
        found = [series for series in found if not _is_neuropil(series)]
        found = [series for series in found if _is_df_over_f(series)] or found
    if not found:
        having = f"it has {names}" if names else "it has neither a RoiResponseSeries nor units"
        raise RecordingError(f"{path}: has no traces{f' {name!r}' if name else ''}; {having}")
    if len(found) > 1:
        raise RecordingError(f"{path}: has several traces ({names}); choose one with --traces")
    return found[0]


def _spikes(path: Path, file: Any) -> Spikes:
    units = file.units
    if "spike_times" not in units.colnames:
        raise RecordingError(f"{path}: its units have no spike_times; it has no traces either")
    index = units["spike_times"]
    counts = np.diff(np.r_[0, np.asarray(index.data[:], np.int64)])
    unit_index = np.repeat(np.arange(len(counts)), counts)
    return Spikes(
        np.asarray(index.target.data[:]), unit_index, np.asarray(units.id[:]).astype(str), _trials(path, file)
    )


def _is_df_over_f(series: Any) -> bool:
    return type(series.parent).__name__ == "DfOverF" or series.name.lower().replace("_", "") in ("dff", "dfoverf")


def _is_neuropil(series: Any) -> bool:
    return "neuropil" in series.name.lower()


def _neuropil(chosen: Any, found: list[Any]) -> np.ndarray | None:
    for series in found:
        if series is not chosen and _is_neuropil(series) and series.data.shape == chosen.data.shape:
            return np.asarray(series.data)
    return None


def _clock(where: str, series: Any) -> tuple[float, float | None]:
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


def _trials(path: Path, file: Any) -> Table | None:
    if file.trials is None or len(file.trials) == 0:
        return None
    renamed = {"start_time": "start", "stop_time": "end"}
    columns = {renamed.get(name, name): np.asarray(file.trials[name].data[:]) for name in file.trials.colnames}
    flat = {name: column for name, column in columns.items() if column.ndim == 1 and name not in _REFERENCES}
    return Table.of(f"{path}: trials", {name: flat[name] for name in flat if len(flat[name]) == len(file.trials)})


# Columns of a trials table that point elsewhere in the file.
_REFERENCES = {"timeseries", "timeseries_index", "tags_index"}
