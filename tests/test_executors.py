"""Scores and runs in this process, in others and on Ray: the same numbers, each run once, whatever is killed."""

from __future__ import annotations

import builtins
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from executor_runs import lingering_runs, make_run, work
from left_behind import assert_equal, leaves, weights
from quick import quick

from poyo_ssl_plugin.compare.comparison import run_comparison
from poyo_ssl_plugin.compare.executors import LocalExecutor, RayExecutor, run_all
from poyo_ssl_plugin.compare.protocol import Comparison
from poyo_ssl_plugin.compare.record import finished
from poyo_ssl_plugin.compare.results import to_json
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.errors import EXIT_TERMINATED, ExtensionError, PoyoSSLError, RecordingError
from poyo_ssl_plugin.files import RECORD, write_json
from poyo_ssl_plugin.predictability import register_statistic, score_dataset, unregister_statistic
from poyo_ssl_plugin.predictability.on_ray import on_ray

TESTS = Path(__file__).parent
needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")


@pytest.fixture(scope="module")
def ray():
    """A cluster of two nodes of one core each."""
    found = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Or its workers wait for whatever else the machine does.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  as Ray spells it
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    settings = {"log_to_driver": False, "logging_level": "error", "runtime_env": {"env_vars": {"PYTHONPATH": path}}}
    found.init(address=cluster.address, **settings)
    yield found
    found.shutdown()
    cluster.shutdown()


@pytest.fixture(params=["here", "processes", "ray"])
def executor(request):
    if request.param == "ray":
        request.getfixturevalue("ray")
        return RayExecutor()
    return LocalExecutor(1 if request.param == "here" else 2)


def test_outcomes_in_order_and_finished_runs_once(executor, tmp_path):
    runs = [make_run(tmp_path, n) for n in range(3)]
    for _ in range(2):
        assert [outcome.value for outcome in run_all(work, runs, executor)] == [0, 2, 4]
    assert (tmp_path / "count").read_text() == "..."


def test_a_failed_run_is_an_error_of_ours_and_not_taken_for_finished(executor, tmp_path):
    runs = [make_run(tmp_path, n, fail=True) for n in range(2)]
    with pytest.raises(PoyoSSLError, match="^on purpose$"):
        run_all(work, runs, executor)
    assert finished(runs[0]) is None and finished(runs[1]) is None


def test_ray_starts_a_run_again_whose_worker_died(ray, tmp_path):
    runs = [make_run(tmp_path, n, dies=n == 1) for n in range(3)]
    assert [outcome.value for outcome in run_all(work, runs, RayExecutor())] == [0, 2, 4]
    assert (tmp_path / "count").read_text() == "...."


def test_what_runs_say_is_not_said_over_and_over(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="poyo_ssl_plugin"):
        run_all(work, [make_run(tmp_path, n) for n in range(3)], LocalExecutor(1))
    assert caplog.text == ""


class TestKeys:
    """Of a run counts what changes its numbers, and nothing else. Nothing finished is ever removed."""

    def test_other_settings_leave_a_finished_run_alone(self, tmp_path):
        one, other = (make_run(tmp_path, 0, optim={"lr": lr}) for lr in (1, 2))
        run_all(work, [one], LocalExecutor(1))
        before = (one.folder / RECORD).read_bytes()
        run_all(work, [other], LocalExecutor(1))
        assert (one.folder / RECORD).read_bytes() == before and one.folder != other.folder
        assert (tmp_path / "count").read_text() == ".."

    @pytest.mark.parametrize(
        ("key", "same"),
        [("threads", True), ("save_every_n_steps", True), ("max_steps", False), ("precision", False)],
    )
    def test_what_is_in_the_key(self, tmp_path, key, same):
        one, other = (make_run(tmp_path, 0, trainer={key: value}) for value in (1, 2))
        assert (one.key == other.key) is same

    def test_what_came_later_is_in_it_where_it_changes_a_run(self, tmp_path):
        before, all_batches, one_batch = (
            make_run(tmp_path, 0, trainer=trainer)
            for trainer in ({}, {"limit_val_batches": 1.0}, {"limit_val_batches": 1})
        )
        assert before.key == all_batches.key != one_batch.key

    def test_where_it_is_kept_is_not(self, tmp_path):
        run = make_run(tmp_path, 0, diet={"table": "a.csv"}, init_from="a.ckpt", out_dir="a")
        other = make_run(tmp_path / "b", 0, diet={"table": "b.csv"}, init_from="b.ckpt", out_dir="b")
        assert run.key == other.key != replace(run, start="another pretraining").key
        assert run.key != replace(run, neurons="others").key

    def test_the_record_keeps_what_training_wrote(self, tmp_path):
        run = make_run(tmp_path, 0)
        write_json(run.folder / RECORD, {"format": 1, "metrics": {}})
        run_all(work, [run], LocalExecutor(1))
        assert set(json.loads((run.folder / RECORD).read_text())) == {"format", "metrics", "compare"}


