"""Files of suite2p, NWB, CaImAn and numpy become recordings that torch_brain reads."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poyo_ssl_plugin import CalciumPOYO, PredictabilitySampler, score_dataset
from poyo_ssl_plugin.cli import main
from poyo_ssl_plugin.compat import Dataset, DatasetIndex
from poyo_ssl_plugin.data import CountSpikes, Recordings, TrialSampler, find_trials, fit_task, get_task
from poyo_ssl_plugin.data.check import check_recording
from poyo_ssl_plugin.data.importing import df_over_f, read_caiman, read_suite2p, recording_from_arrays, save_recording
from poyo_ssl_plugin.data.splits import PARTS, recorded_split
from poyo_ssl_plugin.errors import OutputError, RecordingError
from poyo_ssl_plugin.recordings import merge_intervals, split_intervals

RATE, FRAMES, CELLS, TRIALS = 10.0, 600, 5, 20


@pytest.fixture
def traces() -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, size=(FRAMES, CELLS)).astype(np.float32)


@pytest.fixture
def trials_csv(tmp_path: Path) -> Path:
    """Twenty trials of two seconds, three seconds apart, to the left and to the right."""
    path = tmp_path / "trials.csv"
    rows = [f"{3 * i},{3 * i + 2},{'lr'[i % 2]},{PARTS[(i > 9) + (i > 14)]}" for i in range(TRIALS)]
    path.write_text("start,end,side,part\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def main_run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(*arguments: object) -> Result:
    return main_run("import", *arguments)


def written(result: Result, out: Path, name: str = "m1"):
    """The recording that a command wrote, as torch_brain's own dataset reads it."""
    assert result.exception is None, result.output + repr(result.exception)
    assert [path.name for path in out.iterdir()] == [f"{name}.h5"]
    return Dataset(str(out)).get_recording(name)


def write_suite2p(folder: Path, traces: np.ndarray, fs: object = RATE, cells: slice = slice(None)) -> Path:
    """Files as suite2p lays them out (roiextractors reads them so); suite2p itself is too heavy for a test."""
    folder.mkdir(parents=True)
    n = traces.shape[1]
    np.save(folder / "F.npy", 100 + 20 * traces.T)
    np.save(folder / "Fneu.npy", np.full((n, len(traces)), 40.0, np.float32))
    iscell = np.zeros((n, 2), np.float32)
    iscell[cells] = 1, 0.9
    np.save(folder / "iscell.npy", iscell)
    np.save(folder / "ops.npy", {"nplanes": 1, "fs": fs, "tau": 1.0, "nframes": len(traces), "Ly": 8, "Lx": 8})
    roi = {"ypix": np.array([1]), "xpix": np.array([2]), "lam": np.ones(1), "med": (1, 2)}
    np.save(folder / "stat.npy", np.array([roi] * n, dtype=object), allow_pickle=True)
    return folder


