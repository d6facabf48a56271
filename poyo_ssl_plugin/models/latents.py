"""The latents of any POYO-family model, taken from one forward pass.

``torch_brain``'s POYO, POYOPlus and CalciumPOYOPlus and our CalciumPOYO differ in how they make
tokens and read out, and agree in between: ``enc_atn`` gives the first latents, ``proc_layers`` (with
the residual ``dropout``) turn them into the last, and ``dec_atn`` attends to those. Looking at what
enters ``proc_layers`` and ``dec_atn`` therefore gives both without knowing the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.plain import ModelInputs

_PARTS = ("proc_layers", "dec_atn", "dropout", "latent_emb")


@dataclass(frozen=True)
class LatentPass:
    """One forward pass of a POYO-family model.

    Attributes:
        output: What the model returned.
        encoder_latents: Latents after the encoder, :math:`Z_1`, of shape :math:`(B, L, D)`.
        processor_latents: Latents after the processor, :math:`Z_L`, of the same shape.
        rotary: Rotary embedding of the latents' times.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> found = run_with_latents(model, dict(
        ...     input_values=torch.randn(4, 2, 3, 10), input_unit_index=torch.tensor([[1, 2]] * 4),
        ...     input_timestamps=torch.arange(3).repeat(4, 1) / 3, input_mask=None,
        ... ))
        >>> tuple(found.encoder_latents.shape), found.output  # it was asked nothing
        ((4, 16, 16), None)
    """

    output: Any
    encoder_latents: torch.Tensor
    processor_latents: torch.Tensor
    rotary: torch.Tensor


def model_inputs(batch: Mapping[str, Any]) -> ModelInputs:
    """A model's inputs in a batch: what it has under ``"inputs"`` (``"model_inputs"``), or itself.

    Example:
        >>> model_inputs({"inputs": {"input_values": 1}, "target": 2}), model_inputs({"input_values": 1})
        ({'input_values': 1}, {'input_values': 1})
    """
    return batch.get("inputs", batch.get("model_inputs", batch))


def run_with_latents(model: nn.Module, inputs: ModelInputs) -> LatentPass:
    """Run a model once and keep its latents.

    Args:
        model: A POYO-family model.
        inputs: Its keyword arguments; a model that must be asked something is asked for the start of the window.

    Raises:
        RecipeError: If the model is not of the POYO family or has no processing layer.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> found = run_with_latents(model, dict(
        ...     input_values=torch.randn(4, 2, 3, 10), input_unit_index=torch.tensor([[1, 2]] * 4),
        ...     input_timestamps=torch.arange(3).repeat(4, 1) / 3, input_mask=None,
        ...     session_index=torch.ones(4, dtype=torch.long), output_timestamps=torch.full((4, 1), 0.5),
        ... ))
        >>> tuple(found.processor_latents.shape), tuple(found.output.shape)
        ((4, 16, 16), (4, 1, 8))
    """
    check_family(model)
    if hasattr(model, "encode") and hasattr(model, "decode"):
        return _run_in_parts(model, inputs)
    if "session_index" in inputs and "output_timestamps" not in inputs:
        inputs = {**inputs, "output_timestamps": torch.zeros(len(inputs["session_index"]), 1)}
        inputs["output_timestamps"] = inputs["output_timestamps"].to(inputs["session_index"].device)
    seen: dict[str, torch.Tensor] = {}

    def before_processor(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: object) -> None:
        seen["encoder_latents"], seen["rotary"] = args[:2]

    def before_decoder(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: object) -> None:
        seen["processor_latents"] = args[1]

    handles = [
        model.proc_layers[0][0].register_forward_pre_hook(before_processor, with_kwargs=True),  # type: ignore[index, union-attr]
        model.dec_atn.register_forward_pre_hook(before_decoder, with_kwargs=True),  # type: ignore[union-attr]
    ]
    try:
        output = model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return LatentPass(output, **seen)


def run_without_dropout(model: nn.Module, inputs: ModelInputs) -> LatentPass:
    """As :func:`run_with_latents`, in evaluation mode, with gradient.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> inputs = dict(
        ...     input_values=torch.randn(4, 2, 3, 10), input_unit_index=torch.tensor([[1, 2]] * 4),
        ...     input_timestamps=torch.arange(3).repeat(4, 1) / 3, input_mask=None,
        ... )
        >>> one, other = (run_without_dropout(model, inputs).processor_latents for _ in range(2))
        >>> torch.equal(one, other), model.training
        (True, True)
    """
    training = model.training
    model.eval()
    try:
        return run_with_latents(model, inputs)
    finally:
        model.train(training)


def encoder_latents(model: nn.Module, inputs: ModelInputs) -> torch.Tensor:
    """Latents after the encoder, :math:`Z_1`, alone, :math:`(B, L, D)`; arguments as :func:`run_with_latents`.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> inputs = dict(
        ...     input_values=torch.randn(4, 2, 3, 10), input_unit_index=torch.tensor([[1, 2]] * 4),
        ...     input_timestamps=torch.arange(3).repeat(4, 1) / 3, input_mask=None,
        ... )
        >>> tuple(encoder_latents(model, inputs).shape)  # 4 windows, 4 steps of 4 latents, width 16
        (4, 16, 16)
    """
    encode = getattr(model, "encode", None)
    return run_with_latents(model, inputs).encoder_latents if encode is None else encode(**inputs)[0]


def _run_in_parts(model: Any, inputs: ModelInputs) -> LatentPass:
    """As the hooks see it, for a model that has its parts as methods; it may be asked nothing."""
    first, rotary = model.encode(**inputs)
    last = model.process(first, rotary)
    asked = "output_timestamps" in inputs and "session_index" in inputs
    return LatentPass(model.decode(last, rotary, **inputs) if asked else None, first, last, rotary)


def process_latents(model: nn.Module, latents: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Apply the self-attention layers of a POYO-family model, residuals and dropout included.

    Args:
        model: The model.
        latents: Latents after the encoder, :math:`(B, L, D)`.
        rotary: Rotary embedding of their times, as :class:`LatentPass` has it.

    Returns:
        Latents after the processor, :math:`(B, L, D)`.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> found = run_without_dropout(model, dict(
        ...     input_values=torch.randn(4, 2, 3, 10), input_unit_index=torch.tensor([[1, 2]] * 4),
        ...     input_timestamps=torch.arange(3).repeat(4, 1) / 3, input_mask=None,
        ... ))
        >>> again = process_latents(model.eval(), found.encoder_latents, found.rotary)
        >>> torch.allclose(again, found.processor_latents)
        True
    """
    return layer_outputs(model, latents, rotary)[-1]


