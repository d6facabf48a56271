"""What a model costs: parameters, and floating-point operations per window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from poyo_ssl_plugin.models.packed_attention import packed_by
from poyo_ssl_plugin.plain import ModelInputs


@dataclass(frozen=True)
class Cost:
    """Size of a model and work per window.

    Attributes:
        parameters: All parameters, embeddings of the given neurons included.
        backbone: Parameters that are not embeddings of neurons or sessions: what is pretrained and kept.
        forward_flops: Floating-point operations of one forward pass of one window (a multiply-add counts two).
    """

    parameters: int
    backbone: int
    forward_flops: int

    @property
    def training_flops(self) -> int:
        """Operations to train on one window once: the backward pass costs about twice the forward pass."""
        return 3 * self.forward_flops


def measure_cost(model: nn.Module, inputs: ModelInputs, n_windows: int) -> Cost:
    """Count parameters, and the operations of one forward pass.

    Counted are matrix products, attention's among them (``torch.utils.flop_counter``); element-wise work is not.

    Args:
        model: The model, its vocabularies initialised.
        inputs: A batch of inputs.
        n_windows: Windows in the batch.

    Example:
        >>> cost = measure_cost(nn.Sequential(nn.Linear(8, 4, bias=False)), {"input": torch.zeros(2, 8)}, 2)
        >>> cost.parameters, cost.forward_flops, cost.training_flops
        (32, 64, 192)
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    try:
        # A fused attention kernel hides its products from the counter on some devices; the plain one does not.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), packed_by("split"), counter:
            model(**inputs)
    finally:
        model.train(training)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    embeddings = sum(size for name, size in sizes.items() if name.startswith(("unit_emb.", "session_emb.")))
    total = sum(sizes.values())
    return Cost(total, total - embeddings, counter.get_total_flops() // n_windows)
