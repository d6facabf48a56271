"""What a comparison asks of its task beside a test: simple decoders on the same trials, and what a model costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from poyo_ssl_plugin.compare.estimates import binomial_interval, estimate
from poyo_ssl_plugin.compare.references import Decoded, regression_references, run_references
from poyo_ssl_plugin.data import Task, get_task
from poyo_ssl_plugin.frames import FRAMES_TASK

if TYPE_CHECKING:
    from poyo_ssl_plugin.compare.cost import Cost
    from poyo_ssl_plugin.training import Inputs, Metric, TestResult


def decoded_task(name: str) -> Task:
    """A task that can be compared, by name.

    Raises:
        RecipeError: If there is none of that name.

    Example:
        >>> decoded_task("natural_movie_frames").source
        'natural_movie_one'
    """
    return FRAMES_TASK if name == FRAMES_TASK.name else get_task(name)


def metric_of(task: str, kind: str | None = None) -> Metric:
    """The metric of a task, by the task's name or declaration, or by its kind where a result names that.

    Example:
        >>> metric_of("drifting_gratings").name, metric_of("natural_movie_frames").name, metric_of("running").name
        ('accuracy', 'SSIM', 'R2')
    """
    from poyo_ssl_plugin.training import decoding_kind, task_kind

    return decoding_kind(kind or task_kind(task)).metric


def reference_rows(config: DictConfig, folds: Iterable[Inputs]) -> dict[str, dict[str, Any]]:
    """Test simple decoders on the neurons, windows and folds of a fine-tuning recipe.

    Returns:
        Name of a decoder to its ``value`` over all folds, ``n_test``, and ``ci95``.
    """
    if config.task == FRAMES_TASK.name:
        from poyo_ssl_plugin.frames.simple_decoders import frame_references
        from poyo_ssl_plugin.frames.task import FrameReconstruction

        return {
            name: tested_row(result) for name, result in frame_references(FrameReconstruction(config), folds).items()
        }
    if get_task(config.task).kind == "regression":
        return {name: tested_row(result) for name, result in regression_references(config, folds).items()}
    total: dict[str, Decoded] = {}
    for inputs in folds:
        for name, decoded in run_references(config, inputs).items():
            total[name] = total.get(name, Decoded(0, 0)) + decoded
    return {
        name: {"value": of.accuracy, "n_test": of.n, "ci95": list(binomial_interval(of.correct, of.n))}
        for name, of in total.items()
    }


def tested_row(result: TestResult) -> dict[str, Any]:
    """What is said of a test whose samples are no trials."""
    return {"value": result.value, "n_test": result.n_test, "ci95": estimate(result.trials).ci95, **result.further}


def model_cost(checkpoint: str | Path, inputs: Inputs) -> tuple[Cost, Cost]:
    """What a fine-tuned model costs, and what it cost as it was pretrained, without what is fine-tuned beside it."""
    import torch

    from poyo_ssl_plugin.compare.cost import measure_cost
    from poyo_ssl_plugin.training import open_finetuned

    opened = open_finetuned(checkpoint, inputs=inputs)
    batch = next(iter(opened.data.test_dataloader()))
    model = measure_cost(opened.module.model, batch["inputs"], len(batch["target"]))
    if opened.decoding.task.name != FRAMES_TASK.name:
        return model, model
    latent = {"latent": torch.zeros(1, opened.decoding.n_outputs)}
    decoder = measure_cost(opened.module.get_submodule("decoder"), latent, 1)
    flops = model.forward_flops + decoder.forward_flops
    return dataclasses.replace(model, parameters=model.parameters + decoder.parameters, forward_flops=flops), model


def reference_lines(summary: Mapping[str, Any]) -> dict[str, float]:
    """Name to value of what arms are drawn against: chance, where there is any, and the simple decoders."""
    chance = {} if summary["chance"] is None else {"chance": summary["chance"]}
    return {**chance, **{name: found["value"] for name, found in summary["baselines"].items()}}
