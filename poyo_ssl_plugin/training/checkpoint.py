"""Checkpoints: read without unpickling, and give a model the weights that fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from poyo_ssl_plugin.compat import InfiniteVocabEmbedding
from poyo_ssl_plugin.errors import CheckpointError

# What must fit for a checkpoint to be of the same architecture.
_BACKBONE = ("enc_atn.", "enc_ffn.", "proc_layers.", "latent_emb.")


@dataclass
class LoadReport:
    """Which weights of a checkpoint a model took.

    Attributes:
        loaded: Names of the tensors that were taken.
        skipped: Names of the tensors of the checkpoint that were not, with the reason.
        fresh: Names of the model's tensors that the checkpoint does not have or that do not fit.
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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a Lightning or torch_brain checkpoint; nothing in it is ever executed.

    Returns:
        The checkpoint; it has ``state_dict`` and ``hyper_parameters``.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, since it holds Python objects and not only tensors; save it again as a "
            f"state_dict with plain hyper-parameters ({_refused(error)})"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({str(error).splitlines()[0]})") from None
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= set(checkpoint):
        raise CheckpointError(f"{path}: not a checkpoint: it lacks 'state_dict' or 'hyper_parameters'")
    return checkpoint


def model_state(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors (and vocabularies) of the checkpoint's model, without the ``model.`` prefix."""
    prefix = "model."
    return {
        key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)
    }


def load_weights(model: nn.Module, state: Mapping[str, Any], *, source: str | Path) -> LoadReport:
    """Give a model, in place, every tensor of ``state`` that it has under the same name and shape.

    Vocabularies that the model has not initialised yet are taken with their words, so that
    :func:`~poyo_ssl_plugin.models.replace_vocabulary` can draw new words like the old ones.

    Args:
        model: The model.
        state: What :func:`model_state` gives.
        source: Where it comes from, for messages.

    Raises:
        CheckpointError: If the transformer itself does not fit: another architecture.
    """
    report = LoadReport()
    vocabularies = {
        name: module for name, module in model.named_modules() if isinstance(module, InfiniteVocabEmbedding)
    }
    taken = set()
    for name, embedding in vocabularies.items():
        taken |= {f"{name}.weight", f"{name}.vocab"}
        _load_vocabulary(embedding, name, state, report)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in state.items():
        if name in taken:
            continue
        if name not in own:
            report.skipped[name] = "not in the model"
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


def _load_vocabulary(
    embedding: InfiniteVocabEmbedding, name: str, state: Mapping[str, Any], report: LoadReport
) -> None:
    weight, words = state.get(f"{name}.weight"), state.get(f"{name}.vocab")
    if weight is None or words is None:
        return
    if weight.shape[-1] != embedding.embedding_dim or not embedding.is_lazy():
        report.skipped[f"{name}.weight"] = f"width {weight.shape[-1]}, the model's is {embedding.embedding_dim}"
        return
    embedding.initialize_vocab([word for word, _ in sorted(words.items(), key=lambda item: item[1])][1:])
    with torch.no_grad():
        embedding.weight.copy_(weight)
    report.loaded.append(f"{name}.weight")


def _refused(error: Exception) -> str:
    """The name of the first refused object, out of torch's long message."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return lines[0] if lines else "unsupported content"
