"""Does it scale? The same comparison over sizes of the model, the diet, the set of recordings, or the labels."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poyo_ssl_plugin.compare.arms import POYO_SSL, SCRATCH, get_arms
from poyo_ssl_plugin.compare.comparison import ComparisonResult, Stage, run_comparison
from poyo_ssl_plugin.compare.metrics import model_cost
from poyo_ssl_plugin.compare.plan import make_plan
from poyo_ssl_plugin.compare.protocol import EXECUTION, Comparison
from poyo_ssl_plugin.compare.results import independent_values
from poyo_ssl_plugin.compare.run import inputs_of, recipe_of
from poyo_ssl_plugin.compare.statistics import trend
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.provenance import git_revision, versions

AXES: dict[str, tuple[Any, ...]] = {
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
    values: tuple[Any, ...] = ()


def run_scaling(scaling: Scaling, *, stage: Stage | None = None) -> dict[str, Any]:
    """Run the comparison at each place on the axis; returns the content of ``results.json``.

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
    costs = [_cost(result) for result in results]
    labels = [label for label, _ in points]
    shared = {arm: _shares_pretraining(scaling, arm, results) for arm in arms}
    summary = {
        "format": 3,
        "metric": results[0].summary["metric"],
        "task": scaling.task,
        "chance": results[0].summary["chance"],
        "axis": scaling.axis,
        "points": [_point(label, result, cost) for label, result, cost in zip(labels, results, costs, strict=True)],
        "trends": {arm: _trend(_blocks(arm, results), scaling, shared[arm]) for arm in arms},
        "baselines": results[0].summary["baselines"],
        "independent": results[0].summary["independent"],
        "seeds": list(scaling.seeds),
        "folds": scaling.folds,
        "scaling": json.loads(json.dumps({k: v for k, v in asdict(scaling).items() if k not in EXECUTION})),
        "versions": versions(),
        "git": git_revision(),
        "seconds": round(time.monotonic() - began, 1),
    }
    if {POYO_SSL, SCRATCH} <= set(arms):
        summary["gain_trend"] = _gain_trend(results, scaling, shared[POYO_SSL])
    return summary


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


def _at_model(scaling: Scaling, value: Any) -> dict[str, Any]:
    size = str(value).split() if "=" in str(value) else [f"model={value}"]
    return {"pretrain": (*size, *scaling.pretrain), "finetune": (*size, *scaling.finetune)}


def _at_diet(scaling: Scaling, value: Any) -> dict[str, Any]:
    _check_fraction("diet", value)
    shared = str(Path(scaling.out_dir, "scratch"))
    return {"pretrain": (*scaling.pretrain, f"++diet.fraction={float(value)}"), "scratch_dir": shared}


def _at_recordings(scaling: Scaling, value: Any) -> dict[str, Any]:
    order = _pretraining_order(scaling)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= len(order):
        raise RecipeError(f"values of the axis 'recordings' are numbers from 1 to {len(order)}, not {value!r}")
    shared = str(Path(scaling.out_dir, "scratch"))
    return {"recordings": (*order[:value], *scaling.held_out), "scratch_dir": shared}


def _at_labels(scaling: Scaling, value: Any) -> dict[str, Any]:
    _check_fraction("labels", value)
    shared = scaling.pretrain_dir or str(Path(scaling.out_dir, "pretrained"))
    return {"finetune": (*scaling.finetune, f"label_fraction={float(value)}"), "pretrain_dir": shared}


def _check_fraction(axis: str, value: Any) -> None:
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


def _cost(result: ComparisonResult) -> dict[str, Any]:
    """What the model costs at a place."""
    run = result.plan.finetuning[0]
    config = recipe_of(run)
    inputs = inputs_of(config, None if run.fold is None else (str(run.stimulus), run.folds, run.fold))
    cost, pretrained = model_cost(run.checkpoint, inputs)
    return {**asdict(cost), "training_flops": cost.training_flops, "pretraining_flops": pretrained.training_flops}


def _point(label: str, result: ComparisonResult, cost: dict[str, Any]) -> dict[str, Any]:
    summary = result.summary
    per_window = {"pretraining": cost["pretraining_flops"], "finetuning": cost["training_flops"]}
    arms = {}
    for name, arm in summary["arms"].items():
        spent = arm["compute"]
        # One pretraining (if any) and one fine-tuning: what it takes to get one decoder.
        arms[name] = {key: arm[key] for key in ("mean", "ci95", "runs", "compute")} | {
            "versus_scratch": arm.get("versus_scratch"),
            "flops_per_decoder": sum(
                part["windows"] / max(part["runs"], 1) * per_window[stage] for stage, part in spent.items()
            ),
        }
    return {
        "label": label,
        "cost": cost,
        "arms": arms,
        "baselines": summary["baselines"],
        "leaks": summary["leaks"],
        "pretrained_on": summary["neurons"]["pretrained_on"],
        "pretrained_on_recordings": len(summary["neurons"]["pretrained_on_recordings"]),
    }


def _blocks(arm: str, results: Sequence[ComparisonResult]) -> np.ndarray:
    """Values (blocks, levels): seeds or folds by places on the axis."""
    return np.array([independent_values(result.summary["arms"][arm]["runs"]) for result in results]).T


def _shares_pretraining(scaling: Scaling, arm: str, results: Sequence[ComparisonResult]) -> bool:
    """Whether the blocks of an arm start from one pretraining, and so are no independent samples."""
    pretrained = any(run.arm == arm and run.start for run in results[0].plan.finetuning)
    return pretrained and not scaling.folds and not scaling.pretrain_each_seed


def _gain_trend(results: Sequence[ComparisonResult], scaling: Scaling, shared: bool) -> dict[str, Any]:
    """Whether the gain over from scratch rises, and what it is at the last place."""
    gains = _blocks(POYO_SSL, results) - _blocks(SCRATCH, results)
    last = results[-1].summary["pretrained_minus_scratch"]
    return {
        **_trend(gains, scaling, shared),
        "at_largest": {key: last[key] for key in ("mean", "ci95", "p")},
    }


def _trend(values: np.ndarray, scaling: Scaling, shared: bool) -> dict[str, Any]:
    found = trend(values, folds=bool(scaling.folds), shared=shared)
    return {**asdict(found), "slope": found.slope.mean, "slope_ci95": found.slope.ci95}
