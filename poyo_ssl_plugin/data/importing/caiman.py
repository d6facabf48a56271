"""The HDF5 file that CaImAn's ``cnm.save`` writes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from poyo_ssl_plugin.data.importing.traces import Traces, reading, sampling_rate_of
from poyo_ssl_plugin.errors import RecordingError


def read_caiman(path: str | Path, *, sampling_rate: float | None = None) -> Traces:
    """``estimates/F_dff`` of the accepted components, (N, T) as CaImAn writes it.

    Args:
        path: The file.
        sampling_rate: In Hz; by default ``params/data/fr``.

    Raises:
        RecordingError: If the file is damaged, has no dF/F, or does not say its rate.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "analysis_results.hdf5"
        >>> with h5py.File(path, "w") as file:
        ...     file["estimates/F_dff"] = np.zeros((3, 100))
        ...     file["estimates/idx_components"] = [0, 2]
        ...     file["params/data/fr"] = 30.0
        >>> traces = read_caiman(path)
        >>> traces.values.shape, traces.unit_ids.tolist(), traces.rate
        ((100, 2), ['0', '2'], 30.0)
    """
    path = Path(path)
    with reading(path, "CaImAn HDF5 file"), h5py.File(path, "r") as file:
        traces = _array(file, "estimates/F_dff")
        if traces is None:
            raise RecordingError(
                f"{path}: has no estimates/F_dff; run estimates.detrend_df_f() in CaImAn and save it again"
            )
        if traces.ndim != 2 or traces.dtype.kind not in "fiu":
            raise RecordingError(f"{path}: estimates/F_dff has shape {traces.shape}, not (components, frames)")
        n_components = _n_components(file)
        if n_components is not None and len(traces) != n_components:
            swapped = "; its axes are swapped" if traces.shape[1] == n_components else ""
            raise RecordingError(
                f"{path}: estimates/F_dff has shape {traces.shape} for {n_components} components{swapped}"
            )
        accepted = _array(file, "estimates/idx_components")
        accepted = np.arange(len(traces)) if accepted is None else accepted.astype(np.int64).reshape(-1)
        if len(accepted) == 0 or accepted.min() < 0 or accepted.max() >= len(traces):
            raise RecordingError(
                f"{path}: estimates/idx_components accepts {len(accepted)} of {len(traces)} components; evaluate and "
                "select them in CaImAn again"
            )
        found = _array(file, "params/data/fr")
        rate = sampling_rate_of(path, None if found is None else float(found), sampling_rate)
        return Traces(traces[accepted].T.astype(np.float32), rate, accepted.astype(str))


def _array(file: h5py.File, name: str) -> np.ndarray | None:
    """A numeric array, or ``None`` where there is none; CaImAn writes None as the text ``NoneType``."""
    item = file.get(name)
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub":
        return None
    return np.asarray(item[()])


def _n_components(file: h5py.File) -> int | None:
    shape = _array(file, "estimates/C")
    return None if shape is None or shape.ndim != 2 else len(shape)
