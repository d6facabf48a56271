"""What differs between kinds of task in a comparison: the number that is measured, and how it is come by.

A task that is told among classes is measured by accuracy, one that reconstructs frames by their similarity. Everything
else of a comparison (arms, folds, seeds, statistics, report) asks the :class:`Metric` of its task and knows no more.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from poyo_ssl_plugin.compare.neurons import diet_of
from poyo_ssl_plugin.compare.references import Decoded, run_baselines
from poyo_ssl_plugin.compare.statistics import binomial_interval
from poyo_ssl_plugin.data import MOVIE_FRAMES_TASK, TASKS, Recordings, Task, get_task
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.recordings import TRACES

if TYPE_CHECKING:
    from poyo_ssl_plugin.compare.cost import Cost
    from poyo_ssl_plugin.training import Inputs, RunResult


@dataclass(frozen=True)
class TestResult:
    """A fine-tuning run and its test.

    Attributes:
        run: The run.
        value: What the test measured.
        n_test: Number of tested moments.
        trials: The value of each part of the test that counts as a sample, the same parts in all runs of a fold.
        names: Their names, where folds test the same parts anew; such parts are one sample over all folds.
    """

    run: RunResult
    value: float
    n_test: int
    trials: list[float]
    names: list[str] | None = None


class Metric(ABC):
    """A number by which runs of a kind of task are compared; the greater, the better.

    Attributes:
        name: Its name in tables and figures.
        tested: What a test is of, in words.
        samples: What counts as a sample of a test, in words.
        bounds: The least and the greatest value it can have.
        logged: Its name on validation time in the logs of a run.
    """

    name: str
    tested: str
    samples: str
    bounds: tuple[float, float]
    logged: str

    @abstractmethod
    def describe(self, config: DictConfig) -> str:
        """What is measured on what, in words, given the fine-tuning recipe."""

    @abstractmethod
    def chance(self, task: Task) -> float | None:
        """What guessing gives; ``None`` where there is no such thing."""

    @abstractmethod
    def label_task(self, task: Task) -> Task:
        """The classification whose labels an arm may learn from before it is fine-tuned to ``task``."""

    @abstractmethod
    def check(self, config: DictConfig, *, field: str) -> None:
        """Find what would stop a run before the first one.

        Args:
            config: The fine-tuning recipe of an arm, ``data.root`` set.
            field: The activity that is scored and decoded.

        Raises:
            PoyoSSLError: If something would.
        """

    @abstractmethod
    def finetune(self, config: DictConfig, inputs: Inputs, *, seed: int) -> TestResult:
        """Fine-tune and test once."""

    @abstractmethod
    def baselines(
        self, config: DictConfig, folds: Iterable[Inputs], *, task: Task, field: str
    ) -> dict[str, dict[str, Any]]:
        """Simple decoders on the same neurons, windows and folds.

        Returns:
            Name of a decoder to its ``value`` over all folds, ``n_test``, and ``ci95``.
        """

    @abstractmethod
    def cost(self, config: DictConfig, inputs: Inputs, checkpoint: str | Path) -> tuple[Cost, Cost]:
        """What the model costs as it is fine-tuned, and as it is pretrained."""


class Accuracy(Metric):
    """Share of test trials told right."""

    name = "accuracy"
    tested = "trials"
    samples = "trials"
    bounds = (0.0, 1.0)
    logged = "valid/accuracy"

    def describe(self, config: DictConfig) -> str:
        return "accuracy on held-out trials"

    def chance(self, task: Task) -> float | None:
        return 1 / task.n_classes

    def label_task(self, task: Task) -> Task:
        return task

    def check(self, config: DictConfig, *, field: str) -> None:
        """Nothing that a recipe and its recordings do not say themselves."""

    def finetune(self, config: DictConfig, inputs: Inputs, *, seed: int) -> TestResult:
        from poyo_ssl_plugin.training import finetune

        run = finetune(config, inputs, seed=seed)
        correct = [int(row["label"] == row["prediction"]) for row in run.predictions]
        return TestResult(run, run.metrics["test/accuracy"], len(correct), list(correct))

    def baselines(
        self, config: DictConfig, folds: Iterable[Inputs], *, task: Task, field: str
    ) -> dict[str, dict[str, Any]]:
        total: dict[str, Decoded] = {}
        for inputs in folds:
            found = run_baselines(
                inputs.dataset,
                diet_of(config, inputs.table),
                task,
                inputs.split,
                field=field,
                label_fraction=config.label_fraction,
            )
            for name, decoded in found.items():
                total[name] = total.get(name, Decoded(0, 0)) + decoded
        return {name: decoded_row(decoded) for name, decoded in total.items()}

    def cost(self, config: DictConfig, inputs: Inputs, checkpoint: str | Path) -> tuple[Cost, Cost]:
        from poyo_ssl_plugin.compare.cost import measure_cost
        from poyo_ssl_plugin.training import open_finetuned

        opened = open_finetuned(checkpoint, inputs=inputs)
        batch = next(iter(opened.data.test_dataloader()))
        cost = measure_cost(opened.module.model, batch["inputs"], len(batch["target"]))
        return cost, cost


class FrameSimilarity(Metric):
    """Mean structural similarity of reconstructed movie frames with those shown, over tested presentations."""

    name = "SSIM"
    tested = "shown frames"
    samples = "seconds of the movie"
    bounds = (-1.0, 1.0)
    logged = "valid/ssim"

    def describe(self, config: DictConfig) -> str:
        from poyo_ssl_plugin.experiments.frame_scores import METRIC

        return METRIC[config.frames.protocol]

    def chance(self, task: Task) -> float | None:
        return None

    def label_task(self, task: Task) -> Task:
        # Frames are no classes; which second of the same movie it is, is told among 30.
        return get_task("natural_movie")

    def check(self, config: DictConfig, *, field: str) -> None:
        from poyo_ssl_plugin.training.frames import read_movie

        if config.shuffle_labels:
            raise RecipeError(
                f"the task {MOVIE_FRAMES_TASK.name!r} has images and no labels to shuffle (shuffle_labels=true); leave "
                "it out of arms=[...], and take task=natural_movie for that control"
            )
        if field != TRACES:
            raise RecipeError(f"frames are reconstructed from {TRACES} only, not from field={field}")
        read_movie(config)

    def finetune(self, config: DictConfig, inputs: Inputs, *, seed: int) -> TestResult:
        from poyo_ssl_plugin.experiments.frame_scores import second_means
        from poyo_ssl_plugin.training import finetune_frames

        run = finetune_frames(config, inputs, seed=seed)
        scores = [row["ssim"] for row in run.predictions]
        seconds = second_means(run.predictions, scores)
        return TestResult(run, float(np.mean(scores)), len(scores), list(seconds.values()), list(seconds))

    def baselines(
        self, config: DictConfig, folds: Iterable[Inputs], *, task: Task, field: str
    ) -> dict[str, dict[str, Any]]:
        from poyo_ssl_plugin.experiments.frame_baselines import run_frame_baselines
        from poyo_ssl_plugin.experiments.frame_scores import over_seconds, score_frames
        from poyo_ssl_plugin.training.frames import frame_data, read_movie

        movie, frames = read_movie(config)
        rows: list[dict[str, Any]] = []
        scores: dict[str, list[float]] = {}
        for inputs in folds:
            # One recording after another: reconstructions of all of them are large.
            for recording in frame_data(config, inputs, frames).recordings:
                alone = dataclasses.replace(inputs, dataset=Recordings(inputs.dataset.dataset_dir, [recording]))
                data = frame_data(config, alone, frames)
                shown = data.trials("test")[recording].label
                if len(shown) == 0:
                    continue
                rows += [{"recording_id": recording, "frame": int(frame)} for frame in shown]
                for name, images in run_frame_baselines(data, movie, leave_out=config.frames.protocol).items():
                    scores.setdefault(name, []).extend(score_frames(images, shown, movie)["ssim"].tolist())
        found = {}
        for name, values in scores.items():
            interval = over_seconds(rows, values)
            found[name] = {
                "value": float(np.mean(values)),
                "n_test": len(values),
                "ci95": interval.ci95,
            }
        return found

    def cost(self, config: DictConfig, inputs: Inputs, checkpoint: str | Path) -> tuple[Cost, Cost]:
        import torch

        from poyo_ssl_plugin.compare.cost import measure_cost
        from poyo_ssl_plugin.models import SkipConnectionDecoder
        from poyo_ssl_plugin.training.frames import frame_data, read_movie
        from poyo_ssl_plugin.training.recipe import build_model, initialise, resolved

        # Weights do not change the cost: those of the checkpoint are not needed, nor any pretrained ones.
        config = resolved(config)
        config.init_from = None
        movie, frames = read_movie(config)
        data = frame_data(config, inputs, frames)
        model = build_model(config, data, {MOVIE_FRAMES_TASK.name: config.decoder.latent_dim})
        initialise(model, config, data, keep_words=False)
        batch = next(iter(data.test_dataloader()))
        model_cost = measure_cost(model, batch["inputs"], len(batch["target"]))
        latent = {"latent": torch.zeros(1, config.decoder.latent_dim)}
        decoder = measure_cost(SkipConnectionDecoder(size=movie.size, **config.decoder), latent, 1)
        both = dataclasses.replace(
            model_cost,
            parameters=model_cost.parameters + decoder.parameters,
            forward_flops=model_cost.forward_flops + decoder.forward_flops,
        )
        return both, model_cost


_ACCURACY, _FRAMES = Accuracy(), FrameSimilarity()


def decoded_task(name: str) -> Task:
    """A task that can be compared, by name.

    Raises:
        RecipeError: If there is none of that name.

    Example:
        >>> decoded_task("natural_movie_frames").source
        'natural_movie_one'
    """
    tasks = {**TASKS, MOVIE_FRAMES_TASK.name: MOVIE_FRAMES_TASK}
    if name not in tasks:
        raise RecipeError(f"unknown task {name!r}; there are {', '.join(tasks)}")
    return tasks[name]


def metric_of(task: str) -> Metric:
    """The measure of a task, by the task's name.

    Example:
        >>> metric_of("drifting_gratings").name, metric_of("natural_movie_frames").name
        ('accuracy', 'SSIM')
    """
    return _FRAMES if task == MOVIE_FRAMES_TASK.name else _ACCURACY


def decoded_row(decoded: Decoded) -> dict[str, Any]:
    """What is said of a simple decoder that was counted by trials."""
    interval = binomial_interval(decoded.correct, decoded.n)
    return {"value": decoded.accuracy, "n_test": decoded.n, "ci95": list(interval)}


def reference_lines(summary: Mapping[str, Any]) -> dict[str, float]:
    """Name to value of what arms are drawn against: chance, where there is any, and the simple decoders."""
    chance = {} if summary["chance"] is None else {"chance": summary["chance"]}
    return {**chance, **{name: found["value"] for name, found in summary["baselines"].items()}}
