"""Draw docs/figures/evidence.{svg,png} and evidence_dark.svg: what pretraining gains, on all data that it was tried on.

    python docs/figures/evidence.py

The numbers are those of the pages of results, in docs/results/runs/gains.csv: differences from training from scratch
and their 95 % intervals, over what is given as the unit. Where the value from scratch stands beside them they are
differences of the metric; else they are fractions of that value already.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd

FOLDER = Path(__file__).parent
TABLE = FOLDER.parent / "results" / "runs" / "gains.csv"
# Of Okabe and Ito, on a light and on a dark page.
COLOURS = {
    False: {"pretrained": "#0072B2", "adapted": "#D55E00"},
    True: {"pretrained": "#56B4E9", "adapted": "#E69F00"},
}
LABELS = {"pretrained": "pretrained", "adapted": "the same, new neurons identified without labels"}
# What these arms are without auxiliary labels.
SHOWN_AS = {"ssl_only": "pretrained", "adapted_ssl_only": "adapted"}
# Of the paper's table: movie frames .593 against .528, gratings .555 against .492.
PAPER = (12, 13)


def draw(path: Path, *, dark: bool = False) -> None:
    """Draw a row for each data set and amount of labels, a dot and an interval for each arm."""
    table = pd.read_csv(TABLE).replace({"arm": SHOWN_AS})
    numbers = ["gain", "low", "high"]
    table[numbers] = 100 * table[numbers].div(table["scratch"].fillna(1.0), axis=0)
    groups = list(table.groupby("data", sort=False))
    ink, faint = ("#E6E6E6", "#5A5F66") if dark else ("#222222", "#C4C8CE")
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    heights: list[float] = []
    names: list[str] = []
    y = 0.0
    for data, rows in groups:
        kind, unit = rows["kind"].iloc[0], rows["unit"].iloc[0]
        plural = "mice" if unit == "mouse" else f"{unit}s"
        axes.text(
            -29.5, y, f"{data} (dF/F {kind}; {rows['n'].iloc[0]} {plural})", color=ink, va="center", weight="bold"
        )
        for label, of_label in rows.groupby("labels", sort=False):
            y -= 1
            heights.append(y)
            names.append(label)
            for arm, offset in (("pretrained", 0.17), ("adapted", -0.17)):
                for _, row in of_label[of_label["arm"] == arm].iterrows():
                    gain, low, high = row[numbers].astype(float)
                    colour = COLOURS[dark][arm]
                    axes.hlines(y + offset, low, high, color=colour, lw=1.6)
                    axes.plot(gain, y + offset, "o", ms=5, color=colour, label=LABELS[arm])
        axes.vlines(0, heights[-1] - 0.5, heights[-rows["labels"].nunique()] + 0.5, color=ink, lw=1)
        y -= 1.2
    axes.axvspan(*PAPER, color=faint, alpha=0.6, lw=0, label="what the paper reports")
    axes.set_xlim(-30, 30)
    axes.set_ylim(y + 0.6, 0.8)
    axes.set_yticks(heights, names, color=ink)
    axes.set_xlabel("gain over training from scratch, %, with 95 % intervals", color=ink)
    axes.tick_params(colors=ink)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(ink)
    handles, labels = axes.get_legend_handles_labels()
    first = dict(zip(labels, handles, strict=True))
    figure.legend(first.values(), first.keys(), loc="lower center", ncols=3, frameon=False, labelcolor=ink, fontsize=9)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(
        path, dpi=150, transparent=path.suffix == ".svg", metadata={"Date": None} if path.suffix == ".svg" else None
    )
    plt.close(figure)


if __name__ == "__main__":
    plt.rcParams |= {"svg.hashsalt": "evidence", "font.size": 9.5}
    draw(FOLDER / "evidence.svg")
    draw(FOLDER / "evidence.png")
    draw(FOLDER / "evidence_dark.svg", dark=True)
