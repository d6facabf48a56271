"""The plan of a comparison: every run it will do, made and checked before the first step."""

from __future__ import annotations

import copy
import functools
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
from omegaconf import DictConfig, OmegaConf

from poyo_ssl_plugin.compare.arms import Arm, get_arms, join_overrides
from poyo_ssl_plugin.compare.digests import LabelDigests, table_digest
from poyo_ssl_plugin.compare.folds import Fold, load_fold
from poyo_ssl_plugin.compare.protocol import Comparison, decoded_task
from poyo_ssl_plugin.compare.record import Run
from poyo_ssl_plugin.configuration import compose_recipe, recipe_names
from poyo_ssl_plugin.data import Recordings, Task, find_trials, fit_task, get_task
from poyo_ssl_plugin.data.splits import PARTS
from poyo_ssl_plugin.errors import PoyoSSLError, RecipeError, RecordingError
from poyo_ssl_plugin.models import model_to_train
from poyo_ssl_plugin.plain import ReadOnlyValues, Values
from poyo_ssl_plugin.predictability import PredictabilityTable
from poyo_ssl_plugin.recordings import SPIKES
from poyo_ssl_plugin.training import parse_recipe
from poyo_ssl_plugin.training.decoding import decoding_of
from poyo_ssl_plugin.training.recipe import FinetuneRecipe, PretrainRecipe, Recipe

logger = logging.getLogger(__name__)

# From random weights: there is nothing to start from, and nothing learned that new units could be identified with.
FROM_SCRATCH = ("init_from=null",)
_ALLOW = "allow_leak=true"
_MODEL = re.compile(r"\+?model[.=]")


@dataclass(frozen=True)
class Plan:
    """What a comparison will do.

    Attributes:
        comparison: What is compared.
        arms: Its arms.
        folds: Its folds; one without a number where there are none.
        tables: Neurons that runs choose from, by their digest.
        pretrained_on: Ids of the recordings that are pretrained on.
        decoded: Ids of the recordings that are decoded.
        task: What is decoded, as the training time of the first fold has it.
        pretraining: The pretraining runs.
        finetuning: The fine-tuning runs.
        diets: Number of neurons that each arm pretrains on, in the first fold.
    """

    comparison: Comparison
    arms: list[Arm]
    folds: list[Fold]
    tables: Mapping[str, PredictabilityTable] = field(repr=False)
    pretrained_on: tuple[str, ...]
    decoded: tuple[str, ...]
    task: Task
    pretraining: list[Run]
    finetuning: list[Run]
    diets: dict[str, int]

    def write_tables(self) -> None:
        """Write the neurons that the runs' recipes name."""
        for run in (*self.pretraining, *self.finetuning):
            path = Path(run.recipe["diet"]["table"])
            if not path.exists():
                self.tables[run.neurons].save(path)


def make_plan(comparison: Comparison) -> Plan:
    """Make all runs of a comparison, and find what would stop one of them. Nothing is written.

    Raises:
        PoyoSSLError: If the recordings, the task, a fold, an arm or an override are not as they must be.
    """
    arms, task = get_arms(comparison.arms), decoded_task(comparison.task)
    comparison = _with_one_model(comparison)
    dataset = Recordings(comparison.root, comparison.recordings or None)
    _check_settings(comparison, dataset)
    decoded = tuple(comparison.held_out or dataset.recording_ids)
    pretrained_on = tuple(name for name in dataset.recording_ids if name not in comparison.held_out)
    finetune = finetuning_of(comparison)
    _check_stimulus(dataset, decoded, task)
    folds = [load_fold(comparison, dataset, fold, finetune) for fold in [*range(comparison.folds)] or [None]]
    fitted = [_check_fold(fold, dataset, decoded, task, finetune) for fold in folds]
    # Folds cut the recordings that are decoded. Where others are pretrained on, one pretraining serves all folds.
    source = None
    if comparison.held_out:
        source = load_fold(comparison, dataset, None, finetune) if comparison.folds else folds[0]
    sources = folds if source is None else [source]
    diets = _check_arms(comparison, arms, dataset, sources, pretrained_on, finetune)
    # Arms that differ in fine-tuning only share their pretraining.
    labels = LabelDigests(dataset)
    pretraining: dict[str, Run] = {}
    finetuning: list[Run] = []
    for fold in folds:
        for arm in arms:
            starts = _pretrainings(comparison, arm, source or fold, pretrained_on, labels)
            starts = [None if run is None else pretraining.setdefault(run.key, run) for run in starts]
            finetuning += [
                _finetuning(comparison, arm, fold, seed, decoded, labels, start)
                for seed, start in zip(comparison.seeds, starts, strict=True)
            ]
    tables = [table for fold in (*folds, *sources) for table in (fold.pretraining, fold.decoding)]
    return Plan(
        comparison=comparison,
        arms=arms,
        folds=folds,
        tables={table_digest(table): table for table in tables},
        pretrained_on=pretrained_on,
        decoded=decoded,
        task=fitted[0],
        pretraining=[*pretraining.values()],
        finetuning=finetuning,
        diets=diets,
    )


