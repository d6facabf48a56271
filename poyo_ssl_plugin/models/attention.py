"""torch_brain's rotary attention, with the rotation done in one pass.

On a CPU the rotation of keys and values costs more than the attention itself: torch_brain makes some
ten passes over them. As a product of complex numbers it is one, and neurons that were sampled at the
same times share its factors. Parameters and results are those of torch_brain's modules (tested).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from poyo_ssl_plugin.compat import RotaryCrossAttention, RotarySelfAttention


class CrossAttention(RotaryCrossAttention):
    """``torch_brain.nn.RotaryCrossAttention`` whose context may repeat the same times.

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
    ) -> torch.Tensor:
        """Attend; shapes as in torch_brain: (B, N_q, D), (B, N_c, D), (B, N_q, 2H), (B, N_t, 2H), (B, N_c)."""
        query = self.to_q(self.norm(x_query))
        key, value = self.to_kv(self.norm_context(x_context)).chunk(2, dim=-1)
        out = _attend(
            query,
            key,
            value,
            as_complex(query_pos_emb),
            as_complex(context_pos_emb),
            heads=self.heads,
            dropout=self.dropout if self.training else 0.0,
            rotate_value=self.rotate_value,
            mask=context_mask,
        )
        return self.to_out(out)


class SelfAttention(RotarySelfAttention):
    """``torch_brain.nn.RotarySelfAttention``."""

    def forward(
        self, x: torch.Tensor, rotary_time_emb: torch.Tensor, x_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend; shapes as in torch_brain: (B, N, D), (B, N, 2H), (B, N)."""
        query, key, value = self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        rotation = as_complex(rotary_time_emb)
        out = _attend(
            query,
            key,
            value,
            rotation,
            rotation,
            heads=self.heads,
            dropout=self.dropout if self.training else 0.0,
            rotate_value=self.rotate_value,
            mask=x_mask,
        )
        return self.to_out(out)


def as_complex(rotary: torch.Tensor) -> torch.Tensor:
    """torch_brain's rotary embedding (..., 2H), cosines then sines in equal pairs, as (..., H / 2) phases."""
    half = rotary.shape[-1] // 2
    return torch.complex(rotary[..., 0:half:2].contiguous(), rotary[..., half::2].contiguous())


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_phase: torch.Tensor,
    key_phase: torch.Tensor,
    *,
    heads: int,
    dropout: float,
    rotate_value: bool,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    query = _rotate(query, query_phase, heads)
    key = _rotate(key, key_phase, heads)
    value = _rotate(value, key_phase, heads) if rotate_value else value.unflatten(-1, (heads, -1))
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=None if mask is None else mask[:, None, None, :],
        dropout_p=dropout,
    ).transpose(1, 2)
    if rotate_value:
        out = _rotate(out.flatten(2), query_phase.conj(), heads)
    return out.flatten(2)


def _rotate(x: torch.Tensor, phase: torch.Tensor, heads: int) -> torch.Tensor:
    """Rotate pairs of features of x (B, N, heads * H) by phases (B, T, H / 2), N a multiple of T."""
    n_times = phase.shape[1]
    pairs = x.float().reshape(len(x), -1, n_times, heads, phase.shape[-1], 2)
    rotated = torch.view_as_real(torch.view_as_complex(pairs) * phase[:, None, :, None, :])
    return rotated.flatten(-2).flatten(1, 2).to(x.dtype)
