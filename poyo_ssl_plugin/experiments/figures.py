"""Figures, as PNG files."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from poyo_ssl_plugin.experiments.statistics import Estimate
from poyo_ssl_plugin.files import atomic_path
from poyo_ssl_plugin.predictability import (
    PAPER_KURTOSIS,
    PAPER_SKEWNESS,
    Diet,
    PredictabilityTable,
)
from poyo_ssl_plugin.recordings import TRACES, open_signal, split_intervals

PREDICTABLE, UNPREDICTABLE, GREY = "#1b7f79", "#c8553d", "#8a8f98"
ARM_COLOURS = {"pretrained": PREDICTABLE, "scratch": UNPREDICTABLE}
OTHER_COLOURS = ("#4c6fb1", "#d39b2a", "#8e5aa8", "#5c9e4a", "#d06fa5", "#7a5230")

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 130,
}


def predictability_plane(
    table: PredictabilityTable,
    path: str | Path,
    *,
    skewness: float = PAPER_SKEWNESS,
    kurtosis: float = PAPER_KURTOSIS,
) -> Path:
    """Every neuron in the plane of skewness and kurtosis, with the thresholds of the diet."""
    inside = Diet.from_thresholds(table, skewness, kurtosis)
    members = np.concatenate([inside.mask(name, _units(table, name)) for name in table.recordings])
    ok = np.concatenate([table.ok[table["recording_id"] == name] for name in table.recordings])
    rows = np.concatenate([np.flatnonzero(table["recording_id"] == name) for name in table.recordings])
    x, y = table["skewness"][rows], table["kurtosis"][rows]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.6, 4.4))
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
        axes.set_xlabel("skewness of dF/F")
        axes.set_ylabel("excess kurtosis of dF/F" if _is_fisher(table) else "kurtosis of dF/F")
        axes.set_title(f"{int(ok.sum())} neurons of {len(table.recordings)} recordings")
        axes.legend(loc="lower right")
        return _save(figure, path)


def example_traces(
    dataset: Any, table: PredictabilityTable, path: str | Path, *, n_each: int = 4, seconds: float = 60.0
) -> Path:
    """A minute of the traces of typical predictable and unpredictable neurons of one recording."""
    diet = Diet.from_thresholds(table)
    # The recording that has most of the kind it has fewer of.
    name = max(
        dataset.recording_ids,
        key=lambda name: min(kept := diet.count(name), int((table["recording_id"] == name).sum()) - kept),
    )
    data = dataset.get_recording(name)
    signal: Any = open_signal(data, table.provenance.get("field", TRACES))
    start = split_intervals(data, "train")[0, 0] if "train_domain" in data.keys() else 0.0
    rows = np.concatenate(list(signal.blocks(np.array([[start, start + seconds]]))))
    times = np.arange(len(rows)) * (seconds / max(len(rows), 1))
    members = diet.mask(name, signal.unit_ids)
    of_recording = table["recording_id"] == name
    order = np.argsort(table["skewness"][of_recording])
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(figsize=(8, 4.4))
        level = 0.0
        for mask, colour in ((members, PREDICTABLE), (~members, UNPREDICTABLE)):
            candidates = [i for i in order if mask[i]]
            chosen = (
                [candidates[i] for i in np.linspace(0, len(candidates) - 1, n_each + 2)[1:-1].astype(int)]
                if candidates
                else []
            )
            for i in dict.fromkeys(chosen):
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
        return _save(figure, path)


def training_curves(folders: Mapping[str, Path], path: str | Path, *, metrics: Sequence[str]) -> Path:
    """Curves of metrics over steps, one panel per metric and one line per run.

    Args:
        folders: Label to the folder of a run; labels before a ``/`` share a colour.
        path: Where to write.
        metrics: Names of metrics, such as ``"train/loss"``.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(metrics), figsize=(4.2 * len(metrics), 3.4), squeeze=False)
        colours = dict(ARM_COLOURS)
        for axis, metric in zip(axes[0], metrics, strict=True):
            for label, folder in folders.items():
                steps, values = read_metric(folder, metric)
                arm = label.split("/")[0]
                first = arm not in axis.get_legend_handles_labels()[1]
                colour = colours.setdefault(arm, f"C{len(colours)}")
                axis.plot(steps, values, color=colour, lw=1.2, alpha=0.8, label=arm if first else None)
            axis.set_xlabel("step")
            axis.set_title(metric, fontsize=10)
        if len(folders) > 1:
            axes[0][0].legend(fontsize=8)
        return _save(figure, path)


def arm_bars(
    arms: Mapping[str, tuple[Estimate, Sequence[float]]],
    lines: Mapping[str, float],
    path: str | Path,
    *,
    title: str,
    label: str,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Path:
    """What each arm reached, with its 95 % interval and its runs, over lines for chance and baselines.

    Args:
        arms: Arm to its estimate and the values of its runs.
        lines: Name to place of a line.
        path: Where to write.
        title: Of the figure.
        label: What was measured.
        bounds: The least and the greatest value that it can have; no interval is drawn beyond them.
    """
    least, greatest = bounds
    lowest = min([value.low for value, _ in arms.values()] + [min(runs) for _, runs in arms.values()])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.4, 0.42 * len(arms) + 1.6))
        for i, (name, (value, runs)) in enumerate(arms.items()):
            error = [[value.mean - max(value.low, least)], [min(value.high, greatest) - value.mean]]
            axes.barh(i, value.mean, height=0.62, color=ARM_COLOURS.get(name, GREY), alpha=0.75)
            axes.errorbar(value.mean, i, xerr=error, color="black", capsize=4, lw=1.2)
            axes.scatter(runs, i + np.linspace(-0.15, 0.15, len(runs)), s=12, color="black", alpha=0.5, zorder=3)
        for (name, place), style in zip(lines.items(), ("-", "--", ":", "-."), strict=False):
            axes.axvline(place, color="black", lw=1, ls=style, label=f"{name} {place:.2f}")
        axes.set_yticks(range(len(arms)), [f"{name}  {value.mean:.3f}" for name, (value, _) in arms.items()])
        axes.invert_yaxis()
        axes.set_xlim(min(0.0, max(lowest, least)), greatest)
        axes.set_xlabel(f"test {label}")
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", visible=False)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
        return _save(figure, path)


