"""Skewness and kurtosis of many traces in one streaming pass.

The paper (arXiv 2510.18516, section 3.1) ranks neurons by the skewness and kurtosis of their dF/F.
A recording has some 10^5 frames of some 10^2 neurons, and a release hundreds of recordings, so the
moments are accumulated panel by panel: memory does not grow with the length of the recording.

Sums of powers are taken about zero while every mean is near it, as those of dF/F are; otherwise, panel
by panel, about a mean of the panel's own. They are turned into central moments, which are merged with the
update formulas of Pebay (2008, Sandia report SAND2008-6212), so a large common offset costs no precision.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from poyo_ssl_plugin.errors import PoyoSSLError

NanPolicy = Literal["propagate", "omit", "raise"]

# Numbers in a block and least of them: calls of numpy cost more below. See ``_block_elements``.
_MOST_ELEMENTS, _LEAST_ELEMENTS = 32_768, 8_192
# Bytes of the second-level cache where the system does not say.
_SECOND_LEVEL = 1 << 20
# Central moments are made and merged once per panel; that costs ~40 small vector operations.
_BLOCKS_PER_PANEL = 64
# How many rows of a panel, and at most one in how many, tell where to take the powers about.
_GUESS_ROWS = 64
_GUESS_STEP = 16
# All traces of a panel have their powers taken about zero, or another number for all, if it is this close to
# every mean, in standard deviations: four cost three digits of sixteen.
_NEAR = 4.0
# Memory is what limits; more threads than this wait for it.
_MAX_THREADS = 4
# Into so many parts a long array is cut for them.
_PARTS = 8


class Moments:
    """Count, mean and second to fourth central moments of :math:`N` traces, accumulated by rows.

    Args:
        n_units: Number of traces :math:`N`.
        nan_policy: ``"omit"`` leaves NaN samples out, neuron by neuron. ``"propagate"`` gives NaN
            for a neuron with any NaN, as scipy does by default. ``"raise"`` refuses NaN.

    Raises:
        PoyoSSLError: If ``nan_policy`` is none of these.

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

    @classmethod
    def of(cls, rows: np.ndarray, *, nan_policy: NanPolicy = "omit") -> Moments:
        """Moments of samples of shape (T, N); see :meth:`update`."""
        moments = cls(rows.shape[1], nan_policy=nan_policy)
        moments.update(rows)
        return moments

    def update(self, rows: np.ndarray) -> None:
        """Add samples.

        Args:
            rows: Real samples of shape :math:`(T, N)`, any real dtype, any :math:`T`.
        """
        self.extend([rows])

    def extend(self, blocks: Iterable[np.ndarray]) -> None:
        """Add the samples of many blocks, as :meth:`update` does of one, at less cost for each.

        Args:
            blocks: Real samples of shape :math:`(T, N)` each, any real dtype, any :math:`T`.
        """
        raw, count = np.zeros((4, len(self.count))), 0
        about_zero = True
        for panel in (panel for rows in blocks for panel in row_blocks(rows, panel_rows(rows.shape[1]))):
            if about_zero:
                sums = _power_sums(panel)
                if about_zero := _near_zero(sums, len(panel)):
                    raw += sums
                    count += len(panel)
                    continue
            # Once a panel was not, its successors hardly are.
            self._add_panel(panel)
        if count:
            counts = np.full(raw.shape[1], float(count))
            self._merge(counts, *_central(np.zeros(raw.shape[1]), raw, counts))

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
        shift = _guess(rows)
        count = np.full(len(shift), float(len(rows)))
        sums = _power_sums(rows, shift)
        if np.isnan(sums[0]).any():
            deviation = rows - shift
            count -= self._handle_nan(deviation)
            sums = _power_sums(deviation)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite samples
            self._merge(count, *_central(shift, sums, count))

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


def _near_zero(sums: np.ndarray, count: int) -> bool:
    """Whether all traces are finite and their means near enough to 0 for sums of powers (4, N) about it."""
    first, second = sums[:2] / count
    with np.errstate(invalid="ignore", over="ignore"):
        return bool((first**2 <= _NEAR**2 * (second - first**2)).all())