def _with_one_model(comparison: Comparison) -> Comparison:
    """What was said of the model for pretraining alone holds for fine-tuning too, with and without pretraining."""
    own = [override for override in comparison.finetune if _MODEL.match(override)]
    given = tuple(override for override in comparison.pretrain if _MODEL.match(override))
    return comparison if own else replace(comparison, finetune=(*given, *comparison.finetune))


def label_task(comparison: Comparison) -> Task:
    """The task whose labels arms may pretrain on."""
    return decoding_of(finetuning_of(comparison)).label_task


def finetuning_of(comparison: Comparison, own: Sequence[str] = ()) -> FinetuneRecipe:
    """The fine-tuning that all arms share, or with an arm's own overrides that of the arm."""
    _, recipe = _composed("finetune", comparison.task, (*comparison.finetune, *own))
    assert isinstance(recipe, FinetuneRecipe)
    return recipe


def _pretraining_of(comparison: Comparison, arm: Arm) -> PretrainRecipe:
    """The pretraining of an arm."""
    _, recipe = _composed("pretrain", None, tuple(arm.pretraining(comparison.pretrain, label_task(comparison))))
    assert isinstance(recipe, PretrainRecipe)
    return recipe


def compose(command: str, recipe: str | None, overrides: Sequence[str], *, allow_leak: bool = False) -> DictConfig:
    """A recipe of one's own, checked.

    ``recipe`` may also be a task that has no recipe of its own; it is then given to the recipe of the command.
    """
    config, _ = _composed(command, recipe, (*overrides, _ALLOW) if allow_leak else tuple(overrides))
    return copy.deepcopy(config)


@functools.lru_cache(maxsize=64)
def _composed(command: str, recipe: str | None, overrides: tuple[str, ...]) -> tuple[DictConfig, Recipe]:
    """A recipe, and the same parsed; both are slow, so the same one is composed once."""
    if recipe is not None and recipe not in recipe_names(command):
        recipe, overrides = None, (f"task={recipe}", *overrides)
    config = compose_recipe(command, recipe, overrides)
    return config, parse_recipe(PretrainRecipe if command == "pretrain" else FinetuneRecipe, config)


def _pretrainings(
    comparison: Comparison, arm: Arm, fold: Fold, recordings: tuple[str, ...], labels: LabelDigests
) -> list[Run | None]:
    """The pretraining that each seed starts from: one of its own, the same one, or none."""
    if not arm.is_pretrained:
        return [None] * len(comparison.seeds)
    overrides = arm.pretraining(comparison.pretrain, label_task(comparison))
    config = compose("pretrain", None, overrides, allow_leak=comparison.allow_leak)
    task = _pretraining_of(comparison, arm).auxiliary_task()
    read = None if task is None else labels.of(recordings, task.source)
    runs: list[Run | None] = []
    for seed in comparison.seeds if comparison.pretrain_each_seed else [None]:
        if seed is not None:
            config.seed = seed
        runs.append(_run(comparison, "pretrain", arm, fold, seed, recordings, read, config, comparison.pretrain_dir))
    return runs if comparison.pretrain_each_seed else runs * len(comparison.seeds)


