"""Numerical guards: losses and gradients that are not finite, representations that collapse."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
import torch

from poyo_ssl_plugin.distributed import process_index
from poyo_ssl_plugin.errors import NumericalError
from poyo_ssl_plugin.files import write_json
from poyo_ssl_plugin.plain import Batch, State

logger = logging.getLogger(__name__)

# So many skipped steps in a row are no accident.
MAX_SKIPPED_IN_A_ROW = 50


class FiniteGuard(L.Callback):
    """Keeps a loss or gradient that is not finite from reaching the weights.

    What the batch held is written to ``nonfinite.json`` in the run's folder: step, recordings, start
    times, the loss and the parameters whose gradients were affected. With 16-bit gradients only the
    loss is looked at, since there the gradient scaler deals with the gradients.

    Args:
        out_dir: Folder of the run.
        action: ``"stop"``, or ``"skip"``, which leaves weights and optimiser as they are, counts, and
            stops after 50 steps in a row.

    Raises:
        NumericalError: Where it stops; the weights are those of the step before.
    """

    def __init__(self, out_dir: str | Path, action: str = "stop") -> None:
        self.folder = Path(out_dir)
        self.action = action
        self.skipped = 0
        self._in_a_row = 0
        self._batch: Batch | None = None
        self._loss: torch.Tensor | None = None

    @property
    def path(self) -> Path:
        """Where it is written; each process has a batch, and a file, of its own."""
        index = process_index()
        return self.folder / ("nonfinite.json" if index == 0 else f"nonfinite_process{index}.json")

    def state_dict(self) -> State:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: State) -> None:
        self.skipped = state_dict["skipped"]

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, *_: object) -> None:
        self._batch = batch

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert self._loss is not None
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        watched = [self._loss.reshape(1)]
        if not str(trainer.precision).startswith("16"):
            watched += [norm.reshape(1) for norm in torch._foreach_norm(gradients)]
        # One number, so that a GPU is waited for once.
        finite = bool(torch.cat([w.float() for w in watched]).isfinite().all())
        # A process's own loss may be the only one: all leave the step out, or none.
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            self._in_a_row = 0
            return
        self.skipped += 1
        self._in_a_row += 1
        recordings = self._write_down(trainer, pl_module)
        if self.action == "stop" or self._in_a_row >= MAX_SKIPPED_IN_A_ROW:
            times = "" if self.action == "stop" else f" {self._in_a_row} times in a row"
            raise NumericalError(
                f"step {trainer.global_step}: the loss or its gradient was not finite{times} (recordings "
                f"{', '.join(recordings)}; details in {self.path}). Look at these recordings, lower "
                "optim.optimizer.lr, or pass trainer.on_nonfinite=skip to leave such batches out; the last checkpoint "
                "is from before it"
            )
        logger.warning("step %d: not finite, skipped (recordings %s)", trainer.global_step, ", ".join(recordings))
        for parameter in pl_module.parameters():
            parameter.grad = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if self.skipped:
            pl_module.log("train/skipped_steps", float(self.skipped), on_step=True, on_epoch=False)

    def _write_down(self, trainer: L.Trainer, module: L.LightningModule) -> list[str]:
        assert self._batch is not None and self._loss is not None
        recordings = [str(name) for name in self._batch.get("recording_id", [])]
        affected = [
            name
            for name, parameter in module.named_parameters()
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
        ]
        content = {
            "step": trainer.global_step,
            "loss": str(float(self._loss)),
            "recording_ids": recordings,
            "starts": [float(start) for start in self._batch.get("start", [])],
            "gradients_not_finite": affected,
            "action": self.action,
            "steps_so_far": self.skipped,
        }
        write_json(self.path, content)
        return sorted(set(recordings))


class CollapseWarning(L.Callback):
    """Warns when held-out latents stop depending on the input.

    Compares the effective rank and the input-dependent standard deviation of each validation with
    those of the first one (Roy & Vetterli 2007; Jing et al. 2022 on collapse).

    Args:
        rank_fraction: Warn below this fraction of the first effective rank.
        std_fraction: Warn below this fraction of the first standard deviation.
    """

    def __init__(self, rank_fraction: float = 0.2, std_fraction: float = 0.05) -> None:
        self.fractions = {"effective_rank": rank_fraction, "latent_std": std_fraction}
        self.first: dict[str, float] = {}
        self.warned = False

    def state_dict(self) -> State:
        return {"first": self.first, "warned": self.warned}

    def load_state_dict(self, state_dict: State) -> None:
        self.first, self.warned = dict(state_dict["first"]), state_dict["warned"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, fraction in self.fractions.items():
            value = trainer.callback_metrics.get(f"valid/{name}")
            if value is None:
                continue
            first = self.first.setdefault(name, float(value))
            if not self.warned and float(value) < fraction * first:
                self.warned = True
                logger.warning(
                    "step %d: the representation is collapsing: %s of held-out latents fell from %.3g to %.3g. Use an "
                    "objective with a variance term (ssl=masked_latent), a lower optim.optimizer.lr, or a larger "
                    "aux.weight; a model pretrained like this will not help",
                    trainer.global_step,
                    name.replace("_", " "),
                    first,
                    float(value),
                )
