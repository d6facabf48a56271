"""The real ``brainsets prepare allen_brain_observatory`` with the real AllenSDK, offline.

brainsets runs a pipeline in an environment of its own, which uv makes from its cache. Fill the cache once,
with a network::

    brainsets prepare "$(poyo-ssl pipeline-dir)" --local --list --raw-dir raw --processed-dir processed

or make the environment yourself and name it in ``POYO_SSL_ALLEN_ENV``; see ``docs/pipeline.md``. The
pipeline is registered in a copy of the installed package, so the installed one stays as it is.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import allen_nwb
import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from poyo_ssl_plugin.cli import main
from poyo_ssl_plugin.compat import GENERATION
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.data.splits import recorded_split
from poyo_ssl_plugin.pipelines.allen_brain_observatory import paper, stimulus_movie, stock
from poyo_ssl_plugin.recordings import intersect_intervals
from poyo_ssl_plugin.register import PIPELINE, PIPELINE_DIR

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
ALLEN_ENV = os.environ.get("POYO_SSL_ALLEN_ENV")
PACKAGES = ("torch_brain",) if GENERATION == "0.2" else ("brainsets", "brainsets_pipelines")
SESSION, OTHER = 501574836, 501729039


class Workplace:
    """Raw and processed folders, and the ``brainsets`` command of a copy of the installed package."""

    def __init__(self, root: Path) -> None:
        self.raw, self.processed = root / "raw", root / "processed"
        packages = root / "packages"
        for name in PACKAGES:
            spec = importlib.util.find_spec(name)
            assert spec and spec.submodule_search_locations
            source = next(iter(spec.submodule_search_locations))
            shutil.copytree(source, packages / name, ignore=shutil.ignore_patterns(PIPELINE, "__pycache__"))
        path = [str(BIN), os.environ["PATH"]]
        self.options: list[str] = []
        if ALLEN_ENV:
            path.insert(0, str(Path(ALLEN_ENV).resolve() / "bin"))
            self.options = ["--use-active-env"]
        self.env = os.environ | {"PYTHONPATH": str(packages), "PATH": os.pathsep.join(path), "UV_OFFLINE": "1"}

    def poyo_ssl(self, *arguments: str) -> str:
        package = str(Path(str(importlib.util.find_spec("poyo_ssl_plugin").origin)).parents[1])  # type: ignore[union-attr]
        env = self.env | {"PYTHONPATH": os.pathsep.join([self.env["PYTHONPATH"], package])}
        run = subprocess.run([sys.executable, "-m", "poyo_ssl_plugin.cli", *arguments], env=env, **_CAPTURE)
        assert run.returncode == 0, run.stdout
        return run.stdout

    def brainsets(self, *arguments: str, code: int = 0, raw: Path | None = None) -> str:
        folders = []
        if arguments[0] == "prepare":
            folders = ["--raw-dir", str(raw or self.raw), "--processed-dir", str(self.processed), *self.options]
        run = subprocess.run([str(BIN / "brainsets"), *arguments, *folders], env=self.env, **_CAPTURE)
        assert run.returncode == code, run.stdout
        return run.stdout


_CAPTURE: dict = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """A workplace where the pipeline is registered and AllenSDK can be had without a network."""
    place = Workplace(tmp_path_factory.mktemp("allen"))
    _skip_without_allensdk(place)
    place.poyo_ssl("register")
    yield place
    place.poyo_ssl("register", "--undo")
    assert f"- {PIPELINE}" not in place.brainsets("list")


@pytest.fixture(scope="module")
def written(workplace: Workplace) -> object:
    """The simulated recording that lies as NWB where AllenSDK's cache would put it."""
    return allen_nwb.write_session(workplace.raw / PIPELINE, SESSION)


@pytest.fixture(scope="module")
def prepared(workplace: Workplace, written: object) -> Path:
    """The folder of recordings that the command as the documentation has it wrote."""
    workplace.brainsets("prepare", PIPELINE, "--single", str(SESSION))
    return workplace.processed / PIPELINE


@pytest.fixture(scope="module")
def stock_prepared(workplace: Workplace, written: object) -> Path:
    """The same session prepared by torch_brain's own pipeline."""
    name = Path("ophys_experiment_data") / f"{SESSION}.nwb"
    (workplace.raw / stock.STOCK / name.parent).mkdir(parents=True)
    shutil.copy(workplace.raw / PIPELINE / name, workplace.raw / stock.STOCK / name)
    # Stock pipelines find their modules in the folder they are run in, which is theirs only when isolated.
    if ALLEN_ENV:
        env = workplace.env["PYTHONPATH"]
        folder = next(Path(env).rglob(stock.STOCK))
        workplace.env["PYTHONPATH"] = os.pathsep.join([env, str(folder)])
    try:
        workplace.brainsets("prepare", stock.STOCK, "--single", str(SESSION))
    finally:
        workplace.env["PYTHONPATH"] = workplace.env["PYTHONPATH"].split(os.pathsep)[0]
    return workplace.processed / stock.STOCK


