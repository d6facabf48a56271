"""Scoring with Ray gives the table that scoring in process gives."""

from __future__ import annotations

import builtins
import shutil
import threading

import numpy as np
import pytest
from click.testing import CliRunner

from poyo_ssl_plugin.cli import main
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.errors import ExtensionError, PoyoSSLError, RecordingError
from poyo_ssl_plugin.predictability import register_statistic, score_dataset, unregister_statistic
from poyo_ssl_plugin.predictability.on_ray import on_ray


@pytest.fixture(scope="module")
def cluster():
    # Comes with either generation of torch_brain.
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning")
    yield ray
    ray.shutdown()


def score(*arguments: object) -> object:
    return CliRunner().invoke(main, ["score", *map(str, arguments)])


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
def test_the_command_writes_the_same_table_byte_for_byte(cluster, sim_dir, tmp_path, workers):
    tables = []
    for name, further in (("here", []), ("ray", ["--ray", *workers])):
        assert score(sim_dir, "--out", tmp_path / f"{name}.csv", *further).exit_code == 0
        tables.append((tmp_path / f"{name}.csv").read_bytes())
    assert tables[0] == tables[1]
    assert cluster.is_initialized()  # what it did not start it does not stop


def test_a_damaged_recording_is_skipped_or_stops_as_in_process(cluster, sim_dir, tmp_path):
    folder = tmp_path / "recordings"
    shutil.copytree(sim_dir, folder)
    (folder / "sim_001.h5").write_bytes(b"not HDF5")
    dataset = Recordings(folder)
    with pytest.raises(RecordingError, match=r"sim_001\.h5: cannot be read"):
        score_dataset(dataset, on=on_ray)
    for name, further in (("here", []), ("ray", ["--ray"])):
        done = score(folder, "--out", tmp_path / f"{name}.csv", "--on-error", "skip", *further)
        assert done.exit_code == 0 and "skipped sim_001" in done.output
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "ray.csv").read_bytes()


def test_statistics_registered_here_are_known_there(cluster, dataset):
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


def test_a_dataset_that_cannot_be_sent_is_refused(cluster, dataset):
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
