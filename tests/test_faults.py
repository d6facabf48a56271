"""What goes wrong around a run: numbers, disks, folders, devices. One clear message, nothing lost."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from left_behind import assert_equal, weights
from quick import quick

from poyo_ssl_plugin.data import StandardizeTraces
from poyo_ssl_plugin.errors import DeviceError, NumericalError, OutputError, RecipeError
from poyo_ssl_plugin.files import atomic_path, only_run_in, write_json
from poyo_ssl_plugin.training import finetune, pretrain
from poyo_ssl_plugin.training.guards import CollapseWarning
from poyo_ssl_plugin.training.run_folder import hardware_errors

QUICK = quick(steps=4, val_every=2, batch_size=4)


@pytest.fixture
def poison(monkeypatch):
    """Make the traces of one recording infinite when they reach the model."""

    def arm(recording: str) -> None:
        standardize = StandardizeTraces.__call__

        def call(self, data):
            data = standardize(self, data)
            if data.session.id == recording:
                data.calcium_traces.df_over_f[:] = np.inf
            return data

        monkeypatch.setattr(StandardizeTraces, "__call__", call)

    return arm


class TestNumbers:
    def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_recordings(self, recipe, poison, tmp_path):
        poison("sim_001")
        with pytest.raises(NumericalError, match=r"recordings .*sim_001.*on_nonfinite=skip"):
            pretrain(recipe("pretrain", "data.recordings=[sim_001]", "trainer.val_every_n_steps=100"))
        said = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
        assert set(said["recording_ids"]) == {"sim_001"} and len(said["starts"]) == 4
        assert said["loss"] == "nan" and said["gradients_not_finite"]

    def test_or_leaves_such_batches_out_and_counts_them(self, recipe, poison):
        poison("sim_001")
        options = ["trainer.on_nonfinite=skip", "data.batch_size=1", "trainer.max_steps=12", "diet=all"]
        result = finetune(recipe("finetune", *options))
        assert all(value.isfinite().all() for value in weights(result.checkpoint).values())
        assert 0 < result.metrics["train/skipped_steps"] < 12

    def test_but_not_for_ever(self, recipe, poison, monkeypatch):
        monkeypatch.setattr("poyo_ssl_plugin.training.guards.MAX_SKIPPED_IN_A_ROW", 3)
        poison("sim_001")
        with pytest.raises(NumericalError, match="3 times in a row"):
            pretrain(recipe("pretrain", "data.recordings=[sim_001]", "trainer.on_nonfinite=skip"))

    def test_an_unknown_action_is_refused(self, recipe):
        with pytest.raises(RecipeError, match="stop or skip"):
            pretrain(recipe("pretrain", "trainer.on_nonfinite=ignore"))

    def test_collapse_is_warned_about_with_a_remedy(self, caplog):
        class Trainer:
            global_step = 7
            callback_metrics = {"valid/effective_rank": torch.tensor(20.0), "valid/latent_std": torch.tensor(0.2)}

        watch = CollapseWarning()
        watch.on_validation_end(Trainer, None)
        Trainer.callback_metrics = {"valid/effective_rank": torch.tensor(15.0), "valid/latent_std": torch.tensor(0.1)}
        watch.on_validation_end(Trainer, None)
        assert not caplog.records
        Trainer.callback_metrics = {"valid/effective_rank": torch.tensor(3.0), "valid/latent_std": torch.tensor(0.1)}
        with caplog.at_level(logging.WARNING):
            watch.on_validation_end(Trainer, None)
            watch.on_validation_end(Trainer, None)
        assert len(caplog.records) == 1
        assert "effective rank" in caplog.text and "ssl=masked_latent" in caplog.text

    def test_deterministic_runs_are_equal_bit_for_bit(self, recipe):
        a, b = (finetune(recipe("finetune", "trainer.deterministic=true", name=name)) for name in "ab")
        assert_equal(weights(a.checkpoint), weights(b.checkpoint))
        assert a.metrics == b.metrics


class TestDevices:
    def test_out_of_memory_says_what_to_lower(self):
        expected = r"Tried to allocate 2 GiB.*lower data\.batch_size.*resume=true"
        with pytest.raises(DeviceError, match=expected), hardware_errors():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    @pytest.mark.parametrize("accelerator", ["cuda", "gpu"])
    def test_an_accelerator_that_is_not_there(self, recipe, accelerator, tmp_path):
        with pytest.raises(DeviceError, match=r"trainer\.accelerator=cpu"):
            pretrain(recipe("pretrain", f"trainer.accelerator={accelerator}"))
        assert not (tmp_path / "run").exists()


class TestFolders:
    def test_two_runs_in_one_folder(self, recipe, tmp_path, monkeypatch):
        monkeypatch.setattr("poyo_ssl_plugin.files.PATIENCE", 0.1)
        with only_run_in(tmp_path / "run"), pytest.raises(OutputError, match="another run is going on"):
            pretrain(recipe("pretrain"))
        assert pretrain(recipe("pretrain")).checkpoint.exists()

    def test_the_lock_goes_with_its_process(self, tmp_path):
        code = (
            "import sys, time\nfrom poyo_ssl_plugin.files import only_run_in\n"
            "with only_run_in(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)"
        )
        holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="another run"), only_run_in(tmp_path, patience=0.1):
            pass
        holder.kill()
        holder.wait()
        with only_run_in(tmp_path, patience=1.0):
            pass

    def test_an_unwritable_folder(self, recipe):
        with pytest.raises(OutputError, match="cannot be written"):
            write_json("/sys/x.json", {})

    def test_a_file_where_a_folder_should_be(self, recipe, tmp_path):
        (tmp_path / "run").write_text("mine")
        with pytest.raises(OutputError, match="cannot be written"):
            pretrain(recipe("pretrain"))
        assert (tmp_path / "run").read_text() == "mine"

    def test_a_folder_where_a_file_should_be(self, tmp_path):
        (tmp_path / "x.json").mkdir()
        with pytest.raises(OutputError, match=r"x.json: cannot be written \(Is a directory\)"):
            write_json(tmp_path / "x.json", {})
        assert [p.name for p in tmp_path.iterdir()] == ["x.json"]

    def test_a_failed_write_leaves_the_earlier_file(self, tmp_path):
        write_json(tmp_path / "x.json", {"a": 1})
        with pytest.raises(OutputError, match="No space left"), atomic_path(tmp_path / "x.json") as path:
            path.write_text("{")
            raise OSError(28, "No space left on device")
        assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
        assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


# Trains on a disk that cannot be written, and on one that a thread fills to the last byte once a state was saved.
ON_BAD_DISKS = """
import os, sys, threading, time
from poyo_ssl_plugin.cli import main
from poyo_ssl_plugin.training import read_checkpoint

