"""Means, intervals and paired comparisons of a few runs that share their test trials.

A difference between two arms varies for two reasons: other runs (seeds, folds) and other test trials. The
intervals of ``Scores`` cover both, so neither equal runs nor many trials make a difference sure by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimate", "estimate"]

# Fewer than these support no verdict.
MIN_RUNS, MIN_TRIALS = 3, 20
UNBOUNDED = (-math.inf, math.inf)
# A variance that is rounding.
_NOTHING = 1e-24


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval.

    Attributes:
        mean: The mean.
        ci95: Both ends of the interval; ``None`` where there is none: of one value, or of values that are all
            equal and so say nothing of their spread.
        n: Number of independent values.

    Example:
        >>> str(Estimate(0.6, ci95=[0.352, 0.848], n=3))
        '0.600 [0.352, 0.848]'
    """

    mean: float
    ci95: list[float] | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.ci95 is None else " [{:.3f}, {:.3f}]".format(*self.ci95))


def estimate(values: Sequence[float] | np.ndarray, *, bounds: tuple[float, float] = UNBOUNDED) -> Estimate:
    """Mean and Student's 95 % interval of independent values; one value has no interval.

    Args:
        values: The values, (N,).
        bounds: Least and greatest possible value; the interval does not leave them.

    Example:
        >>> str(estimate([0.5, 0.6, 0.7])), str(estimate([0.5]))
        ('0.600 [0.352, 0.848]', '0.500')
    """
    return Scores(np.asarray(values, dtype=float)[:, None]).estimate(bounds)


