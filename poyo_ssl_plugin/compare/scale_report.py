"""The report of a scaling experiment: what it says in words, a table, a figure, and one HTML file."""

from __future__ import annotations

import json
from pathlib import Path

from poyo_ssl_plugin.compare import figures
from poyo_ssl_plugin.compare.arms import POYO_SSL
from poyo_ssl_plugin.compare.comparison import Stage
from poyo_ssl_plugin.compare.estimates import Estimate, Trend
from poyo_ssl_plugin.compare.report import interval, lines_in_words, made, write_page
from poyo_ssl_plugin.compare.results import ArmScores, to_json
from poyo_ssl_plugin.compare.scale import Point, Scaling, ScalingSummary, run_scaling
from poyo_ssl_plugin.compare.verdicts import in_brackets
from poyo_ssl_plugin.files import write_json
from poyo_ssl_plugin.locks import only_run_in

_AXIS_LABELS = {
    "model": "parameters of the backbone",
    "diet": "fraction of each arm's diet",
    "recordings": "recordings pretrained on",
    "labels": "fraction of the labelled trials",
}


def report_scaling(scaling: Scaling, *, stage: Stage | None = None) -> ScalingSummary:
    """Run a scaling experiment and write ``results.json``, ``scaling.png`` and ``report.html``."""
    out_dir = Path(scaling.out_dir)
    with only_run_in(out_dir):
        summary = run_scaling(scaling, stage=stage)
        write_json(out_dir / "results.json", to_json(summary))
        task = figures.in_words(summary.task)
        write_page(
            "scaling",
            out_dir / "report.html",
            {"curves": draw_scaling(summary, out_dir / "scaling.png")},
            title=f"Scaling with the {summary.axis}",
            subtitle=f"Task: {task}, {summary.metric}. Seeds {', '.join(map(str, summary.seeds))}.",
            verdicts=scaling_verdicts(summary),
            lines=lines_in_words(summary.chance),
            header=scaling_header(summary),
            rows=scaling_rows(summary),
            independent=summary.independent,
            made=made(summary),
            settings=json.dumps(summary.scaling, indent=2),
        )
    return summary


def scaling_header(summary: ScalingSummary) -> list[str]:
    """Names of the columns of :func:`scaling_rows`."""
    measured = summary.measured.name
    return ["arm", "at", measured, "95 % interval", "against scratch", "parameters", "GFLOP / window", "PFLOP in all"]


def scaling_rows(summary: ScalingSummary) -> list[list[str]]:
    """Rows of the table, formatted: arms, and places within them."""
    rows = []
    for arm in summary.trends:
        for point in summary.points:
            found, cost = point.arms[arm], point.cost
            against = found.versus_scratch
            rows.append(
                [
                    arm,
                    point.label,
                    f"{found.mean:.3f}",
                    interval(found.ci95),
                    "" if against is None else f"{against.mean:+.3f}",
                    f"{cost.parameters:,}",
                    f"{cost.forward_flops / 1e9:.3g}",
                    f"{point.flops_per_decoder[arm] / 1e15:.3g}",
                ]
            )
    for name in _changing_baselines(summary):
        for point in summary.points:
            decoder = point.baselines[name]
            rows.append([name, point.label, f"{decoder.value:.3f}", interval(decoder.ci95), *[""] * 4])
    return rows


def _changing_baselines(summary: ScalingSummary) -> list[str]:
    """Simple decoders that differ from place to place, as they do with the number of labels."""
    first = summary.points[0].baselines
    return [name for name in first if any(point.baselines[name] != first[name] for point in summary.points)]


def scaling_verdicts(summary: ScalingSummary) -> list[str]:
    """What the numbers support of each arm, one sentence each, and of the gain over from scratch."""
    n = len(summary.points)
    texts = [f"{arm} {_trend_in_words(found, n)}" for arm, found in summary.trends.items()]
    if summary.gain_trend is not None:
        text = f"The gain of pretraining over from scratch {_trend_in_words(summary.gain_trend, n)}"
        if (largest := summary.points[-1].arms[POYO_SSL].versus_scratch) is not None:
            text += f" At the last place it is {largest.mean:+.3f}{in_brackets(largest.ci95)}."
        texts.append(text)
    return texts


def _trend_in_words(found: Trend, n: int) -> str:
    steps = f"{n - 1 - found.steps_down} of {n - 1} steps up or level"
    slope = f"{found.slope:+.4f} per step{in_brackets(found.slope_ci95)}"
    page = found.page_p
    if page is None:
        return f"went {steps}; too few independent runs or places for a test ({slope})."
    if page < 0.05:
        word = "rises at every step" if found.monotone else f"rises overall, with {steps}"
        return f"{word} (Page's test, p = {page:.2g}; {slope})."
    return f"does not reliably rise: {steps} (Page's test, p = {page:.2g}; {slope})."


def draw_scaling(summary: ScalingSummary, path: Path) -> Path:
    """Draw the curves of all arms over the axis."""
    points, lines = summary.points, summary.reference_lines
    curves: dict[str, list[ArmScores | Estimate]] = {
        arm: [point.arms[arm] for point in points] for arm in summary.trends
    }
    decoders = _changing_baselines(summary)
    for name in decoders:
        del lines[name]
        found = [point.baselines[name] for point in points]
        curves[name] = [Estimate(decoder.value, decoder.ci95, decoder.n_test) for decoder in found]
    where = [_place(summary.axis, point) for point in points]
    names = [
        f"{point.label}\n{_in_short(place)}" if summary.axis == "model" else point.label
        for point, place in zip(points, where, strict=True)
    ]
    return figures.scaling_curves(
        curves,
        where,
        lines,
        path,
        label=_AXIS_LABELS[summary.axis],
        names=names,
        measured=summary.measured.name,
        bounds=summary.measured.bounds,
        decoders=decoders,
    )


def _place(axis: str, point: Point) -> float:
    if axis == "model":
        return point.cost.backbone
    return point.pretrained_on_recordings if axis == "recordings" else float(point.label)


def _in_short(count: float) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} k"
