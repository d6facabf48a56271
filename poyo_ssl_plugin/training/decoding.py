"""What fine-tuning, testing and comparing ask of a kind of task: all they know of what is decoded.

Classes and numbers are answered here, movie frames in :mod:`poyo_ssl_plugin.frames`. To add a kind, write a
subclass of :class:`Decoding` and name it in :data:`KINDS`.
"""

from __future__ import annotations

import logging
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from torch import nn

from poyo_ssl_plugin.data import Recordings, Task, fit_task, get_task
from poyo_ssl_plugin.data.splits import Split
from poyo_ssl_plugin.data.tasks import FRAMES
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.models import build_model
from poyo_ssl_plugin.plain import ReadOnlyValues, Values
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable
from poyo_ssl_plugin.training.data import FinetuningData
from poyo_ssl_plugin.training.finetuning import Finetuning, RegressionFinetuning
from poyo_ssl_plugin.training.inputs import Inputs
from poyo_ssl_plugin.training.module import TransferModule
from poyo_ssl_plugin.training.recipe import FinetuneRecipe

logger = logging.getLogger(__name__)

# Kind of a task to its class, which is imported when it is asked for.
KINDS = {
    "classification": f"{__name__}:Classification",
    "regression": f"{__name__}:Regression",
    "frames": "poyo_ssl_plugin.frames.task:FrameReconstruction",
}
# Minus the log of the probability of what was shown, in nats: what a classification has beside its accuracy.
LOG_LOSS = "log_loss"
# Moments of a regression within so many seconds are one sample of its test: speed now is much like speed before.
_BLOCK = 10.0


@dataclass(frozen=True)
class Metric:
    """A number by which runs of a kind of task are compared; the greater, the better.

    Attributes:
        key: Its name in logs, as ``valid/<key>`` and ``test/<key>``.
        name: Its name in tables and figures.
        tested: What a test is of, in words.
        samples: What counts as a sample of a test, in words.
        bounds: The least and the greatest value it can have.

    Example:
        >>> metric = decoding_kind("regression").metric
        >>> metric.name, metric.bounds
        ('R2', (-inf, 1.0))
    """

    key: str
    name: str
    tested: str
    samples: str
    bounds: tuple[float, float]


@dataclass(frozen=True)
class TestResult:
    """What a test measured.

    Attributes:
        value: The metric over the whole test.
        n_test: Number of tested moments.
        trials: The metric of each part of the test that counts as a sample, the same parts in all runs of a fold.
        names: Their names, where folds test the same parts anew; such parts are one sample over all folds.
        further: Other numbers of the same test, by name.

    Example:
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.training import parse_recipe
        >>> rows = [{"label": 3, "prediction": 3}, {"label": 5, "prediction": 1}]
        >>> config = compose_recipe("finetune", "scratch", ["task=drifting_gratings"])
        >>> decoding_of(parse_recipe(FinetuneRecipe, config)).test_result(rows)
        TestResult(value=0.5, n_test=2, trials=[1.0, 0.0], names=None, further={})
    """

    __test__ = False  # not one of pytest's

    value: float
    n_test: int
    trials: list[float]
    names: list[str] | None = None
    further: dict[str, float] = field(default_factory=dict)


