"""Does it scale? The same comparison over sizes of the model, the diet, the set of recordings, or the labels."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from poyo_ssl_plugin.compare.arms import POYO_SSL, SCRATCH, get_arms
from poyo_ssl_plugin.compare.comparison import ComparisonResult, Stage, run_comparison
from poyo_ssl_plugin.compare.cost import model_cost
from poyo_ssl_plugin.compare.estimates import Trend, trend
from poyo_ssl_plugin.compare.perform import inputs_of_run
from poyo_ssl_plugin.compare.plan import make_plan
from poyo_ssl_plugin.compare.protocol import EXECUTION, Comparison
from poyo_ssl_plugin.compare.results import ArmResult, Compute, Leaks, Summary, TestedDecoder, independent_values
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models.flops import Cost
from poyo_ssl_plugin.plain import ReadOnlyValues, Values
from poyo_ssl_plugin.provenance import git_revision, versions

Place = str | float

AXES: dict[str, tuple[Place, ...]] = {
    "model": ("tiny", "small", "medium", "large", "xlarge"),
    "diet": (0.1, 0.25, 0.5, 0.75, 1.0),
    "recordings": (),
    "labels": (0.125, 0.25, 0.5, 1.0),
}


@dataclass(frozen=True)
class Scaling(Comparison):
    """A comparison over an axis, in plain values; all but these attributes are as of :class:`Comparison`.

    Attributes:
        axis: ``"model"``, ``"diet"`` (fraction of each arm's diet), ``"recordings"`` (how many to pretrain on; needs
            ``held_out``) or ``"labels"`` (fraction of the labelled trials to fine-tune on; all places share one
            pretraining).
        values: Places on the axis, small to large. Of ``model``: names of ``recipes/model``, or overrides separated by
            spaces (``"model=tiny model.dim=48"``). By default five sizes, five fractions, or one recording doubled
            until there are no more.
    """

    axis: str = "model"
    values: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Point:
    """A place on the axis.

    Attributes:
        cost: What the model costs there.
        pretraining_cost: What it costs in pretraining, without what is fine-tuned beside it.
        flops_per_decoder: Operations of one pretraining, if any, and one fine-tuning, by arm.
        pretrained_on: How many neurons each arm pretrained on.
        pretrained_on_recordings: How many recordings they are of.
    """

    label: str
    cost: Cost
    pretraining_cost: Cost
    flops_per_decoder: Mapping[str, float]
    arms: Mapping[str, ArmResult]
    baselines: Mapping[str, TestedDecoder]
    leaks: Leaks
    pretrained_on: Mapping[str, int]
    pretrained_on_recordings: int


@dataclass(frozen=True, kw_only=True)
class ScalingSummary(Summary):
    """What came of a scaling experiment.

    Attributes:
        points: What came of each place on the axis.
        trends: Whether an arm rises over it.
        independent: What intervals are over, in words.
        folds: Number of folds; 0 of the recorded split.
        scaling: Its settings, without those that only say how runs are done.
        seconds: Wall-clock time.
        gain_trend: Whether the gain of pretraining rises, if both arms took part.
    """

    axis: str
    points: Sequence[Point]
    trends: Mapping[str, Trend]
    independent: str
    seeds: Sequence[int]
    folds: int
    scaling: ReadOnlyValues
    seconds: float
    gain_trend: Trend | None = None


def run_scaling(scaling: Scaling, *, stage: Stage | None = None) -> ScalingSummary:
    """Run the comparison at each place on the axis.

    Each place has a folder of its own; runs from random weights are shared between places where they are
    the same. Finished runs are not repeated.

    Args:
        scaling: What to compare, and over what.
        stage: As :func:`run_comparison`.

    Raises:
        PoyoSSLError: If the axis, a value, or anything of the comparison is not as it must be.
    """
    began = time.monotonic()
    points = make_points(scaling)
    arms = [arm.name for arm in get_arms(scaling.arms)]
    for _, comparison in points:
        # Before the first run of the first place.
        make_plan(comparison)
    results = [
        run_comparison(comparison, stage=stage and _prefixed(stage, f"{scaling.axis} {label}: "))
        for label, comparison in points
    ]
    last = results[-1].summary
    shared = {arm: _shares_pretraining(scaling, arm, results[0]) for arm in arms}
    gain = None
    if {POYO_SSL, SCRATCH} <= set(arms):
        gain = _trend(_blocks(POYO_SSL, results) - _blocks(SCRATCH, results), scaling, shared[POYO_SSL])
    return ScalingSummary(
        format=3,
        metric=last.metric,
        task=scaling.task,
        kind=last.kind,
        chance=last.chance,
        baselines=results[0].summary.baselines,
        axis=scaling.axis,
        points=[_point(label, result) for (label, _), result in zip(points, results, strict=True)],
        trends={arm: _trend(_blocks(arm, results), scaling, shared[arm]) for arm in arms},
        independent=last.independent,
        seeds=scaling.seeds,
        folds=scaling.folds,
        scaling={name: value for name, value in asdict(scaling).items() if name not in EXECUTION},
        versions=versions(),
        git=git_revision(),
        seconds=round(time.monotonic() - began, 1),
        gain_trend=gain,
    )


def make_points(scaling: Scaling) -> list[tuple[str, Comparison]]:
    """The comparisons along the axis, with their labels.

    Raises:
        RecipeError: If the axis is unknown or a value does not fit it.
    """
    if scaling.axis not in AXES:
        raise RecipeError(f"unknown axis {scaling.axis!r}; there are {', '.join(AXES)}")
    values = scaling.values or AXES[scaling.axis] or _doublings(scaling)
    if len(values) < 2 or len(set(map(str, values))) < len(values):
        raise RecipeError(f"values of an axis must be at least two different ones, not {list(values)}")
    make = {"model": _at_model, "diet": _at_diet, "recordings": _at_recordings, "labels": _at_labels}[scaling.axis]
    names = [field.name for field in dataclasses.fields(Comparison)]
    shared = {name: getattr(scaling, name) for name in names}
    points = []
    for i, value in enumerate(values):
        label = re.sub(r"\b(?:model\.|model=)", "", str(value))
        folder = Path(scaling.out_dir, f"{scaling.axis}_{i}_{re.sub(r'[^A-Za-z0-9.]+', '_', label)}")
        changes = make(scaling, value)
        points.append((label, Comparison(**{**shared, "out_dir": str(folder), **changes})))
    return points


def _at_model(scaling: Scaling, value: Place) -> Values:
    size = str(value).split() if "=" in str(value) else [f"model={value}"]
    return {"pretrain": (*size, *scaling.pretrain), "finetune": (*size, *scaling.finetune)}


def _at_diet(scaling: Scaling, value: Place) -> Values:
    _check_fraction("diet", value)
    shared = str(Path(scaling.out_dir, "scratch"))
    return {"pretrain": (*scaling.pretrain, f"++diet.fraction={float(value)}"), "scratch_dir": shared}


def _at_recordings(scaling: Scaling, value: Place) -> Values:
    order = _pretraining_order(scaling)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= len(order):
        raise RecipeError(f"values of the axis 'recordings' are numbers from 1 to {len(order)}, not {value!r}")
    shared = str(Path(scaling.out_dir, "scratch"))
    return {"recordings": (*order[:value], *scaling.held_out), "scratch_dir": shared}


def _at_labels(scaling: Scaling, value: Place) -> Values:
    _check_fraction("labels", value)
    shared = scaling.pretrain_dir or str(Path(scaling.out_dir, "pretrained"))
    return {"finetune": (*scaling.finetune, f"label_fraction={float(value)}"), "pretrain_dir": shared}


def _check_fraction(axis: str, value: Place) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise RecipeError(f"values of the axis {axis!r} are fractions in (0, 1], not {value!r}")


def _pretraining_order(scaling: Scaling) -> list[str]:
    """The recordings to pretrain on in a random order, always the same, so that fewer are part of more."""
    if not scaling.held_out:
        raise RecipeError("the axis 'recordings' needs recordings that are decoded only: give held_out=[ID,...]")
    names = Recordings(scaling.root, scaling.recordings or None).recording_ids
    pretrained = [name for name in names if name not in scaling.held_out]
    return [pretrained[i] for i in np.random.default_rng(0).permutation(len(pretrained))]


def _doublings(scaling: Scaling) -> tuple[int, ...]:
    n = len(_pretraining_order(scaling))
    return tuple(dict.fromkeys([*(2**i for i in range(n.bit_length()) if 2**i <= n), n]))


def _prefixed(stage: Stage, prefix: str) -> Stage:
    return lambda name, n: stage(prefix + name, n)


def _point(label: str, result: ComparisonResult) -> Point:
    run, summary = result.plan.finetuning[0], result.summary
    cost, of_pretraining = model_cost(run.checkpoint, inputs_of_run(run))

    def flops(spent: Compute) -> float:
        before, after = spent.pretraining, spent.finetuning
        pretraining = before.windows / max(before.runs, 1) * of_pretraining.training_flops
        return pretraining + after.windows / max(after.runs, 1) * cost.training_flops

    return Point(
        label=label,
        cost=cost,
        pretraining_cost=of_pretraining,
        flops_per_decoder={name: flops(arm.compute) for name, arm in summary.arms.items()},
        arms=summary.arms,
        baselines=summary.baselines,
        leaks=summary.leaks,
        pretrained_on=summary.neurons.pretrained_on,
        pretrained_on_recordings=len(summary.neurons.pretrained_on_recordings),
    )


def _blocks(arm: str, results: Sequence[ComparisonResult]) -> np.ndarray:
    """Values (blocks, levels): seeds or folds by places on the axis."""
    return np.array([independent_values(result.summary.arms[arm].runs) for result in results]).T


def _shares_pretraining(scaling: Scaling, arm: str, result: ComparisonResult) -> bool:
    """Whether the blocks of an arm start from one pretraining, and so are no independent samples."""
    pretrained = any(run.arm == arm and run.start for run in result.plan.finetuning)
    return pretrained and not scaling.folds and not scaling.pretrain_each_seed


def _trend(values: np.ndarray, scaling: Scaling, shared: bool) -> Trend:
    return trend(values, folds=bool(scaling.folds), shared=shared)
