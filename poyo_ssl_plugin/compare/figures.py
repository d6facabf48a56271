"""Figures, each as PNG and as SVG, in one style."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from poyo_ssl_plugin.compare.arms import ARMS
from poyo_ssl_plugin.compare.estimates import Estimate
from poyo_ssl_plugin.compare.results import ArmScores
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.files import atomic_path
from poyo_ssl_plugin.predictability import PAPER_KURTOSIS, PAPER_SKEWNESS, Diet, PredictabilityTable
from poyo_ssl_plugin.recordings import TRACES, open_signal, split_intervals

__all__ = ["arm_bars", "example_traces", "image_rows", "predictability_plane", "scaling_curves", "training_curves"]

STYLE_FILE = Path(__file__).with_name("style.mplstyle")
PREDICTABLE, UNPREDICTABLE, GREY = "#0072B2", "#D55E00", "#8A8F98"
OTHER_COLOURS = ("#009E73", "#E69F00", "#CC79A7", "#56B4E9")
ARM_COLOURS = {"pretrained": PREDICTABLE, "scratch": UNPREDICTABLE}
LineStyle = str | tuple[int, tuple[int, ...]]
LINE_STYLES: tuple[LineStyle, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))

# What the logs of a run call by keys, in words and with units.
METRIC_WORDS = {
    "log_loss": "log-loss",
    "train/loss": "training loss",
    "train/masked": "masked reconstruction loss in training",
    "valid/accuracy": "accuracy on validation trials",
    "valid/ssim": "SSIM of validation frames",
    "valid/effective_rank": "effective rank of held-out latents",
    "valid/latent_std": "input-dependent sd of held-out latents",
}


@contextmanager
def style(**changes: object) -> Iterator[None]:
    """Draw in the style of all figures, with a few settings of matplotlib changed."""
    with matplotlib.style.context([STYLE_FILE, changes]):
        yield


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, and beside it as SVG; returns the PNG."""
    path = Path(path)
    for kind in ("svg", "png"):
        with atomic_path(path.with_suffix(f".{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return path.with_suffix(".png")


def in_words(key: str) -> str:
    """A metric or a task in words.

    Example:
        >>> in_words("train/loss"), in_words("drifting_gratings")
        ('training loss', 'drifting gratings')
    """
    return METRIC_WORDS.get(key, key.replace("/", " ").replace("_", " "))


def line_label(name: str, value: float) -> str:
    """What the legend says of a line; chance is a fraction.

    Example:
        >>> line_label("chance", 1 / 30), line_label("template", 0.617)
        ('chance 1/30', 'template 0.62')
    """
    exact = str(Fraction(value).limit_denominator(1000))
    return f"{name} {exact if name == 'chance' else f'{value:.2f}'}"


def arm_styles(arms: Iterable[str]) -> dict[str, tuple[str, LineStyle]]:
    """A colour and a line style for every arm, the same in all figures: six colours, told apart further by lines."""
    others = [(colour, line) for line in LINE_STYLES for colour in OTHER_COLOURS]
    names = list(dict.fromkeys([*ARMS, *arms]))
    rest = iter(others * (1 + len(names) // len(others)))
    return {name: (ARM_COLOURS[name], "-") if name in ARM_COLOURS else next(rest) for name in names}


def predictability_plane(
    table: PredictabilityTable, path: str | Path, *, skewness: float = PAPER_SKEWNESS, kurtosis: float = PAPER_KURTOSIS
) -> Path:
    """Draw every neuron in the plane of skewness and kurtosis, with the thresholds of the diet.

    Args:
        table: The scored neurons.
        path: Where to write the PNG; the SVG goes beside it, here and below.
        skewness: Threshold of the skewness.
        kurtosis: Threshold of the kurtosis, in the table's convention.

    Returns:
        The path of the PNG, here and below.

    Example:
        >>> import tempfile
        >>> rows = [dict(recording_id="a", unit_id=str(i), skewness=i, kurtosis=i**2) for i in range(9)]
        >>> predictability_plane(PredictabilityTable.from_rows(rows), tempfile.mkdtemp() + "/plane.png").name
        'plane.png'
    """
    inside = Diet.from_thresholds(table, skewness, kurtosis)
    members, ok = inside.members_of(table), table.ok
    x, y = table["skewness"], table["kurtosis"]
    fisher = table.provenance.get("kurtosis", "fisher") == "fisher"
    with style():
        figure = Figure(figsize=(5.6, 4.4))
        axes = figure.subplots()
        for mask, colour, label in (
            (members, PREDICTABLE, "predictable"),
            (ok & ~members, UNPREDICTABLE, "unpredictable"),
        ):
            axes.scatter(x[mask], y[mask], s=14, color=colour, alpha=0.7, lw=0, label=f"{label} ({mask.sum()})")
        axes.axvline(skewness, color="black", lw=1, ls="--")
        axes.axhline(kurtosis, color="black", lw=1, ls="--")
        # Kurtosis spans decades and can be negative.
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(bottom=min(-1.0, 1.1 * float(np.min(y[ok], initial=0.0))))
        axes.set_xlabel("skewness of the activity")
        axes.set_ylabel(f"{'excess ' if fisher else ''}kurtosis of the activity")
        axes.set_title(f"{int(ok.sum())} neurons of {len(table.recordings)} recordings")
        axes.legend(loc="lower right")
        return save(figure, path)


def example_traces(
    dataset: Recordings, table: PredictabilityTable, path: str | Path, *, n_each: int = 4, seconds: float = 60.0
) -> Path:
    """Draw traces of typical predictable and unpredictable neurons of one recording.

    Args:
        dataset: The recordings; the one with most neurons of both kinds is drawn.
        table: Their scored neurons.
        path: Where to write.
        n_each: Neurons of each kind.
        seconds: How much of the training time, from its start.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays
        >>> data = recording_from_arrays(np.random.rand(900, 2), recording="a", sampling_rate=15.0)
        >>> dataset = SimpleNamespace(recording_ids=["a"], get_recording=lambda name: data)
        >>> rows = [dict(recording_id="a", unit_id=str(i), skewness=9 * i, kurtosis=0) for i in range(2)]
        >>> table = PredictabilityTable.from_rows(rows)
        >>> example_traces(dataset, table, tempfile.mkdtemp() + "/traces.png", seconds=30.0).name
        'traces.png'
    """
    diet = Diet.from_thresholds(table)
    # The recording that has most of the kind it has fewer of.
    name = max(
        dataset.recording_ids,
        key=lambda name: min(kept := diet.count(name), int((table["recording_id"] == name).sum()) - kept),
    )
    data = dataset.get_recording(name)
    signal = open_signal(data, table.provenance.get("field", TRACES))
    scored = table.provenance.get("intervals", {}).get(name) or split_intervals(data, None).tolist()
    start = scored[0][0]
    rows = np.concatenate(list(signal.blocks(np.array([[start, start + seconds]]))))
    times = np.arange(len(rows)) * (seconds / max(len(rows), 1))
    members = diet.mask(name, signal.unit_ids)
    of_recording = table["recording_id"] == name
    order = np.argsort(table["skewness"][of_recording])
    with style(**{"axes.grid": False}):
        figure = Figure(figsize=(8, 4.4))
        axes = figure.subplots()
        level = 0.0
        for mask, colour in ((members, PREDICTABLE), (~members, UNPREDICTABLE)):
            candidates = [i for i in order if mask[i] and np.isfinite(rows[:, i]).any()]
            places = np.linspace(0, len(candidates) - 1, n_each + 2)[1:-1].astype(int)
            for i in dict.fromkeys(candidates[place] for place in places if candidates):
                trace = rows[:, i] - np.nanmedian(rows[:, i])
                height = max(float(np.nanmax(trace)), 0.3)
                axes.plot(times, trace + level, color=colour, lw=0.7)
                skewness = table["skewness"][of_recording][i]
                axes.text(seconds * 1.01, level, f"skewness {skewness:.1f}", fontsize=8, color=colour, va="center")
                level -= height + 0.15
        axes.plot([0, 0], [0.2, 1.2], color="black", lw=2, clip_on=False)
        axes.text(-0.5, 0.7, "100 %\ndF/F", ha="right", va="center", fontsize=8)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("time (s)")
        axes.set_title(f"recording {name}: predictable (above) and unpredictable neurons")
        return save(figure, path)


def training_curves(folders: Mapping[str, Path], path: str | Path, *, metrics: Sequence[str]) -> Path | None:
    """Draw metrics over training steps, one panel per metric that was logged and one line per run.

    Args:
        folders: Label to the folder of a run; labels with the same text before a ``/`` share a colour.
        path: Where to write.
        metrics: Names of metrics, such as ``"train/loss"``.

    Returns:
        The path of the PNG; ``None``, and nothing is drawn, if no run logged any of the metrics.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "csv").mkdir()
        >>> log = ["step,train/loss", "0,2.0", "10,1.0"]
        >>> _ = (folder / "csv" / "metrics.csv").write_text(chr(10).join(log))
        >>> training_curves({"pretrained": folder}, folder / "curves.png", metrics=["train/loss"]).name
        'curves.png'
    """
    curves = {name: {label: read_metric(folder, name) for label, folder in folders.items()} for name in metrics}
    curves = {name: found for name, found in curves.items() if any(len(steps) for steps, _ in found.values())}
    if not curves:
        return None
    styles = arm_styles(label.split("/")[0] for label in folders)
    with style():
        figure = Figure(figsize=(4.2 * len(curves), 3.4))
        for axes, (metric, found) in zip(
            figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
        ):
            for label, (steps, values) in found.items():
                arm = label.split("/")[0]
                first = arm not in axes.get_legend_handles_labels()[1]
                colour, line = styles[arm]
                # A line needs two points; a few are shown as what they are.
                marker = "o" if len(steps) < 8 else ""
                axes.plot(
                    steps, values, color=colour, ls=line, marker=marker, ms=4, alpha=0.8, label=arm if first else None
                )
            axes.set_xlabel("training step")
            axes.set_ylabel(in_words(metric))
        if len({label.split("/")[0] for label in folders}) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        return save(figure, path)


def arm_bars(
    arms: Mapping[str, ArmScores],
    lines: Mapping[str, float],
    path: str | Path,
    *,
    title: str,
    label: str,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Path:
    """Draw what each arm reached, with its 95 % interval and its runs, over lines for chance and simple decoders.

    Args:
        arms: Arm to what it reached.
        lines: Name to place of a line.
        path: Where to write.
        title: Of the figure.
        label: What was measured.
        bounds: The least and the greatest value that it can have; no interval is drawn beyond them.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin.compare.results import TestedRun
        >>> runs = [TestedRun(seed=0, value=0.6, n_test=48), TestedRun(seed=1, value=0.7, n_test=48)]
        >>> arms = {"pretrained": ArmScores("accuracy", runs, mean=0.65, ci95=[0.5, 0.8], trials_ci95=None)}
        >>> arm_bars(arms, {"chance": 1 / 8}, tempfile.mkdtemp() + "/arms.png", title="one arm", label="accuracy").name
        'arms.png'
    """
    lowest = min(run.value for arm in arms.values() for run in arm.runs)
    with style():
        figure = Figure(figsize=(7.4, 0.42 * len(arms) + 1.6))
        axes = figure.subplots()
        for i, (name, arm) in enumerate(arms.items()):
            runs = [run.value for run in arm.runs]
            axes.barh(i, arm.mean, height=0.62, color=ARM_COLOURS.get(name, GREY), alpha=0.75)
            if arm.ci95 is not None:
                axes.errorbar(arm.mean, i, xerr=_error(arm, bounds), color="black", capsize=4, lw=1.2)
            axes.scatter(runs, i + np.linspace(-0.15, 0.15, len(runs)), s=12, color="black", alpha=0.5, zorder=3)
        for (name, place), line in zip(lines.items(), LINE_STYLES, strict=False):
            axes.axvline(place, color="black", lw=1, ls=line, label=line_label(name, place))
        axes.set_yticks(range(len(arms)), [f"{name}  {arm.mean:.3f}" for name, arm in arms.items()])
        axes.invert_yaxis()
        axes.set_xlim(min(0.0, max(lowest, bounds[0])), bounds[1])
        axes.set_xlabel(f"test {label}")
        axes.set_title(title)
        axes.grid(axis="y", visible=False)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return save(figure, path)


def scaling_curves(
    curves: Mapping[str, Sequence[ArmScores | Estimate]],
    places: Sequence[float],
    lines: Mapping[str, float],
    path: str | Path,
    *,
    label: str,
    names: Sequence[str],
    measured: str,
    bounds: tuple[float, float] = (0.0, 1.0),
    decoders: Sequence[str] = (),
) -> Path:
    """Draw what each arm reached over an axis, with its 95 % interval, and lines for chance and simple decoders.

    Args:
        curves: Arm to its estimates, in the order of ``places``.
        places: Where on the axis, positive numbers; the axis is logarithmic.
        lines: Name to height of a line.
        path: Where to write.
        label: What the axis is.
        names: Names of the places, written over it.
        measured: What was measured.
        bounds: The least and the greatest value that it can have; no interval is drawn beyond them.
        decoders: Those of the curves that are of simple decoders.

    Example:
        >>> import tempfile
        >>> curves = {"scratch": [Estimate(0.3, [0.2, 0.4], 5), Estimate(0.5, [0.4, 0.6], 5)]}
        >>> options = dict(label="labelled trials", names=["a half", "all"], measured="accuracy")
        >>> scaling_curves(curves, [0.5, 1.0], {"chance": 0.1}, tempfile.mkdtemp() + "/labels.png", **options).name
        'labels.png'
    """
    styles = arm_styles(name for name in curves if name not in decoders)
    styles |= {name: (GREY, LINE_STYLES[1 + i % 4]) for i, name in enumerate(decoders)}
    with style():
        figure = Figure(figsize=(6.6, 4.2))
        axes = figure.subplots()
        for x, (arm, values) in zip(_side_by_side(places, len(curves)), curves.items(), strict=True):
            colour, line = styles[arm]
            marker = "s" if arm in decoders else "o"
            error = np.concatenate([_error(value, bounds) for value in values], axis=1)
            means = [value.mean for value in values]
            axes.errorbar(
                x, means, error, color=colour, ls=line, label=arm, marker=marker, ms=5, elinewidth=0.8, capsize=2
            )
        for (name, height), line in zip(lines.items(), LINE_STYLES, strict=False):
            axes.axhline(height, color="black", lw=1, ls=line, label=line_label(name, height))
        axes.set_xscale("log")
        axes.set_xticks(list(places), [str(name) for name in names], fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel(f"test {measured}")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return save(figure, path)


def _error(value: ArmScores | Estimate, bounds: tuple[float, float]) -> np.ndarray:
    """How far the interval reaches below and above the mean, (2, 1); not at all without an interval."""
    if value.ci95 is None:
        return np.zeros((2, 1))
    low, high = np.clip(value.ci95, *bounds)
    return np.maximum([[value.mean - low], [high - value.mean]], 0)


def read_metric(folder: Path, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric in the CSV logs of a run, one log per start of it."""
    values_at: dict[int, float] = {}
    for path in sorted(Path(folder).glob("csv*/metrics.csv"), key=lambda path: (len(path.parent.name), path)):
        with path.open(newline="") as file:
            values_at |= {int(row["step"]): float(row[metric]) for row in csv.DictReader(file) if row.get(metric)}
    steps, values = np.array(sorted(values_at.items()), dtype=float).reshape(-1, 2).T
    return steps, values


def _side_by_side(places: Sequence[float], n: int) -> np.ndarray:
    """Where n curves have their points, on a logarithmic axis, so that no interval hides another; (n, places)."""
    at = np.log(places)
    room = 0.3 * np.diff(at).min() if len(at) > 1 else 0.3
    shift = np.linspace(-0.5, 0.5, n) if n > 1 else np.zeros(1)
    return np.exp(at + room * shift[:, None])


def image_rows(lines: Mapping[str, np.ndarray], titles: Sequence[str], path: str | Path) -> Path:
    """Draw rows of grayscale images, such as true frames over reconstructed ones.

    Args:
        lines: Label of a row to its images, (C, H, W) of values in [0, 1].
        titles: Title of each of the C columns.
        path: Where to write.

    Example:
        >>> import tempfile
        >>> frames = np.random.rand(2, 16, 32)
        >>> image_rows({"true": frames, "told": frames}, ["frame 7", "frame 8"], tempfile.mkdtemp() + "/rows.png").name
        'rows.png'
    """
    height, width = next(iter(lines.values())).shape[1:]
    size = 1.6 * len(titles) + 1.2, 1.6 * height / width * len(lines) + 0.6
    with style(**{"axes.grid": False}):
        figure = Figure(figsize=size)
        axes = figure.subplots(len(lines), len(titles), squeeze=False)
        for line, (name, images) in zip(axes, lines.items(), strict=True):
            for axis, image in zip(line, images, strict=True):
                axis.imshow(image, cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
            label = name.replace(" on ", "\non ").replace(" ", "\n", 1)
            line[0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title, fontsize=8)
        return save(figure, path)
