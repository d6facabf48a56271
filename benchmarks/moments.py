"""Skewness and kurtosis of an array in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from scipy import stats

from benchmarks.harness import Row, Settings, race
from poyo_ssl_plugin.predictability import skewness_kurtosis


def run(settings: Settings) -> Iterator[Row]:
    shape = settings.pick((115_000, 250), (20_000, 100))
    # Like dF/F: a tail to the right, a mean near the bulk.
    x = np.random.default_rng(0).gamma(2.0, 0.1, size=shape)
    best = race(
        {
            "ours": lambda: skewness_kurtosis(x),
            "scipy": lambda: (stats.skew(x), stats.kurtosis(x)),
            "numpy.sum": lambda: np.sum(x),
        },
        settings.pick(5, 2),
        clock=time.process_time,
    )
    details = {"processor seconds": best, "shape": shape, "dtype": "float64"}
    yield Row(
        "skewness + kurtosis in memory",
        "scipy.stats.skew + kurtosis",
        best["scipy"] / best["ours"],
        17,
        details=details,
    )
    yield Row(
        "  in passes of numpy.sum", "one numpy.sum", best["ours"] / best["numpy.sum"], 4, sense="<=", details=details
    )
