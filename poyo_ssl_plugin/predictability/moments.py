"""Skewness and kurtosis of many traces in one streaming pass.

The paper (arXiv 2510.18516, section 3.1) ranks neurons by the skewness and kurtosis of their dF/F.
A recording has some 10^5 frames of some 10^2 neurons, and a release hundreds of recordings, so the
moments are accumulated block by block: memory does not grow with the length of the recording.

Sums of powers are taken about a running mean, in float64, and merged with the update formulas of
Pebay (2008, Sandia report SAND2008-6212), so a large common offset costs no precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from poyo_ssl_plugin.errors import PoyoSSLError

NanPolicy = Literal["propagate", "omit", "raise"]

# One block is about 256 kB of float64: it stays in the cache while its four powers are summed.
_BLOCK_ELEMENTS = 32_768
# Central moments are merged once per panel; merging costs ~30 small vector operations.
_BLOCKS_PER_PANEL = 64


class Moments:
    """Count, mean and second to fourth central moments of :math:`N` traces, accumulated by rows.

    Args:
        n_units: Number of traces :math:`N`.
        nan_policy: ``"omit"`` leaves NaN samples out, neuron by neuron. ``"propagate"`` gives NaN
            for a neuron with any NaN, as scipy does by default. ``"raise"`` refuses NaN.

    Example:
        >>> import numpy as np
        >>> moments = Moments(2)
        >>> moments.update(np.array([[0.0, 1.0], [0.0, 3.0]]))
        >>> moments.update(np.array([[6.0, 2.0]]))
        >>> moments.mean.tolist()
        [2.0, 2.0]
        >>> moments.skewness().round(4).tolist()
        [0.7071, 0.0]
    """

    def __init__(self, n_units: int, *, nan_policy: NanPolicy = "omit") -> None:
        if nan_policy not in ("propagate", "omit", "raise"):
            raise PoyoSSLError(f"nan_policy must be 'propagate', 'omit' or 'raise', not {nan_policy!r}")
        self.nan_policy = nan_policy
        self.count = np.zeros(n_units)
        self.mean = np.zeros(n_units)
        self._m2 = np.zeros(n_units)
        self._m3 = np.zeros(n_units)
        self._m4 = np.zeros(n_units)
        rows = max(1, _BLOCK_ELEMENTS // max(1, n_units))
        self._rows = min(rows, 4096)
        self._deviation = np.empty((self._rows, n_units))
        self._power = np.empty((self._rows, n_units))
        self._ones = np.ones(self._rows)

    def update(self, rows: np.ndarray) -> None:
        """Add samples.

        Args:
            rows: Real samples of shape :math:`(T, N)`, any real dtype, any :math:`T`.
        """
        panel = self._rows * _BLOCKS_PER_PANEL
        for start in range(0, len(rows), panel):
            self._add_panel(rows[start : start + panel])

    def merge(self, other: Moments) -> None:
        """Add the samples that another accumulator has seen."""
        self._merge(other.count, other.mean, other._m2, other._m3, other._m4)

    def variance(self) -> np.ndarray:
        """Population variance (divisor :math:`n`) of shape :math:`(N,)`; NaN where nothing was seen."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._m2 / self.count

    def skewness(self) -> np.ndarray:
        r"""Skewness :math:`m_3 / m_2^{3/2}` of shape :math:`(N,)`; NaN for a constant trace."""
        with np.errstate(invalid="ignore", divide="ignore"):
            m2 = self._varying_m2()
            return (self._m3 / self.count) / m2**1.5

    def kurtosis(self, *, fisher: bool = True) -> np.ndarray:
        r"""Kurtosis :math:`m_4 / m_2^2` of shape :math:`(N,)`, minus 3 if ``fisher``; NaN if constant."""
        with np.errstate(invalid="ignore", divide="ignore"):
            m2 = self._varying_m2()
            return (self._m4 / self.count) / m2**2 - (3.0 if fisher else 0.0)

    def constant(self) -> np.ndarray:
        """Boolean (N,): the trace does not vary beyond rounding (the criterion scipy uses)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._m2 / self.count <= (np.finfo(np.float64).eps * self.mean) ** 2

    def _varying_m2(self) -> np.ndarray:
        return np.where(self.constant(), np.nan, self._m2 / self.count)

    def _add_panel(self, rows: np.ndarray) -> None:
        shift = self._shift(rows)
        sums = np.zeros((4, len(shift)))
        count = np.zeros(len(shift))
        for start in range(0, len(rows), self._rows):
            block = rows[start : start + self._rows]
            deviation, power = self._deviation[: len(block)], self._power[: len(block)]
            ones = self._ones[: len(block)]
            np.subtract(block, shift, out=deviation)
            first = ones @ deviation
            count += len(block)
            if np.isnan(first).any():
                missing = self._handle_nan(deviation)
                count -= missing
                first = ones @ deviation
            sums[0] += first
            np.multiply(deviation, deviation, out=power)
            sums[1] += ones @ power
            np.multiply(deviation, power, out=deviation)
            sums[2] += ones @ deviation
            np.multiply(power, power, out=power)
            sums[3] += ones @ power
        self._merge(count, *_central(shift, sums, count))

    def _shift(self, rows: np.ndarray) -> np.ndarray:
        """Where to take the powers about: the running mean, or a first guess where there is none."""
        unseen = self.count == 0
        if not unseen.any():
            return self.mean
        head = np.asarray(rows[: min(len(rows), 256)], dtype=np.float64)
        seen = np.isfinite(head)
        total = np.where(seen, head, 0.0).sum(axis=0)
        guess = total / np.maximum(seen.sum(axis=0), 1)
        return np.where(unseen, guess, self.mean)

    def _handle_nan(self, deviation: np.ndarray) -> np.ndarray:
        """Apply the NaN policy in place; return how many samples per neuron were left out."""
        nan = np.isnan(deviation)
        if self.nan_policy == "raise":
            column = int(np.flatnonzero(nan.any(axis=0))[0])
            raise PoyoSSLError(f"trace {column} contains NaN; pass nan_policy='omit' to leave such samples out")
        if self.nan_policy == "propagate":
            return np.zeros(deviation.shape[1])
        deviation[nan] = 0.0
        return nan.sum(axis=0)

    def _merge(self, n_b: np.ndarray, mean_b: np.ndarray, m2_b: np.ndarray, m3_b: np.ndarray, m4_b: np.ndarray) -> None:
        n_a, m2_a, m3_a = self.count, self._m2, self._m3
        n = n_a + n_b
        safe = np.maximum(n, 1.0)
        delta = np.where(n_b > 0, mean_b - self.mean, 0.0)
        a, b = n_a / safe, n_b / safe
        self.mean = self.mean + delta * b
        self._m4 = (
            self._m4
            + m4_b
            + delta**4 * a * b * (n_a * a - n_a * b + n_b * b)
            + 6 * delta**2 * (a**2 * m2_b + b**2 * m2_a)
            + 4 * delta * (a * m3_b - b * m3_a)
        )
        self._m3 = m3_a + m3_b + delta**3 * a * b * (n_a - n_b) + 3 * delta * (a * m2_b - b * m2_a)
        self._m2 = m2_a + m2_b + delta**2 * a * n_b
        self.count = n


def _central(
    shift: np.ndarray, sums: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and central moments (unnormalised) from sums of powers about ``shift``."""
    s1, s2, s3, s4 = sums
    d = s1 / np.maximum(count, 1.0)
    m2 = np.maximum(s2 - d * s1, 0.0)
    m3 = s3 - 3 * d * s2 + 2 * d**2 * s1
    m4 = s4 - 4 * d * s3 + 6 * d**2 * s2 - 3 * d**3 * s1
    return shift + d, m2, m3, m4


