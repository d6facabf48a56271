"""Runs: from a recipe to a trained model and what was measured of it.

Everything that can be wrong with the input is found before anything is written.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import hydra.utils
import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from poyo_ssl_plugin.compat import GENERATION
from poyo_ssl_plugin.data import Recordings, get_task
from poyo_ssl_plugin.data.check import usable_recordings
from poyo_ssl_plugin.data.splits import Split, recorded_split
from poyo_ssl_plugin.errors import CheckpointError, RecipeError
from poyo_ssl_plugin.files import atomic_path
from poyo_ssl_plugin.models import (
    adapt,
    adapter_class,
    check_family,
    model_state,
    read_checkpoint,
    replace_vocabulary,
)
from poyo_ssl_plugin.models.checkpoint import first_line
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable, make_diet
from poyo_ssl_plugin.training.checkpoint import LoadReport, load_weights
from poyo_ssl_plugin.training.checkpoint_io import SafeCheckpointIO
from poyo_ssl_plugin.training.data import DietData, FinetuningData, PretrainingData
from poyo_ssl_plugin.training.finetuning import Finetuning
from poyo_ssl_plugin.training.guards import CollapseWarning, FiniteGuard
from poyo_ssl_plugin.training.leaks import check_leaks, check_scoring, check_test_time
from poyo_ssl_plugin.training.logs import MetricsLog
from poyo_ssl_plugin.training.pretraining import Pretraining
from poyo_ssl_plugin.training.resume import ResumePoint
from poyo_ssl_plugin.training.session import RESULT, claim, keep_result, kept_result, refuse_other_recipe, run_session

logger = logging.getLogger(__name__)

# Lightning announces hardware it did not find and advertises; and it advises worker processes, which a
# step on a CPU does not need: windows load many times faster than they train.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
for _hint in (
    ".*Checkpoint directory .* is not empty.*",
    ".*does not have many workers.*",
    ".*isinstance.treespec.*",
    ".*smaller than the logging interval.*",
):
    warnings.filterwarnings("ignore", _hint)

VOCABULARIES = ("unit_emb", "session_emb")


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
        _require(config, "data.root", "the folder of the recordings")
        data = config.data
        recordings = None if data.recordings is None else [str(name) for name in data.recordings]
        dataset = Recordings(data.root, recordings, uniquify_unit_ids=data.uniquify_unit_ids)
        good, damaged = usable_recordings(dataset, on_error=data.on_error)
        if damaged:
            dataset = Recordings(data.root, good, uniquify_unit_ids=data.uniquify_unit_ids)
        _require(config, "diet.table", "the table that 'poyo-ssl score' wrote")
        table = PredictabilityTable.load(config.diet.table)
        return cls(dataset, table, recorded_split(dataset, data.split), damaged)


@dataclass
class RunResult:
    """What came of a run.

    Attributes:
        out_dir: Its folder.
        checkpoint: Its last checkpoint.
        metrics: Last value of everything that was measured, by name.
        initial: Measured before the first step.
        predictions: One row per test trial, of a fine-tuning run.
        loaded: Which weights the run started from.
        task: What was decoded, of a fine-tuning run.
        leaks: What of the test was seen before, and whether that was allowed.
    """

    out_dir: Path
    checkpoint: Path
    metrics: dict[str, float]
    initial: dict[str, float] = field(default_factory=dict)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    loaded: LoadReport | None = None
    task: str = ""
    leaks: dict[str, Any] = field(default_factory=dict)


@run_session
def pretrain(config: DictConfig, inputs: Inputs | None = None) -> RunResult:
    """Run a pretraining recipe.

    Args:
        config: A composed recipe, see :func:`~poyo_ssl_plugin.configuration.compose_recipe`.
        inputs: What to read, if not what the recipe says.

    Raises:
        PoyoSSLError: If the recipe or what it names is not as it must be.
    """
    config = _resolved(config)
    if (finished := _finished(config)) is not None:
        return finished
    inputs = inputs or Inputs.from_recipe(config)
    diet = _diet(config, inputs.table)
    L.seed_everything(config.seed, workers=True, verbose=False)
    task = _auxiliary_task(config, inputs.dataset)
    data = PretrainingData(
        inputs.dataset,
        inputs.table,
        diet,
        inputs.split,
        task=task,
        seed=config.seed,
        **{name: config.data[name] for name in _PRETRAINING_DATA},
        **_data_options(config),
    )
    model = _build_model(config, data, {task.name: task.n_classes} if task else {})
    objective = _instantiate(config.ssl, "ssl")
    loaded = _initialise(model, config, data, keep_words=True)
    leaks = {"scoring": check_scoring(inputs.table, data, allow=config.get("allow_leak", False))}
    module = Pretraining(
        model,
        objective,
        auxiliary=task.name if task else None,
        auxiliary_weight=config.aux.weight,
        hyper_parameters={**_record(config, model, data, data.train_times, inputs.skipped), "leaks": leaks},
        **_plain(config.optim, "optimizer", "schedule"),
    )
    trainer = _trainer(config, monitor="valid/loss", mode="min")
    initial = _validate(trainer, module, data)
    metrics = _fit(config, trainer, module, data)
    metrics |= _validate(trainer, module, data)
    return _keep(
        config, RunResult(Path(config.out_dir), _last(config), metrics, initial=initial, loaded=loaded, leaks=leaks)
    )


@dataclass
class Prepared:
    """A fine-tuning run before its first step, or a finished one opened again.

    Attributes:
        config: The resolved recipe.
        module: The Lightning module; ``module.model`` is the model, its vocabularies initialised.
        data: The data module, attached to the model.
        loaded: Which weights it starts from.
        leaks: What of the test was seen before, and whether that was allowed.
    """

    config: DictConfig
    module: Finetuning
    data: FinetuningData
    loaded: LoadReport | None = None
    leaks: dict[str, Any] = field(default_factory=dict)


def prepare_finetuning(config: DictConfig, inputs: Inputs | None = None, *, seed: int = 0) -> Prepared:
    """Everything of a fine-tuning run but the training; arguments as :func:`finetune`."""
    config = _resolved(config)
    _require(config, "init_from", "a pretrained checkpoint; the recipe 'scratch' needs none", null=True)
    inputs = inputs or Inputs.from_recipe(config)
    diet = _diet(config, inputs.table)
    L.seed_everything(seed, workers=True, verbose=False)
    task = get_task(config.task)
    data = FinetuningData(
        inputs.dataset,
        inputs.table,
        diet,
        inputs.split,
        task=task,
        seed=seed,
        shuffle_labels=config.shuffle_labels,
        **_data_options(config),
    )
    model = _build_model(config, data, {task.name: task.n_classes})
    loaded = _initialise(model, config, data, keep_words=False)
    record = _record(config, model, data, data.split["train"], inputs.skipped)
    record["leaks"] = leaks_of(config, inputs, data)
    if config.init_from is not None:
        record["pretrained_on"] = read_checkpoint(config.init_from)["hyper_parameters"].get("trained_on")
    module = Finetuning(
        model,
        task,
        identify_steps=config.identify_steps,
        label_smoothing=config.label_smoothing,
        hyper_parameters=record,
        **_plain(config.optim, "optimizer", "schedule"),
    )
    return Prepared(config, module, data, loaded, record["leaks"])


@run_session
def finetune(config: DictConfig, inputs: Inputs | None = None, *, seed: int = 0) -> RunResult:
    """Run a fine-tuning recipe with one seed, and test it.

    Args:
        config: A composed recipe.
        inputs: What to read, if not what the recipe says.
        seed: Seed of the weights, the windows and the dropout.

    Raises:
        PoyoSSLError: If the recipe or what it names is not as it must be.
    """
    if (finished := _finished(_resolved(config), seed=seed)) is not None:
        return finished
    run = prepare_finetuning(config, inputs, seed=seed)
    config, module, data = run.config, run.module, run.data
    trainer = _trainer(config, monitor="valid/accuracy", mode="max")
    metrics = _fit(config, trainer, module, data)
    trainer.test(module, data, verbose=False)
    result = RunResult(
        Path(config.out_dir),
        _last(config),
        {**metrics, **_numbers(trainer)},
        predictions=module.predictions,
        loaded=run.loaded,
        task=module.task.name,
        leaks=run.leaks,
    )
    return _keep(config, result, seed=seed)


def leaks_of(config: DictConfig, inputs: Inputs, data: FinetuningData) -> dict[str, Any]:
    """What of the test pretraining and scoring saw, and whether the recipe allows it.

    Raises:
        RecipeError: If it does not.
    """
    before = {} if config.init_from is None else check_leaks(config.init_from, data, allow=config.allow_leak)
    scoring = check_scoring(inputs.table, data, allow=config.allow_leak)
    return {**before, "scoring": scoring, "allowed": bool(config.allow_leak)}


def open_finetuned(
    checkpoint: str | Path, overrides: Mapping[str, Any] | None = None, inputs: Inputs | None = None
) -> Prepared:
    """Open a fine-tuned checkpoint with its data.

    Args:
        checkpoint: A checkpoint of a fine-tuning run.
        overrides: Dotted keys of its recipe to change, such as ``{"data.root": "other/folder"}``.
        inputs: What to read, if not what its recipe says.

    Raises:
        CheckpointError: If it is not such a checkpoint.
    """
    content = read_checkpoint(checkpoint)
    record = content["hyper_parameters"]
    if "recipe" not in record or "task" not in record["recipe"]:
        raise CheckpointError(f"{checkpoint}: not of a fine-tuning run of this package; evaluate needs one")
    config = OmegaConf.create(record["recipe"])
    for key, value in (overrides or {}).items():
        if OmegaConf.select(config, key, default=_ABSENT) is _ABSENT:
            raise RecipeError(f"{checkpoint}: its recipe has no key {key!r}")
        OmegaConf.update(config, key, value)
    config = _trusted(config, checkpoint)
    inputs = inputs or Inputs.from_recipe(config)
    task = get_task(config.task)
    data = FinetuningData(
        inputs.dataset, inputs.table, _diet(config, inputs.table), inputs.split, task=task, **_data_options(config)
    )
    leaks = check_test_time(record, data, allow=bool(config.get("allow_leak", False)))
    model = _build_model(config, data, {task.name: task.n_classes})
    try:
        model.load_state_dict(model_state(content))
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{checkpoint}: does not fit these recordings ({str(error).splitlines()[0]})") from None
    module = Finetuning(model, task, hyper_parameters=record, **_plain(config.optim, "optimizer", "schedule"))
    return Prepared(config, module, data, leaks=leaks)


@run_session
def evaluate(checkpoint: str | Path, overrides: Mapping[str, Any] | None = None) -> RunResult:
    """Test a fine-tuned checkpoint on the test split of its recordings; arguments as :func:`open_finetuned`."""
    run = open_finetuned(checkpoint, overrides)
    trainer = L.Trainer(
        accelerator=run.config.trainer.accelerator, devices=1, logger=False, enable_checkpointing=False, **_QUIET
    )
    trainer.test(run.module, run.data, verbose=False)
    return RunResult(
        Path(checkpoint).parent,
        Path(checkpoint),
        _numbers(trainer),
        predictions=run.module.predictions,
        task=run.module.task.name,
        leaks=run.leaks,
    )


_ABSENT = object()
_PRETRAINING_DATA = ("within", "curriculum", "curriculum_start", "curriculum_share")
_QUIET = {"enable_progress_bar": False, "enable_model_summary": False}
# The only classes that a checkpoint may ask for; its recipe is data, not code.
_KNOWN_MODELS = (
    "poyo_ssl_plugin.CalciumPOYO",
    "torch_brain.models.POYO",
    "torch_brain.models.POYOPlus",
    "torch_brain.models.CalciumPOYOPlus",
)


def _resolved(config: DictConfig) -> DictConfig:
    """The recipe with every reference replaced by its value; what is missing stays missing."""
    try:
        return OmegaConf.create(OmegaConf.to_container(config, resolve=True, throw_on_missing=False))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise RecipeError(" ".join(str(error).split())) from None


def _trusted(config: DictConfig, checkpoint: str | Path) -> DictConfig:
    target = config.model.get("_target_")
    if target not in _KNOWN_MODELS:
        raise CheckpointError(f"{checkpoint}: asks for the class {target!r}, which is refused")
    return config


def _require(config: DictConfig, key: str, what: str, *, null: bool = False) -> None:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if OmegaConf.is_missing(node, leaf) or (node[leaf] is None and not null):
        raise RecipeError(f"{key} is not set: give {key}=..., {what}")


def _plain(config: DictConfig, *names: str) -> dict[str, Any]:
    return {name: OmegaConf.to_container(config[name]) for name in names}


def _diet(config: DictConfig, table: PredictabilityTable) -> Diet:
    options = {key: value for key, value in config.diet.items() if key not in ("rule", "table")}
    diet = make_diet(table, config.diet.rule, **OmegaConf.to_container(OmegaConf.create(options)))  # type: ignore[arg-type]
    logger.info("diet %s (%s)", diet.summary(), diet.name)
    return diet


def _data_options(config: DictConfig) -> dict[str, Any]:
    names = ("window_length", "batch_size", "num_workers", "standardize")
    dropout = config.data.unit_dropout
    return {
        **{name: config.data[name] for name in names},
        "unit_dropout": None if dropout is None else OmegaConf.to_container(dropout),
    }


def _auxiliary_task(config: DictConfig, dataset: Recordings) -> Any:
    """The auxiliary task, if it has weight and any recording has its labels."""
    if config.aux.task is None or config.aux.weight == 0:
        return None
    task = get_task(config.aux.task)
    labelled = [
        name
        for name in dataset.recording_ids
        if task.source in (data := dataset.get_recording(name)).keys()
        and task.label in getattr(data, task.source).keys()
    ]
    if not labelled:
        logger.warning("no recording has labels of %s: pretraining without the auxiliary loss", task.name)
        return None
    return task


def _build_model(config: DictConfig, data: DietData, tasks: Mapping[str, int]) -> nn.Module:
    try:
        readout = adapter_class(hydra.utils.get_class(config.model["_target_"])).readout(tasks)
    except (ImportError, ValueError, KeyError, hydra.errors.HydraException) as error:
        if isinstance(error, RecipeError):
            raise
        hint = ""
        if str(config.model.get("_target_")).startswith("torch_brain.") and GENERATION == "0.2":
            hint = "; POYOPlus and CalciumPOYOPlus are only in torch_brain 0.1"
        raise RecipeError(f"model: {first_line(error)}{hint}") from error
    model = _instantiate(config.model, "model", **readout)
    check_family(model)
    data.attach(model)
    return model


def _instantiate(config: DictConfig, group: str, **further: Any) -> Any:
    try:
        # Hydra would turn dataclasses among the arguments into dictionaries, so these are given afterwards.
        return hydra.utils.instantiate(config, _partial_=True, _convert_="all")(**further)
    except (hydra.errors.InstantiationException, TypeError, ValueError) as error:
        raise RecipeError(f"{group}: {first_line(error.__cause__ or error)}") from error


def _initialise(model: nn.Module, config: DictConfig, data: DietData, *, keep_words: bool) -> LoadReport | None:
    """Weights from ``init_from``, if any, and the vocabularies of this dataset."""
    words = {"unit_emb": data.unit_ids, "session_emb": _sessions(data)}
    if config.init_from is None:
        for name in VOCABULARIES:
            getattr(model, name).initialize_vocab(words[name])
        return None
    state = model_state(read_checkpoint(config.init_from))
    report = load_weights(model, state, source=config.init_from)
    logger.info("init_from %s: %s", config.init_from, report.summary())
    for name in VOCABULARIES:
        embedding = getattr(model, name)
        if keep_words and not embedding.is_lazy() and set(words[name]) <= set(embedding.vocab):
            embedding.subset_vocab(words[name])
        else:
            replace_vocabulary(embedding, words[name], source=config.get("vocabulary", "pretrained"))
    return report


def _sessions(data: DietData) -> list[str]:
    return [str(data.dataset.get_recording(name).session.id) for name in data.recordings]


def _record(
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


def _trainer(config: DictConfig, *, monitor: str, mode: str) -> L.Trainer:
    options = config.trainer
    out_dir = Path(config.out_dir)
    claim(out_dir)
    if not config.resume and _last(config).exists():
        raise RecipeError(f"{out_dir} holds a run already: pass resume=true to continue it, or another out_dir=...")
    if options.threads:
        torch.set_num_threads(options.threads)
    (out_dir / RESULT).unlink(missing_ok=True)
    place = {"dirpath": _last(config).parent, "enable_version_counter": False}
    checkpoints = [
        ModelCheckpoint(filename="best", monitor=monitor, mode=mode, **place),
        ResumePoint(_last(config), every_n_steps=options.save_every_n_steps or options.val_every_n_steps),
    ]
    if options.trajectory_every_n_steps:
        place["dirpath"] = out_dir / "trajectory"
        every = options.trajectory_every_n_steps
        checkpoints.append(
            _Trajectory(filename="{step}", every_n_train_steps=every, save_top_k=-1, save_weights_only=True, **place)
        )
    guards = [FiniteGuard(out_dir, options.on_nonfinite), CollapseWarning()]
    bars = [RichProgressBar()] if options.progress else []
    trainer = L.Trainer(
        max_steps=options.max_steps,
        max_epochs=options.max_epochs if options.max_epochs is not None else -1,
        val_check_interval=options.val_every_n_steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=options.gradient_clip_val,
        callbacks=[*guards, *checkpoints, LearningRateMonitor("step"), *bars],
        plugins=[SafeCheckpointIO()],
        logger=_loggers(out_dir, resumed=_last(config).exists(), tensorboard=options.tensorboard, wandb=options.wandb),
        enable_progress_bar=bool(options.progress),
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{
            name: options[name]
            for name in (
                "accelerator",
                "devices",
                "num_nodes",
                "strategy",
                "precision",
                "deterministic",
                "log_every_n_steps",
            )
        },
    )
    with atomic_path(out_dir / "recipe.yaml") as temporary:
        OmegaConf.save(config, temporary)
    return trainer


class _Trajectory(ModelCheckpoint):
    """A class of its own: Lightning tells the states of callbacks apart by class and period."""


def _loggers(out_dir: Path, *, resumed: bool, tensorboard: bool, wandb: bool) -> list[Logger]:
    loggers: list[Logger] = [MetricsLog(out_dir / "csv", resumed=resumed)]
    if tensorboard:
        loggers.append(TensorBoardLogger(out_dir, name="", version="tensorboard"))
    if wandb:
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(WandbLogger(project="poyo-ssl", save_dir=out_dir))
    return loggers


def _fit(
    config: DictConfig, trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule
) -> dict[str, float]:
    """Train to the end, from where the run in ``out_dir`` was if it is resumed, and keep the last state.

    Returns:
        The last value of every metric, over all starts of the run.
    """
    last = _last(config)
    resumed = str(last) if config.resume and last.exists() else None
    if resumed is not None:
        earlier = read_checkpoint(last)["hyper_parameters"]
        refuse_other_recipe(OmegaConf.to_container(config), earlier.get("recipe", {}), last)  # type: ignore[arg-type]
    trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    point = next(callback for callback in trainer.callbacks if isinstance(callback, ResumePoint))  # type: ignore[attr-defined]
    if point.trained:
        trainer.save_checkpoint(last)
    point.restore(module)
    return {**point.carried, **_numbers(trainer)}


def _finished(config: DictConfig, **further: Any) -> RunResult | None:
    """The result of the run in ``out_dir`` if it is to be resumed and was finished."""
    content = kept_result(config.out_dir, _identity(config, further)) if config.resume else None
    if content is None or not _last(config).exists():
        return None
    logger.info("%s: finished already", config.out_dir)
    loaded = None if content["loaded"] is None else LoadReport(**content["loaded"])
    values = {name: content[name] for name in ("metrics", "initial", "predictions", "task", "leaks")}
    return RunResult(Path(config.out_dir), _last(config), loaded=loaded, **values)


def _keep(config: DictConfig, result: RunResult, **further: Any) -> RunResult:
    content = asdict(result)
    for name in ("out_dir", "checkpoint"):
        del content[name]
    keep_result(config.out_dir, _identity(config, further), content)
    return result


def _identity(config: DictConfig, further: Mapping[str, Any]) -> dict[str, Any]:
    recipe = OmegaConf.to_container(config)
    assert isinstance(recipe, dict)
    return {**recipe, **further}  # type: ignore[dict-item]


def _last(config: DictConfig) -> Path:
    return Path(config.out_dir) / "checkpoints" / "last.ckpt"


def _validate(trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule) -> dict[str, float]:
    """Validation before the first step: where the representation starts."""
    if not data.val_dataloader():
        return {}
    trainer.validate(module, data, verbose=False)
    return dict(_numbers(trainer))


def _numbers(trainer: L.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
