"""The main job, end to end: record (or simulate), score, pretrain, fine-tune both arms, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from poyo_ssl_plugin.data import Recordings, simulate
from poyo_ssl_plugin.errors import PoyoSSLError
from poyo_ssl_plugin.experiments import figures
from poyo_ssl_plugin.experiments.compare import Comparison, ComparisonResult, run_comparison
from poyo_ssl_plugin.experiments.measures import measure_of, reference_lines
from poyo_ssl_plugin.experiments.report import write_report
from poyo_ssl_plugin.experiments.settings import read_settings
from poyo_ssl_plugin.compare.statistics import Estimate
from poyo_ssl_plugin.files import write_json
from poyo_ssl_plugin.locks import only_run_in

DEMO_LINES = ("Pvalb_IRES_Cre", "Emx1_IRES_Cre", "Sst_IRES_Cre", "Slc17a7_IRES2_Cre")
DEMO_PRETRAIN = ("trainer.max_steps=600", "trainer.val_every_n_steps=150")
DEMO_FINETUNE = ("trainer.max_steps=300", "trainer.val_every_n_steps=100", "identify_steps=100")


def report_comparison(
    comparison: Comparison, *, title: str, stage: Callable[[str, int], Any] | None = None
) -> dict[str, Any]:
    """Run a comparison and write ``results.json``, ``table.csv``, figures and ``report.html``.

    Args:
        comparison: What to compare.
        title: Heading of the report.
        stage: As :func:`run_comparison`.

    Returns:
        The content of ``results.json``.
    """
    out_dir = Path(comparison.out_dir)
    with only_run_in(out_dir):
        result = run_comparison(comparison, stage=stage)
        result.table.save(out_dir / "table.csv")
        write_json(out_dir / "results.json", result.summary)
        write_report(result.summary, draw_figures(comparison, result), out_dir / "report.html", title=title)
    return result.summary


def draw_figures(comparison: Comparison, result: ComparisonResult) -> dict[str, Path]:
    """Draw the figures of a comparison into ``<out_dir>/figures``; names to files."""
    folder = Path(comparison.out_dir) / "figures"
    summary, measure = result.summary, measure_of(comparison.task)
    arms = {name: (_as_estimate(arm), [run["value"] for run in arm["runs"]]) for name, arm in summary["arms"].items()}
    dataset = Recordings(comparison.root, comparison.recordings or None)
    leaks = any(found["units"] for found in summary["leaks"]["arms"].values())
    neurons = "some neurons that pretraining saw" if leaks else "neurons that pretraining never saw"
    drawn = {
        "predictability": figures.predictability_plane(result.table, folder / "predictability.png"),
        "traces": figures.example_traces(dataset, result.table, folder / "traces.png"),
        "arms": figures.arm_bars(
            arms,
            reference_lines(summary),
            folder / f"{measure.name.lower()}.png",
            title=f"{summary['task']}, {neurons}",
            label=measure.name,
            bounds=measure.bounds,
        ),
        "finetuning": figures.training_curves(
            result.finetuning,
            folder / "finetuning.png",
            metrics=["train/loss", measure.logged] if not comparison.folds else ["train/loss"],
        ),
    }
    watched = ["train/masked", "valid/effective_rank", "valid/latent_std"]
    drawn["pretraining"] = figures.training_curves(
        result.pretraining,
        folder / "pretraining.png",
        metrics=watched if not comparison.folds else watched[:1],
    )
    return drawn


def _as_estimate(arm: dict[str, Any]) -> Estimate:
    low, high = arm["ci95"]
    return Estimate(arm["mean"], low, high, n=len(arm["runs"]))


def run_demo(
    out_dir: Path,
    *,
    n_recordings: int = 6,
    n_seeds: int = 3,
    processes: int = 0,
    stage: Callable[[str, int], Any] | None = None,
) -> dict[str, Any]:
    """Simulate recordings of several animals and compare both arms on the direction of gratings.

    Pretraining sees the predictable neurons of all animals but the last two excitatory ones; these
    are decoded from their unpredictable neurons.

    Args:
        out_dir: Folder of everything that is written.
        n_recordings: Number of recordings, at least 3.
        n_seeds: Seeds of fine-tuning.
        processes: Runs at once; 0 for one per core.
        stage: As :func:`~poyo_ssl_plugin.experiments.compare.run_comparison`.

    Returns:
        The content of ``results.json``.
    """
    if n_recordings < 3:
        raise PoyoSSLError("the demo holds two animals out and needs at least 3 recordings")
    recordings = Path(out_dir) / "recordings"
    names = [f"sim_{i:03d}" for i in range(n_recordings)]
    # Excitatory lines have enough unpredictable neurons to decode from; the others pretrain as well.
    lines = [DEMO_LINES[i % len(DEMO_LINES)] for i in range(n_recordings - 2)] + ["Cux2_CreERT2", "Rorb_IRES2_Cre"]
    simulate(
        recordings,
        n_recordings=n_recordings,
        cre_lines=lines,
        progress=stage and stage("simulating", n_recordings),
    )
    comparison = Comparison(
        root=str(recordings),
        out_dir=str(out_dir),
        task="drifting_gratings",
        held_out=tuple(names[-2:]),
        seeds=tuple(range(n_seeds)),
        pretrain=DEMO_PRETRAIN,
        finetune=DEMO_FINETUNE,
        processes=processes,
    )
    return report_comparison(comparison, title="poyo_ssl_plugin: the demo", stage=stage)


def comparison_from_overrides(overrides: Sequence[str], preset: str | None = None) -> tuple[Comparison, dict[str, Any]]:
    """A comparison from a preset and ``key=value`` texts, as the command line gives them.

    Returns:
        The comparison, and how to simulate its recordings, as :func:`read_settings`.

    Raises:
        RecipeError: If a key is unknown or ``root`` is missing.

    Example:
        >>> comparison_from_overrides(["root=recordings", "seeds=[0,1]", "folds=5"])[0].seeds
        (0, 1)
    """
    return read_settings(Comparison, "compare", preset, overrides)
