"""What a recipe asks for, made: recordings and neurons, windows' options, model, objective and first weights.

Everything that can be wrong with a recipe is found here, before anything is written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from poyo_ssl_plugin.compat import GENERATION
from poyo_ssl_plugin.data import Recordings, Task, fit_task, get_task
from poyo_ssl_plugin.data.check import usable_recordings
from poyo_ssl_plugin.data.splits import Split, recorded_split
from poyo_ssl_plugin.data.transforms import activity_field
from poyo_ssl_plugin.errors import CheckpointError, RecipeError
from poyo_ssl_plugin.models import (
    adapt,
    adapter_class,
    check_family,
    model_state,
    read_checkpoint,
    replace_vocabulary,
)
from poyo_ssl_plugin.models.architecture import refuse_unknown_classes
from poyo_ssl_plugin.models.checkpoint import first_line
from poyo_ssl_plugin.models.readout import PrototypeReadout
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable, make_diet, score_dataset
from poyo_ssl_plugin.training.activity import Activity
from poyo_ssl_plugin.training.data import DietData
from poyo_ssl_plugin.training.weights import LoadReport, load_weights

logger = logging.getLogger(__name__)

_ABSENT = object()


@dataclass
class Inputs:
    """What a run reads: recordings, the scored neurons, and how time is split.

    A run reads them as its recipe says; an experiment can make them once and hand them to many runs.
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


def resolved(config: DictConfig) -> DictConfig:
    """The recipe with every reference replaced by its value; what is missing stays missing."""
    try:
        return OmegaConf.create(OmegaConf.to_container(config, resolve=True, throw_on_missing=False))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise RecipeError(" ".join(str(error).split())) from None


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
        if OmegaConf.select(config, key, default=_ABSENT) is _ABSENT:
            raise RecipeError(f"{source}: its recipe has no key {key!r}")
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


def plain(config: DictConfig, *names: str) -> dict[str, Any]:
    return {name: OmegaConf.to_container(config[name]) for name in names}


def make_recipe_diet(config: DictConfig, table: PredictabilityTable) -> Diet:
    options = {key: value for key, value in config.diet.items() if key not in ("rule", "table")}
    return make_diet(table, config.diet.rule, **OmegaConf.to_container(OmegaConf.create(options)))  # type: ignore[arg-type]


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


def build_model(config: DictConfig, data: DietData, tasks: Mapping[str, int], *, classes: bool = True) -> nn.Module:
    if not classes and config.model.get("readout") == "prototypes":
        # Prototypes are of classes; other outputs are linear in a decoded query.
        config = OmegaConf.merge(config, {"model": {"readout": "linear"}})  # type: ignore[assignment]
    try:
        readout = adapter_class(hydra.utils.get_class(config.model["_target_"])).readout(tasks)
    except (ImportError, ValueError, KeyError, hydra.errors.HydraException) as error:
        if isinstance(error, RecipeError):
            raise
        hint = ""
        if str(config.model.get("_target_")).startswith("torch_brain.") and GENERATION == "0.2":
            hint = "; POYOPlus and CalciumPOYOPlus are only in torch_brain 0.1"
        raise RecipeError(f"model: {first_line(error)}{hint}") from error
    model = instantiate(config.model, "model", **readout)
    check_family(model)
    data.attach(model)
    return model


def instantiate(config: DictConfig, group: str, **further: Any) -> Any:
    try:
        # Hydra would turn dataclasses among the arguments into dictionaries, so these are given afterwards.
        return hydra.utils.instantiate(config, _partial_=True, _convert_="all")(**further)
    except (hydra.errors.InstantiationException, TypeError, ValueError) as error:
        raise RecipeError(f"{group}: {first_line(error.__cause__ or error)}") from error


def initialise(model: nn.Module, config: DictConfig, data: DietData) -> LoadReport | None:
    """Weights from ``init_from``, if any, and the vocabularies of this dataset; known words keep their vectors."""
    sessions = _sessions(data)
    vocabularies: dict[str, tuple[Any, list[str]]] = {
        "unit_emb": (getattr(model, "unit_emb"), data.unit_ids),  # noqa: B009  any POYO's
        "session_emb": (getattr(model, "session_emb"), sessions),  # noqa: B009
    }
    if isinstance(model.readout, PrototypeReadout):
        vocabularies |= {f"prototypes of {name}": (of, sessions) for name, of in model.readout.prototypes.items()}
    if config.init_from is None:
        for embedding, words in vocabularies.values():
            embedding.initialize_vocab(words)
        return None
    report = load_weights(model, model_state(read_checkpoint(config.init_from)), source=config.init_from)
    logger.info("init_from %s: %s", config.init_from, report.summary())
    for name, (embedding, words) in vocabularies.items():
        known = replace_vocabulary(embedding, words, source=config.get("vocabulary", "pretrained"))
        if known:
            logger.info("%s: %d of %d are known to the checkpoint and keep their weights", name, known, len(words))
    return report


def _sessions(data: DietData) -> list[str]:
    return [str(data.dataset.get_recording(name).session.id) for name in data.recordings]


def describe(
    config: DictConfig, model: nn.Module, data: DietData, times: Mapping[str, Any], skipped: Mapping[str, str]
) -> dict[str, Any]:
    """What a checkpoint says of itself, in plain values: model arguments, recipe, neurons and times seen."""
    recipe = OmegaConf.to_container(config)
    assert isinstance(recipe, dict)
    arguments = {key: value for key, value in recipe["model"].items() if key != "_target_"}
    arguments |= adapt(model).recorded()
    return {
        "model": arguments,
        "recipe": recipe,
        "skipped": dict(skipped),
        "trained_on": {
            "units": {name: data.diet.units(name) for name in data.recordings},
            "intervals": {name: [list(map(float, pair)) for pair in times[name]] for name in data.recordings},
            "subjects": {name: _subject(data, name) for name in data.recordings},
        },
    }


def _subject(data: DietData, name: str) -> str:
    return str(getattr(getattr(data.dataset.get_recording(name), "subject", None), "id", ""))
