"""The report of a comparison: tables, and one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from poyo_ssl_plugin.compare import figures
from poyo_ssl_plugin.compare.arms import POYO_SSL
from poyo_ssl_plugin.compare.comparison import ComparisonResult, Stage, run_comparison
from poyo_ssl_plugin.compare.protocol import Comparison
from poyo_ssl_plugin.compare.results import (
    ComparisonSummary,
    NeuronCounts,
    PretrainingRun,
    Summary,
    TestSummary,
    to_json,
)
from poyo_ssl_plugin.compare.verdicts import arm_verdicts, leak_warnings, verdict
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.files import atomic_path, only_run_in, write_json

_TEMPLATES = Path(__file__).with_name("templates")


def report_comparison(comparison: Comparison, *, title: str, stage: Stage | None = None) -> ComparisonSummary:
    """Run a comparison and write ``results.json``, ``table.csv``, figures and ``report.html``.

    Args:
        comparison: What to compare.
        title: Heading of the report.
        stage: As :func:`run_comparison`.

    Returns:
        What came of it, the content of ``results.json``.
    """
    out_dir = Path(comparison.out_dir)
    with only_run_in(out_dir):
        result = run_comparison(comparison, stage=stage)
        result.table.save(out_dir / "table.csv")
        write_json(out_dir / "results.json", to_json(result.summary))
        write_report(result.summary, _draw(comparison, result), out_dir / "report.html", title=title)
    return result.summary


def _draw(comparison: Comparison, result: ComparisonResult) -> dict[str, Path | None]:
    """Draw the figures of a comparison into ``<out_dir>/figures``; names to files."""
    folder, summary = Path(comparison.out_dir, "figures"), result.summary
    metric = summary.measured
    leaks = any(found.units for found in summary.leaks.arms.values())
    neurons = "some neurons that pretraining saw" if leaks else "neurons that pretraining never saw"
    return {
        "predictability": figures.predictability_plane(result.table, folder / "predictability.png"),
        "traces": figures.example_traces(
            Recordings(comparison.root, comparison.recordings or None), result.table, folder / "traces.png"
        ),
        "arms": figures.arm_bars(
            summary.arms,
            summary.reference_lines,
            folder / f"{metric.name.lower()}.png",
            title=f"{figures.in_words(summary.task)}, {neurons}",
            label=metric.name,
            bounds=metric.bounds,
        ),
        "finetuning": figures.training_curves(
            result.finetuning, folder / "finetuning.png", metrics=["train/loss", f"valid/{metric.key}"]
        ),
        "pretraining": figures.training_curves(
            result.pretraining,
            folder / "pretraining.png",
            metrics=["train/masked", "valid/effective_rank", "valid/latent_std"],
        ),
    }


def write_page(template: str, path: str | Path, images: Mapping[str, Path | None], **texts: object) -> Path:
    """Fill in a template and write it.

    Args:
        template: Name of a file in ``templates``.
        path: Where to write.
        images: Name to PNG file; a missing one is left out of the page.
        **texts: What the template asks for.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    encoded = {name: base64.b64encode(file.read_bytes()).decode() for name, file in images.items() if file is not None}
    page = environment.get_template(f"{template}.html.j2").render(figures=encoded, **texts)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def write_report(
    summary: ComparisonSummary, images: Mapping[str, Path | None], path: str | Path, *, title: str
) -> Path:
    """Write the report of a comparison.

    Args:
        summary: What came of it.
        images: Name (``arms``, ``predictability``, ``traces``, ``pretraining``, ``finetuning``) to PNG file.
        path: Where to write.
        title: Heading of the report.
    """
    metric = summary.measured
    folds = f", {summary.folds} folds over repeats" if summary.folds else ""
    return write_page(
        "comparison",
        path,
        images,
        title=title,
        subtitle=f"Task: {figures.in_words(summary.task)}. Seeds {', '.join(map(str, summary.seeds))}{folds}.",
        verdict=verdict(summary),
        metric=summary.metric[0].upper() + summary.metric[1:],
        measured=metric.name,
        samples=metric.samples,
        beside=[figures.in_words(name) for name in summary.beside],
        lines=lines_in_words(summary.chance),
        arms=result_rows(summary),
        neurons=_neurons(summary.neurons),
        health=_health(summary.pretraining),
        leaks=leak_warnings(summary.leaks),
        against=comparison_rows(summary),
        compute=compute_rows(summary),
        verdicts=arm_verdicts(summary),
        independent=summary.independent,
        made={**made(summary), "in all": f"{summary.seconds:.0f} s"},
        settings=json.dumps(summary.recipes, indent=2),
    )


