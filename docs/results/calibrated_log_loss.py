"""Print the test log-loss of every arm of comparisons, as it is and with a temperature.

    python docs/results/calibrated_log_loss.py runs/few_labels/eighth
    python docs/results/calibrated_log_loss.py runs/diet/*/quarter --reference pretrained

A folder is one of ``poyo-ssl compare`` or of a column of ``poyo-ssl reproduce``; several are data sets, and each
counts once. Scores of classes are divided by one temperature (Guo et al. 2017), so that what is left of a difference is
not owed to an arm that is overconfident. On folds it is fitted for each arm and fold on the tests of the other folds,
else for each run on its validation trials. Differences from the reference are printed with 95 % intervals over data
sets, or over folds of a single one, in nats.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from poyo_ssl_plugin.compare.estimates import Scores, compare_scores
from poyo_ssl_plugin.compare.perform import inputs_of
from poyo_ssl_plugin.compare.record import held_out_by, read_record
from poyo_ssl_plugin.plain import Batch
from poyo_ssl_plugin.training import open_finetuned, read_checkpoint
from poyo_ssl_plugin.training.finetuning import TaskModule
from poyo_ssl_plugin.training.recipe import recorded_recipe
from poyo_ssl_plugin.training.tokens import answered


class Trials(NamedTuple):
    """Scores of classes (R, C), and the class that was shown, (R,)."""

    scores: np.ndarray
    label: np.ndarray

    def losses(self, temperature: float = 1.0) -> np.ndarray:
        """Log-loss of each trial, in nats."""
        return -log_softmax(self.scores / temperature, axis=1)[np.arange(len(self.label)), self.label]


class Run(NamedTuple):
    """A tested run: its arm, fold and seed, and what it says of its test and of its validation trials."""

    arm: str
    fold: int | None
    seed: int
    test: Trials
    valid: Trials | None


def tested(folder: Path) -> Run | None:
    """What the run in a folder says of its trials; ``None`` of a pretraining."""
    said = read_record(folder).get("compare", {}).get("run", {})
    if said.get("stage") != "finetune":
        return None
    checkpoint = folder / "checkpoints" / "last.ckpt"
    recipe = recorded_recipe(read_checkpoint(checkpoint), {}, source=checkpoint)
    opened = open_finetuned(checkpoint, inputs=inputs_of(recipe, held_out_by(folder)))
    module, data = opened.module.eval(), opened.data
    valid = None if said["fold"] is not None else _trials(module, cast("Iterable[Batch]", data.val_dataloader()))
    return Run(said["arm"], said["fold"], said["seed"], _trials(module, data.test_dataloader()), valid)


def _trials(module: TaskModule, batches: Iterable[Batch]) -> Trials:
    with torch.no_grad():
        found = [
            answered(module.adapter, module.model(**batch["inputs"]), batch, module.task.name) for batch in batches
        ]
    return Trials(*(torch.cat(parts).numpy() for parts in zip(*found, strict=True)))


def temperature(parts: Sequence[Trials]) -> float:
    """The temperature at which the log-loss of some trials is least."""

    def loss(log_temperature: float) -> float:
        return float(np.concatenate([trials.losses(np.exp(log_temperature)) for trials in parts]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 5.0), method="bounded").x))


def losses_in(folder: Path) -> pd.DataFrame:
    """A row for each tested run of a comparison: its temperature, and its log-loss without and with it."""
    runs = [run for path in sorted(folder.glob("runs/*/*/run.json")) if (run := tested(path.parent))]
    for arm, n in Counter((run.arm, run.fold, run.seed) for run in runs).items():
        if n > 1:
            raise SystemExit(f"{folder}: {n} runs of {arm[0]} with one seed: give a folder of one comparison only")
    rows = []
    for run in runs:
        others = [other.test for other in runs if other.arm == run.arm and other.fold != run.fold]
        fitted = temperature(others if run.valid is None else [run.valid])
        losses = {"as it is": run.test.losses().mean(), "calibrated": run.test.losses(fitted).mean()}
        rows.append({"data set": str(folder), "arm": run.arm, "fold": run.fold, "temperature": fitted, **losses})
    return pd.DataFrame(rows)


def print_differences(table: pd.DataFrame, measured: str, reference: str) -> None:
    """A line for each arm: its difference from the reference, over data sets or folds."""
    folds = table["data set"].nunique() == 1
    units = table.groupby(["arm", "fold" if folds else "data set"])[measured].mean().unstack()
    for arm in units.index.drop(reference):
        found = (units.loc[name].to_numpy() for name in (arm, reference))
        difference = compare_scores(*(Scores(values if folds else values[:, None], folds) for values in found))
        print(f"{measured}: {arm} - {reference} {difference}, p {difference.p:.3f}")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--reference", default="scratch", help="arm that the others are compared with")
    asked = parser.parse_args()
    table = pd.concat([losses_in(folder) for folder in asked.folders])
    print(table.groupby("arm")[["temperature", "as it is", "calibrated"]].mean().round(3).to_string())
    if len(asked.folders) > 1 or table["fold"].notna().any():
        for measured in ("as it is", "calibrated"):
            print_differences(table, measured, asked.reference)
