"""Time to an accuracy on a real session: the default recipe from scratch, and what one would use instead.

Which second of natural movie one (of 30) is shown, from the unpredictable neurons of session 501574836, on its
recorded split and, ours, as the mean over five folds of its ten repeats. All peers learn from the same windows
and are asked about the same ones; only torch_brain's POYO reads spikes, for it takes nothing else. Time is
processor time of one thread, from opening the recording on, without imports and without the tests in between.
Who has not arrived after so many times the time of ours is stopped, and the ratio is then a lower bound.
POYO_SSL_RECORDINGS names the folder of the session.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from benchmarks.harness import Row, Settings
from poyo_ssl_plugin.compare.references import softmax_regression
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.data.splits import recorded_split, repeat_fold
from poyo_ssl_plugin.predictability import score_dataset
from poyo_ssl_plugin.training import Inputs, prepare_finetuning
from poyo_ssl_plugin.training.run import Prepared
from poyo_ssl_plugin.training.tokens import answered
from poyo_ssl_plugin.training.trainer import quiet_lightning

SESSION = "501574836"
TARGET = 0.85
STEPS_BETWEEN_TESTS = 5
FOLDS = 5
PATIENCE = 10.0
# A step of the paper's model on 64 windows of these neurons would take more than 10 GB.
PEERS = {
    "model=paper": ["model=paper", "data.batch_size=8"],
    "torch_brain.models.POYO": ["model=poyo", "data.field=spikes"],
}


def run(settings: Settings) -> Iterator[Row]:
    torch.set_num_threads(1)
    root = Path(os.environ.get("POYO_SSL_RECORDINGS", ""))
    if not (root / f"{SESSION}.h5").is_file():
        print(f"    (accuracy: {SESSION}.h5 is not here; set POYO_SSL_RECORDINGS to its folder)")
        return
    n_folds = settings.pick(FOLDS, 1)
    folds = [train(root, [], float("inf"), fold, target=float("inf")) for fold in range(n_folds)]
    scores, times = (np.mean([getattr(fold, name) for fold in folds], axis=0) for name in ("scores", "times"))
    arrived = np.flatnonzero(scores >= TARGET)
    yield Row(
        f"time until the mean of {n_folds} folds tells {TARGET:.0%} of the seconds of a movie, default recipe",
        "-",
        float(times[arrived[0]]) if len(arrived) else float("inf"),
        20,
        "<=",
        "s",
        details={"folds": [fold.__dict__ for fold in folds]},
    )
    ours = train(root, [], float("inf"))
    yield Row(
        "  on the recorded split" + ("" if ours.arrived else " (never reached)"),
        "-",
        ours.seconds,
        20,
        "<=",
        "s",
        details=ours.__dict__,
    )
    regression = regress(root)
    yield Row(
        f"  softmax regression, which ends at {regression.scores[-1]:.2f} (ours at {ours.scores[-1]:.2f})",
        "default recipe",
        regression.seconds / ours.seconds,
        0,
        details=regression.__dict__,
    )
    patience = settings.pick(PATIENCE, 1.0)
    for peer, overrides in PEERS.items():
        theirs = train(root, overrides, patience * ours.seconds)
        yield Row(
            f"  {peer}" + ("" if theirs.arrived else f" (at least: stopped at {theirs.scores[-1]:.2f})"),
            "default recipe",
            theirs.seconds / ours.seconds,
            10,
            details=theirs.__dict__,
        )


@dataclass
class Arrival:
    """When a peer arrived, or that it did not.

    Attributes:
        seconds: Processor time until then.
        steps: Steps of training.
        arrived: Whether the accuracy was reached.
        scores: Accuracy on the test at every look.
        times: Processor time until each look.
    """

    seconds: float = 0.0
    steps: int = 0
    arrived: bool = False
    scores: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def recipe(root: Path, *overrides: str) -> Any:
    common = [
        "init_from=null",
        "diet=unpredictable",
        f"data.root={root}",
        f"data.recordings=['{SESSION}']",
        "seeds=[0]",
    ]
    common += ["trainer.accelerator=cpu", f"out_dir={tempfile.gettempdir()}"]
    return compose_recipe("finetune", "natural_movie", [*common, *overrides])


def inputs_of(root: Path, fold: int | None = None) -> Inputs:
    """The session, with a fifth of the movie's repeats held out, or, without a fold, its recorded split."""
    dataset = Recordings(root, [SESSION])
    split = recorded_split(dataset) if fold is None else repeat_fold(dataset, "natural_movie_one", fold, FOLDS)
    return Inputs(dataset, score_dataset(dataset, intervals=split["train"]), split)


def train(root: Path, overrides: list[str], budget: float, fold: int | None = None, target: float = TARGET) -> Arrival:
    """Fine-tune from scratch until the accuracy is reached, the recipe is done or the budget, in seconds, is spent.

    Without a fold the recorded split is taken.
    """
    begin = time.process_time()
    prepared = prepare_finetuning(recipe(root, *overrides), inputs_of(root, fold))
    watch = Watch(prepared, begin, budget, target)
    options = prepared.recipe.trainer
    with quiet_lightning():
        trainer = L.Trainer(
            max_steps=options.max_steps,
            gradient_clip_val=options.gradient_clip_val,
            accelerator="cpu",
            callbacks=[watch],
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(prepared.module, prepared.data)
    return watch.arrival


class Watch(L.Callback):
    """Tests every few steps, outside the time that counts, and ends the training when it has arrived."""

    def __init__(self, prepared: Prepared, begin: float, budget: float, target: float) -> None:
        self.prepared, self.begin, self.budget, self.target = prepared, begin, budget, target
        self.arrival = Arrival()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.arrival.steps, self.arrival.seconds = trainer.global_step, time.process_time() - self.begin
        spent = self.arrival.seconds > self.budget
        if trainer.global_step % STEPS_BETWEEN_TESTS and not spent:
            return
        paused = time.process_time()
        self.arrival.scores.append(test(self.prepared))
        self.arrival.times.append(self.arrival.seconds)
        self.arrival.arrived = self.arrival.scores[-1] >= self.target
        trainer.should_stop = self.arrival.arrived or spent
        self.begin += time.process_time() - paused


@torch.no_grad()
def test(prepared: Prepared) -> float:
    """Accuracy on the test split."""
    module: Any = prepared.module
    module.eval()
    right: list[bool] = []
    for batch in prepared.data.test_dataloader():
        answer, target = answered(module.adapter, module.model(**batch["inputs"]), batch, prepared.decoding.task.name)
        right += (answer.argmax(dim=1) == target).tolist()
    module.train()
    return float(np.mean(right))


def regress(root: Path) -> Arrival:
    """Softmax regression on patch means of the same windows."""
    begin = time.process_time()
    data = prepare_finetuning(recipe(root), inputs_of(root)).data
    parts = []
    for loader in (data.labelled_windows(), data.test_dataloader()):
        batches = list(loader)
        x = np.concatenate([batch["inputs"]["input_values"].mean(-1).flatten(1).numpy() for batch in batches])
        parts += [x, np.concatenate([batch["target"][:, 0].numpy() for batch in batches])]
    x, label, x_test, truth = parts
    score = float((softmax_regression(x, label, x_test) == truth).mean())
    return Arrival(time.process_time() - begin, 0, score >= TARGET, [score])