def write_caiman(path: Path, traces: np.ndarray, accepted: list[int] | None) -> Path:
    """Groups as CaImAn's save_dict_to_hdf5 writes them (roiextractors reads them so)."""
    n = traces.shape[1]
    with h5py.File(path, "w") as file:
        file["estimates/F_dff"], file["estimates/C"] = traces.T, traces.T
        file["estimates/idx_components"] = "NoneType" if accepted is None else np.array(accepted)
        file["params/data/fr"] = RATE
        # Footprints, a sparse matrix (pixels, components), which only roiextractors asks for.
        pixels = {"data": np.ones(n), "indices": np.arange(n), "indptr": np.arange(n + 1), "shape": (64, n)}
        for name, values in pixels.items():
            file[f"estimates/A/{name}"] = values
        file["estimates/dims"] = file["params/data/dims"] = (8, 8)
    return path


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

    @pytest.mark.parametrize("kind", ["df_over_f", "fluorescence"])
    def test_nwb(self, tmp_path, out, traces, kind):
        path = write_nwb(tmp_path / "mouse.nwb", traces, kind)
        data = written(run("nwb", path, "--out", out, "--recording", "m1"), out)
        expected = traces if kind == "df_over_f" else df_over_f(100 + traces, np.full_like(traces, 40), RATE)
        np.testing.assert_allclose(data.calcium_traces.df_over_f, expected, rtol=1e-4, atol=1e-5)
        assert data.rois.id.astype(str).tolist() == [f"m1/{i}" for i in range(CELLS)]
        assert data.trials.side.tolist() == ["l", "r"] * 10 and float(data.domain.start[0]) == 0.5

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


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_nwb(path: Path, traces: np.ndarray | None, kind: str = "df_over_f", spikes: list[np.ndarray] = ()) -> Path:
    """A file written by pynwb."""
    pynwb = pytest.importorskip("pynwb")
    from datetime import datetime, timezone

    from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel

    file = pynwb.NWBFile("test", "test", datetime(2020, 1, 1, tzinfo=timezone.utc))
    if traces is not None:
        device = file.create_device("microscope")
        channel = OpticalChannel(name="channel", description="green", emission_lambda=510.0)
        plane = file.create_imaging_plane(
            name="plane", optical_channel=channel, description="", device=device, excitation_lambda=900.0,
            imaging_rate=RATE, indicator="GCaMP6f", location="VISp",
        )  # fmt: skip
        ophys = file.create_processing_module("ophys", "ophys")
        segmentation = ImageSegmentation()
        ophys.add(segmentation)
        cells = segmentation.create_plane_segmentation("cells", plane)
        for _ in range(CELLS):
            cells.add_roi(pixel_mask=[(0, 0, 1.0)])
        region = cells.create_roi_table_region("all", region=list(range(CELLS)))
        container = DfOverF() if kind == "df_over_f" else Fluorescence()
        ophys.add(container)
        clock = {"rois": region, "unit": "a.u."}
        if kind == "df_over_f":
            container.create_roi_response_series("traces", traces, rate=RATE, starting_time=0.5, **clock)
        else:
            times = 0.5 + np.arange(len(traces)) / RATE
            container.create_roi_response_series("traces", 100 + traces, timestamps=times, **clock)
            container.create_roi_response_series("Neuropil", np.full_like(traces, 40), timestamps=times, **clock)
    for times in spikes:
        file.add_unit(spike_times=times)
    if traces is not None or len(spikes):
        file.add_trial_column("side", "where to")
        for i in range(TRIALS):
            file.add_trial(start_time=3.0 * i + 0.5, stop_time=3.0 * i + 2.5, side="lr"[i % 2])
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


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

    def test_torch_brain_reads_it(self, folder):
        dataset = Dataset(str(folder))
        window = dataset[DatasetIndex("a", 3.0, 5.0)]
        assert window.calcium_traces.df_over_f.shape == (20, CELLS) and window.trials.side.tolist() == ["r"]
        window = Recordings(folder)[DatasetIndex("a", 3.0, 5.0)]
        assert window.units.id.tolist() == [f"a/{i}" for i in range(CELLS)]

    def test_the_command_tasks_says_what_to_write(self, folder):
        said = main_run("tasks", folder).output
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


