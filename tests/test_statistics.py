"""Statistical functions against scipy and against simulations whose truth is known."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from scipy import stats

from poyo_ssl_plugin.compare.estimates import (
    Scores,
    binomial_interval,
    compare_scores,
    estimate,
    holm,
    p_value,
    relative_interval,
    trend,
    unit_means,
)
from poyo_ssl_plugin.compare.results import pool_data_sets

# Draws of a simulated rate.
N = 4000


def assert_rate(happened: list[bool], expected: float) -> None:
    """How often it happened is as often as expected: once in ten thousand tests it may be further off by chance."""
    low, high = stats.binom.interval(0.9999, len(happened), expected)
    assert low <= sum(happened) <= high, sum(happened) / len(happened)


def assert_false_findings(differences: Iterable[Scores], expected: float) -> None:
    """How often differences whose true mean is 0 have p < 0.05, and an interval without 0 whenever they have."""
    found = [(p_value(scores), scores.estimate().ci95) for scores in differences]
    assert all((p < 0.05) == (not low <= 0 <= high) for p, (low, high) in found)
    assert_rate([p < 0.05 for p, _ in found], expected)


def test_the_interval_is_student_s_and_stays_within_its_bounds():
    x = [0.4, 0.55, 0.5, 0.61]
    low, high = stats.t.interval(0.95, 3, np.mean(x), stats.sem(x))
    assert estimate(x).ci95 == pytest.approx([low, high])
    assert estimate([0.0, 1.0], bounds=(0, 1)).ci95 == [0, 1]


def test_one_run_has_no_interval_and_no_p():
    assert estimate([0.5]).ci95 is None
    one = compare_scores(Scores(np.array([[1.0, 0, 1]])), Scores(np.array([[0.0, 0, 1]])))
    assert one.ci95 is None and one.p is None and one.p_exact is None and one.relative_ci95 is None


def test_wilson():
    expected = stats.binomtest(45, 60).proportion_ci(method="wilson")
    assert binomial_interval(45, 60) == pytest.approx([expected.low, expected.high])


def test_units_count_once():
    assert unit_means([1.0, 0.0, 0.5], ["a", "a", "b"]) == [0.5, 0.5]
    results = [{"arms": {"a": {"mean": 0.5 + gain}, "scratch": {"mean": 0.5}}} for gain in (0.1, 0.2, 0.4)]
    pooled = pool_data_sets(results, "a")
    assert pooled.n == 3 and pooled.p == pytest.approx(stats.ttest_1samp([0.1, 0.2, 0.4], 0).pvalue)


class TestRunsAndTrials:
    def test_equal_runs_are_as_sure_as_their_trials(self):
        """Two seeds that happen to agree: the interval is that over trials, and p is none of certainty."""
        rng = np.random.default_rng(0)
        a, b = (Scores(np.tile(rng.integers(0, 2, 40), (2, 1)).astype(float)) for _ in range(2))
        difference = (a - b).values[0]
        found = compare_scores(a, b)
        half = (found.ci95[1] - found.ci95[0]) / 2
        assert half >= 1.9 * difference.std(ddof=1) / np.sqrt(40) and found.p > 0.05

    def test_equal_differences_have_no_p(self):
        a, b = Scores(np.ones((3, 5))), Scores(np.zeros((3, 5)))
        assert compare_scores(a, b).p is None and compare_scores(a, a).p == 1.0
        assert compare_scores(a, b).relative_gain is None and compare_scores(a, b).ci95 is None

    def test_p_is_never_zero(self):
        a, b = Scores(np.array([0.5, 0.5 + 1e-9, 0.5]), folds=True), Scores(np.zeros(3), folds=True)
        assert 0 < compare_scores(a, b).p < 1e-6

    def test_variance_and_degrees_of_freedom_are_those_of_mean_squares(self):
        rng = np.random.default_rng(0)
        x = rng.normal(0, 1, (4, 1)) + rng.normal(0, 1, 9) + rng.normal(0, 1, (4, 9))
        rows, columns = np.indices(x.shape)
        total, of_runs, of_trials = (
            sum(np.sum(x[group == k]) ** 2 / np.sum(group == k) for k in np.unique(group)) - x.sum() ** 2 / x.size
            for group in (np.arange(x.size).reshape(x.shape), rows, columns)
        )
        squares, df = np.array([of_runs, of_trials, total - of_runs - of_trials]), np.array([3, 8, 24])
        parts = squares / df / x.size * [1, 1, -1]
        assert Scores(x).spread.variance == pytest.approx(parts.sum())
        assert Scores(x).spread.df == pytest.approx(parts.sum() ** 2 / (parts**2 / df).sum())

    @pytest.mark.parametrize(
        ("of_runs", "of_trials", "expected"),
        [(1.0, 3.0, 0.05), (0.1, 0.0, 0.039), (0.0, 0.3, 0.035), (0.05, 0.1, 0.033)],
    )
    def test_false_findings_whether_runs_vary_or_trials_or_both(self, of_runs, of_trials, expected):
        """Degrees of freedom are approximate (Satterthwaite): where one hardly varies, the test is strict."""
        rng = np.random.default_rng(1)
        runs, trials = rng.normal(0, of_runs, (N, 4, 1)), rng.normal(0, of_trials, (N, 1, 30))
        assert_false_findings(map(Scores, runs + trials + rng.normal(0, 0.3, (N, 4, 30))), expected)


class TestFolds:
    def test_the_variance_is_corrected_for_shared_training_data(self):
        x = np.array([0.1, 0.14, 0.2, 0.12, 0.19])
        found = Scores(x, folds=True).estimate()
        half = stats.t.ppf(0.975, 4) * np.sqrt((1 / 5 + 1 / 4) * x.var(ddof=1))
        assert found.ci95 == pytest.approx([x.mean() - half, x.mean() + half])

    def test_the_exact_p_counts_sign_flips(self):
        a, b = np.array([0.61, 0.55, 0.58, 0.66]), np.array([0.5, 0.52, 0.51, 0.55])
        flips = [np.mean((a - b) * signs) for signs in itertools.product([1, -1], repeat=4)]
        expected = np.mean(np.abs(flips) >= abs((a - b).mean()) - 1e-12)
        assert compare_scores(Scores(a, folds=True), Scores(b, folds=True)).p_exact == pytest.approx(expected) == 2 / 16

    def test_false_findings_of_folds_that_share_training_data(self):
        """Correlated by 1/n, as Nadeau and Bengio assume of n folds, the corrected test is exact."""
        rng = np.random.default_rng(0)
        values = np.sqrt(1 / 5) * rng.normal(size=(N, 1)) + np.sqrt(4 / 5) * rng.normal(size=(N, 5))
        assert_false_findings((Scores(row, folds=True) for row in values), 0.05)

    def test_relative_gains_cover_the_truth(self):
        rng = np.random.default_rng(0)
        shared = rng.normal(0, 0.05, (N, 5, 1))
        a, b = (mean + shared + rng.normal(0, 0.02, (N, 5, 1)) for mean in (0.56, 0.5))
        ends = [relative_interval(Scores(one), Scores(other)) for one, other in zip(a, b, strict=True)]
        assert_rate([not low <= 0.12 <= high for low, high in ends], 0.05)


def test_holm_by_hand():
    assert holm([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert holm([]) == [] and holm([None, 0.2]) == [None, 0.2]


class TestTrend:
    def test_against_scipy(self):
        values = np.random.default_rng(0).normal(size=(4, 5)) + np.arange(5)
        found = trend(values)
        assert found.page_p == pytest.approx(stats.page_trend_test(values).pvalue)
        assert found.spearman == pytest.approx(stats.spearmanr(np.tile(np.arange(5), 4), values.ravel()).statistic)
        slopes = [stats.linregress(np.arange(5), row).slope for row in values]
        assert found.slope_ci95 == pytest.approx(estimate(slopes).ci95)
        assert trend(values, folds=True).slope_ci95 == pytest.approx(Scores(np.array(slopes), True).estimate().ci95)

    def test_seeds_of_one_pretraining_are_no_blocks(self):
        assert trend(np.arange(5) + np.zeros((3, 1)), shared=True).page_p is None

    def test_up_down_and_flat(self):
        up = trend(np.arange(5) + np.zeros((3, 1)))
        assert up.monotone and up.page_p < 0.001 and up.slope == pytest.approx(1)
        down = trend(-np.arange(5) + np.zeros((3, 1)))
        assert down.steps_down == 4 and not down.monotone and down.page_p > 0.99
        flat = trend(np.ones((3, 5)))
        assert flat.spearman is None and flat.monotone and flat.page_p > 0.05
        assert trend(np.ones((1, 5))).page_p is None and trend(np.ones((3, 2))).page_p is None
