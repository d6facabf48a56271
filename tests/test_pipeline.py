"""The pipeline's own arithmetic, and its registration, which need no AllenSDK."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from poyo_ssl_plugin import compat
from poyo_ssl_plugin.cli import main
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.data.splits import recorded_split
from poyo_ssl_plugin.errors import RecordingError, RegistrationError
from poyo_ssl_plugin.pipelines.allen_brain_observatory import paper, stimulus_movie, stock
from poyo_ssl_plugin.predictability import diet
from poyo_ssl_plugin.register import PIPELINE, PIPELINE_DIR, register_pipeline, registration, unregister_pipeline
from poyo_ssl_plugin.simulation import CRE_LINES, FRAMES_FILE

as_root = hasattr(os, "geteuid") and os.geteuid() == 0


class TestHalves:
    def test_the_pretraining_lines_are_those_of_the_diet(self):
        assert paper.PRETRAIN_CRE_LINES == diet.PAPER_PRETRAIN_CRE_LINES

    def test_every_spelling_of_a_line_is_in_the_same_half(self):
        for line in CRE_LINES:
            assert paper.half_of(line) == paper.half_of(line.replace("_", "-"))
        halves = {line.split("_")[0]: paper.half_of(line) for line in CRE_LINES}
        assert {line for line, half in halves.items() if half == "pretrain"} == set(paper.PRETRAIN_CRE_LINES)

    def test_deeper_planes_are_in_deeper_layers(self):
        layers = list(paper.DEPTH_CLASSES)
        found = [layers.index(paper.depth_class(depth)) for depth in range(100, 701, 25)]
        assert found == sorted(found) and set(found) == {0, 1, 2, 3}


class TestSplit:
    @given(st.integers(3, 900))
    def test_every_part_has_its_share_and_at_least_one(self, n: int):
        edges = np.array(paper.cuts(n, paper.GRATINGS_FRACTIONS))
        assert edges[0] == 0 and edges[-1] == n
        assert (np.diff(edges) >= 1).all()
        assert np.abs(np.diff(edges) - np.array(paper.GRATINGS_FRACTIONS) * n).max() <= 2

    def test_an_epoch_that_broke_off_is_for_training(self):
        epoch = np.array([0, 0, 0, 0, 1])
        start = 3.0 * np.arange(5)
        parts = paper.split_items(start, start + 2, epoch, paper.GRATINGS_FRACTIONS, per_epoch=True)
        assert parts["train"].tolist() == [[0, 5], [12, 14]]
        assert [len(parts[part]) for part in ("valid", "test")] == [1, 1]

    @given(st.lists(st.integers(3, 60), min_size=1, max_size=4), st.booleans())
    def test_every_presentation_is_in_one_part_and_none_is_cut(self, sizes: list[int], per_epoch: bool):
        epoch = np.repeat(np.arange(len(sizes)), sizes)
        start = 3.0 * np.arange(len(epoch)) + 100.0 * epoch
        parts = paper.split_items(start, start + 2, epoch, paper.GRATINGS_FRACTIONS, per_epoch=per_epoch)
        inside = {
            part: ((start[:, None] >= times[:, 0]) & (start[:, None] + 2 <= times[:, 1])).any(axis=1)
            for part, times in parts.items()
        }
        assert (sum(inside.values()) == 1).all()
        for times in parts.values():
            assert (times[1:, 0] > times[:-1, 1]).all()
        groups = [epoch == number for number in range(len(sizes))] if per_epoch else [epoch >= 0]
        for group in groups:
            edges = np.diff(paper.cuts(int(group.sum()), paper.GRATINGS_FRACTIONS))
            assert [int(inside[part][group].sum()) for part in paper.PARTS] == edges.tolist()
            # In the order of time: nothing is trained on after what it is tested on.
            first, last = start[group & inside["test"]].min(), start[group & inside["train"]].max()
            assert last < first

    def test_a_part_does_not_reach_over_a_gap_between_epochs(self):
        start = np.array([0.0, 3, 6, 100, 103, 106])
        epoch = np.array([0, 0, 0, 1, 1, 1])
        parts = paper.split_items(start, start + 2, epoch, (0.6, 0.2, 0.2), per_epoch=False)
        assert parts["train"].tolist() == [[0, 8], [100, 102]]

    def test_repeats_are_cut_out_of_frames(self):
        start = np.arange(9) / 3
        first, last = paper.movie_repeats(start, start + 1 / 3, np.repeat([0, 1, 2], 3))
        np.testing.assert_allclose(first, [0, 1, 2])
        np.testing.assert_allclose(last, [1, 2, 3])

    def test_epochs_are_found_by_time(self):
        assert paper.epoch_of(np.array([5.0, 10.0, 25.0]), np.array([20.0, 5.0])).tolist() == [0, 0, 1]

    def test_a_named_split_of_the_recordings_is_read(self, sim_dir: Path, tmp_path: Path):
        source = next(sim_dir.glob("*.h5"))
        with h5py.File(source) as old, h5py.File(tmp_path / source.name, "w") as new:
            for key in old:
                old.copy(key, new)
                if key in ("train_domain", "valid_domain", "test_domain"):
                    old.copy(key, new, name=f"paper_{key}")
            new.attrs.update(old.attrs)
        dataset = Recordings(tmp_path)
        recorded, named = recorded_split(dataset), recorded_split(dataset, "paper")
        for part in paper.PARTS:
            np.testing.assert_array_equal(named[part][source.stem], recorded[part][source.stem])
        with pytest.raises(RecordingError, match="no split 'nonsense_train'.*paper_train"):
            recorded_split(dataset, "nonsense")


class TestMovie:
    def test_whole_blocks_are_averaged(self):
        frames = np.random.default_rng(0).integers(0, 256, (5, 12, 20), dtype=np.uint8)
        mean = frames.reshape(5, 4, 3, 5, 4).mean(axis=(2, 4))
        assert np.abs(stimulus_movie.resize_frames(frames, (4, 5)) - mean).max() <= 0.51

    @given(st.integers(1, 64), st.integers(1, 96))
    def test_grey_stays_grey_at_any_size(self, height: int, width: int):
        frames = np.full((1, 64, 96), 137, np.uint8)
        assert (stimulus_movie.resize_frames(frames, (height, width)) == 137).all()

    def test_mean_brightness_is_kept_where_blocks_are_not_whole(self):
        frames = np.random.default_rng(1).integers(0, 256, (3, 304, 608), dtype=np.uint8)
        small = stimulus_movie.resize_frames(frames, (64, 128))
        assert small.shape == (3, 64, 128) and small.dtype == np.uint8
        np.testing.assert_allclose(small.mean(axis=(1, 2)), frames.mean(axis=(1, 2)), atol=0.1)

    def test_frames_are_not_enlarged(self):
        with pytest.raises(ValueError, match="smaller size"):
            stimulus_movie.resize_frames(np.zeros((1, 8, 8), np.uint8), (16, 8))

    def test_what_is_no_movie_is_refused(self):
        with pytest.raises(ValueError, match="uint8"):
            stimulus_movie.resize_frames(np.zeros((1, 8, 8)), (4, 4))

    def test_frames_are_written_once(self, tmp_path: Path):
        path = tmp_path / stimulus_movie.FRAMES_FILE
        frames = np.random.default_rng(0).integers(0, 256, (7, 16, 32), dtype=np.uint8)
        assert stimulus_movie.store_movie(path, (8, 16), lambda: frames)
        before = path.stat()
        assert not stimulus_movie.store_movie(path, (8, 16), lambda: pytest.fail("read again"))
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        with np.load(path, allow_pickle=False) as file:
            assert file["image"].shape == (7, 8, 16) and file["frame"].tolist() == list(range(7))
        assert [entry.name for entry in tmp_path.iterdir()] == [stimulus_movie.FRAMES_FILE]

    def test_frames_of_another_size_are_not_overwritten(self, tmp_path: Path):
        path = tmp_path / stimulus_movie.FRAMES_FILE
        frames = np.zeros((2, 16, 32), np.uint8)
        stimulus_movie.store_movie(path, (8, 16), lambda: frames)
        with pytest.raises(ValueError, match="--movie-size 8x16"):
            stimulus_movie.store_movie(path, (4, 8), lambda: frames)

    def test_a_failed_write_leaves_nothing(self, tmp_path: Path):
        with pytest.raises(ValueError):
            stimulus_movie.store_movie(
                tmp_path / stimulus_movie.FRAMES_FILE, (99, 99), lambda: np.zeros((2, 16, 32), np.uint8)
            )
        assert list(tmp_path.iterdir()) == []

    def test_the_file_is_named_as_that_of_simulated_recordings(self):
        assert stimulus_movie.FRAMES_FILE == FRAMES_FILE

    @pytest.mark.parametrize("text", ["64", "64x", "x128", "64*128", "0x128", "-1x3"])
    def test_a_wrong_size_says_what_a_size_is(self, text: str):
        with pytest.raises(ValueError, match="HEIGHTxWIDTH"):
            stimulus_movie.parse_size(text)


class TestRegister:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A folder of pipelines with one in it."""
        (tmp_path / stock.STOCK).mkdir()
        return tmp_path

    def test_the_folder_is_the_one_that_the_command_lists(self):
        run = subprocess.run([Path(sys.executable).parent / "brainsets", "list"], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        listed = {line.removeprefix("- ") for line in run.stdout.splitlines() if line.startswith("- ")}
        there = {path.name for path in compat.pipelines_dir().iterdir() if path.is_dir()}
        assert listed == {name for name in there if not name.startswith(("_", "."))}

    def test_registering_twice_writes_once(self, folder: Path):
        assert str(folder / PIPELINE) in register_pipeline(folder)
        before = (folder / PIPELINE).lstat().st_mtime_ns
        assert register_pipeline(folder).startswith("nothing to do")
        assert (folder / PIPELINE).lstat().st_mtime_ns == before
        assert (folder / PIPELINE / "pipeline.py").is_file()

    def test_undoing_leaves_the_folder_as_it_was(self, folder: Path):
        register_pipeline(folder)
        assert unregister_pipeline(folder).startswith("removed")
        assert unregister_pipeline(folder).startswith("nothing to do")
        assert [path.name for path in folder.iterdir()] == [stock.STOCK]
        assert (PIPELINE_DIR / "pipeline.py").is_file()

    def test_a_link_of_another_installation_is_replaced(self, folder: Path):
        gone = Path("/nowhere/site-packages").joinpath(*PIPELINE_DIR.parts[-3:])
        (folder / PIPELINE).symlink_to(gone)
        assert registration(folder).state == "moved"
        assert register_pipeline(folder).startswith("wrote")
        assert (folder / PIPELINE).resolve() == PIPELINE_DIR

    def test_what_others_wrote_is_neither_overwritten_nor_removed(self, folder: Path):
        theirs = folder / PIPELINE
        theirs.mkdir()
        (theirs / "pipeline.py").write_text("theirs")
        for change in (register_pipeline, unregister_pipeline):
            with pytest.raises(RegistrationError, match="not written by poyo-ssl"):
                change(folder)
        assert (theirs / "pipeline.py").read_text() == "theirs"

    def test_a_link_elsewhere_is_not_ours(self, folder: Path, tmp_path: Path):
        (folder / PIPELINE).symlink_to(folder / stock.STOCK)
        for change in (register_pipeline, unregister_pipeline):
            with pytest.raises(RegistrationError, match=r"not poyo-ssl's"):
                change(folder)
        assert (folder / PIPELINE).resolve() == folder / stock.STOCK

    @pytest.mark.skipif(as_root, reason="root may write anywhere")
    def test_a_folder_that_cannot_be_written_is_told(self, folder: Path):
        folder.chmod(0o555)
        try:
            with pytest.raises(RegistrationError, match="cannot be written.*--local"):
                register_pipeline(folder)
        finally:
            folder.chmod(0o755)

    def test_a_read_only_file_system_is_told(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        def refuse(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(Path, "symlink_to", refuse)
        with pytest.raises(RegistrationError, match="Read-only file system.*--local"):
            register_pipeline(folder)
        assert [path.name for path in folder.iterdir()] == [stock.STOCK]

    def test_a_missing_folder_is_told(self, tmp_path: Path):
        with pytest.raises(RegistrationError, match="is torch_brain installed"):
            register_pipeline(tmp_path / "absent")


class TestCommands:
    def test_the_folder_is_printed_alone(self):
        said = CliRunner().invoke(main, ["pipeline-dir"])
        assert said.exit_code == 0 and said.output == f"{PIPELINE_DIR}\n"

    def test_register_and_undo_say_what_they_did(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(compat, "pipelines_dir", lambda: tmp_path)
        said = [CliRunner().invoke(main, ["register", *undo]) for undo in ([], [], ["--undo"], ["--undo"])]
        assert [run.exit_code for run in said] == [0, 0, 0, 0]
        assert [run.output.split()[0] for run in said] == ["wrote", "nothing", "removed", "nothing"]
        assert list(tmp_path.iterdir()) == []

    def test_a_taken_place_exits_with_2(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(compat, "pipelines_dir", lambda: tmp_path)
        (tmp_path / PIPELINE).mkdir()
        assert CliRunner().invoke(main, ["register"]).exit_code == 2

    def test_doctor_says_whether_it_is_registered_and_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        from poyo_ssl_plugin.doctor import diagnose

        monkeypatch.setattr(compat, "pipelines_dir", lambda: tmp_path)
        finding = next(finding for finding in diagnose() if finding.what == "brainsets pipeline")
        assert "not registered" in finding.found and finding.remedy == "poyo-ssl register"
        register_pipeline(tmp_path)
        finding = next(finding for finding in diagnose() if finding.what == "brainsets pipeline")
        assert "is registered" in finding.found and not finding.remedy


def test_the_pipeline_needs_nothing_of_this_package_outside_its_folder():
    """It runs where only AllenSDK and torch_brain are installed."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "sys.modules['poyo_ssl_plugin'] = None; sys.modules['torch'] = None;"
        "from allen_brain_observatory import paper, stimulus_movie, stock; stock.pipelines_dir()"
    )
    subprocess.run([sys.executable, "-c", code, str(PIPELINE_DIR.parent)], check=True, cwd=PIPELINE_DIR.anchor)
    text = (PIPELINE_DIR / "pipeline.py").read_text(encoding="utf-8")
    assert "poyo_ssl_plugin" not in text


def test_the_requirements_of_the_pipeline_are_those_of_the_stock_one():
    """What brainsets reads from the head of the file, at least all that the installed generation asks for."""
    ours, theirs = (
        {line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ") and "==" in line}
        for path in (PIPELINE_DIR / "pipeline.py", compat.pipelines_dir() / stock.STOCK / "pipeline.py")
    )
    assert theirs and theirs <= ours
