"""Traces from ``.npy`` files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from poyo_ssl_plugin.data.importing.df_over_f import df_over_f
from poyo_ssl_plugin.data.importing.traces import Traces, load_array
from poyo_ssl_plugin.errors import RecordingError


def read_arrays(
    path: str | Path,
    *,
    sampling_rate: float,
    fluorescence: bool = False,
    neuropil: str | Path | None = None,
    n_units: int | None = None,
) -> Traces:
    """Traces (T, N) of an ``.npy`` file, or (R, T, N) of R trials that were cut out.

    Args:
        path: The file.
        sampling_rate: In Hz.
        fluorescence: The traces are raw fluorescence; turn them into dF/F.
        neuropil: ``.npy`` of the neuropil's fluorescence, (T, N); implies ``fluorescence``.
        n_units: How many neurons there are, so that the order of the axes can be checked.

    Raises:
        RecordingError: If a file or its shape is not as it must be.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "dff.npy"
        >>> np.save(path, np.zeros((300, 20)))
        >>> traces = read_arrays(path, sampling_rate=30.0)
        >>> traces.values.shape, traces.unit_ids.tolist()[:3]
        ((300, 20), ['0', '1', '2'])
    """
    path = Path(path)
    values = load_array(path)
    if values.ndim not in (2, 3):
        raise RecordingError(
            f"{path}: has shape {values.shape}; it must be (frames, neurons) or (trials, frames, neurons)"
        )
    if n_units is not None and values.shape[-1] != n_units:
        swapped = "; its axes are swapped" if n_units in values.shape else ""
        raise RecordingError(f"{path}: has shape {values.shape}, whose last axis is not the {n_units} neurons{swapped}")
    if n_units is None and values.ndim == 2 and values.shape[1] > values.shape[0]:
        raise RecordingError(
            f"{path}: has {values.shape[0]} frames of {values.shape[1]} neurons; if its axes are swapped, save it "
            f"transposed, else say --neurons {values.shape[1]}"
        )
    if fluorescence or neuropil is not None:
        if values.ndim == 3:
            raise RecordingError(f"{path}: a baseline needs traces without gaps; give dF/F where trials are cut out")
        around = None if neuropil is None else load_array(Path(neuropil))
        if around is not None and around.shape != values.shape:
            raise RecordingError(f"{neuropil}: has shape {around.shape} and {path} {values.shape}; both must be alike")
        values = df_over_f(values, around, sampling_rate)
    return Traces(values, sampling_rate, np.arange(values.shape[-1]).astype(str))
