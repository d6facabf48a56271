"""Commands that are killed at random moments and started again end as if they had not been.

``python -m pytest -m slow tests/test_kill.py`` kills 50 times; POYO_SSL_KILLS asks for another number.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest
from left_behind import assert_equal, log, state
from quick import quick

from poyo_ssl_plugin.errors import EXIT_TERMINATED
from poyo_ssl_plugin.training import read_checkpoint


def trainer(steps: int) -> list[str]:
    """Overrides of a run that validates and saves several times."""
    options = ["trainer.save_every_n_steps=3", "trainer.threads=1"]
    return quick(*options, steps=steps, val_every=max(2, steps // 4), batch_size=4)


COMMANDS = ("score", "pretrain", "finetune", "compare")


def arguments(command: str, root: Path, table: Path, out: Path, *, steps: int = 20) -> list[str]:
    """A command with all its options; one of few steps also has one seed."""
    common = [f"data.root={root}", f"diet.table={table}", f"out_dir={out}", "resume=true"]
    if command == "score":
        return ["score", str(root), "--out", str(out / "table.csv")]
    if command == "pretrain":
        return ["pretrain", *common, *trainer(steps)]
    if command == "finetune":
        return ["finetune", "--recipe", "scratch", *common, *trainer(steps), f"seeds={[0, 1] if steps >= 20 else [0]}"]
    settings = ",".join(trainer(steps))
    return [
        "compare",
        f"root={root}",
        f"out_dir={out}",
        "held_out=[sim_002]",
        "seeds=[0]",
        "processes=1",
        f"pretrain=[{settings}]",
        f"finetune=[{settings}]",
    ]


def run_to_end(process, arguments: list[str]) -> float:
    began = time.monotonic()
    running = process(arguments)
    running.join()
    assert running.exitcode == 0
    return time.monotonic() - began


def outcome(folder: Path) -> dict[str, object]:
    """All that a command left that is to be the same: tables, weights, optimisers, logs and results."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "results.json" or path.name == "run.json":
            found[name] = settled(json.loads(path.read_text().replace(str(folder), "OUT")))
        elif path.suffix == ".csv":
            found[name] = log(path.parents[1]) if path.name == "metrics.csv" else path.read_text()
        elif path.suffix == ".ckpt":
            found |= {f"{name}:{place}": value for place, value in state(path).items()}
        elif path.suffix in (".png", ".html"):
            found[name] = path.stat().st_size > 0
    return found


def settled(value):
    """JSON without what a clock said."""
    if isinstance(value, dict):
        return {key: settled(item) for key, item in value.items() if key not in ("seconds", "speed", "versions", "git")}
    return [settled(item) for item in value] if isinstance(value, list) else value


def assert_same(a: dict[str, object], b: dict[str, object]) -> None:
    # A file that a killed process was writing keeps its hidden, temporary name; it is nobody's result.
    assert_equal(*({k: v for k, v in c.items() if not Path(k.split(":")[0]).name.startswith(".")} for c in (a, b)))


def kill_and_restart(process, line: list[str], folder: Path, reference, duration: float, kills: int, rng) -> int:
    """Start, kill and restart until the command finishes; returns how many kills hit it while it ran."""
    hits = 0
    while True:
        running = process(line)
        if hits < kills:
            running.join(rng.uniform(0.0, duration))
        else:
            running.join()
        if running.exitcode is not None:
            assert running.exitcode == 0
            break
        running.kill()
        running.join()
        hits += 1
    assert_same(outcome(folder), reference)
    return hits


def kill_at_random(process, command: str, root: Path, table: Path, place: Path, *, wanted: int, steps: int) -> int:
    """Kill runs of a command until so many kills have hit one; returns over how many runs."""

    def line(name: str) -> list[str]:
        return arguments(command, root, table, place / name, steps=steps)

    rng = random.Random(COMMANDS.index(command))
    duration = run_to_end(process, line("whole"))
    reference = outcome(place / "whole")
    hits = rounds = 0
    while hits < wanted:
        rounds += 1
        at_once = min(wanted - hits, 6)
        folder = place / f"killed{rounds}"
        hits += kill_and_restart(process, line(folder.name), folder, reference, duration * 0.8, at_once, rng)
    return rounds


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_once(command, sim_dir, table_path, tmp_path, process):
    kill_at_random(process, command, sim_dir, table_path, tmp_path, wanted=1, steps=6)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_fifty_times(command, sim_dir, table_path, tmp_path, process, capsys):
    """50 kills over the four commands: most in training."""
    share = {"score": 0.16, "pretrain": 0.28, "finetune": 0.28, "compare": 0.28}[command]
    wanted = round(share * int(os.environ.get("POYO_SSL_KILLS", "50")))
    rounds = kill_at_random(process, command, sim_dir, table_path, tmp_path, wanted=wanted, steps=20)
    with capsys.disabled():
        print(f"\n{command}: {wanted} kills in {rounds} runs, nothing lost")


def wait_for(path: Path, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def test_sigterm_saves_and_says_so(sim_dir, table_path, tmp_path, process):
    line = arguments("pretrain", sim_dir, table_path, tmp_path / "stopped")
    line += ["trainer.max_steps=4000", "trainer.save_every_n_steps=1000", "trainer.val_every_n_steps=1000"]
    running = process(line, tmp_path / "said")
    wait_for(tmp_path / "stopped" / "recipe.yaml")
    time.sleep(2.0)
    running.terminate()
    running.join(60)
    assert running.exitcode == EXIT_TERMINATED == 75
    said = (tmp_path / "said").read_text()
    assert "SIGTERM" in said and "resume=true" in said and "Traceback" not in said
    last = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    step = read_checkpoint(last)["global_step"]
    assert 0 < step < 1000
    run_to_end(process, [*line, f"trainer.max_steps={step + 2}"])
    assert read_checkpoint(last)["global_step"] == step + 2
