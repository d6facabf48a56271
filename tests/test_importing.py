"""Files of suite2p, NWB, CaImAn and numpy become recordings that torch_brain reads."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from command_line import invoke
from recording_files import (
    CELLS,
    FRAMES,
    RATE,
    contents,
    nwb_series,
    refused,
    run,
    write_caiman,
    write_nwb,
    write_suite2p,
)

from poyo_ssl_plugin import CalciumPOYO, PredictabilitySampler, score_dataset
from poyo_ssl_plugin.compat import Dataset, DatasetIndex
from poyo_ssl_plugin.data import CountSpikes, Recordings, TrialSampler, find_trials, fit_task, get_task
from poyo_ssl_plugin.data.check import check_recording
from poyo_ssl_plugin.data.importing import df_over_f, read_caiman, read_suite2p, recording_from_arrays, save_recording
from poyo_ssl_plugin.data.splits import PARTS, recorded_split
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.recordings import merge_intervals, split_intervals


def written(result: Result, out: Path, name: str = "m1"):
    """The recording that a command wrote, as torch_brain's own dataset reads it."""
    assert result.exception is None, result.output + repr(result.exception)
    assert [path.name for path in out.iterdir()] == [f"{name}.h5"]
    return Dataset(str(out)).get_recording(name)


class TestReaders:
    @pytest.mark.parametrize("fs", [RATE, 10, np.float64(RATE)])
    def test_suite2p(self, tmp_path, out, traces, trials_csv, fs):
        folder = write_suite2p(tmp_path / "suite2p" / "plane0", traces, fs, slice(1, 4)).parent
        rate = ["--sampling-rate", RATE] if isinstance(fs, np.generic) else []
        result = run("suite2p", folder, "--trials", trials_csv, "--out", out, "--recording", "m1", *rate)
        data = written(result, out)
        assert data.rois.id.astype(str).tolist() == [f"m1/plane0_{i}" for i in (1, 2, 3)]
        expected = df_over_f(100 + 20 * traces[:, 1:4], np.full((FRAMES, 3), 40.0), RATE)
        np.testing.assert_allclose(data.calcium_traces.df_over_f, expected, rtol=1e-5, atol=1e-6)
        assert data.calcium_traces.sampling_rate == RATE and data.trials.side.tolist() == ["l", "r"] * 10

    def test_planes_of_suite2p_are_one_recording(self, tmp_path, traces):
        for plane, length in (("plane0", FRAMES), ("plane1", FRAMES - 1), ("plane10", FRAMES)):
            write_suite2p(tmp_path / plane, traces[:length])
        read = read_suite2p(tmp_path)
        assert read.values.shape == (FRAMES - 1, 3 * CELLS) and read.unit_ids[[0, CELLS, -1]].tolist() == [
            "plane0_0", "plane1_0", "plane10_4",
        ]  # fmt: skip

    def test_the_combined_view_of_suite2p(self, tmp_path, traces):
        """suite2p 1 has settings.npy there, not ops.npy, and fills up planes that end a frame earlier with zeros."""
        folder = write_suite2p(tmp_path / "combined", traces)
        (folder / "ops.npy").rename(folder / "settings.npy")
        for name in ("F.npy", "Fneu.npy"):
            values = np.load(folder / name)
            values[3:, -1] = 0
            np.save(folder / name, values)
        read = read_suite2p(folder)
        expected = df_over_f(100 + 20 * traces[:-1], np.full((FRAMES - 1, CELLS), 40.0), RATE)
        np.testing.assert_array_equal(read.values, expected)
        assert read.rate == RATE and read.unit_ids[-1] == "combined_4"

    def test_nothing_is_unpickled(self, tmp_path, traces):
        """An ops.npy that runs code when it is loaded: its rate is not found, and nothing runs."""
        folder = write_suite2p(tmp_path / "plane0", traces)
        canary = tmp_path / "canary"
        np.save(folder / "ops.npy", np.array({"x": Trap(canary)}), allow_pickle=True)
        with pytest.raises(RecordingError, match="give it in Hz with --sampling-rate"):
            read_suite2p(folder)
        assert not canary.exists()
        np.load(folder / "ops.npy", allow_pickle=True)
        assert canary.exists()

    @pytest.mark.parametrize("kind", ["df_over_f", "both", "fluorescence", "neuroconv"])
    def test_nwb(self, tmp_path, out, traces, kind):
        path = write_nwb(tmp_path / "mouse.nwb", traces, kind)
        data = written(run("nwb", path, "--out", out, "--recording", "m1"), out)
        expected = traces if kind in ("df_over_f", "both") else df_over_f(100 + traces, neuropil_of(traces), RATE)
        np.testing.assert_allclose(data.calcium_traces.df_over_f, expected, rtol=1e-4, atol=1e-5)
        assert data.rois.id.astype(str).tolist() == [f"m1/{i}" for i in range(CELLS)]
        assert data.trials.side.tolist() == ["l", "r"] * 10 and float(data.domain.start[0]) == 0.5
        assert sorted(data.trials.keys()) == ["end", "side", "start"]

    def test_cells_and_planes_of_an_nwb(self, tmp_path, out, traces):
        """As suite2p writes it: planes of one table, which says which ROIs are cells; each with its own neuropil."""
        iscell = np.array([[1, 0.9], [0, 0.1], [0, 0.2], [0, 0.3], [1, 0.8]])
        path = write_nwb(tmp_path / "mouse.nwb", traces, "suite2p", cells=("iscell", iscell))
        several = "mouse.nwb: has several traces (Fluorescence/plane0, Fluorescence/plane1); choose one with --traces"
        refused(run("nwb", path, "--out", out), out, several)
        expected = df_over_f(100 + traces, neuropil_of(traces), RATE)
        for plane, cell in (("plane0", 0), ("plane1", 4)):
            chosen = ["--traces", f"Fluorescence/{plane}", "--force"]
            data = written(run("nwb", path, "--out", out, "--recording", "m1", *chosen), out)
            assert data.rois.id.astype(str).tolist() == [f"m1/{cell}"]
            np.testing.assert_allclose(data.calcium_traces.df_over_f, expected[:, [cell]], rtol=1e-4, atol=1e-5)

        path = write_nwb(tmp_path / "none.nwb", traces, cells=("is_accepted", np.zeros(CELLS, bool)))
        refused(run("nwb", path, "--out", out), out, "traces: none of its 5 ROIs is accepted", before=contents(out))

    def test_an_nwb_without_traces(self, tmp_path, out):
        path = write_nwb(tmp_path / "mouse.nwb", None)
        refused(
            run("nwb", path, "--out", out),
            out,
            "mouse.nwb: has no traces; it has neither a RoiResponseSeries nor units",
        )

    def test_units_of_an_nwb(self, tmp_path, out):
        """Spikes become a recording that is scored, and counted for the models, with field=spikes."""
        rng = np.random.default_rng(0)
        spikes = [np.sort(rng.uniform(0.4, 60, n)) for n in (400, 0, 300)]
        path = write_nwb(tmp_path / "mouse.nwb", None, spikes=spikes)
        data = written(run("nwb", path, "--out", out, "--recording", "m1"), out)
        assert data.units.id.astype(str).tolist() == ["m1/0", "m1/1", "m1/2"]
        for unit, times in enumerate(spikes):
            np.testing.assert_array_equal(data.spikes.timestamps[data.spikes.unit_index == unit], times)
        assert data.trials.side.tolist() == ["l", "r"] * 10
        table = score_dataset(Recordings(out), field="spikes")
        assert table["status"].tolist() == ["ok", "constant", "ok"]
        window = Recordings(out, fields=["spikes"])[DatasetIndex("m1", 3.0, 5.0)]
        counts = CountSpikes(0.1)(window).calcium_traces.df_over_f
        expected = [((times >= 3) & (times < 5)).sum() for times in spikes]
        assert counts.shape == (20, 3) and counts.sum(axis=0).tolist() == expected
        late = tmp_path / "late.csv"
        late.write_text("start,end\n1,2\n70,71\n")
        refused(
            run("nwb", path, "--out", out, "--recording", "m2", "--trials", late),
            out,
            "'end', row 3",
            before=contents(out),
        )

    @pytest.mark.parametrize("accepted", [[0, 2], None])
    def test_caiman(self, tmp_path, out, traces, accepted):
        path = write_caiman(tmp_path / "cnm.hdf5", traces, accepted)
        data = written(run("caiman", path, "--out", out, "--recording", "m1"), out)
        rows = accepted or list(range(CELLS))
        np.testing.assert_array_equal(data.calcium_traces.df_over_f, traces[:, rows])
        assert data.rois.id.astype(str).tolist() == [f"m1/{row}" for row in rows]

    def test_roiextractors_reads_the_same(self, tmp_path, traces):
        """A reader that others keep finds in these files the cells, traces and rates that ours find."""
        roiextractors = pytest.importorskip("roiextractors")
        folder = write_suite2p(tmp_path / "suite2p" / "plane0", traces, RATE, slice(1, 4)).parent
        theirs, ours = roiextractors.Suite2pSegmentationExtractor(folder_path=folder), read_suite2p(folder)
        cells = np.flatnonzero(theirs.get_property("iscell", theirs.get_roi_ids()))
        assert ours.unit_ids.tolist() == [f"plane0_{cell}" for cell in cells] and ours.rate == RATE
        assert theirs.get_sampling_frequency() == RATE
        raw, neuropil = (theirs.get_traces(name=name)[:, cells] for name in ("raw", "neuropil"))
        np.testing.assert_array_equal(ours.values, df_over_f(raw, neuropil, RATE))

        path = write_caiman(tmp_path / "cnm.hdf5", traces, [0, 2])
        theirs, ours = roiextractors.CaimanSegmentationExtractor(path), read_caiman(path)
        accepted = np.flatnonzero(theirs.get_property("is_accepted", theirs.get_roi_ids()))
        assert ours.unit_ids.astype(int).tolist() == accepted.tolist()
        np.testing.assert_array_equal(ours.values, theirs.get_traces(name="dff")[:, accepted])
        assert ours.rate == theirs.get_sampling_frequency()

    def test_arrays_with_everything_beside(self, tmp_path, out, traces, trials_csv):
        np.save(tmp_path / "dff.npy", traces)
        (tmp_path / "run.csv").write_text("time,speed\n" + "".join(f"{t / 5},{t % 7}\n" for t in range(300)))
        series = f"running={tmp_path / 'run.csv'}"
        common = ["--sampling-rate", RATE, "--out", out, "--recording", "m1", "--subject", "s", "--cre-line", "Cux2"]
        result = run("arrays", tmp_path / "dff.npy", *common, "--trials", trials_csv, "--series", series)
        data = written(result, out)
        assert data.subject.id == "s" and data.subject.cre_line == "Cux2"
        np.testing.assert_array_equal(data.running.speed[:8], [0, 1, 2, 3, 4, 5, 6, 0])
        refused(run("arrays", tmp_path / "dff.npy", *common), out, "is there already", before=contents(out))
        assert run("arrays", tmp_path / "dff.npy", *common, "--force").exit_code == 0

    def test_trials_that_were_cut_out(self, tmp_path, out, traces):
        """One domain interval per trial, which no window crosses."""
        (tmp_path / "trials.csv").write_text(
            "start,end,side\n" + "".join(f"0.5,2.5,{'lr'[i % 2]}\n" for i in range(20))
        )
        np.save(tmp_path / "dff.npy", traces.reshape(20, 30, CELLS))
        common = ["--sampling-rate", RATE, "--out", out, "--recording", "m1", "--trials", tmp_path / "trials.csv"]
        data = written(run("arrays", tmp_path / "dff.npy", *common), out)
        np.testing.assert_allclose(data.domain.start, np.arange(20) * 3.0)
        np.testing.assert_allclose(data.trials.start, np.arange(20) * 3.0 + 0.5)
        assert [len(split_intervals(data, part)) for part in PARTS] == [14, 2, 4]
        intervals = Recordings(out).get_sampling_intervals("train")
        for window in PredictabilitySampler(sampling_intervals=intervals, window_length=2.0):
            assert window.start // 3.0 == (window.end - 1e-9) // 3.0

    def test_df_over_f_is_the_rule_of_its_docstring(self):
        rng = np.random.default_rng(1)
        neuropil = rng.normal(200, 30, (FRAMES, 2))
        drift = np.linspace(1, 1.2, FRAMES)[:, None]
        calcium = np.zeros((FRAMES, 2))
        calcium[[100, 300]] = 0.5
        fluorescence = 300 * drift * (1 + calcium) + 0.7 * (neuropil - np.median(neuropil, axis=0))
        found = df_over_f(fluorescence, neuropil, RATE)
        np.testing.assert_allclose(found[[100, 300]], 0.5, atol=0.08)
        assert np.abs(np.median(found)) < 0.08
        assert np.isnan(df_over_f(fluorescence - 400, None, RATE)).all()


