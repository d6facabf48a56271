"""Windows of traces as patches of samples, the tokens of a :class:`~poyo_ssl_plugin.CalciumPOYO`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from poyo_ssl_plugin.compat import Data
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.recordings import recording_id


@dataclass(frozen=True)
class Patches:
    """A window cut into patches.

    Attributes:
        values: The samples, float32 (N, P, S).
        centre: Centres of the patches in seconds from the start of the window, float32 (P,).
    """

    values: np.ndarray
    centre: np.ndarray


def patches_of(data: Data, size: int) -> Patches:
    """The traces of a window in patches of ``size`` samples, cut or filled with zeros to whole patches.

    Raises:
        RecordingError: If the window has no sample or no neuron.
    """
    traces = data.calcium_traces
    values = np.asarray(traces.df_over_f, dtype=np.float32)
    n_rows, n_units = values.shape
    if n_rows == 0 or n_units == 0:
        raise RecordingError(
            f"recording {recording_id(data)}: a window at {data.absolute_start} s has {n_rows} samples of "
            f"{n_units} neurons"
        )
    # A window may hold a sample more or less than the next; that must not cost a patch.
    n_patches = max(1, round(n_rows / size))
    n_rows = min(n_rows, n_patches * size)
    patches = np.zeros((n_units, n_patches * size), dtype=np.float32)
    patches[:, :n_rows] = values[:n_rows].T
    centre = _half_steps(n_patches) * (size / traces.sampling_rate) + float(traces.domain.start[0])
    return Patches(patches.reshape(n_units, n_patches, size), centre.astype(np.float32))


@lru_cache
def _half_steps(n: int) -> np.ndarray:
    """0.5, 1.5, ..., of shape (n,)."""
    return np.arange(n) + 0.5
