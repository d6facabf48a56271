"""``torch.compile`` of a POYO-family model, layer by layer."""

from __future__ import annotations

from torch import nn

_PARTS = ("read_in", "enc_ffn", "dec_atn", "dec_ffn")


def compile_layers(model: nn.Module, backend: str = "inductor") -> None:
    """Compile the layers of a model where they are; the names of its parameters stay.

    Layers are alike, so that one is compiled for all. Attention to tokens is left out: it is a fused kernel
    already, on batches that are never of the same size. So are, of a model whose latents are taken by hooks
    (torch_brain's own), the two modules that have them: compiled code does not see a hook that comes later.

    Args:
        model: A POYO-family model.
        backend: Of ``torch.compile``.
    """
    parts = [getattr(model, name) for name in _PARTS if hasattr(model, name)]
    parts += [part for layer in model.proc_layers for part in layer]  # type: ignore[union-attr]
    hooked = [] if hasattr(model, "encode") else [model.dec_atn, model.proc_layers[0][0]]  # type: ignore[index]
    for part in parts:
        if not any(part is other for other in hooked):
            part.compile(backend=backend)