def neuropil_of(traces: np.ndarray) -> np.ndarray:
    """The neuropil that ``write_nwb`` writes."""
    return nwb_series(traces)["fluorescence"]["Fluorescence"]["Neuropil"][0]


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestResult:
    """What is imported goes through the rest of the package."""

    @pytest.fixture
    def folder(self, traces, tmp_path) -> Path:
        for name in ("a", "b"):
            trials = {"start": np.arange(20) * 3.0, "end": np.arange(20) * 3.0 + 2, "side": ["l", "r"] * 10}
            series = {"running": {"time": np.arange(300) / 5, "speed": np.arange(300) % 7}}
            data = recording_from_arrays(traces, recording=name, sampling_rate=RATE, trials=trials, series=series)
            save_recording(data, tmp_path / "recordings")
        return tmp_path / "recordings"

    def test_is_checked_scored_and_sampled(self, folder):
        dataset = Recordings(folder, fields=["calcium_traces", "trials"])
        for name in dataset.recording_ids:
            check_recording(dataset, name)
        assert set(score_dataset(dataset)["status"]) == {"ok"} and len(set(dataset.get_unit_ids())) == 2 * CELLS
        split = recorded_split(dataset)
        task = fit_task(get_task({"name": "side", "source": "trials", "label": "side"}), dataset, split["train"])
        trials = {name: find_trials(dataset.get_recording(name), task, "test") for name in dataset.recording_ids}
        assert [len(of) for of in trials.values()] == [4, 4]
        model = CalciumPOYO(sequence_length=2.0, latent_step=0.5, patch_size=5, dim=16, dim_out=2)
        model.init_vocabs(dataset)
        window = dataset[next(iter(TrialSampler(trials, window_length=2.0)))]
        assert model.tokenize(window)["input_values"].obj.shape == (CELLS, 4, 5)

    def test_every_command_runs_on_it_with_a_declared_task(self, folder, tmp_path):
        task = "task={name: side, source: trials, label: side}"
        few = [
            "diet=all",
            "model=tiny",
            "trainer.max_steps=2",
            "trainer.val_every_n_steps=2",
            "trainer.accelerator=cpu",
        ]
        mouse = {name: f"data.recordings=[{name}]" for name in "ab"}
        compared = ["held_out=[b]", "arms=[pretrained,scratch]", "seeds=[0]", "processes=1"]
        for command in (
            ["check", folder],
            ["score", folder, "--out", tmp_path / "table.csv"],
            ["pretrain", f"data.root={folder}", f"aux.{task}", mouse["a"], f"out_dir={tmp_path / 'pretrain'}", *few],
            ["finetune", f"data.root={folder}", task, mouse["b"], f"out_dir={tmp_path / 'finetune'}", "seeds=[0]", *few,
             f"init_from={tmp_path / 'pretrain' / 'checkpoints' / 'last.ckpt'}"],
            ["compare", f"root={folder}", task, f"out_dir={tmp_path / 'compare'}", *compared,
             *(f"{part}=[{','.join(few)}]" for part in ("pretrain", "finetune"))],
        ):  # fmt: skip
            result = invoke(*command)
            assert result.exit_code == 0, f"{command}: {result.output}"
        for done in ("finetune", "compare"):
            text = (tmp_path / done / "results.json").read_text()
            assert '"side"' in text and '"template"' in text, done

    def test_torch_brain_reads_it(self, folder):
        dataset = Dataset(str(folder))
        window = dataset[DatasetIndex("a", 3.0, 5.0)]
        assert window.calcium_traces.df_over_f.shape == (20, CELLS) and window.trials.side.tolist() == ["r"]
        window = Recordings(folder)[DatasetIndex("a", 3.0, 5.0)]
        assert window.units.id.tolist() == [f"a/{i}" for i in range(CELLS)]

    def test_the_command_tasks_says_what_to_write(self, folder):
        said = invoke("tasks", folder).output
        assert "task={name: side, source: trials, label: side}" in said.replace("'", "")
        assert "task={name: speed, source: running, label: speed, kind: regression}" in said.replace("'", "")


