"""Commands about recordings: simulate, check, score."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poyo_ssl_plugin.cli.terminal import errors, print_table, say, wrote
from poyo_ssl_plugin.errors import OutputError, RecordingError

if TYPE_CHECKING:
    from poyo_ssl_plugin.predictability import Diet, PredictabilityTable

_path = click.Path(path_type=Path)
_recording = click.option("--recording", "recordings", multiple=True, metavar="ID", help="Only this one; repeatable.")
_on_error = click.option(
    "--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True, help="On a damaged recording."
)
_timeout = click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    help="Seconds that HDF5 may take to look through a file, in a process apart, before the file counts as damaged; "
    "0 trusts it.",
)


@click.command()
@click.argument("out_dir", type=_path)
@click.option(
    "--recordings", "n_recordings", default=6, show_default=True, help="Number of recordings, each of another animal."
)
@click.option("--units", "n_units", default=80, show_default=True, help="Neurons per recording.")
@click.option("--minutes", default=14.0, show_default=True, help="Length of a recording.")
@click.option("--cre-line", "cre_lines", multiple=True, help="Cre line of the recordings in turn; repeatable.")
@click.option("--seed", default=0, show_default=True)
@click.option("--force", is_flag=True, help="Write into a folder that is not empty, over recordings of the same name.")
def simulate(out_dir: Path, n_recordings: int, n_units: int, force: bool, **options: Any) -> None:
    """Write simulated recordings to OUT_DIR, in the layout of the Allen Brain Observatory.

    Drifting gratings, natural movie one and spontaneous activity of animals of several Cre lines, with
    train, valid and test splits. The generative model is calibrated to real recordings.

    \b
    Example:
      poyo-ssl simulate recordings --recordings 2
    """
    from poyo_ssl_plugin.compare.progress import Stages
    from poyo_ssl_plugin.data import simulate as write

    if not force and out_dir.is_dir() and any(out_dir.iterdir()):
        raise OutputError(f"{out_dir}: is not empty; choose another folder, or pass --force to write into it")
    with Stages(errors) as stage:
        progress = stage("simulating", n_recordings)
        write(out_dir, n_recordings=n_recordings, n_units=n_units, progress=progress, **options)
    say(f"{n_recordings} recordings of {n_units} neurons in {out_dir}")
    say(f"next: poyo-ssl score {out_dir} --out table.csv")


@click.command()
@click.argument("dataset_dir", type=_path)
@_recording
@click.option("--field", help="Traces, or 'spikes'; by default what each recording has.")
@_on_error
@_timeout
def check(dataset_dir: Path, recordings: tuple[str, ...], field: str | None, on_error: str, timeout: float) -> None:
    """What do the recordings in DATASET_DIR hold, and can all be read?

    Opens each recording, its activity and its splits, as training does before its first step. Exits with
    code 2 if any cannot be used; with --on-error skip it only lists them.

    \b
    Example:
      poyo-ssl check recordings
    """
    from poyo_ssl_plugin.data import Recordings
    from poyo_ssl_plugin.data.inventory import take_inventory
    from poyo_ssl_plugin.data.supported import obstacles

    held, damaged = take_inventory(Recordings(dataset_dir, recordings or None), field=field, timeout=timeout)
    header = ("recording", "minutes", "Hz", "neurons", "splits (min)", "domains (min)", "stimuli", "tasks")
    for reason in damaged.values():
        say(reason)
    if held:
        print_table(header, (found.row() for found in held))
        for obstacle in obstacles(Recordings(dataset_dir, [found.recording for found in held])):
            say(f"note: {obstacle}")
    if damaged and on_error == "stop":
        raise RecordingError(
            f"{len(damaged)} of {len(held) + len(damaged)} recordings cannot be used: {', '.join(damaged)}; prepare "
            "them again, or leave them out (score --on-error skip, data.on_error=skip)"
        )
    if held:
        say(f"next: poyo-ssl score {dataset_dir} --out table.csv")


@click.command()
@click.argument("dataset_dir", type=_path)
def tasks(dataset_dir: Path) -> None:
    """What the recordings in DATASET_DIR let you decode, and what to write for it.

    \b
    Example:
      poyo-ssl tasks recordings
    """
    from poyo_ssl_plugin.data import TASKS, Recordings, Task, tasks_of
    from poyo_ssl_plugin.data.supported import obstacles

    dataset = Recordings(dataset_dir)
    found: Counter[Task] = Counter()
    for name in dataset.recording_ids:
        found.update(tasks_of(dataset.get_recording(name)))
    rows = []
    for task, count in found.items():
        kind = "" if task.kind == "classification" else f", kind: {task.kind}"
        declared = f"'task={{name: {task.name}, source: {task.source}, label: {task.label}{kind}}}'"
        n_classes = f", {len(task.classes)} classes" if task.classes else ""
        write = f"task={task.name}" if task.name in TASKS else declared
        rows.append((task.name, f"{task.kind}{n_classes}", f"{task.source}.{task.label}", count, write))
    if not found:
        return say(f"{dataset_dir}: its recordings have no labels; import them with --trials or --series")
    header = ("task", "kind", "from", "recordings", "write")
    print_table(header, rows, title=f"{len(dataset.recording_ids)} recordings")
    for obstacle in obstacles(dataset):
        say(f"note: {obstacle}")


@click.command()
@click.argument("dataset_dir", type=_path)
@click.option("--out", type=_path, required=True, help="Table to write: .csv or .parquet.")
@click.option("--split", default="train", show_default=True, help="Only its times are read; 'all' for all.")
@click.option("--field", default="calcium_traces.df_over_f", show_default=True, help="Traces, or 'spikes'.")
@_recording
@click.option("--bin-width", default=0.1, show_default=True, help="Bins to count spikes in, s.")
@click.option("--statistic", "statistics", multiple=True, help="A registered statistic to add; repeatable.")
@click.option("--skewness", default=3.51, show_default=True, help="Threshold, for the count and the figure.")
@click.option("--kurtosis", default=22.62, show_default=True, help="Threshold, for the count and the figure.")
@click.option("--pearson", is_flag=True, help="Kurtosis without subtracting 3.")
@_on_error
@_timeout
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
    skewness: float,
    kurtosis: float,
    pearson: bool,
    on_error: str,
    timeout: float,
    ray: bool,
    **options: Any,
) -> None:
    """Measure how predictable every neuron of DATASET_DIR is.

    Writes the table, how it was made (table.provenance.json), and a figure of skewness against kurtosis.
    Samples outside the split are never read.

    \b
    Example:
      poyo-ssl score recordings --out table.csv
    """
    from poyo_ssl_plugin.compare.figures import example_traces, predictability_plane
    from poyo_ssl_plugin.compare.progress import Stages
    from poyo_ssl_plugin.data import Recordings
    from poyo_ssl_plugin.data.check import responsive_recordings
    from poyo_ssl_plugin.predictability import Diet, doubt, score_dataset
    from poyo_ssl_plugin.predictability.on_ray import on_ray

    _check_table_path(out)
    good, hanging = responsive_recordings(
        Recordings(dataset_dir, recordings or None), on_error=on_error, timeout=timeout
    )
    with Stages(errors) as stage:
        table = score_dataset(
            Recordings(dataset_dir, good),
            split=None if split == "all" else split,
            field=field,
            fisher=not pearson,
            on_error="raise" if on_error == "stop" else "skip",
            on=on_ray if ray else None,
            progress=stage("scoring", len(good)),
            **options,
        )
    skipped = {**hanging, **table.provenance.get("skipped", {})}
    if skipped:
        table.provenance["skipped"] = skipped
    diet = Diet.from_thresholds(table, skewness, kurtosis)
    table.save(out)
    written = [out, predictability_plane(table, out.with_suffix(".png"), skewness=skewness, kurtosis=kurtosis)]
    if "." in field:
        scored = Recordings(dataset_dir, table.recordings)
        written.append(example_traces(scored, table, out.with_name(f"{out.stem}_traces.png")))
    _print_scores(table, diet)
    for name, reason in skipped.items():
        say(f"skipped {name}: {reason}")
    limits = f"skewness <= {skewness:g} and kurtosis <= {kurtosis:g}"
    say(f"{len(diet)} of {len(table)} neurons are predictable ({limits})")
    warning = doubt(diet)
    if warning:
        say(f"warning: {warning}")
    wrote(*written)
    choice = "diet=quantile " if warning else ""
    counts = "" if "." in field else f" data.field={field} data.bin_width={options['bin_width']:g}"
    say(f"next: poyo-ssl pretrain data.root={dataset_dir} {choice}diet.table={out}{counts}")


def _check_table_path(out: Path) -> None:
    """Refuse a name for the table that its figures would take, or a folder, before anything is read."""
    if out.suffix not in (".csv", ".parquet") or out.is_dir():
        raise OutputError(f"--out {out}: give the table a file name that ends in .csv or .parquet")


def _print_scores(table: PredictabilityTable, diet: Diet) -> None:
    lines, ok = table["cre_line"], table.ok
    rows = [
        (name, ", ".join(sorted(set(lines[at].tolist()))), len(at), diet.count(name), int((~ok[at]).sum()) or "")
        for name, at in table.by_recording().items()
    ]
    print_table(("recording", "Cre line", "neurons", "predictable", "not scored"), rows)


COMMANDS = (simulate, check, tasks, score)
