"""Label-free identification: learn who new neurons are from their unlabelled activity."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from poyo_ssl_plugin.compat import InfiniteVocabEmbedding
from poyo_ssl_plugin.models.latents import encoder_latents, latents_per_step, model_inputs
from poyo_ssl_plugin.models.whitening import decorrelation
from poyo_ssl_plugin.plain import Batch, ModelInputs


def identify_units(
    model: nn.Module, windows: Iterable[ModelInputs | Batch], *, steps: int = 300, lr: float = 0.02
) -> float:
    """Fit the unit embeddings of a model to unlabelled windows, all other weights fixed.

    The loss is :func:`~poyo_ssl_plugin.objectives.decorrelation`: with shared weights that undo what all
    neurons have in common, embeddings that whiten the new population put it to use best.

    Args:
        model: A POYO-family model, its vocabularies initialised; changed in place.
        windows: Batches of windows of the neurons to identify, gone through anew until all steps are done. Large
            batches are best: their statistics are the loss.
        steps: Steps of Adam, along a cosine.
        lr: Learning rate at first.

    Returns:
        The loss of the last step; NaN of no step.

    Raises:
        ValueError: If there is no batch.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> windows = dict(
        ...     input_values=torch.randn(64, 2, 3, 10), input_unit_index=torch.tensor([[1, 2]] * 64),
        ...     input_timestamps=torch.arange(3).repeat(64, 1) / 3, input_mask=None,
        ... )
        >>> before = identify_units(model, [windows], steps=1)
        >>> identify_units(model, [windows], steps=20) < before
        True
    """
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    unit_emb: InfiniteVocabEmbedding = model.unit_emb
    unit_emb.requires_grad_(True)
    optimizer = torch.optim.Adam(unit_emb.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * min(step / max(steps, 1), 1.0))) / 2
    )
    loss = torch.full((), math.nan)
    done = 0
    while done < steps:
        before = done
        for batch in windows:
            latents = encoder_latents(model, model_inputs(batch))
            loss = decorrelation(latents, latents.shape[1] // latents_per_step(model))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(unit_emb.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            if done == steps:
                break
        if done == before:
            raise ValueError("there is no batch of windows to identify neurons by; is one longer than the data?")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained[name])
    return float(loss.detach())