def compared(root: Path, out: Path, **executor) -> tuple[str, dict[str, dict]]:
    """A comparison: its summary but for times and places, and the weights that every run ended with."""
    settings = dict(held_out=("sim_002",), seeds=(0, 1), pretrain=quick(steps=2), finetune=quick(steps=2))
    result = run_comparison(Comparison(root=str(root), out_dir=str(out), **settings, **executor))
    summary = to_json(result.summary)
    summary["comparison"] = None
    text = re.sub(r'"seconds": [\d.]+', '"seconds": 0', json.dumps(summary))
    return text, {name: weights(folder / "checkpoints/last.ckpt") for name, folder in result.finetuning.items()}


@pytest.fixture(scope="module")
def compared_here(sim_dir, tmp_path_factory):
    return compared(sim_dir, tmp_path_factory.mktemp("here"), processes=1)


@pytest.mark.parametrize("executor", [{"processes": 2}, {"ray": True}], ids=["processes", "ray"])
def test_a_comparison_elsewhere_gives_the_numbers_of_one_here(request, compared_here, sim_dir, tmp_path, executor):
    """Byte for byte: the numbers of every run, and the weights that it ended with."""
    if "ray" in executor:
        request.getfixturevalue("ray")
    (here, ours), (there, theirs) = compared_here, compared(sim_dir, tmp_path, **executor)
    assert here == there and len(ours) == 4 and len(next(iter(ours.values()))) > 10
    assert_equal(leaves(ours), leaves(theirs))


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
def test_the_command_writes_the_same_table_byte_for_byte(ray, sim_dir, tmp_path, workers):
    tables = []
    for name, further in (("here", []), ("ray", ["--ray", *workers])):
        run("score", sim_dir, "--out", tmp_path / f"{name}.csv", *further)
        tables.append((tmp_path / f"{name}.csv").read_bytes())
    assert tables[0] == tables[1]
    assert ray.is_initialized()  # what it did not start it does not stop


def test_a_damaged_recording_is_skipped_or_stops_as_in_process(ray, sim_dir, tmp_path):
    folder = tmp_path / "recordings"
    shutil.copytree(sim_dir, folder)
    (folder / "sim_001.h5").write_bytes(b"not HDF5")
    dataset = Recordings(folder)
    with pytest.raises(RecordingError, match=r"sim_001\.h5: cannot be read"):
        score_dataset(dataset, on=on_ray)
    for name, further in (("here", []), ("ray", ["--ray"])):
        said = run("score", folder, "--out", tmp_path / f"{name}.csv", "--on-error", "skip", *further)
        assert "skipped sim_001" in said
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "ray.csv").read_bytes()


def test_statistics_registered_here_are_known_there(ray, dataset):
    @register_statistic("largest")
    class Largest:
        def __init__(self, n_units: int) -> None:
            self.largest = np.full(n_units, -np.inf)

        def update(self, rows: np.ndarray) -> None:
            self.largest = np.fmax(self.largest, rows.max(axis=0))

        def result(self) -> np.ndarray:
            return self.largest

    try:
        here, there = (score_dataset(dataset, statistics=["largest"], on=on) for on in (None, on_ray))
    finally:
        unregister_statistic("largest")
    np.testing.assert_array_equal(here["largest"], there["largest"])


def test_a_dataset_that_cannot_be_sent_is_refused(ray, dataset):
    dataset.lock = threading.Lock()
    with pytest.raises(PoyoSSLError, match="Recordings cannot be sent to other processes"):
        score_dataset(dataset, on=on_ray)


