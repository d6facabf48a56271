"""Arms of pretraining against from scratch: the same neurons, the same budget, the same seeds, the same trials."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings, Task, get_task
from poyo_ssl_plugin.data.splits import Split, recorded_split, repeat_fold
from poyo_ssl_plugin.errors import PoyoSSLError, RecipeError
from poyo_ssl_plugin.experiments.arms import POYO_SSL, SCRATCH, Arm, get_arms, join_overrides
from poyo_ssl_plugin.experiments.jobs import Job, default_processes, run_jobs
from poyo_ssl_plugin.experiments.measures import decoded_task, measure_of
from poyo_ssl_plugin.experiments.neurons import diet_of, member_rows, split_neurons
from poyo_ssl_plugin.experiments.provenance import git_revision, versions
from poyo_ssl_plugin.experiments.summary import summarise
from poyo_ssl_plugin.predictability import PredictabilityTable, make_diet, score_dataset
from poyo_ssl_plugin.recordings import TRACES

logger = logging.getLogger(__name__)

DEFAULT_ARMS = (POYO_SSL, SCRATCH)
# From random weights: there is nothing to start from, and nothing learned that new units could be identified with.
FROM_SCRATCH = ("init_from=null", "identify_steps=0")
_ALLOW = "allow_leak=true"


@dataclass(frozen=True)
class Comparison:
    """What is compared, in plain values.

    Attributes:
        root: Folder of the recordings.
        out_dir: Folder of everything that is written.
        task: What is decoded: a classification, or ``"natural_movie_frames"``, whose frames are reconstructed.
        arms: Names of arms (``docs/compare.md`` lists them), or mappings with the attributes of
            :class:`~poyo_ssl_plugin.experiments.arms.Arm`.
        recordings: Ids of the recordings to use; all if empty.
        field: The activity to score and decode, as of :func:`~poyo_ssl_plugin.score_dataset`; ``"spikes"`` goes with
            ``model=poyo`` in both ``pretrain`` and ``finetune``.
        held_out: Ids of the recordings kept from pretraining and decoded instead; if empty, pretraining
            and decoding share recordings but no neuron.
        decode_share: Without ``held_out``, the share of the unpredictable neurons that is decoded. At 1 only arms
            that pretrain on none of them can take part; below 1 the others are there for any arm.
        folds: Hold out repeats of the task's stimulus in so many folds; 0 takes the recorded split.
        seeds: Seeds of fine-tuning.
        pretrain_each_seed: Pretrain anew for every seed, so that intervals hold for pretraining too. By default
            the seeds of a fold share one pretraining.
        pretrain: Overrides of the recipe ``pretrain``, the same for all arms.
        finetune: Overrides of the fine-tuning recipe, the same for all arms.
        processes: Runs at once; 0 for one per core.
        allow_leak: Accept that scoring or pretraining saw neurons or times of the test; the results say what and where.
        scratch_dir: Folder of the runs that start from random weights, if not ``out_dir``: comparisons that
            differ in pretraining only can share them.
        pretrain_dir: Folder of the pretraining runs, if not ``out_dir``: comparisons that differ in fine-tuning only
            can share them.
    """

    root: str
    out_dir: str
    task: str = "drifting_gratings"
    arms: tuple[Any, ...] = DEFAULT_ARMS
    recordings: tuple[str, ...] = ()
    field: str = TRACES
    held_out: tuple[str, ...] = ()
    decode_share: float = 1.0
    folds: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)
    pretrain_each_seed: bool = False
    pretrain: tuple[str, ...] = ()
    finetune: tuple[str, ...] = ()
    processes: int = 0
    allow_leak: bool = False
    scratch_dir: str = ""
    pretrain_dir: str = ""


@dataclass
class ComparisonResult:
    """What came of a comparison.

    Attributes:
        summary: The content of ``results.json``.
        pretraining: Folders of the pretraining runs, by arm, fold and, if there are several, seed.
        finetuning: Folders of the fine-tuning runs, by arm, fold and seed.
        table: The scored neurons (of the first fold).
        checkpoints: Checkpoints of the fine-tuning runs, by arm, fold and seed.
    """

    summary: dict[str, Any]
    pretraining: dict[str, Path]
    finetuning: dict[str, Path]
    table: PredictabilityTable = dataclasses.field(repr=False)
    checkpoints: dict[str, Path] = dataclasses.field(repr=False, default_factory=dict)


def run_comparison(comparison: Comparison, *, stage: Callable[[str, int], Any] | None = None) -> ComparisonResult:
    """Pretrain every arm as it wants, fine-tune all of them alike, and compare them with training from scratch.

    Scores come from training time only, fold by fold; the neurons decoded are none that any arm's pretraining
    saw. Finished runs of an earlier start with the same settings are not repeated.

    Args:
        comparison: What to compare.
        stage: Given the name of a stage and its number of runs, wraps its runs to show progress.

    Raises:
        PoyoSSLError: If the recordings, the task, an arm or an override are not as they must be.
    """
    began = time.monotonic()
    asked, comparison = comparison, _with_allowance(comparison)
    arms = get_arms(comparison.arms)
    folds: list[int | None] = [*range(comparison.folds)] or [None]
    dataset, _split, table = load_fold(comparison, folds[0])
    diets = _check(comparison, arms, dataset, table)
    processes = comparison.processes or default_processes()

    pretraining = [
        _pretrain_job(comparison, arm, fold, seed)
        for fold in folds
        for arm in arms
        if arm.is_pretrained
        for seed in (comparison.seeds if comparison.pretrain_each_seed else (None,))
    ]
    pretrained = run_jobs(
        pretrain_job, pretraining, processes=processes, progress=stage and stage("pretraining", len(pretraining))
    )
    done = {_key(job): (job, result) for job, result in zip(pretraining, pretrained, strict=True)}
    finetuning = [
        _finetune_job(comparison, arm, fold, seed, _start(done, comparison, arm, fold, seed))
        for fold in folds
        for arm in arms
        for seed in comparison.seeds
    ]
    finetuned = run_jobs(
        finetune_job, finetuning, processes=processes, progress=stage and stage("fine-tuning", len(finetuning))
    )
    metric = measure_of(comparison.task).describe(_compose("finetune", comparison.task, comparison.finetune))
    summary = {
        **summarise(comparison, arms, pretraining, pretrained, finetuning, finetuned, metric),
        "baselines": _baselines(comparison, folds),
        "neurons": _neurons(comparison, dataset, table, diets),
        "comparison": json.loads(json.dumps(asdict(asked))),
        "recipes": _recipes(comparison, arms),
        "versions": versions(),
        "git": git_revision(),
        "seconds": round(time.monotonic() - began, 1),
    }
    return ComparisonResult(
        summary,
        {_key(job): Path(job["folder"]) for job in pretraining},
        {_key(job): Path(job["folder"]) for job in finetuning},
        table,
        {_key(job): Path(result["checkpoint"]) for job, result in zip(finetuning, finetuned, strict=True)},
    )


def load_fold(
    comparison: Comparison | Mapping[str, Any], fold: int | None
) -> tuple[Recordings, Split, PredictabilityTable]:
    """The recordings, the split of a fold, and the neurons scored on its training time."""
    settings = asdict(comparison) if isinstance(comparison, Comparison) else comparison
    dataset = Recordings(settings["root"], settings["recordings"] or None)
    if fold is None:
        split = recorded_split(dataset)
    else:
        split = repeat_fold(dataset, decoded_task(settings["task"]).source, fold, settings["folds"])
    return dataset, split, score_dataset(dataset, field=settings["field"], intervals=split["train"])


def pretrain_job(job: Job) -> dict[str, Any]:
    """Pretrain once, in a process of its own."""
    from poyo_ssl_plugin.training import Inputs, pretrain

    dataset, split, table = load_fold(job, job["fold"])
    if job["decoding"] is not None:
        table, _ = split_neurons(table, _as_config(job["decoding"]), share=job["decode_share"])
    began = time.monotonic()
    config = _of_job(job)
    if job["seed"] is not None:
        config.seed = job["seed"]
    result = pretrain(config, Inputs(dataset, table, split))
    return {
        "checkpoint": str(result.checkpoint),
        "metrics": _rounded(result.metrics),
        "initial": _rounded(result.initial),
        "leaks": result.leaks,
        **_spent(config, result.checkpoint, began),
    }


def finetune_job(job: Job) -> dict[str, Any]:
    """Fine-tune once, in a process of its own."""
    began = time.monotonic()
    config, inputs = finetuning_of(job)
    tested = measure_of(job["task"]).finetune(config, inputs, seed=job["seed"])
    return {
        "value": tested.value,
        "n_test": tested.n_test,
        "trials": tested.trials,
        "trial_names": tested.names,
        "metrics": _rounded(tested.run.metrics),
        "checkpoint": str(tested.run.checkpoint),
        "leaks": tested.run.leaks,
        **_spent(config, tested.run.checkpoint, began),
    }


def finetuning_of(job: Job) -> tuple[DictConfig, Any]:
    """The recipe and the inputs of a fine-tuning job."""
    from poyo_ssl_plugin.training import Inputs

    dataset, split, table = load_fold(job, job["fold"])
    config = _of_job(job)
    if job["decode_share"] is not None:
        _, table = split_neurons(table, config, share=job["decode_share"])
    if job["init_from"] is not None:
        config.init_from = job["init_from"]
    return config, Inputs(dataset, table, split)


def _with_allowance(comparison: Comparison) -> Comparison:
    """Every run is told that leaks are allowed, if they are."""
    if not comparison.allow_leak:
        return comparison
    return dataclasses.replace(
        comparison, pretrain=(*comparison.pretrain, _ALLOW), finetune=(*comparison.finetune, _ALLOW)
    )


def _compose(command: str, recipe: str | None, overrides: Sequence[str]) -> DictConfig:
    """A recipe of one's own; composing is slow, so the same one is composed once."""
    return copy.deepcopy(_composed(command, recipe, tuple(overrides)))


