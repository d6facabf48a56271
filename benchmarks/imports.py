"""Importing the package, before torch is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.harness import Row, Settings, race


def run(settings: Settings) -> Iterator[Row]:
    # In an interpreter of its own each; the time of the empty one is that of starting Python.
    best = race(
        {name: partial(python, code) for name, code in CODE.items()},
        settings.pick(10, 3),
        clock=time_of_children,
    )
    empty = best.pop("nothing")
    for name, seconds in best.items():
        yield Row(f"import {name}", "an interpreter that imports nothing", seconds - empty, 0.3, "<=", "s")


CODE = {
    "nothing": "pass",
    "poyo_ssl_plugin": "import poyo_ssl_plugin, sys; assert 'torch' not in sys.modules",
    "poyo_ssl_plugin.predictability": "import poyo_ssl_plugin.predictability, sys; assert 'torch' not in sys.modules",
}


def time_of_children() -> float:
    """Processor time of finished child processes, in seconds."""
    times = os.times()
    return times.children_user + times.children_system


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
