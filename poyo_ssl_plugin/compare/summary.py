"""What the runs of a comparison say together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from poyo_ssl_plugin.compare.arms import POYO_SSL, SCRATCH, Arm
from poyo_ssl_plugin.compare.estimates import (
    Estimate,
    Scores,
    binomial_interval,
    compare_scores,
    estimate,
    holm,
    p_value,
    unit_means,
)
from poyo_ssl_plugin.compare.plan import Plan, finetuning_of, shared_recipes
from poyo_ssl_plugin.compare.protocol import EXECUTION
from poyo_ssl_plugin.compare.record import Outcome, Run
from poyo_ssl_plugin.compare.results import (
    ArmLeaks,
    ArmResult,
    ComparedRun,
    ComparisonSummary,
    Compute,
    Leaks,
    NeuronCounts,
    PretrainingRun,
    Spent,
    TestedDecoder,
    VersusDecoder,
    VersusScratch,
    about,
    independent_values,
)
from poyo_ssl_plugin.predictability import make_diet
from poyo_ssl_plugin.training.decoding import Decoding, decoding_of
from poyo_ssl_plugin.training.recipe import FinetuneRecipe

Done = Sequence[tuple[Run, Outcome]]


def summarise(
    plan: Plan,
    pretrained: Sequence[Outcome],
    finetuned: Sequence[Outcome],
    baselines: Mapping[str, TestedDecoder],
    seconds: float,
) -> ComparisonSummary:
    """The content of ``results.json``.

    Args:
        plan: What was done.
        pretrained: What came of the pretraining runs.
        finetuned: What came of the fine-tuning runs.
        baselines: What simple decoders reach on the same trials.
        seconds: Wall-clock time of it all.
    """
    comparison = plan.comparison
    finetune = finetuning_of(comparison)
    decoding = decoding_of(finetune)
    decoding.task = plan.task
    before = list(zip(plan.pretraining, pretrained, strict=True))
    after = list(zip(plan.finetuning, finetuned, strict=True))
    of_arm = {arm.name: [(run, done) for run, done in after if run.arm == arm.name] for arm in plan.arms}
    scores = {name: _scores(done, folds=bool(comparison.folds)) for name, done in of_arm.items()}
    arms = {
        arm.name: _arm_result(arm, of_arm[arm.name], before, scores[arm.name], decoding, baselines) for arm in plan.arms
    }
    if SCRATCH in arms:
        low, high = decoding.metric.bounds
        trials = {name: _trials(done) for name, done in of_arm.items()}
        for name, against in _versus_scratch(scores, trials, (low - high, high - low)).items():
            arms[name] = replace(arms[name], versus_scratch=against)
    settings = {name: value for name, value in asdict(comparison).items() if name not in EXECUTION}
    return ComparisonSummary(
        **about(decoding),
        format=4,
        arms=arms,
        baselines=baselines,
        pretraining=[
            PretrainingRun(
                run.arm, run.fold, run.seed, done.initial, done.metrics, done.seconds, done.steps, done.windows
            )
            for run, done in before
        ],
        seeds=comparison.seeds,
        folds=comparison.folds,
        independent=_independent_in_words(plan),
        leaks=_leaks(comparison.allow_leak, [*before, *after]),
        neurons=_neurons(plan, finetune),
        comparison=settings,
        recipes=shared_recipes(comparison, plan.arms),
        seconds=round(seconds, 1),
        pretrained_minus_scratch=arms[POYO_SSL].versus_scratch if POYO_SSL in arms else None,
    )


def _arm_result(
    arm: Arm, after: Done, before: Done, scores: Scores, decoding: Decoding, baselines: Mapping[str, TestedDecoder]
) -> ArmResult:
    metric = decoding.metric
    runs = [_compared_run(run, done, decoding) for run, done in after]
    trials = [*_trials(after).values()]
    over_trials = (
        binomial_interval(sum(trials), len(trials))
        if metric.bounds == (0, 1)
        else estimate(trials, bounds=metric.bounds).ci95
    )
    starts = {run.start for run, _ in after}
    return ArmResult(
        metric=metric.name,
        runs=runs,
        mean=float(np.mean(independent_values(runs))),
        ci95=_wider(scores.estimate(metric.bounds), over_trials),
        trials_ci95=over_trials,
        title=arm.title,
        n_trials=len(trials),
        p_above_chance=_p_above(scores, decoding.chance),
        versus_decoders={name: _versus_decoder(scores, decoder) for name, decoder in baselines.items()},
        compute=Compute(
            pretraining=_spent(done for run, done in before if run.key in starts),
            finetuning=_spent(done for _, done in after),
        ),
    )


def _versus_scratch(
    scores: Mapping[str, Scores], trials: Mapping[str, Mapping[str, float]], bounds: tuple[float, float]
) -> dict[str, VersusScratch]:
    """Every arm against from scratch, with p adjusted for the number of arms."""
    others = [name for name in scores if name != SCRATCH]
    pairs = {name: compare_scores(scores[name], scores[SCRATCH], bounds=bounds) for name in others}
    adjusted = holm([pair.p for pair in pairs.values()])
    found = {}
    for (name, pair), p_holm in zip(pairs.items(), adjusted, strict=True):
        over_trials = estimate([value - trials[SCRATCH][trial] for trial, value in trials[name].items()], bounds=bounds)
        found[name] = VersusScratch(**vars(pair), n_trials=over_trials.n, p_holm=p_holm, over_trials=over_trials)
    return found


def _compared_run(run: Run, done: Outcome, decoding: Decoding) -> ComparedRun:
    return ComparedRun(
        run.seed,
        done.value,
        done.n_test,
        decoding.further(done.metrics),
        fold=run.fold,
        seconds=done.seconds,
        steps=done.steps,
        windows=done.windows,
    )


def _scores(done: Done, *, folds: bool) -> Scores:
    """Fold means, or the trials of every run; all runs of a fold are tested on the same trials."""
    if folds:
        by_fold = unit_means([outcome.value for _, outcome in done], [run.fold for run, _ in done])
        return Scores(np.array(by_fold), folds=True)
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


def _versus_decoder(scores: Scores, decoder: TestedDecoder) -> VersusDecoder:
    """The difference from a simple decoder, paired by fold or by trial."""
    folds = [np.mean(trials) for trials in decoder.trials]
    of_decoder = np.array(folds) if scores.folds else np.array(decoder.trials)
    if of_decoder.shape[-1:] != scores.values.shape[-1:]:
        # A decoder that was tested over all folds at once has no part that belongs to a fold.
        return VersusDecoder(decoder.value, scores.mean - decoder.value, None)
    other = Scores(np.broadcast_to(of_decoder, scores.values.shape), scores.folds)
    return VersusDecoder(decoder.value, (scores - other).mean, (scores - other).estimate().ci95)


def _neurons(plan: Plan, finetune: FinetuneRecipe) -> NeuronCounts:
    fold = plan.folds[0]
    return NeuronCounts(
        scored=len(fold.table),
        predictable=len(make_diet(fold.table, "predictable")),
        decoded_from=int(finetune.make_diet(fold.decoding).members_of(fold.decoding).sum()),
        decode_fraction=plan.comparison.decode_fraction,
        pretrained_on=plan.diets,
        pretrained_on_recordings=plan.pretrained_on,
        decoded_recordings=plan.decoded,
    )


def _independent_in_words(plan: Plan) -> str:
    comparison = plan.comparison
    if comparison.folds:
        return (
            f"over {comparison.folds} folds (the mean over the seeds of each), corrected for the training data that "
            "folds share (Nadeau-Bengio). They speak of other repeats in these recordings, not of other recordings"
        )
    n = len(comparison.seeds)
    seeds = "of pretraining and fine-tuning" if comparison.pretrain_each_seed else "of fine-tuning"
    once = "" if comparison.pretrain_each_seed else "; each arm was pretrained once, which they do not cover"
    return (
        f"over {n} seed{'s' * (n > 1)} {seeds} and over test trials{once}. All share one data set: they speak of "
        "other seeds and trials, not of other animals or other simulations"
    )


def _leaks(allowed: bool, done: Done) -> Leaks:
    found: dict[str, ArmLeaks] = {}
    for run, outcome in done:
        # What started from random weights, and pretraining itself, had no pretraining before.
        leaks = {"units": 0, "test_seconds": 0.0, **outcome.leaks}
        worst = found.get(run.arm, ArmLeaks(0, 0.0, 0.0))
        found[run.arm] = ArmLeaks(
            units=max(worst.units, leaks["units"]),
            test_seconds=max(worst.test_seconds, leaks["test_seconds"]),
            scored_seconds=max(worst.scored_seconds, leaks["scoring"]["test_seconds"]),
        )
    return Leaks(allowed or any(outcome.leaks.get("allowed") for _, outcome in done), found)


def _spent(outcomes: Iterable[Outcome]) -> Spent:
    rows = list(outcomes)
    return Spent(
        runs=len(rows),
        seconds=round(sum(done.seconds for done in rows), 1),
        steps=sum(done.steps for done in rows),
        windows=sum(done.windows for done in rows),
    )
