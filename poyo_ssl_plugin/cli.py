"""The command ``poyo-ssl``."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from poyo_ssl_plugin import __version__
from poyo_ssl_plugin.compare.progress import Stages
from poyo_ssl_plugin.errors import PoyoSSLError, RecordingError, Terminated, terminate

# What commands need of torch, Lightning or matplotlib they import themselves: --help is to be quick.

console = Console()
errors = Console(stderr=True)

EXIT_INPUT = 2

_timeout_option = click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    help="Seconds that HDF5 may take to look through a file, in a process apart, before the file counts as damaged; "
    "0 trusts it.",
)

_ray_option = click.option(
    "--ray", is_flag=True, help="Do the runs on a Ray cluster (RAY_ADDRESS), or without one on all cores here."
)


class _Commands(click.Group):
    """A group that tells a user's mistakes in one line, with exit code 2, and nothing else so."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except PoyoSSLError as error:
            errors.print(f"[bold red]error:[/] {_plain(str(error))}", highlight=False, soft_wrap=True)
            sys.exit(EXIT_INPUT)
        except Terminated as stop:
            errors.print(_plain(stop.message or "stopped on SIGTERM; start again to go on"), highlight=False)
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="poyo-ssl")
@click.option("-v", "--verbose", is_flag=True, help="Also say what is usually left out.")
def main(verbose: bool) -> None:
    """Self-supervised pretraining for neural recordings, on torch_brain.

    \b
    The way from recordings to a decoder:
      poyo-ssl score DATASET_DIR --out table.csv         how predictable is each neuron?
      poyo-ssl pretrain data.root=DATASET_DIR diet.table=table.csv
      poyo-ssl finetune data.root=DATASET_DIR diet.table=table.csv init_from=runs/pretrain/checkpoints/last.ckpt
      poyo-ssl evaluate runs/finetune_drifting_gratings/seed0/checkpoints/last.ckpt

    'poyo-ssl demo' does all of it on simulated recordings and writes a report.
    """
    level = logging.DEBUG if verbose else logging.INFO
    handler = RichHandler(console=errors, show_path=False, show_time=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("poyo_ssl_plugin").setLevel(level)
    # Training saves its state first and has a handler of its own; all else just cleans up after itself.
    signal.signal(signal.SIGTERM, terminate)


@main.command()
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option("--recordings", default=6, show_default=True, help="Number of recordings, each of another animal.")
@click.option("--units", default=80, show_default=True, help="Neurons per recording.")
@click.option("--minutes", default=14.0, show_default=True, help="Length of a recording.")
@click.option("--cre-line", "cre_lines", multiple=True, help="Cre line of the recordings in turn; repeatable.")
@click.option("--seed", default=0, show_default=True)
def simulate(out_dir: Path, recordings: int, units: int, minutes: float, cre_lines: tuple[str, ...], seed: int) -> None:
    """Write simulated recordings in the layout of the Allen Brain Observatory to OUT_DIR.

    Drifting gratings, natural movie one and spontaneous activity of animals of several Cre lines, with
    train, valid and test splits. The generative model is calibrated to real recordings.
    """
    from poyo_ssl_plugin.data import simulate as write

    with _Bar("simulating") as progress:
        write(
            out_dir,
            n_recordings=recordings,
            n_units=units,
            minutes=minutes,
            cre_lines=cre_lines or None,
            seed=seed,
            progress=progress,
        )
    console.print(f"{recordings} recordings of {units} neurons in {out_dir}")


@main.command()
@click.argument("dataset_dir", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Table to write: .csv or .parquet.")
@click.option(
    "--split", default="train", show_default=True, help="Only the times of this split are read; 'all' for all."
)
@click.option("--field", default="calcium_traces.df_over_f", show_default=True, help="Traces, or 'spikes'.")
@click.option("--recording", "recordings", multiple=True, metavar="ID", help="Only this recording; repeatable.")
@click.option("--bin-width", default=0.1, show_default=True, help="Bins to count spikes in, s.")
@click.option("--statistic", "statistics", multiple=True, help="A registered statistic to add; repeatable.")
@click.option(
    "--skewness", default=3.51, show_default=True, help="Threshold of the diet, for the count and the figure."
)
@click.option("--kurtosis", default=22.62, show_default=True, help="Threshold of the diet.")
@click.option("--pearson", is_flag=True, help="Kurtosis without subtracting 3.")
@click.option(
    "--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True, help="On a damaged recording."
)
@_timeout_option
@click.option(
    "--workers", type=click.IntRange(1), help="Recordings at once; by default up to 4, or all Ray has room for."
)
@click.option("--ray", is_flag=True, help="Score on a Ray cluster (RAY_ADDRESS), or without one on all cores here.")
def score(
    dataset_dir: Path,
    out: Path,
    split: str,
    field: str,
    recordings: tuple[str, ...],
    bin_width: float,
    statistics: tuple[str, ...],
    skewness: float,
    kurtosis: float,
    pearson: bool,
    on_error: str,
    timeout: float,
    workers: int | None,
    ray: bool,
) -> None:
    """Measure how predictable every neuron of the recordings in DATASET_DIR is.

    Writes the table and, beside it, a figure of the plane of skewness and kurtosis. Samples outside the
    split are never read.
    """
    from poyo_ssl_plugin.compare.figures import example_traces, predictability_plane
    from poyo_ssl_plugin.data import Recordings
    from poyo_ssl_plugin.data.check import responsive_recordings
    from poyo_ssl_plugin.predictability import Diet, score_dataset
    from poyo_ssl_plugin.predictability.on_ray import on_ray

    dataset = Recordings(dataset_dir, recordings or None)
    good, hanging = responsive_recordings(dataset, on_error=on_error, timeout=timeout)
    dataset = Recordings(dataset_dir, good)
    with _Bar("scoring") as progress:
        table = score_dataset(
            dataset,
            split=None if split == "all" else split,
            field=field,
            bin_width=bin_width,
            statistics=statistics,
            fisher=not pearson,
            workers=workers,
            on_error="raise" if on_error == "stop" else "skip",
            on=on_ray if ray else None,
            progress=progress,
        )
    if table.provenance.get("skipped"):
        dataset = Recordings(dataset_dir, table.recordings)
    if hanging:
        table.provenance["skipped"] = {**hanging, **table.provenance.get("skipped", {})}
    diet = Diet.from_thresholds(table, skewness, kurtosis)
    table.save(out)
    figure = predictability_plane(table, out.with_suffix(".png"), skewness=skewness, kurtosis=kurtosis)
    written = [out, figure]
    if "." in field:
        written.append(example_traces(dataset, table, out.with_name(f"{out.stem}_traces.png")))
    rows = Table("recording", "Cre line", "neurons", "predictable", "not scored")
    for name in table.recordings:
        of_recording = table["recording_id"] == name
        lines = sorted(set(table["cre_line"][of_recording].tolist()))
        n, ok = int(of_recording.sum()), int(table.ok[of_recording].sum())
        rows.add_row(name, ", ".join(lines), str(n), str(diet.count(name)), str(n - ok) if n > ok else "")
    console.print(rows)
    for name, reason in table.provenance.get("skipped", {}).items():
        console.print(f"skipped {name}: {_plain(reason)}", highlight=False)
    console.print(
        f"{len(diet)} of {len(table)} neurons are predictable (skewness <= {skewness:g} and kurtosis <= {kurtosis:g})"
    )
    console.print("wrote " + ", ".join(str(path) for path in written), highlight=False)


@main.command()
@click.argument("dataset_dir", type=click.Path(path_type=Path))
@click.option("--recording", "recordings", multiple=True, metavar="ID", help="Only this recording; repeatable.")
@click.option("--field", help="Traces, or 'spikes'; by default what each recording has.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="With 'skip' damaged recordings are listed and no error.",
)
@_timeout_option
def check(dataset_dir: Path, recordings: tuple[str, ...], field: str | None, on_error: str, timeout: float) -> None:
    """Can every recording in DATASET_DIR be read? Says so of each, and what is wrong with the others.

    Opens each recording, its activity and its splits, as training does before its first step. Exits with
    code 2 if any is damaged.
    """
    from poyo_ssl_plugin.data import Recordings
    from poyo_ssl_plugin.data.check import examine_recordings

    dataset = Recordings(dataset_dir, recordings or None)
    examined = dict(examine_recordings(dataset, field=field, timeout=timeout))
    rows = Table("recording", "state")
    for name, error in examined.items():
        rows.add_row(name, "good" if error is None else _plain(str(error)))
    console.print(rows)
    damaged = [name for name, error in examined.items() if error is not None]
    if damaged and on_error == "stop":
        raise RecordingError(
            f"{len(damaged)} of {len(examined)} recordings are damaged: {', '.join(damaged)}; prepare them again, or "
            "leave them out (score --on-error skip, data.on_error=skip)"
        )


def _recipe_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """What 'pretrain' and 'finetune' have in common: a recipe, a folder of recipes, and overrides."""
    function = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(function)
    function = click.option(
        "--recipe-dir",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        help="Folder of your own recipes.",
    )(function)
    function = click.option("--show", is_flag=True, help="Print the composed recipe and stop.")(function)
    return function


@main.command()
@click.option("--recipe", help="Another recipe: 'paper'.")
@_recipe_command
def pretrain(recipe: str | None, recipe_dir: Path | None, show: bool, overrides: tuple[str, ...]) -> None:
    """Pretrain a model on the predictable neurons.

    \b
    Keys that most runs set (--show prints all, with their values):
      data.root=DIR          folder of recordings           diet.table=TABLE   from 'poyo-ssl score'
      diet=cre_lines         another diet                   model=medium       tiny small medium large xlarge
      ssl=paper              another objective              trainer.max_steps=5000
      out_dir=runs/mine      where to write                 resume=true        go on with the run there

    \b
    Example:
      poyo-ssl pretrain data.root=recordings diet.table=table.csv model=medium
    """
    from poyo_ssl_plugin.configuration import compose_recipe

    config = compose_recipe("pretrain", recipe, overrides, recipe_dir)
    if show:
        return _show(config)
    from poyo_ssl_plugin.compare.single_run import run_pretraining

    _one_speaks_for_all()
    summary = run_pretraining(config)
    rows = Table("held-out", "before", "after")
    for name, after in summary["metrics"].items():
        if name.startswith("valid/"):
            before = summary["initial"].get(name)
            rows.add_row(name.removeprefix("valid/"), "" if before is None else f"{before:.4f}", f"{after:.4f}")
    console.print(rows)
    console.print(f"diet {summary['diet']}", highlight=False)
    console.print(f"wrote {summary['checkpoint']} and {config.out_dir}/results.json", highlight=False)


@main.command()
@click.option(
    "--recipe",
    default="drifting_gratings",
    show_default=True,
    help="drifting_gratings, natural_movie, natural_movie_frames, scratch, paper.",
)
@_recipe_command
def finetune(recipe: str, recipe_dir: Path | None, show: bool, overrides: tuple[str, ...]) -> None:
    """Fine-tune a pretrained model on the other neurons, over several seeds, and test it.

    \b
    Keys that most runs set (--show prints all, with their values):
      data.root=DIR    diet.table=TABLE    init_from=CHECKPOINT    seeds=[0,1,2]
      identify_steps=0 (train all weights from the first step)     trainer.max_steps=800

    \b
    Examples:
      poyo-ssl finetune --recipe natural_movie data.root=recordings diet.table=table.csv \\
          init_from=runs/pretrain/checkpoints/last.ckpt
      poyo-ssl finetune --recipe scratch task=natural_movie data.root=recordings diet.table=table.csv
      poyo-ssl finetune --recipe natural_movie_frames frames.protocol=frames data.root=recordings \\
          diet.table=table.csv init_from=runs/pretrain/checkpoints/last.ckpt
    """
    from poyo_ssl_plugin.configuration import compose_recipe

    config = compose_recipe("finetune", recipe, overrides, recipe_dir)
    if show:
        return _show(config)
    from poyo_ssl_plugin.compare.single_run import run_finetuning

    _one_speaks_for_all()
    with Stages(errors) as stage:
        summary = run_finetuning(config, stage=stage)
    _print_results(summary)
    console.print(f"wrote {config.out_dir}/results.json", highlight=False)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the result as JSON.")
def evaluate(checkpoint: Path, overrides: tuple[str, ...], out: Path | None) -> None:
    """Test a fine-tuned CHECKPOINT on the test split of its recordings.

    Overrides change keys of its recipe, for example data.root=elsewhere.
    """
    from poyo_ssl_plugin.compare.single_run import run_evaluation

    summary = run_evaluation(checkpoint, overrides)
    _print_results(summary)
    if out is not None:
        from poyo_ssl_plugin.files import write_json

        write_json(out, summary)
        console.print(f"wrote {out}", highlight=False)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.safetensors")
def export(checkpoint: Path, out: Path) -> None:
    """Write the weights of CHECKPOINT as safetensors, without what only training needs.

    The recipe, the vocabularies, and the neurons and times it was trained on go along as JSON in the file's
    metadata. 'init_from=OUT.safetensors' and 'poyo-ssl evaluate' take it like any checkpoint.
    """
    from poyo_ssl_plugin.models import read_checkpoint, write_safetensors

    write_safetensors(read_checkpoint(checkpoint), out)
    console.print(f"wrote {out}", highlight=False)


@main.command()
@click.option("--out", "out_dir", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option("--recordings", default=6, show_default=True, help="Number of simulated recordings.")
@click.option("--seeds", default=3, show_default=True, help="Fine-tuning seeds per arm.")
@click.option("--processes", default=0, help="Runs at once; by default one per core.")
@_ray_option
def demo(out_dir: Path, recordings: int, seeds: int, processes: int, ray: bool) -> None:
    """Everything on simulated recordings: simulate, score, pretrain, fine-tune, compare, report.

    Pretrains on the predictable neurons of some animals, then decodes the direction of gratings from the
    unpredictable neurons of other animals, pretrained and from scratch. Takes a few minutes on two cores.
    """
    from poyo_ssl_plugin.compare.demo import run_demo

    with Stages(errors) as stage:
        summary = run_demo(out_dir, n_recordings=recordings, n_seeds=seeds, processes=processes, ray=ray, stage=stage)
    _print_results(summary)
    console.print(f"report: {out_dir / 'report.html'}   results: {out_dir / 'results.json'}", highlight=False)


@main.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--preset",
    help="Settings to start from: small (seconds), report (an hour), session (one recording), frames.",
)
@click.option("--list-arms", is_flag=True, help="Print the arms and stop.")
@_ray_option
def compare(overrides: tuple[str, ...], preset: str | None, list_arms: bool, ray: bool) -> None:
    """Ways of pretraining against training from scratch on your recordings, with a report.

    Every arm decodes the same neurons with the same budget, seeds and test trials. By default the arms are
    'pretrained' (POYO-SSL) and 'scratch'; 'poyo-ssl compare --list-arms' prints all. Finished runs are kept:
    start it again with one more arm or seed and only that is run.

    \b
    Keys:
      root=DIR               recordings (a preset simulates them if it is not given)
      out_dir=DIR            where to write                      task=drifting_gratings (or natural_movie,
                             natural_movie_frames, which reconstructs frames and is measured by SSIM)
      arms=[pretrained,reverse,scratch]                          seeds=[0,1,2]
      held_out=[ID,...]      decode these recordings, pretrain on the others
      decode_fraction=0.5    without held_out: decode half of the unpredictable neurons, leave the rest to the arms
      folds=N                hold out repeats of the stimulus    recordings=[ID,...]
      pretrain_each_seed=true    one pretraining per seed        processes=N
      num_cpus=1 num_gpus=0.5    what a run asks Ray for
      field=spikes           score and decode spikes, with model=poyo in pretrain and in finetune
      allow_leak=true        accept that pretraining saw decoded neurons or test time; the results say where
      pretrain=[KEY=VALUE,...]   finetune=[KEY=VALUE,...]        overrides of those recipes, for all arms

    \b
    Examples:
      poyo-ssl compare --preset small
      poyo-ssl compare root=recordings task=natural_movie folds=5 'pretrain=[trainer.max_steps=2000]'
      poyo-ssl compare root=recordings held_out=[501574836] 'arms=[pretrained,reverse,mixed,supervised,scratch]'
      poyo-ssl compare --preset report root=recordings held_out=[501574836,501836392]
    """
    if list_arms:
        return _print_arms()
    from poyo_ssl_plugin.compare.report import report_comparison
    from poyo_ssl_plugin.compare.settings import comparison_from_overrides, prepare_recordings

    comparison, recordings = comparison_from_overrides([*overrides, *_on_ray(ray)], preset)
    with Stages(errors) as stage:
        prepare_recordings(comparison.root, recordings, stage("simulating", 0))
        summary = report_comparison(comparison, title="Pretraining against training from scratch", stage=stage)
    _print_results(summary)
    console.print(f"report: {comparison.out_dir}/report.html", highlight=False)


@main.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--preset", help="Settings to start from: small (seconds), report (an hour).")
@_ray_option
def scale(overrides: tuple[str, ...], preset: str | None, ray: bool) -> None:
    """Does it scale? The comparison of 'poyo-ssl compare' over models, diets, recordings or labels.

    Writes a curve per arm with 95 % intervals, a test for a rise at every step, and what each model costs
    (parameters, floating-point operations). Finished runs are kept: start it again to go on.

    \b
    Keys, besides those of 'poyo-ssl compare':
      axis=model             values=[tiny,small,medium,large,xlarge], or values=['model=tiny model.dim=48',...]
      axis=diet              values=[0.1,0.25,0.5,0.75,1.0]: fractions of each arm's neurons
      axis=recordings        values=[1,2,4,8]: how many to pretrain on; needs held_out
      axis=labels            values=[0.125,0.25,0.5,1.0]: fractions of the labelled trials to fine-tune on

    \b
    Examples:
      poyo-ssl scale --preset small
      poyo-ssl scale axis=model root=recordings held_out=[501574836,501836392]
      poyo-ssl scale axis=diet root=recordings task=natural_movie folds=5 'arms=[pretrained,scratch]'
      poyo-ssl scale --preset report axis=recordings
    """
    from poyo_ssl_plugin.compare.scale import Scaling
    from poyo_ssl_plugin.compare.scale_report import report_scaling, scaling_header, scaling_rows, scaling_verdicts
    from poyo_ssl_plugin.compare.settings import prepare_recordings, read_settings

    scaling, recordings = read_settings(Scaling, "scale", preset, [*overrides, *_on_ray(ray)])
    with Stages(errors) as stage:
        prepare_recordings(scaling.root, recordings, stage("simulating", 0))
        summary = report_scaling(scaling, stage=stage)
    rows = Table(*scaling_header(summary), title=f"{summary['task']} over {summary['axis']}")
    for row in scaling_rows(summary):
        rows.add_row(*row)
    console.print(rows)
    for text in scaling_verdicts(summary):
        console.print(_plain(text), highlight=False)
    console.print(f"report: {scaling.out_dir}/report.html", highlight=False)


@main.command()
@click.option("--undo", is_flag=True, help="Remove what this command wrote.")
def register(undo: bool) -> None:
    """Make 'brainsets prepare allen_brain_observatory' and 'brainsets list' find this package's pipeline.

    Writes one link into the folder of torch_brain's (or brainsets') own pipelines. Without it,
    brainsets prepare "$(poyo-ssl pipeline-dir)" --local does the same.
    """
    from poyo_ssl_plugin.register import register_pipeline, unregister_pipeline

    console.print(unregister_pipeline() if undo else register_pipeline(), highlight=False, markup=False, soft_wrap=True)


@main.command("pipeline-dir")
def pipeline_dir() -> None:
    """Print the folder of the pipeline, for 'brainsets prepare "$(poyo-ssl pipeline-dir)" --local'."""
    from poyo_ssl_plugin.register import PIPELINE_DIR

    click.echo(PIPELINE_DIR)


@main.command()
def doctor() -> None:
    """Say what is installed, what will be used, and what to do about what is missing."""
    from poyo_ssl_plugin.doctor import diagnose

    rows = Table("what", "found", "to do")
    for finding in diagnose():
        rows.add_row(finding.what, _plain(finding.found), _plain(finding.remedy))
    console.print(rows)


def _one_speaks_for_all() -> None:
    """Of several processes that train together, only the first says what is not an error."""
    from poyo_ssl_plugin.distributed import is_main_process

    if not is_main_process():
        logging.getLogger("poyo_ssl_plugin").setLevel(logging.ERROR)
        console.quiet = True


def _show(config: Any) -> None:
    from omegaconf import OmegaConf

    click.echo(OmegaConf.to_yaml(config), nl=False)


def _print_results(summary: dict[str, Any]) -> None:
    if "protocol" in summary:
        return _print_frames(summary)
    from poyo_ssl_plugin.compare.metrics import metric_of
    from poyo_ssl_plugin.compare.report import result_rows
    from poyo_ssl_plugin.compare.verdicts import arm_verdicts, leak_warnings, verdict

    metric = metric_of(summary["task"])
    over = [f"95 %, runs and {metric.samples}", f"95 %, {metric.samples} alone"]
    rows = Table("arm", metric.name, *over, "runs", title=summary["task"])
    for row in result_rows(summary):
        rows.add_row(*row)
    console.print(rows)
    if "pretrained_minus_scratch" in summary:
        console.print(verdict(summary), highlight=False)
    others = [text for text in arm_verdicts(summary) if not text.startswith("pretrained (")]
    for text in [*others, *(leak_warnings(summary) if "neurons" in summary else [])]:
        console.print(_plain(text), highlight=False)


def _on_ray(ray: bool) -> list[str]:
    return ["ray=true"] if ray else []


def _print_arms() -> None:
    from poyo_ssl_plugin.compare.arms import ARMS

    rows = Table("arm", "what it is", "pretraining", "fine-tuning")
    for arm in ARMS.values():
        pretrain = "none" if arm.pretrain is None else "\n".join(arm.pretrain) or "the recipe 'pretrain'"
        rows.add_row(arm.name, arm.title, _plain(pretrain), _plain("\n".join(arm.finetune)))
    console.print(rows)


def _print_frames(summary: dict[str, Any]) -> None:
    """How like the true frames those of each arm and baseline are."""
    from poyo_ssl_plugin.experiments.frames import result_rows

    rows = Table("arm", "SSIM", "95 % interval", "PSNR (dB)", "correlation", title=f"{summary['metric']}")
    for row in result_rows(summary):
        rows.add_row(*row.values())
    console.print(rows)


class _Bar:
    """A progress bar around an iterator of known length; nothing where nobody looks."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.progress = _progress()

    def __enter__(self) -> Callable[[Iterator[Any], int], Iterable[Any]]:
        self.progress.start()
        return lambda items, total: self.progress.track(items, total=total, description=self.label)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors,
        disable=not errors.is_terminal,
    )


def _plain(text: str) -> str:
    """Text with brackets that rich would take for markup made harmless."""
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
