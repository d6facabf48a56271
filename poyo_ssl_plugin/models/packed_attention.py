"""Attention of a batch whose keys follow one another without padding: each window attends to its own.

The mask of it is block-diagonal: row by row as many ones as the window has keys. No kernel here makes
that mask; ``tests/test_packed_attention.py`` does, and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch
import torch.nn.functional as F


def attend_packed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int], dropout: float = 0.0
) -> torch.Tensor:
    """Attend from the queries of each window to that window's keys.

    Args:
        query: Queries, (B, N_q, heads, H).
        key: The keys of all windows, one after another, (sum of lengths, heads, H).
        value: Their values, of the same shape.
        lengths: How many keys each window has.
        dropout: Of the attention weights.

    Raises:
        RuntimeError: If there is no kernel for the device; :func:`packed_kernel` says so before.

    Example:
        >>> query, key = torch.randn(2, 4, 1, 8), torch.randn(5, 1, 8)
        >>> tuple(attend_packed(query, key, key, [2, 3]).shape)
        (2, 4, 1, 8)
    """
    kernel = packed_kernel(query.device.type)
    if kernel is None:
        raise RuntimeError(f"no attention without padding on {query.device.type}")
    return KERNELS[kernel](query, key, value, list(lengths), dropout)


def packed_kernel(device: str) -> str | None:
    """The name of the kernel that a type of device uses; ``None`` if batches are to be padded.

    Example:
        >>> packed_kernel("cpu")
        'split'
    """
    chosen = _chosen.get()
    return chosen[0] if chosen else _found(device)


@contextmanager
def packed_by(kernel: str | None) -> Iterator[None]:
    """Use this kernel, or padding for ``None``, whatever the device.

    Example:
        >>> with packed_by(None):
        ...     print(packed_kernel("cpu"))
        None
    """
    token = _chosen.set((kernel,))
    try:
        yield
    finally:
        _chosen.reset(token)


_chosen: ContextVar[tuple[str | None, ...]] = ContextVar("chosen", default=())


@lru_cache
def _found(device: str) -> str | None:
    """The fastest kernel that works there, found by trying once."""
    if device == "cpu":
        return "split"
    if device != "cuda":
        return None
    return next((name for name in ("xformers", "nested") if _works(KERNELS[name], device)), None)


def neurons_without_padding(mask: torch.Tensor | None) -> list[int] | None:
    """How many real neurons each window of (B, N, P) tokens has, if they can be taken without the padding.

    That is where padding is whole neurons and the device has a kernel for it. The answer is one transfer.
    """
    if mask is None or packed_kernel(mask.device.type) is None:
        return None
    real = mask[:, :, 0]
    whole = (mask == real[:, :, None]).all()
    *counts, whole_neurons = torch.cat([real.sum(dim=1), whole[None]]).tolist()
    return counts if whole_neurons and min(counts) < mask.shape[1] else None


def _split(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], dropout: float
) -> torch.Tensor:
    """One attention a window: best where starting one costs little."""
    queries = query.transpose(1, 2).split(1)
    keys, values = (x.transpose(0, 1)[None].split(lengths, dim=2) for x in (key, value))
    each = [
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(each).transpose(1, 2)


def _nested(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], dropout: float
) -> torch.Tensor:
    """torch's nested tensors, which reach its variable-length kernels and know dropout and all precisions."""
    n_windows, n_queries = query.shape[:2]
    query_ends = torch.arange(0, (n_windows + 1) * n_queries, n_queries, device=query.device)
    key_ends = torch.tensor([0, *lengths]).cumsum(0).to(key.device, non_blocking=True)

    def jagged(x: torch.Tensor, ends: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        # Told the sizes, it need not read them from the device.
        nested = torch.nested.nested_tensor_from_jagged(
            x.contiguous(), ends, min_seqlen=min(sizes), max_seqlen=max(sizes)
        )
        return nested.transpose(1, 2)

    out = F.scaled_dot_product_attention(
        jagged(query.flatten(0, 1), query_ends, [n_queries]),
        jagged(key, key_ends, lengths),
        jagged(value, key_ends, lengths),
        dropout_p=dropout,
    )
    return out.transpose(1, 2).values().unflatten(0, (n_windows, n_queries))


def _xformers(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], dropout: float
) -> torch.Tensor:
    """xformers' memory-efficient attention with a block-diagonal mask."""
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    n_windows, n_queries = query.shape[:2]
    mask = BlockDiagonalMask.from_seqlens([n_queries] * n_windows, lengths, device=query.device)
    flat = query.flatten(0, 1)[None]
    out = memory_efficient_attention(flat, key[None], value[None], attn_bias=mask, p=dropout)
    return out[0].unflatten(0, (n_windows, n_queries))


Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, list[int], float], torch.Tensor]
KERNELS: dict[str, Kernel] = {"split": _split, "nested": _nested, "xformers": _xformers}


def _works(kernel: Kernel, device: str) -> bool:
    """Whether a kernel attends and gives gradients there; one built for another torch may be installed and does not."""
    # The first batch may be one of validation, which knows no gradients.
    with torch.inference_mode(False), torch.enable_grad():
        query, key = (torch.ones(size, device=device, requires_grad=True) for size in ((2, 2, 1, 32), (3, 1, 32)))
        try:
            kernel(query, key, key, [1, 2], 0.0).sum().backward()
        except Exception:
            # Kernels that are not there announce it in many ways.
            return False
    return key.grad is not None