def fill():
    while not os.path.exists("full/run/checkpoints/last.ckpt"): time.sleep(0.005)
    file = os.open("full/filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True: os.write(file, b"0" * 4096)
    except OSError: pass

threading.Thread(target=fill, daemon=True).start()
for disk in ("read_only", "full"):
    try:
        main(["pretrain", *sys.argv[1:], f"out_dir={disk}/run"], standalone_mode=False)
    except SystemExit as end:
        print("exit", end.code)
    print("step", read_checkpoint("full/run/checkpoints/last.ckpt")["global_step"] if disk == "full" else None)
    for stream in (sys.stdout, sys.stderr):
        print("-----", file=stream, flush=True)
"""


class TestDisks:
    @pytest.fixture(scope="class")
    @staticmethod
    def said(sim_dir, table_path, tmp_path_factory) -> dict[str, tuple[str, str]]:
        """What a run says on each of two small file systems, which a namespace of its own alone sees."""
        unshare, place = shutil.which("unshare"), tmp_path_factory.mktemp("disks")
        mounts = []
        for name, options in (("full", ""), ("read_only", ",ro")):
            (place / name).mkdir()
            # Room for some checkpoints and a log.
            mounts.append(f"mount -t tmpfs -o size=8M{options} none {place / name}")

        def run(*command: str) -> subprocess.CompletedProcess:
            script = " && ".join([*mounts, 'exec "$@"'])
            line = [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *command]
            return subprocess.run(line, cwd=place, capture_output=True, text=True, timeout=300)

        if unshare is None or run("true").returncode:
            pytest.skip("this system lets no one mount a small file system")
        steps = ["trainer.max_steps=2000", "trainer.val_every_n_steps=1000", "trainer.save_every_n_steps=2"]
        done = run(
            sys.executable, "-c", ON_BAD_DISKS, f"data.root={sim_dir}", f"diet.table={table_path}", *QUICK, *steps
        )
        both = zip(done.stdout.split("-----\n"), done.stderr.split("-----\n"), strict=True)
        return dict(zip(("read_only", "full"), both, strict=False))

    @pytest.mark.parametrize(("disk", "reason"), [("read_only", "Read-only file system"), ("full", "No space left")])
    def test_one_message_says_what_is_wrong(self, said, disk, reason):
        out, error = said[disk]
        assert "exit 2" in out and reason in error and "Traceback" not in error, error[-2000:]

    def test_a_full_disk_keeps_the_last_checkpoint(self, said):
        assert int(said["full"][0].split("step ")[1]) >= 2


class TestClocks:
    def test_a_clock_that_jumps_back_does_not_change_a_run(self, recipe, monkeypatch):
        straight = pretrain(recipe("pretrain", name="a"))
        real, jumps = time.time, iter(range(10**9))
        monkeypatch.setattr(time, "time", lambda: real() - 3600.0 * (next(jumps) % 7))
        jumping = pretrain(recipe("pretrain", name="b"))
        assert jumping.metrics == straight.metrics
        assert_equal(weights(straight.checkpoint), weights(jumping.checkpoint))


class TestNetwork:
    def test_a_run_opens_no_connection(self, recipe, monkeypatch):
        import socket

        def refuse(*_):
            raise AssertionError("a run must not use the network")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        assert pretrain(recipe("pretrain")).checkpoint.exists()