class Decoding(ABC):
    """A kind of task as a recipe asks for it.

    Args:
        recipe: The fine-tuning recipe.
        inputs: Its recordings, where they are open already.

    Example:
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.training import parse_recipe
        >>> config = compose_recipe("finetune", "scratch", ["task=natural_movie"])
        >>> decoding = decoding_of(parse_recipe(FinetuneRecipe, config))
        >>> decoding.n_outputs, round(decoding.chance, 3), decoding.describe()
        (30, 0.033, 'accuracy on held-out trials')
    """

    metric: ClassVar[Metric]
    # What a test logs beside the metric: its name in results, and its key in the log.
    beside: ClassVar[Mapping[str, str]] = {}
    task: Task

    def __init__(self, recipe: FinetuneRecipe, inputs: Inputs | None = None) -> None:
        self.recipe = recipe

    @property
    def n_outputs(self) -> int:
        """How many numbers the model's readout gives for a query."""
        return self.task.n_outputs

    @property
    def has_classes(self) -> bool:
        """Whether outputs are scores of classes, so that prototypes can give them."""
        return self.task.kind == "classification"

    @property
    def chance(self) -> float | None:
        """What guessing gives; ``None`` where there is no such thing."""
        return self.task.chance

    @property
    def label_task(self) -> Task:
        """The classification whose labels an arm may learn from before it is fine-tuned to this task."""
        return self.task

    def recorded(self) -> str | ReadOnlyValues:
        """The task as a checkpoint's recipe names it; it says what was found in the training labels."""
        return self.recipe.task

    def further(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Of all that a run logged, what its test logged beside the metric, by name."""
        return {name: metrics[key] for name, key in self.beside.items() if key in metrics}

    @abstractmethod
    def describe(self) -> str:
        """What is measured on what, in words."""

    def check(self, *, field: str) -> None:  # noqa: B027  most say it all by their recipe and recordings
        """Find what would stop a run before the first one; ``field`` is the activity that is decoded.

        Raises:
            PoyoSSLError: If something would.
        """

    @abstractmethod
    def data(self, inputs: Inputs, *, seed: int = 0) -> FinetuningData:
        """The windows, what they are asked for and the answers."""

    def model(self, recipe: ReadOnlyValues) -> nn.Module:
        """The model that a recipe names, with a readout for the task."""
        return build_model(recipe, {self.task.name: self.n_outputs}, classes=self.has_classes)

    @abstractmethod
    def module(self, model: nn.Module, record: ReadOnlyValues) -> TransferModule:
        """The Lightning module: the loss, and the ``predictions`` of a test."""

    @abstractmethod
    def test_result(self, predictions: Sequence[ReadOnlyValues]) -> TestResult:
        """What a test measured, from the module's ``predictions``."""

    def _data_arguments(self, inputs: Inputs) -> tuple[Recordings, PredictabilityTable, Diet, Split]:
        return inputs.dataset, inputs.table, self.recipe.make_diet(inputs.table), inputs.split

    def _data_options(self) -> Values:
        return {"label_fraction": self.recipe.label_fraction, **self.recipe.data.of_windows()}

    def _module_options(self, record: ReadOnlyValues) -> Values:
        return {
            "transfer": self.recipe.transfer,
            "probe_fraction": self.recipe.probe_fraction,
            "hyper_parameters": record,
            "optimizer": self.recipe.optim.optimizer,
            "schedule": self.recipe.optim.schedule,
        }


class LabelDecoding(Decoding):
    """Decode the labels of a column: what classes and numbers have in common."""

    def __init__(self, recipe: FinetuneRecipe, inputs: Inputs | None = None) -> None:
        super().__init__(recipe)
        self.task = get_task(recipe.task)
        if inputs is not None:
            self.task = fit_task(self.task, inputs.dataset, inputs.split["train"])

    def recorded(self) -> str | ReadOnlyValues:
        return self.recipe.task if get_task(self.recipe.task).is_fitted else self.task.to_dict()

    def data(self, inputs: Inputs, *, seed: int = 0) -> FinetuningData:
        return FinetuningData(
            *self._data_arguments(inputs),
            task=self.task,
            seed=seed,
            shuffle_labels=self.recipe.shuffle_labels,
            **self._data_options(),
        )


class Classification(LabelDecoding):
    """Tell which of some classes was shown."""

    metric = Metric("accuracy", "accuracy", tested="trials", samples="trials", bounds=(0.0, 1.0))
    beside: ClassVar[Mapping[str, str]] = {LOG_LOSS: "test/loss"}

    def describe(self) -> str:
        return "accuracy on held-out trials"

    def module(self, model: nn.Module, record: ReadOnlyValues) -> Finetuning:
        smoothing = self.recipe.label_smoothing
        return Finetuning(model, self.task, label_smoothing=smoothing, **self._module_options(record))

    def test_result(self, predictions: Sequence[ReadOnlyValues]) -> TestResult:
        correct = [float(row["label"] == row["prediction"]) for row in predictions]
        return TestResult(sum(correct) / len(correct), len(correct), correct)


class Regression(LabelDecoding):
    """Tell the value of one or several numbers, of trials or of a time series."""

    metric = Metric(
        "r2", "R2", tested="tested moments", samples=f"blocks of {_BLOCK:g} s of the test", bounds=(-math.inf, 1.0)
    )

    def describe(self) -> str:
        return "R2 within each recording, at held-out moments"

    def module(self, model: nn.Module, record: ReadOnlyValues) -> RegressionFinetuning:
        return RegressionFinetuning(model, self.task, loss=self.recipe.regression_loss, **self._module_options(record))

    def test_result(self, predictions: Sequence[ReadOnlyValues]) -> TestResult:
        """R2 within each recording, weighted by its moments; the mean over targets.

        A moment counts 1 minus its squared error over the variance of its recording's test, so that the mean
        over moments is R2. The samples are blocks of ten seconds, whose mean it is too.

        Raises:
            RecordingError: If no recording's test varies.
        """
        gains: list[float] = []
        blocks: dict[str, list[float]] = {}
        for name in sorted({row["recording_id"] for row in predictions}):
            rows = [row for row in predictions if row["recording_id"] == name]
            label, predicted = (np.array([row[key] for row in rows]) for key in ("label", "prediction"))
            variance = label.var(axis=0)
            if not (variance > 0).all():
                logger.warning("recording %s: its test targets do not vary, so it has no R2 and is left out", name)
                continue
            of_recording = (1 - (predicted - label) ** 2 / variance).mean(axis=1).tolist()
            gains += of_recording
            for row, gain in zip(rows, of_recording, strict=True):
                blocks.setdefault(f"{name}/{row['time'] // _BLOCK:g}", []).append(gain)
        if not gains:
            raise RecordingError(f"task {self.task.name!r}: its test targets do not vary in any recording")
        # A block counts by its moments: the mean over blocks is R2, and differences of arms are those of their R2.
        samples = [sum(values) * len(blocks) / len(gains) for values in blocks.values()]
        return TestResult(float(np.mean(gains)), len(gains), samples, list(blocks))


def task_kind(task: str | ReadOnlyValues | Task) -> str:
    """The kind of a task, by its name or declaration: ``"classification"``, ``"regression"`` or ``"frames"``.

    Example:
        >>> task_kind("drifting_gratings"), task_kind("{name: speed, source: running, label: v, kind: regression}")
        ('classification', 'regression')
    """
    return "frames" if task == FRAMES else get_task(task).kind


def decoding_kind(kind: str) -> type[Decoding]:
    """The class that decodes a kind of task.

    Example:
        >>> decoding_kind("classification").metric.name, decoding_kind("frames").metric.name
        ('accuracy', 'SSIM')
    """
    found: type[Decoding] = pkgutil.resolve_name(KINDS[kind])
    return found


def decoding_of(recipe: FinetuneRecipe, inputs: Inputs | None = None) -> Decoding:
    """What a fine-tuning recipe decodes.

    Args:
        recipe: The fine-tuning recipe.
        inputs: Its recordings, in whose training time the classes are found where the task does not name them.

    Raises:
        RecipeError: If there is no such task, or its recipe lacks what it needs.

    Example:
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.training import parse_recipe
        >>> config = compose_recipe("finetune", "scratch", ["task=drifting_gratings"])
        >>> decoding = decoding_of(parse_recipe(FinetuneRecipe, config))
        >>> decoding.task.classes, decoding.metric.name
        ((0, 1, 2, 3, 4, 5, 6, 7), 'accuracy')
    """
    return decoding_kind(task_kind(recipe.task))(recipe, inputs)
