"""The Lightning trainer of a recipe, and training with it: to the end, or on from where a run was stopped."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from poyo_ssl_plugin.distributed import process_index
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models.compiled import compile_layers
from poyo_ssl_plugin.training.checkpoint_io import SafeCheckpointIO
from poyo_ssl_plugin.training.guards import CollapseWarning, FiniteGuard
from poyo_ssl_plugin.training.logs import MetricsLog
from poyo_ssl_plugin.training.module import TrainingModule
from poyo_ssl_plugin.training.recipe import TrainerRecipe
from poyo_ssl_plugin.training.resume import ResumePoint
from poyo_ssl_plugin.training.run_folder import RunRecord
from poyo_ssl_plugin.training.step_progress import StepProgress
from poyo_ssl_plugin.training.throughput import Throughput

# What Lightning warns of and runs here need not know: a step on a CPU does not need worker processes, windows load many
# times faster than they train; every process validates on all windows, so there is nothing to average; folds leave
# nothing to validate on.
_NOT_HERE = (
    ".*Checkpoint directory .* is not empty.*",
    ".*does not have many workers.*",
    ".*isinstance.treespec.*",
    ".*smaller than the logging interval.*",
    ".*sync_dist=True.*",
    ".*across ranks is zero.*",
)


# Keys of the recipe that are the trainer's own.
_AS_THEY_ARE = {"accelerator", "devices", "num_nodes", "strategy", "precision", "deterministic"}
_AS_THEY_ARE |= {"accumulate_grad_batches", "log_every_n_steps", "limit_val_batches"}


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning from announcing hardware it did not find, and from warnings that do not apply here."""
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for hint in _NOT_HERE:
                warnings.filterwarnings("ignore", hint)
            yield
    finally:
        lightning.setLevel(level)


def make_trainer(options: TrainerRecipe, record: RunRecord, *, monitor: str, mode: str) -> L.Trainer:
    """The trainer of a recipe.

    Args:
        options: What the recipe says of it.
        record: The record of the run.
        monitor: The metric by which the best checkpoint is chosen.
        mode: ``"min"`` or ``"max"``.

    Raises:
        RecipeError: If Lightning refuses an option.
    """
    out_dir, last = record.out_dir, record.last
    if options.threads:
        torch.set_num_threads(options.threads)
    place = {"dirpath": last.parent, "enable_version_counter": False}
    checkpoints = [
        ModelCheckpoint(filename="best", monitor=monitor, mode=mode, **place),
        ResumePoint(last, every_n_steps=options.save_every_n_steps or options.val_every_n_steps),
    ]
    if options.trajectory_every_n_steps:
        place["dirpath"] = out_dir / "trajectory"
        every = options.trajectory_every_n_steps
        checkpoints.append(
            _Trajectory(filename="{step}", every_n_train_steps=every, save_top_k=-1, save_weights_only=True, **place)
        )
    compiling = [_Compile(options.compile)] if options.compile else []
    loggers = _loggers(out_dir, last, tensorboard=options.tensorboard, wandb=options.wandb)
    guards = [FiniteGuard(out_dir, options.on_nonfinite), CollapseWarning()]
    throughput = Throughput(record)
    # The work of the model is counted before it is compiled.
    speed = [throughput, *compiling]
    label = "pretraining" if mode == "min" else "fine-tuning"
    bars = [StepProgress(label, throughput)] if options.progress else []
    try:
        return L.Trainer(
            max_steps=options.max_steps,
            max_epochs=options.max_epochs if options.max_epochs is not None else -1,
            val_check_interval=options.val_every_n_steps * options.accumulate_grad_batches,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            gradient_clip_val=options.gradient_clip_val,
            callbacks=[_OwnRandomness(), *guards, *checkpoints, LearningRateMonitor("step"), *speed, *bars],
            plugins=[SafeCheckpointIO()],
            logger=loggers,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **{name: getattr(options, name) for name in _AS_THEY_ARE},
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(f"trainer: {' '.join(str(error).split())}") from error


def make_tester(options: TrainerRecipe) -> L.Trainer:
    """A trainer that only tests, and writes nothing."""
    return L.Trainer(
        accelerator=options.accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class _OwnRandomness(L.Callback):
    """Dropout and masks of its own for each process; weights and the order of windows stay common."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if process_index():
            torch.manual_seed(torch.initial_seed() + process_index())


class _Compile(L.Callback):
    """Compiles the model before the first step; ``how`` is true, or the name of a backend."""

    def __init__(self, how: bool | str) -> None:
        self.backend = how if isinstance(how, str) else "inductor"

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if self.backend:
            assert isinstance(pl_module, TrainingModule)
            compile_layers(pl_module.model, self.backend)
            self.backend = ""


class _Trajectory(ModelCheckpoint):
    """A class of its own: Lightning tells the states of callbacks apart by class and period."""


def _loggers(out_dir: Path, checkpoint: Path, *, tensorboard: bool, wandb: bool) -> list[Logger]:
    loggers: list[Logger] = [MetricsLog(out_dir / "csv", checkpoint)]
    if tensorboard:
        loggers.append(TensorBoardLogger(out_dir, name="", version="tensorboard"))
    if wandb:
        from lightning.pytorch.loggers import WandbLogger

        if importlib.util.find_spec("wandb") is None:
            raise RecipeError("trainer.wandb=true needs Weights & Biases: pip install wandb")
        loggers.append(WandbLogger(project="poyo-ssl", save_dir=out_dir))
    return loggers


def fit(trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule) -> dict[str, float]:
    """Train to the end, from the last state of the run if there is one, and keep the last state.

    Returns:
        The last value of every metric, over all starts of the run.
    """
    point = next(callback for callback in trainer.callbacks if isinstance(callback, ResumePoint))
    trainer.fit(module, data, ckpt_path=str(point.path) if point.path.exists() else None, weights_only=True)
    if point.trained:
        trainer.save_checkpoint(point.path)
    point.restore(module)
    return {**point.carried, **numbers(trainer)}


def validate(trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule) -> dict[str, float]:
    """Validation before the first step: where the representation starts."""
    if not data.val_dataloader():
        return {}
    trainer.validate(module, data, verbose=False)
    return numbers(trainer)


def numbers(trainer: L.Trainer) -> dict[str, float]:
    """The last value of every metric."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