def scaling_curves(
    curves: Mapping[str, Sequence[Estimate]],
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
    """What each arm reached over an axis, with its 95 % interval, and lines for chance and baselines.

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
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.6, 4.2))
        others = iter(OTHER_COLOURS * len(curves))
        beside = _side_by_side(places, len(curves))
        for x, (arm, values) in zip(beside, curves.items(), strict=True):
            simple = arm in decoders
            colour = GREY if simple else ARM_COLOURS.get(arm) or next(others)
            means = np.array([value.mean for value in values])
            low, high = [max(v.low, bounds[0]) for v in values], [min(v.high, bounds[1]) for v in values]
            error = np.maximum([means - low, high - means], 0)
            marker = "s" if simple else "o"
            axes.errorbar(
                x,
                means,
                error,
                color=colour,
                label=arm,
                marker=marker,
                ms=5,
                lw=1.5,
                elinewidth=0.8,
                capsize=2,
                ls=(0, (1 + 3 * decoders.index(arm), 2)) if simple else "-",
            )
        for (name, height), style in zip(lines.items(), ("-", "--", ":", "-."), strict=False):
            axes.axhline(height, color="black", lw=1, ls=style, label=f"{name} {height:.2f}")
        axes.set_xscale("log")
        axes.set_xticks(list(places), [str(name) for name in names], fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel(f"test {measured}")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
        return _save(figure, path)


def stability_panels(stability: Any, path: str | Path) -> Path:
    """Confidence of membership of all neurons, and shares of neurons that flip, by Cre line."""
    summary = stability.summary()
    lines = {"all": summary["all"], **(summary["by_cre_line"] if len(summary["by_cre_line"]) > 1 else {})}
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6))
        bins = np.linspace(0, 1, 21)
        for mask, colour, label in (
            (stability.member, PREDICTABLE, "predictable"),
            (~stability.member, UNPREDICTABLE, "unpredictable"),
        ):
            left.hist(stability.confidence[mask], bins=bins, color=colour, alpha=0.7, label=label)
        left.set_yscale("symlog")
        left.set_xlabel("share of bootstrap samples in the diet")
        left.set_ylabel("neurons")
        left.set_title(f"{summary['all']['uncertain']} of {summary['all']['neurons']} uncertain", fontsize=10)
        left.legend(fontsize=8)
        panels = (
            (middle, "flips_by_length", "share of the recording", "with less data"),
            (right, "flips_by_noise", "added noise (sd of the neuron's noise)", "with more noise"),
        )
        for axes, key, label, title in panels:
            for i, (line, found) in enumerate(lines.items()):
                places = [float(place) for place in found[key]]
                colour = "black" if line == "all" else f"C{i}"
                axes.plot(places, list(found[key].values()), "o-", ms=4, color=colour, label=line)
            axes.set_ylim(bottom=0)
            axes.set_xlabel(label)
            axes.set_ylabel("share of neurons that flip")
            axes.set_title(title, fontsize=10)
        right.legend(fontsize=7)
        return _save(figure, path)


def landscape_map(landscape: Any, path: str | Path) -> Path:
    """A section of the loss, as contours, with the way that training took."""
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(figsize=(5.4, 4.4))
        # Walls are many times higher than the floor.
        height = np.log10(np.maximum(landscape.loss - landscape.loss.min(), 0) + 1e-3)
        drawn = axes.contourf(landscape.first, landscape.second, height.T, levels=20, cmap="viridis")
        axes.plot(*landscape.path.T, "o-", color="white", ms=3, lw=1)
        axes.plot(0, 0, "*", color="white", ms=11)
        figure.colorbar(drawn, label="log10 (loss above the lowest + 0.001)")
        axes.set_xlabel(f"first direction ({100 * landscape.explained[0]:.0f} % of the way)")
        axes.set_ylabel(f"second direction ({100 * landscape.explained[1]:.0f} %)")
        axes.set_title(f"roughness {landscape.roughness:.3f}, not convex {landscape.not_convex:.2f}", fontsize=10)
        return _save(figure, path)


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


def _units(table: PredictabilityTable, recording: str) -> np.ndarray:
    return table["unit_id"][table["recording_id"] == recording]


def _is_fisher(table: PredictabilityTable) -> bool:
    return table.provenance.get("kurtosis", "fisher") == "fisher"


def image_rows(lines: Mapping[str, np.ndarray], titles: Sequence[str], path: str | Path) -> Path:
    """Rows of grayscale images, such as true frames over reconstructed ones.

    Args:
        lines: Label of a row to its images, (C, H, W) of values in [0, 1].
        titles: Title of each column.
        path: Where to write.
    """
    height, width = next(iter(lines.values())).shape[1:]
    size = 1.6 * len(titles) + 1.2, 1.6 * height / width * len(lines) + 0.6
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(len(lines), len(titles), figsize=size, squeeze=False)
        for line, (name, images) in zip(axes, lines.items(), strict=True):
            for axis, image in zip(line, images, strict=True):
                axis.imshow(image, cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
            label = name.replace(" on ", "\non ").replace(" ", "\n", 1)
            line[0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title, fontsize=8)
        return _save(figure, path)


def _save(figure: Any, path: str | Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    plt.close(figure)
    return Path(path)
