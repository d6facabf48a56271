"""The pretraining step: masked latents, and an auxiliary task."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from poyo_ssl_plugin.data.tasks import IGNORED
from poyo_ssl_plugin.distributed import mean_of_all
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import adapt
from poyo_ssl_plugin.objectives import NoReconstruction, ObjectiveOutput
from poyo_ssl_plugin.plain import Batch, State
from poyo_ssl_plugin.training.meters import ProbeMeter, SkillMeter
from poyo_ssl_plugin.training.module import DECODER, TrainingModule
from poyo_ssl_plugin.training.tokens import answered

_OBJECTIVE = "objective."


class Pretraining(TrainingModule):
    r"""A :class:`~lightning.pytorch.core.LightningModule` that pretrains a POYO-family model without labels.

    The loss is that of the objective plus ``auxiliary_weight`` times the cross-entropy of an
    auxiliary task (the paper's: gratings direction, weight 0.01), where windows have labels.

    Args:
        model: The model, its vocabularies initialised.
        objective: The self-supervised objective, ``objective(model, inputs) -> ObjectiveOutput``. One with a
            method ``attach`` is given the model first; one with names of parts in ``untrained`` gives these no
            gradient.
        auxiliary: Name of the auxiliary task's readout, or ``None`` for none.
        auxiliary_weight: Its weight.
        **options: ``optimizer`` and ``schedule``, as a recipe's ``optim`` has them, and ``hyper_parameters``, plain
            values that are kept in checkpoints.

    Raises:
        RecipeError: If there is neither an auxiliary task nor anything to reconstruct.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO, MaskedLatentReconstruction
        >>> model = CalciumPOYO(sequence_length=2.0, latent_step=0.5, dim_out={"turn": 2}, dim=16)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> module = Pretraining(
        ...     model, MaskedLatentReconstruction(dim=16), auxiliary=None, auxiliary_weight=0.0,
        ...     optimizer={"lr": 2e-3}, schedule={}, hyper_parameters={},
        ... )
        >>> model.dec_atn.to_out.weight.requires_grad, model.latent_emb.weight.requires_grad  # nothing is decoded
        (False, True)
    """

    def __init__(
        self, model: nn.Module, objective: nn.Module, *, auxiliary: str | None, auxiliary_weight: float, **options: Any
    ) -> None:
        unused = (*DECODER, "readout", *getattr(objective, "untrained", ())) if auxiliary is None else ()
        super().__init__(model, frozen=unused, **options)
        if auxiliary is None and isinstance(objective, NoReconstruction):
            raise RecipeError(
                "pretraining has nothing to learn from: ssl=none leaves the auxiliary task alone, and there is none "
                "(aux.task is not set, aux.weight is 0, or no recording has its labels)"
            )
        self.adapter = adapt(model)
        self.objective = objective
        self.skill, self.probe = SkillMeter(), ProbeMeter()
        self.auxiliary = auxiliary
        self.auxiliary_weight = auxiliary_weight
        attach = getattr(objective, "attach", None)
        if callable(attach):
            attach(model)

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        return self._step(batch, "train")

    def on_train_batch_end(self, outputs: dict[str, torch.Tensor], batch: Batch, batch_index: int) -> None:
        """Tell the data the loss, for a curriculum that is paced by it."""
        observe = getattr(getattr(self.trainer, "datamodule", None), "observe", None)
        if observe is not None:
            observe(outputs["loss"])

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._step(batch, "valid")

    def trained(self) -> list[nn.Module]:
        return [self.model, self.objective]

    def on_save_checkpoint(self, checkpoint: State) -> None:
        """Keep the model alone under ``state_dict``, as torch_brain's ``load_pretrained`` wants it."""
        super().on_save_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        checkpoint["objective"] = {key: state.pop(key) for key in list(state) if key.startswith(_OBJECTIVE)}

    def on_load_checkpoint(self, checkpoint: State) -> None:
        checkpoint["state_dict"] |= checkpoint["objective"]

    def _step(self, batch: Batch, part: str) -> torch.Tensor:
        output = self.objective(self.model, batch["inputs"])
        terms = dict(output.terms)
        loss = output.loss
        if self.auxiliary is not None:
            logits, target = answered(self.adapter, output.latent_pass.output, batch, self.auxiliary)
            n_labels = (target != IGNORED).sum()
            if n_labels:
                cross_entropy = F.cross_entropy(logits, target, ignore_index=IGNORED)
                terms["auxiliary"] = cross_entropy.detach()
            else:
                # Keeps the decoder in the graph, so that every process has all gradients.
                cross_entropy = 0.0 * logits.sum()
                if part == "train":
                    # Lightning would log the value of the last step that had labels once more.
                    terms["auxiliary"] = torch.full_like(cross_entropy, torch.nan)
            if part == "train":
                cross_entropy = mean_of_all(cross_entropy, n_labels)
            loss = loss + self.auxiliary_weight * cross_entropy
        if part == "valid":
            self._measure(output, batch)
        size = len(batch["target"])
        self.log_dict({f"{part}/{name}": value for name, value in terms.items()}, batch_size=size)
        self.log(f"{part}/loss", loss.detach(), batch_size=size, prog_bar=True)
        return loss

    def _measure(self, output: ObjectiveOutput, batch: Batch) -> None:
        latents = output.latent_pass.processor_latents
        self.health.update(latents)
        self.skill.update(output)
        labels = batch["target"][:, 0]
        known = labels != IGNORED
        names = [name for name, has in zip(batch["recording_id"], known.tolist(), strict=True) if has]
        self.probe.update(latents[known], names, labels[known])

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        found = {**self.skill.compute(), **self.probe.compute()}
        self.log_dict({f"valid/{name}": value for name, value in found.items()})
