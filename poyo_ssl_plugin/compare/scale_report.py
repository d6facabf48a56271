"""The report of a scaling experiment: what it says in words, a table, a figure, and one HTML file."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from poyo_ssl_plugin.experiments import figures
from poyo_ssl_plugin.experiments.measures import measure_of, reference_lines
from poyo_ssl_plugin.experiments.report import STYLE_SHEET, lines_in_words
from poyo_ssl_plugin.experiments.scale import Scaling, run_scaling
from poyo_ssl_plugin.compare.statistics import Estimate
from poyo_ssl_plugin.files import atomic_path, write_json

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ title }}</title><style>{{ style }}</style></head>
<body>
<h1>{{ title }}</h1>
<p class="quiet">{{ subtitle }}</p>
{% for text in verdicts %}<p class="verdict">{{ text }}</p>
{% endfor %}
<figure><img alt="curves" src="data:image/png;base64,{{ figure }}">
<figcaption>Mean and 95 % interval of each arm. Lines: {{ lines }}.</figcaption></figure>
<h2>Numbers</h2>
<table><thead><tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>
<p class="quiet">Floating-point operations are those of the matrix products of one pretraining, if any, and one
fine-tuning (backward pass: twice the forward pass). Intervals are over {{ independent }}.</p>
<h2>How it was made</h2>
<table><tbody>{% for name, value in made.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</tbody></table>
<details><summary>Settings</summary><pre>{{ settings }}</pre></details>
</body>
</html>
"""

_AXIS_LABELS = {
    "model": "parameters of the backbone",
    "diet": "share of each arm's diet",
    "recordings": "recordings pretrained on",
    "labels": "share of the labelled trials",
}


def report_scaling(scaling: Scaling, *, stage: Callable[[str, int], Any] | None = None) -> dict[str, Any]:
    """Run a scaling experiment and write ``results.json``, ``scaling.png`` and ``report.html``."""
    summary = run_scaling(scaling, stage=stage)
    out_dir = Path(scaling.out_dir)
    write_json(out_dir / "results.json", summary)
    figure = draw_scaling(summary, out_dir / "scaling.png")
    page = jinja2.Environment(autoescape=True).from_string(_TEMPLATE)
    text = page.render(
        title=f"Scaling with the {summary['axis']}",
        style=STYLE_SHEET,
        subtitle=f"Task: {summary['task']}, {summary['metric']}. Seeds {', '.join(map(str, summary['seeds']))}.",
        verdicts=scaling_verdicts(summary),
        figure=base64.b64encode(figure.read_bytes()).decode(),
        lines=lines_in_words(summary),
        header=scaling_header(summary),
        rows=scaling_rows(summary),
        independent=summary["independent"],
        made={**summary["versions"], "git revision": summary["git"] or "not in a checkout"},
        settings=json.dumps(summary["scaling"], indent=2),
    )
    with atomic_path(out_dir / "report.html") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return summary


def scaling_header(summary: Mapping[str, Any]) -> list[str]:
    """Names of the columns of :func:`scaling_rows`."""
    measured = measure_of(summary["task"]).name
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
                    f"{found['ci95'][0]:.3f} to {found['ci95'][1]:.3f}",
                    "" if against is None else f"{against['mean']:+.3f}",
                    f"{cost['parameters']:,}",
                    f"{cost['forward_flops'] / 1e9:.3g}",
                    f"{found['flops_per_decoder'] / 1e15:.3g}",
                ]
            )
    for name in _changing_baselines(summary):
        for point in summary["points"]:
            found = point["baselines"][name]
            low, high = found["ci95"]
            rows.append([name, point["label"], f"{found['value']:.3f}", f"{low:.3f} to {high:.3f}", *[""] * 4])
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
        low, high = largest["ci95"]
        text = f"The gain of pretraining over from scratch {_trend_in_words(gain, n)}"
        texts.append(f"{text} At the last place it is {largest['mean']:+.3f} ({low:+.3f} to {high:+.3f}).")
    return texts


def _trend_in_words(found: Mapping[str, Any], n: int) -> str:
    low, high = found["slope_ci95"]
    steps = f"{n - 1 - found['steps_down']} of {n - 1} steps up or level"
    slope = f"{found['slope']:+.4f} per step, 95 % interval {low:+.4f} to {high:+.4f}"
    page = found["page_p"]
    if page is None:
        return f"went {steps}; too few runs or places for a test ({slope})."
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
    curves = {arm: [_estimate(point["arms"][arm]) for point in points] for arm in summary["trends"]}
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
    measure = measure_of(summary["task"])
    return figures.scaling_curves(
        curves,
        where,
        lines,
        path,
        label=_AXIS_LABELS[summary["axis"]],
        names=names,
        measured=measure.name,
        bounds=measure.bounds,
        decoders=decoders,
    )


def _in_short(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} k"


def _estimate(found: Mapping[str, Any]) -> Estimate:
    low, high = found["ci95"]
    return Estimate(found["mean"], low, high, n=len(found["runs"]))
