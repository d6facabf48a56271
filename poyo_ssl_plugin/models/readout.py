"""One linear readout, and one query embedding, per task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


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
