"""A slow copy of the model as teacher: tell its latents of the whole window from a part of one's own."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import LatentPass, run_with_latents
from poyo_ssl_plugin.models.latents import layer_outputs
from poyo_ssl_plugin.objectives.masked_latent import MaskedLatentReconstruction
from poyo_ssl_plugin.objectives.output import ObjectiveOutput
from poyo_ssl_plugin.plain import Batch, ModelInputs


class EMATeacher(MaskedLatentReconstruction):
    r"""Masked latents, the target being a teacher's: data2vec (Baevski et al. 2022) and BYOL (Grill et al. 2020).

    The teacher has the weights of the model averaged over past steps,
    :math:`\bar\theta \leftarrow \tau \bar\theta + (1 - \tau)\, \theta` with :math:`\tau` rising from
    ``decay`` to ``final_decay`` over ``ramp_steps``. It sees every latent, without dropout; the model sees
    them with part replaced by a learned token and predicts, through a small head, what the teacher
    makes of the hidden ones:

    .. math:: \mathcal{L} = \big| h(\tilde Z_L) - \tfrac{1}{K} \sum_k \mathrm{norm}(\bar Z_k) \big|
        + w_d \mathcal{L}_{\mathrm{decorrelation}} ,

    over the outputs of the teacher's last :math:`K` layers. The regulariser is that of
    :class:`~poyo_ssl_plugin.MaskedLatentReconstruction`, on the model's own unmasked :math:`Z_L`.

    The teacher moves at every call in training. It is in the objective's state, so a resumed run
    continues with it. Works on any POYO-family model.

    Args:
        dim: Width of the model.
        decay: :math:`\tau` at first.
        final_decay: :math:`\tau` after ``ramp_steps``.
        ramp_steps: Steps over which it rises, linearly.
        layers: :math:`K`; ``None`` for all.
        **options: As :class:`~poyo_ssl_plugin.MaskedLatentReconstruction`, without ``target``.

    Raises:
        RecipeError: If an argument is out of range.

    Example:
        >>> objective = EMATeacher(dim=16, mask="random_latents", layers=2)
        >>> objective.teacher is None  # Until the objective is attached to a model, or sees one.
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        decay: float = 0.99,
        final_decay: float = 0.999,
        ramp_steps: int = 1000,
        layers: int | None = None,
        **options: Any,
    ) -> None:
        if "target" in options:
            raise RecipeError(
                "ssl.target: the target of ema_teacher is the teacher; use ssl=masked_latent to choose one"
            )
        super().__init__(dim, **options)
        if not 0 <= decay <= final_decay <= 1:
            raise RecipeError(f"decay and final_decay must rise within 0 and 1, not from {decay} to {final_decay}")
        if layers is not None and layers < 1:
            raise RecipeError(f"layers must be at least 1, not {layers}")
        self.decay, self.final_decay, self.ramp_steps = decay, final_decay, ramp_steps
        self.layers = layers
        self.teacher: nn.Module | None = None
        self.steps: torch.Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def attach(self, model: nn.Module) -> None:
        """Copy the model as teacher; the first call does it if nobody did before.

        Args:
            model: The model, its vocabularies initialised.
        """
        self.teacher = copy.deepcopy(model).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> EMATeacher:
        """As for any module, but the teacher never drops out."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(
        self, model: nn.Module, inputs: ModelInputs | Batch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Loss of one batch; in training the teacher first takes a step towards the model.

        Args:
            model: A POYO-family model, the same at every call.
            inputs: Its inputs.
            generator: Source of randomness of the mask.
        """
        if self.teacher is None:
            self.attach(model)
        elif self.training and torch.is_grad_enabled():
            self._follow(model)
        return super().forward(model, inputs, generator)

    @torch.no_grad()
    def _follow(self, model: nn.Module) -> None:
        assert self.teacher is not None
        ramp = min(1.0, int(self.steps) / max(self.ramp_steps, 1))
        decay = self.decay + (self.final_decay - self.decay) * ramp
        for own, parameter in zip(self.teacher.parameters(), model.parameters(), strict=True):
            own.lerp_(parameter, 1 - decay)
        for kept, buffer in zip(self.teacher.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
        self.steps += 1

    @torch.no_grad()
    def _target(self, inputs: ModelInputs, latent_pass: LatentPass) -> torch.Tensor:
        assert self.teacher is not None
        teacher_pass = run_with_latents(self.teacher, inputs)
        outputs = [teacher_pass.processor_latents]
        if self.layers != 1:
            outputs = layer_outputs(self.teacher, teacher_pass.encoder_latents, teacher_pass.rotary)
        kept = outputs[-(self.layers or len(outputs)) :]
        return torch.stack([F.layer_norm(output, output.shape[-1:]) for output in kept]).mean(dim=0)
