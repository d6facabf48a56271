"""Runs that reconstruct movie frames: train, compare with simple decoders, draw, write down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from poyo_ssl_plugin.compare import figures
from poyo_ssl_plugin.compare.statistics import estimate
from poyo_ssl_plugin.data import MOVIE_FRAMES_TASK, MovieFrames
from poyo_ssl_plugin.distributed import end_unless_main_process
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.experiments.frame_baselines import ridge_images, run_frame_baselines
from poyo_ssl_plugin.experiments.frame_scores import METRIC, over_seconds, score_frames
from poyo_ssl_plugin.files import write_json
from poyo_ssl_plugin.provenance import git_revision, versions
from poyo_ssl_plugin.training import FrameResult, Inputs, evaluate_frames, finetune_frames
from poyo_ssl_plugin.training.frame_metrics import FRAME_METRICS
from poyo_ssl_plugin.training.frames import frame_data, read_movie

_N_SHOWN = 8


def run_frame_finetuning(config: DictConfig, *, stage: Callable[[str, int], Any] | None = None) -> dict[str, Any]:
    """Fine-tune with every seed, reconstruct the test, compare with baselines, draw, and write ``results.json``.

    Args:
        config: A composed recipe.
        stage: Shows the progress of a stage of given name and length.

    Returns:
        The content of ``results.json``. Its shape is that of a classification: an arm's ``value`` is its mean
        SSIM, and what is said of the baselines is their SSIM, PSNR and correlation.

    Raises:
        PoyoSSLError: If the recipe or what it names is not as it must be.
    """
    seeds = list(config.seeds)
    if not seeds:
        raise RecipeError("seeds is empty: give at least one, seeds=[0]")
    out_dir = Path(config.out_dir)
    progress = stage("fine-tuning", len(seeds)) if stage else (lambda items, n: items)
    results: dict[int, FrameResult] = {}
    for seed in progress(iter(seeds), len(seeds)):
        change = {"out_dir": str(out_dir / f"seed{seed}"), "trainer": {"progress": False}}
        of_seed = OmegaConf.merge(config, change)
        assert isinstance(of_seed, DictConfig)
        results[seed] = finetune_frames(of_seed, seed=seed)
    end_unless_main_process()
    movie, frames = read_movie(config)
    data = frame_data(config, Inputs.from_recipe(config), frames)
    first = results[seeds[0]]
    baselines = run_frame_baselines(data, movie, leave_out=config.frames.protocol)
    baselines["linear decoder on latents"] = _from_latents(first, movie, config.frames.protocol)
    arm = "scratch" if config.init_from is None else "pretrained"
    summary = {
        "format": 1,
        "metric": METRIC[config.frames.protocol],
        "task": MOVIE_FRAMES_TASK.name,
        "protocol": config.frames.protocol,
        "chance": None,
        "arms": {arm: _arm(results)},
        "baselines": {name: _baseline(images, first, movie) for name, images in baselines.items()},
        "frames": {part: len(rows) for part, rows in frames.items()},
        "diet": f"{data.diet.name}: {data.diet.summary(data.dataset.recording_ids)}",
        "seeds": seeds,
        "metrics": {str(seed): _finite(result.metrics) for seed, result in results.items()},
        "predictions": {str(seed): result.predictions for seed, result in results.items()},
        "loaded": first.loaded.summary() if first.loaded else None,
        "recipe": OmegaConf.to_container(config),
        "versions": versions(),
        "git": git_revision(),
    }
    write_json(out_dir / "results.json", summary)
    draw_frames(first, movie, {arm: first.reconstructions / 255, **baselines}, out_dir / "frames.png")
    figures.training_curves(
        {f"{arm}/{seed}": result.out_dir for seed, result in results.items()},
        out_dir / "curves.png",
        metrics=["train/loss", "valid/ssim"],
    )
    return summary


def frame_evaluation(checkpoint: str | Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Test a checkpoint that reconstructs frames; returns what ``results.json`` would hold of it."""
    result = evaluate_frames(checkpoint, changes)
    protocol = _protocol(checkpoint, changes)
    value = over_seconds(result.predictions, [row["ssim"] for row in result.predictions])
    run = _run(result)
    return {
        "format": 1,
        "metric": METRIC[protocol],
        "task": MOVIE_FRAMES_TASK.name,
        "protocol": protocol,
        "chance": None,
        "arms": {
            "checkpoint": {"metric": "ssim", "runs": [run], "mean": run["value"], "ci95": [value.low, value.high]}
        },
        "baselines": {},
        "checkpoint": str(checkpoint),
        "predictions": result.predictions,
        "versions": versions(),
        "git": git_revision(),
    }


