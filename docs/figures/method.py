"""Draw docs/figures/method.{svg,png} and method_dark.svg, the method in one picture.

    python docs/figures/method.py

Traces and points are made up; nothing in the figure is a measurement.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

FOLDER = Path(__file__).parent
# Of Okabe and Ito, on a light and on a dark page.
COLOURS = {False: ("#0072B2", "#D55E00"), True: ("#56B4E9", "#E69F00")}
TITLES = ("1  Score", "2  Pretrain", "3  Fine-tune", "4  Compare")
TEXTS = (
    "skewness and kurtosis\nof every neuron's dF/F",
    "on predictable neurons, no labels:\ntell what is hidden from the rest",
    "on the other neurons,\nfew labels, weights carried over",
    "with training from scratch\nand with simple decoders",
)


def trace(rng: np.random.Generator, *, sparse: bool, n: int = 160) -> np.ndarray:
    """Made-up dF/F: events that decay, rare and large or dense and small."""
    events = rng.random(n) < (0.015 if sparse else 0.25)
    heights = events * rng.gamma(2.0, 0.8 if sparse else 0.25, n)
    decayed = np.convolve(heights, np.exp(-np.arange(30) / 6))[:n]
    return decayed + 0.03 * rng.normal(size=n)


def draw_traces(axes: Axes, rng: np.random.Generator, sparse: list[bool], colours: tuple[str, str]) -> None:
    """Traces below each other, coloured by kind."""
    for row, is_sparse in enumerate(sparse):
        values = trace(rng, sparse=is_sparse)
        values = values / max(values.max(), 1.0) * 0.11
        colour = colours[is_sparse]
        axes.plot(np.linspace(0.06, 0.94, len(values)), 0.98 - 0.125 * (row + 1) + values, color=colour, lw=0.9)


def draw_masking(axes: Axes, rng: np.random.Generator, ink: str, colour: str) -> None:
    """Latents by time, some hidden, and an arrow to the whole."""
    hidden, shades = rng.random((4, 6)) < 0.5, 0.45 + 0.5 * rng.random((4, 6))
    for side, x0 in enumerate((0.06, 0.58)):
        for (row, column), is_hidden in np.ndenumerate(hidden):
            shown = side == 1 or not is_hidden
            box = FancyBboxPatch(
                (x0 + 0.062 * column, 0.34 + 0.1 * row),
                0.045,
                0.075,
                boxstyle="round,pad=0,rounding_size=0.012",
                facecolor=colour if shown else "none",
                edgecolor=colour,
                alpha=shades[row, column] if shown else 0.8,
                lw=0.8,
            )
            axes.add_patch(box)
    axes.add_patch(
        FancyArrowPatch((0.455, 0.53), (0.565, 0.53), arrowstyle="-|>", mutation_scale=12, color=ink, lw=1.2)
    )
    axes.text(0.24, 0.8, "part of it", ha="center", fontsize=9, color=ink)
    axes.text(0.76, 0.8, "the whole", ha="center", fontsize=9, color=ink)


def draw_comparison(axes: Axes, ink: str, colours: tuple[str, str]) -> None:
    """Three values with intervals, without numbers."""
    rows = (
        ("pretrained", 0.63, 0.12, colours[0]),
        ("from scratch", 0.6, 0.12, colours[1]),
        ("template", 0.57, 0.12, "#8A8F98"),
    )
    for row, (name, value, reach, colour) in enumerate(rows):
        y = 0.76 - 0.19 * row
        axes.plot([value - reach, value + reach], [y, y], color=colour, lw=2)
        axes.plot(value, y, "o", color=colour, ms=6)
        axes.text(0.34, y, name, ha="right", va="center", fontsize=9, color=ink)
    axes.plot([0.38, 0.92], [0.27, 0.27], color=ink, lw=0.8)
    axes.text(0.65, 0.16, "accuracy, with its interval?", ha="center", fontsize=8, color=ink)


def draw(*, dark: bool) -> plt.Figure:
    """The four steps side by side."""
    colours, ink, rng = COLOURS[dark], "#E6E6E6" if dark else "#222222", np.random.default_rng(4)
    figure, panels = plt.subplots(1, 4, figsize=(10.6, 3.0))
    figure.subplots_adjust(left=0.005, right=0.995, top=0.9, bottom=0.17, wspace=0.1)
    for axes, title, text in zip(panels, TITLES, TEXTS, strict=True):
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
        axes.patch.set_alpha(0)
        for spine in axes.spines.values():
            spine.set(color=ink, alpha=0.25)
        axes.set_title(title, loc="left", color=ink, fontsize=12, fontweight="bold")
        axes.text(0.0, -0.05, text, ha="left", va="top", fontsize=9, color=ink, transform=axes.transAxes)
    draw_traces(panels[0], rng, [False, True, False, False, True, True], colours)
    panels[0].text(0.06, 0.05, "predictable", color=colours[0], fontsize=9)
    panels[0].text(0.94, 0.05, "unpredictable", color=colours[1], fontsize=9, ha="right")
    draw_masking(panels[1], rng, ink, colours[0])
    panels[1].text(0.5, 0.12, "latents of predictable neurons", ha="center", fontsize=9, color=colours[0])
    draw_traces(panels[2], rng, [True, True, True], colours)
    panels[2].add_patch(FancyArrowPatch((0.5, 0.5), (0.5, 0.3), arrowstyle="-|>", mutation_scale=12, color=ink, lw=1.2))
    panels[2].text(0.5, 0.14, "direction, movie second,\nspeed, your label", ha="center", fontsize=9, color=ink)
    draw_comparison(panels[3], ink, colours)
    return figure


if __name__ == "__main__":
    matplotlib.rcParams["svg.hashsalt"] = "poyo_ssl_plugin"
    matplotlib.rcParams["svg.fonttype"] = "path"
    for name, dark in (("method.svg", False), ("method_dark.svg", True), ("method.png", False)):
        figure = draw(dark=dark)
        options = (
            {"dpi": 130, "facecolor": "white"}
            if name.endswith("png")
            else {"transparent": True, "metadata": {"Date": None}}
        )
        figure.savefig(FOLDER / name, **options)
