"""``poyo-ssl import``: recordings of your own, one subcommand per kind of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poyo_ssl_plugin.cli.terminal import say
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.plain import Values

if TYPE_CHECKING:
    from poyo_ssl_plugin.data.importing import Spikes, Traces

_path = click.Path(path_type=Path)
_OPTIONS = [
    click.option("--out", type=_path, required=True, help="Folder for the recording."),
    click.option("--trials", type=_path, help="CSV with start, end (seconds) and labels; becomes intervals 'trials'."),
    click.option("--series", multiple=True, metavar="NAME=FILE.csv", help="CSV with time (seconds) and values."),
    click.option(
        "--split",
        default="0.7,0.1,0.2",
        show_default=True,
        help="Fractions for train, valid and test; blocks or blocks:N; or a column of the trials.",
    ),
    click.option("--recording", help="Id of the recording; by default the name of the file or folder."),
    click.option("--subject", help="Id of the animal."),
    click.option("--cre-line", default="", help="Cre line of the animal."),
    click.option("--force", is_flag=True, help="Replace a recording of that id."),
]
_rate = click.option("--sampling-rate", type=float, metavar="HZ", help="By default what the file says.")


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group("import")
def import_recordings() -> None:
    """Make recordings of your own readable: suite2p, NWB, CaImAn or plain arrays.

    Writes one brainsets file <recording>.h5 into a folder, which every other command takes.

    \b
    Examples:
      poyo-ssl import suite2p data/suite2p --trials trials.csv --out recordings --recording mouse1
      poyo-ssl import nwb mouse2.nwb --out recordings --series running=running.csv
      poyo-ssl import arrays dff.npy --sampling-rate 30 --trials trials.csv --split blocks --out recordings
      poyo-ssl tasks recordings
    """


@import_recordings.command()
@click.argument("folder", type=_path)
@_rate
@_common
def suite2p(folder: Path, sampling_rate: float | None, **options: Any) -> None:
    """FOLDER that suite2p wrote: dF/F of its cells, with its neuropil correction and baseline.

    Nothing is unpickled: the rate is looked for in ops.npy without loading it; give --sampling-rate if it
    is not found.
    """
    from poyo_ssl_plugin.data.importing import read_suite2p

    _save(folder, read_suite2p(folder, sampling_rate=sampling_rate), **options)


@import_recordings.command()
@click.argument("file", type=_path)
@_rate
@click.option("--traces", help="Name of the RoiResponseSeries, or CONTAINER/NAME, where there are several.")
@_common
def nwb(file: Path, sampling_rate: float | None, traces: str | None, **options: Any) -> None:
    """ROI traces, else spikes of units, and trials of an NWB FILE. --trials replaces its own trials.

    Spikes are read by the other commands with --field spikes and data.field=spikes.
    """
    from poyo_ssl_plugin.data.importing import read_nwb

    _save(file, read_nwb(file, sampling_rate=sampling_rate, series=traces), **options)


@import_recordings.command()
@click.argument("file", type=_path)
@_rate
@_common
def caiman(file: Path, sampling_rate: float | None, **options: Any) -> None:
    """dF/F of the accepted components of the HDF5 FILE that CaImAn saved."""
    from poyo_ssl_plugin.data.importing import read_caiman

    _save(file, read_caiman(file, sampling_rate=sampling_rate), **options)


@import_recordings.command()
@click.argument("file", type=_path)
@click.option("--sampling-rate", type=float, metavar="HZ", required=True)
@click.option("--fluorescence", is_flag=True, help="The traces are raw fluorescence, not dF/F.")
@click.option("--neuropil", type=_path, help="NPY with the fluorescence of the neuropil; implies --fluorescence.")
@click.option("--neurons", type=int, help="How many neurons there are, to check the order of the axes.")
@_common
def arrays(
    file: Path,
    sampling_rate: float,
    fluorescence: bool,
    neuropil: Path | None,
    neurons: int | None,
    **options: Any,
) -> None:
    """Traces of an NPY FILE, (frames, neurons), or (trials, frames, neurons) of trials that were cut out."""
    from poyo_ssl_plugin.data.importing import read_arrays

    read = read_arrays(file, sampling_rate=sampling_rate, fluorescence=fluorescence, neuropil=neuropil, n_units=neurons)
    _save(file, read, **options)


def _save(
    source: Path,
    activity: Traces | Spikes,
    *,
    out: Path,
    trials: Path | None,
    series: tuple[str, ...],
    split: str,
    recording: str | None,
    subject: str | None,
    cre_line: str,
    force: bool,
) -> None:
    from poyo_ssl_plugin.data import importing

    named = [_named(text) for text in series]
    files = dict(named)
    if len(files) < len(named):
        raise RecordingError(f"--series: a name occurs twice among {', '.join(name for name, _ in named)}")
    common: Values = {
        "recording": recording or _default_id(source),
        "unit_ids": activity.unit_ids,
        "trials": activity.trials if trials is None else importing.read_table(trials),
        "series": {name: importing.read_table(file) for name, file in files.items()},
        "split": split,
        "subject": subject,
        "cre_line": cre_line,
    }
    if isinstance(activity, importing.Traces):
        data = importing.recording_from_arrays(
            activity.values, sampling_rate=activity.rate, start=activity.start, **common
        )
        clock = f"at {activity.rate:g} Hz"
    else:
        data = importing.recording_from_spikes(activity.times, activity.unit_index, **common)
        clock = f"with {len(activity.times)} spikes"
    path = importing.save_recording(data, out, overwrite=force)
    minutes = float((data.domain.end - data.domain.start).sum()) / 60
    n_trials = len(data.trials) if "trials" in data.keys() else 0
    say(f"wrote {path}: {len(activity.unit_ids)} neurons, {minutes:.1f} min {clock}, {n_trials} trials")
    say(f"next: poyo-ssl check {out}")


def _named(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not equals or not file:
        raise RecordingError(f"--series {text!r}: say NAME=FILE.csv")
    return name, Path(file)


def _default_id(source: Path) -> str:
    """``mouse1`` of ``mouse1.nwb`` and of ``mouse1/suite2p/plane0``."""
    path = source.resolve()
    while path.name.startswith("plane") or path.name == "suite2p":
        path = path.parent
    return path.stem if source.is_file() else path.name
