"""Single runs as the command line starts them: run, draw, and write down what was measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from poyo_ssl_plugin.compare import figures
from poyo_ssl_plugin.compare.comparison import Stage
from poyo_ssl_plugin.compare.estimates import binomial_interval, estimate
from poyo_ssl_plugin.compare.perform import inputs_of
from poyo_ssl_plugin.compare.record import held_out_by
from poyo_ssl_plugin.compare.references import reference_rows, tested_decoder
from poyo_ssl_plugin.compare.results import ArmScores, TestedDecoder, TestedRun, TestSummary, about, to_json
from poyo_ssl_plugin.distributed import end_unless_main_process
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.files import write_json
from poyo_ssl_plugin.frames.simple_decoders import latent_images, reconstruct, reference_images, score_images
from poyo_ssl_plugin.frames.task import FrameData, FrameDecoding, FrameReconstruction
from poyo_ssl_plugin.plain import Values
from poyo_ssl_plugin.provenance import git_revision, versions
from poyo_ssl_plugin.training import (
    Decoding,
    FinetuneRecipe,
    Inputs,
    RunResult,
    decoding_of,
    open_finetuned,
    parse_recipe,
    read_checkpoint,
)
from poyo_ssl_plugin.training import evaluate as evaluate_once
from poyo_ssl_plugin.training import finetune as finetune_once
from poyo_ssl_plugin.training import pretrain as pretrain_once
from poyo_ssl_plugin.training.recipe import recorded_recipe


def run_pretraining(config: DictConfig) -> Values:
    """Pretrain, draw the curves, and write ``results.json``; returns its content."""
    result = pretrain_once(config)
    end_unless_main_process()
    metrics = ["train/masked", "valid/effective_rank", "valid/latent_std"]
    figures.training_curves({"pretraining": result.out_dir}, result.out_dir / "curves.png", metrics=metrics)
    units = read_checkpoint(result.checkpoint)["hyper_parameters"]["trained_on"]["units"]
    summary = {
        "format": 1,
        "checkpoint": str(result.checkpoint),
        "initial": _finite(result.initial),
        "metrics": _finite(result.metrics),
        "diet": f"{config.diet.rule}: {sum(map(len, units.values()))} units of {len(units)} recordings",
        "loaded": result.loaded.summary() if result.loaded else None,
        "leaks": result.leaks,
        "recipe": OmegaConf.to_container(config),
        "versions": versions(),
        "git": git_revision(),
    }
    write_json(result.out_dir / "results.json", summary)
    return summary


@dataclass(frozen=True, kw_only=True)
class RunSummary(TestSummary):
    """What came of single runs.

    Attributes:
        predictions: A row for each tested moment, by seed; of a checkpoint the rows alone.
        leaks: What of the test was seen before, likewise.
        further: What else was said of them.
    """

    predictions: Mapping[int, list[Values]] | list[Values]
    leaks: Mapping[int, Values] | Values
    further: Values


def run_finetuning(config: DictConfig, *, stage: Stage | None = None) -> RunSummary:
    """Fine-tune with every seed, test, compare with baselines, draw, and write ``results.json``."""
    recipe = parse_recipe(FinetuneRecipe, config)
    seeds, out_dir = recipe.seeds, Path(recipe.out_dir)
    results: dict[int, RunResult] = {}
    progress = stage("fine-tuning", len(seeds)) if stage else (lambda items, n: items)
    for seed in progress(iter(seeds), len(seeds)):
        # On a terminal, the bar over seeds takes the place of one per run.
        lines = recipe.trainer.progress and not sys.stderr.isatty()
        change = {"out_dir": str(out_dir / f"seed{seed}"), "trainer": {"progress": lines}}
        of_seed = OmegaConf.merge(config, change)
        assert isinstance(of_seed, DictConfig)
        results[seed] = finetune_once(of_seed, seed=seed)
    end_unless_main_process()
    inputs = Inputs.from_recipe(recipe)
    decoding = decoding_of(recipe, inputs)
    metric = decoding.metric
    diet = recipe.make_diet(inputs.table)
    arm = "scratch" if recipe.init_from is None else "pretrained"
    first = results[seeds[0]]
    references = reference_rows(recipe, [inputs])
    if isinstance(decoding, FrameReconstruction):
        references |= _draw_frames(first, inputs, arm, out_dir / "frames.png")
    further = {
        "diet": f"{diet.name}: {diet.summary(inputs.dataset.recording_ids)}",
        "seeds": seeds,
        "metrics": {seed: _finite(result.metrics) for seed, result in results.items()},
        "loaded": first.loaded.summary() if first.loaded else None,
        "recipe": OmegaConf.to_container(config),
    }
    summary = RunSummary(
        **about(decoding),
        format=2,
        arms={arm: _arm(decoding, results)},
        baselines=references,
        predictions={seed: result.predictions for seed, result in results.items()},
        leaks={seed: result.leaks for seed, result in results.items()},
        further=further,
    )
    write_json(out_dir / "results.json", to_json(summary))
    figures.arm_bars(
        summary.arms,
        summary.reference_lines,
        out_dir / f"{metric.key}.png",
        title=figures.in_words(decoding.task.name),
        label=metric.name,
        bounds=metric.bounds,
    )
    figures.training_curves(
        {f"{arm}/{seed}": result.out_dir for seed, result in results.items()},
        out_dir / "curves.png",
        metrics=["train/loss", f"valid/{metric.key}"],
    )
    return summary


def run_evaluation(checkpoint: str | Path, overrides: Sequence[str] = ()) -> RunSummary:
    """Test a fine-tuned checkpoint.

    What a comparison trained is tested on the fold that it held out.
    """
    changes = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise RecipeError(f"{override!r} is not of the form key=value")
        try:
            changes[key] = OmegaConf.create(f"value: {value}").value
        except (YAMLError, OmegaConfBaseException) as error:
            raise RecipeError(f"{key}: cannot read {value!r} ({' '.join(str(error).split())})") from None
    fold = held_out_by(Path(checkpoint).resolve().parent.parent)
    recipe = recorded_recipe(read_checkpoint(checkpoint), changes, source=checkpoint)
    result = evaluate_once(checkpoint, changes, None if fold is None else inputs_of(recipe, fold))
    decoding = decoding_of(recipe)
    return RunSummary(
        **about(decoding),
        format=2,
        arms={"checkpoint": _arm(decoding, {None: result})},
        baselines={},
        predictions=result.predictions,
        leaks=result.leaks,
        further={"checkpoint": str(checkpoint)},
    )


def _draw_frames(run: RunResult, inputs: Inputs, arm: str, path: Path) -> dict[str, TestedDecoder]:
    """Draw true frames over reconstructed ones; returns the row of a linear decoder on the model's latent vectors."""
    opened = open_finetuned(run.checkpoint, inputs=inputs)
    decoding, data = cast(FrameReconstruction, opened.decoding), cast(FrameData, opened.data)
    module = cast(FrameDecoding, opened.module)
    latent, images, frame, recordings = reconstruct(module, data.test_dataloader(), decoding)
    linear = latent_images(module, data, decoding, latent)
    n = recordings.count(recordings[0])
    shown = np.linspace(0, n - 1, min(8, n)).round().astype(int)
    true = decoding.movie.image[decoding.movie.rows(frame[shown])] / 255
    references = reference_images(data, recordings[0], decoding)
    lines = {arm: images, **references, "linear decoder on latents": linear}
    figures.image_rows(
        {"true": true, **{name: made[shown] for name, made in lines.items()}},
        [f"frame {number}" for number in frame[shown]],
        path,
    )
    rows = score_images(linear, frame, decoding.movie, recordings)
    return {"linear decoder on latents": tested_decoder(decoding.test_result(rows))}


def _arm(decoding: Decoding, results: Mapping[int, RunResult] | Mapping[None, RunResult]) -> ArmScores:
    """What the seeds reached; of a single run with an interval over the samples of its test."""
    metric = decoding.metric
    tests = {seed: decoding.test_result(result.predictions) for seed, result in results.items()}
    values = [test.value for test in tests.values()]
    over_trials = None
    if len(values) == 1:
        [trials] = (test.trials for test in tests.values())
        told = set(trials) <= {0.0, 1.0}
        over_trials = binomial_interval(int(sum(trials)), len(trials)) if told else estimate(trials).ci95
    return ArmScores(
        metric=metric.name,
        runs=[
            TestedRun(seed, test.value, test.n_test, test.further | decoding.further(result.metrics))
            for (seed, test), result in zip(tests.items(), results.values(), strict=True)
        ],
        mean=float(np.mean(values)),
        ci95=estimate(values, bounds=metric.bounds).ci95,
        trials_ci95=over_trials,
    )


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in sorted(metrics.items()) if value == value and abs(value) != float("inf")}