@functools.lru_cache(maxsize=64)
def _composed(command: str, recipe: str | None, overrides: tuple[str, ...]) -> DictConfig:
    return compose_recipe(command, recipe, overrides)


def _as_config(content: Mapping[str, Any]) -> DictConfig:
    return OmegaConf.create(dict(content))


def _of_job(job: Job) -> DictConfig:
    """The recipe of a job, with what differs from run to run."""
    config = _as_config(job["recipe"])
    settings = {
        "out_dir": job["folder"],
        "resume": True,
        "trainer.progress": False,
        "trainer.tensorboard": False,
        **({} if job["threads"] is None else {"trainer.threads": job["threads"]}),
    }
    for key, value in settings.items():
        OmegaConf.update(config, key, value)
    return _reading(config, job["root"])


def _reading(config: DictConfig, root: str) -> DictConfig:
    """A recipe that reads from a folder, its table and split handed over in memory."""
    OmegaConf.update(config, "data.root", root)
    # The recipe still wants to know a table.
    OmegaConf.update(config, "diet.table", "in-memory")
    return config


def _spent(config: DictConfig, checkpoint: Path, began: float) -> dict[str, Any]:
    """What a run cost: wall-clock seconds, steps, and windows shown."""
    from poyo_ssl_plugin.training import read_checkpoint

    steps = int(read_checkpoint(checkpoint)["global_step"])
    devices = config.trainer.devices if isinstance(config.trainer.devices, int) else 1
    windows = steps * config.data.batch_size * max(devices, 1) * config.trainer.num_nodes
    return {"seconds": round(time.monotonic() - began, 1), "steps": steps, "windows": windows}


