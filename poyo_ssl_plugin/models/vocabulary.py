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
) -> int:
    """Give an embedding other words, in place. Words that it knows keep their vectors.

    Args:
        embedding: The vocabulary, initialised or not.
        words: All words it is to have.
        source: Where the vectors of new words come from. ``"pretrained"``: they are drawn around the mean of
            the old ones, with the embedding's own initial spread. ``"normal"``: as in a new embedding, and
            known words are drawn anew too.
        generator: Source of randomness.

    Returns:
        How many words were known.

    Example:
        >>> embedding = InfiniteVocabEmbedding(4)
        >>> embedding.initialize_vocab(["a", "b", "c"])
        >>> replace_vocabulary(embedding, ["c", "x"])
        1
        >>> list(embedding.vocab), tuple(embedding.weight.shape)
        (['NA', 'c', 'x'], (3, 4))
    """
    words = list(words)
    vectors = _draw(embedding, words, generator)
    known: list[int] = []
    if source == "pretrained" and not embedding.is_lazy() and len(embedding.weight) > 1:
        # Row 0 is padding.
        old = embedding.weight.detach().cpu()
        vectors += old[1:].mean(dim=0)
        known = [row for row, word in enumerate(words) if word in embedding.vocab]
        vectors[known] = old[[embedding.vocab[words[row]] for row in known]]
    embedding.vocab = None
    embedding.weight = nn.parameter.UninitializedParameter(device=embedding.weight.device)  # type: ignore[call-arg]
    embedding.initialize_vocab(words)
    with torch.no_grad():
        embedding.weight[1:] = vectors.to(embedding.weight)
    return len(known)


def _draw(embedding: Any, words: list[str], generator: torch.Generator | None) -> torch.Tensor:
    if hasattr(embedding, "draw"):
        return embedding.draw(words, generator)
    return embedding.init_scale * torch.randn(len(words), embedding.embedding_dim, generator=generator)