def test_without_ray_the_error_names_the_extra(sim_dir, tmp_path, monkeypatch):
    real = builtins.__import__

    def without_ray(name, *rest):
        if name == "ray":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(ExtensionError, match=r"pip install 'poyo-ssl-plugin\[ray\]'"):
        score_dataset(Recordings(sim_dir), on=on_ray)
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def wait_until(done: Callable[[], object], seconds: float = 120.0):
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@needs_proc
class TestKilled:
    CODE = """
import json, signal, sys
if __name__ == "__main__":
    sys.path[:0] = json.loads(sys.argv[2])
    from pathlib import Path
    from poyo_ssl_plugin.compare.executors import LocalExecutor, run_all
    from poyo_ssl_plugin.errors import PoyoSSLError, terminate
    from executor_runs import lingering_runs, work
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background processes ignore
    try:
        run_all(work, lingering_runs(Path(sys.argv[1])), LocalExecutor(2))
    except PoyoSSLError as error:
        sys.exit(str(error))
"""

    @pytest.fixture
    def started(self, tmp_path):
        """Four runs in two processes: the process that started them, its children, and run to process of two."""
        command = [sys.executable, "-c", self.CODE, str(tmp_path), json.dumps([str(TESTS), str(TESTS.parent)])]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def lingering() -> dict[int, int]:
            tried = {n: tmp_path / f"arm{n}.tried" for n in (1, 2, 3)}
            found = {n: path.read_text() for n, path in tried.items() if path.exists()}
            return {n: int(pid) for n, pid in found.items() if pid} if len(found) == 2 and all(found.values()) else {}

        try:
            workers = wait_until(lingering)
            yield started, children(started.pid), workers
        finally:
            started.kill()
            started.wait()

    def assert_goes_on(self, folder: Path, everyone: list[int]) -> None:
        """No process is left, what was finished is kept, and a second start does the rest."""
        wait_until(lambda: not any(map(alive, everyone)), 60)
        assert finished(lingering_runs(folder)[0]) is not None
        for n in (1, 2, 3):
            (folder / f"arm{n}.tried").touch()
        before = len((folder / "count").read_text())
        outcomes = run_all(work, lingering_runs(folder), LocalExecutor(1))
        assert [outcome.value for outcome in outcomes] == [0, 2, 4, 6]
        assert len((folder / "count").read_text()) == before + 3

    def test_a_killed_worker_is_named(self, started, tmp_path):
        run, everyone, workers = started
        victim = max(workers)
        os.kill(workers[victim], signal.SIGKILL)
        _, said = run.communicate(timeout=120)
        assert run.returncode == 1
        assert re.search(rf"the process of arm arm{victim} \(\S+\) was killed.*fewer processes=", said), said
        assert said.count(" arm arm") == 1
        self.assert_goes_on(tmp_path, everyone)

    def test_no_worker_outlives_its_parent(self, started, tmp_path):
        run, everyone, workers = started
        assert set(workers.values()) <= set(everyone)
        run.kill()
        run.wait()
        self.assert_goes_on(tmp_path, everyone)

    def test_a_parent_that_is_told_to_stop_stops_its_workers(self, started, tmp_path):
        """And being told again does not keep it from ending."""
        run, everyone, _ = started
        run.terminate()
        time.sleep(0.2)
        run.terminate()
        _, said = run.communicate(timeout=60)
        assert run.returncode == EXIT_TERMINATED and "Traceback" not in said, said
        self.assert_goes_on(tmp_path, everyone)

    def test_ctrl_c_reaches_all_processes_of_a_terminal(self, started, tmp_path):
        """And only the parent, which the command line keeps from it, says so."""
        run, everyone, workers = started
        for pid in [*workers.values(), run.pid]:
            os.kill(pid, signal.SIGINT)
        _, said = run.communicate(timeout=60)
        assert said.count("Traceback") == 1 and "SpawnProcess" not in said, said
        self.assert_goes_on(tmp_path, everyone)

    def test_workers_that_are_told_to_stop_are_not_an_error(self, started, tmp_path):
        """A scheduler tells all processes of a job; the parent may be the last to hear."""
        run, everyone, workers = started
        for pid in workers.values():
            os.kill(pid, signal.SIGTERM)
        _, said = run.communicate(timeout=120)
        assert run.returncode == EXIT_TERMINATED, said
        self.assert_goes_on(tmp_path, everyone)


