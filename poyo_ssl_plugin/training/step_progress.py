"""How far a training is: one bar on a terminal, a line every tenth of it elsewhere."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from poyo_ssl_plugin.training.throughput import Throughput

logger = logging.getLogger(__name__)


class StepProgress(L.Callback):
    """Shows steps done, the loss, the speed, and the time left.

    Args:
        label: What is trained.
        throughput: Knows the speed.
        console: Where the bar is drawn; standard error by default.
    """

    def __init__(self, label: str, throughput: Throughput, console: Console | None = None) -> None:
        self.label, self.throughput = label, throughput
        self.console = console or Console(stderr=True)
        self.bar: Progress | None = None
        self.total, self.first, self.said, self.began = 0, 0, 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.total, self.first = int(trainer.estimated_stepping_batches), trainer.global_step
        self.said, self.began = self.first, time.monotonic()
        if trainer.is_global_zero and self.console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self.bar = Progress(*columns, TextColumn("{task.fields[loss]}"), console=self.console)
            self.bar.add_task(self.label, total=self.total, completed=self.first, loss="")
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        step = trainer.global_step
        tenth = max(1, self.total // 10)
        if self.bar is not None:
            # Reading the loss makes a GPU wait, so not at every step.
            loss = {"loss": self._state(trainer)} if step % 20 == 0 else {}
            self.bar.update(self.bar.task_ids[0], completed=step, **loss)  # type: ignore[arg-type]
        elif trainer.is_global_zero and step % tenth == 0 and step > self.said:
            self.said = step
            left = (time.monotonic() - self.began) / (step - self.first) * (self.total - step)
            remaining = timedelta(seconds=round(left))
            logger.info("%s: step %d of %d, %s left%s", self.label, step, self.total, remaining, self._state(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def _state(self, trainer: L.Trainer) -> str:
        loss, speed = trainer.callback_metrics.get("train/loss"), str(self.throughput)
        return ("" if loss is None else f", loss {float(loss):.3g}") + (f", {speed}" if speed else "")
