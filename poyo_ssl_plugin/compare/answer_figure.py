"""The figure of an answer: every arm at every column, with the simple decoders behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from poyo_ssl_plugin.compare.answer import Answer
from poyo_ssl_plugin.compare.figures import GREY, LINE_STYLES, arm_styles, in_words, save, style

__all__ = ["draw_answer"]

_MARKS = ("_", "x", "+")
# Line style to the shape of a dot: arms of one colour are told apart by it.
_SHAPES = dict(zip(LINE_STYLES, "os^DvP", strict=True))


def draw_answer(answer: Answer, path: str | Path) -> Path:
    """Draw an answer, as PNG and SVG.

    Dots are means of arms, bars their 95 % intervals over the units, grey marks the simple decoders, and the
    dashed line is chance. With one comparison every arm has a row; with several, arms stand side by side.

    Args:
        answer: The answer, as ``poyo_ssl_plugin.compare.reproduce`` gives it.
        path: Where to write the PNG; the SVG goes beside it.

    Returns:
        The path of the PNG.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin.compare.answer import Column
        >>> from poyo_ssl_plugin.compare.estimates import Estimate
        >>> arms = {"scratch": Estimate(0.5, [0.4, 0.6], 5)}
        >>> column = Column(arms, {"template": 0.4}, chance=0.1, metric="accuracy", seconds=1.0, git=None)
        >>> draw_answer(Answer("Why?", False, "fold", {"all": column}, []), tempfile.mkdtemp() + "/answer.png").name
        'answer.png'
    """
    with style():
        return save(_rows(answer) if len(answer.columns) == 1 else _columns(answer), path)


def _rows(answer: Answer) -> Figure:
    """A row for every arm and simple decoder of one comparison."""
    [column] = answer.columns.values()
    colours, n = arm_styles(answer.arms), len(column.arms) + len(column.simple_decoders)
    figure = Figure(figsize=(6.4, 1.0 + 0.3 * n))
    axes = figure.subplots()
    for y, (name, value) in enumerate(column.arms.items()):
        axes.plot(value.mean, y, "o", ms=6, color=colours[name][0])
        if value.ci95 is not None:
            axes.hlines(y, *value.ci95, color=colours[name][0], lw=1.5)
    for y, mean in enumerate(column.simple_decoders.values(), start=len(column.arms)):
        axes.plot(mean, y, "D", ms=5, color=GREY)
    if column.chance is not None:
        axes.axvline(column.chance, color=GREY, ls="--", lw=1, label="chance")
        figure.legend(loc="outside lower right")
    axes.set_yticks(range(n), [*map(in_words, column.arms), *column.simple_decoders])
    axes.invert_yaxis()
    axes.set_xlabel(column.metric)
    axes.set_title(f"95 % intervals over {answer.unit}s")
    return figure


def _columns(answer: Answer) -> Figure:
    """A group of dots for every comparison."""
    columns, names = answer.columns, answer.arms
    colours = arm_styles(names)
    offsets = dict(zip(names, np.linspace(-0.3, 0.3, len(names)) if len(names) > 1 else [0.0], strict=True))
    figure = Figure(figsize=(2.2 + max(2.2, 0.35 * len(names)) * len(columns), 4.0))
    axes = figure.subplots()
    for name in names:
        colour, line = colours[name]
        found = [(x, column.arms[name]) for x, column in enumerate(columns.values()) if name in column.arms]
        for i, (x, value) in enumerate(found):
            label = in_words(name) if i == 0 else None
            axes.plot(x + offsets[name], value.mean, _SHAPES[line], ms=6, color=colour, label=label)
            if value.ci95 is not None:
                axes.vlines(x + offsets[name], *value.ci95, color=colour, lw=1.5)
    for name, mark in zip(answer.simple_decoders, _MARKS * len(answer.simple_decoders), strict=False):
        values = [column.simple_decoders.get(name, np.nan) for column in columns.values()]
        for x, height in enumerate(values):
            axes.hlines(height, x - 0.38, x + 0.38, color=GREY, lw=0.8, alpha=0.7)
        axes.plot(np.arange(len(values)) + 0.38, values, mark, color=GREY, ls="", label=name)
    chance = [column.chance for column in columns.values()]
    if chance[0] is not None:
        axes.axhline(chance[0], color=GREY, ls="--", lw=1, label="chance")
    axes.set_xticks(range(len(columns)), list(columns))
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.set_ylabel(next(iter(columns.values())).metric)
    axes.set_title(f"95 % intervals over {answer.unit}s")
    figure.legend(loc="outside right upper")
    return figure
