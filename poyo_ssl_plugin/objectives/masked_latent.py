"""Masked latent reconstruction: tell what was hidden from what is left."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from poyo_ssl_plugin.distributed import whole_batch
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import (
    LatentPass,
    encoder_latents,
    model_inputs,
    process_latents,
    run_with_latents,
    run_without_dropout,
)
from poyo_ssl_plugin.models.latents import latents_per_step
from poyo_ssl_plugin.models.whitening import decorrelation
from poyo_ssl_plugin.objectives.activity_masks import mask_neurons, real_patches
from poyo_ssl_plugin.objectives.masking import LatentLayout, MaskFunction, get_mask
from poyo_ssl_plugin.objectives.output import ObjectiveOutput
from poyo_ssl_plugin.plain import Batch, ModelInputs

DISTANCES = {"l1": F.l1_loss, "mse": F.mse_loss, "smooth_l1": F.smooth_l1_loss}


def check_options(ratio: float, distance: str) -> None:
    """Refuse a share that hides nothing or all, and an unknown distance.

    Raises:
        RecipeError: If it is so.
    """
    if not 0 < ratio < 1:
        raise RecipeError(f"ratio must be between 0 and 1, not {ratio}")
    if distance not in DISTANCES:
        raise RecipeError(f"unknown distance {distance!r}; there are {', '.join(DISTANCES)}")


class MaskedLatentReconstruction(nn.Module):
    r"""Hide part of the input and of the latents, and reconstruct the processor's output of the whole.

    The whole window gives the processor's latents :math:`Z_L`. A second pass sees a random part of the
    neurons, and part of its latents is replaced by a learned token plus the embedding of the latent's
    slot; it gives :math:`\tilde Z_L`. The loss is the distance of a prediction from
    :math:`\tilde Z_L` to :math:`Z_L` (paper, section 3.3, which hides latents only).

    Left to itself this loss is solved by latents that ignore the input, and in the paper's form they
    do (``docs/objective.md``). The default therefore predicts the encoder's latents :math:`Z_1` of the whole
    window, which a regulariser keeps varying with the input and apart from each other. The target takes no
    gradient and is normalised, and a small head predicts it:

    .. math::
        \mathcal{L} = w_m\, |h(\tilde Z_L) - \mathrm{norm}(\mathrm{sg}\, Z_1)|_1
            + w_d\, \mathcal{L}_\mathrm{decorrelation} ,

    with :func:`~poyo_ssl_plugin.objectives.decorrelation` of the encoder's latents :math:`Z_1`,
    which whitens.
    :meth:`paper` gives the paper's text instead. Works on any POYO-family model; neurons are hidden only
    where a model takes traces by neuron, as :class:`~poyo_ssl_plugin.CalciumPOYO` does.

    Args:
        dim: Width of the model, :math:`D`.
        mask: Name of a mask (``causal_time``, ``random_time``, ``random_latents``, ``causal_dim``,
            ``random_dim``, ``random_both``) or a function.
        ratio: Fraction of the latents (or dimensions) to hide.
        hide_neurons: Fraction of the neurons to hide at the input; 0 hides latents only.
        distance: ``"l1"``, ``"mse"`` or ``"smooth_l1"``.
        target: ``"encoder"`` as above; ``"processor"`` predicts the normalised :math:`Z_L` in place of
            :math:`Z_1`; ``"live"`` compares :math:`\tilde Z_L` with
            :math:`Z_L` itself, everywhere, with gradient to both and no head.
        masked_weight: :math:`w_m`.
        decorrelation_weight: :math:`w_d`.

    Raises:
        RecipeError: If an argument is out of range, or, when called, the model has another width.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> inputs = dict(
        ...     input_values=torch.randn(4, 2, 3, 10), input_unit_index=torch.tensor([[1, 2]] * 4),
        ...     input_timestamps=torch.arange(3).repeat(4, 1) / 3, input_mask=None,
        ... )
        >>> output = MaskedLatentReconstruction(dim=16)(model, inputs)
        >>> output.loss.ndim, sorted(output.terms)
        (0, ['decorrelation', 'masked'])
    """

    def __init__(
        self,
        dim: int,
        *,
        mask: str | MaskFunction = "random_time",
        ratio: float = 0.5,
        hide_neurons: float = 0.5,
        distance: Literal["l1", "mse", "smooth_l1"] = "l1",
        target: Literal["encoder", "processor", "live"] = "encoder",
        masked_weight: float = 1.0,
        decorrelation_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_options(ratio, distance)
        if not 0 <= hide_neurons < 1:
            raise RecipeError(f"ssl.hide_neurons must be at least 0 and below 1, not {hide_neurons}")
        if target not in ("encoder", "processor", "live"):
            raise RecipeError(f"target must be 'encoder', 'processor' or 'live', not {target!r}")
        self.dim = dim
        self.mask = mask if callable(mask) else get_mask(mask)
        self.ratio, self.hide_neurons = ratio, hide_neurons
        self.distance = DISTANCES[distance]
        self.target = target
        self.masked_weight, self.decorrelation_weight = masked_weight, decorrelation_weight
        if target != "live":
            self.mask_token = nn.Parameter(torch.zeros(dim))
            # What tells hidden slots apart; the model's own slot embeddings are small beside its latents.
            self.slot = nn.Linear(dim, dim, bias=False)
            self.predictor = Predictor(dim)

    @staticmethod
    def paper(dim: int) -> MaskedLatentReconstruction:
        """The paper's text: the trailing half of the time steps zeroed, L1, a live target, no regulariser."""
        return MaskedLatentReconstruction(
            dim, mask="causal_time", hide_neurons=0.0, target="live", decorrelation_weight=0.0
        )

    def forward(
        self, model: nn.Module, inputs: ModelInputs | Batch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Loss of one batch.

        Args:
            model: A POYO-family model.
            inputs: Its inputs as ``collate`` gives them, or a batch that has them under ``"inputs"``; queries are
                needed only by an auxiliary loss.
            generator: Source of randomness of the masks.
        """
        inputs = model_inputs(inputs)
        latent_pass = self._whole(model, inputs)
        last = latent_pass.processor_latents
        if last.shape[-1] != self.dim:
            raise RecipeError(f"ssl.dim is {self.dim}, and the model's width is {last.shape[-1]}: give them the same")
        hidden, partial = self._hidden(model, inputs, latent_pass, generator)
        masked = process_latents(model, partial, latent_pass.rotary)
        if self.target == "live":
            predicted, target, hidden = masked, last, torch.ones_like(hidden)
        else:
            predicted, target = self.predictor(masked), self._target(inputs, latent_pass)
        hidden = hidden.expand_as(target)
        terms = {"masked": self.distance(predicted[hidden], target[hidden])}
        loss = self.masked_weight * terms["masked"]
        if self.decorrelation_weight:
            # Statistics over windows are those of all processes that train together.
            first = latent_pass.encoder_latents
            windows = whole_batch(first) if self.training else first
            terms["decorrelation"] = decorrelation(windows, latent_layout(model, first).n_steps)
            loss = loss + self.decorrelation_weight * terms["decorrelation"]
        terms = {name: term.detach() for name, term in terms.items()}
        return ObjectiveOutput(loss, terms, latent_pass, predicted.detach(), target.detach(), hidden)

    def _whole(self, model: nn.Module, inputs: ModelInputs) -> LatentPass:
        """The pass that gives the target, without dropout: noise must not count as variance."""
        if self.target == "live":
            return run_with_latents(model, inputs)
        return run_without_dropout(model, inputs)

    def _hidden(
        self,
        model: nn.Module,
        inputs: ModelInputs,
        latent_pass: LatentPass,
        generator: torch.Generator | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where something is hidden, and the latents (B, L, D) that are left, the token in the place of others."""
        first = latent_pass.encoder_latents
        layout = latent_layout(model, first)
        hidden = self.mask(layout, self.ratio, generator)
        if self.target == "live":
            return hidden, first.masked_fill(hidden, 0.0)
        everywhere = False
        if self.hide_neurons and _takes_traces(inputs):
            first, everywhere = encoder_latents(model, self._without_neurons(inputs, generator)), True
        slots = model.latent_emb.weight.repeat(layout.n_steps, 1)  # type: ignore[union-attr, operator]
        token = (self.mask_token + slots + self.slot(F.layer_norm(slots, slots.shape[-1:]))).to(first.dtype)
        return hidden | everywhere, torch.where(hidden, token, first)

    def _without_neurons(self, inputs: ModelInputs, generator: torch.Generator | None) -> ModelInputs:
        real = real_patches(inputs)
        drop = mask_neurons(real.cpu(), self.hide_neurons, generator).to(real.device)
        return {**inputs, "input_mask": real & ~drop}

    def _target(self, inputs: ModelInputs, latent_pass: LatentPass) -> torch.Tensor:
        """What the head is to predict, (B, L, D), without gradient."""
        encoder = self.target == "encoder"
        latents = latent_pass.encoder_latents if encoder else latent_pass.processor_latents
        return F.layer_norm(latents.detach(), latents.shape[-1:])


class Predictor(nn.Module):
    """From latents to normalised latents: a gain for what is there already, plus a small network."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.gain = nn.Parameter(torch.full((dim,), 0.5))
        self.network = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Predictions of the same shape, (B, L, D)."""
        latents = self.norm(latents)
        return self.gain * latents + 0.1 * self.network(latents)


def _takes_traces(inputs: ModelInputs) -> bool:
    values = inputs.get("input_values")
    return values is not None and values.ndim == 4


def latent_layout(model: nn.Module, latents: torch.Tensor) -> LatentLayout:
    """How the latents (B, L, D) of a POYO-family model are laid out, for a mask over them."""
    per_step = latents_per_step(model)
    n_windows, n_latents, dim = latents.shape
    return LatentLayout(n_windows, n_latents // per_step, per_step, dim, latents.device)