def _fold_name(fold: int | None) -> str:
    return "recorded" if fold is None else f"fold{fold}"


def _key(job: Job) -> str:
    """Arm, fold and seed of a job; no seed where one pretraining serves all."""
    parts = [job["arm"], _fold_name(job["fold"])] + ([] if job["seed"] is None else [str(job["seed"])])
    return "/".join(parts)


def _start(
    done: Mapping[str, tuple[Job, dict[str, Any]]], comparison: Comparison, arm: Arm, fold: int | None, seed: int
) -> tuple[Job, dict[str, Any]] | None:
    """The pretraining that a run starts from."""
    if not arm.is_pretrained:
        return None
    return done[_key({"arm": arm.name, "fold": fold, "seed": seed if comparison.pretrain_each_seed else None})]


def _job(comparison: Comparison, arm: Arm, fold: int | None, *, recordings: Sequence[str], **further: Any) -> Job:
    # A job holds what changes its run and nothing else: a run is not repeated when another seed or arm joins, and is
    # when a newer version has other defaults.
    threads = 1 if (comparison.processes or default_processes()) > 1 else None
    return {
        "root": comparison.root,
        "task": comparison.task,
        "recordings": list(recordings),
        "field": comparison.field,
        "folds": comparison.folds,
        "fold": fold,
        "decode_share": None if comparison.held_out or comparison.decode_share == 1 else comparison.decode_share,
        "arm": arm.name,
        "threads": threads,
        **further,
    }


