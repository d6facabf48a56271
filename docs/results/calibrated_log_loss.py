"""Print the test log-loss of every arm of a comparison on folds, as it is and with a temperature.

    python docs/results/calibrated_log_loss.py runs/few_labels/eighth

The folder is one of ``poyo-ssl compare folds=N`` or of a column of ``poyo-ssl reproduce``. Scores of classes
are divided by one temperature (Guo et al. 2017), which is fitted for each arm and fold on the tests of the
other folds. What is left of a difference is not owed to an arm that is too sure of itself. Differences are from
``scratch``, with 95 % intervals over folds, in nats.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from poyo_ssl_plugin.compare.estimates import Scores, compare_scores
from poyo_ssl_plugin.compare.perform import inputs_of
from poyo_ssl_plugin.compare.record import held_out_by, read_record
from poyo_ssl_plugin.training import open_finetuned, read_checkpoint
from poyo_ssl_plugin.training.recipe import recorded_recipe
from poyo_ssl_plugin.training.tokens import answered


class Test(NamedTuple):
    """A tested run: its arm, fold and seed, scores of classes (R, C) and the class shown, (R,)."""

    arm: str
    fold: int
    seed: int
    scores: np.ndarray
    label: np.ndarray

    def losses(self, temperature: float = 1.0) -> np.ndarray:
        """Log-loss of each trial, in nats."""
        return -log_softmax(self.scores / temperature, axis=1)[np.arange(len(self.label)), self.label]


def tested(folder: Path) -> Test | None:
    """What the run in a folder says of its test; ``None`` of a pretraining."""
    said = read_record(folder).get("compare", {}).get("run", {})
    if said.get("stage") != "finetune":
        return None
    checkpoint = folder / "checkpoints" / "last.ckpt"
    recipe = recorded_recipe(read_checkpoint(checkpoint), {}, source=checkpoint)
    opened = open_finetuned(checkpoint, inputs=inputs_of(recipe, held_out_by(folder)))
    module, found = opened.module.eval(), []
    with torch.no_grad():
        for batch in opened.data.test_dataloader():
            output = module.model(**batch["inputs"])
            found.append(answered(module.adapter, output, batch, module.task.name))
    scores, label = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return Test(said["arm"], said["fold"], said["seed"], scores, label)


def temperature(tests: Iterable[Test]) -> float:
    """The temperature at which the log-loss of some tests is least."""
    tests = list(tests)

    def loss(log_temperature: float) -> float:
        return float(np.concatenate([test.losses(np.exp(log_temperature)) for test in tests]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 5.0), method="bounded").x))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    runs = [test for path in sorted(Path(sys.argv[1]).glob("runs/*/*/run.json")) if (test := tested(path.parent))]
    rows = []
    for run in runs:
        others = (other for other in runs if other.arm == run.arm and other.fold != run.fold)
        fitted = temperature(others)
        losses = {"as it is": run.losses().mean(), "calibrated": run.losses(fitted).mean()}
        rows.append({"arm": run.arm, "fold": run.fold, "temperature": fitted, **losses})
    table = pd.DataFrame(rows)
    print(table.groupby("arm")[["temperature", "as it is", "calibrated"]].mean().round(3).to_string())
    for measured in ("as it is", "calibrated"):
        folds = table.groupby(["arm", "fold"])[measured].mean().unstack()
        for arm in folds.index.drop("scratch"):
            difference = compare_scores(*(Scores(folds.loc[name].to_numpy(), folds=True) for name in (arm, "scratch")))
            print(f"{measured}: {arm} - scratch {difference}, p {difference.p:.3f}")
