from __future__ import annotations

import pickle
import shutil

import h5py
import numpy as np
import pytest
import torch
from quick import quick

from poyo_ssl_plugin.compat import Dataset, DatasetIndex
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings, SelectUnits, StandardizeTraces, WindowIndex
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.predictability import Diet, score_dataset
from poyo_ssl_plugin.training import pretrain, read_checkpoint

FIELDS = ["calcium_traces", "drifting_gratings", "natural_movie_one", "running"]


@pytest.mark.parametrize(("start", "end"), [(10.0, 12.0), (10.01, 12.02), (0.0, 1.9), (200.3, 201.3)])
def test_a_window_of_chosen_fields_is_the_stock_one(sim_dir, start, end):
    stock = Dataset(sim_dir)[DatasetIndex("sim_000", start, end)]
    ours = Recordings(sim_dir, fields=FIELDS)[DatasetIndex("sim_000", start, end)]
    np.testing.assert_array_equal(ours.calcium_traces.df_over_f, stock.calcium_traces.df_over_f)
    np.testing.assert_allclose(ours.calcium_traces.timestamps, stock.calcium_traces.timestamps, atol=1e-9)
    np.testing.assert_array_equal(ours.running.running_speed, stock.running.running_speed)
    for name in ("drifting_gratings", "natural_movie_one"):
        for key in getattr(stock, name).keys():
            np.testing.assert_allclose(getattr(getattr(ours, name), key), getattr(getattr(stock, name), key))
    assert ours.rois.id.tolist() == ours.units.id.tolist() == [f"sim_000/{unit}" for unit in stock.rois.id]
    assert ours.absolute_start == stock.absolute_start and ours.session.id == stock.session.id
    assert ours.domain.end[-1] == pytest.approx(stock.domain.end[-1])


def test_without_fields_a_window_has_everything(dataset):
    window = dataset[DatasetIndex("sim_000", 10.0, 12.0)]
    assert {"calcium_traces", "rois", "units", "running", "device", "brainset"} <= set(window.keys())
    assert window.units.id.tolist() == window.rois.id.tolist()


def test_fields_a_recording_lacks_are_left_out(sim_dir):
    window = Recordings(sim_dir, fields=["calcium_traces", "natural_scenes"])[DatasetIndex("sim_000", 0.0, 1.0)]
    assert "natural_scenes" not in window.keys()


def test_windows_do_not_share_what_transforms_change(sim_dir):
    dataset = Recordings(sim_dir, fields=["calcium_traces"])
    index = DatasetIndex("sim_000", 3.0, 4.0)
    first = dataset[index]
    first.calcium_traces.df_over_f[:] = 0
    first.rois = first.rois.select_by_mask(np.arange(20) < 5)
    second = dataset[index]
    assert len(second.rois) == len(second.units) == 20 and second.calcium_traces.df_over_f.any()


def test_the_index_tells_the_sample_its_seed_and_target(sim_dir):
    dataset = Recordings(sim_dir, fields=["calcium_traces"])
    window = dataset[WindowIndex("sim_000", 3.0, 5.0, seed=7, diet_fraction=0.5, target_time=4.0)]
    assert (window.window_seed, window.window_diet_fraction, window.window_target_time) == (7, 0.5, 4.0)
    assert not hasattr(dataset[DatasetIndex("sim_000", 3.0, 5.0)], "window_seed")


def test_unit_ids_and_intervals(dataset):
    ids = dataset.get_unit_ids()
    assert len(ids) == 60 and ids == sorted(ids) == dataset.get_roi_ids()
    train = dataset.get_sampling_intervals("train")["sim_000"]
    np.testing.assert_array_equal(train.start, dataset.get_recording("sim_000").train_domain.start)
    assert len(dataset.get_sampling_intervals()["sim_000"].start) == 1