class TestSplits:
    @pytest.mark.parametrize(
        ("split", "counts"), [("0.5,0.25,0.25", (10, 5, 5)), ("part", (10, 5, 5)), ("blocks:2", (14, 2, 4))]
    )
    def test_trials_are_in_one_part_each_and_parts_do_not_overlap(
        self, tmp_path, out, traces, trials_csv, split, counts
    ):
        np.save(tmp_path / "dff.npy", traces)
        common = ["--sampling-rate", RATE, "--out", out, "--recording", "m1", "--trials", trials_csv]
        data = written(run("arrays", tmp_path / "dff.npy", *common, "--split", split), out)
        task = get_task({"name": "side", "source": "trials", "label": "side", "classes": ["l", "r"]})
        assert tuple(len(find_trials(data, task, part)) for part in PARTS) == counts
        times = np.concatenate([split_intervals(data, part) for part in PARTS])
        assert np.diff(times, axis=1).sum() == pytest.approx(60.0)
        assert merge_intervals(times).tolist() == [[0.0, 60.0]]

    def test_time_is_cut_where_there_are_no_trials(self, traces):
        data = recording_from_arrays(traces, recording="m1", sampling_rate=RATE, split="blocks:2")
        assert split_intervals(data, "test").round(6).tolist() == [[24.0, 30.0], [54.0, 60.0]]


def test_the_snippets_of_the_docs_run(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "own_data.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), {})
    assert "('left', 'right') 4" in capsys.readouterr().out
