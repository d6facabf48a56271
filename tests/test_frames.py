from __future__ import annotations

import itertools
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from command_line import run
from omegaconf import DictConfig
from quick import quick

from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Trials, TrialSampler
from poyo_ssl_plugin.data.splits import recorded_split
from poyo_ssl_plugin.errors import RecipeError, RecordingError
from poyo_ssl_plugin.frames import MovieFrames, find_frames_file, find_presentations, split_frames
from poyo_ssl_plugin.frames.simple_decoders import (
    PENALTIES,
    frame_references,
    reference_images,
    ridge,
    ridge_images,
    template,
    window_features,
)
from poyo_ssl_plugin.frames.task import FrameReconstruction
from poyo_ssl_plugin.training import FinetuneRecipe, Inputs, evaluate, finetune, parse_recipe, pretrain, read_checkpoint

QUICK = quick("decoder.width=2", steps=4, val_every=2)
# 60 of the 900 frames, in two runs, as a published excerpt may have.
AVAILABLE = np.r_[100:140, 400:420]


@pytest.fixture(scope="module")
def frames_file(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (60, 4, 4))
    image = np.kron(coarse, np.ones((1, 4, 5))).astype(np.uint8)
    path = tmp_path_factory.mktemp("movie") / "movie.npz"
    np.savez(path, image=image, frame=AVAILABLE)
    return path


@pytest.fixture
def recipe(sim_dir, table_path, frames_file, tmp_path):
    def make(*overrides: str, name: str = "run", recipe: str = "natural_movie_frames") -> DictConfig:
        common = [f"data.root={sim_dir}", f"diet.table={table_path}", f"out_dir={tmp_path / name}"]
        if recipe == "natural_movie_frames":
            common += [f"frames.file={frames_file}", "init_from=null", "diet=all", "frames.gap=3"]
        return compose_recipe("finetune", recipe, [*QUICK, *common, *overrides])

    return make


class TestMovieFrames:
    def test_both_formats_and_any_order(self, tmp_path):
        image = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.uint8)
        frame = np.array([9, 2, 5])
        np.savez_compressed(tmp_path / "a.npz", image=image, frame=frame)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["image"], file["frame"] = image, frame
        for name in ("a.npz", "a.h5"):
            movie = MovieFrames.load(tmp_path / name)
            assert movie.frame.tolist() == [2, 5, 9] and movie.size == (4, 5) and len(movie) == 3
            assert np.array_equal(movie.image, image[[1, 2, 0]])
            assert movie.rows(np.array([9, 2])).tolist() == [2, 0]
            with pytest.raises(RecordingError, match="frame 3 of the movie has no image"):
                movie.rows(np.array([2, 3]))

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"image": np.zeros((2, 4, 4), np.uint8)}, "cannot be read as movie frames"),
            ({"image": np.zeros((2, 4, 4)), "frame": np.arange(2)}, "not .* of uint8"),
            ({"image": np.zeros((2, 16), np.uint8), "frame": np.arange(2)}, "not .* of uint8"),
            ({"image": np.zeros((2, 4, 4), np.uint8), "frame": np.arange(3)}, r"not \(2,\) of integers"),
            ({"image": np.zeros((2, 4, 4), np.uint8), "frame": np.zeros(2)}, "of integers"),
            ({"image": np.zeros((2, 4, 4), np.uint8), "frame": np.array([1, 1])}, "occurs twice"),
            ({"image": np.array([{"a": 1}, {}], dtype=object), "frame": np.arange(2)}, "cannot be read"),
        ],
    )
    def test_damaged_files(self, tmp_path, arrays, message):
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(RecordingError, match=message):
            MovieFrames.load(tmp_path / "bad.npz")

    @pytest.mark.parametrize("name", ["bad.npz", "bad.h5"])
    def test_garbage_and_nothing(self, tmp_path, name):
        with pytest.raises(RecordingError, match="no such file"):
            MovieFrames.load(tmp_path / name)
        (tmp_path / name).write_bytes(b"PK\x03\x04 garbage")
        with pytest.raises(RecordingError, match="cannot be read as movie frames"):
            MovieFrames.load(tmp_path / name)

    def test_where_the_file_is(self, tmp_path, sim_dir):
        assert find_frames_file(sim_dir) == sim_dir / "natural_movie_one_frames.npz"
        (tmp_path / "rec").mkdir()
        with pytest.raises(RecordingError, match=r"frames\.file="):
            find_frames_file(tmp_path / "rec")
        (tmp_path / "natural_movie_one_frames.h5").touch()
        assert find_frames_file(tmp_path / "rec") == tmp_path / "natural_movie_one_frames.h5"
        assert find_frames_file(tmp_path / "rec", "x.npz") == Path("x.npz")

    def test_the_published_frames(self, real_data):
        movie = MovieFrames.load(real_data / "allen_501574836" / "natural_movie_one_frames.npz")
        assert len(movie) == 300 and movie.size == (64, 128)
        tested = [split_frames(movie.frame, protocol="frames", fold=fold)["test"] for fold in range(5)]
        assert np.array_equal(np.sort(np.concatenate(tested)), movie.frame)


