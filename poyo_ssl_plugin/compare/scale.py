"""Does it scale? The same comparison over sizes of the model, the diet, the set of recordings, or the labels."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.experiments.arms import POYO_SSL, SCRATCH, get_arms
from poyo_ssl_plugin.experiments.compare import Comparison, ComparisonResult, finetuning_of, run_comparison
from poyo_ssl_plugin.experiments.jobs import Job, run_jobs
from poyo_ssl_plugin.experiments.measures import measure_of
from poyo_ssl_plugin.provenance import git_revision, versions
from poyo_ssl_plugin.compare.statistics import compare_pairs, trend
from poyo_ssl_plugin.experiments.summary import independent_values

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
        axis: ``"model"``, ``"diet"`` (share of each arm's diet), ``"recordings"`` (how many to pretrain on; needs
            ``held_out``) or ``"labels"`` (share of the labelled trials to fine-tune on; all places share one
            pretraining).
        values: Places on the axis, small to large. Of ``model``: names of ``recipes/model``, or overrides separated by
            spaces (``"model=tiny model.dim=48"``). By default five sizes, five shares, or one recording doubled
            until there are no more.
    """

    axis: str = "model"
    values: tuple[Any, ...] = ()


def run_scaling(scaling: Scaling, *, stage: Callable[[str, int], Any] | None = None) -> dict[str, Any]:
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
    results = []
    for label, comparison in points:
        results.append(run_comparison(comparison, stage=stage and _prefixed(stage, f"{scaling.axis} {label}: ")))
    costs = [_cost(scaling, comparison, result) for (_, comparison), result in zip(points, results, strict=True)]
    labels = [label for label, _ in points]
    summary = {
        "format": 2,
        "metric": results[0].summary["metric"],
        "task": scaling.task,
        "chance": results[0].summary["chance"],
        "axis": scaling.axis,
        "points": [_point(label, result, cost) for label, result, cost in zip(labels, results, costs, strict=True)],
        "trends": {arm: _trend(arm, results) for arm in arms},
        "baselines": results[0].summary["baselines"],
        "independent": results[0].summary["independent"],
        "seeds": list(scaling.seeds),
        "folds": scaling.folds,
        "scaling": json.loads(json.dumps(asdict(scaling))),
        "versions": versions(),
        "git": git_revision(),
        "seconds": round(time.monotonic() - began, 1),
    }
    if {POYO_SSL, SCRATCH} <= set(arms):
        summary["gain_trend"] = _gain_trend(results)
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
    _check_share("diet", value)
    shared = str(Path(scaling.out_dir, "scratch"))
    return {"pretrain": (*scaling.pretrain, f"+diet.share={float(value)}"), "scratch_dir": shared}


def _at_recordings(scaling: Scaling, value: Any) -> dict[str, Any]:
    order = _pretraining_order(scaling)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= len(order):
        raise RecipeError(f"values of the axis 'recordings' are numbers from 1 to {len(order)}, not {value!r}")
    shared = str(Path(scaling.out_dir, "scratch"))
    return {"recordings": (*order[:value], *scaling.held_out), "scratch_dir": shared}


def _at_labels(scaling: Scaling, value: Any) -> dict[str, Any]:
    _check_share("labels", value)
    shared = scaling.pretrain_dir or str(Path(scaling.out_dir, "pretrained"))
    return {"finetune": (*scaling.finetune, f"label_share={float(value)}"), "pretrain_dir": shared}


def _check_share(axis: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise RecipeError(f"values of the axis {axis!r} are shares in (0, 1], not {value!r}")


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


def _prefixed(stage: Callable[[str, int], Any], prefix: str) -> Callable[[str, int], Any]:
    return lambda name, n: stage(prefix + name, n)


def _cost(scaling: Scaling, comparison: Comparison, result: ComparisonResult) -> dict[str, Any]:
    """Cost of the model at a place, measured once and kept beside its runs."""
    folder = next(iter(result.finetuning.values()))
    finished = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    job = {
        "folder": str(Path(comparison.out_dir, "runs", "cost")),
        "of": finished["job"],
        "checkpoint": finished["result"]["checkpoint"],
    }
    return run_jobs(cost_job, [job], processes=1)[0]


def cost_job(job: Job) -> dict[str, Any]:
    """Open a fine-tuned model and count what it costs."""
    config, inputs = finetuning_of(job["of"])
    cost, pretrained = measure_of(job["of"]["task"]).cost(config, inputs, job["checkpoint"])
    return {
        **asdict(cost),
        "training_flops": cost.training_flops,
        "pretraining_flops": pretrained.training_flops,
    }


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


def _trend(arm: str, results: Sequence[ComparisonResult]) -> dict[str, Any]:
    return _as_json(trend(_blocks(arm, results)))


def _gain_trend(results: Sequence[ComparisonResult]) -> dict[str, Any]:
    """Whether the gain over from scratch rises, and whether it is there at the largest place."""
    gains = _blocks(POYO_SSL, results) - _blocks(SCRATCH, results)
    last = compare_pairs(_blocks(POYO_SSL, results)[:, -1].tolist(), _blocks(SCRATCH, results)[:, -1].tolist())
    largest = {"mean": last.difference.mean, "ci95": [last.difference.low, last.difference.high], "p": last.p}
    return {**_as_json(trend(gains)), "at_largest": largest}


def _as_json(found: Any) -> dict[str, Any]:
    content = asdict(found)
    slope = content.pop("slope")
    return {**content, "slope": slope["mean"], "slope_ci95": [slope["low"], slope["high"]]}
