"""Timing peers side by side.

A shared machine is never quiet, so no time stands alone: what is compared runs in turns, in one process,
and each peer counts with the best of its turns. One figure, a ratio, comes of it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass
class Row:
    """One measured claim.

    Attributes:
        name: What was measured.
        against: What it was measured against.
        ratio: The measured ratio.
        reach: The ratio to reach.
        sense: Whether the ratio must be at least or at most ``reach``.
        unit: Unit of ``ratio``, where it is not a ratio of times.
        details: Times of the peers, and shapes.
    """

    name: str
    against: str
    ratio: float
    reach: float
    sense: Literal[">=", "<="] = ">="
    unit: str = "x"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return self.ratio >= self.reach if self.sense == ">=" else self.ratio <= self.reach

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "reached": self.reached}


@dataclass
class Settings:
    """How a benchmark is to be run.

    Attributes:
        folder: Where it may keep recordings from one benchmark to the next.
        quick: Smaller and fewer, to see that it runs; ratios then say little.
    """

    folder: Path
    quick: bool = False

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full


def race(
    peers: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Run peers in turns and return the best time of each, in seconds.

    Args:
        peers: Name to what is timed.
        rounds: Turns of each peer, after one that is not counted.
        clock: ``time.process_time`` for peers of one thread: time that other processes take does not count.
    """
    best = dict.fromkeys(peers, float("inf"))
    for turn in range(rounds + 1):
        for name, run in peers.items():
            begin = clock()
            run()
            if turn:
                best[name] = min(best[name], clock() - begin)
    return best


def load() -> list[float]:
    """Load averages of the machine over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def resident() -> int:
    """Bytes of anonymous memory that this process holds (pages of files in the cache are not its own)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon")


class PeakMemory:
    """Context in which a thread watches :func:`resident`; ``extra`` is the peak above the start, in bytes."""

    def __enter__(self) -> PeakMemory:
        self._start = self._peak = resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._peak = max(self._peak, resident())

    @property
    def extra(self) -> int:
        return self._peak - self._start

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self._peak = max(self._peak, resident())
