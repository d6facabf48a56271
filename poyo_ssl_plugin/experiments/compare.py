"""Pretrained against from scratch: the same neurons, the same budget, the same seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings, get_task
from poyo_ssl_plugin.data.splits import Split, recorded_split, repeat_fold
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.experiments.baselines import Decoded, run_baselines
from poyo_ssl_plugin.experiments.jobs import Job, default_processes, run_jobs
from poyo_ssl_plugin.experiments.provenance import git_revision, versions
from poyo_ssl_plugin.experiments.statistics import binomial_interval, estimate, paired_difference
from poyo_ssl_plugin.predictability import PredictabilityTable, make_diet, score_dataset

ARMS = ("pretrained", "scratch")
_COMMON = ("trainer.progress=false", "trainer.tensorboard=false")


@dataclass(frozen=True)
class Comparison:
    """What is compared, in plain values.

    Attributes:
        root: Folder of the recordings.
        out_dir: Folder of everything that is written.
        task: What is decoded.
        recordings: Ids of the recordings to use; all if empty.
        held_out: Ids of the recordings kept from pretraining and decoded instead; if empty, pretraining
            and decoding share recordings but no neuron.
        folds: Hold out repeats of the task's stimulus in so many folds; 0 takes the recorded split.
        seeds: Seeds of fine-tuning.
        pretrain: Overrides of the recipe ``pretrain``.
        finetune: Overrides of the fine-tuning recipe, the same for both arms.
        processes: Runs at once; 0 for one per core.
    """

    root: str
    out_dir: str
    task: str = "drifting_gratings"
    recordings: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    folds: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)
    pretrain: tuple[str, ...] = ()
    finetune: tuple[str, ...] = ()
    processes: int = 0


@dataclass
class ComparisonResult:
    """What came of a comparison.

    Attributes:
        summary: The content of ``results.json``.
        pretraining: Folders of the pretraining runs, by fold.
        finetuning: Folders of the fine-tuning runs, by arm, fold and seed.
        table: The scored neurons (of the first fold).
    """

    summary: dict[str, Any]
    pretraining: dict[str, Path]
    finetuning: dict[str, Path]
    table: PredictabilityTable = field(repr=False)


def run_comparison(comparison: Comparison, *, stage: Callable[[str, int], Any] | None = None) -> ComparisonResult:
    """Pretrain on the predictable neurons, fine-tune both arms on the others, and compare them.

    Scores come from training time only, fold by fold; the neurons decoded are none that pretraining
    saw. Finished runs of an earlier start with the same settings are not repeated.

    Args:
        comparison: What to compare.
        stage: Given the name of a stage and its number of runs, wraps its runs to show progress.

    Raises:
        PoyoSSLError: If the recordings, the task or an override are not as they must be.
    """
    began = time.monotonic()
    folds: list[int | None] = [*range(comparison.folds)] or [None]
    dataset, _split, table = load_fold(comparison, folds[0])
    _check(comparison, dataset)
    processes = comparison.processes or default_processes()

    pretraining = [_pretrain_job(comparison, fold) for fold in folds]
    pretrained = run_jobs(
        pretrain_job, pretraining, processes=processes, progress=stage and stage("pretraining", len(pretraining))
    )
    finetuning = [
        _finetune_job(comparison, fold, arm, seed, result["checkpoint"] if arm == "pretrained" else None)
        for fold, result in zip(folds, pretrained, strict=True)
        for arm in ARMS
        for seed in comparison.seeds
    ]
    finetuned = run_jobs(
        finetune_job, finetuning, processes=processes, progress=stage and stage("fine-tuning", len(finetuning))
    )
    baselines = _baselines(comparison, folds)
    summary = _summarise(comparison, table, dataset, pretrained, finetuning, finetuned, baselines)
    summary["seconds"] = round(time.monotonic() - began, 1)
    return ComparisonResult(
        summary,
        {_fold_name(fold): Path(job["folder"]) for fold, job in zip(folds, pretraining, strict=True)},
        {f"{job['arm']}/{job['fold']}/{job['seed']}": Path(job["folder"]) for job in finetuning},
        table,
    )


def load_fold(comparison: Comparison, fold: int | None) -> tuple[Recordings, Split, PredictabilityTable]:
    """The recordings, the split of a fold, and the neurons scored on its training time."""
    dataset = Recordings(comparison.root, comparison.recordings or None)
    if fold is None:
        split = recorded_split(dataset)
    else:
        split = repeat_fold(dataset, get_task(comparison.task).source, fold, comparison.folds)
    return dataset, split, score_dataset(dataset, intervals=split["train"])


def pretrain_job(job: Job) -> dict[str, Any]:
    """Pretrain once, in a process of its own."""
    from poyo_ssl_plugin.training import Inputs, pretrain

    comparison = _comparison(job)
    dataset, split, table = load_fold(comparison, job["fold"])
    used = [name for name in dataset.recording_ids if name not in comparison.held_out]
    began = time.monotonic()
    config = compose_recipe("pretrain", overrides=[*_settings(comparison, job), *comparison.pretrain])
    result = pretrain(config, Inputs(Recordings(comparison.root, used), table, split))
    return {
        "checkpoint": str(result.checkpoint),
        "metrics": _rounded(result.metrics),
        "initial": _rounded(result.initial),
        "seconds": round(time.monotonic() - began, 1),
    }


def finetune_job(job: Job) -> dict[str, Any]:
    """Fine-tune once, in a process of its own."""
    from poyo_ssl_plugin.training import Inputs, finetune

    comparison = _comparison(job)
    dataset, split, table = load_fold(comparison, job["fold"])
    used = list(comparison.held_out or dataset.recording_ids)
    recipe = "scratch" if job["init_from"] is None else comparison.task
    start = [] if job["init_from"] is None else [f"init_from={job['init_from']}"]
    began = time.monotonic()
    config = compose_recipe(
        "finetune",
        recipe,
        [*_settings(comparison, job), f"task={comparison.task}", *_for_arm(comparison, job), *start],
    )
    result = finetune(config, Inputs(Recordings(comparison.root, used), table, split), seed=job["seed"])
    return {
        "accuracy": result.metrics["test/accuracy"],
        "n_test": len(result.predictions),
        "correct": sum(row["label"] == row["prediction"] for row in result.predictions),
        "metrics": _rounded(result.metrics),
        "checkpoint": str(result.checkpoint),
        "seconds": round(time.monotonic() - began, 1),
    }


def _for_arm(comparison: Comparison, job: Job) -> list[str]:
    """Both arms get the same overrides; identifying units has no meaning where nothing was learned before."""
    if job["init_from"] is not None:
        return list(comparison.finetune)
    return [override for override in comparison.finetune if not override.startswith("identify_steps")]


def _comparison(job: Job) -> Comparison:
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in job["comparison"].items()}
    return Comparison(**settings)


def _settings(comparison: Comparison, job: Job) -> list[str]:
    # The table and the split are handed over in memory; the recipe still wants to know a table.
    return [
        f"data.root={comparison.root}",
        "diet.table=in-memory",
        f"out_dir={job['folder']}",
        "resume=true",
        *_COMMON,
        f"trainer.threads={job['threads'] or 'null'}",
    ]


def _fold_name(fold: int | None) -> str:
    return "recorded" if fold is None else f"fold{fold}"


def _job(comparison: Comparison, fold: int | None, *folder: str, **further: Any) -> Job:
    # Which seeds run beside it, and how many at once, do not change a run; its number of threads does.
    settings = {**asdict(comparison), "seeds": [], "processes": 0}
    threads = 1 if (comparison.processes or default_processes()) > 1 else None
    path = Path(comparison.out_dir).joinpath("runs", *folder)
    return {"comparison": settings, "fold": fold, "folder": str(path), "threads": threads, **further}


def _pretrain_job(comparison: Comparison, fold: int | None) -> Job:
    return _job(comparison, fold, "pretrain", _fold_name(fold))


def _finetune_job(comparison: Comparison, fold: int | None, arm: str, seed: int, checkpoint: str | None) -> Job:
    folder = (arm, _fold_name(fold), f"seed{seed}")
    return _job(comparison, fold, *folder, arm=arm, seed=seed, init_from=checkpoint)


def _check(comparison: Comparison, dataset: Recordings) -> None:
    get_task(comparison.task)
    unknown = set(comparison.held_out) - set(dataset.recording_ids)
    if unknown:
        raise RecipeError(f"held_out names {', '.join(sorted(unknown))}, which {comparison.root} does not have")
    if comparison.held_out and len(comparison.held_out) >= len(dataset.recording_ids):
        raise RecipeError("held_out leaves no recording to pretrain on")
    # Overrides that do not fit are found here, not in the first of many runs.
    compose_recipe("pretrain", overrides=comparison.pretrain)
    compose_recipe("finetune", comparison.task, comparison.finetune)


def _baselines(comparison: Comparison, folds: Sequence[int | None]) -> dict[str, Decoded]:
    total: dict[str, Decoded] = {}
    for fold in folds:
        dataset, split, table = load_fold(comparison, fold)
        diet = make_diet(table, "unpredictable")
        used = Recordings(comparison.root, comparison.held_out or dataset.recording_ids)
        for name, decoded in run_baselines(used, diet, get_task(comparison.task), split).items():
            total[name] = total.get(name, Decoded(0, 0)) + decoded
    return total


def _summarise(
    comparison: Comparison,
    table: PredictabilityTable,
    dataset: Recordings,
    pretrained: list[dict[str, Any]],
    jobs: list[Job],
    finetuned: list[dict[str, Any]],
    baselines: dict[str, Decoded],
) -> dict[str, Any]:
    task = get_task(comparison.task)
    used = comparison.held_out or tuple(dataset.recording_ids)
    diet = make_diet(table, "unpredictable")
    values: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for job, result in zip(jobs, finetuned, strict=True):
        row = {"fold": job["fold"], "seed": job["seed"], "value": result["accuracy"], "n_test": result["n_test"]}
        values[job["arm"]].append({**row, "seconds": result["seconds"]})
    runs = {arm: _independent(rows) for arm, rows in values.items()}
    means = {arm: estimate(value) for arm, value in runs.items()}
    gain = paired_difference(runs["pretrained"], runs["scratch"])
    return {
        "format": 1,
        "metric": "accuracy on held-out trials",
        "task": task.name,
        "chance": 1 / task.n_classes,
        "arms": {
            arm: {
                "metric": "accuracy",
                "runs": values[arm],
                "mean": means[arm].mean,
                "ci95": [means[arm].low, means[arm].high],
            }
            for arm in ARMS
        },
        "pretrained_minus_scratch": {
            "mean": gain.mean,
            "ci95": [gain.low, gain.high],
            "relative_gain": gain.mean / means["scratch"].mean if means["scratch"].mean > 0 else None,
        },
        "baselines": {
            name: {
                "accuracy": decoded.accuracy,
                "n_test": decoded.n,
                "ci95": list(binomial_interval(decoded.correct, decoded.n)),
            }
            for name, decoded in baselines.items()
        },
        "neurons": {
            "scored": len(table),
            "predictable": len(make_diet(table, "predictable")),
            "decoded_from": sum(diet.count(name) for name in used),
            "pretrained_on_recordings": [n for n in dataset.recording_ids if n not in comparison.held_out],
            "decoded_recordings": list(used),
        },
        "pretraining": [{key: result[key] for key in ("initial", "metrics", "seconds")} for result in pretrained],
        "seeds": list(comparison.seeds),
        "folds": comparison.folds,
        "comparison": json.loads(json.dumps(asdict(comparison))),
        "recipes": _recipes(comparison),
        "versions": versions(),
        "git": git_revision(),
    }


def _independent(rows: list[dict[str, Any]]) -> list[float]:
    """The values to take means and intervals over: seeds, or, with folds, the mean over seeds of each fold.

    Seeds of one fold share their pretraining and their test trials, so they do not count as samples.
    """
    folds = dict.fromkeys(row["fold"] for row in rows)
    if len(folds) < 2:
        return [row["value"] for row in rows]
    return [float(np.mean([row["value"] for row in rows if row["fold"] == fold])) for fold in folds]


def _recipes(comparison: Comparison) -> dict[str, Any]:
    """The full configuration of both arms."""
    from omegaconf import OmegaConf

    return {
        "pretrain": OmegaConf.to_container(compose_recipe("pretrain", overrides=comparison.pretrain)),
        "finetune": OmegaConf.to_container(compose_recipe("finetune", comparison.task, comparison.finetune)),
    }


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in sorted(metrics.items()) if value == value}