def _pretrain_job(comparison: Comparison, arm: Arm, fold: int | None, seed: int | None) -> Job:
    place = comparison.pretrain_dir or comparison.out_dir
    labels = _label_task(comparison)
    name = f"{arm.name}_{labels.name}" if arm.names_task else arm.name
    folder = Path(place, "runs", "pretrain", name, _fold_name(fold))
    overrides = arm.pretraining(comparison.pretrain, labels)
    job = _job(
        comparison,
        arm,
        fold,
        recordings=_pretraining_recordings(comparison),
        seed=seed,
        recipe=_plain(_compose("pretrain", None, overrides)),
        folder=str(folder if seed is None else folder / f"seed{seed}"),
    )
    # Of fine-tuning only the neurons it decodes concern pretraining, and those only where recordings are shared; of the
    # task only whose repeats are held out. The same pretraining then serves other tasks, by way of pretrain_dir.
    decoding = _compose("finetune", comparison.task, [*comparison.finetune, *arm.finetune])
    job["decoding"] = None if job["decode_share"] is None else {"diet": _plain(decoding.diet)}
    job["task"] = None if fold is None else job["task"]
    return job


def _finetune_job(
    comparison: Comparison, arm: Arm, fold: int | None, seed: int, start: tuple[Job, dict[str, Any]] | None
) -> Job:
    place = comparison.out_dir if start else comparison.scratch_dir or comparison.out_dir
    overrides = [*comparison.finetune, *arm.finetune]
    return _job(
        comparison,
        arm,
        fold,
        recordings=comparison.held_out or comparison.recordings,
        seed=seed,
        init_from=start and start[1]["checkpoint"],
        pretraining=start and start[0],
        recipe=_plain(
            _compose("finetune", comparison.task, overrides if start else join_overrides(overrides, FROM_SCRATCH))
        ),
        folder=str(Path(place, "runs", "finetune", arm.name, _fold_name(fold), f"seed{seed}")),
    )


def _plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config)


def _pretraining_recordings(comparison: Comparison) -> list[str]:
    if not comparison.held_out:
        return list(comparison.recordings)
    names = Recordings(comparison.root, comparison.recordings or None).recording_ids
    return [name for name in names if name not in comparison.held_out]


def _check(
    comparison: Comparison, arms: Sequence[Arm], dataset: Recordings, table: PredictabilityTable
) -> dict[str, int]:
    """Find before the first of many runs what would stop one; returns how many neurons each arm pretrains on."""
    task = decoded_task(comparison.task)
    unknown = set(comparison.held_out) - set(dataset.recording_ids)
    if unknown:
        raise RecipeError(f"held_out names {', '.join(sorted(unknown))}, which {comparison.root} does not have")
    if comparison.held_out and len(comparison.held_out) >= len(dataset.recording_ids):
        raise RecipeError("held_out leaves no recording to pretrain on")
    if not 0 < comparison.decode_share <= 1:
        raise RecipeError(f"decode_share must be in (0, 1], not {comparison.decode_share}")
    if comparison.held_out and comparison.decode_share != 1:
        raise RecipeError("decode_share is for comparisons without held_out: held-out recordings are decoded whole")
    if len(set(comparison.seeds)) != len(comparison.seeds) or not comparison.seeds:
        raise RecipeError(f"seeds must be different numbers, at least one, not {list(comparison.seeds)}")
    finetune = _compose("finetune", comparison.task, comparison.finetune)
    for arm in arms:
        with _naming(arm):
            own = _compose("finetune", task.name, [*comparison.finetune, *arm.finetune])
            measure_of(task.name).check(_reading(own, comparison.root), field=comparison.field)
    seen, decoded = _neuron_tables(comparison, table, finetune)
    counts = {}
    for arm in arms:
        if not arm.is_pretrained:
            continue
        with _naming(arm):
            config = _compose("pretrain", None, arm.pretraining(comparison.pretrain, _label_task(comparison)))
            rows = member_rows(diet_of(config, seen), seen)
        _check_labels(arm, config, dataset, set(_pretraining_recordings(comparison) or dataset.recording_ids))
        counts[arm.name] = int(rows.sum())
        both = 0 if comparison.held_out else int((rows & decoded).sum())
        if both:
            message = f"arm {arm.name} would pretrain on {both} of the neurons to be decoded"
            if not comparison.allow_leak:
                raise RecipeError(
                    f"{message}; decode other recordings (held_out=[ID,...]), or decode only part of the neurons "
                    f"(decode_share=0.5), or pass {_ALLOW} to accept it"
                )
            logger.warning("%s (allowed)", message)
    return counts