def test_ids_that_repeat_from_recording_to_recording(sim_dir, tmp_path):
    for name in ("sim_000", "sim_001"):
        shutil.copy(sim_dir / f"{name}.h5", tmp_path)
        with h5py.File(tmp_path / f"{name}.h5", "r+") as file:
            file["rois/id"][:] = np.array([str(i) for i in range(20)], dtype="S")
    dataset = Recordings(tmp_path, fields=["calcium_traces"])
    ids = dataset.get_unit_ids()
    assert len(set(ids)) == 40 and "sim_001/0" in ids
    table = score_dataset(dataset)
    assert set(table["unit_id"]) == {str(i) for i in range(20)}
    diet = Diet.everything(table).subset(0.5)
    table.to_csv(tmp_path / "t.csv")
    window = SelectUnits(diet)(StandardizeTraces(table)(dataset[DatasetIndex("sim_001", 5.0, 6.0)]))
    assert sorted(window.units.id.tolist()) == [f"sim_001/{unit}" for unit in diet.units("sim_001")]
    overrides = [f"data.root={tmp_path}", f"diet.table={tmp_path / 't.csv'}", f"out_dir={tmp_path / 'run'}"]
    run = pretrain(compose_recipe("pretrain", overrides=[*quick(steps=1), *overrides, "diet=all"]))
    assert {"sim_000/0", "sim_001/0"} <= set(read_checkpoint(run.checkpoint)["state_dict"]["model.unit_emb.vocab"])


def test_it_survives_pickling_and_worker_processes(sim_dir):
    dataset = Recordings(sim_dir, fields=["calcium_traces"])
    index = DatasetIndex("sim_001", 5.0, 6.0)
    expected = dataset[index].calcium_traces.df_over_f
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again[index].calcium_traces.df_over_f, expected)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, sampler=[index] * 4, num_workers=2, multiprocessing_context="fork"
    )
    for window in loader:
        np.testing.assert_array_equal(window.calcium_traces.df_over_f, expected)


class TestBadInput:
    def test_no_folder(self, tmp_path):
        with pytest.raises(RecordingError, match="no such folder"):
            Recordings(tmp_path / "none")

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(RecordingError, match="brainsets prepare"):
            Recordings(tmp_path)

    def test_the_folder_above(self, sim_dir):
        with pytest.raises(RecordingError, match=f"did you mean .*{sim_dir.name}"):
            Recordings(sim_dir.parent)

    def test_hidden_files_are_no_recordings(self, sim_dir, tmp_path):
        """Those that a killed process was writing, and those of macOS beside the files of another disk."""
        shutil.copy(sim_dir / "sim_000.h5", tmp_path)
        for name in ("._sim_000.h5", ".sim_001.h5.x8k2.h5"):
            (tmp_path / name).write_bytes(b"half")
        assert Recordings(tmp_path).recording_ids == ["sim_000"]

    def test_an_id_that_a_recipe_took_for_a_number(self, sim_dir, tmp_path):
        shutil.copy(sim_dir / "sim_000.h5", tmp_path / "2024_05_01.h5")
        with pytest.raises(RecordingError, match=r"no recording 20240501; .* needs quotes, .*\[\"2024_05_01\"\]'"):
            Recordings(tmp_path, ["20240501"])

    def test_one_id_instead_of_a_list(self, sim_dir):
        with pytest.raises(RecordingError, match=r"a list of ids: give \['sim_000'\]"):
            Recordings(sim_dir, "sim_000")

    def test_an_unknown_recording(self, sim_dir):
        with pytest.raises(RecordingError, match="no recording sim_009; it has sim_000"):
            Recordings(sim_dir, ["sim_000", "sim_009"])

    @pytest.mark.parametrize("content", [b"", b"not hdf5 at all", None])
    def test_a_damaged_file_is_named(self, sim_dir, tmp_path, content):
        whole = (sim_dir / "sim_000.h5").read_bytes()
        (tmp_path / "sim_000.h5").write_bytes(whole[: len(whole) // 2] if content is None else content)
        with pytest.raises(RecordingError, match=r"sim_000\.h5: cannot be read.*prepare it again"):
            Recordings(tmp_path).get_recording("sim_000")

    def test_an_hdf5_file_of_something_else(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["a"] = [1, 2]
        with pytest.raises(RecordingError, match=r"x\.h5"):
            Recordings(tmp_path).get_recording("x")

    def test_neither_rois_nor_units(self, sim_dir, tmp_path):
        shutil.copy(sim_dir / "sim_000.h5", tmp_path)
        with h5py.File(tmp_path / "sim_000.h5", "r+") as file:
            del file["rois"]
        with pytest.raises(RecordingError, match="neither 'rois' nor 'units'"):
            Recordings(tmp_path).get_unit_ids()