def refused(result: Result, out: Path, message: str = "", *, before: dict[str, bytes] | None = None) -> str:
    """One sentence, exit code 2, and the output folder as it was. Returns the sentence."""
    assert result.exit_code == 2, f"{result.output}{result.exception!r}"
    said = result.stderr.removesuffix("\n")
    assert said.startswith("error: ") and "\n" not in said and len(said) < 700 and not result.stdout, result.output
    assert message in said, said
    assert contents(out) == (before or {})
    return said


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@dataclass
class Import:
    """An import that would go well, until one of ``MISTAKES`` is made in it."""

    folder: Path
    command: str = "arrays"
    values: np.ndarray = field(default_factory=lambda: np.ones((60, 4)))
    trials: np.ndarray = field(default_factory=lambda: np.arange(6)[:, None] + np.array([0.0, 0.5]))
    header: str = "start,end"
    options: dict[str, object] = field(
        default_factory=lambda: {"--sampling-rate": RATE, "--recording": "m1", "--split": "0.7,0.1,0.2"}
    )

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def run(self, out: Path) -> Result:
        if not self.source.exists():
            with self.source.open("wb") as file:
                np.save(file, self.values)
        rows = "\n".join(",".join(f"{value:.4f}" for value in row) for row in self.trials)
        trials = self.folder / "trials.csv"
        trials.write_text(f"{self.header}\n{rows}\n")
        options = [text for option in self.options.items() for text in option]
        return run(self.command, self.source, "--out", out, "--trials", trials, *options)


def swapped_axes(case, draw):
    case.values = case.values.T


def rate_of_another_unit(case, draw):
    """A period in seconds, milliseconds for a rate in Hz, and what is no rate."""
    case.options["--sampling-rate"] = draw(st.sampled_from(["0.1", "100", "0", "-3", "nan", "inf", "1e5"]))


def trials_beyond_the_recording(case, draw):
    case.trials *= draw(st.floats(1.2, 1000))


def overlapping_trials(case, draw):
    case.trials[draw(st.integers(0, 4)), 1] += draw(st.floats(0.51, 0.9))


def impossible_split(case, draw):
    splits = ["0.5,0.5", "1,0,0", "0.9,0.9,0.1", "nan,0,1", "blocks:0", "x,y,z", "-1,1,1", "turn"]
    case.options["--split"] = draw(st.sampled_from(splits))


def odd_id(case, draw):
    case.options["--recording"] = draw(st.sampled_from(["../x", "a/b", "a b", ".hidden", "ü", "-"]))


def no_array(case, draw):
    case.source.write_bytes(draw(st.binary(max_size=64)))


def wrong_columns(case, draw):
    case.header = draw(st.sampled_from(["start,stop", "start,start", "start", "on,off", "start,end,side", ""]))


def bad_series(case, draw):
    rows = draw(st.sampled_from(["1,1", "0,0\n0,1", "0,x\n1,y", "900,0\n901,1", "0,inf\n1,0", "", "0"]))
    (case.folder / "series.csv").write_text(f"time,speed\n{rows}\n")
    case.options["--series"] = draw(st.sampled_from(["running=", "domain=", "=", "a b="])) + f"{case.folder}/series.csv"


def repeated_ids(case, draw):
    case.command = "caiman"
    n = case.values.shape[1]
    write_caiman(case.source, case.values, [*range(n), draw(st.integers(0, n - 1))])


def recording_that_is_there(case, draw):
    case.options["--recording"] = "kept"


MISTAKES = (
    swapped_axes, rate_of_another_unit, trials_beyond_the_recording, overlapping_trials, impossible_split, odd_id,
    no_array, wrong_columns, bad_series, repeated_ids, recording_that_is_there,
)  # fmt: skip

# Each takes a valid row of TRIALS.csv (start, end, side, part) and makes it wrong in a way drawn at random.
BAD_VALUES = {
    "start": st.sampled_from(["", "nan", "x", "inf", "-5", "1e9", "0x1"]),
    "end": st.sampled_from(["", "NaN", "later", "-inf", "0", "100000", "1e308"]),
    "side": st.sampled_from(["", "nan", "NA", "None"]),
    "part": st.sampled_from(["", "training", "tset", "1"]),
}


