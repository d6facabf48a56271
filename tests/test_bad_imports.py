"""Imports that cannot go well: one sentence, exit code 2, and nothing written."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import Result
from command_line import invoke
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording_files import CELLS, RATE, TRIALS, refused, run, write_caiman, write_nwb, write_suite2p

from poyo_ssl_plugin.data.importing import recording_from_arrays, save_recording
from poyo_ssl_plugin.errors import OutputError, RecordingError


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
    "side": st.sampled_from(["", "nan", "NA", "None", "\u00fc"]),
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

    @pytest.mark.parametrize(("part", "row"), [("valid", 14), ("test", 18)])
    def test_a_label_that_training_lacks(self, traces, tmp_path, part, row):
        """It is refused before any training, and ``check`` and ``tasks`` say it beforehand."""
        side = np.array([*"lr" * 10])
        side[row] = "x"
        trials = {"start": np.arange(20) * 3.0, "end": np.arange(20) * 3.0 + 2, "side": side}
        root = tmp_path / "recordings"
        save_recording(recording_from_arrays(traces, recording="a", sampling_rate=RATE, trials=trials), root)
        plain = {**trials, "side": ["l", "r"] * 10}
        save_recording(recording_from_arrays(traces, recording="b", sampling_rate=RATE, trials=plain), root)
        sentence = f"recording a: row {row} of trials has the side 'x', which is not among the classes of the task "
        for command in ("check", "tasks"):
            said = invoke(command, root)
            assert said.exit_code == 0 and f"note: {sentence}'side' in training (l, r)" in said.output
        common = ["task={name: turn, source: trials, label: side}", f"out_dir={tmp_path / 'run'}"]
        finetune = ["--recipe", "scratch", f"data.root={root}", "model=tiny", "trainer.accelerator=cpu", "diet=all"]
        compare = ["--preset", "session", f"root={root}", "recordings=[a,b]", "folds=0", "arms=[scratch]", "seeds=[0]"]
        for arguments in (["finetune", *finetune], ["compare", *compare]):
            result = invoke(*arguments, *common)
            assert result.exit_code == 2 and "Traceback" not in result.stderr and not (tmp_path / "run").exists()
            assert result.stderr.splitlines()[-1].startswith(f"error: {sentence}'turn' in training (l, r); leave")

    @pytest.mark.parametrize(
        ("rows", "times", "message"),
        [
            ("0,1e39\n1,0", 1, "column 'speed', row 2: '1e+39' is not finite"),
            ("0,0\n60000,1", 1, "from 0 to 60000 and the recording from 0 to 60 s; are times in seconds"),
            ("0,0\n1,1", 2, "--series: a name occurs twice among running, running"),
        ],
    )
    def test_series_that_cannot_be(self, tmp_path, out, traces, rows, times, message):
        np.save(tmp_path / "dff.npy", traces)
        (tmp_path / "run.csv").write_text(f"time,speed\n{rows}\n")
        series = ["--series", f"running={tmp_path / 'run.csv'}"] * times
        refused(run("arrays", tmp_path / "dff.npy", "--sampling-rate", RATE, "--out", out, *series), out, message)

    def test_traces_that_cannot_be(self, tmp_path, out, traces):
        np.save(tmp_path / "dff.npy", traces.astype(float) * 1e39)
        np.save(tmp_path / "neuropil.npy", traces.T)
        common = [tmp_path / "dff.npy", "--sampling-rate", RATE, "--out", out]
        refused(run("arrays", *common), out, "traces are infinite at frame 0 of neuron 0")
        neuropil = tmp_path / "neuropil.npy"
        refused(run("arrays", *common, "--neuropil", neuropil), out, f"{neuropil}: has shape (5, 600) and ")

    def test_trials_in_python(self, traces):
        times = {"start": [0.0, 3.0, 6.0, 9.0], "end": [1.0, 4.0, 7.0, 10.0]}
        common = {"recording": "m1", "sampling_rate": RATE}
        data = recording_from_arrays(traces, trials={**times, "side": np.array([b"l", b"r"] * 2)}, **common)
        assert data.trials.side.tolist() == ["l", "r"] * 2
        for trials in ([times], {**times, "side": [[1], [1, 2]] * 2}):
            with pytest.raises(RecordingError, match="trials: must be a mapping or a DataFrame"):
                recording_from_arrays(traces, trials=trials, **common)

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
        (tmp_path / "text.npy").write_text("hello")
        said = refused(run("arrays", tmp_path / "text.npy", "--sampling-rate", RATE, "--out", out), out, "text.npy: ")
        assert "pickle" not in said

    @pytest.mark.filterwarnings("error")
    def test_an_nwb_with_swapped_axes(self, tmp_path, out, traces):
        """Only the sentence is said, without the warning of pynwb."""
        path = write_nwb(tmp_path / "mouse.nwb", traces)
        with h5py.File(path, "a") as file:
            series = file["processing/ophys/DfOverF/traces"]
            attributes = dict(series["data"].attrs)
            del series["data"]
            series["data"] = traces.T
            series["data"].attrs.update(attributes)
        refused(run("nwb", path, "--out", out), out, "has shape (5, 600) for 5 ROIs, not (frames, ROIs); its axes are")
