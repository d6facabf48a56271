"""What a comparison costs beyond training, and how long the demonstration takes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Row, Settings
from benchmarks.imports import time_of_children
from benchmarks.recordings import simulated

QUICK_RUN = ("model=tiny", "trainer.max_steps=2", "trainer.val_every_n_steps=2")


def run(settings: Settings) -> Iterator[Row]:
    yield comparison(settings)
    if not settings.quick:
        yield demo(settings.folder / "demo")


def comparison(settings: Settings) -> Row:
    """Two arms, five folds, three seeds: what the command takes above the training of its runs, by their records."""
    root = simulated(settings, n_units=settings.pick(60, 20), minutes=settings.pick(14, 5))
    out = settings.folder / f"comparison_{time.time():.0f}"
    trained = ["trainer.accelerator=cpu", "trainer.progress=false", *settings.pick(("model=tiny",), QUICK_RUN)]
    command = [sys.executable, "-m", "poyo_ssl_plugin.cli", "compare", f"root={root}", f"out_dir={out}"]
    command += ["task=natural_movie", f"folds={settings.pick(5, 2)}", f"seeds={settings.pick([0, 1, 2], [0])}"]
    command += ["arms=[pretrained,scratch]", "processes=1", *(f"{stage}=[{','.join(trained)}]" for stage in STAGES)]
    before = time_of_children()
    begin = time.perf_counter()
    subprocess.run([part.replace(" ", "") for part in command], check=True, capture_output=True)
    wall, cpu = time.perf_counter() - begin, time_of_children() - before
    records = [json.loads(path.read_text()) for path in (out / "runs").rglob("run.json")]
    training = sum(record["speed"]["training_seconds"] for record in records)
    return Row(
        f"a comparison of {len(records)} runs of a tiny model beyond their training (wall)",
        "its whole time",
        (wall - training) / wall,
        0.1,
        "<=",
        "",
        details={
            "seconds a run beyond its training": (wall - training) / len(records),
            "wall": wall,
            "processor seconds": cpu,
            "training": training,
        },
    )


def demo(out: Path) -> Row:
    """``poyo-ssl demo``, from imports to the report."""
    before = time_of_children()
    begin = time.perf_counter()
    command = [sys.executable, "-m", "poyo_ssl_plugin.cli", "demo", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    wall, cpu = time.perf_counter() - begin, time_of_children() - before
    return Row("poyo-ssl demo (wall)", "-", wall, 300, "<=", "s", details={"processor seconds": cpu})


STAGES = ("pretrain", "finetune")
