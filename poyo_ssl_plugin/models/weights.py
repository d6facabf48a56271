"""Give a model the weights of a checkpoint that fit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from poyo_ssl_plugin.compat import InfiniteVocabEmbedding
from poyo_ssl_plugin.errors import CheckpointError
from poyo_ssl_plugin.models.poyo_plus import as_calcium_poyo, is_calcium_poyo_plus
from poyo_ssl_plugin.models.read_in import filter_for
from poyo_ssl_plugin.plain import State

_FILTER = "read_in.temporal"
# What must fit for a checkpoint to be of the same architecture.
_BACKBONE = ("enc_atn.", "enc_ffn.", "read_in.", "proc_layers.", "latent_emb.")


@dataclass
class LoadReport:
    """Which weights of a checkpoint a model took.

    Attributes:
        loaded: Names of the tensors that were taken.
        skipped: Names of the tensors of the checkpoint that were not, with the reason.
        fresh: Names of the model's tensors that the checkpoint does not have or that do not fit.

    Example:
        >>> report = LoadReport(["latent_emb.weight"], skipped={"a": "not in the model"}, fresh=["readout.weight"])
        >>> report.summary()
        'loaded 1 tensors; skipped a (not in the model); new: readout.weight'
    """

    loaded: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line, for the log."""
        text = f"loaded {len(self.loaded)} tensors"
        if self.skipped:
            text += "; skipped " + ", ".join(f"{name} ({why})" for name, why in self.skipped.items())
        if self.fresh:
            text += "; new: " + ", ".join(self.fresh)
        return text


def load_weights(model: nn.Module, state: State, *, source: str | Path) -> LoadReport:
    """Give a model, in place, every tensor of ``state`` that it has under the same name and shape.

    A :class:`~poyo_ssl_plugin.CalciumPOYO` with ``encoder="attention"`` takes a ``CalciumPOYOPlus`` of torch_brain
    too. The temporal filter of a read-in is cut or extended to the model's window.

    Vocabularies that the model has not initialised yet are taken with their words, so that
    :func:`~poyo_ssl_plugin.models.replace_vocabulary` can draw new words like the old ones.

    Args:
        model: The model.
        state: What :func:`~poyo_ssl_plugin.models.model_state` gives.
        source: Where it comes from, for messages.

    Raises:
        CheckpointError: If the transformer itself does not fit: another architecture.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> make = dict(sequence_length=1.0, latent_step=0.25, dim=16, depth=1)
        >>> old, new = CalciumPOYO(dim_out=8, **make), CalciumPOYO(dim_out=2, **make)
        >>> old.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> report = load_weights(new, old.state_dict(), source="old.ckpt")
        >>> report.skipped["readout.weight"], list(new.unit_emb.vocab)
        ("shape (8, 16), the model's is (2, 16)", ['NA', 'a', 'b'])
    """
    if is_calcium_poyo_plus(state) and hasattr(model, "value_map"):
        state = as_calcium_poyo(state)
    read_in, temporal = getattr(model, "read_in", None), state.get(_FILTER)
    if read_in is not None and isinstance(temporal, torch.Tensor) and temporal.ndim == 2:
        state = {**state, _FILTER: filter_for(temporal, len(read_in.temporal))}
    report = LoadReport()
    taken = set()
    for name, embedding in model.named_modules():
        if isinstance(embedding, InfiniteVocabEmbedding):
            taken |= {f"{name}.weight", f"{name}.vocab"}
            _load_vocabulary(embedding, name, state, report)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in state.items():
        if name in taken:
            continue
        if name not in own:
            report.skipped[name] = "not in the model"
        elif not isinstance(value, torch.Tensor):
            report.skipped[name] = "not a tensor"
        elif own[name].shape != value.shape:
            report.skipped[name] = f"shape {tuple(value.shape)}, the model's is {tuple(own[name].shape)}"
        else:
            own[name].data.copy_(value)
            report.loaded.append(name)
    report.fresh = sorted(set(own) - set(report.loaded) - taken)
    misfit = [name for name in report.fresh if name.startswith(_BACKBONE)]
    if misfit:
        why = report.skipped.get(misfit[0], "missing in the checkpoint")
        raise CheckpointError(
            f"{source}: another architecture: {misfit[0]} does not fit ({why}), nor do {len(misfit) - 1} more; "
            "use the same model=... as the run that wrote it"
        )
    return report


def _load_vocabulary(embedding: InfiniteVocabEmbedding, name: str, state: State, report: LoadReport) -> None:
    weight, words = state.get(f"{name}.weight"), state.get(f"{name}.vocab")
    if weight is None and words is None:
        return
    why = _misfit(embedding, weight, words)
    if why or words is None:
        report.skipped[f"{name}.weight"] = why
        return
    embedding.initialize_vocab([word for word, _ in sorted(words.items(), key=lambda item: item[1])][1:])
    with torch.no_grad():
        embedding.weight.copy_(weight)
    report.loaded.append(f"{name}.weight")


def _misfit(embedding: InfiniteVocabEmbedding, weight: object, words: object) -> str:
    """Why an embedding cannot take a vocabulary; empty if it can."""
    if not isinstance(weight, torch.Tensor) or not isinstance(words, Mapping) or len(weight) != len(words):
        return "not a vocabulary"
    if {repr(index) for index in words.values()} != {str(i) for i in range(len(words))} or words.get("NA") != 0:
        return "its words are not numbered from 'NA'"
    if weight.shape[-1] != embedding.embedding_dim:
        return f"width {weight.shape[-1]}, the model's is {embedding.embedding_dim}"
    return "" if embedding.is_lazy() else "the model has a vocabulary already"