def layer_outputs(model: Any, latents: torch.Tensor, rotary: torch.Tensor) -> list[torch.Tensor]:
    """What every self-attention layer of a POYO-family model gives, in order; the last is :math:`Z_L`."""
    outputs = []
    for self_attention, feed_forward in model.proc_layers:
        latents = latents + model.dropout(self_attention(latents, rotary))
        latents = latents + model.dropout(feed_forward(latents))
        outputs.append(latents)
    return outputs


def latents_per_step(model: Any) -> int:
    """How many latents a POYO-family model has at each time step."""
    return model.latent_emb.num_embeddings


def check_family(model: nn.Module) -> None:
    """Refuse a model that lacks the parts that POYO-family models share.

    Raises:
        RecipeError: If it lacks one, or has no processing layer.

    Example:
        >>> check_family(nn.Linear(2, 2))
        Traceback (most recent call last):
        ...
        poyo_ssl_plugin.errors.RecipeError: Linear is not a POYO-family model: it lacks proc_layers, ...
    """
    missing = [name for name in _PARTS if not hasattr(model, name)]
    if missing:
        raise RecipeError(
            f"{type(model).__name__} is not a POYO-family model: it lacks {', '.join(missing)}; use CalciumPOYO or "
            "a POYO of torch_brain"
        )
    if len(model.proc_layers) == 0:  # type: ignore[arg-type]
        raise RecipeError("masked latent reconstruction needs at least one processing layer: set depth >= 1")
