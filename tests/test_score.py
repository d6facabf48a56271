from __future__ import annotations

import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from scipy import stats

from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.errors import PoyoSSLError, RecordingError
from poyo_ssl_plugin.predictability import Diet, register_statistic, score_dataset, unregister_statistic
from poyo_ssl_plugin.recordings import split_intervals


def rows_of(data, intervals: np.ndarray) -> np.ndarray:
    """Samples in [start, end) of the intervals, by comparing every timestamp."""
    times = np.arange(len(data.calcium_traces.df_over_f)) / data.calcium_traces.sampling_rate
    inside = ((times[:, None] >= intervals[:, 0] - 1e-6) & (times[:, None] < intervals[:, 1] - 1e-6)).any(axis=1)
    return data.calcium_traces.df_over_f[inside].astype(float)


@pytest.fixture
def own_copy(sim_dir, tmp_path):
    """A recording that a test may change."""
    shutil.copy(sim_dir / "sim_000.h5", tmp_path / "sim_000.h5")
    return tmp_path


def edit(folder, change) -> None:
    with h5py.File(folder / "sim_000.h5", "r+") as file:
        change(file)


def test_scores_are_those_of_the_train_split(dataset, table):
    for name in dataset.recording_ids:
        data = dataset.get_recording(name)
        x = rows_of(data, split_intervals(data, "train"))
        of = table["recording_id"] == name
        np.testing.assert_allclose(table["skewness"][of], stats.skew(x), rtol=1e-9)
        np.testing.assert_allclose(table["kurtosis"][of], stats.kurtosis(x), rtol=1e-9)
        np.testing.assert_allclose(table["mean"][of], x.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(table["std"][of], x.std(axis=0), rtol=1e-9)
        assert (table["n_samples"][of] == len(x)).all()
        assert [f"{name}/{unit}" for unit in table["unit_id"][of]] == data.rois.id.tolist()
    assert set(table["status"]) == {"ok"} and table["cre_line"][0] == "Cux2_CreERT2"


def test_other_splits_do_not_matter(own_copy, table):
    def spoil(file):
        test = np.stack([file["test_domain/start"], file["test_domain/end"]], axis=1)
        valid = np.stack([file["valid_domain/start"], file["valid_domain/end"]], axis=1)
        for start, end in np.concatenate([test, valid]):
            file["calcium_traces/df_over_f"][int(start * 30) : int(end * 30)] = 1e3

    edit(own_copy, spoil)
    spoiled = score_dataset(Recordings(own_copy))
    expected = table.select(table["recording_id"] == "sim_000")
    for column in ("skewness", "kurtosis", "mean", "std", "n_samples"):
        np.testing.assert_array_equal(spoiled[column], expected[column])
    assert (score_dataset(Recordings(own_copy), split="test")["mean"] == 1e3).all()


def test_overlapping_and_unsorted_intervals_count_each_sample_once(dataset):
    pairs = np.array([[20.0, 40.0], [0.0, 25.0], [30.0, 35.0], [50.0, 50.0]])
    name = dataset.recording_ids[0]
    one = Recordings(dataset.dataset_dir, [name])
    table = score_dataset(one, intervals={name: pairs})
    assert set(table["n_samples"].tolist()) == {40 * 30}


def test_statuses(own_copy):
    def change(file):
        x = file["calcium_traces/df_over_f"]
        x[:, 0] = 0.25
        x[:, 1] = np.nan
        x[:, 2] = np.where(np.arange(len(x)) < 50, x[:, 2], np.nan)
        x[7, 3] = np.inf
        x[100:200, 4] = np.nan

    edit(own_copy, change)
    table = score_dataset(Recordings(own_copy))
    assert table["status"][:6].tolist() == ["constant", "all_nan", "too_short", "not_finite", "ok", "ok"]
    assert table["n_samples"][4] == table["n_samples"][5] - 100
    everything = Diet.everything(table)
    ids = table["unit_id"]
    assert everything.mask("sim_000", ids).tolist() == (table["status"] == "ok").tolist()
    assert not Diet.from_thresholds(table).complement().mask("sim_000", ids)[:4].any()


def test_spike_counts(real_dir):
    dataset = Recordings(real_dir, ["501574836"])
    table = score_dataset(dataset, field="spikes", bin_width=0.5)
    data = dataset.get_recording("501574836")
    counts = []
    for start, end in split_intervals(data, "train"):
        edges = start + 0.5 * np.arange(int((end - start) / 0.5 + 1e-9) + 1)
        inside = [np.histogram(data.spikes.timestamps[data.spikes.unit_index == unit], edges)[0] for unit in range(5)]
        counts.append(np.array(inside).T)
    counts = np.concatenate(counts).astype(float)
    np.testing.assert_allclose(table["skewness"][:5], stats.skew(counts), rtol=1e-9)
    np.testing.assert_allclose(table["mean"][:5], counts.mean(axis=0), rtol=1e-9)
    assert table.provenance["bin_width"] == 0.5


def test_a_hundred_and_seven_of_the_real_session_are_predictable(real_dir):
    table = score_dataset(Recordings(real_dir, ["501574836"]))
    assert len(Diet.from_thresholds(table)) == 107 and len(table) == 242


def test_a_stock_dataset_gives_the_same_table(real_dir):
    from poyo_ssl_plugin.compat import GENERATION

    if GENERATION == "0.2":
        from torch_brain.datasets import AllenVisualCodingOphys2016
    else:
        from brainsets.datasets import AllenVisualCodingOphys2016
    stock = AllenVisualCodingOphys2016(str(real_dir.parent))
    assert score_dataset(stock) == score_dataset(Recordings(real_dir))


def test_parallel_and_serial_agree(dataset, table):
    assert score_dataset(dataset, workers=1) == table == score_dataset(dataset, workers=3)


def test_progress_sees_every_recording(dataset):
    seen = []
    score_dataset(dataset, progress=lambda items, n: (seen.append(n) or item for item in items))
    assert seen == [3, 3, 3]


def test_a_registered_statistic_becomes_a_column(dataset, tmp_path):
    @register_statistic("maximum")
    class Maximum:
        def __init__(self, n_units):
            self.value = np.full(n_units, -np.inf)

        def update(self, rows):
            self.value = np.fmax(self.value, np.nanmax(rows, axis=0))

        def result(self):
            return self.value

    try:
        table = score_dataset(dataset, statistics=["maximum"])
        with pytest.raises(PoyoSSLError, match="registered already"):
            register_statistic("maximum")(Maximum)
    finally:
        unregister_statistic("maximum")
    data = dataset.get_recording("sim_000")
    x = rows_of(data, split_intervals(data, "train"))
    np.testing.assert_array_equal(table["maximum"][:20], x.max(axis=0))
    table.to_csv(tmp_path / "t.csv")
    with pytest.raises(PoyoSSLError, match="unknown statistic 'maximum'"):
        score_dataset(dataset, statistics=["maximum"])


class TestBadInput:
    def test_a_folder_instead_of_a_dataset(self, sim_dir):
        with pytest.raises(RecordingError, match=r"takes a dataset, not a str: give Recordings\('here'\)"):
            score_dataset("here")

    def test_one_statistic_instead_of_a_list(self, dataset):
        with pytest.raises(PoyoSSLError, match=r"statistics is a list of names: give \['entropy'\]"):
            score_dataset(dataset, statistics="entropy")

    def test_unknown_split(self, dataset):
        with pytest.raises(RecordingError, match="no split 'training'; it has .*train"):
            score_dataset(dataset, split="training")

    def test_unknown_field(self, dataset):
        with pytest.raises(RecordingError, match="has no 'spikes'.*calcium_traces"):
            score_dataset(dataset, field="spikes")

    def test_no_traces(self, own_copy):
        def change(file):
            del file["calcium_traces"]

        edit(own_copy, change)
        with pytest.raises(RecordingError, match="sim_000.*calcium_traces"):
            score_dataset(Recordings(own_copy))

    def test_traces_and_ids_disagree(self, own_copy):
        def change(file):
            x = file["calcium_traces/df_over_f"][:, :-1]
            del file["calcium_traces/df_over_f"]
            file["calcium_traces/df_over_f"] = x

        edit(own_copy, change)
        with pytest.raises(RecordingError, match=r"shape \(\d+, 19\) but there are 20 neurons"):
            score_dataset(Recordings(own_copy))

    def test_duplicate_ids(self, own_copy):
        def change(file):
            file["rois/id"][1] = file["rois/id"][0]

        edit(own_copy, change)
        with pytest.raises(RecordingError, match="'sim_000_0000' occurs twice"):
            score_dataset(Recordings(own_copy))

    def test_skip_lists_what_was_left_out(self, sim_dir, tmp_path):
        for path in sim_dir.glob("*.h5"):
            shutil.copy(path, tmp_path)
        (tmp_path / "sim_001.h5").write_bytes((tmp_path / "sim_001.h5").read_bytes()[:2000])
        with pytest.raises(RecordingError, match=r"sim_001\.h5: cannot be read"):
            score_dataset(Recordings(tmp_path))
        table = score_dataset(Recordings(tmp_path), on_error="skip")
        assert table.recordings == ["sim_000", "sim_002"]
        assert "sim_001.h5" in table.provenance["skipped"]["sim_001"]


def test_memory_does_not_grow_with_the_recording(tmp_path):
    """Twice the rows, the same peak: both are many more blocks than are read ahead."""
    from poyo_ssl_plugin.recordings import SampleClock, TraceSignal

    def peak(n_rows: int) -> int:
        path = tmp_path / f"{n_rows}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("x", (n_rows, 50), "f4")
        with h5py.File(path) as file:
            signal = TraceSignal(np.arange(50).astype(str), file["x"], SampleClock(0.0, 30.0, n_rows))
            tracemalloc.start()
            from poyo_ssl_plugin.predictability.score import _measure

            with ThreadPoolExecutor(1) as executor:
                _measure(signal, np.array([[0.0, n_rows / 30]]), {}, True, 100, executor)
            _, top = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return top

    assert peak(320_000) < 1.2 * peak(160_000)
