"""New neurons for a trained model: exchanging the words of a torch_brain vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from torch import nn

from poyo_ssl_plugin.compat import Data, Dataset, InfiniteVocabEmbedding
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.models.identification import identify_units
from poyo_ssl_plugin.models.readout import PrototypeReadout
from poyo_ssl_plugin.plain import Batch, ModelInputs
from poyo_ssl_plugin.recordings import recording_id

Source = Literal["pretrained", "normal"]


def dataset_unit_ids(dataset: Dataset) -> list[str]:
    """Ids of all neurons of a torch_brain dataset, be they units or rois.

    Raises:
        RecordingError: If it has neither ``get_unit_ids`` nor ``get_roi_ids``.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin import Recordings
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays, save_recording
        >>> data = recording_from_arrays(np.zeros((100, 2)), recording="mouse1", sampling_rate=10.0)
        >>> dataset_unit_ids(Recordings(save_recording(data, tempfile.mkdtemp()).parent))
        ['mouse1/0', 'mouse1/1']
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


def look_up(embedding: InfiniteVocabEmbedding, words: Iterable[str], data: Data) -> np.ndarray:
    """Rows of words in an embedding, int64 (N,).

    Raises:
        RecordingError: If the embedding has no vocabulary, or a word is not in it; ``data`` is named.
    """
    vocabulary = embedding.vocab
    if vocabulary is None:
        raise RecordingError("the model has no vocabulary yet: call model.init_vocabs(dataset) first")
    try:
        return np.fromiter(map(vocabulary.__getitem__, words), dtype=np.int64)
    except KeyError as error:
        raise RecordingError(
            f"recording {recording_id(data)}: {str(error.args[0])!r} is not in the model's vocabulary; "
            "initialise it with a dataset that holds this recording"
        ) from None


def recording_embeddings(model: nn.Module) -> list[InfiniteVocabEmbedding]:
    """Every embedding of a model of the POYO family that has a row for each recording, prototypes of tasks too."""
    readout = getattr(model, "readout", None)
    prototypes = readout.prototypes.values() if isinstance(readout, PrototypeReadout) else ()
    return [model.session_emb, *prototypes]


class NeuronVocabularies(nn.Module):
    """A model whose embeddings are of named neurons and recordings, which can be exchanged for others."""

    unit_emb: InfiniteVocabEmbedding
    session_emb: InfiniteVocabEmbedding
    readout: nn.Module

    def init_vocabs(self, dataset: Dataset) -> None:
        """Set the vocabularies of units and sessions from a dataset, as ``POYO.init_vocabs``.

        Args:
            dataset: A torch_brain ``Dataset`` with ``get_unit_ids`` or ``get_roi_ids``.
        """
        self.set_vocabs(unit_ids=dataset_unit_ids(dataset), session_ids=dataset.recording_ids)

    def set_vocabs(self, *, unit_ids: Iterable[str], session_ids: Iterable[str]) -> None:
        """Set the vocabularies of units and sessions; their embeddings are drawn anew."""
        self.unit_emb.initialize_vocab(list(unit_ids))
        sessions = list(session_ids)
        for embedding in recording_embeddings(self):
            embedding.initialize_vocab(sessions)

    def adapt_to(
        self,
        dataset: Dataset,
        windows: Iterable[ModelInputs | Batch] | None = None,
        *,
        steps: int = 300,
        vocabulary: Source = "pretrained",
    ) -> int:
        """Take the neurons and recordings of another dataset in the place of those the model has; known ones stay.

        Args:
            dataset: A torch_brain ``Dataset``, as :meth:`init_vocabs` takes it.
            windows: Batches of unlabelled windows, tokenised by this model when they are drawn. With them the
                embeddings of all neurons are fitted to their own activity
                (:func:`~poyo_ssl_plugin.objectives.identify_units`), which needs no label.
            steps: Steps of that fit.
            vocabulary: Where new embeddings are drawn from, see
                :func:`~poyo_ssl_plugin.models.replace_vocabulary`.

        Returns:
            How many of the neurons the model knew.
        """
        known = replace_vocabulary(self.unit_emb, dataset_unit_ids(dataset), source=vocabulary)
        for embedding in recording_embeddings(self):
            replace_vocabulary(embedding, dataset.recording_ids, source=vocabulary)
        if windows is not None:
            identify_units(self, windows, steps=steps)
        return known


def _draw(embedding: InfiniteVocabEmbedding, words: list[str], generator: torch.Generator | None) -> torch.Tensor:
    if hasattr(embedding, "draw"):
        return embedding.draw(words, generator)
    return embedding.init_scale * torch.randn(len(words), embedding.embedding_dim, generator=generator)