class TestSplitFrames:
    @pytest.mark.parametrize("available", [np.arange(900), AVAILABLE, np.r_[60:270, 420:510]])
    @pytest.mark.parametrize("gap", [0, 5])
    def test_images_of_the_test_are_far_from_those_of_training(self, available, gap):
        tested = []
        for fold in range(5):
            parts = split_frames(available, protocol="frames", fold=fold, gap=gap)
            assert set(parts["train"]) | set(parts["test"]) <= set(available)
            assert np.array_equal(parts["train"], parts["valid"])
            around = {(frame + d) % 900 for frame in parts["test"].tolist() for d in range(-gap, gap + 1)}
            assert set(parts["train"].tolist()) == set(available.tolist()) - around
            tested.append(parts["test"])
        assert np.array_equal(np.sort(np.concatenate(tested)), available)

    def test_repeats_use_every_image_everywhere(self):
        parts = split_frames(AVAILABLE)
        assert all(np.array_equal(frames, AVAILABLE) for frames in parts.values())

    @pytest.mark.parametrize(
        "wrong", [{"protocol": "x"}, {"fold": 5}, {"n_folds": 20}, {"gap": 450}, {"n_blocks": 2, "n_folds": 1}]
    )
    def test_bad_arguments(self, wrong):
        with pytest.raises(RecipeError):
            split_frames(AVAILABLE, **{"protocol": "frames", **wrong})


class TestWindows:
    def test_each_presentation_is_in_one_part(self, dataset):
        data, split = dataset.get_recording("sim_000"), recorded_split(dataset)
        movie = data.natural_movie_one
        found = {part: find_presentations(data, np.arange(900), split[part]["sim_000"]) for part in split}
        assert sum(map(len, found.values())) == len(movie.start)
        assert len(np.unique(np.concatenate([trials.start for trials in found.values()]))) == len(movie.start)
        for trials in found.values():
            assert ((trials.centre > trials.bounds[:, 0]) & (trials.centre < trials.bounds[:, 1])).all()

    def test_only_the_frames_asked_for(self, dataset):
        data, split = dataset.get_recording("sim_000"), recorded_split(dataset)
        trials = find_presentations(data, AVAILABLE, split["train"]["sim_000"])
        assert set(trials.label) == set(AVAILABLE) and len(trials) == 60 * 3
        rows = np.searchsorted(np.asarray(data.natural_movie_one.start), trials.start)
        assert np.array_equal(np.asarray(data.natural_movie_one.frame)[rows], trials.label)
        assert len(find_presentations(data, AVAILABLE, np.array([[0.0, 1.0]]))) == 0

    def test_the_delay_moves_the_window_and_not_what_is_asked(self):
        trials = Trials(np.array([4.0, 9.5]), np.array([4.2, 9.7]), np.zeros(2, int), np.array([[0.0, 10.0]] * 2))
        windows = list(TrialSampler({"a": trials}, window_length=1.0, delay=0.3))
        assert [(round(w.start, 6), w.target_time) for w in windows] == [(3.9, 4.1)]  # no window fits around the other

    @pytest.mark.parametrize("protocol", ["repeats", "frames"])
    def test_training_never_shows_a_held_out_image(self, recipe, protocol):
        config = recipe(f"frames.protocol={protocol}", "data.batch_size=32")
        decoding = FrameReconstruction(parse_recipe(FinetuneRecipe, config))
        frames, data = decoding.frames, decoding.data(Inputs.from_recipe(decoding.recipe))
        seen = {part: {t for name in data.recordings for t in data.trials(part)[name].label} for part in frames}
        assert seen["test"] == set(frames["test"]) and seen["train"] == set(frames["train"])
        assert (protocol == "repeats") == bool(seen["train"] & seen["test"])
        sampled = {w.target_time for w in data.samplers["train"]}
        assert len(sampled) >= sum(len(t) for t in data.trials("train").values())
        times = np.array(sorted(sampled))
        for name in data.recordings:
            held_out = data.trials("test")[name]
            shown = (times[:, None] >= held_out.start) & (times[:, None] <= held_out.end)
            assert not shown.any()


