"""Means, intervals and paired comparisons of a few runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval (Student's t over the values).

    Attributes:
        mean: The mean.
        low: Lower end; equal to the mean where there is one value only.
        high: Upper end.
        n: Number of values.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of values.

    Example:
        >>> str(estimate([0.5, 0.6, 0.7]))
        '0.600 [0.352, 0.848]'
    """
    from scipy.stats import t

    x = np.asarray(values, dtype=float)
    mean = float(x.mean())
    if len(x) < 2:
        return Estimate(mean, mean, mean, len(x))
    half = float(t.ppf(0.975, len(x) - 1)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Estimate(mean, mean - half, mean + half, len(x))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of ``a - b``, pair by pair (the same seed and fold).

    Example:
        >>> str(paired_difference([0.7, 0.8, 0.9], [0.5, 0.6, 0.7]))
        '0.200 [0.200, 0.200]'
    """
    return estimate(np.asarray(a, float) - np.asarray(b, float))


def binomial_interval(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, for a decoder that was tested once.

    Example:
        >>> [round(x, 3) for x in binomial_interval(8, 10)]
        [0.49, 0.943]
    """
    z, share = 1.959963984540054, correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half
