"""Comparisons whose processes are killed: what died is named, no process is left, and a second start goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from quick import quick

from poyo_ssl_plugin.errors import EXIT_TERMINATED
from poyo_ssl_plugin.experiments.jobs import run_jobs

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
TESTS = Path(__file__).parent


def wait_until(done: Callable[[], object], seconds: float = 300.0):
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def content(path: Path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def linger(job):
    """A job that takes for ever the first time, unless it is quick."""
    folder = Path(job["folder"])
    tried = folder / "tried"
    if not job["quick"] and not tried.exists():
        tried.touch()
        time.sleep(600)
    return {"double": 2 * job["n"]}


def lingering_jobs(folder: Path) -> list[dict]:
    return [{"folder": str(folder / f"{n}"), "arm": f"arm{n}", "n": n, "quick": n == 0} for n in range(4)]


def start_jobs(folder: Path) -> subprocess.Popen:
    """Four jobs in two processes, started by a process of their own; it says what they gave, or their error."""
    code = (
        "import json, signal, sys\n"
        "if __name__ == '__main__':\n"
        "    sys.path[:0] = json.loads(sys.argv[2])\n"
        "    from poyo_ssl_plugin.errors import terminate\n"
        "    signal.signal(signal.SIGTERM, terminate)\n"
        "    from pathlib import Path\n"
        "    from test_workers import lingering_jobs, linger\n"
        "    from poyo_ssl_plugin.experiments.jobs import run_jobs\n"
        "    from poyo_ssl_plugin.errors import PoyoSSLError\n"
        "    try:\n"
        "        print(json.dumps(run_jobs(linger, lingering_jobs(Path(sys.argv[1])), processes=2)))\n"
        "    except PoyoSSLError as error:\n"
        "        sys.exit(str(error))\n"
    )
    command = [sys.executable, "-c", code, str(folder), json.dumps([str(TESTS), str(TESTS.parent)])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers_of(folder: Path) -> dict[int, int]:
    """Number of the job to that of the process which lingers in it; two at a time."""
    going_on = {n: content(folder / str(n) / "process.json") for n in range(4) if (folder / str(n) / "tried").exists()}
    return {n: pid for n, pid in going_on.items() if pid is not None} if len(going_on) == 2 else {}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class TestJobs:
    @pytest.fixture
    def started(self, tmp_path):
        started = start_jobs(tmp_path)
        try:
            yield started, wait_until(lambda: workers_of(tmp_path))
        finally:
            started.kill()
            started.wait()

    def finish(self, folder: Path) -> None:
        results = run_jobs(linger, [{**job} for job in lingering_jobs(folder)], processes=1)
        assert [result["double"] for result in results] == [0, 2, 4, 6]
        assert not list(folder.rglob("process.json"))

    def test_a_killed_worker_is_named(self, started, tmp_path):
        run, workers = started
        everyone = children(run.pid)
        victim = max(workers)
        os.kill(workers[victim], signal.SIGKILL)
        _, said = run.communicate(timeout=120)
        assert run.returncode == 1
        assert re.search(rf"the process of arm arm{victim} \(\S+/{victim}\) was killed.*fewer processes=", said), said
        assert said.count(" arm arm") == 1
        wait_until(lambda: not any(map(alive, everyone)), 60)
        # What was finished is kept, and what was begun is done once more.
        assert content(tmp_path / "0" / "job.json")["result"] == {"double": 0}
        for n in range(4):
            (tmp_path / str(n)).mkdir(exist_ok=True)
            (tmp_path / str(n) / "tried").touch()
            if not (tmp_path / str(n) / "begun.json").exists():
                (tmp_path / str(n) / "begun.json").write_text(json.dumps(lingering_jobs(tmp_path)[n]))
        self.finish(tmp_path)

    def test_no_worker_outlives_its_parent(self, started):
        run, workers = started
        everyone = children(run.pid)
        assert set(workers.values()) <= set(everyone)
        run.kill()
        run.wait()
        wait_until(lambda: not any(map(alive, everyone)), 60)

    def test_a_parent_that_is_told_to_stop_stops_its_workers(self, started):
        """And being told again does not keep it from ending."""
        run, workers = started
        everyone = children(run.pid)
        assert set(workers.values()) <= set(everyone)
        run.terminate()
        time.sleep(0.2)
        run.terminate()
        _, said = run.communicate(timeout=60)
        assert run.returncode == EXIT_TERMINATED and "Traceback" not in said, said
        wait_until(lambda: not any(map(alive, everyone)), 60)

    def test_workers_that_are_told_to_stop_are_not_an_error(self, started):
        """A scheduler tells all processes of a job; the parent may be the last to hear."""
        run, workers = started
        for pid in workers.values():
            os.kill(pid, signal.SIGTERM)
        _, said = run.communicate(timeout=120)
        assert run.returncode == EXIT_TERMINATED, said


def start_comparison(root: Path, out: Path, *, processes: int) -> subprocess.Popen:
    settings = ",".join(quick("trainer.threads=1", "trainer.save_every_n_steps=5", steps=30, batch_size=4))
    command = [sys.executable, "-m", "poyo_ssl_plugin.cli", "compare", f"root={root}", f"out_dir={out}"]
    command += ["held_out=[sim_002]", "seeds=[0,1]", f"processes={processes}"]
    command += [f"pretrain=[{settings}]", f"finetune=[{settings},identify_steps=5]"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def begun_runs(out: Path) -> dict[str, int]:
    """Arm to process of the runs that have saved a state and go on."""
    runs = (out / "runs" / "finetune").glob("*/*/*/process.json")
    found = {path.parents[2].name: content(path) for path in runs if (path.parent / "checkpoints").exists()}
    return {arm: pid for arm, pid in found.items() if pid is not None}


@pytest.mark.slow
def test_a_comparison_survives_its_processes(sim_dir, tmp_path):
    """A worker is killed, then the parent of the next start; the third ends as one that nothing befell."""
    # Imported here: worker processes import this file, and have no use for torch.
    from test_kill import assert_same, outcome

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = start_comparison(sim_dir, whole, processes=2)
    _, said = reference.communicate(timeout=600)
    assert reference.returncode == 0, said[-2000:]

    first = start_comparison(sim_dir, killed, processes=2)
    arm, pid = next(iter(wait_until(lambda: begun_runs(killed)).items()))
    everyone = children(first.pid)
    os.kill(pid, signal.SIGKILL)
    _, said = first.communicate(timeout=300)
    assert first.returncode == 2 and "Traceback" not in said, said[-2000:]
    assert f"the process of arm {arm} (" in said and "was killed" in said
    wait_until(lambda: not any(map(alive, everyone)), 60)

    for marker in killed.rglob("process.json"):
        marker.unlink()
    second = start_comparison(sim_dir, killed, processes=2)
    wait_until(lambda: begun_runs(killed))
    everyone = children(second.pid)
    second.kill()
    second.wait()
    wait_until(lambda: not any(map(alive, everyone)), 60)

    third = start_comparison(sim_dir, killed, processes=2)
    _, said = third.communicate(timeout=600)
    assert third.returncode == 0, said[-2000:]
    assert_same(outcome(killed), outcome(whole))
    assert not list(killed.rglob("process.json"))
