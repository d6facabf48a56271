"""What fine-tuning, testing and comparing ask of a kind of task: all they know of what is decoded.

Tasks with classes are answered here, movie frames in :mod:`poyo_ssl_plugin.frames`. To add a kind, write a
subclass of :class:`Decoding` and name it in :data:`KINDS`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import DictConfig
from torch import nn

from poyo_ssl_plugin.data import Task, fit_task, get_task
from poyo_ssl_plugin.training.data import FinetuningData
from poyo_ssl_plugin.training.finetuning import Finetuning
from poyo_ssl_plugin.training.module import TransferModule
from poyo_ssl_plugin.training.recipe import Inputs, data_options, make_recipe_diet, plain

# Tasks that are no classification, by name. They are imported when they are asked for.
KINDS = {"natural_movie_frames": "poyo_ssl_plugin.frames.task:FrameReconstruction"}


@dataclass(frozen=True)
class Metric:
    """A number by which runs of a kind of task are compared; the greater, the better.

    Attributes:
        key: Its name in logs, as ``valid/<key>`` and ``test/<key>``.
        name: Its name in tables and figures.
        tested: What a test is of, in words.
        samples: What counts as a sample of a test, in words.
        bounds: The least and the greatest value it can have.
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
        config: A resolved fine-tuning recipe.
        inputs: Its recordings, where they are open already.
    """

    metric: ClassVar[Metric]
    task: Task

    def __init__(self, config: DictConfig, inputs: Inputs | None = None) -> None:
        self.config = config

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """How many numbers the model's readout gives for a query."""

    @property
    def has_classes(self) -> bool:
        """Whether outputs are scores of classes, so that prototypes can give them."""
        return self.task.kind == "classification"

    @property
    @abstractmethod
    def chance(self) -> float | None:
        """What guessing gives; ``None`` where there is no such thing."""

    @property
    @abstractmethod
    def label_task(self) -> Task:
        """The classification whose labels an arm may learn from before it is fine-tuned to this task."""

    @abstractmethod
    def describe(self) -> str:
        """What is measured on what, in words."""

    @abstractmethod
    def check(self, *, field: str) -> None:
        """Find what would stop a run before the first one; ``field`` is the activity that is decoded.

        Raises:
            PoyoSSLError: If something would.
        """

    @abstractmethod
    def data(self, inputs: Inputs, *, seed: int = 0) -> FinetuningData:
        """The windows, what they are asked for and the answers."""

    @abstractmethod
    def module(self, model: nn.Module, record: Mapping[str, Any]) -> TransferModule:
        """The Lightning module: the loss, and the ``predictions`` of a test."""

    @abstractmethod
    def test_result(self, predictions: Sequence[Mapping[str, Any]]) -> TestResult:
        """What a test measured, from the module's ``predictions``."""

    def _data_arguments(self, inputs: Inputs) -> tuple[Any, ...]:
        return inputs.dataset, inputs.table, make_recipe_diet(self.config, inputs.table), inputs.split

    def _data_options(self) -> dict[str, Any]:
        return {"label_fraction": self.config.get("label_fraction", 1.0), **data_options(self.config)}


class Classification(Decoding):
    """Tell which of some classes was shown."""

    metric = Metric("accuracy", "accuracy", tested="trials", samples="trials", bounds=(0.0, 1.0))

    def __init__(self, config: DictConfig, inputs: Inputs | None = None) -> None:
        super().__init__(config)
        self.task = get_task(config.task)
        if inputs is not None:
            self.task = fit_task(self.task, inputs.dataset, inputs.split["train"])

    @property
    def n_outputs(self) -> int:
        return self.task.n_outputs

    @property
    def chance(self) -> float:
        return self.task.chance

    @property
    def label_task(self) -> Task:
        return self.task

    def describe(self) -> str:
        return "accuracy on held-out trials"

    def check(self, *, field: str) -> None:
        """Nothing that a recipe and its recordings do not say themselves."""

    def data(self, inputs: Inputs, *, seed: int = 0) -> FinetuningData:
        return FinetuningData(
            *self._data_arguments(inputs),
            task=self.task,
            seed=seed,
            shuffle_labels=self.config.get("shuffle_labels", False),
            **self._data_options(),
        )

    def module(self, model: nn.Module, record: Mapping[str, Any]) -> Finetuning:
        return Finetuning(
            model,
            self.task,
            transfer=self.config.transfer,
            probe_fraction=self.config.probe_fraction,
            label_smoothing=self.config.label_smoothing,
            hyper_parameters=record,
            **plain(self.config.optim, "optimizer", "schedule"),
        )

    def test_result(self, predictions: Sequence[Mapping[str, Any]]) -> TestResult:
        correct = [float(row["label"] == row["prediction"]) for row in predictions]
        return TestResult(sum(correct) / len(correct), len(correct), correct)


def decoding_kind(task: Any) -> type[Decoding]:
    """The kind of a task, by its name or declaration.

    Example:
        >>> decoding_kind("drifting_gratings").metric.name, decoding_kind("natural_movie_frames").metric.name
        ('accuracy', 'SSIM')
    """
    if not isinstance(task, str) or task not in KINDS:
        return Classification
    module, _, name = KINDS[task].partition(":")
    kind: type[Decoding] = getattr(importlib.import_module(module), name)
    return kind


def decoding_of(config: DictConfig, inputs: Inputs | None = None) -> Decoding:
    """What a fine-tuning recipe decodes.

    Args:
        config: A resolved fine-tuning recipe.
        inputs: Its recordings, in whose training time the classes are found where the task does not name them.

    Raises:
        RecipeError: If there is no such task, or its recipe lacks what it needs.
    """
    kind = decoding_kind(config.task)
    return kind(config, inputs)