def descendants(pid: int) -> list[int]:
    try:
        own = children(pid)
    except OSError:
        return []
    return own + [other for child in own for other in descendants(child)]


def start_comparison(root: Path, out: Path, *options: str) -> subprocess.Popen:
    settings = ",".join(quick("trainer.save_every_n_steps=5", steps=90, batch_size=4))
    command = [sys.executable, "-m", "poyo_ssl_plugin.cli", "compare", *(options or ["processes=2"])]
    command += [f"root={root}", f"out_dir={out}"]
    command += [
        "held_out=[sim_002]",
        "seeds=[0,1]",
        f"pretrain=[{settings}]",
        f"finetune=[{settings}]",
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def training_in(out: Path, parent: int) -> dict[str, int]:
    """Arm to process of the fine-tuning runs that have saved a state and go on, by the lock that they hold."""
    found = {}
    for pid in filter(alive, descendants(parent)):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                lock = handle.resolve()
                going_on = lock.name == ".lock" and lock.parent.parent == out / "runs/finetune"
                if going_on and (lock.parent / "checkpoints").exists():
                    found[lock.parent.name.split("_")[0]] = pid
    return found


@needs_proc
@pytest.mark.slow
def test_a_comparison_survives_its_processes(sim_dir, tmp_path):
    """A worker is killed, then the parent of the next start; the third ends as one that nothing befell."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = start_comparison(sim_dir, whole)
    _, said = reference.communicate(timeout=600)
    assert reference.returncode == 0, said[-2000:]

    first = start_comparison(sim_dir, killed)
    arm, pid = next(iter(wait_until(lambda: training_in(killed, first.pid)).items()))
    os.kill(pid, signal.SIGKILL)
    _, said = first.communicate(timeout=300)
    assert first.returncode == 2 and "Traceback" not in said, said[-2000:]
    assert f"the process of arm {arm} (" in "".join(said.splitlines()) and "was killed" in said

    second = start_comparison(sim_dir, killed)
    wait_until(lambda: training_in(killed, second.pid))
    everyone = children(second.pid)
    second.kill()
    second.wait()
    wait_until(lambda: not any(map(alive, everyone)), 60)

    third = start_comparison(sim_dir, killed)
    _, said = third.communicate(timeout=600)
    assert third.returncode == 0, said[-2000:]
    assert_same_comparison(whole, killed)


@needs_proc
@pytest.mark.slow
def test_a_comparison_on_ray_survives_its_driver(sim_dir, tmp_path):
    """Killed while runs go on, and started again: nothing finished is done again, the rest as if nothing had been."""
    pytest.importorskip("ray")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = start_comparison(sim_dir, whole)
    _, said = reference.communicate(timeout=900)
    assert reference.returncode == 0, said[-2000:]

    first = start_comparison(sim_dir, killed, "--ray")
    wait_until(lambda: first.poll() is not None or training_in(killed, first.pid), 600)
    assert first.returncode is None, first.communicate()[1][-2000:]
    cluster = descendants(first.pid)
    first.kill()
    first.wait()
    # The cluster that it had started is gone with it.
    wait_until(lambda: not any(map(alive, cluster)), 120)
    before = {path: path.stat().st_mtime_ns for path in records(killed) if "compare" in json.loads(path.read_text())}
    assert 0 < len(before) < len(records(whole))

    second = start_comparison(sim_dir, killed, "--ray")
    _, said = second.communicate(timeout=900)
    assert second.returncode == 0, said[-2000:]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert_same_comparison(whole, killed)


def records(out: Path) -> list[Path]:
    return sorted((out / "runs").rglob(RECORD))


def assert_same_comparison(whole: Path, killed: Path) -> None:
    """The same weights of every run, bit for bit, and the same results."""
    checkpoints = sorted(path.relative_to(whole) for path in whole.rglob("last.ckpt"))
    assert len(checkpoints) == 5
    for path in checkpoints:
        assert_equal(weights(whole / path), weights(killed / path))
    values = [
        [
            run["value"]
            for arm in json.loads((place / "results.json").read_text())["arms"].values()
            for run in arm["runs"]
        ]
        for place in (whole, killed)
    ]
    assert values[0] == values[1]
