"""A slow copy of the model as teacher: tell its latents of the whole window from a part of one's own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import LatentPass, process_latents, run_with_latents
from poyo_ssl_plugin.objectives.masked_latent import (
    DISTANCES,
    Reconstruction,
    latent_layout,
    run_without_dropout,
    variance_covariance,
)
from poyo_ssl_plugin.objectives.masking import MaskFunction, get_mask


class EMATeacher(nn.Module):
    r"""Masked latents, the target being a teacher's: data2vec (Baevski et al. 2022) and BYOL (Grill et al. 2020).

    The teacher has the weights of the model averaged over past steps,
    :math:`\bar\theta \leftarrow \tau \bar\theta + (1 - \tau)\, \theta` with :math:`\tau` rising from
    ``decay`` to ``final_decay`` over ``ramp_steps``. It sees every latent, without dropout; the model sees
    them with part replaced by a learned token and predicts, through a small head, what the teacher
    makes of the hidden ones:

    .. math:: \mathcal{L} = \big| h(\tilde Z_L) - \tfrac{1}{K} \sum_k \mathrm{norm}(\bar Z_k) \big|
        + w_v \mathcal{L}_{\mathrm{variance}} + w_c \mathcal{L}_{\mathrm{covariance}} ,

    over the outputs of the teacher's last :math:`K` layers. The regulariser is that of
    :class:`~poyo_ssl_plugin.MaskedLatentReconstruction`, on the model's own unmasked :math:`Z_L`.

    The teacher moves at every call in training. It is in the objective's state, so a resumed run
    continues with it. Works on any POYO-family model.

    Args:
        dim: Width of the model.
        mask: Name of a mask over latents, or a function.
        ratio: Share to hide.
        distance: ``"l1"``, ``"mse"`` or ``"smooth_l1"``.
        decay: :math:`\tau` at first.
        final_decay: :math:`\tau` after ``ramp_steps``.
        ramp_steps: Steps over which it rises, linearly.
        layers: :math:`K`; ``None`` for all.
        variance_weight: :math:`w_v`.
        covariance_weight: :math:`w_c`.

    Raises:
        RecipeError: If an argument is out of range.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> inputs = dict(
        ...     input_values=torch.randn(4, 2, 3, 10), input_unit_index=torch.tensor([[1, 2]] * 4),
        ...     input_timestamps=torch.arange(3).repeat(4, 1) / 3, input_mask=None,
        ...     session_index=torch.ones(4, dtype=torch.long), output_timestamps=torch.ones(4, 1) / 2,
        ... )
        >>> sorted(EMATeacher(dim=16)(model, inputs).terms)
        ['covariance', 'masked', 'variance']
    """

    def __init__(
        self,
        dim: int,
        *,
        mask: str | MaskFunction = "random_time",
        ratio: float = 0.5,
        distance: Literal["l1", "mse", "smooth_l1"] = "l1",
        decay: float = 0.99,
        final_decay: float = 0.999,
        ramp_steps: int = 1000,
        layers: int | None = None,
        variance_weight: float = 1.0,
        covariance_weight: float = 0.04,
    ) -> None:
        super().__init__()
        if not 0 < ratio < 1:
            raise RecipeError(f"ratio must be between 0 and 1, not {ratio}")
        if distance not in DISTANCES:
            raise RecipeError(f"unknown distance {distance!r}; there are {', '.join(DISTANCES)}")
        if not 0 <= decay <= final_decay <= 1:
            raise RecipeError(f"decay and final_decay must rise within 0 and 1, not from {decay} to {final_decay}")
        if layers is not None and layers < 1:
            raise RecipeError(f"layers must be at least 1, not {layers}")
        self.mask = mask if callable(mask) else get_mask(mask)
        self.ratio = ratio
        self.distance = DISTANCES[distance]
        self.decay, self.final_decay, self.ramp_steps = decay, final_decay, ramp_steps
        self.layers = layers
        self.variance_weight, self.covariance_weight = variance_weight, covariance_weight
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.predictor = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
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
        self, model: nn.Module, inputs: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> Reconstruction:
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
        # Without dropout, whose noise the regulariser would take for variance.
        latent_pass = run_without_dropout(model, inputs)
        first, last = latent_pass.first, latent_pass.last
        hidden = self.mask(latent_layout(model, first), self.ratio, generator)
        seen = torch.where(hidden, self.mask_token.to(first.dtype), first)
        guess = self.predictor(process_latents(model, seen, latent_pass.rotary))
        wanted = self._target(inputs)
        hidden = hidden.expand_as(wanted)
        terms = {"masked": self.distance(guess[hidden], wanted[hidden])}
        loss = terms["masked"]
        if self.variance_weight or self.covariance_weight:
            terms["variance"], terms["covariance"] = variance_covariance(last)
            loss = loss + self.variance_weight * terms["variance"]
            loss = loss + self.covariance_weight * terms["covariance"]
        return Reconstruction(loss, {name: term.detach() for name, term in terms.items()}, latent_pass)

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
    def _target(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        assert self.teacher is not None
        latent_pass = run_with_latents(self.teacher, inputs)
        outputs = [latent_pass.last] if self.layers == 1 else _layer_outputs(self.teacher, latent_pass)
        kept = outputs[-(self.layers or len(outputs)) :]
        return torch.stack([F.layer_norm(output, output.shape[-1:]) for output in kept]).mean(dim=0)


def _layer_outputs(model: nn.Module, latent_pass: LatentPass) -> list[torch.Tensor]:
    """What every processing layer gives, in order; the last is :math:`Z_L`."""
    latents, outputs = latent_pass.first, []
    for self_attention, feed_forward in model.proc_layers:  # type: ignore[union-attr, misc]
        latents = latents + model.dropout(self_attention(latents, latent_pass.rotary))  # type: ignore[operator]
        latents = latents + model.dropout(feed_forward(latents))  # type: ignore[operator]
        outputs.append(latents)
    return outputs
