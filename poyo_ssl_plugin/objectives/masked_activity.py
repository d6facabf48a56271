"""Masked activity: hide part of the traces at the input and tell it from the latents of the rest."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from poyo_ssl_plugin.compat import FeedForward
from poyo_ssl_plugin.distributed import mean_of_all
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import CalciumPOYO, LatentPass, model_inputs, run_without_dropout
from poyo_ssl_plugin.models.attention import CrossAttention
from poyo_ssl_plugin.objectives.activity_masks import ACTIVITY_MASKS, ActivityMask, real_patches
from poyo_ssl_plugin.objectives.masked_latent import DISTANCES, check_options
from poyo_ssl_plugin.objectives.output import ObjectiveOutput
from poyo_ssl_plugin.plain import Batch, ModelInputs


class MaskedActivity(nn.Module):
    r"""Hide neurons, times or both at the input, and reconstruct the hidden traces from the latents.

    Hidden patches do not enter the encoder at all. A query for neuron :math:`n` at time :math:`t` is made
    of the neuron's unit embedding and the rotary embedding of the time; it attends to
    :math:`Z_L`, and what it found is read out through weights of the neuron:

    .. math:: \hat x_{n,t} = W \big( (1 + A g_n) \odot f(q_n + \mathrm{attend}(q_n, t, Z_L)) \big), \qquad q_n = B e_n .

    The loss is the distance between the predicted and the true samples of the hidden patches, as the model
    gets them (standardised traces unless the recipe says otherwise). Predicting the mean scores the
    variance of the traces, about 1 with ``"mse"``; latents that ignore the input can do no better, so
    nothing else keeps them alive.

    In training, ``latent_pass`` (which an auxiliary loss reads) is that of the masked input; in
    evaluation that of the whole input, so that a health measure sees the data and not the masks.

    For :class:`~poyo_ssl_plugin.CalciumPOYO`: other models do not keep traces apart by neuron.

    Args:
        dim: Width of the model.
        patch_size: Samples per token of the model.
        dim_head: Width of the model's attention heads.
        heads: Heads of the attention to the latents.
        mask: ``"neurons"``, ``"time"``, ``"both"``, or a function like
            ``mask_neurons`` of ``poyo_ssl_plugin.objectives.activity_masks``.
        ratio: Share to hide.
        distance: ``"mse"``, ``"l1"`` or ``"smooth_l1"``.

    Raises:
        RecipeError: If an argument is out of range, or, when called, the model is another one.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> inputs = dict(
        ...     input_values=torch.randn(4, 2, 3, 10), input_unit_index=torch.tensor([[1, 2]] * 4),
        ...     input_timestamps=torch.arange(3).repeat(4, 1) / 3, input_mask=None,
        ...     session_index=torch.ones(4, dtype=torch.long), output_timestamps=torch.ones(4, 1) / 2,
        ... )
        >>> reconstruction = MaskedActivity(dim=16, patch_size=10, dim_head=32)(model, inputs)
        >>> reconstruction.loss.ndim, sorted(reconstruction.terms)
        (0, ['masked', 'masked_skill'])
    """

    def __init__(
        self,
        dim: int,
        *,
        patch_size: int,
        dim_head: int,
        heads: int = 2,
        mask: str | ActivityMask = "both",
        ratio: float = 0.5,
        distance: Literal["mse", "l1", "smooth_l1"] = "mse",
    ) -> None:
        super().__init__()
        check_options(ratio, distance)
        if not callable(mask) and mask not in ACTIVITY_MASKS:
            raise RecipeError(f"unknown mask {mask!r} over activity; there are {', '.join(ACTIVITY_MASKS)}")
        self.mask: ActivityMask = mask if callable(mask) else ACTIVITY_MASKS[mask]
        self.ratio = ratio
        self.distance = DISTANCES[distance]
        self.dim = dim
        # As wide as the model's unit embeddings, which attach() tells.
        self.query = nn.LazyLinear(dim)
        self.gate = nn.LazyLinear(dim)
        self.attend = CrossAttention(dim=dim, dim_head=dim_head, heads=heads, dropout=0.0, rotate_value=False)
        self.mix = nn.Sequential(nn.LayerNorm(dim), FeedForward(dim=dim, dropout=0.0))
        self.out = nn.Linear(dim, patch_size)

    def attach(self, model: CalciumPOYO) -> None:
        """Take the width of a model's unit embeddings; the first call does it if nobody did before.

        Only here are the weights made outside of Lightning's inference mode, so that they can be trained.
        """
        units = torch.zeros(1, model.unit_emb.embedding_dim)
        self.query(units)
        self.gate(units)

    def forward(
        self, model: CalciumPOYO, inputs: ModelInputs | Batch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Loss of one batch.

        Args:
            model: A :class:`~poyo_ssl_plugin.CalciumPOYO`.
            inputs: Its inputs.
            generator: Source of randomness of the mask.
        """
        inputs = model_inputs(inputs)
        values = _traces(model, inputs)
        real = real_patches(inputs)
        hidden = self.mask(real.cpu(), self.ratio, generator).to(real.device)
        masked = run_without_dropout(model, {**inputs, "input_mask": real & ~hidden})
        predicted = self.predict(model, inputs, masked)[hidden]
        wanted = values[hidden]
        # A window of one neuron may have nothing to hide.
        loss = self.distance(predicted, wanted) if len(wanted) else predicted.sum()
        terms = {"masked": loss.detach(), "masked_skill": _explained(predicted.detach(), wanted)}
        if self.training:
            loss = mean_of_all(loss, len(wanted))
        return ObjectiveOutput(loss, terms, masked if self.training else run_without_dropout(model, inputs))

    def predict(self, model: CalciumPOYO, inputs: ModelInputs, latent_pass: LatentPass) -> torch.Tensor:
        """The traces as the latents tell them, :math:`(B, N, P, S)`, hidden patches and all others."""
        units = model.unit_emb(inputs["input_unit_index"])
        n_patches = inputs["input_timestamps"].shape[1]
        query = self.query(units).repeat_interleave(n_patches, dim=1)
        times = inputs["input_timestamps"].repeat(1, units.shape[1])
        found = query + self.attend(query, latent_pass.processor_latents, model.rotary_emb(times), latent_pass.rotary)
        found = (found + self.mix(found)).unflatten(1, (-1, n_patches))
        return self.out(found * (1 + self.gate(units))[:, :, None])


def _traces(model: nn.Module, inputs: ModelInputs) -> torch.Tensor:
    values = inputs.get("input_values")
    if values is None or values.ndim != 4 or not hasattr(model, "rotary_emb"):
        raise RecipeError(
            f"masked activity needs a model of traces by neuron, such as CalciumPOYO, not {type(model).__name__}; "
            "use ssl=masked_latent"
        )
    return values


@torch.no_grad()
def _explained(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Share of the hidden traces' power that is told: 0 for predicting 0, 1 for telling all."""
    return 1 - F.mse_loss(predicted, wanted, reduction="sum") / wanted.square().sum().clamp_min(1e-8)
