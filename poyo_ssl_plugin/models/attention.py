"""torch_brain's rotary attention, with the rotation done in one pass.

On a CPU the rotation of keys and values costs more than the attention itself: torch_brain makes some
ten passes over them. As a product of complex numbers it is one, and neurons that were sampled at the
same times share its factors. Parameters and results are those of torch_brain's modules (tested).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from poyo_ssl_plugin.compat import RotaryCrossAttention, RotarySelfAttention
from poyo_ssl_plugin.models.packed_attention import attend_packed


class CrossAttention(RotaryCrossAttention):
    """``torch_brain.nn.RotaryCrossAttention`` whose context may repeat the same times, and be packed.

    ``context_pos_emb`` may be shorter than the context by a whole factor: the context is then that many
    sequences one after another, all at these times.
    """

    def forward(
        self,
        x_query: torch.Tensor,
        x_context: torch.Tensor,
        query_pos_emb: torch.Tensor,
        context_pos_emb: torch.Tensor,
        context_mask: torch.Tensor | None = None,
        packed: list[int] | None = None,
    ) -> torch.Tensor:
        """Attend; shapes as in torch_brain: (B, N_q, D), (B, N_c, D), (B, N_q, 2H), (B, N_t, 2H), (B, N_c).

        Args:
            x_query: Queries.
            x_context: What they attend to.
            query_pos_emb: Rotary embedding of the queries' times.
            context_pos_emb: Rotary embedding of the context's times.
            context_mask: Which of the context is real.
            packed: How many sequences each of the batch has. ``x_context`` is then
                (sum of them, N_t, D): those of all the batch and no padding, which costs nothing so.
        """
        query = self.to_q(self.norm(x_query))
        key_value = self.to_kv(self.norm_context(x_context))
        query_phase, key_phase = as_complex(query_pos_emb), as_complex(context_pos_emb)
        if packed is not None:
            assert context_mask is None, "a packed context has no padding to mask"
            counts = torch.tensor(packed).to(key_phase.device, non_blocking=True)
            # Told how many there are, a GPU need not be waited for.
            key_phase = key_phase.repeat_interleave(counts, dim=0, output_size=sum(packed))
        query = _rotate(query, query_phase, self.heads)
        key, value = _rotate_keys(key_value, key_phase, 2, self.heads, rotate_value=self.rotate_value)
        dropout = self.dropout if self.training else 0.0
        if packed is None:
            out = _attend(query, key, value, dropout, context_mask)
        else:
            lengths = [n * x_context.shape[1] for n in packed]
            out = attend_packed(query, key.flatten(0, 1), value.flatten(0, 1), lengths, dropout)
        return self.to_out(_turn_back(out, query_phase) if self.rotate_value else out.flatten(2))


class SelfAttention(RotarySelfAttention):
    """``torch_brain.nn.RotarySelfAttention``."""

    def forward(
        self, x: torch.Tensor, rotary_time_emb: torch.Tensor, x_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend; shapes as in torch_brain: (B, N, D), (B, N, 2H), (B, N)."""
        phase = as_complex(rotary_time_emb)
        query, key, value = _rotate_keys(
            self.to_qkv(self.norm(x)), phase, 3, self.heads, rotate_value=self.rotate_value
        )
        out = _attend(query, key, value, self.dropout if self.training else 0.0, x_mask)
        return self.to_out(_turn_back(out, phase) if self.rotate_value else out.flatten(2))


def as_complex(rotary: torch.Tensor) -> torch.Tensor:
    """torch_brain's rotary embedding (..., 2H), cosines then sines in equal pairs, as (..., H / 2) phases."""
    half = rotary.shape[-1] // 2
    return torch.complex(rotary[..., 0:half:2].contiguous(), rotary[..., half::2].contiguous())


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of (B, N, heads, H)."""
    return F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=None if mask is None else mask[:, None, None, :],
        dropout_p=dropout,
    ).transpose(1, 2)


def _rotate_keys(
    x: torch.Tensor, phase: torch.Tensor, n_parts: int, heads: int, *, rotate_value: bool
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values side by side in x, apart and rotated, each (B, N, heads, H)."""
    if rotate_value:
        return _rotate(x, phase, n_parts * heads).chunk(n_parts, dim=2)
    *others, value = x.chunk(n_parts, dim=-1)
    return *(_rotate(other, phase, heads) for other in others), value.unflatten(-1, (heads, -1))


def _turn_back(out: torch.Tensor, query_phase: torch.Tensor) -> torch.Tensor:
    """Values were rotated by their own times; make that relative to the time of the query."""
    return _rotate(out.flatten(2), query_phase.conj(), out.shape[2]).flatten(2)


def _rotate(x: torch.Tensor, phase: torch.Tensor, heads: int) -> torch.Tensor:
    """Rotate pairs of features of x (B, N, heads * H) by phases (B, T, H / 2), N a multiple of T."""
    n_times = phase.shape[1]
    pairs = x.float().reshape(len(x), -1, n_times, heads, phase.shape[-1], 2)
    rotated = torch.view_as_real(torch.view_as_complex(pairs) * phase[:, None, :, None, :])
    return rotated.flatten(-2).flatten(1, 2).to(x.dtype)
