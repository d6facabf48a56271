"""What a recipe asks for: recordings and neurons, tasks, and the options of windows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from poyo_ssl_plugin.data import Recordings, Task, fit_task, get_task
from poyo_ssl_plugin.data.check import usable_recordings
from poyo_ssl_plugin.data.splits import Split, recorded_split
from poyo_ssl_plugin.data.transforms import activity_field
from poyo_ssl_plugin.errors import CheckpointError, RecipeError
from poyo_ssl_plugin.models.architecture import refuse_unknown_classes
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable, make_diet, score_dataset
from poyo_ssl_plugin.training.activity import Activity

logger = logging.getLogger(__name__)

_ABSENT = object()

# Whole numbers of a recipe, and the least that each may be.
_LEAST = {
    "seed": 0,
    "data.batch_size": 1,
    "data.num_workers": 0,
    "trainer.max_steps": -1,
    "trainer.max_epochs": 0,
    "trainer.val_every_n_steps": 1,
    "trainer.save_every_n_steps": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.log_every_n_steps": 0,
    "trainer.threads": 0,
}

# Keys that are one of some words.
_WORDS = {
    "transfer": ("full", "lp_ft", "probe"),
    "identify.method": ("none", "unlabelled"),
    "regression_loss": ("smooth_l1", "mse", "l1"),
    "trainer.on_nonfinite": ("stop", "skip"),
}


@dataclass
class Inputs:
    """What a run reads: recordings, the scored neurons, and how time is split.

    A run reads them as its recipe says; an experiment can make them once and hand them to many runs.

    Attributes:
        dataset: The recordings.
        table: Their scored neurons.
        split: Part (``"train"``, ``"valid"``, ``"test"``) to recording id to times in seconds, (R, 2).
        skipped: Recordings that were left out since they are damaged, with the reason.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays, save_recording
        >>> traces = np.random.default_rng(0).normal(size=(600, 6))
        >>> folder = save_recording(
        ...     recording_from_arrays(traces, recording="mouse1", sampling_rate=10.0), tempfile.mkdtemp()
        ... ).parent
        >>> inputs = Inputs.from_recipe(compose_recipe("pretrain", None, [f"data.root={folder}", "diet=all"]))
        >>> inputs.dataset.recording_ids, len(inputs.table), list(inputs.split)
        (['mouse1'], 6, ['train', 'valid', 'test'])
    """

    dataset: Recordings
    table: PredictabilityTable
    split: Split
    skipped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_recipe(cls, config: DictConfig) -> Inputs:
        require(config, "data.root", "the folder of the recordings")
        data = config.data
        recordings = None if data.recordings is None else [str(name) for name in data.recordings]
        dataset = Recordings(data.root, recordings)
        good, damaged = usable_recordings(dataset, on_error=data.on_error, timeout=data.get("timeout"))
        if damaged:
            dataset = Recordings(data.root, good)
        split = recorded_split(dataset, data.split)
        if OmegaConf.select(config, "diet.table") is None and config.diet.rule == "all":
            logger.info("diet=all without a table: measuring all neurons on the training split first")
            activity = data.get("field") or activity_field(dataset.get_recording(dataset.recording_ids[0]))
            of_counts = {"field": activity, "bin_width": data.get("bin_width", 0.1)}
            return cls(dataset, score_dataset(dataset, intervals=split["train"], **of_counts), split, damaged)
        require(config, "diet.table", "the table that 'poyo-ssl score' wrote")
        return cls(dataset, PredictabilityTable.load(config.diet.table), split, damaged)


def recorded_recipe(
    content: Mapping[str, Any], overrides: Mapping[str, Any] | None, *, source: str | Path
) -> DictConfig:
    """The recipe in a checkpoint, some keys changed; it is data and not code, so its classes must be known.

    Raises:
        CheckpointError: If it asks for a class that is not.
        RecipeError: If it has no such key.
    """
    config = OmegaConf.create(content["hyper_parameters"]["recipe"])
    for key, value in (overrides or {}).items():
        earlier = OmegaConf.select(config, key, default=_ABSENT)
        if earlier is _ABSENT:
            raise RecipeError(f"{source}: its recipe has no key {key!r}")
        if isinstance(earlier, DictConfig) and key != "task":
            inner = next(map(str, earlier))
            raise RecipeError(f"{source}: {key!r} holds other keys; change one of them, {key}.{inner}=...")
        OmegaConf.update(config, key, value)
    refuse_unknown_classes(config.model, source=source)
    return config


@contextmanager
def must_fit(source: str | Path) -> Iterator[None]:
    """Say of weights that cannot be loaded into a model where they come from."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{source}: does not fit these recordings ({str(error).splitlines()[0]})") from None


