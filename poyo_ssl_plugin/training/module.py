"""What all training steps share: optimiser and schedule, health of the latents, the record in checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from torch import nn

from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import PrototypeReadout, check_family
from poyo_ssl_plugin.plain import ReadOnlyValues, State, Values
from poyo_ssl_plugin.training.meters import LatentMeter
from poyo_ssl_plugin.training.optim import OPTIMIZERS, READOUT, make_optimizer, make_schedule

# Parts of a POYO that only decoding of queries uses.
DECODER = ("dec_atn", "dec_ffn", "session_emb", "task_emb")


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Do not train these parts of a model, where it has them: DDP would wait for gradients of what nothing uses."""
    for name in set(parts) & set(dict(model.named_children())):
        getattr(model, name).requires_grad_(False)


class TrainingModule(L.LightningModule):
    """A Lightning module around a POYO-family model.

    Args:
        model: The model, its vocabularies initialised.
        optimizer: Arguments of :func:`make_optimizer`.
        schedule: Arguments of :func:`make_schedule`, without ``total_steps``.
        hyper_parameters: Kept in checkpoints; plain values only.
        frozen: Parts of the model that are not trained.
    """

    # Attributes of the trained modules that never start from pretrained weights.
    fresh: tuple[str, ...] = ()

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: ReadOnlyValues,
        schedule: ReadOnlyValues,
        hyper_parameters: ReadOnlyValues,
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_family(model)
        freeze(model, frozen)
        self.model = model
        if optimizer.get("name", "adamw") not in OPTIMIZERS:
            raise RecipeError(f"unknown optimizer {optimizer['name']!r}; there are {' and '.join(OPTIMIZERS)}")
        self.optimizer_arguments = dict(optimizer)
        self.schedule_arguments = dict(schedule)
        self.record = dict(hyper_parameters)
        self.health = LatentMeter()

    def setup(self, stage: str) -> None:
        if stage == "fit" and isinstance(self.model.readout, PrototypeReadout):
            # Prototypes are compared with the latents themselves.
            freeze(self.model, DECODER)

    def trained(self) -> Sequence[nn.Module]:
        """Whose parameters the optimiser gets."""
        return [self.model]

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = make_optimizer(self.trained(), fresh=self.fresh, **self.optimizer_arguments)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = make_schedule(
            optimizer, total_steps=total, backbone_start=self.backbone_start(total), **self.schedule_arguments
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def backbone_start(self, total_steps: int) -> int:
        """The step from which the shared weights are trained."""
        return 0

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"valid/{name}": value for name, value in self.health.compute().items()})

    def on_save_checkpoint(self, checkpoint: State) -> None:
        checkpoint["hyper_parameters"] = self.record


class TransferModule(TrainingModule):
    """Training from weights that may be pretrained: first what is new, then the rest, or not at all.

    New are embeddings of units and sessions, decoder and readout. What the rest does is ``transfer``:
    ``"full"`` trains it from the first step, ``"lp_ft"`` after ``probe_fraction`` of the steps, at a learning
    rate that is warmed up again (Kumar et al. 2022), ``"probe"`` never. The number of steps is the same.

    Args:
        model: The model, its vocabularies initialised.
        transfer: ``"full"``, ``"lp_ft"`` or ``"probe"``.
        probe_fraction: Fraction of the steps before the rest is trained, for ``"lp_ft"``.
        **options: As :class:`TrainingModule`.

    Raises:
        RecipeError: If ``transfer`` is unknown.
    """

    fresh: tuple[str, ...] = READOUT

    def __init__(
        self, model: nn.Module, *, transfer: str = "full", probe_fraction: float = 0.3, **options: Any
    ) -> None:
        super().__init__(model, **options)
        self.predictions: list[Values] = []  # one row per tested moment, after a test
        starts = {"full": 0.0, "lp_ft": probe_fraction, "probe": 1.0}
        if transfer not in starts:
            raise RecipeError(f"transfer must be full, lp_ft or probe, not {transfer!r}")
        self._backbone_start = starts[transfer]

    def on_test_epoch_start(self) -> None:
        self.predictions = []

    def backbone_start(self, total_steps: int) -> int:
        """The step from which everything is trained."""
        return round(self._backbone_start * total_steps)