def _guess(rows: np.ndarray) -> np.ndarray:
    """Where to take the powers about, float64 (N,): means, from rows all over the panel.

    The same number for all traces where that is at most ``_NEAR`` standard deviations from the mean of
    each.
    """
    some = rows[:: max(len(rows) // _GUESS_ROWS, _GUESS_STEP)].astype(np.float64)
    seen = np.isfinite(some)
    if not seen.all():
        some = np.where(seen, some, 0.0)
    n = np.maximum(seen.sum(axis=0), 1)
    mean = some.sum(axis=0) / n
    variance = np.maximum(np.einsum("tn,tn->n", some, some) / n - mean**2, 0.0)
    common = mean.mean() if len(mean) else 0.0
    same = ((mean - common) ** 2 <= _NEAR**2 * variance).all()
    return np.full_like(mean, common) if same else mean


def _power_sums(rows: np.ndarray, shift: np.ndarray | None = None) -> np.ndarray:
    """Sums of the first four powers of ``rows - shift``, or of ``rows`` alone, float64 (4, N).

    Two buffers that stay in the cache are read by BLAS as one pair: eight passes, six calls.
    """
    n_rows, n_units = rows.shape
    height = min(block_rows(n_units), max(n_rows, 1))
    pair = _local.pair(height, n_units)
    ones = np.ones((1, height))
    sums = np.empty((4, 1, n_units))
    total = np.zeros((4, 1, n_units))
    # Subtracting one number is faster than subtracting a row.
    common = shift if shift is None or not n_units or (shift != shift[0]).any() else shift[0]
    for block in row_blocks(rows, height):
        odd, even = used = pair[:, : len(block)]
        one = ones[:, : len(block)]
        if common is None:
            np.copyto(odd, block)
        else:
            np.subtract(block, common, out=odd)
        np.square(odd, out=even)
        np.matmul(one, used, out=sums[:2])
        np.multiply(odd, even, out=odd)
        np.square(even, out=even)
        np.matmul(one, used, out=sums[2:])
        total += sums
    return total[:, 0]


class _Buffers(threading.local):
    """A pair of buffers per thread: fresh memory for every panel would cost more than the sums."""

    def __init__(self) -> None:
        self._pair = np.empty((2, 0, 0))

    def pair(self, n_rows: int, n_units: int) -> np.ndarray:
        if self._pair.shape != (2, n_rows, n_units):
            self._pair = np.empty((2, n_rows, n_units))
        return self._pair


_local = _Buffers()


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


def block_rows(n_units: int) -> int:
    """Rows of a block of ``n_units`` traces."""
    return min(max(1, _block_elements() // max(1, n_units)), 4096)


@functools.cache
def _block_elements(cache: Path = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")) -> int:
    """Numbers in a block: two float64 buffers of it fill half of the second-level cache of a core.

    So they stay there while four powers are summed.
    """
    try:
        size = int(cache.read_text().strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        size = _SECOND_LEVEL
    return min(max(size // 32, _LEAST_ELEMENTS), _MOST_ELEMENTS)


def panel_rows(n_units: int) -> int:
    """Rows of a panel of ``n_units`` traces."""
    return _BLOCKS_PER_PANEL * block_rows(n_units)


def row_blocks(x: np.ndarray, n_rows: int) -> Iterator[np.ndarray]:
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
    n_units = int(np.prod(shape))
    moments = Moments(n_units, nan_policy=nan_policy)

    def measure(rows: np.ndarray) -> Moments:
        rows = rows.reshape(len(rows), n_units)
        return Moments.of(rows.astype(np.float64) if rows.dtype.kind == "b" else rows, nan_policy=nan_policy)

    # The same parts whatever the number of threads, and so the same sums.
    panels = list(row_blocks(x, max(panel_rows(n_units), -(-len(x) // _PARTS))))
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        # One panel is not worth a thread.
        for panel in pool.map(measure, panels) if len(panels) > 1 else map(measure, panels):
            moments.merge(panel)
    return moments.skewness().reshape(shape), moments.kurtosis(fisher=fisher).reshape(shape)