def draw_frames(result: FrameResult, movie: MovieFrames, made: Mapping[str, np.ndarray], path: str | Path) -> Path:
    """True frames over their reconstructions, evenly spaced over the test of the first recording.

    Args:
        result: A run, for which presentations were tested.
        movie: The images.
        made: Label to reconstructions of all tested presentations, (R, H, W) in [0, 1].
        path: Where to write.
    """
    rows = [
        i for i, row in enumerate(result.predictions) if row["recording_id"] == result.predictions[0]["recording_id"]
    ]
    shown = [rows[i] for i in np.linspace(0, len(rows) - 1, min(_N_SHOWN, len(rows))).round().astype(int)]
    true = movie.image[movie.rows(np.array([result.predictions[i]["frame"] for i in shown]))] / 255
    lines = {"true": true, **{name: images[shown] for name, images in made.items()}}
    height = movie.size[0] / movie.size[1]
    with figures.style(**{"axes.grid": False}):
        figure = Figure(figsize=(1.6 * len(shown) + 1.2, 1.6 * height * len(lines) + 0.6))
        axes = figure.subplots(len(lines), len(shown), squeeze=False)
        for line, (name, images) in zip(axes, lines.items(), strict=True):
            for axis, image in zip(line, images, strict=True):
                axis.imshow(image, cmap="gray", vmin=0, vmax=1)
                axis.set_xticks([])
                axis.set_yticks([])
            line[0].set_ylabel(
                name.replace(" on ", "\non ").replace(" ", "\n", 1), fontsize=8, rotation=0, ha="right", va="center"
            )
        for axis, i in zip(axes[0], shown, strict=True):
            axis.set_title(f"frame {result.predictions[i]['frame']}", fontsize=8)
        return figures.save(figure, path)


def result_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of the table of results: arms and baselines, formatted."""
    rows = []
    for name, arm in summary["arms"].items():
        means = {metric: float(np.mean([run[metric] for run in arm["runs"]])) for metric in ("psnr", "correlation")}
        rows.append(_row(name, arm["mean"], arm["ci95"], **means))
    return rows + [
        _row(name, b["ssim"], b["ci95"], psnr=b["psnr"], correlation=b["correlation"])
        for name, b in summary["baselines"].items()
    ]


def _row(name: str, ssim: float, interval: list[float], *, psnr: float, correlation: float) -> dict[str, str]:
    low, high = interval
    return {
        "name": name,
        "ssim": f"{ssim:.3f}",
        "interval": f"{low:.3f} to {high:.3f}",
        "psnr": f"{psnr:.2f}",
        "correlation": f"{correlation:.3f}",
    }


def _arm(results: Mapping[int, FrameResult]) -> dict[str, Any]:
    runs = [{"seed": seed, **_run(result)} for seed, result in results.items()]
    value = estimate([run["value"] for run in runs])
    if len(results) == 1:
        # One seed says nothing of the others; what is left is how the test's seconds vary.
        rows = next(iter(results.values())).predictions
        value = over_seconds(rows, [row["ssim"] for row in rows])
    return {
        "metric": "ssim",
        "runs": runs,
        "mean": runs[0]["value"] if len(runs) == 1 else value.mean,
        "ci95": [value.low, value.high],
        "interval_over": "seeds" if len(runs) > 1 else "seconds",
    }


def _run(result: FrameResult) -> dict[str, Any]:
    means = {metric: float(np.mean([row[metric] for row in result.predictions])) for metric in FRAME_METRICS}
    return {"value": means["ssim"], **means, "n_test": len(result.predictions)}


def _baseline(images: np.ndarray, result: FrameResult, movie: MovieFrames) -> dict[str, Any]:
    values = score_frames(images, np.array([row["frame"] for row in result.predictions]), movie)
    interval = over_seconds(result.predictions, values["ssim"])
    means = {metric: float(value.mean()) for metric, value in values.items()}
    return {**means, "n_test": len(images), "ci95": [interval.low, interval.high]}


def _from_latents(result: FrameResult, movie: MovieFrames, leave_out: str) -> np.ndarray:
    assert result.train_latents is not None
    x, frame = result.train_latents
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-9
    test = (result.test_latents - mean) / std
    return ridge_images(((x - mean) / std).astype(np.float64), frame, test, movie, leave_out=leave_out)


def _protocol(checkpoint: str | Path, changes: Mapping[str, Any]) -> str:
    from poyo_ssl_plugin.training import read_checkpoint

    recipe = read_checkpoint(checkpoint)["hyper_parameters"]["recipe"]
    return str(changes.get("frames.protocol", recipe["frames"]["protocol"]))


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in sorted(metrics.items()) if np.isfinite(value)}
