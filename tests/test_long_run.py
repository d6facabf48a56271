"""A run may be as long as it likes: memory, open files and threads stay as they are, the log grows by its rows.

``python -m pytest -m slow tests/test_long_run.py`` trains 1e5 steps; POYO_SSL_STEPS asks for another number.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
import pytest

from poyo_ssl_plugin.data import Recordings, simulate
from poyo_ssl_plugin.predictability import score_dataset
from poyo_ssl_plugin.training import read_checkpoint

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")

LOG_EVERY = 100
VALIDATIONS = 5
# Bytes of a logged row, in CSV and for TensorBoard together.
ROW = 1500
# The least that is still a whole model, and what Lightning does around it.
SMALLEST = [
    "diet=all",
    "model=tiny",
    "model.dim=8",
    "model.cross_heads=1",
    "model.self_heads=1",
    "model.num_latents_per_step=2",
    "data.batch_size=2",
    "data.window_length=1.0",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.progress=false",
    f"trainer.log_every_n_steps={LOG_EVERY}",
]


@dataclass(frozen=True)
class Sample:
    """What a process holds after a step: resident bytes, open files, threads, and bytes of all that it logged."""

    step: int
    memory: int
    files: int
    threads: int
    log: int
    output: int


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> tuple[Path, Path]:
    """One small recording and its table."""
    folder = tmp_path_factory.mktemp("long")
    root = simulate(folder / "recordings", n_recordings=1, n_units=6, minutes=4, seed=3)
    score_dataset(Recordings(root)).to_csv(folder / "table.csv")
    return root, folder / "table.csv"


def watch_a_run(process, recording: tuple[Path, Path], out: Path, *, steps: int, samples: int) -> list[Sample]:
    """Train in a process of its own, and look at it from outside whenever it has saved its state."""
    root, table = recording
    every = max(1, steps // samples)
    arguments = [f"data.root={root}", f"diet.table={table}", f"out_dir={out}", *SMALLEST]
    arguments += [f"trainer.max_steps={steps}", f"trainer.save_every_n_steps={every}"]
    arguments += [f"trainer.val_every_n_steps={max(1, steps // VALIDATIONS)}"]
    said = out.with_suffix(".said")
    seen: list[Sample] = []
    run = process(["pretrain", *arguments], said)
    try:
        saved = -1
        while run.is_alive():
            last = _modified(out / "checkpoints" / "last.ckpt")
            if last != saved:
                saved = last
                seen.append(_look(run.pid, out, said))
            time.sleep(0.01)
    finally:
        run.kill()
        run.join()
    assert run.exitcode == 0, said.read_text()[-2000:]
    # The last state is saved when training has ended, and what follows is no step.
    return [sample for sample in seen if sample.step < steps]


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return -1


def _look(pid: int, out: Path, said: Path) -> Sample:
    process = Path("/proc", str(pid))
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    logs = [said, out / "csv" / "metrics.csv", *(out / "tensorboard").glob("*")]
    checkpoint = out / "checkpoints" / "last.ckpt"
    return Sample(
        step=read_checkpoint(checkpoint)["global_step"],
        memory=int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        files=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
        log=sum(path.stat().st_size for path in logs if path.exists()),
        output=checkpoint.stat().st_size,
    )


def slopes(samples: list[Sample]) -> dict[str, float]:
    """Growth of everything per step, by least squares over what came after the first third."""
    settled = np.array([astuple(sample) for sample in samples[len(samples) // 3 :]], float)
    names = list(asdict(samples[0]))
    return {name: float(np.polyfit(settled[:, 0], settled[:, i], 1)[0]) for i, name in enumerate(names) if i}


def assert_level(samples: list[Sample], *, bytes_per_step: float) -> None:
    """Nothing grows but the log, and that by no more than a row for each step it logs."""
    found = slopes(samples)
    assert found["memory"] < bytes_per_step, (found, samples)
    # A step between samples may have one more file open for a moment, never one more for every so many steps.
    between = samples[-1].step - samples[len(samples) // 3].step
    assert found["files"] * between < 1 and found["threads"] * between < 1, (found, samples)
    rows_per_step = 1 / LOG_EVERY + VALIDATIONS / samples[-1].step
    assert found["log"] < ROW * rows_per_step, (found, samples)
    # Some checkpoints hold the state of one more random generator, 5 kB.
    assert max(s.output for s in samples) < samples[0].output + 8192, samples


def test_some_hundred_steps_do_not_grow(process, recording, tmp_path):
    samples = watch_a_run(process, recording, tmp_path / "run", steps=200, samples=20)
    assert len(samples) > 10
    assert_level(samples, bytes_per_step=6_000)


@pytest.mark.slow
def test_a_long_run_does_not_grow(process, recording, tmp_path, capsys):
    """1e5 steps: a leak of a hundred bytes a step would be found."""
    steps = int(os.environ.get("POYO_SSL_STEPS", "100000"))
    began = time.monotonic()
    samples = watch_a_run(process, recording, tmp_path / "run", steps=steps, samples=50)
    with capsys.disabled():
        seconds = time.monotonic() - began
        print(f"\n{steps} steps in {seconds:.0f} s; growth a step: {json.dumps(slopes(samples))}")
        for sample in samples[:: max(1, len(samples) // 10)] + samples[-1:]:
            print(sample)
    assert_level(samples, bytes_per_step=100)
