"""The figure of an answer: every arm at every column, with the simple decoders behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from poyo_ssl_plugin.compare.answer import Answer
from poyo_ssl_plugin.compare.figures import GREY, arm_styles, in_words, save, style

__all__ = ["draw_answer"]

_MARKS = ("_", "x", "+")


def draw_answer(answer: Answer, path: str | Path) -> Path:
    """Draw an answer, as PNG and SVG.

    Dots are means of arms, bars their 95 % intervals over the units, grey marks the simple decoders, and the
    dashed line is chance.

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
    columns, names = answer.columns, answer.arms
    colours = arm_styles(names)
    offsets = dict(zip(names, np.linspace(-0.3, 0.3, len(names)) if len(names) > 1 else [0.0], strict=True))
    with style():
        figure = Figure(figsize=(2.2 + max(2.2, 0.35 * len(names)) * len(columns), 4.0))
        axes = figure.subplots()
        for name in names:
            colour, _ = colours[name]
            found = [(x, column.arms[name]) for x, column in enumerate(columns.values()) if name in column.arms]
            for i, (x, value) in enumerate(found):
                label = in_words(name) if i == 0 else None
                axes.plot(x + offsets[name], value.mean, "o", ms=6, color=colour, label=label)
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
        return save(figure, path)
