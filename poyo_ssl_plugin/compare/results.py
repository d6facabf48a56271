"""What the runs of a comparison say together: the measured part of ``results.json``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from poyo_ssl_plugin.compare.arms import POYO_SSL, SCRATCH
from poyo_ssl_plugin.compare.estimates import (
    Estimate,
    PairedComparison,
    Scores,
    Spread,
    binomial_interval,
    compare_scores,
    estimate,
    holm,
    p_value,
    unit_means,
)
from poyo_ssl_plugin.compare.plan import Plan, compose
from poyo_ssl_plugin.compare.record import Outcome, Run
from poyo_ssl_plugin.training.decoding import decoding_of

Done = Sequence[tuple[Run, Outcome]]


def summarise(
    plan: Plan, pretrained: Sequence[Outcome], finetuned: Sequence[Outcome], baselines: Mapping[str, Any]
) -> dict[str, Any]:
    """The measured part of ``results.json``.

    Args:
        plan: What was done.
        pretrained: What came of the pretraining runs.
        finetuned: What came of the fine-tuning runs.
        baselines: What simple decoders reach on the same trials.
    """
    comparison = plan.comparison
    decoding = decoding_of(compose("finetune", comparison.task, comparison.finetune))
    decoding.task = plan.task
    task, metric = decoding.task, decoding.metric
    before = list(zip(plan.pretraining, pretrained, strict=True))
    after = list(zip(plan.finetuning, finetuned, strict=True))
    scores = {arm.name: _scores(_of_arm(after, arm.name), folds=bool(comparison.folds)) for arm in plan.arms}
    arms: dict[str, dict[str, Any]] = {}
    for arm in plan.arms:
        runs = [_row(run, outcome) for run, outcome in _of_arm(after, arm.name)]
        trials = [*_trials(_of_arm(after, arm.name)).values()]
        over_trials = list(binomial_interval(sum(trials), len(trials))) if metric.bounds == (0, 1) else None
        over_trials = over_trials or estimate(trials, bounds=metric.bounds).ci95
        arms[arm.name] = {
            "title": arm.title,
            "metric": metric.name,
            "runs": runs,
            "mean": float(np.mean(independent_values(runs))),
            "ci95": _wider(scores[arm.name].estimate(metric.bounds), over_trials),
            "trials_ci95": over_trials,
            "n_trials": len(trials),
            "p_above_chance": _p_above(scores[arm.name], decoding.chance),
            "versus_decoder": _against_decoder(scores[arm.name], baselines),
            "compute": {
                "pretraining": _total(outcome for run, outcome in before if run.key in _starts(after, arm.name)),
                "finetuning": _total(outcome for _, outcome in _of_arm(after, arm.name)),
            },
        }
    summary: dict[str, Any] = {
        "format": 4,
        "metric": decoding.describe(),
        "task": task.name,
        "kind": task.kind,
        "chance": decoding.chance,
        "arms": arms,
        "baselines": dict(baselines),
        "pretraining": [
            {"arm": run.arm, "fold": run.fold, "seed": run.seed, "initial": outcome.initial, "metrics": outcome.metrics}
            | {"seconds": outcome.seconds, "steps": outcome.steps, "windows": outcome.windows}
            for run, outcome in before
        ],
        "seeds": list(comparison.seeds),
        "folds": comparison.folds,
        "independent": _independent_in_words(plan),
        "leaks": _leaks(comparison.allow_leak, [*before, *after]),
    }
    if SCRATCH in arms:
        width = metric.bounds[1] - metric.bounds[0]
        named = {name: _trials(_of_arm(after, name)) for name in arms}
        _add_comparisons(summary, scores, named, (-width, width))
    return summary


def independent_values(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """One value per independent run: seeds, or, with folds, the mean over seeds of each fold."""
    units = [row["seed"] if row["fold"] is None else ("fold", row["fold"]) for row in rows]
    return unit_means([row["value"] for row in rows], units)


def pool_data_sets(summaries: Sequence[Mapping[str, Any]], arm: str, reference: str = SCRATCH) -> PairedComparison:
    """Compare two arms over independent data sets: other animals, or fresh simulations.

    Seeds of one data set are no samples of what another would give, so each data set counts once.

    Args:
        summaries: The ``results.json`` of each data set.
        arm: Name of an arm.
        reference: Name of the arm it is compared with.

    Example:
        >>> results = [{"arms": {"a": {"mean": m}, "scratch": {"mean": 0.5}}} for m in (0.6, 0.64, 0.62)]
        >>> str(pool_data_sets(results, "a").difference)
        '0.120 [0.070, 0.170]'
    """
    one, other = (
        Scores(np.array([[summary["arms"][name]["mean"]] for summary in summaries])) for name in (arm, reference)
    )
    return compare_scores(one, other)


def _add_comparisons(
    summary: dict[str, Any],
    scores: Mapping[str, Scores],
    trials: Mapping[str, Mapping[str, float]],
    bounds: tuple[float, float],
) -> None:
    """Every arm against from scratch, with p adjusted for the number of arms."""
    others = [name for name in scores if name != SCRATCH]
    pairs = {name: compare_scores(scores[name], scores[SCRATCH], bounds=bounds) for name in others}
    adjusted = holm([pairs[name].p for name in others])
    for name, p_holm in zip(others, adjusted, strict=True):
        pair = pairs[name]
        over_trials = estimate([value - trials[SCRATCH][trial] for trial, value in trials[name].items()], bounds=bounds)
        summary["arms"][name]["versus_scratch"] = {
            "mean": pair.difference.mean,
            "ci95": pair.difference.ci95,
            "n": pair.difference.n,
            "n_trials": over_trials.n,
            "p": pair.p,
            "p_exact": pair.p_exact,
            "p_holm": p_holm,
            "relative_gain": pair.relative,
            "relative_ci95": None if pair.relative_ci95 is None else list(pair.relative_ci95),
            "over_trials": {"mean": over_trials.mean, "ci95": over_trials.ci95, "n": over_trials.n},
        }
    if POYO_SSL in pairs:
        of_poyo_ssl = summary["arms"][POYO_SSL]["versus_scratch"]
        summary["pretrained_minus_scratch"] = {
            key: of_poyo_ssl[key] for key in ("mean", "ci95", "relative_gain", "relative_ci95", "p")
        }


def _starts(finetuned: Done, name: str) -> set[str | None]:
    """Keys of the pretraining runs that an arm starts from."""
    return {run.start for run, _ in _of_arm(finetuned, name)}


def _of_arm(done: Done, name: str) -> Done:
    return [(run, outcome) for run, outcome in done if run.arm == name]


def _row(run: Run, outcome: Outcome) -> dict[str, Any]:
    row = {"fold": run.fold, "seed": run.seed, "value": outcome.value, "n_test": outcome.n_test}
    return {**row, "seconds": outcome.seconds, "steps": outcome.steps, "windows": outcome.windows}


def _scores(done: Done, *, folds: bool) -> Scores:
    """Fold means, or the trials of every run; all runs of a fold are tested on the same trials."""
    if folds:
        rows = [_row(run, outcome) for run, outcome in done]
        return Scores(np.array(independent_values(rows)), folds=True)
    return Scores(np.array([outcome.trials for _, outcome in done], dtype=float))


def _wider(both: Estimate, over_trials: list[float] | None) -> list[float] | None:
    """The interval over runs and trials, at least as wide as that over trials; none of one run."""
    if both.n < 2 or over_trials is None or both.ci95 is None:
        return None if both.n < 2 else over_trials
    return [min(both.ci95[0], over_trials[0]), max(both.ci95[1], over_trials[1])]


def _trials(done: Done) -> dict[str, float]:
    """Mean over runs of each test trial; trials without a name are of their fold alone."""
    found: dict[str, list[float]] = {}
    for run, outcome in done:
        names = outcome.trial_names or [f"{run.fold}/{i}" for i in range(len(outcome.trials))]
        for name, value in zip(names, outcome.trials, strict=True):
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _p_above(scores: Scores, chance: float | None) -> float | None:
    """Two-sided p that the mean is chance; ``None`` where there is no chance or no spread."""
    return None if chance is None else p_value(Scores(scores.values - chance, scores.folds))


def _against_decoder(scores: Scores, baselines: Mapping[str, Any]) -> dict[str, Any] | None:
    """The difference from the best simple decoder, as if they were tested apart; so its interval is wide enough."""
    from scipy.stats import t

    best = max(baselines.items(), key=lambda item: item[1]["value"], default=None)
    if best is None:
        return None
    name, found = best
    difference, spread = scores.mean - found["value"], scores.spread
    answer = {"name": name, "value": found["value"], "mean": difference, "ci95": None}
    if spread is not None and found["ci95"] is not None:
        of_decoder = (found["ci95"][1] - found["ci95"][0]) / (2 * 1.96)
        both = Spread(spread.variance + of_decoder**2, spread.df)
        half = float(t.ppf(0.975, both.df)) * math.sqrt(both.variance)
        answer["ci95"] = [difference - half, difference + half]
    return answer


def _independent_in_words(plan: Plan) -> str:
    comparison = plan.comparison
    if comparison.folds:
        return (
            f"over {comparison.folds} folds (the mean over the seeds of each), corrected for the training data that "
            "folds share (Nadeau-Bengio). They speak of other repeats in these recordings, not of other recordings"
        )
    seeds = "of pretraining and fine-tuning" if comparison.pretrain_each_seed else "of fine-tuning"
    once = "" if comparison.pretrain_each_seed else "; each arm was pretrained once, which they do not cover"
    return (
        f"over {len(comparison.seeds)} seeds {seeds} and over test trials{once}. All share one data set: they speak of "
        "other seeds and trials, not of other animals or other simulations"
    )


def _leaks(allowed: bool, done: Done) -> dict[str, Any]:
    """What of the test scoring and pretraining saw, by arm, at worst of its runs; and whether that was allowed."""
    found: dict[str, dict[str, Any]] = {}
    for run, outcome in done:
        # What started from random weights, and pretraining itself, had no pretraining before.
        leaks = {"units": 0, "test_seconds": 0.0, **outcome.leaks}
        arm = found.setdefault(run.arm, {"units": 0, "test_seconds": 0.0, "scored_seconds": 0.0})
        arm["units"] = max(arm["units"], leaks["units"])
        arm["test_seconds"] = max(arm["test_seconds"], leaks["test_seconds"])
        arm["scored_seconds"] = max(arm["scored_seconds"], leaks["scoring"]["test_seconds"])
    return {"allowed": allowed or any(outcome.leaks.get("allowed") for _, outcome in done), "arms": found}


def _total(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    rows = [(outcome.seconds, outcome.steps, outcome.windows) for outcome in outcomes]
    seconds, steps, windows = (sum(column) for column in zip(*rows, strict=True)) if rows else (0.0, 0, 0)
    return {"runs": len(rows), "seconds": round(seconds, 1), "steps": steps, "windows": windows}