def made(summary: Summary) -> dict[str, str]:
    """What a result was made with."""
    return {**summary.versions, "git revision": summary.git or "not in a checkout"}


def result_rows(summary: TestSummary) -> list[list[str]]:
    """Rows of the table of results.

    Name, mean, interval over runs and trials, over trials alone, what is measured beside it, runs.
    """
    rows = []
    for name, arm in summary.arms.items():
        runs = ", ".join(f"{run.value:.3f}" for run in arm.runs)
        beside = [_mean_beside([run.further for run in arm.runs], key) for key in summary.beside]
        rows.append([name, f"{arm.mean:.3f}", interval(arm.ci95), interval(arm.trials_ci95), *beside, runs])
    for name, found in summary.baselines.items():
        tested = f"{found.n_test} {summary.measured.tested}"
        beside = [_mean_beside([found.further], key) for key in summary.beside]
        rows.append([name, f"{found.value:.3f}", "", interval(found.ci95), *beside, tested])
    if summary.chance is not None:
        rows.append(["chance", f"{summary.chance:.3f}", "", "", *[""] * len(summary.beside), ""])
    return rows


def _mean_beside(further: Sequence[Mapping[str, float]], name: str) -> str:
    """The mean of a number that is measured beside the metric; empty where it is not."""
    values = [of_run[name] for of_run in further if name in of_run]
    return f"{sum(values) / len(values):.3f}" if values else ""


def comparison_rows(summary: ComparisonSummary) -> list[list[str]]:
    """Rows of the table of arms against from scratch."""
    rows = []
    for name, arm in summary.arms.items():
        if (against := arm.versus_scratch) is not None:
            gain, trials = against.relative_gain, against.over_trials
            relative = "" if gain is None else f"{100 * gain:+.1f} %"
            over_trials = f"{trials.mean:+.3f} ({interval(trials.ci95, '+')})"
            p = [in_short(against.p), in_short(against.p_holm)]
            rows.append([name, f"{against.mean:+.3f}", interval(against.ci95, "+"), relative, *p, over_trials])
    return rows


def compute_rows(summary: ComparisonSummary) -> list[list[str]]:
    """Rows of the table of compute."""
    rows = []
    for name, arm in summary.arms.items():
        cells = [name, str(summary.neurons.pretrained_on.get(name, ""))]
        for spent in (arm.compute.pretraining, arm.compute.finetuning):
            said = [f"{spent.steps}", f"{spent.windows}", f"{spent.seconds:.0f}"]
            cells += said if spent.runs else [""] * 3
        rows.append(cells)
    return rows


def lines_in_words(chance: float | None) -> str:
    """What the lines in the figures of arms are."""
    return "simple decoders" if chance is None else "chance and simple decoders"


def interval(ci95: Sequence[float] | None, sign: str = "") -> str:
    """An interval as text; empty if there is none."""
    return "" if ci95 is None else f"{ci95[0]:{sign}.3f} to {ci95[1]:{sign}.3f}"


def in_short(p: float | None) -> str:
    """A p value as text.

    Example:
        >>> in_short(0.0312), in_short(1e-9), in_short(None)
        ('0.031', '< 0.0001', '')
    """
    if p is None:
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _neurons(neurons: NeuronCounts) -> str:
    others = [f"{name} {n}" for name, n in neurons.pretrained_on.items() if name != POYO_SSL]
    diets = f" (neurons of the other arms: {', '.join(others)})" if others else ""
    shared = set(neurons.pretrained_on_recordings) & set(neurons.decoded_recordings)
    return (
        f"{neurons.predictable} of {neurons.scored} neurons are predictable. Pretraining saw the predictable "
        f"neurons of {len(neurons.pretrained_on_recordings)} recordings{diets}; all arms decode from "
        f"{neurons.decoded_from} others of {len(neurons.decoded_recordings)} "
        + ("recordings (the same ones)." if shared else "recordings, none of them seen in pretraining.")
    )


def _health(pretraining: Sequence[PretrainingRun]) -> str:
    runs = [run for run in pretraining if run.arm == POYO_SSL] or pretraining
    if not runs:
        return "No arm was pretrained."
    before, after = runs[0].initial, runs[0].metrics
    if "valid/effective_rank" not in before:
        return "No validation time: the health of the representation was not measured."
    return (
        f"Over pretraining the effective rank of held-out latents went from {before['valid/effective_rank']:.1f} to "
        f"{after['valid/effective_rank']:.1f}, their input-dependent standard deviation from "
        f"{before['valid/latent_std']:.3f} to {after['valid/latent_std']:.3f}."
    )
