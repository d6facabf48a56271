"""dF/F where there is only fluorescence."""

from __future__ import annotations

import numpy as np

from poyo_ssl_plugin.errors import RecordingError

NEUROPIL = 0.7
SMOOTHING = 10.0  # frames, suite2p's sig_baseline
WINDOW = 60.0  # seconds, suite2p's win_baseline


def df_over_f(fluorescence: np.ndarray, neuropil: np.ndarray | None, rate: float) -> np.ndarray:
    r"""dF/F with suite2p's neuropil coefficient and its "maximin" baseline.

    :math:`F_c = F - 0.7\,(F_{neu} - \mathrm{median}\,F_{neu})` and :math:`(F_c - F_0) / F_0`. The baseline
    :math:`F_0` is :math:`F_c` smoothed by a Gaussian of 10 frames, then a running minimum and a running maximum
    over 60 s. Taking the median out of the neuropil keeps the level that dF/F divides by.

    Args:
        fluorescence: F, (T, N).
        neuropil: F of the neuropil, (T, N); ``None`` if it is subtracted already.
        rate: Sampling rate in Hz.

    Returns:
        dF/F, float32 (T, N). A neuron whose baseline is not positive somewhere has NaN throughout.

    Raises:
        RecordingError: If the shapes differ.

    Example:
        >>> trace = np.full((300, 1), 100.0)
        >>> trace[150] = 150.0
        >>> round(float(df_over_f(trace, None, rate=30.0).max()), 2)
        0.5
    """
    from scipy.ndimage import gaussian_filter1d, maximum_filter1d, minimum_filter1d

    corrected = np.asarray(fluorescence, dtype=float)
    if neuropil is not None:
        if neuropil.shape != corrected.shape:
            raise RecordingError(f"fluorescence has shape {corrected.shape} and its neuropil {neuropil.shape}")
        corrected = corrected - NEUROPIL * (neuropil - np.median(neuropil, axis=0))
    window = max(1, round(WINDOW * rate))
    baseline = gaussian_filter1d(corrected, SMOOTHING, axis=0)
    baseline = maximum_filter1d(minimum_filter1d(baseline, window, axis=0), window, axis=0)
    baseline[:, ~(baseline > 0).all(axis=0)] = np.nan
    return ((corrected - baseline) / baseline).astype(np.float32)
