"""The fine-tuning step: decode a task, in stages if the weights were pretrained."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from poyo_ssl_plugin.data import Task
from poyo_ssl_plugin.data.tasks import IGNORED
from poyo_ssl_plugin.models import adapt, run_with_latents
from poyo_ssl_plugin.training.module import TransferModule
from poyo_ssl_plugin.training.tokens import answered


class Finetuning(TransferModule):
    """Supervised training of a POYO-family model on one classification task.

    Args:
        model: The model, its vocabularies initialised, with a readout of the task's name.
        task: The task.
        label_smoothing: Of the cross-entropy.
        **options: As :class:`TransferModule`.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        label_smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.adapter = adapt(model)
        self.task = task
        self.label_smoothing = label_smoothing
        self.accuracy = nn.ModuleDict({f"{part}_accuracy": _accuracy(task) for part in ("train", "valid", "test")})
        self.predictions = []

    def training_step(self, batch: dict[str, Any], batch_index: int) -> torch.Tensor:
        return self._score(self.model(**batch["inputs"]), batch, "train")

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        latent_pass = run_with_latents(self.model, batch["inputs"])
        self.health.update(latent_pass.processor_latents)
        self._score(latent_pass.output, batch, "valid")

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        output = self.model(**batch["inputs"])
        self._score(output, batch, "test")
        self._keep_predictions(answered(self.adapter, output, batch, self.task.name)[0], batch)

    def on_train_epoch_end(self) -> None:
        """Say the accuracy of the epoch; by hand, so that a resumed epoch counts all of its batches."""
        metric: Any = self.accuracy["train_accuracy"]
        self.log("train/accuracy", metric.compute(), prog_bar=True)
        metric.reset()

    def on_test_epoch_start(self) -> None:
        self.predictions = []

    def _score(self, output: Any, batch: dict[str, Any], part: str) -> torch.Tensor:
        logits, target = answered(self.adapter, output, batch, self.task.name)
        loss = F.cross_entropy(logits, target, ignore_index=IGNORED, label_smoothing=self.label_smoothing)
        metric: Any = self.accuracy[f"{part}_accuracy"]
        metric.update(logits, target)
        size = len(batch["target"])
        self.log(f"{part}/loss", loss.detach(), batch_size=size, prog_bar=True, on_epoch=part != "train")
        if part != "train":
            self.log(f"{part}/accuracy", metric, batch_size=size, prog_bar=True, on_epoch=True, on_step=False)
        return loss

    def _keep_predictions(self, logits: torch.Tensor, batch: dict[str, Any]) -> None:
        """One row per trial of the test; trial windows ask one question each."""
        target = batch["target"][:, 0].tolist()
        times = (batch["start"] + batch["inputs"]["output_timestamps"][:, 0].cpu()).tolist()
        chosen = logits.argmax(dim=-1).tolist()
        for recording, time, label, prediction in zip(batch["recording_id"], times, target, chosen, strict=True):
            self.predictions.append(
                {"recording_id": recording, "time": round(time, 4), "label": label, "prediction": prediction}
            )


def _accuracy(task: Task) -> MulticlassAccuracy:
    return MulticlassAccuracy(task.n_classes, average="micro", ignore_index=IGNORED)
