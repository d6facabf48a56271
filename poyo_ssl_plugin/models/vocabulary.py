"""New neurons for a trained model: exchanging the words of a torch_brain vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from poyo_ssl_plugin.compat import InfiniteVocabEmbedding
from poyo_ssl_plugin.errors import RecordingError

Source = Literal["pretrained", "normal"]


def dataset_unit_ids(dataset: Any) -> list[str]:
    """Ids of all neurons of a torch_brain dataset, be they units or rois.

    Raises:
        RecordingError: If it has neither ``get_unit_ids`` nor ``get_roi_ids``.
    """
    get_ids = getattr(dataset, "get_unit_ids", None) or getattr(dataset, "get_roi_ids", None)
    if get_ids is None:
        raise RecordingError(
            f"{type(dataset).__name__} has neither get_unit_ids() nor get_roi_ids(); use Recordings, or a "
            "torch_brain dataset with CalciumImagingDatasetMixin"
        )
    return list(get_ids())


def replace_vocabulary(
    embedding: InfiniteVocabEmbedding,
    words: Iterable[str],
    *,
    source: Source = "pretrained",
    generator: torch.Generator | None = None,
) -> None:
    """Give an embedding new words, in place, and forget the old ones.

    Args:
        embedding: The vocabulary, initialised or not.
        words: The new words.
        source: Where their vectors are drawn from. ``"pretrained"``: a normal distribution with the
            mean and standard deviation, dimension by dimension, of the old words, so that the model
            meets neurons that look like those it knows. ``"normal"``: the embedding's own initial one.
        generator: Source of randomness.

    Example:
        >>> embedding = InfiniteVocabEmbedding(4)
        >>> embedding.initialize_vocab(["a", "b", "c"])
        >>> replace_vocabulary(embedding, ["x", "y"])
        >>> list(embedding.vocab), tuple(embedding.weight.shape)
        (['NA', 'x', 'y'], (3, 4))
    """
    words = list(words)
    mean, std = torch.zeros(embedding.embedding_dim), torch.full((embedding.embedding_dim,), embedding.init_scale)
    if source == "pretrained" and not embedding.is_lazy() and len(embedding.weight) > 2:
        # Row 0 is padding.
        old = embedding.weight.detach()[1:].cpu()
        mean, std = old.mean(dim=0), old.std(dim=0)
    vectors = mean + std * torch.randn(len(words), embedding.embedding_dim, generator=generator)
    embedding.vocab = None
    embedding.weight = nn.parameter.UninitializedParameter(device=embedding.weight.device)  # type: ignore[call-arg]
    embedding.initialize_vocab(words)
    with torch.no_grad():
        embedding.weight[1:] = vectors.to(embedding.weight)
