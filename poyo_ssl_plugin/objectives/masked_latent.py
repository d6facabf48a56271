"""Masked latent reconstruction: tell hidden latents from those that are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from poyo_ssl_plugin.distributed import whole_batch
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import LatentPass, process_latents, run_with_latents
from poyo_ssl_plugin.objectives.health import centred_latents, effective_rank, input_dependent_std
from poyo_ssl_plugin.objectives.masking import LatentLayout, MaskFunction, get_mask

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


@dataclass(frozen=True)
class Reconstruction:
    """What the objective says of one batch.

    Attributes:
        loss: The loss, a scalar.
        terms: Its terms before weighting, scalars by name, without gradient.
        latent_pass: The model's output and latents; the output serves an auxiliary loss.
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    latent_pass: LatentPass


class MaskedLatentReconstruction(nn.Module):
    r"""Hide part of the encoder's latents and reconstruct the processor's output without them.

    The encoder runs once and gives :math:`Z_1`. Its latents pass the processor as they are, giving
    :math:`Z_L`, and with part of them replaced by a learned token (zero at first), giving
    :math:`\tilde Z_L`. The loss is the distance of a prediction from :math:`\tilde Z_L` to
    :math:`Z_L` (paper, section 3.3).

    Left to itself this loss is solved by latents that ignore the input, and in the paper's form they
    do (``docs/objective.md``). The default therefore does what BYOL, data2vec and VICReg do: the target
    takes no gradient and is normalised, a small head predicts it, and a regulariser keeps every
    dimension of :math:`Z_L` varying with the input and apart from the others:

    .. math::

        \mathcal{L} = |h(\tilde Z_L) - \mathrm{norm}(\mathrm{sg}\, Z_L)|_1
            + w_v\, \tfrac{1}{D}\sum_d \max(0, 1 - \mathrm{std}_d)
            + w_c\, \tfrac{1}{D}\sum_{d \ne d'} \mathrm{cov}_{dd'}^2 ,

    standard deviations and covariances being those of :math:`Z_L` minus its mean over the windows of
    the batch. :meth:`paper` gives the paper's text instead.

    Works on any POYO-family model.

    Args:
        dim: Width of the model, :math:`D`.
        mask: Name of a mask (``causal_time``, ``random_time``, ``random_latents``, ``causal_dim``,
            ``random_dim``, ``random_both``) or a function.
        ratio: Share of the latents (or dimensions) to hide.
        distance: ``"l1"``, ``"mse"`` or ``"smooth_l1"``.
        target: ``"normalized"`` as above; ``"live"`` compares :math:`\tilde Z_L` with
            :math:`Z_L` itself, everywhere, with gradient to both and no head.
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
        >>> objective = MaskedLatentReconstruction(dim=16)
        >>> reconstruction = objective(model, inputs)
        >>> reconstruction.loss.ndim, sorted(reconstruction.terms)
        (0, ['covariance', 'masked', 'variance'])
    """

    def __init__(
        self,
        dim: int,
        *,
        mask: str | MaskFunction = "random_time",
        ratio: float = 0.5,
        distance: Literal["l1", "mse", "smooth_l1"] = "l1",
        target: Literal["normalized", "live"] = "normalized",
        variance_weight: float = 1.0,
        covariance_weight: float = 0.04,
    ) -> None:
        super().__init__()
        check_options(ratio, distance)
        if target not in ("normalized", "live"):
            raise RecipeError(f"target must be 'normalized' or 'live', not {target!r}")
        self.mask = mask if callable(mask) else get_mask(mask)
        self.ratio = ratio
        self.distance = DISTANCES[distance]
        self.target = target
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        if target == "normalized":
            self.mask_token = nn.Parameter(torch.zeros(dim))
            self.predictor = nn.Sequential(
                nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
            )
        else:
            self.register_buffer("mask_token", torch.zeros(dim), persistent=False)

    @staticmethod
    def paper(dim: int) -> MaskedLatentReconstruction:
        """The paper's text: the trailing half of the time steps zeroed, L1, a live target, no regulariser."""
        return MaskedLatentReconstruction(
            dim, mask="causal_time", target="live", variance_weight=0.0, covariance_weight=0.0
        )

    def forward(
        self, model: nn.Module, inputs: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> Reconstruction:
        """Loss of one batch.

        Args:
            model: A POYO-family model.
            inputs: Its inputs.
            generator: Source of randomness of the mask.
        """
        latent_pass = self._unmasked(model, inputs)
        first, last = latent_pass.first, latent_pass.last
        hidden = self.mask(latent_layout(model, first), self.ratio, generator)
        masked = process_latents(model, torch.where(hidden, self.mask_token.to(first.dtype), first), latent_pass.rotary)
        terms = {"masked": self._distance(masked, hidden, inputs, last)}
        loss = terms["masked"]
        if self.variance_weight or self.covariance_weight:
            # Statistics over windows are those of all processes that train together.
            windows = whole_batch(last) if self.training else last
            terms["variance"], terms["covariance"] = variance_covariance(windows)
            loss = loss + self.variance_weight * terms["variance"]
            loss = loss + self.covariance_weight * terms["covariance"]
        return Reconstruction(loss, {name: term.detach() for name, term in terms.items()}, latent_pass)

    def _unmasked(self, model: nn.Module, inputs: Mapping[str, Any]) -> LatentPass:
        """The pass that gives the target, without dropout: noise must not count as variance."""
        if self.target == "live":
            return run_with_latents(model, inputs)
        return run_without_dropout(model, inputs)

    def _distance(
        self, masked: torch.Tensor, hidden: torch.Tensor, inputs: Mapping[str, Any], last: torch.Tensor
    ) -> torch.Tensor:
        if self.target == "live":
            return self.distance(masked, last)
        wanted = self._wanted(inputs, last)
        hidden = hidden.expand_as(wanted)
        return self.distance(self.predictor(masked)[hidden], wanted[hidden])

    def _wanted(self, inputs: Mapping[str, Any], last: torch.Tensor) -> torch.Tensor:
        """What the head is to predict, (B, L, D), without gradient; ``last`` is the model's own output."""
        return F.layer_norm(last.detach(), last.shape[-1:])


def run_without_dropout(model: nn.Module, inputs: Mapping[str, Any]) -> LatentPass:
    """As :func:`~poyo_ssl_plugin.models.run_with_latents`, in evaluation mode, with gradient."""
    training = model.training
    model.eval()
    try:
        return run_with_latents(model, inputs)
    finally:
        model.train(training)


def variance_covariance(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The regulariser of VICReg (Bardes et al. 2022) on what depends on the input in the latents.

    Args:
        latents: Shape :math:`(B, L, D)`.

    Returns:
        The variance term, at most 1, and the covariance term, both scalars.
    """
    centred = centred_latents(latents)
    n = max(len(centred) - latents.shape[1], 1)
    covariance = centred.T @ centred / n
    variance = covariance.diagonal()
    off_diagonal = covariance - torch.diag(variance)
    dim = latents.shape[-1]
    return F.relu(1 - (variance + 1e-4).sqrt()).mean(), off_diagonal.square().sum() / dim


@torch.no_grad()
def latent_health(latents: torch.Tensor) -> dict[str, torch.Tensor]:
    """Input-dependent standard deviation and effective rank of latents (B, L, D), to be logged."""
    return {
        "latent_std": input_dependent_std(latents),
        "effective_rank": effective_rank(latents),
    }


def latent_layout(model: Any, latents: torch.Tensor) -> LatentLayout:
    """How the latents (B, L, D) of a POYO-family model are laid out, for a mask over them."""
    per_step = model.latent_emb.num_embeddings
    n_windows, n_latents, dim = latents.shape
    return LatentLayout(n_windows, n_latents // per_step, per_step, dim, latents.device)