def _finetuning(
    comparison: Comparison,
    arm: Arm,
    fold: Fold,
    seed: int,
    recordings: tuple[str, ...],
    labels: LabelDigests,
    start: Run | None,
) -> Run:
    overrides = [*comparison.finetune, *arm.finetune]
    if start is None:
        overrides = join_overrides(overrides, FROM_SCRATCH)
    config = compose("finetune", comparison.task, overrides, allow_leak=comparison.allow_leak)
    if start is not None:
        config.init_from = str(start.checkpoint)
        model_to_train(config.model, start.recipe["model"], chosen=config.model, source="pretraining")
    place = comparison.out_dir if start else comparison.scratch_dir
    read = labels.of(recordings, decoded_task(comparison.task).source)
    return _run(comparison, "finetune", arm, fold, seed, recordings, read, config, place, start)


def _run(
    comparison: Comparison,
    stage: str,
    arm: Arm,
    fold: Fold,
    seed: int | None,
    recordings: tuple[str, ...],
    labels: str | None,
    config: DictConfig,
    place: str,
    start: Run | None = None,
) -> Run:
    runs = comparison.runs_in(place)
    table = fold.pretraining if stage == "pretrain" else fold.decoding
    digest = table_digest(table)
    settings: Values = {
        "data.root": str(Path(comparison.root).absolute()),
        "data.recordings": list(recordings),
        "diet.table": str(Path(runs, "neurons", f"{digest}.csv")),
        "data.field": comparison.field if comparison.field == SPIKES else config.data.field,
        "resume": True,
        "trainer.progress": False,
        "trainer.tensorboard": False,
        # Sums depend on the number of threads: one each, so that numbers do not depend on how many runs go on at once.
        "trainer.threads": config.trainer.threads or 1,
    }
    for key, value in settings.items():
        OmegaConf.update(config, key, value)
    return Run(
        stage=stage,
        arm=arm.name,
        fold=fold.number,
        seed=seed,
        folds=comparison.folds,
        stimulus=decoded_task(comparison.task).source if comparison.folds else None,
        recordings=recordings,
        neurons=digest,
        labels=labels,
        start=None if start is None else start.key,
        recipe=cast("Values", OmegaConf.to_container(config)),
        place=runs,
        contiguous=comparison.contiguous_folds,
    )


def _check_settings(comparison: Comparison, dataset: Recordings) -> None:
    unknown = set(comparison.held_out) - set(dataset.recording_ids)
    if unknown:
        raise RecipeError(f"held_out names {', '.join(sorted(unknown))}, which {comparison.root} does not have")
    if comparison.held_out and len(comparison.held_out) >= len(dataset.recording_ids):
        raise RecipeError("held_out leaves no recording to pretrain on")
    if not 0 < comparison.decode_fraction <= 1:
        raise RecipeError(f"decode_fraction must be in (0, 1], not {comparison.decode_fraction}")
    if comparison.held_out and comparison.decode_fraction != 1:
        raise RecipeError("decode_fraction is for comparisons without held_out: held-out recordings are decoded whole")
    if len(set(comparison.seeds)) != len(comparison.seeds) or not comparison.seeds:
        raise RecipeError(f"seeds must be different numbers, at least one, not {list(comparison.seeds)}")
    if comparison.folds < 0 or comparison.folds == 1:
        raise RecipeError(f"folds must be 0 (the recorded split) or at least 2, not {comparison.folds}")
    if comparison.contiguous_folds and not comparison.folds:
        raise RecipeError("contiguous_folds says which repeats make a fold: give folds=N too")
    if comparison.processes < 0 or comparison.num_cpus < 0 or comparison.num_gpus < 0:
        raise RecipeError("processes, num_cpus and num_gpus must not be negative")


def _check_stimulus(dataset: Recordings, decoded: Sequence[str], task: Task) -> None:
    without = [name for name in decoded if task.source not in dataset.get_recording(name).keys()]
    if len(without) == len(decoded):
        raise RecordingError(
            f"no recording to decode has {task.source!r}, which the task {task.name!r} needs ({', '.join(without)}); "
            "choose another task=... or other recordings"
        )
    if without:
        logger.warning("recordings without %s are not decoded: %s", task.source, ", ".join(without))