@contextmanager
def _naming(arm: Arm) -> Iterator[None]:
    """Say of an error which arm it is about."""
    try:
        yield
    except PoyoSSLError as error:
        raise type(error)(f"arm {arm.name}: {error}") from None


def _label_task(comparison: Comparison) -> Task:
    """The task whose labels arms may pretrain on."""
    return measure_of(comparison.task).label_task(decoded_task(comparison.task))


def _check_labels(arm: Arm, config: DictConfig, dataset: Recordings, used: Collection[str]) -> None:
    """An arm that learns from labels alone needs some."""
    if not config.ssl._target_.endswith(".NoReconstruction"):
        return
    source = get_task(config.aux.task).source
    if not any(source in dataset.get_recording(name).keys() for name in used):
        raise RecipeError(
            f"arm {arm.name} learns from labels of {config.aux.task!r} alone, and no recording to pretrain on has any; "
            "leave it out of arms=[...]"
        )


def _neuron_tables(
    comparison: Comparison, table: PredictabilityTable, finetune: DictConfig
) -> tuple[PredictabilityTable, np.ndarray]:
    """The table as pretraining gets it, and which rows of the whole table are decoded."""
    decoded_table = table
    if comparison.held_out:
        decoded = np.isin(table["recording_id"], comparison.held_out)
        return table.select(~decoded), decoded & member_rows(diet_of(finetune, decoded_table), table)
    if comparison.decode_share < 1:
        table, decoded_table = split_neurons(table, finetune, share=comparison.decode_share)
    return table, member_rows(diet_of(finetune, decoded_table), table)


def _baselines(comparison: Comparison, folds: Sequence[int | None]) -> dict[str, Any]:
    config = _reading(_compose("finetune", comparison.task, comparison.finetune), comparison.root)
    return measure_of(comparison.task).baselines(
        config,
        (_decoded_inputs(comparison, config, fold) for fold in folds),
        task=decoded_task(comparison.task),
        field=comparison.field,
    )


def _decoded_inputs(comparison: Comparison, finetune: DictConfig, fold: int | None) -> Any:
    """What fine-tuning reads in a fold."""
    from poyo_ssl_plugin.training import Inputs

    dataset, split, table = load_fold(comparison, fold)
    if not comparison.held_out and comparison.decode_share < 1:
        _, table = split_neurons(table, finetune, share=comparison.decode_share)
    return Inputs(Recordings(comparison.root, comparison.held_out or dataset.recording_ids), table, split)


def _neurons(
    comparison: Comparison, dataset: Recordings, table: PredictabilityTable, diets: Mapping[str, int]
) -> dict[str, Any]:
    used = comparison.held_out or tuple(dataset.recording_ids)
    finetune = _compose("finetune", comparison.task, comparison.finetune)
    _, decoded = _neuron_tables(comparison, table, finetune)
    return {
        "scored": len(table),
        "predictable": len(make_diet(table, "predictable")),
        "decoded_from": int(decoded.sum()),
        "decode_share": comparison.decode_share,
        "pretrained_on": dict(diets),
        "pretrained_on_recordings": [n for n in dataset.recording_ids if n not in comparison.held_out],
        "decoded_recordings": list(used),
    }


def _recipes(comparison: Comparison, arms: Sequence[Arm]) -> dict[str, Any]:
    """The full configuration that all arms share, and what each changes of it."""
    return {
        "pretrain": OmegaConf.to_container(_compose("pretrain", None, comparison.pretrain)),
        "finetune": OmegaConf.to_container(_compose("finetune", comparison.task, comparison.finetune)),
        "arms": {
            arm.name: {
                "pretrain": list(arm.pretrain) if arm.pretrain is not None else None,
                "finetune": list(arm.finetune),
            }
            for arm in arms
        },
    }


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in sorted(metrics.items()) if value == value}