def _skip_without_allensdk(place: Workplace) -> None:
    """Skip if AllenSDK is not at hand; what fails after that is a failure."""
    if ALLEN_ENV:
        command = ["python"]
    else:
        lines = (PIPELINE_DIR / "pipeline.py").read_text(encoding="utf-8").split("# ///")[1].splitlines()
        needs = ",".join(line.split('"')[1] for line in lines if "==" in line)
        command = ["uv", "run", "--isolated", "--no-project", "--python", "3.11", "--with", needs, "python"]
    if not ALLEN_ENV and shutil.which("uv", path=place.env["PATH"]) is None:
        pytest.skip("neither uv nor an environment with AllenSDK (POYO_SSL_ALLEN_ENV) is at hand, see docs/pipeline.md")
    run = subprocess.run([*command, "-c", "import allensdk"], env=place.env, **_CAPTURE)
    # An environment that was named must do; a cache that uv was not filled with may be absent.
    assert run.returncode == 0 or not ALLEN_ENV, run.stdout
    if run.returncode:
        pytest.skip(f"AllenSDK is not at hand, see docs/pipeline.md: {' '.join(run.stdout.split())[-300:]}")


def test_the_command_lists_it(workplace: Workplace):
    assert f"- {PIPELINE}\n" in workplace.brainsets("list")
    assert workplace.poyo_ssl("register").startswith("nothing to do")
    assert "is registered" in " ".join(workplace.poyo_ssl("doctor").replace("│", " ").split())


def test_the_recording_is_what_was_measured(prepared: Path, written):
    data = Recordings(prepared).get_recording(str(SESSION))
    np.testing.assert_array_equal(data.calcium_traces.df_over_f, written.calcium_traces.df_over_f)
    assert data.calcium_traces.sampling_rate == pytest.approx(30.0)
    assert data.brainset.id == PIPELINE
    assert data.subject.cre_line == "Sst_IRES_Cre"
    assert (data.paper.half, data.paper.depth_class) == ("pretrain", "layer_4")
    shown = np.arange(len(written.drifting_gratings)) % allen_nwb.BLANK_EVERY != allen_nwb.BLANK_EVERY - 1
    np.testing.assert_array_equal(
        data.drifting_gratings.orientation_id, written.drifting_gratings.orientation_id[shown]
    )
    np.testing.assert_array_equal(data.natural_movie_one.frame, written.natural_movie_one.frame)


def test_all_that_the_stock_pipeline_writes_is_in_it(prepared: Path, stock_prepared: Path):
    ours, theirs = ({} for _ in range(2))
    for folder, found in ((prepared, ours), (stock_prepared, theirs)):
        with h5py.File(folder / f"{SESSION}.h5") as file:
            file.visititems(lambda name, item, found=found: found.update(_content(name, item)))
    added = {name for name in ours if name not in theirs}
    assert {re.split("[/@]", name)[0] for name in added} == {"paper", *(f"paper_{part}_domain" for part in paper.PARTS)}
    for name, value in theirs.items():
        if not name.startswith("brainset"):
            np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_the_split_is_the_papers(prepared: Path):
    dataset = Recordings(prepared)
    data = dataset.get_recording(str(SESSION))
    times = {part: pairs[str(SESSION)] for part, pairs in recorded_split(dataset, "paper").items()}
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert len(intersect_intervals(times[one], times[other])) == 0
    gratings, film = data.drifting_gratings, data.natural_movie_one
    epochs = len(data.drifting_gratings_domain)
    for part, fraction in zip(paper.PARTS, paper.GRATINGS_FRACTIONS, strict=True):
        n = _inside(gratings.start, gratings.end, times[part])
        assert abs(n - fraction * len(gratings)) <= 2 * epochs, part
    start, end = paper.movie_repeats(film.start, film.end, film.repeat)
    n_repeats = len(start)
    assert [_inside(start, end, times[part]) for part in paper.PARTS] == [n_repeats - 2, 1, 1]
    everything = sum(_inside(gratings.start, gratings.end, times[part]) for part in paper.PARTS)
    assert everything == len(gratings)


def test_the_movie_is_stored_once_and_small(prepared: Path):
    with np.load(prepared / stimulus_movie.FRAMES_FILE, allow_pickle=False) as file:
        assert file["image"].shape == (900, 64, 128) and file["image"].dtype == np.uint8
        assert (file["image"] == (np.arange(900) % 256)[:, None, None]).all()
        assert file["frame"].tolist() == list(range(900))
    assert sorted(path.name for path in prepared.iterdir() if path.is_file()) == [
        f"{SESSION}.h5",
        stimulus_movie.FRAMES_FILE,
    ]


