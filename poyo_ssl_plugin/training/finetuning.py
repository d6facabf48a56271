"""The fine-tuning step: decode a task, in stages if the weights were pretrained."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics import Metric, R2Score
from torchmetrics.classification import MulticlassAccuracy

from poyo_ssl_plugin.data import Task
from poyo_ssl_plugin.data.splits import PARTS
from poyo_ssl_plugin.data.tasks import IGNORED
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import adapt, run_with_latents
from poyo_ssl_plugin.plain import Batch, Values
from poyo_ssl_plugin.training.module import TransferModule
from poyo_ssl_plugin.training.tokens import answered

REGRESSION_LOSSES = {"smooth_l1": F.smooth_l1_loss, "mse": F.mse_loss, "l1": F.l1_loss}


class TaskModule(TransferModule):
    """Supervised training of a POYO-family model on one task; how answers are scored is the subclass's.

    Args:
        model: The model, its vocabularies initialised, with a readout of the task's name.
        task: The task, fitted.
        **options: As :class:`TransferModule`.
    """

    metric_name: ClassVar[str]

    def __init__(self, model: nn.Module, task: Task, **options: Any) -> None:
        super().__init__(model, **options)
        self.adapter = adapt(model)
        self.task = task
        # A name of its own for each: "train" is a method of modules.
        self.metrics = nn.ModuleDict({f"of_{part}": self.make_metric() for part in PARTS})

    @abstractmethod
    def make_metric(self) -> Metric:
        """The metric that is logged, unfilled."""

    @abstractmethod
    def loss(self, answer: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of the answers (K, D_out) to the real queries of a batch."""

    @abstractmethod
    def row(self, answer: torch.Tensor, target: torch.Tensor) -> Values | None:
        """Label and prediction of one tested moment, as they are kept; ``None`` for one without a label."""

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        return self._score(self.model(**batch["inputs"]), batch, "train")

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        latent_pass = run_with_latents(self.model, batch["inputs"])
        self.health.update(latent_pass.processor_latents)
        self._score(latent_pass.output, batch, "valid")

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Keep one row per trial of the test; trial windows ask one question each."""
        output = self.model(**batch["inputs"])
        self._score(output, batch, "test")
        answer, target = answered(self.adapter, output, batch, self.task.name)
        times = (batch["start"] + batch["inputs"]["output_timestamps"][:, 0].cpu()).tolist()
        for recording, time, *pair in zip(batch["recording_id"], times, answer, target, strict=True):
            if (row := self.row(*pair)) is not None:
                self.predictions.append({"recording_id": recording, "time": round(time, 4), **row})

    def on_train_epoch_end(self) -> None:
        """Say the metric of the epoch; by hand, so that a resumed epoch counts all of its batches."""
        metric = self._metric("train")
        self.log(f"train/{self.metric_name}", metric.compute(), prog_bar=True)
        metric.reset()

    def _metric(self, part: str) -> Metric:
        return cast("Metric", self.metrics[f"of_{part}"])

    def _score(self, output: torch.Tensor | dict[str, torch.Tensor], batch: Batch, part: str) -> torch.Tensor:
        answer, target = answered(self.adapter, output, batch, self.task.name)
        loss = self.loss(answer, target)
        metric = self._metric(part)
        metric.update(answer.detach(), target)
        size = len(batch["target"])
        self.log(f"{part}/loss", loss.detach(), batch_size=size, prog_bar=True, on_epoch=part != "train")
        if part != "train":
            name = f"{part}/{self.metric_name}"
            self.log(name, metric, batch_size=size, prog_bar=True, on_epoch=True, on_step=False)
        return loss


class Finetuning(TaskModule):
    """Learn a classification.

    Args:
        model: The model, its vocabularies initialised, with a readout of the task's name.
        task: The classification, fitted.
        label_smoothing: Of the cross-entropy in training; validation and test have none, so that theirs is the
            log-loss in nats.
        **options: ``transfer`` and ``probe_fraction``, see ``poyo-ssl show transfer``, and what
            :class:`Pretraining` takes as options.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> task = Task("turn", source="trials", label="turn", classes=("left", "right"))
        >>> model = CalciumPOYO(sequence_length=2.0, latent_step=0.5, dim_out={"turn": 2}, dim=16)
        >>> module = Finetuning(model, task, optimizer={"lr": 1e-3}, schedule={}, hyper_parameters={})
        >>> module.row(torch.tensor([0.1, 2.0]), torch.tensor(0))  # numbers of classes
        {'label': 0, 'prediction': 1}
    """

    metric_name = "accuracy"

    def __init__(self, model: nn.Module, task: Task, *, label_smoothing: float = 0.0, **options: Any) -> None:
        super().__init__(model, task, **options)
        self.label_smoothing = label_smoothing

    def make_metric(self) -> Metric:
        return MulticlassAccuracy(self.task.n_classes, average="micro", ignore_index=IGNORED)

    def loss(self, answer: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(answer, target, ignore_index=IGNORED, label_smoothing=smoothing)

    def row(self, answer: torch.Tensor, target: torch.Tensor) -> Values:
        return {"label": int(target), "prediction": int(answer.argmax())}


class RegressionFinetuning(TaskModule):
    """Learn a regression: targets are in standard deviations of the training time, predictions in their own units.

    Args:
        model: The model, its vocabularies initialised, with a readout of the task's name.
        task: The regression, fitted.
        loss: ``"smooth_l1"``, ``"mse"`` or ``"l1"``.
        **options: As :class:`Finetuning`.

    Raises:
        RecipeError: If the loss is unknown.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> task = Task("speed", source="running", label="speed", kind="regression", mean=(5.0,), std=(2.0,))  # cm/s
        >>> model = CalciumPOYO(sequence_length=2.0, latent_step=0.5, dim_out={"speed": 1}, dim=16, readout="linear")
        >>> module = RegressionFinetuning(model, task, optimizer={"lr": 1e-3}, schedule={}, hyper_parameters={})
        >>> module.row(torch.tensor([0.5]), torch.tensor([0.0]))
        {'label': [5.0], 'prediction': [6.0]}
    """

    metric_name = "r2"

    def __init__(self, model: nn.Module, task: Task, *, loss: str = "smooth_l1", **options: Any) -> None:
        super().__init__(model, task, **options)
        if loss not in REGRESSION_LOSSES:
            raise RecipeError(f"regression_loss must be {', '.join(REGRESSION_LOSSES)}, not {loss!r}")
        self.distance = REGRESSION_LOSSES[loss]

    def make_metric(self) -> Metric:
        return KnownR2()

    def loss(self, answer: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        known = target.isfinite()
        # Without any label the sum keeps the readout in the graph.
        return self.distance(answer[known], target[known]) if known.any() else 0.0 * answer.sum()

    def row(self, answer: torch.Tensor, target: torch.Tensor) -> Values | None:
        if not target.isfinite().all():
            return None
        return {"label": self._in_units(target), "prediction": self._in_units(answer)}

    def _in_units(self, values: torch.Tensor) -> list[float]:
        scaled = zip(values.tolist(), self.task.mean, self.task.std, strict=True)
        return [float(f"{value * std + mean:.7g}") for value, mean, std in scaled]


class KnownR2(R2Score):
    """torchmetrics' R2, the mean over targets, of the moments whose targets are all known; NaN of fewer than two."""

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        known = target.isfinite().all(dim=1)
        if known.any():
            super().update(preds[known].float(), target[known])

    def compute(self) -> torch.Tensor:
        return super().compute() if self.total >= 2 else torch.tensor(float("nan"), device=self.device)