def require(config: DictConfig, key: str, what: str, *, null: bool = False) -> None:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if OmegaConf.is_missing(node, leaf) or (node[leaf] is None and not null):
        raise RecipeError(f"{key} is not set: give {key}=..., {what}")


def check_values(config: DictConfig) -> DictConfig:
    """The recipe as it is, if a run can be done with its numbers and words.

    Raises:
        RecipeError: Naming the first such key.
    """
    for key, least in _LEAST.items():
        value = OmegaConf.select(config, key)
        if value is not None and (type(value) is not int or value < least):
            raise RecipeError(f"{key} must be a whole number of at least {least}, not {value}")
    for key, words in _WORDS.items():
        value = OmegaConf.select(config, key)
        if value is not None and value not in words:
            raise RecipeError(f"{key} must be {', '.join(words[:-1])} or {words[-1]}, not {value!r}")
    if config.trainer.max_steps == -1 and config.trainer.max_epochs is None:
        raise RecipeError("trainer.max_steps=-1 trains by trainer.max_epochs alone: give trainer.max_epochs=...")
    for key in ("data.window_length", "optim.optimizer.lr"):
        value = OmegaConf.select(config, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise RecipeError(f"{key} must be a positive number, not {value}")
    fraction = config.get("label_fraction", 1.0)
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise RecipeError(f"label_fraction must be in (0, 1], not {fraction}")
    return config


def plain(config: DictConfig, *names: str) -> dict[str, Any]:
    return {name: OmegaConf.to_container(config[name]) for name in names}


def diet_of(config: DictConfig, table: PredictabilityTable) -> Diet:
    """The diet that a recipe asks for, of a table in memory."""
    options = plain(config, "diet")["diet"]
    return make_diet(table, **{key: value for key, value in options.items() if key != "table"})


def data_options(config: DictConfig) -> dict[str, Any]:
    names = ("window_length", "batch_size", "num_workers", "standardize")
    dropout = config.data.unit_dropout
    return {
        **{name: config.data[name] for name in names},
        "unit_dropout": None if dropout is None else OmegaConf.to_container(dropout),
        "activity": Activity(config.data.get("field"), config.data.get("bin_width", 0.1)),
    }


def auxiliary_declared(config: DictConfig) -> Task | None:
    """The auxiliary task that a pretraining recipe asks for, if it has weight.

    Raises:
        RecipeError: If it is no classification.
    """
    if config.aux.task is None or config.aux.weight == 0:
        return None
    task = get_task(config.aux.task)
    if task.kind != "classification":
        raise RecipeError(
            f"aux.task={task.name} is a {task.kind}, and the auxiliary loss needs classes; name a classification, or "
            "give aux.weight=0"
        )
    return task


def auxiliary_task(config: DictConfig, inputs: Inputs) -> Task | None:
    """The auxiliary task, its classes known, if it has weight and any recording has its labels."""
    task, dataset = auxiliary_declared(config), inputs.dataset
    if task is None:
        return None
    labelled = {
        name: inputs.split["train"][name]
        for name in dataset.recording_ids
        if task.source in (data := dataset.get_recording(name)).keys()
        and set(task.columns) <= set(getattr(data, task.source).keys())
    }
    if not labelled:
        logger.warning("no recording has labels of %s: pretraining without the auxiliary loss", task.name)
        return None
    return fit_task(task, dataset, labelled)
