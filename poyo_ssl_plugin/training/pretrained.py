"""A pretrained model for somebody else's training script."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import hydra.utils
from torch import nn

from poyo_ssl_plugin.compat import Dataset
from poyo_ssl_plugin.errors import CheckpointError
from poyo_ssl_plugin.models import dataset_unit_ids, load_weights, model_state, read_checkpoint, replace_vocabulary
from poyo_ssl_plugin.models.vocabulary import Source, recording_embeddings

logger = logging.getLogger(__name__)


def pretrained_model(
    *, family: str | type[nn.Module], init_from: str | Path | None, vocabulary: Source = "pretrained", **arguments: Any
) -> nn.Module:
    """A model with the weights of a checkpoint that fit it, ready for new neurons.

    A script makes the model and calls ``model.init_vocabs(dataset)``, as torch_brain's do; the new
    neurons' embeddings are then drawn like those of the checkpoint.

    Args:
        family: Class of the model, or its dotted name.
        init_from: A checkpoint of torch_brain or of this package.
        vocabulary: Where new embeddings are drawn from, see
            :func:`~poyo_ssl_plugin.models.replace_vocabulary`.
        **arguments: Arguments of the class.

    Raises:
        CheckpointError: If there is no checkpoint, or it is unsafe or of another architecture.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> arguments = dict(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1)
        >>> old = CalciumPOYO(**arguments)
        >>> old.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> weights = old.save_pretrained(tempfile.mkdtemp()) / "model.safetensors"
        >>> new = pretrained_model(family="poyo_ssl_plugin.CalciumPOYO", init_from=weights, **arguments)
        >>> bool((new.latent_emb.weight == old.latent_emb.weight).all())
        True
    """
    if init_from is None:
        raise CheckpointError("finetune.init_from is not set: give finetune.init_from=CHECKPOINT of a pretrained model")
    state = model_state(read_checkpoint(init_from))
    model: Any = (hydra.utils.get_class(family) if isinstance(family, str) else family)(**arguments)
    report = load_weights(model, state, source=init_from)
    logger.info("init_from %s: %s", init_from, report.summary())
    model.init_vocabs = functools.partial(_exchange_vocabularies, model, vocabulary)
    return model


def _exchange_vocabularies(model: nn.Module, source: Source, dataset: Dataset) -> None:
    replace_vocabulary(model.unit_emb, dataset_unit_ids(dataset), source=source)
    for embedding in recording_embeddings(model):
        replace_vocabulary(embedding, dataset.recording_ids, source=source)