def _check_fold(fold: Fold, dataset: Recordings, decoded: Sequence[str], task: Task, finetune: FinetuneRecipe) -> Task:
    """Find what a fold lacks; returns the task as its training time has it."""
    where = "the recorded split" if fold.number is None else f"fold {fold.number}"
    length, fitted = finetune.data.window_length, fit_task(task, dataset, {k: fold.split["train"][k] for k in decoded})
    data = {name: of for name in decoded if task.source in (of := dataset.get_recording(name)).keys()}
    for part in PARTS:
        trials = [find_trials(of, fitted, None, fold.split[part][name]) for name, of in data.items()]
        if part != "valid" and not any(len(found.that_fit(length)) for found in trials):
            raise RecordingError(
                f"{where} has no {part} trial of {task.name!r} that a window of {length:g} s fits around; choose "
                "another task=... or folds=..., or a shorter data.window_length in pretrain=[...] and finetune=[...]"
            )
    if not finetune.make_diet(fold.decoding).members_of(fold.decoding).any():
        raise RecipeError(f"{where}: the diet of fine-tuning leaves no neuron to decode; set it by finetune=[diet=...]")
    return fitted


def _check_arms(
    comparison: Comparison,
    arms: Sequence[Arm],
    dataset: Recordings,
    folds: Sequence[Fold],
    pretrained_on: Collection[str],
    finetune: FinetuneRecipe,
) -> dict[str, int]:
    """Find what would stop an arm; returns how many neurons each pretrains on, in the first fold."""
    root = str(Path(comparison.root).absolute())
    counts: dict[str, int] = {}
    for arm in arms:
        with _naming(arm):
            own = finetuning_of(comparison, arm.finetune)
            decoding_of(replace(own, data=replace(own.data, root=root))).check(field=comparison.field)
        if not arm.is_pretrained:
            continue
        with _naming(arm):
            recipe = _pretraining_of(comparison, arm)
            recipe.auxiliary_task()
            rows = [recipe.make_diet(fold.pretraining).members_of(fold.pretraining) for fold in folds]
        _check_labels(arm, recipe, dataset, pretrained_on)
        counts[arm.name] = int(rows[0].sum())
        if not all(found.any() for found in rows):
            raise RecipeError(f"arm {arm.name}: its diet has no neuron to pretrain on; leave it out of arms=[...]")
        if not comparison.held_out:
            _check_overlap(arm, comparison, folds, rows, finetune)
    return counts


def _check_overlap(
    arm: Arm, comparison: Comparison, folds: Sequence[Fold], rows: Sequence[np.ndarray], finetune: FinetuneRecipe
) -> None:
    """No arm pretrains on a neuron that is decoded, unless that is allowed."""
    decoded = [finetune.make_diet(fold.decoding).members_of(fold.decoding) for fold in folds]
    both = max(int((seen & of_fold).sum()) for seen, of_fold in zip(rows, decoded, strict=True))
    if not both:
        return
    message = f"arm {arm.name} would pretrain on {both} of the neurons to be decoded"
    if not comparison.allow_leak:
        raise RecipeError(
            f"{message}; decode other recordings (held_out=[ID,...]), or decode only part of the neurons "
            f"(decode_fraction=0.5), or pass {_ALLOW} to accept it"
        )
    logger.warning("%s (allowed)", message)


def _check_labels(arm: Arm, recipe: PretrainRecipe, dataset: Recordings, used: Collection[str]) -> None:
    """An arm that learns from labels alone needs some."""
    if not str(recipe.ssl.get("_target_", "")).endswith(".NoReconstruction"):
        return
    source = get_task(recipe.aux.task).source
    if not any(source in dataset.get_recording(name).keys() for name in used):
        raise RecipeError(
            f"arm {arm.name} learns from labels of {recipe.aux.task!r} alone, and no recording to pretrain on has any; "
            "leave it out of arms=[...]"
        )


@contextmanager
def _naming(arm: Arm) -> Iterator[None]:
    """Say of an error which arm it is about."""
    try:
        yield
    except PoyoSSLError as error:
        raise type(error)(f"arm {arm.name}: {error}") from None


def shared_recipes(comparison: Comparison, arms: Sequence[Arm]) -> ReadOnlyValues:
    """The full recipes that all arms share, and what each changes of them."""
    changes = {
        arm.name: {"pretrain": None if arm.pretrain is None else [*arm.pretrain], "finetune": [*arm.finetune]}
        for arm in arms
    }
    return {
        "pretrain": OmegaConf.to_container(compose("pretrain", None, comparison.pretrain)),
        "finetune": OmegaConf.to_container(compose("finetune", comparison.task, comparison.finetune)),
        "arms": changes,
    }