def unit_means(values: Sequence[float], units: Sequence[Hashable]) -> list[float]:
    """Means within independent units, in order of their first value, to be given to :func:`estimate`.

    Seeds that share a fold, a simulated data set or an animal are no samples of their own: the unit is.

    Example:
        >>> unit_means([0.25, 0.75, 0.9], ["first data set", "first data set", "second"])
        [0.5, 0.9]
    """
    found: dict[Hashable, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        found.setdefault(unit, []).append(value)
    return [float(np.mean(of_unit)) for of_unit in found.values()]


def student(df: float) -> float:
    """How many standard errors Student's 95 % interval reaches to each side."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.975))


@dataclass(frozen=True)
class Spread:
    """Variance of a mean, and its degrees of freedom."""

    variance: float
    df: float


@dataclass(frozen=True)
class Scores:
    """What the runs of an arm scored.

    Attributes:
        values: With ``folds``, the mean of each fold over seeds and trials, (folds,). Otherwise runs by test
            trials, (runs, trials): all runs are tested on the same trials.
        folds: Whether the runs are folds of a cross-validation, each tested on trials of its own.
    """

    values: np.ndarray
    folds: bool = False

    def __sub__(self, other: Scores) -> Scores:
        return Scores(self.values - other.values, self.folds)

    @property
    def mean(self) -> float:
        """Mean over runs and trials."""
        return float(self.values.mean())

    @property
    def runs(self) -> np.ndarray:
        """Mean of each run, (runs,)."""
        return self.values if self.folds else self.values.mean(axis=1)

    @property
    def spread(self) -> Spread | None:
        """Variance of the mean over runs and trials; ``None`` of one run.

        Of folds it is corrected for the training data that they share (Nadeau and Bengio 2003: 1/n becomes
        1/n + n_test/n_train); trials of their own make folds differ, so this covers trials too. Of runs that
        share their trials both are random effects: (MS_runs + MS_trials - MS_rest) / (n_runs n_trials), at
        least the larger one of them alone, with Satterthwaite's degrees of freedom.
        """
        n = len(self.values)
        if n < 2:
            return None
        if self.folds:
            return Spread((1 / n + 1 / (n - 1)) * float(self.values.var(ddof=1)), n - 1)
        of_runs, of_trials = self.values.mean(axis=1), self.values.mean(axis=0)
        n_trials = len(of_trials)
        runs = float(of_runs.var(ddof=1)) / n
        if n_trials < 2:
            return Spread(runs, n - 1)
        trials = float(of_trials.var(ddof=1)) / n_trials
        rest = self.values - of_runs[:, None] - of_trials + self.mean
        df = (n - 1) * (n_trials - 1)
        overlap = float((rest**2).sum()) / df / (n * n_trials)
        variance = max(runs + trials - overlap, runs, trials)
        below = runs**2 / (n - 1) + trials**2 / (n_trials - 1) + overlap**2 / df
        return Spread(variance, variance**2 / below if below > 0 else n - 1)

    def estimate(self, bounds: tuple[float, float] = UNBOUNDED) -> Estimate:
        """Mean and 95 % interval over runs and trials.

        Example:
            >>> equal = Scores(np.array([[1, 1, 0, 1], [1, 1, 0, 1]]))
            >>> str(equal.estimate((0, 1)))  # equal runs do not make it sure
            '0.750 [0.000, 1.000]'
        """
        spread, n = self.spread, len(self.values)
        if spread is None or spread.variance <= _NOTHING:
            return Estimate(self.mean, None, n)
        half = student(spread.df) * math.sqrt(spread.variance)
        return Estimate(self.mean, [float(np.clip(end, *bounds)) for end in (self.mean - half, self.mean + half)], n)


def binomial_interval(correct: float, n: int) -> list[float]:
    """Wilson's 95 % interval of a fraction, for a decoder that was tested once.

    Example:
        >>> [round(x, 3) for x in binomial_interval(8, 10)]
        [0.49, 0.943]
    """
    z, fraction = 1.959963984540054, correct / n
    centre = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
    return [centre - half, centre + half]


@dataclass(frozen=True)
class PairedComparison(Estimate):
    """The difference ``a - b`` between two arms on the same runs and trials.

    Attributes:
        p: Two-sided p that belongs to the interval; ``None`` where it cannot be computed: of one run, or where
            all differences are equal and so say nothing of their spread.
        p_exact: Two-sided p of the sign-flip permutation test over runs, which assumes no distribution; it
            cannot be below ``2 / 2**n``.
        relative_gain: ``mean(a) / mean(b) - 1``; ``None`` where ``b`` is 0.
        relative_ci95: Its 95 % interval (Fieller's); ``None`` where ``b`` is not told from 0.
    """

    p: float | None
    p_exact: float | None
    relative_gain: float | None
    relative_ci95: list[float] | None


def compare_scores(a: Scores, b: Scores, *, bounds: tuple[float, float] = UNBOUNDED) -> PairedComparison:
    """Compare ``a`` with ``b``, run by run and trial by trial.

    Args:
        a: Scores of an arm.
        b: Those of the reference, of the same runs and trials.
        bounds: Least and greatest possible difference.

    Example:
        >>> a, b = Scores(np.array([0.60, 0.66, 0.63]), folds=True), Scores(np.array([0.50, 0.54, 0.52]), folds=True)
        >>> found = compare_scores(a, b)
        >>> str(found), round(found.p, 3), found.p_exact, round(found.relative_gain, 3)
        ('0.110 [0.071, 0.149]', 0.007, 0.25, 0.212)
    """
    difference = a - b
    return PairedComparison(
        **vars(difference.estimate(bounds)),
        p=p_value(difference),
        p_exact=_sign_flip(difference.runs) if len(difference.runs) >= 2 else None,
        relative_gain=a.mean / b.mean - 1 if b.mean > 0 else None,
        relative_ci95=relative_interval(a, b),
    )


def p_value(difference: Scores) -> float | None:
    """Two-sided p for a mean difference of 0, over runs and trials; see :class:`PairedComparison`."""
    from scipy.special import stdtr

    spread = difference.spread
    if spread is None:
        return None
    if spread.variance <= _NOTHING:
        return 1.0 if abs(difference.mean) <= 1e-12 else None
    p = 2 * float(stdtr(spread.df, -abs(difference.mean) / math.sqrt(spread.variance)))
    return max(p, float(np.finfo(float).tiny))


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
            blocks or three levels, or where blocks share a pretraining.
        spearman: Rank correlation of level and value over all runs; ``None`` if all values are equal.
        steps_down: How many steps from one level's mean to the next go down.
        monotone: Whether none does.
        slope: Mean rise over one step of the factor, by a line through each block.
        slope_ci95: Its 95 % interval.
    """

    page_p: float | None
    spearman: float | None
    steps_down: int
    monotone: bool
    slope: float
    slope_ci95: list[float] | None


def trend(values: np.ndarray, *, folds: bool = False, shared: bool = False) -> Trend:
    """Test for a rise over levels.

    Args:
        values: Shape (blocks, levels), levels in their order, one value per block and level.
        folds: Whether blocks are folds of a cross-validation; their interval is corrected.
        shared: Whether blocks share one pretraining at each level. They are then no independent blocks, and
            there is no test.

    Example:
        >>> result = trend(np.array([[0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.3, 0.5], [0.1, 0.3, 0.4, 0.4]]))
        >>> result.monotone, result.page_p < 0.01, round(result.slope, 2)
        (True, True, 0.1)
    """
    from scipy import stats

    values = np.asarray(values, dtype=float)
    n_blocks, n_levels = values.shape
    level = np.arange(n_levels)
    page = stats.page_trend_test(values).pvalue if n_blocks >= 2 and n_levels >= 3 and not shared else None
    rho = None
    if np.ptp(values) > 0 and n_levels >= 3:
        rho = float(stats.spearmanr(np.tile(level, n_blocks), values.ravel()).statistic)
    down = int((np.diff(values.mean(axis=0)) < 0).sum())
    slopes = [float(np.polyfit(level, row, 1)[0]) for row in values] if n_levels > 1 else [0.0]
    slope = Scores(np.array(slopes), folds=True).estimate() if folds else estimate(slopes)
    return Trend(None if page is None else float(page), rho, down, down == 0, slope.mean, slope.ci95)


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


def relative_interval(a: Scores, b: Scores) -> list[float] | None:
    """Fieller's 95 % interval of ``mean(a) / mean(b) - 1`` for pairs: all ratios r for which mean(a - r b) may be 0."""
    of_a, of_b, of_difference = a.spread, b.spread, (a - b).spread
    if of_a is None or of_b is None or of_difference is None or b.mean <= 0:
        return None
    covariance = (of_a.variance + of_b.variance - of_difference.variance) / 2
    t2 = student(of_difference.df) ** 2
    quadratic = b.mean**2 - t2 * of_b.variance
    linear = a.mean * b.mean - t2 * covariance
    constant = a.mean**2 - t2 * of_a.variance
    if quadratic <= 0:
        return None
    half = math.sqrt(max(linear**2 - quadratic * constant, 0.0))
    return [(linear - half) / quadratic - 1, (linear + half) / quadratic - 1]
