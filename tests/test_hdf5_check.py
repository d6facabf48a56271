"""Files that HDF5 does not come back from: named, left out on request, and the rest goes on."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from command_line import run
from quick import quick

from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.data.check import unresponsive_files, usable_recordings
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.predictability import PredictabilityTable
from poyo_ssl_plugin.training import pretrain, read_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file that blocks whoever opens it")
REASON = r"recording blocked: .*blocked\.h5: HDF5 did not come back from it in 1 s; prepare it again"


@pytest.fixture(scope="module")
def folder(sim_dir, tmp_path_factory) -> Path:
    """A recording that blocks whoever opens it, as a damaged file may, between two good ones."""
    folder = tmp_path_factory.mktemp("hangs")
    for name in ("sim_000", "sim_001"):
        shutil.copy(sim_dir / f"{name}.h5", folder)
    os.mkfifo(folder / "blocked.h5")
    return folder


def test_the_file_is_named_and_those_after_it_are_looked_at(folder):
    paths = Recordings(folder).paths
    assert list(paths) == ["blocked", "sim_000", "sim_001"]
    paths = {"good": paths["sim_000"], **paths, "again": paths["blocked"]}
    assert list(unresponsive_files(paths, timeout=1)) == ["blocked", "again"]


def test_a_file_that_crashes_the_process_is_named(tmp_path, monkeypatch):
    # An interpreter that dies as one would in which HDF5 crashed on its second file.
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\necho ready\necho done\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    found = unresponsive_files({name: tmp_path / f"{name}.h5" for name in "ab"}, timeout=5)
    assert list(found) == ["b"] and "crashed on it (exit code -11)" in found["b"]


def test_a_process_that_cannot_start_is_not_the_file_s_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RecordingError, match="no process could be started"):
        unresponsive_files({"a": tmp_path / "a.h5"}, timeout=5)


def test_before_training_it_is_an_error_or_left_out(folder):
    dataset = Recordings(folder)
    with pytest.raises(RecordingError, match=rf"{REASON}\. Pass data\.on_error=skip"):
        usable_recordings(dataset, timeout=1)
    good, damaged = usable_recordings(dataset, on_error="skip", timeout=1)
    assert good == ["sim_000", "sim_001"] and list(damaged) == ["blocked"]


def test_a_run_that_leaves_it_out_says_so(folder, table_path, tmp_path):
    common = [f"data.root={folder}", f"diet.table={table_path}", f"out_dir={tmp_path / 'run'}", "data.timeout=1"]
    with pytest.raises(RecordingError, match=REASON):
        pretrain(compose_recipe("pretrain", overrides=[*quick(steps=1), *common]))
    assert not (tmp_path / "run").exists()
    run = pretrain(compose_recipe("pretrain", overrides=[*quick(steps=1), *common, "data.on_error=skip"]))
    assert list(read_checkpoint(run.checkpoint)["hyper_parameters"]["skipped"]) == ["blocked"]


@pytest.fixture(autouse=True)
def in_time():
    """Nothing waits for the file that blocks."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 60


def test_score_stops_and_says_which(folder, tmp_path):
    said = run("score", folder, "--out", tmp_path / "table.csv", "--timeout", 1, expect=2)
    assert "blocked.h5: HDF5 did not come back" in said
    assert "--on-error skip" in said and not (tmp_path / "table.csv").exists()


def test_score_goes_on_without_it_and_lists_it(folder, tmp_path):
    said = run("score", folder, "--out", tmp_path / "table.csv", "--timeout", 1, "--on-error", "skip")
    assert "skipped blocked" in said
    table = PredictabilityTable.load(tmp_path / "table.csv")
    assert table.recordings == ["sim_000", "sim_001"]
    assert "did not come back" in table.provenance["skipped"]["blocked"]


def test_check_lists_them_all(folder):
    said = run("check", folder, "--timeout", 1, expect=2)
    assert "1 of 3 recordings cannot be used: blocked" in said and "sim_001" in said
    run("check", folder, "--timeout", 1, "--on-error", "skip")
