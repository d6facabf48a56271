"""Readouts by task: a linear one of decoded queries, and class prototypes over a window's latents."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from poyo_ssl_plugin.compat import InfiniteVocabEmbedding


class MultitaskReadout(nn.Module):
    """Linear readouts of named tasks, of any number of outputs (classes, or values to regress).

    Everything is kept under the task's name, so a checkpoint gives another model exactly the tasks
    that both have.

    Args:
        dim: Width of the query embeddings.
        dims_out: Task name to number of outputs. Tasks are numbered from 0 in this order.
        init_scale: Standard deviation of new query embeddings.

    Example:
        >>> readout = MultitaskReadout(4, {"direction": 8, "speed": 1})
        >>> queries, task = torch.zeros(2, 3, 4), torch.tensor([[0, 0, 1], [0, 1, 1]])
        >>> {name: tuple(out.shape) for name, out in readout(queries, task).items()}
        {'direction': (3, 8), 'speed': (3, 1)}
    """

    def __init__(self, dim: int, dims_out: Mapping[str, int], init_scale: float = 0.02) -> None:
        super().__init__()
        self.tasks = list(dims_out)
        self._dims_out = dict(dims_out)
        self.projections = nn.ModuleDict({name: nn.Linear(dim, n) for name, n in dims_out.items()})
        self.queries = nn.ParameterDict({name: init_scale * torch.randn(dim) for name in dims_out})

    def embed(self, task_index: torch.Tensor) -> torch.Tensor:
        """Query embeddings of tasks, :math:`(B, N_{out}, D)`; padding (a negative index) gets the first."""
        return torch.stack([self.queries[name] for name in self.tasks])[task_index.clamp_min(0)]

    def forward(self, queries: torch.Tensor, task_index: torch.Tensor) -> dict[str, torch.Tensor]:
        """Read out each query with its own task.

        Args:
            queries: Embeddings of shape :math:`(B, N_{out}, D)`.
            task_index: Task of each query, int64 :math:`(B, N_{out})`; a negative one marks padding.

        Returns:
            Task name to outputs of shape :math:`(K, D_{task})`, its queries in the order of the batch.
        """
        return {name: self.projections[name](queries[task_index == i]) for i, name in enumerate(self.tasks)}

    def dims_out(self) -> dict[str, int]:
        """Task name to number of outputs."""
        return dict(self._dims_out)


class PrototypeReadout(nn.Module):
    r"""Class prototypes: a window is scored by the cosine between its latents and each class.

    The score of class :math:`c` is :math:`s \cos(z, p_c)` with :math:`z` all latents of the window as one
    vector, :math:`p_c` the prototype of the window's recording, and :math:`s` learned. All queries of a
    window get the window's scores, so a window should be centred on what is decoded. Where labels are
    few this does better than a linear layer (Snell et al. 2017; ``docs/model.md``).

    Args:
        n_features: Length of :math:`z`.
        dims_out: Task name to number of classes. Tasks are numbered from 0 in this order.
        scale: :math:`s` at first.

    Example:
        >>> readout = PrototypeReadout(12, {"direction": 8})
        >>> readout.initialize_vocab(["mouse"])
        >>> scores = readout(torch.randn(2, 3, 4), torch.ones(2, dtype=torch.long), torch.zeros(2, 1).long())
        >>> tuple(scores["direction"].shape)
        (2, 8)
    """

    def __init__(self, n_features: int, dims_out: Mapping[str, int], scale: float = 16.0) -> None:
        super().__init__()
        self.tasks, self.n_features = list(dims_out), n_features
        self._dims_out = dict(dims_out)
        self.prototypes = nn.ModuleDict(
            {name: InfiniteVocabEmbedding(n * n_features, init_scale=n_features**-0.5) for name, n in dims_out.items()}
        )
        self._first_scale = scale
        self.log_scale = nn.ParameterDict({name: torch.tensor(math.log(scale)) for name in dims_out})

    def initialize_vocab(self, session_ids: Iterable[str]) -> None:
        """Set the recordings; each gets random prototypes of its own."""
        words = list(session_ids)
        embedding: InfiniteVocabEmbedding
        for embedding in self.prototypes.values():
            embedding.initialize_vocab(words)

    def dims_out(self) -> dict[str, int]:
        """Task name to number of classes."""
        return dict(self._dims_out)

    def forward(
        self, latents: torch.Tensor, session_index: torch.Tensor, task_index: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Score windows.

        Args:
            latents: Latents of the windows, :math:`(B, L, D)`.
            session_index: Recordings, int64 :math:`(B,)`.
            task_index: Task of each query, int64 :math:`(B, N_{out})`; a negative one marks padding.

        Returns:
            Task name to scores of shape :math:`(K, C)`, its queries in the order of the batch.
        """
        windows = F.normalize(latents.flatten(1), dim=1)
        sessions = session_index.unique()
        scores = {}
        for i, name in enumerate(self.tasks):
            prototypes = F.normalize(self.prototypes[name](sessions).unflatten(1, (-1, self.n_features)), dim=2)
            cosine = windows.new_zeros(len(windows), self._dims_out[name])
            for session, own in zip(sessions, prototypes, strict=True):
                # One product per recording, not one set of prototypes per window.
                rows = (session_index == session).nonzero()[:, 0]
                cosine = cosine.index_copy(0, rows, windows[rows] @ own.T)
            window_of_query = (task_index == i).nonzero()[:, 0]
            scores[name] = (self.log_scale[name].exp() * cosine)[window_of_query]
        return scores

    @torch.no_grad()
    def fit(self, task: str, latents: torch.Tensor, session_index: torch.Tensor, labels: torch.Tensor) -> None:
        """Set prototypes to the mean unit latents of each class and recording, and :math:`s` to what it was at first.

        Classes without a window stay. A scale that was learned on other recordings, with other labels, would make
        the first scores too sure.

        Args:
            task: Name of the task.
            latents: Latents of labelled windows, :math:`(B, L, D)`.
            session_index: Their recordings, int64 :math:`(B,)`.
            labels: Their classes, int64 :math:`(B,)`, or weights of the classes, :math:`(B, C)`.
        """
        self.log_scale[task].fill_(math.log(self._first_scale))
        embedding: InfiniteVocabEmbedding = self.prototypes[task]
        weights = labels if labels.ndim == 2 else F.one_hot(labels, self._dims_out[task])
        windows = F.normalize(latents.flatten(1), dim=1)
        for session in session_index.unique().tolist():
            of_session = session_index == session
            sums = weights[of_session].to(windows).T @ windows[of_session]
            seen = weights[of_session].sum(dim=0) > 0
            table = embedding.weight[session].unflatten(0, (-1, self.n_features))
            table[seen] = F.normalize(sums[seen], dim=1)
