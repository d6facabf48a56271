"""From the results of runs to what they say of each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from poyo_ssl_plugin.experiments.arms import POYO_SSL, SCRATCH, Arm
from poyo_ssl_plugin.experiments.jobs import Job
from poyo_ssl_plugin.experiments.measures import decoded_task, measure_of
from poyo_ssl_plugin.experiments.statistics import compare_pairs, estimate, holm

if TYPE_CHECKING:
    from poyo_ssl_plugin.experiments.compare import Comparison


def summarise(
    comparison: Comparison,
    arms: Sequence[Arm],
    pretraining: Sequence[Job],
    pretrained: Sequence[dict[str, Any]],
    jobs: Sequence[Job],
    finetuned: Sequence[dict[str, Any]],
    metric: str,
) -> dict[str, Any]:
    """The measured part of ``results.json``.

    Args:
        comparison: What was compared.
        arms: The arms, in order.
        pretraining: The pretraining jobs.
        pretrained: Their results.
        jobs: The fine-tuning jobs.
        finetuned: Their results.
        metric: What was measured, in words.
    """
    task, measure = decoded_task(comparison.task), measure_of(comparison.task)
    runs: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    trials: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in arms}
    for job, result in zip(jobs, finetuned, strict=True):
        row = {"fold": job["fold"], "seed": job["seed"], "value": result["value"], "n_test": result["n_test"]}
        runs[job["arm"]].append({**row, **{name: result[name] for name in ("seconds", "steps", "windows")}})
        trials[job["arm"]].append(_named_trials(job, result))
    per_arm: dict[str, dict[str, Any]] = {}
    for arm in arms:
        value = estimate(independent_values(runs[arm.name]))
        before = [result for job, result in zip(pretraining, pretrained, strict=True) if job["arm"] == arm.name]
        per_arm[arm.name] = {
            "title": arm.title,
            "metric": measure.name,
            "runs": runs[arm.name],
            "mean": value.mean,
            "ci95": [value.low, value.high],
            "compute": {"pretraining": _total(before), "finetuning": _total(runs[arm.name])},
        }
    summary: dict[str, Any] = {
        "format": 3,
        "metric": metric,
        "task": task.name,
        "chance": measure.chance(task),
        "arms": per_arm,
        "pretraining": [
            {"arm": job["arm"], "fold": job["fold"], "seed": job["seed"]}
            | {key: result[key] for key in ("initial", "metrics", "seconds", "steps", "windows")}
            for job, result in zip(pretraining, pretrained, strict=True)
        ],
        "seeds": list(comparison.seeds),
        "folds": comparison.folds,
        "independent": _independent_in_words(comparison),
        "leaks": _leaks(comparison, [*zip(pretraining, pretrained, strict=True), *zip(jobs, finetuned, strict=True)]),
    }
    if SCRATCH in runs:
        _add_comparisons(summary, {name: (runs[name], trials[name]) for name in runs})
    return summary


def _add_comparisons(summary: dict[str, Any], measured: Mapping[str, tuple[list[dict[str, Any]], Any]]) -> None:
    """Every arm against from scratch: over runs, with p adjusted for the number of arms, and over trials."""
    reference, reference_trials = measured[SCRATCH]
    others = [name for name in measured if name != SCRATCH]
    pairs = {
        name: compare_pairs(independent_values(measured[name][0]), independent_values(reference)) for name in others
    }
    adjusted = holm([pairs[name].p for name in others])
    for name, p in zip(others, adjusted, strict=True):
        pair = pairs[name]
        over_trials = estimate(_per_trial(measured[name][1]) - _per_trial(reference_trials))
        summary["arms"][name]["versus_scratch"] = {
            "mean": pair.difference.mean,
            "ci95": [pair.difference.low, pair.difference.high],
            "n": pair.difference.n,
            "p": pair.p,
            "p_exact": pair.p_exact,
            "p_holm": p,
            "relative_gain": pair.relative,
            "relative_ci95": None if pair.relative_ci95 is None else list(pair.relative_ci95),
            "over_trials": {
                "mean": over_trials.mean,
                "ci95": [over_trials.low, over_trials.high],
                "n": over_trials.n,
            },
        }
    if POYO_SSL in pairs:
        of_poyo_ssl = summary["arms"][POYO_SSL]["versus_scratch"]
        summary["pretrained_minus_scratch"] = {
            key: of_poyo_ssl[key] for key in ("mean", "ci95", "relative_gain", "relative_ci95", "p")
        }


def independent_values(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The values to take means and intervals over: seeds, or, with folds, the mean over seeds of each fold.

    Seeds of one fold share their test trials, so they do not count as samples.
    """
    folds = dict.fromkeys(row["fold"] for row in rows)
    if len(folds) < 2:
        return [row["value"] for row in rows]
    return [float(np.mean([row["value"] for row in rows if row["fold"] == fold])) for fold in folds]


def _named_trials(job: Job, result: Mapping[str, Any]) -> dict[str, float]:
    """The test trials of a run; those without a name are of their fold alone."""
    names = result["trial_names"] or [f"{job['fold']}/{i}" for i in range(len(result["trials"]))]
    return dict(zip(names, result["trials"], strict=True))


def _per_trial(runs: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Mean over runs of each test trial: of accuracy, the share of seeds that told it right."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for name, value in run.items():
            values.setdefault(name, []).append(value)
    return np.array([np.mean(found) for found in values.values()])


def _independent_in_words(comparison: Comparison) -> str:
    if comparison.folds > 1:
        return "folds (the mean over the seeds of each)"
    if comparison.pretrain_each_seed:
        return "seeds (of pretraining and fine-tuning)"
    return "seeds of fine-tuning; each arm was pretrained once, so its intervals do not cover pretraining"


def _leaks(comparison: Comparison, runs: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """What of the test scoring and pretraining saw, by arm, at worst of its runs; and whether that was allowed."""
    found: dict[str, dict[str, Any]] = {}
    for job, result in runs:
        # What started from random weights, and pretraining itself, had no pretraining before.
        leaks = {"units": 0, "test_seconds": 0.0, **result["leaks"]}
        arm = found.setdefault(job["arm"], {"units": 0, "test_seconds": 0.0, "scored_seconds": 0.0})
        arm["units"] = max(arm["units"], leaks["units"])
        arm["test_seconds"] = max(arm["test_seconds"], leaks["test_seconds"])
        arm["scored_seconds"] = max(arm["scored_seconds"], leaks["scoring"]["test_seconds"])
    allowed = comparison.allow_leak or any(result["leaks"].get("allowed") for _, result in runs)
    return {"allowed": allowed, "arms": found}


def _total(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total = {name: sum(result[name] for result in results) for name in ("seconds", "steps", "windows")}
    return {"runs": len(results), **total, "seconds": round(total["seconds"], 1)}
