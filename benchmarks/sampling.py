"""One epoch of windows: the paper's 1.17 million of 433 recordings."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from benchmarks.harness import Row, Settings, race
from poyo_ssl_plugin import PredictabilitySampler
from poyo_ssl_plugin.compat import Interval, RandomFixedWindowSampler

WINDOW = 0.2


def run(settings: Settings) -> Iterator[Row]:
    n_recordings = settings.pick(433, 20)
    intervals = {f"r{i}": Interval(0.0, 540.5) for i in range(n_recordings)}
    # The stock sampler's time is per window; a tenth of the recordings shows it.
    part = {name: intervals[name] for name in list(intervals)[: max(1, n_recordings // 10)]}
    ours = PredictabilitySampler(sampling_intervals=intervals, window_length=WINDOW)
    stock = RandomFixedWindowSampler(sampling_intervals=part, window_length=WINDOW)
    best = race(
        {"ours": lambda: exhaust(ours), "stock, a tenth": lambda: exhaust(stock)},
        settings.pick(5, 2),
        clock=time.process_time,
    )
    scale = len(ours) / len(stock)
    yield Row(
        f"one epoch of {len(ours):,} windows, {n_recordings} recordings",
        "RandomFixedWindowSampler",
        best["stock, a tenth"] * scale / best["ours"],
        20,
        details={"seconds": best, "stock times": scale},
    )
    yield Row("  until the first window", "-", min(first(ours) for _ in range(5)), 0.5, sense="<=", unit="s")


def exhaust(sampler: PredictabilitySampler | RandomFixedWindowSampler) -> None:
    deque(sampler, maxlen=0)


def first(sampler: PredictabilitySampler) -> float:
    begin = time.perf_counter()
    next(iter(sampler))
    return time.perf_counter() - begin