@pytest.fixture(scope="module")
def checkpoint(sim_dir, table_path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pretrained")
    quick = [item for item in QUICK if not item.startswith("decoder")]
    overrides = [*quick, f"data.root={sim_dir}", f"diet.table={table_path}", f"out_dir={out}"]
    return pretrain(compose_recipe("pretrain", overrides=overrides)).checkpoint


class TestFinetune:
    @pytest.mark.parametrize("protocol", ["repeats", "frames"])
    def test_from_scratch_and_evaluated_again(self, recipe, protocol, dataset):
        result = finetune(recipe(f"frames.protocol={protocol}", "frames.delay=0.1"), seed=1)
        frames = split_frames(AVAILABLE, protocol=protocol, gap=3)["test"]
        assert {row["label"] for row in result.predictions} == set(frames)
        assert len(result.predictions) == len(frames) * 3
        for metric in ("ssim", "psnr", "correlation"):
            mean = np.mean([row[metric] for row in result.predictions])
            assert result.metrics[f"test/{metric}"] == pytest.approx(mean, abs=1e-4)
        for row in result.predictions[::10]:
            data = dataset.get_recording(row["recording_id"])
            middle = np.asarray(data.natural_movie_one.timestamps)
            nearest = np.argmin(np.abs(middle - row["time"]))
            assert int(data.natural_movie_one.frame[nearest]) == row["label"]
        again = evaluate(result.checkpoint)
        assert again.predictions == result.predictions

    def test_pretrained_weights_are_taken_and_a_probe_leaves_them(self, recipe, checkpoint):
        config = recipe(f"init_from={checkpoint}", "diet=unpredictable", "transfer=probe", "trainer.max_steps=2")
        result = finetune(config)
        before, after = read_checkpoint(checkpoint)["state_dict"], read_checkpoint(result.checkpoint)["state_dict"]
        name = "model.proc_layers.0.0.to_qkv.weight"
        assert torch.equal(before[name], after[name]) and name.removeprefix("model.") in result.loaded.loaded
        assert set(result.loaded.fresh) == {f"readout.{kind}" for kind in ("queries.natural_movie_frames",)} | {
            f"readout.projections.natural_movie_frames.{kind}" for kind in ("weight", "bias")
        }
        assert read_checkpoint(result.checkpoint)["hyper_parameters"]["leaks"]["units"] == 0

    def test_it_starts_from_the_mean_frame_and_learns(self, recipe):
        config = recipe(
            "trainer.max_steps=40", "trainer.val_every_n_steps=40", "frame_loss.weights.ssim=0", "data.batch_size=16"
        )
        result = finetune(config)
        images = FrameReconstruction(parse_recipe(FinetuneRecipe, config)).movie.image.astype(float) / 255
        mean_error = np.abs(images - images.mean(axis=0)).mean()
        rows = (result.out_dir / "csv" / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("train/loss")
        losses = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
        assert losses[0] == pytest.approx(mean_error, rel=0.1)
        assert np.mean(losses[-5:]) < 0.97 * mean_error

    def test_another_size_and_a_grey_base(self, recipe):
        config = recipe("frames.size=[24,30]", "frames.base=grey", "trainer.max_steps=1", "frame_loss=paper")
        result = finetune(config)
        assert read_checkpoint(result.checkpoint)["state_dict"]["base"].shape == (24, 30)

    @pytest.mark.parametrize(
        ("overrides", "error", "message"),
        [
            (["frames.protocol=x"], RecipeError, "frames.protocol must be"),
            (["frames.protocol=frames", "frames.gap=450"], RecipeError, "smaller frames.gap"),
            (["frames.file=none.npz"], RecordingError, "none.npz: no such file"),
            (["frames.size=[4,4]"], RecipeError, "frames.size"),
            (["frames.base=x"], RecipeError, "frames.base"),
            (["decoder.width=0"], RecipeError, "width must be greater"),
            (["+decoder.depth=3"], RecipeError, "decoder: .*depth"),
            (["+frame_loss.weights.l7=1"], RecipeError, "unknown term 'l7'"),
            (["init_from=???"], RecipeError, "init_from is not set"),
        ],
    )
    def test_bad_input(self, recipe, tmp_path, overrides, error, message):
        with pytest.raises(error, match=message):
            finetune(recipe(*overrides))
        assert not (tmp_path / "run").exists()

    def test_a_finished_seed_is_neither_trained_nor_tested_again(self, recipe, monkeypatch):
        config = recipe("resume=true", "trainer.max_steps=1")
        first = finetune(config, seed=1)
        monkeypatch.setattr("lightning.Trainer.test", None)
        again = finetune(config, seed=1)
        assert again.predictions == first.predictions and again.metrics == first.metrics
        assert again.leaks["allowed"] is False


class TestBaselines:
    @pytest.fixture
    def data(self, recipe):
        config = recipe("frames.delay=0.2")
        decoding = FrameReconstruction(parse_recipe(FinetuneRecipe, config))
        return decoding.data(Inputs.from_recipe(decoding.recipe)), decoding

    def test_features_are_bin_means_of_the_model_s_windows(self, data, dataset):
        data, _ = data
        trials = data.trials("test")["sim_000"]
        x = window_features(data, "sim_000", trials)
        windows = [w for w in data.samplers["test"] if w.recording_id == "sim_000"]
        traces = dataset.get_recording("sim_000").calcium_traces.df_over_f
        keep = data.diet.mask("sim_000", dataset.get_recording("sim_000").rois.id.astype(str))
        for i in (0, 7, len(windows) - 1):
            edges = np.ceil(np.round((windows[i].start + np.linspace(0, 1, 5)) * 30, 6)).astype(int)
            expected = np.stack([traces[a:b, keep].mean(axis=0) for a, b in itertools.pairwise(edges)])
            np.testing.assert_allclose(x[i], expected.ravel(), rtol=1e-4, atol=1e-5)

    def test_shapes_order_and_range(self, data):
        data, decoding = data
        made, movie = reference_images(data, "sim_000", decoding), decoding.movie
        assert set(made) == {"mean frame", "template", "linear decoder"}
        for images in made.values():
            assert images.shape == (len(data.trials("test")["sim_000"]), *movie.size)
            assert images.min() >= 0 and images.max() <= 1
        np.testing.assert_allclose(made["mean frame"][3], movie.image.mean(axis=0) / 255, atol=1e-5)
        known = {image.tobytes() for image in movie.image}
        assert {np.round(image * 255).astype(np.uint8).tobytes() for image in made["template"]} <= known

    def test_results_over_folds_and_recordings(self, data, recipe):
        data, decoding = data
        inputs = Inputs.from_recipe(decoding.recipe)
        one, two = frame_references(decoding, [inputs]), frame_references(decoding, [inputs, inputs])
        for name, result in one.items():
            assert result.n_test == sum(map(len, data.trials("test").values())) == two[name].n_test // 2
            # The same second of two folds is one sample.
            assert result.names == two[name].names and result.trials == pytest.approx(two[name].trials)
            assert result.value == pytest.approx(two[name].value) and set(result.further) == {"psnr", "correlation"}

    def test_template_finds_the_frame(self):
        rng = np.random.default_rng(0)
        responses = rng.normal(size=(20, 40))
        frame = np.tile(np.arange(20) + 100, 5)
        x = np.tile(responses, (5, 1)) + 0.3 * rng.normal(size=(100, 40))
        y = responses + 0.3 * rng.normal(size=(20, 40))
        assert np.array_equal(template(x, frame, y), np.arange(20) + 100)

    def test_ridge_against_every_penalty_tried_by_hand(self):
        rng = np.random.default_rng(0)
        x, groups = rng.normal(size=(80, 12)), np.repeat(np.arange(4), 20)
        target = x @ rng.normal(size=(12, 3)) + 4 * rng.normal(size=(80, 3))

        def fit(rows, penalty):
            a = np.concatenate([x[rows], np.sqrt(80 * penalty) * np.eye(12)])
            return np.linalg.lstsq(a, np.concatenate([target[rows], np.zeros((12, 3))]), rcond=None)[0]

        errors = [
            sum(((x[groups == g] @ fit(groups != g, p) - target[groups == g]) ** 2).sum() for g in range(4))
            for p in PENALTIES
        ]
        best = PENALTIES[int(np.argmin(errors))]
        np.testing.assert_allclose(ridge(x, target, groups), fit(np.ones(80, bool), best), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("leave_out", ["repeats", "frames"])
    def test_ridge_tells_images_that_follow_linearly(self, leave_out):
        rng = np.random.default_rng(0)
        z = rng.normal(size=(40, 3))
        flat = 0.5 + 0.1 * np.tanh(z @ rng.normal(size=(3, 12 * 12)))
        movie = MovieFrames(np.round(flat * 255).astype(np.uint8).reshape(40, 12, 12), np.arange(40))
        frame = np.tile(np.arange(40), 6)
        x = np.concatenate([z] * 6) @ rng.normal(size=(3, 10)) + 0.01 * rng.normal(size=(240, 10))
        x -= x.mean(axis=0)
        told = ridge_images(x, frame, x[:40], movie, leave_out=leave_out)
        true = movie.image / 255
        assert np.mean((told - true) ** 2) < 0.25 * np.mean((true - true.mean(axis=0)) ** 2)

    def test_a_sample_is_a_second_and_not_a_frame(self, data):
        rows = [{"recording_id": "a", "label": f, "psnr": 1.0, "correlation": 0.0} for f in range(90)]
        values = np.repeat([0.1, 0.2, 0.6], 30)
        result = data[1].test_result([{**row, "ssim": v} for row, v in zip(rows, values, strict=True)])
        assert result.trials == pytest.approx([0.1, 0.2, 0.6]) and result.names == ["a/0", "a/1", "a/2"]
        assert result.value == pytest.approx(0.3) and result.n_test == 90


class TestCommand:
    def test_finetune_and_evaluate(self, sim_dir, table_path, frames_file, tmp_path):
        overrides = [f"data.root={sim_dir}", f"diet.table={table_path}", "diet=all", f"frames.file={frames_file}"]
        overrides += [*QUICK, f"out_dir={tmp_path / 'f'}", "seeds=[0,1]", "frames.protocol=frames", "frames.gap=3"]
        said = run("finetune", "--recipe", "natural_movie_frames", "init_from=null", *overrides)
        for word in ("scratch", "mean frame", "template", "linear decoder", "latents", "SSIM"):
            assert word in said, word
        results = json.loads((tmp_path / "f" / "results.json").read_text())
        arm = results["arms"]["scratch"]
        assert [run["seed"] for run in arm["runs"]] == [0, 1] and results[
            "metric"
        ] == "SSIM of frames that training did not see"
        assert arm["mean"] == pytest.approx(np.mean([run["value"] for run in arm["runs"]]))
        assert set(results["baselines"]) == {
            "mean frame",
            "template",
            "linear decoder",
            "linear decoder on latents",
        }
        assert results["leaks"]["0"]["scoring"]["test_seconds"] == 0
        for name in ("frames.png", "curves.png", "ssim.png"):
            assert (tmp_path / "f" / name).read_bytes().startswith(b"\x89PNG")
        last = tmp_path / "f" / "seed0" / "checkpoints" / "last.ckpt"
        run("evaluate", last, "--out", tmp_path / "e.json")
        again = json.loads((tmp_path / "e.json").read_text())["arms"]["checkpoint"]
        assert again["mean"] == pytest.approx(arm["runs"][0]["value"])

    def test_the_scratch_recipe_says_which_to_take(self, sim_dir, table_path):
        overrides = [f"data.root={sim_dir}", f"diet.table={table_path}", "task=natural_movie_frames"]
        said = run("finetune", "--recipe", "scratch", *overrides, expect=2)
        assert "--recipe natural_movie_frames" in said
