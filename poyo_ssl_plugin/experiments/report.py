"""The report of a comparison: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from poyo_ssl_plugin.experiments.measures import measure_of
from poyo_ssl_plugin.files import atomic_path
from poyo_ssl_plugin.training.leaks import TOLERANCE

STYLE_SHEET = """
  body { font: 16px/1.5 system-ui, sans-serif; color: #1d2126; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
  table { border-collapse: collapse; margin: .8rem 0; } th, td { padding: .3rem .9rem .3rem 0; text-align: left; }
  thead th { border-bottom: 2px solid #1d2126; } tbody td { border-bottom: 1px solid #d8dbe0; }
  img { max-width: 100%; } figure { margin: 1rem 0; } figcaption, .quiet { color: #5a616b; font-size: .9rem; }
  .verdict { background: #eef6f5; border-left: 4px solid #1b7f79; padding: .8rem 1rem; }
  details pre { background: #f5f6f8; padding: .8rem; overflow-x: auto; font-size: .8rem; }
"""

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="quiet">{{ subtitle }}</p>
<p class="verdict">{{ verdict }}</p>

<h2>{{ metric }}</h2>
<table>
<thead><tr><th>arm</th><th>{{ measured }}</th><th>95 % interval</th><th>runs</th></tr></thead>
<tbody>
{% for arm in arms %}
<tr><td>{{ arm.name }}</td><td>{{ arm.mean }}</td><td>{{ arm.interval }}</td><td>{{ arm.runs }}</td></tr>
{% endfor %}</tbody>
</table>
{% if against %}
<h2>Against training from scratch</h2>
<table>
<thead><tr><th>arm</th><th>difference</th><th>95 % interval</th><th>relative gain</th><th>p (paired t)</th>
<th>p (Holm)</th><th>over {{ samples }}</th></tr></thead>
<tbody>
{% for row in against %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
<p class="quiet">Pairs share seed and fold; they are {{ independent }}. Holm's p allows for the number of arms.
"Over {{ samples }}" takes the runs as given and asks about other {{ samples }}.</p>
<ul>{% for text in verdicts %}<li>{{ text }}</li>
{% endfor %}</ul>
{% endif %}
{{ figure("arms", "Bars: mean of the runs (dots), 95 % interval. Lines: " + lines + ".") }}

<h2>Which neurons</h2>
<p>{{ neurons }}</p>
{% for text in leaks %}<p class="verdict">{{ text }}</p>
{% endfor %}
{{ figure("predictability", "Dashed: the thresholds of the diet. Scores come from training time only.") }}
{{ figure("traces", "Typical neurons of both kinds.") }}

<h2>Training</h2>
<p>{{ health }}</p>
{{ figure("pretraining", "Pretraining. Rank and spread of held-out latents tell whether it is alive.") }}
{{ figure("finetuning", "Fine-tuning of all arms.") }}

{% if compute %}
<h2>Compute spent</h2>
<table>
<thead><tr><th>arm</th><th>neurons pretrained on</th><th>pretraining steps</th><th>windows</th><th>seconds</th>
<th>fine-tuning steps</th><th>windows</th><th>seconds</th></tr></thead>
<tbody>
{% for row in compute %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
<p class="quiet">Sums over all runs of an arm; seconds are wall-clock time of runs that may have shared a machine.</p>
{% endif %}

<h2>How it was made</h2>
<table><tbody>
{% for name, value in made.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</tbody></table>
<details><summary>Full configuration</summary><pre>{{ recipes }}</pre></details>
</body>
</html>
"""


def write_report(summary: Mapping[str, Any], figures: Mapping[str, Path], path: str | Path, *, title: str) -> Path:
    """Write the report.

    Args:
        summary: The content of ``results.json``.
        figures: Name (``arms``, ``predictability``, ``traces``, ``pretraining``, ``finetuning``) to
            PNG file; a missing one is left out.
        path: Where to write.
        title: Heading of the report.
    """
    environment = jinja2.Environment(autoescape=True)

    def figure(name: str, caption: str) -> str:
        if name not in figures:
            return Markup("")
        data = base64.b64encode(Path(figures[name]).read_bytes()).decode()
        html = '<figure><img alt="{}" src="data:image/png;base64,{}"><figcaption>{}</figcaption></figure>'
        return Markup(html).format(name, data, caption)  # noqa: S704 -- format() escapes what it fills in

    page = environment.from_string(_TEMPLATE).render(title=title, style=STYLE_SHEET, figure=figure, **_texts(summary))
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def verdict(summary: Mapping[str, Any]) -> str:
    """What the numbers support, in words: of POYO-SSL if it took part, else of every arm."""
    if "pretrained_minus_scratch" not in summary:
        return " ".join(arm_verdicts(summary)) or "There is no run from scratch to compare with."
    gain = summary["pretrained_minus_scratch"]
    low, high = gain["ci95"]
    arms = summary["arms"]
    chance = "" if summary["chance"] is None else f", chance {summary['chance']:.3f}"
    pretrained, scratch = arms["pretrained"]["mean"], arms["scratch"]["mean"]
    text = (
        f"Pretrained {pretrained:.3f}, from scratch {scratch:.3f}{chance}: a difference of "
        f"{gain['mean']:+.3f} (95 % interval {low:+.3f} to {high:+.3f}). "
    )
    text += _supported(arms["pretrained"]["versus_scratch"], "Pretraining")
    best = max(summary["baselines"].items(), key=lambda item: item[1]["value"], default=None)
    if best is not None:
        name, value = best[0], best[1]["value"]
        word = "above" if pretrained > value else "not above"
        text += f" The pretrained model is {word} the best simple decoder ({name}, {value:.3f})."
    return text


def arm_verdicts(summary: Mapping[str, Any]) -> list[str]:
    """What the numbers support of each arm against training from scratch, one sentence or two each."""
    return [
        _arm_verdict(name, arm, summary["chance"])
        for name, arm in summary["arms"].items()
        if arm.get("versus_scratch") is not None
    ]


def leak_warnings(summary: Mapping[str, Any]) -> list[str]:
    """A sentence for every arm whose test was seen before: its numbers say less than they seem to."""
    texts = []
    for name, found in summary["leaks"]["arms"].items():
        seen = []
        if found["units"]:
            seen.append(f"pretraining saw {found['units']} of the decoded neurons")
        if found["test_seconds"] > TOLERANCE:
            seen.append(f"pretraining saw {found['test_seconds']:.0f} s of the test time")
        if found["scored_seconds"] > TOLERANCE:
            seen.append(f"neurons were scored on {found['scored_seconds']:.0f} s of the test time")
        if seen:
            texts.append(f"LEAK, allowed by allow_leak=true: {name}: {', '.join(seen)}.")
    return texts


def _arm_verdict(name: str, arm: Mapping[str, Any], chance: float | None) -> str:
    against = arm["versus_scratch"]
    low, high = against["ci95"]
    text = f"{name} ({arm['title']}): {against['mean']:+.3f} against from scratch ({low:+.3f} to {high:+.3f}). "
    if name == "shuffled" and chance is not None:
        reaches = arm["ci95"][0] > chance
        return text + (
            f"It is above chance ({arm['mean']:.3f} against {chance:.3f}): labels leak, and no other number here holds."
            if reaches
            else f"It is at chance ({arm['mean']:.3f} against {chance:.3f}), as a control must be."
        )
    return text + _supported(against, "It")


def _supported(against: Mapping[str, Any], what: str) -> str:
    """What a comparison with training from scratch supports: an effect needs its interval and Holm's p."""
    low, high = against["ci95"]
    if against["n"] < 2:
        return "One run tells nothing about its spread."
    if not (low > 0 or high < 0):
        return f"These runs do not tell whether {what.lower()} helped."
    if against["p_holm"] is not None and against["p_holm"] < 0.05:
        return f"{what} {'helped' if low > 0 else 'hurt'}{_relative(against)}."
    word = "help" if low > 0 else "hurt"
    return f"{what} seems to {word}, but not beyond what so many arms give by chance (Holm)."


def _relative(against: Mapping[str, Any]) -> str:
    if against["relative_gain"] is None:
        return ""
    text = f", by {100 * against['relative_gain']:+.0f} % relative"
    if against["relative_ci95"] is not None:
        low, high = against["relative_ci95"]
        text += f" (95 % interval {100 * low:+.0f} to {100 * high:+.0f} %)"
    return text


def comparison_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table of arms against from scratch, formatted."""
    rows = []
    for name, arm in summary["arms"].items():
        against = arm.get("versus_scratch")
        if against is None:
            continue
        gain = against["relative_gain"]
        trials = against["over_trials"]
        rows.append(
            [
                name,
                f"{against['mean']:+.3f}",
                f"{against['ci95'][0]:+.3f} to {against['ci95'][1]:+.3f}",
                "" if gain is None else f"{100 * gain:+.1f} %",
                _p(against["p"]),
                _p(against["p_holm"]),
                f"{trials['mean']:+.3f} ({trials['ci95'][0]:+.3f} to {trials['ci95'][1]:+.3f})",
            ]
        )
    return rows


def compute_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table of compute, formatted."""
    rows = []
    for name, arm in summary["arms"].items():
        if "compute" not in arm:
            continue
        neurons = summary["neurons"]["pretrained_on"].get(name)
        cells = [name, "" if neurons is None else str(neurons)]
        for part in ("pretraining", "finetuning"):
            spent = arm["compute"][part]
            cells += (
                [f"{spent['steps']}", f"{spent['windows']}", f"{spent['seconds']:.0f}"] if spent["runs"] else [""] * 3
            )
        rows.append(cells)
    return rows


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def result_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of the table of results: arms, baselines and, if there is any, chance, formatted."""
    measure = measure_of(summary["task"])
    rows = [
        {
            "name": name,
            "mean": f"{arm['mean']:.3f}",
            "interval": _interval(arm["ci95"], measure.bounds),
            "runs": ", ".join(f"{run['value']:.3f}" for run in arm["runs"]),
        }
        for name, arm in summary["arms"].items()
    ]
    rows += [
        {
            "name": name,
            "mean": f"{value['value']:.3f}",
            "interval": _interval(value["ci95"], measure.bounds),
            "runs": f"{value['n_test']} {measure.tested}",
        }
        for name, value in summary["baselines"].items()
    ]
    if summary["chance"] is None:
        return rows
    return [*rows, {"name": "chance", "mean": f"{summary['chance']:.3f}", "interval": "", "runs": ""}]


def lines_in_words(summary: Mapping[str, Any]) -> str:
    """What the lines in the figures of arms are."""
    return "simple decoders" if summary["chance"] is None else "chance and simple decoders"


def _interval(interval: Sequence[float], bounds: tuple[float, float]) -> str:
    """Student's interval knows nothing of the bounds of what was measured; what is shown does."""
    low, high = max(interval[0], bounds[0]), min(interval[1], bounds[1])
    return f"{low:.3f} to {high:.3f}"


def _texts(summary: Mapping[str, Any]) -> dict[str, Any]:
    neurons, measure = summary["neurons"], measure_of(summary["task"])
    folds = f", {summary['folds']} folds over repeats" if summary["folds"] else ""
    shared = set(neurons["pretrained_on_recordings"]) & set(neurons["decoded_recordings"])
    return {
        "subtitle": f"Task: {summary['task']}. Seeds {', '.join(map(str, summary['seeds']))}{folds}.",
        "verdict": verdict(summary),
        "metric": summary["metric"][0].upper() + summary["metric"][1:],
        "measured": measure.name,
        "samples": measure.samples,
        "lines": lines_in_words(summary),
        "arms": result_rows(summary),
        "neurons": (
            f"{neurons['predictable']} of {neurons['scored']} neurons are predictable. Pretraining saw the predictable "
            f"neurons of {len(neurons['pretrained_on_recordings'])} recordings{_diets(summary)}; all arms decode from "
            f"{neurons['decoded_from']} others of {len(neurons['decoded_recordings'])} "
            + ("recordings, none of them seen in pretraining." if not shared else "recordings (the same ones).")
        ),
        "health": _health(summary),
        "leaks": leak_warnings(summary),
        "against": comparison_rows(summary),
        "compute": compute_rows(summary),
        "verdicts": arm_verdicts(summary),
        "independent": summary["independent"],
        "made": {
            **summary["versions"],
            "git revision": summary["git"] or "not in a checkout",
            "pretraining": f"{sum(run['seconds'] for run in summary['pretraining']):.0f} s of runs",
            "in all": f"{summary['seconds']:.0f} s",
        },
        "recipes": json.dumps(summary["recipes"], indent=2),
    }


def _diets(summary: Mapping[str, Any]) -> str:
    """Which arms pretrained on what else, if any did."""
    others = [f"{name} {n}" for name, n in summary["neurons"]["pretrained_on"].items() if name != "pretrained"]
    return f" (neurons of the other arms: {', '.join(others)})" if others else ""


def _health(summary: Mapping[str, Any]) -> str:
    runs = [run for run in summary["pretraining"] if run["arm"] == "pretrained"] or summary["pretraining"]
    if not runs:
        return "No arm was pretrained."
    run = runs[0]
    before, after = run["initial"], run["metrics"]
    if "valid/effective_rank" not in before:
        return "No validation time: the health of the representation was not measured."
    return (
        f"Over pretraining the effective rank of held-out latents went from {before['valid/effective_rank']:.1f} to "
        f"{after['valid/effective_rank']:.1f}, their input-dependent standard deviation from "
        f"{before['valid/latent_std']:.3f} to {after['valid/latent_std']:.3f}."
    )