class TestBadInput:
    """Three hundred generated cases through the command itself, as a shell runs it."""

    CASES = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

    @CASES
    @given(data=st.data())
    def test_a_wrong_value_is_named_by_file_column_and_row(self, tmp_path, out, traces, trials_csv, data):
        np.save(tmp_path / "dff.npy", traces)
        lines = [line.split(",") for line in trials_csv.read_text().split()]
        row = data.draw(st.integers(1, TRIALS))
        column = data.draw(st.sampled_from(sorted(BAD_VALUES)))
        lines[row][lines[0].index(column)] = data.draw(BAD_VALUES[column])
        bad = tmp_path / "bad.csv"
        bad.write_text("\n".join(",".join(line) for line in lines))
        common = ["--sampling-rate", RATE, "--out", out, "--split", "part"]
        said = refused(run("arrays", tmp_path / "dff.npy", *common, "--trials", bad), out, f"{bad}: column '")
        # A start that is after its end is seen at the end; one that moves can make its neighbour overlap.
        assert re.search(f"'({column}|end)', row {row + 1}: ", said) or "overlap" in said

    @CASES
    @given(data=st.data())
    def test_what_does_not_fit_together_is_refused(self, tmp_path, data):
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            case, out = Import(Path(folder)), Path(folder) / "out"
            out.mkdir()
            (out / "kept.h5").write_bytes(b"a recording")
            data.draw(st.sampled_from(MISTAKES))(case, data.draw)
            refused(case.run(out), out, before={"kept.h5": b"a recording"})

    def test_without_a_mistake_it_goes_well(self, tmp_path):
        assert Import(tmp_path).run(tmp_path / "out").exit_code == 0

    def test_a_label_that_training_lacks(self, traces, tmp_path):
        trials = {"start": np.arange(20) * 3.0, "end": np.arange(20) * 3.0 + 2, "side": [*"lr" * 8, *"lrxx"]}
        data = recording_from_arrays(traces, recording="a", sampling_rate=RATE, trials=trials)
        save_recording(data, tmp_path / "recordings")
        task = "task={name: side, source: trials, label: side}"
        overrides = [task, f"data.root={tmp_path / 'recordings'}", f"out_dir={tmp_path / 'run'}", "diet=all"]
        result = main_run("finetune", "--recipe", "scratch", "model=tiny", "trainer.accelerator=cpu", *overrides)
        said = result.stderr.splitlines()[-1]
        assert result.exit_code == 2 and "Traceback" not in result.stderr and not (tmp_path / "run").exists()
        assert said.startswith("error: recording a: row 18 of trials has the side 'x', which is not among the classes")

    def test_ids_that_repeat(self, traces):
        with pytest.raises(RecordingError, match="unit id 'a' occurs twice"):
            recording_from_arrays(traces, recording="m1", sampling_rate=RATE, unit_ids=list("aabcd"))

    def test_a_file_stays_when_another_is_refused(self, traces, out):
        data = recording_from_arrays(traces, recording="m1", sampling_rate=RATE)
        before = save_recording(data, out).read_bytes()
        with pytest.raises(OutputError, match="is there already"):
            save_recording(data, out)
        assert (out / "m1.h5").read_bytes() == before and len(list(out.iterdir())) == 1

    def test_damaged_files_of_each_kind(self, tmp_path, out, traces):
        folder = write_suite2p(tmp_path / "plane0", traces)
        np.save(folder / "iscell.npy", np.ones((2, CELLS)))
        refused(run("suite2p", folder, "--out", out), out, "iscell.npy: has shape (2, 5) for 5 ROIs")
        (tmp_path / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 100)
        for command in ("nwb", "caiman"):
            refused(run(command, tmp_path / "bad.h5", "--out", out), out, "bad.h5: cannot be read as")
            refused(run(command, tmp_path / "none.h5", "--out", out), out, "no such file")
        with h5py.File(tmp_path / "c.h5", "w") as file:
            file["estimates/C"] = traces.T
        refused(run("caiman", tmp_path / "c.h5", "--out", out), out, "run estimates.detrend_df_f()")
        refused(run("suite2p", tmp_path, "--out", out), out, "iscell.npy")


def test_the_snippets_of_the_docs_run(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "own_data.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), {})
    assert "('left', 'right') 4" in capsys.readouterr().out
