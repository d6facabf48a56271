"""The report of a scaling experiment: what it says in words, a table, a figure, and one HTML file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poyo_ssl_plugin.compare import figures
from poyo_ssl_plugin.compare.comparison import Stage
from poyo_ssl_plugin.compare.metrics import metric_of, reference_lines
from poyo_ssl_plugin.compare.report import as_estimate, interval, lines_in_words, made, write_page
from poyo_ssl_plugin.compare.scale import Scaling, run_scaling
from poyo_ssl_plugin.compare.statistics import Estimate
from poyo_ssl_plugin.compare.verdicts import in_brackets
from poyo_ssl_plugin.files import only_run_in, write_json

_AXIS_LABELS = {
    "model": "parameters of the backbone",
    "diet": "fraction of each arm's diet",
    "recordings": "recordings pretrained on",
    "labels": "fraction of the labelled trials",
}


def report_scaling(scaling: Scaling, *, stage: Stage | None = None) -> dict[str, Any]:
    """Run a scaling experiment and write ``results.json``, ``scaling.png`` and ``report.html``."""
    out_dir = Path(scaling.out_dir)
    with only_run_in(out_dir):
        summary = run_scaling(scaling, stage=stage)
        write_json(out_dir / "results.json", summary)
        task = figures.in_words(summary["task"])
        write_page(
            "scaling",
            out_dir / "report.html",
            {"curves": draw_scaling(summary, out_dir / "scaling.png")},
            title=f"Scaling with the {summary['axis']}",
            subtitle=f"Task: {task}, {summary['metric']}. Seeds {', '.join(map(str, summary['seeds']))}.",
            verdicts=scaling_verdicts(summary),
            lines=lines_in_words(summary),
            header=scaling_header(summary),
            rows=scaling_rows(summary),
            independent=summary["independent"],
            made=made(summary),
            settings=json.dumps(summary["scaling"], indent=2),
        )
    return summary


def scaling_header(summary: Mapping[str, Any]) -> list[str]:
    """Names of the columns of :func:`scaling_rows`."""
    measured = metric_of(summary["task"], summary.get("kind")).name
    return ["arm", "at", measured, "95 % interval", "against scratch", "parameters", "GFLOP / window", "PFLOP in all"]


def scaling_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table, formatted: arms, and places within them."""
    rows = []
    for arm in summary["trends"]:
        for point in summary["points"]:
            found, cost = point["arms"][arm], point["cost"]
            against = found["versus_scratch"]
            rows.append(
                [
                    arm,
                    point["label"],
                    f"{found['mean']:.3f}",
                    interval(found["ci95"]),
                    "" if against is None else f"{against['mean']:+.3f}",
                    f"{cost['parameters']:,}",
                    f"{cost['forward_flops'] / 1e9:.3g}",
                    f"{found['flops_per_decoder'] / 1e15:.3g}",
                ]
            )
    for name in _changing_baselines(summary):
        for point in summary["points"]:
            found = point["baselines"][name]
            rows.append([name, point["label"], f"{found['value']:.3f}", interval(found["ci95"]), *[""] * 4])
    return rows


def _changing_baselines(summary: Mapping[str, Any]) -> list[str]:
    """Simple decoders that differ from place to place, as they do with the number of labels."""
    first = summary["points"][0]["baselines"]
    return [name for name in first if any(point["baselines"][name] != first[name] for point in summary["points"])]


def scaling_verdicts(summary: Mapping[str, Any]) -> list[str]:
    """What the numbers support of each arm, one sentence each, and of the gain over from scratch."""
    n = len(summary["points"])
    texts = [f"{arm} {_trend_in_words(found, n)}" for arm, found in summary["trends"].items()]
    gain = summary.get("gain_trend")
    if gain is not None:
        largest = gain["at_largest"]
        text = f"The gain of pretraining over from scratch {_trend_in_words(gain, n)}"
        texts.append(f"{text} At the last place it is {largest['mean']:+.3f}{in_brackets(largest['ci95'])}.")
    return texts


def _trend_in_words(found: Mapping[str, Any], n: int) -> str:
    steps = f"{n - 1 - found['steps_down']} of {n - 1} steps up or level"
    slope = f"{found['slope']:+.4f} per step{in_brackets(found['slope_ci95'])}"
    page = found["page_p"]
    if page is None:
        return f"went {steps}; too few independent runs or places for a test ({slope})."
    if page < 0.05:
        word = "rises at every step" if found["monotone"] else f"rises overall, with {steps}"
        return f"{word} (Page's test, p = {page:.2g}; {slope})."
    return f"does not reliably rise: {steps} (Page's test, p = {page:.2g}; {slope})."


def draw_scaling(summary: Mapping[str, Any], path: Path) -> Path:
    """Draw the curves of all arms over the axis."""
    points = summary["points"]
    places = {
        "model": lambda point: point["cost"]["backbone"],
        "diet": lambda point: float(point["label"]),
        "recordings": lambda point: point["pretrained_on_recordings"],
        "labels": lambda point: float(point["label"]),
    }[summary["axis"]]
    curves = {arm: [as_estimate(point["arms"][arm]) for point in points] for arm in summary["trends"]}
    lines = reference_lines(summary)
    decoders = _changing_baselines(summary)
    for name in decoders:
        del lines[name]
        found = [point["baselines"][name] for point in points]
        curves[name] = [Estimate(row["value"], row["ci95"][0], row["ci95"][1], n=row["n_test"]) for row in found]
    where = [places(point) for point in points]
    names = [
        f"{point['label']}\n{_in_short(place)}" if summary["axis"] == "model" else point["label"]
        for point, place in zip(points, where, strict=True)
    ]
    metric = metric_of(summary["task"], summary.get("kind"))
    return figures.scaling_curves(
        curves,
        where,
        lines,
        path,
        label=_AXIS_LABELS[summary["axis"]],
        names=names,
        measured=metric.name,
        bounds=metric.bounds,
        decoders=decoders,
    )


def _in_short(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} k"