def row_blocks(x: np.ndarray, n_rows: int = 65_536) -> Iterator[np.ndarray]:
    """Yield consecutive views of at most ``n_rows`` rows of ``x``."""
    for start in range(0, len(x), n_rows):
        yield x[start : start + n_rows]


def skewness_kurtosis(
    x: np.ndarray, *, axis: int = 0, fisher: bool = True, nan_policy: NanPolicy = "propagate"
) -> tuple[np.ndarray, np.ndarray]:
    r"""Skewness and kurtosis of every trace, in one pass and float64.

    Agrees with ``scipy.stats.skew`` and ``scipy.stats.kurtosis`` (``bias=True``) of the same data
    in float64.

    Args:
        x: Real samples, any shape with at least one axis, any real dtype. For dF/F:
            :math:`(T, N)`, frames by neurons.
        axis: The time axis.
        fisher: Subtract 3 from the kurtosis, so that a normal distribution has 0. The paper's
            thresholds are read with this convention by default.
        nan_policy: ``"propagate"`` (as scipy), ``"omit"`` or ``"raise"``.

    Returns:
        Skewness and kurtosis, float64, of the shape of ``x`` without ``axis``: :math:`(N,)` each.
        NaN for a constant or empty trace.

    Raises:
        PoyoSSLError: If ``x`` is not a real array with at least one axis, or contains NaN and
            ``nan_policy="raise"``.

    Example:
        >>> import numpy as np
        >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [4.0, 3.0]])
        >>> skewness, kurtosis = skewness_kurtosis(x)
        >>> skewness.round(4).tolist(), kurtosis.round(4).tolist()
        ([1.1547, 0.0], [-0.6667, -1.36])
    """
    x = np.asarray(x)
    if x.ndim == 0 or x.dtype.kind not in "fiub":
        raise PoyoSSLError(f"x must be a real array with at least one axis, got shape {x.shape} and dtype {x.dtype}")
    x = np.moveaxis(x, axis, 0)
    shape = x.shape[1:]
    moments = Moments(int(np.prod(shape)), nan_policy=nan_policy)
    for rows in row_blocks(x):
        rows = rows.reshape(len(rows), -1)
        moments.update(rows.astype(np.float64) if rows.dtype.kind == "b" else rows)
    return moments.skewness().reshape(shape), moments.kurtosis(fisher=fisher).reshape(shape)
