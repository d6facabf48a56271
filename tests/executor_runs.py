"""Runs that take no time, for tests of where runs are done. Imports little: every worker process reads it."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

from poyo_ssl_plugin.compare.record import Outcome, Run
from poyo_ssl_plugin.errors import PoyoSSLError


def make_run(place: object, n: int, **recipe: object) -> Run:
    return Run(
        "finetune", f"arm{n}", None, n, 0, None, ("a",), "", None, None, {"data": {"root": "x"}, **recipe}, str(place)
    )


def work(run: Run) -> Outcome:
    """Leave a mark, and do as the recipe says: fail, die once, or linger the first time."""
    place, name = Path(run.place), f"{run.arm}.tried"
    with (place / "count").open("a") as file:
        file.write(".")
    first = not (place / name).exists()
    (place / name).write_text(str(os.getpid()))
    if run.recipe.get("fail"):
        raise PoyoSSLError("on purpose")
    if run.recipe.get("dies") and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if run.recipe.get("lingers") and run.seed and first:
        time.sleep(600)
    logging.getLogger("poyo_ssl_plugin").info("diet kept 1 of 2")
    return Outcome({}, {}, {}, 0.0, 1, 1, value=2.0 * (run.seed or 0))


def lingering_runs(folder: Path) -> list[Run]:
    return [make_run(folder, n, lingers=True) for n in range(4)]
