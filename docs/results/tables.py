"""Print the tables of a page of results from the values of its runs, and draw its figure.

    python docs/results/tables.py diet

The values are those in docs/results/runs, which ``poyo-ssl reproduce`` writes as ``runs.csv``; where machines shared a
question with ``--only``, their files are one below the other there. The figure is docs/figures/diet.png.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from poyo_ssl_plugin.compare.answer import Answer, Column, PlannedDifference
from poyo_ssl_plugin.compare.answer_figure import draw_answer
from poyo_ssl_plugin.compare.estimates import PairedComparison, Scores, compare_scores, estimate, holm
from poyo_ssl_plugin.compare.reproduce import get_question

RESULTS = Path(__file__).parent
# What counts once, and what guessing reaches.
UNITS = {
    "few_labels": ("fold", 1 / 30),
    "park": ("animal", 1 / 8),
    "unlabelled": ("animal", 1 / 8),
    "maps": ("animal", 1 / 8),
    "diet": ("simulation", 1 / 8),
    "diet_fresh": ("simulation", 1 / 8),
    "parts": ("simulation", 1 / 8),
    "causes": ("simulation", 1 / 8),
    "aux_weight": ("simulation", 1 / 8),
    "size": ("simulation", 1 / 8),
}


def read_runs(name: str) -> pd.DataFrame:
    """The value and log-loss of every run of a question, and of its simple decoders."""
    runs = pd.read_csv(RESULTS / "runs" / f"{name}.csv")
    # Simple decoders have no seed.
    return runs.assign(arm=runs.decoder.where(runs.seed.notna()))


def scores_of(runs: pd.DataFrame, column: str, arm: str, measured: str = "value") -> Scores:
    """One value for each data set, or for each fold of a single one, in their order."""
    chosen = runs[(runs.column == column) & (runs.arm == arm)]
    if runs.data_set.nunique() > 1:
        return Scores(chosen.groupby("data_set")[measured].mean().to_numpy()[:, None])
    return Scores(chosen.groupby("fold")[measured].mean().to_numpy(), folds=True)


def answer_from(name: str) -> Answer:
    """The answer to a question, from the values of its runs; without columns that were not run, in Holm's p too."""
    question, runs = get_question(name), read_runs(name)
    unit, chance = UNITS[name]
    done = [column for column in question.columns if (runs.column == column).any()]
    plans = [plan for plan in question.planned if plan["column"] in done]
    pairs = [_difference(runs, plan, plan.get("beside", "value")) for plan in plans]
    planned = [
        PlannedDifference(
            **{**plan, **vars(pair)},
            p_holm=p_holm,
            log_loss=None if "beside" in plan else _difference(runs, plan, "log_loss"),
        )
        for plan, pair, p_holm in zip(plans, pairs, holm([pair.p for pair in pairs]), strict=True)
    ]
    columns = {column: _column(runs, column, chance) for column in done}
    return Answer(question.question, small=False, unit=unit, columns=columns, planned=planned)


def _difference(runs: pd.DataFrame, plan: Mapping[str, str], measured: str) -> PairedComparison:
    return compare_scores(*(scores_of(runs, plan["column"], plan[role], measured) for role in ("arm", "reference")))


def _column(runs: pd.DataFrame, column: str, chance: float) -> Column:
    of_column = runs[runs.column == column]
    arms = of_column.arm.dropna().unique()
    simple = of_column[of_column.arm.isna()].groupby("decoder", sort=False)
    losses = {arm: scores_of(runs, column, arm, "log_loss").estimate() for arm in arms}
    losses |= {name: estimate(rows.log_loss.to_numpy()) for name, rows in simple if rows.log_loss.notna().all()}
    return Column(
        arms={arm: scores_of(runs, column, arm).estimate((0, 1)) for arm in arms},
        simple_decoders={name: float(np.mean(rows.value)) for name, rows in simple},
        chance=chance,
        metric="accuracy on held-out trials",
        seconds=float(of_column.seconds.sum()),
        git=None,
        log_loss=losses,
    )


if __name__ == "__main__":
    found = answer_from(sys.argv[1])
    print("\n".join(found.lines()))
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_answer(found, Path(folder, "answer.png"))
        shutil.copy(drawn, RESULTS.parent / "figures" / f"{sys.argv[1]}.png")
