"""Several processes that train one model: what each of them does so that together they are as one.

Lightning starts the processes and averages gradients. What it cannot know is what belongs to the whole
batch: means over targets of which each process has its own number, and statistics over windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

import torch
import torch.distributed
from torch.distributed.nn.functional import all_gather
from torch.utils.data import Sampler

T = TypeVar("T")


def n_processes() -> int:
    """How many processes train together; 1 before they have met."""
    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if group else 1


def process_index() -> int:
    """Which of them this is."""
    return torch.distributed.get_rank() if n_processes() > 1 else 0


def is_main_process() -> bool:
    """Whether this process writes what is written once; known from the environment before processes meet."""
    from lightning.pytorch.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0)) == 0


def end_unless_main_process() -> None:
    """End a process that was there to help to train: what comes after is done once."""
    if not is_main_process():
        raise SystemExit(0)


def gathered(value: T) -> list[T]:
    """The values that the processes gave, in their order; all of them must call it."""
    if n_processes() == 1:
        return [value]
    values = [value] * n_processes()
    torch.distributed.all_gather_object(values, value)
    return values


def mean_of_all(mean: torch.Tensor, count: int | torch.Tensor) -> torch.Tensor:
    r"""A mean over this process's targets, weighted so that the processes' average is the mean over all.

    With :math:`c_r` targets in each of :math:`R` processes it is :math:`R\, c_r / \sum_r c_r` times the mean.
    All processes must call it.

    Args:
        mean: The mean, a scalar; finite also where there is nothing to average.
        count: How many targets it is over.

    Example:
        >>> mean_of_all(torch.tensor(2.0), 3)
        tensor(2.)
    """
    if n_processes() == 1:
        return mean
    own = torch.as_tensor(count, dtype=torch.float32, device=mean.device)
    total = own.clone()
    torch.distributed.all_reduce(total)
    return mean * (own * n_processes() / total.clamp(min=1.0))


def whole_batch(x: torch.Tensor) -> torch.Tensor:
    """What all processes have of a batch, (B, ...) each, as one (R B, ...) with gradient to each part.

    Example:
        >>> whole_batch(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """
    if n_processes() == 1:
        return x
    return torch.cat(all_gather(x))


class Samples(Protocol):
    """What yields samples and knows how many, as samplers and lists do."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[object]: ...


class ShardedSampler(Sampler[object]):
    """Every so-manieth sample of a sampler that yields the same in all processes.

    Together the processes' batches of each step are the next windows of the one epoch. Where the samples
    do not come out even, the first ones are repeated, as torch's ``DistributedSampler`` does.

    Args:
        sampler: The sampler; its randomness must be the same in all processes.
        n_shards: How many processes there are.
        index: Which of them this is.

    Example:
        >>> [list(ShardedSampler(range(5), n_shards=2, index=i)) for i in range(2)]
        [[0, 2, 4], [1, 3, 0]]
    """

    def __init__(self, sampler: Samples, *, n_shards: int, index: int) -> None:
        self.sampler = sampler
        self.n_shards, self.index = n_shards, index

    @property
    def generator(self) -> torch.Generator | None:
        """The source of randomness of the sampler, which a resumed run sets."""
        return getattr(self.sampler, "generator", None)

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.n_shards)

    def __iter__(self) -> Iterator[object]:
        first, n = [], 0
        for sample in self.sampler:
            if n < self.n_shards:
                first.append(sample)
            if n % self.n_shards == self.index:
                yield sample
            n += 1
        missing = -n % self.n_shards
        # The index of what would come next, and of the repeated samples after it.
        for place in range(n, n + missing if first else n):
            if place % self.n_shards == self.index:
                yield first[(place - n) % len(first)]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, to samplers that want to know."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
