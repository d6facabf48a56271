"""Statistical functions against scipy and against simulations whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from poyo_ssl_plugin.compare.statistics import compare_pairs, estimate, holm, trend


class TestPairs:
    a, b = [0.61, 0.55, 0.58, 0.66], [0.5, 0.52, 0.51, 0.55]

    def test_against_scipy(self):
        found = compare_pairs(self.a, self.b)
        expected = stats.ttest_rel(self.a, self.b)
        interval = expected.confidence_interval()
        assert found.p == pytest.approx(expected.pvalue)
        assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high))

    def test_the_exact_p_counts_sign_flips(self):
        difference = np.array(self.a) - np.array(self.b)
        flips = [np.mean(difference * signs) for signs in itertools.product([1, -1], repeat=4)]
        expected = np.mean(np.abs(flips) >= abs(difference.mean()) - 1e-12)
        assert compare_pairs(self.a, self.b).p_exact == pytest.approx(expected) == 2 / 16

    def test_degenerate_pairs(self):
        one = compare_pairs([0.5], [0.4])
        assert one.p is None and one.p_exact is None and one.relative == pytest.approx(0.25)
        same = compare_pairs([0.5, 0.6], [0.5, 0.6])
        assert same.p == 1.0 and same.difference.mean == 0
        assert compare_pairs([0.7, 0.6], [0.6, 0.5]).p == 0.0
        nothing = compare_pairs([0.1, 0.2], [0.0, 0.0])
        assert nothing.relative is None and nothing.relative_ci95 is None

    def test_intervals_cover_the_truth(self):
        """Differences and relative gains of correlated pairs, five at a time: 95 % of intervals hold them."""
        rng = np.random.default_rng(0)
        n, inside, inside_relative = 2000, 0, 0
        for _ in range(n):
            shared = rng.normal(0, 0.05, 5)
            a, b = 0.56 + shared + rng.normal(0, 0.02, 5), 0.5 + shared + rng.normal(0, 0.02, 5)
            found = estimate(a - b)
            inside += found.low <= 0.06 <= found.high
            from poyo_ssl_plugin.compare.statistics import _fieller

            low, high = _fieller(a, b)
            inside_relative += low <= 0.12 <= high
        assert inside / n == pytest.approx(0.95, abs=0.015) and inside_relative / n == pytest.approx(0.95, abs=0.015)

    def test_without_a_difference_one_in_twenty_is_significant(self):
        rng = np.random.default_rng(1)
        p = [stats.ttest_rel(*rng.normal(size=(2, 5))).pvalue for _ in range(5)]
        x = rng.normal(size=(400, 2, 5))
        ours = [compare_pairs(a.tolist(), b.tolist()).p for a, b in x]
        assert np.mean(np.array(ours) < 0.05) == pytest.approx(0.05, abs=0.035) and len(p) == 5


class TestHolm:
    def test_by_hand(self):
        assert holm([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.06, 0.06, 0.5])
        assert holm([]) == [] and holm([None, 0.2]) == [None, 0.2]

    def test_the_chance_of_any_false_finding(self):
        p = np.random.default_rng(0).uniform(size=(4000, 8))
        any_found = [min(holm(row.tolist())) < 0.05 for row in p]
        assert np.mean(any_found) == pytest.approx(0.05, abs=0.012)


class TestTrend:
    def test_against_scipy(self):
        values = np.random.default_rng(0).normal(size=(4, 5)) + np.arange(5)
        found = trend(values)
        assert found.page_p == pytest.approx(stats.page_trend_test(values).pvalue)
        expected = stats.spearmanr(np.tile(np.arange(5), 4), values.ravel(), alternative="greater")
        assert (found.spearman, found.spearman_p) == pytest.approx((expected.statistic, expected.pvalue))
        slope = estimate([stats.linregress(np.arange(5), row).slope for row in values])
        assert (found.slope.mean, found.slope.low) == pytest.approx((slope.mean, slope.low))

    def test_up_down_and_flat(self):
        up = trend(np.arange(5) + np.zeros((3, 1)))
        assert up.monotone and up.page_p < 0.001 and up.slope.mean == pytest.approx(1)
        down = trend(-np.arange(5) + np.zeros((3, 1)))
        assert down.steps_down == 4 and not down.monotone and down.page_p > 0.99
        flat = trend(np.ones((3, 5)))
        assert flat.spearman is None and flat.monotone and flat.page_p > 0.05
        assert trend(np.ones((1, 5))).page_p is None and trend(np.ones((3, 2))).page_p is None

    def test_without_a_trend_one_in_twenty_is_significant(self):
        rng = np.random.default_rng(2)
        found = np.mean([trend(rng.normal(size=(3, 5))).page_p < 0.05 for _ in range(300)])
        assert found == pytest.approx(0.05, abs=0.04)
