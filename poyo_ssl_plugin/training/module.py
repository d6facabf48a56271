"""What all training steps share: optimiser and schedule, health of the latents, the record in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import nn

from poyo_ssl_plugin.models import check_family
from poyo_ssl_plugin.training.health import HealthMeter
from poyo_ssl_plugin.training.optim import EMBEDDINGS, READOUT, checked, make_optimizer, make_schedule, schedule_config


class TrainingModule(L.LightningModule):
    """A Lightning module around a POYO-family model.

    Args:
        model: The model, its vocabularies initialised.
        optimizer: Arguments of :func:`make_optimizer`.
        schedule: Arguments of :func:`make_schedule`, without ``total_steps``.
        hyper_parameters: Kept in checkpoints; plain values only.
    """

    # Attributes of the trained modules that never start from pretrained weights.
    fresh: tuple[str, ...] = ()

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        hyper_parameters: Mapping[str, Any],
    ) -> None:
        super().__init__()
        check_family(model)
        self.model = model
        self.optimizer_arguments = checked(optimizer)
        self.schedule_arguments = dict(schedule)
        self.record = dict(hyper_parameters)
        self.health = HealthMeter()

    def trained(self) -> Sequence[nn.Module]:
        """Whose parameters the optimiser gets."""
        return [self.model]

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.trained(), fresh=self.fresh, **self.optimizer_arguments)
        total = int(self.trainer.estimated_stepping_batches)
        return schedule_config(optimizer, make_schedule(optimizer, total_steps=total, **self.schedule_arguments))

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"valid/{name}": value for name, value in self.health.compute().items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["hyper_parameters"] = self.record


class StagedModule(TrainingModule):
    """Training that identifies the units first, on a backbone that may be pretrained (Azabou et al. 2023).

    Args:
        model: The model, its vocabularies initialised.
        identify_steps: Train only what is new (embeddings of units and sessions, the readout, and whatever
            is outside the model) for so many steps, then everything.
        **options: As :class:`TrainingModule`.
    """

    fresh: tuple[str, ...] = READOUT
    # One row per tested moment, after a test.
    predictions: list[dict[str, Any]]

    def __init__(self, model: nn.Module, *, identify_steps: int = 0, **options: Any) -> None:
        super().__init__(model, **options)
        self.identify_steps = identify_steps

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """While units are being identified, the backbone's gradients are dropped: it does not move."""
        if self.global_step >= self.identify_steps:
            return
        for name, parameter in self.model.named_parameters():
            if not name.startswith((*EMBEDDINGS, *READOUT)):
                parameter.grad = None
