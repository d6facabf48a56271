"""Time series that were recorded beside the neurons: running speed, pupil, position."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from poyo_ssl_plugin.compat import Interval, IrregularTimeSeries, RegularTimeSeries

Series: TypeAlias = RegularTimeSeries | IrregularTimeSeries
# What labels can be columns of.
Timed: TypeAlias = Interval | Series

# A value is interpolated between two samples that are at most this far apart, in seconds.
_LONGEST_GAP = 1.0


def is_series(table: Timed) -> bool:
    """Whether a table is a time series, not intervals."""
    return "start" not in table.keys()


def is_timed(table: object) -> bool:
    """Whether it is a table of intervals or a time series, and not a description such as that of the animal."""
    return hasattr(table, "timestamps") or "start" in getattr(table, "keys", list)()


def sample_times(series: Series) -> np.ndarray:
    """Times of the samples of a regular or irregular series, in seconds, (T,)."""
    return np.asarray(series.timestamps, float)


def interpolate(series: Series, values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Values of a series (T, D) at some times (K,), linearly; NaN where no two samples are near, (K, D)."""
    found = np.full((len(times), values.shape[1]), np.nan)
    valid = np.isfinite(values).all(axis=1)
    at, values = sample_times(series)[valid], values[valid]
    if len(at) == 0:
        return found
    after = np.clip(np.searchsorted(at, times), 0, len(at) - 1)
    before = np.maximum(np.where(at[after] > times, after - 1, after), 0)
    gap = np.maximum(at[after] - at[before], np.abs(times - np.clip(times, at[before], at[after])))
    near = gap <= _LONGEST_GAP
    for column in range(values.shape[1]):
        found[near, column] = np.interp(times[near], at, values[:, column])
    return found
