"""What a process does that trains together with others; ``test_two_processes.py`` starts two by torchrun.

Each writes what it saw, and the gradients and runs it got, to a folder, for the test to compare with those
of one process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from omegaconf import DictConfig

from poyo_ssl_plugin import CalciumPOYO, MaskedLatentReconstruction, PredictabilitySampler, Recordings
from poyo_ssl_plugin.compat import Interval
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import get_task
from poyo_ssl_plugin.data.splits import recorded_split
from poyo_ssl_plugin.distributed import ShardedSampler, n_processes, process_index
from poyo_ssl_plugin.errors import Terminated
from poyo_ssl_plugin.objectives import Decorrelation, EMATeacher, MaskedActivity
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable
from poyo_ssl_plugin.training import Finetuning, FinetuningData, Pretraining, PretrainingData, finetune, pretrain
from poyo_ssl_plugin.training.resume import ResumePoint

# Of both processes together; one alone takes all of it.
GLOBAL_BATCH = 8
OPTIM: dict[str, Any] = {"optimizer": {"name": "adamw", "lr": 1e-3}, "schedule": {}, "hyper_parameters": {}}
DROPOUT = {"min_units": 4, "mode_units": 8, "max_units": 20, "tail_right": 12}
RUN = [
    "model=tiny",
    "trainer.max_steps=6",
    "trainer.val_every_n_steps=3",
    "trainer.save_every_n_steps=1",
    "trainer.limit_val_batches=2",
    "trainer.log_every_n_steps=1",
    "trainer.progress=false",
    "trainer.tensorboard=false",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
]
STOPPED_AT = 4


class StopError(Exception):
    """Stands for the end of a process: nothing of it is left but its files."""


def first_half(real: torch.Tensor, ratio: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Hide the first half of the time of all neurons: the same for whoever asks."""
    return real & (torch.arange(real.shape[2]) < real.shape[2] // 2)


OBJECTIVES: dict[str, Callable[[], torch.nn.Module]] = {
    "masked_latent": lambda: MaskedLatentReconstruction(16, mask="causal_time", hide_neurons=0.0),
    "ema_teacher": lambda: EMATeacher(16, mask="causal_time", hide_neurons=0.0),
    "masked_activity": lambda: MaskedActivity(16, patch_size=10, dim_head=8, mask=first_half),
    "decorrelation": Decorrelation,
}


def module_and_data(what: str, root: Path, table_path: Path) -> tuple[L.LightningModule, L.LightningDataModule]:
    """A module without dropout, and its data: ``"finetune"``, or pretraining with the objective of that name."""
    dataset, table = Recordings(root), PredictabilityTable.load(table_path)
    task = get_task("drifting_gratings")
    options: dict[str, Any] = {
        "task": task,
        "window_length": 2.0,
        "batch_size": GLOBAL_BATCH // n_processes(),
        "unit_dropout": DROPOUT,
    }
    kind = FinetuningData if what == "finetune" else PretrainingData
    data = kind(dataset, table, Diet.everything(table), recorded_split(dataset), **options)
    torch.manual_seed(0)
    model = CalciumPOYO(
        sequence_length=2.0,
        latent_step=0.5,
        num_latents_per_step=4,
        dim_out={task.name: task.n_classes},
        patch_size=10,
        dim=16,
        depth=1,
        dim_head=8,
        self_heads=2,
        ffn_dropout=0.0,
        lin_dropout=0.0,
        atn_dropout=0.0,
        latent_dropout=0.0,
    )
    sessions = [str(dataset.get_recording(name).session.id) for name in dataset.recording_ids]
    model.set_vocabs(unit_ids=data.unit_ids, session_ids=sessions)
    data.attach(model)
    if what == "finetune":
        return Finetuning(model, task, **OPTIM), data
    # Decorrelation goes without: nothing else reaches the processor then. The weight is one at which an auxiliary loss
    # over the wrong number of labels shows.
    auxiliary = None if what == "decorrelation" else task.name
    return Pretraining(model, OBJECTIVES[what](), auxiliary=auxiliary, auxiliary_weight=1.0, **OPTIM), data


class KeepGradients(L.Callback):
    """Keeps every step's gradients and which windows they came from."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.windows: list[list[tuple[str, float]]] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.windows.append(list(zip(batch["recording_id"], batch["start"].tolist())))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self.gradients.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})


def gradients(what: str, root: Path, table_path: Path, folder: Path) -> KeepGradients:
    """Gradients of the first two steps."""
    module, data = module_and_data(what, root, table_path)
    kept = KeepGradients()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=n_processes() if torch.distributed.is_initialized() else "auto",
        strategy="ddp" if n_processes() > 1 else "auto",
        max_steps=2,
        limit_val_batches=0,
        logger=False,
        callbacks=[kept],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, data)
    return kept


def sampled() -> dict[str, list[list[tuple[str, float]]]]:
    """Two epochs of windows, wrapped as Lightning does it and shared by the sampler itself."""
    options: dict[str, Any] = {
        "sampling_intervals": {"a": Interval(0.0, 100.5), "b": Interval(0.0, 50.0)},
        "window_length": 1.0,
    }
    common = torch.Generator().manual_seed(3)
    samplers = {
        # Without a generator, processes agree on a seed.
        "wrapped": DistributedSamplerWrapper(PredictabilitySampler(**options), shuffle=False),
        "own": ShardedSampler(
            PredictabilitySampler(**options, generator=common), n_shards=n_processes(), index=process_index()
        ),
    }
    return {
        name: [[(window.recording_id, window.start) for window in sampler] for _ in range(2)]
        for name, sampler in samplers.items()
    }


def recipe(command: str, root: Path, table_path: Path, out: Path, *overrides: str) -> DictConfig:
    n = n_processes()
    common = [f"data.root={root}", f"diet.table={table_path}", f"out_dir={out}", f"data.batch_size={GLOBAL_BATCH // n}"]
    several = [f"trainer.devices={n}", "trainer.strategy=ddp"] if n > 1 else []
    name = "scratch" if command == "finetune" else None
    return compose_recipe(command, name, [*RUN, *common, *several, *overrides])


def runs(command: str, root: Path, table_path: Path, folder: Path) -> dict[str, Any]:
    """A run that is let be, and one that is stopped and started again: their results."""
    train = {"pretrain": pretrain, "finetune": finetune}[command]
    whole = train(recipe(command, root, table_path, folder / f"{command}_whole"))
    save = ResumePoint._save_if_due

    def save_and_stop(point: ResumePoint, trainer: L.Trainer) -> None:
        save(point, trainer)
        if trainer.global_step >= STOPPED_AT:
            raise StopError

    config = recipe(command, root, table_path, folder / f"{command}_resumed", "resume=true")
    ResumePoint._save_if_due = save_and_stop  # type: ignore[method-assign]
    try:
        train(config)
    except StopError:
        pass
    else:
        raise AssertionError("the run was not stopped")
    finally:
        ResumePoint._save_if_due = save  # type: ignore[method-assign]
    resumed = train(config)
    return {"whole": whole, "resumed": resumed}


def told_to_stop(root: Path, table_path: Path, folder: Path) -> int:
    """The last step of a run of which only the second process is told to stop."""
    config = recipe("pretrain", root, table_path, folder / "stopped", "trainer.max_steps=40")
    save = ResumePoint._save_if_due

    def signalled(point: ResumePoint, trainer: L.Trainer) -> None:
        if trainer.global_step == 2 and process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        save(point, trainer)

    ResumePoint._save_if_due = signalled  # type: ignore[method-assign]
    try:
        pretrain(config)
    except Terminated as stop:
        return int(stop.message.split("after step ")[1].split(";")[0])
    finally:
        ResumePoint._save_if_due = save  # type: ignore[method-assign]
    raise AssertionError("the run was not stopped")


def main(root: Path, table_path: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    seen: dict[str, Any] = {"sampled": sampled()}
    for what in ("finetune", *OBJECTIVES):
        kept = gradients(what, root, table_path, folder)
        seen[what] = {"gradients": kept.gradients, "windows": kept.windows}
    for command in ("pretrain", "finetune"):
        results = runs(command, root, table_path, folder)
        seen[f"run {command}"] = {name: (r.metrics, r.initial, r.predictions) for name, r in results.items()}
    seen["told to stop"] = told_to_stop(root, table_path, folder)
    torch.save(seen, folder / f"process{process_index()}.pt")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
