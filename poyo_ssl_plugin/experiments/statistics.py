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


@dataclass(frozen=True)
class PairedComparison:
    """Two arms on the same pairs (seeds, folds or trials).

    Attributes:
        difference: Mean of ``a - b`` with its 95 % interval.
        p: Two-sided p of the paired t-test; ``None`` where it cannot be computed (fewer than 2 pairs).
        p_exact: Two-sided p of the sign-flip permutation test, which assumes no distribution; it cannot be
            below ``2 / 2**n``.
        relative: Relative gain ``mean(a) / mean(b) - 1``; ``None`` where ``b`` is 0.
        relative_ci95: Its 95 % interval (Fieller's); ``None`` where ``b`` is not told from 0.
    """

    difference: Estimate
    p: float | None
    p_exact: float | None
    relative: float | None
    relative_ci95: tuple[float, float] | None


def compare_pairs(a: Sequence[float], b: Sequence[float]) -> PairedComparison:
    """Compare ``a`` with ``b``, pair by pair.

    Example:
        >>> result = compare_pairs([0.60, 0.66, 0.63], [0.50, 0.54, 0.52])
        >>> str(result.difference), round(result.p, 4), result.p_exact, round(result.relative, 3)
        ('0.110 [0.085, 0.135]', 0.0027, 0.25, 0.212)
    """
    from scipy import stats

    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    difference = x - y
    p = p_exact = None
    if len(x) >= 2:
        # Equal differences have no variance: they are told from 0 with certainty, or not at all.
        varies = float(difference.std(ddof=1)) > 1e-12
        p = float(stats.ttest_rel(x, y).pvalue) if varies else float(abs(difference.mean()) < 1e-12)
        p_exact = _sign_flip(difference)
    relative = float(x.mean() / y.mean() - 1) if y.mean() > 0 else None
    return PairedComparison(estimate(difference), p, p_exact, relative, _fieller(x, y))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjustment of several p values: the chance of one false finding among all of them stays below p.

    What is ``None`` stays so and does not count.

    Example:
        >>> holm([0.01, 0.04, None, 0.03])
        [0.03, 0.06, None, 0.06]
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Trend:
    """Whether a measure rises with an ordered factor such as the size of a model.

    Attributes:
        page_p: One-sided p of Page's test for a rise, over blocks (seeds or folds); ``None`` with fewer than two
            blocks or three levels.
        spearman: Rank correlation of level and value over all runs; ``None`` if all values are equal.
        spearman_p: Its one-sided p for a rise, over runs.
        steps_down: How many steps from one level's mean to the next go down.
        monotone: Whether none does.
        slope: Mean rise over one step of the factor, by a line through each block, with its 95 % interval.
    """

    page_p: float | None
    spearman: float | None
    spearman_p: float | None
    steps_down: int
    monotone: bool
    slope: Estimate


def trend(values: np.ndarray) -> Trend:
    """Test for a rise over levels.

    Args:
        values: Shape (blocks, levels), levels in their order, one value per block and level.

    Example:
        >>> result = trend(np.array([[0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.3, 0.5], [0.1, 0.3, 0.4, 0.4]]))
        >>> result.monotone, result.page_p < 0.01, round(result.slope.mean, 2)
        (True, True, 0.1)
    """
    from scipy import stats

    values = np.asarray(values, dtype=float)
    n_blocks, n_levels = values.shape
    level = np.arange(n_levels)
    page = stats.page_trend_test(values).pvalue if n_blocks >= 2 and n_levels >= 3 else None
    rho = rho_p = None
    if np.ptp(values) > 0 and n_levels >= 3:
        # With three runs or fewer there is no p.
        found = stats.spearmanr(np.tile(level, n_blocks), values.ravel(), alternative="greater")
        rho, rho_p = float(found.statistic), float(found.pvalue) if values.size > 3 else None
    down = int((np.diff(values.mean(axis=0)) < 0).sum())
    slopes = [float(np.polyfit(level, row, 1)[0]) for row in values] if n_levels > 1 else [0.0]
    return Trend(None if page is None else float(page), rho, rho_p, down, down == 0, estimate(slopes))


def _sign_flip(difference: np.ndarray) -> float:
    from scipy import stats

    resamples = np.inf if len(difference) <= 13 else 9999
    found = stats.permutation_test(
        (difference, np.zeros_like(difference)),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        random_state=0,
    )
    return float(found.pvalue)


def _fieller(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of ``mean(x) / mean(y) - 1`` for pairs: all ratios r for which mean(x - r y) may be 0."""
    from scipy import stats

    n = len(x)
    if n < 2 or y.mean() <= 0:
        return None
    t2 = float(stats.t.ppf(0.975, n - 1)) ** 2
    covariance = np.cov(x, y) / n
    quadratic = y.mean() ** 2 - t2 * covariance[1, 1]
    linear = x.mean() * y.mean() - t2 * covariance[0, 1]
    constant = x.mean() ** 2 - t2 * covariance[0, 0]
    inside = linear**2 - quadratic * constant
    if quadratic <= 0:
        return None
    half = math.sqrt(max(inside, 0.0))
    return (linear - half) / quadratic - 1, (linear + half) / quadratic - 1