@pytest.mark.parametrize("prepared_by", ["ours", "stock"])
def test_it_scores_and_pretrains(prepared_by: str, tmp_path: Path, request: pytest.FixtureRequest):
    root = request.getfixturevalue("prepared" if prepared_by == "ours" else "stock_prepared")
    split, train = ("paper", "paper_train") if prepared_by == "ours" else ("recorded", "train")
    table, out = tmp_path / "table.csv", tmp_path / "run"
    _invoke("score", str(root), "--out", str(table), "--split", train)
    overrides = ["model=tiny", "trainer.max_steps=4", "data.batch_size=4", "diet=all"]
    _invoke("pretrain", f"data.root={root}", f"diet.table={table}", f"data.split={split}", f"out_dir={out}", *overrides)
    assert (out / "checkpoints" / "last.ckpt").is_file()


def test_a_prepared_recording_is_left_alone(workplace: Workplace, prepared: Path):
    before = (prepared / f"{SESSION}.h5").stat().st_mtime_ns
    said = workplace.brainsets("prepare", PIPELINE, "--single", str(SESSION))
    assert "Skipped Processing" in said
    assert (prepared / f"{SESSION}.h5").stat().st_mtime_ns == before


def test_several_sessions_at_once_from_a_chosen_half(workplace: Workplace, prepared: Path, stock_prepared: Path):
    """By worker processes, and with one file where the stock pipeline has downloaded it before."""
    allen_nwb.write_session(workplace.raw / stock.STOCK, OTHER, cre_line="Vip-IRES-Cre", depth=175)
    kinds = {SESSION: ("Sst-IRES-Cre", "three_session_A"), OTHER: ("Vip-IRES-Cre", "three_session_A")}
    more = {501886692: ("Cux2-CreERT2", "three_session_A"), 501889084: ("Sst-IRES-Cre", "three_session_B")}
    allen_nwb.write_experiments(workplace.raw / PIPELINE, kinds | more)
    chosen = ["--half", "pretrain", "--session-type", "three_session_A"]
    listed = workplace.brainsets("prepare", PIPELINE, "--list", *chosen)
    assert "Discovered 2 manifest items" in listed and str(OTHER) in listed
    workplace.brainsets("prepare", PIPELINE, "--cores", "2", "--reprocess", *chosen)
    dataset = Recordings(prepared)
    assert dataset.recording_ids == [str(SESSION), str(OTHER)]
    assert dataset.get_recording(str(OTHER)).paper.depth_class == "layer_2_3"
    assert not list(prepared.glob(".*"))
    sessions = (prepared / "paper_sessions.csv").read_text().splitlines()
    assert any(line.startswith("501886692,Cux2-CreERT2,finetune,275,layer_4,VISp") for line in sessions)
    # The stock pipeline's copy was read where it is.
    assert not (workplace.raw / PIPELINE / "ophys_experiment_data" / f"{OTHER}.nwb").exists()


def test_a_filter_that_leaves_nothing_says_what_there_is(workplace: Workplace, tmp_path: Path):
    allen_nwb.write_experiments(tmp_path / PIPELINE, {SESSION: ("Sst-IRES-Cre", "three_session_A")})
    said = workplace.brainsets("prepare", PIPELINE, "--list", "--cre-line", "Pvalb", code=1, raw=tmp_path)
    assert "No session is left. Cre lines: Sst-IRES-Cre" in said


def test_another_movie_size_is_refused_and_nothing_half_written(workplace: Workplace, prepared: Path):
    path = prepared / f"{SESSION}.h5"
    before = path.read_bytes()
    said = workplace.brainsets(
        "prepare", PIPELINE, "--single", str(SESSION), "--reprocess", "--movie-size=32x64", code=1
    )
    assert "pass --movie-size 64x128" in said
    assert path.read_bytes() == before and not list(prepared.glob(".*"))


def test_it_works_without_registering(workplace: Workplace, prepared: Path):
    folder = workplace.poyo_ssl("pipeline-dir").strip()
    assert "Skipped Processing" in workplace.brainsets("prepare", folder, "--local", "--single", str(SESSION))


def _invoke(*arguments: str) -> None:
    run = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert run.exit_code == 0, run.output


def _inside(start: np.ndarray, end: np.ndarray, times: np.ndarray) -> int:
    """How many presentations lie wholly in the times."""
    start, end = np.asarray(start)[:, None], np.asarray(end)[:, None]
    return int(((start >= times[:, 0]) & (end <= times[:, 1])).any(axis=1).sum())


def _content(name: str, item: h5py.Group | h5py.Dataset) -> dict:
    content = {f"{name}@{key}": value for key, value in item.attrs.items()}
    return content | ({name: item[()]} if isinstance(item, h5py.Dataset) else {})
