"""POYO for calcium traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import nn

from poyo_ssl_plugin.compat import (
    Data,
    FeedForward,
    InfiniteVocabEmbedding,
    RotaryTimeEmbedding,
    create_linspace_latent_tokens,
    pad,
    pad2d,
)
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models.attention import CrossAttention, SelfAttention
from poyo_ssl_plugin.models.hub import PretrainedModel
from poyo_ssl_plugin.models.latents import process_latents
from poyo_ssl_plugin.models.layer_scale import LayerScale, scaled_attention
from poyo_ssl_plugin.models.packed_attention import neurons_without_padding
from poyo_ssl_plugin.models.patches import patches_of
from poyo_ssl_plugin.models.read_in import ReadIn, UnitEmbedding
from poyo_ssl_plugin.models.readout import MultitaskReadout, PrototypeReadout
from poyo_ssl_plugin.models.vocabulary import NeuronVocabularies, look_up
from poyo_ssl_plugin.plain import ModelInputs, ReadOnlyValues
from poyo_ssl_plugin.recordings import TRACES, unit_ids


class CalciumPOYO(PretrainedModel, NeuronVocabularies):
    r"""POYO (Azabou et al. 2023) for windows of calcium traces, as POYO-SSL uses it.

    Unit embeddings, latents with rotary times, a processor of self-attention layers and a readout by task
    are POYO's, under POYO's attribute names. By default two things differ. The encoder is a linear
    :class:`~poyo_ssl_plugin.models.ReadIn`, which lets the whole population through, and the processor
    begins near the identity. And classes are read out as prototypes over the latents.
    ``encoder="attention", readout="linear", layer_scale=None`` is the paper's model (section 3.2): every
    patch is a token, its value plus its neuron's embedding, and latents attend to the tokens.
    ``docs/model.md`` gives the reason of each choice.

    Args:
        sequence_length: Length of a window in seconds.
        latent_step: Time between groups of latents in seconds; the groups cover the window.
        num_latents_per_step: Latents per group.
        dim_out: Number of outputs, or task name to number of outputs for several tasks.
        dim: Width of the model.
        depth: Number of self-attention layers between encoder and decoder.
        dim_head: Width of an attention head.
        cross_heads: Heads of the cross-attentions.
        self_heads: Heads of the self-attentions.
        ffn_dropout: Dropout inside feed-forward blocks.
        lin_dropout: Dropout of the residual branches of the processor.
        atn_dropout: Dropout of attention weights.
        latent_dropout: Dropout of the latents that prototypes are compared with.
        emb_init_scale: Standard deviation of new unit embeddings; 1 for the read-in, 0.02 in POYO.
        t_min: Shortest period of the rotary time embedding in seconds.
        t_max: Longest period, in seconds.
        patch_size: Samples per token. A window is cut or filled with zeros
            to the nearest number of whole patches.
        encoder: ``"read_in"`` or ``"attention"``.
        readout: ``"prototypes"`` or ``"linear"``, where ``dim_out`` names tasks.
        layer_scale: Scale at which the layers of the processor begin (Touvron et al. 2021); ``None`` for
            none, as in POYO.

    Raises:
        RecipeError: If an argument is out of range.

    Example:
        >>> model = CalciumPOYO(sequence_length=2.0, latent_step=0.5, dim_out=8, dim=32, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b", "c"], session_ids=["s"])
        >>> out = model(
        ...     input_values=torch.randn(4, 3, 6, 10), input_unit_index=torch.tensor([[1, 2, 3]] * 4),
        ...     input_timestamps=torch.arange(6).repeat(4, 1) / 3, input_mask=None,
        ...     session_index=torch.ones(4, dtype=torch.long), output_timestamps=torch.ones(4, 1),
        ... )
        >>> tuple(out.shape)
        (4, 1, 8)
    """

    def __init__(
        self,
        *,
        sequence_length: float,
        latent_step: float,
        num_latents_per_step: int = 4,
        dim_out: int | Mapping[str, int],
        dim: int = 64,
        depth: int = 2,
        dim_head: int = 32,
        cross_heads: int = 2,
        self_heads: int = 4,
        ffn_dropout: float = 0.2,
        lin_dropout: float = 0.2,
        atn_dropout: float = 0.0,
        latent_dropout: float = 0.2,
        emb_init_scale: float = 1.0,
        t_min: float = 1e-2,
        t_max: float = 8.0,
        patch_size: int = 1,
        encoder: Literal["read_in", "attention"] = "read_in",
        readout: Literal["prototypes", "linear"] = "prototypes",
        layer_scale: float | None = 0.1,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.arguments = {**given, "dim_out": dim_out if isinstance(dim_out, int) else dict(dim_out)}
        _check_arguments(given)
        self.sequence_length = float(sequence_length)
        self.latent_step = float(latent_step)
        self.num_latents_per_step = num_latents_per_step
        self.dim = dim
        self.patch_size = patch_size
        self.encoder = encoder

        n_latents = len(self._latent_grid(torch.device("cpu"))[0])
        self.session_emb = InfiniteVocabEmbedding(dim, init_scale=min(emb_init_scale, 0.3))
        self.latent_emb = nn.Embedding(num_latents_per_step, dim)
        self.rotary_emb = RotaryTimeEmbedding(head_dim=dim_head, rotate_dim=dim_head // 2, t_min=t_min, t_max=t_max)
        self.dropout = nn.Dropout(p=lin_dropout)
        self.latent_dropout = nn.Dropout(p=latent_dropout)

        def feed_forward(scale: float | None = None) -> nn.Sequential:
            last = [] if scale is None else [LayerScale(dim, scale)]
            return nn.Sequential(nn.LayerNorm(dim), FeedForward(dim=dim, dropout=ffn_dropout), *last)

        attention = {"dim": dim, "dim_head": dim_head, "dropout": atn_dropout}
        if encoder == "read_in":
            width = num_latents_per_step * dim
            self.unit_emb: InfiniteVocabEmbedding = UnitEmbedding(width, init_scale=emb_init_scale)
            self.read_in = ReadIn(
                n_steps=n_latents // num_latents_per_step,
                patch_size=patch_size,
                unit_dim=width,
                n_slots=num_latents_per_step,
                dim=dim,
            )
            # Slots are told apart, and still hardly add to what depends on the input.
            nn.init.normal_(self.latent_emb.weight, std=0.02)
        else:
            self.unit_emb = InfiniteVocabEmbedding(dim, init_scale=emb_init_scale)
            self.value_map = nn.Linear(patch_size, dim, bias=False)
            nn.init.normal_(self.value_map.weight, std=patch_size**-0.5)
            nn.init.normal_(self.latent_emb.weight, std=emb_init_scale)
            self.enc_atn = CrossAttention(**attention, heads=cross_heads, rotate_value=True)
            self.enc_ffn = feed_forward()
        self.proc_layers = nn.ModuleList(
            nn.Sequential(
                scaled_attention(SelfAttention(**attention, heads=self_heads, rotate_value=True), dim, layer_scale),
                feed_forward(layer_scale),
            )
            for _ in range(depth)
        )
        self.dec_atn = CrossAttention(**attention, heads=cross_heads, rotate_value=False)
        self.dec_ffn = feed_forward()
        self.readout: nn.Module
        if isinstance(dim_out, int):
            self.readout = nn.Linear(dim, dim_out)
        elif readout == "linear":
            self.readout = MultitaskReadout(dim, dim_out, init_scale=min(emb_init_scale, 0.3))
        else:
            self.readout = PrototypeReadout(n_latents * dim, dim_out)

    def forward(
        self,
        *,
        input_values: torch.Tensor,
        input_unit_index: torch.Tensor,
        input_timestamps: torch.Tensor,
        input_mask: torch.Tensor | None,
        session_index: torch.Tensor,
        output_timestamps: torch.Tensor,
        output_task_index: torch.Tensor | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Decode windows of traces at the queried times.

        Args:
            input_values: Patches of the traces, :math:`(B, N, P, S)` for :math:`N` neurons,
                :math:`P` patches and ``patch_size`` :math:`S`.
            input_unit_index: Neurons, int64 :math:`(B, N)`, in the vocabulary of ``unit_emb``.
            input_timestamps: Centres of the patches in seconds from the start, :math:`(B, P)`.
            input_mask: Which patches are real, bool :math:`(B, N, P)`; ``None`` if all are.
            session_index: Recordings, int64 :math:`(B,)`.
            output_timestamps: Queried times in seconds from the start, :math:`(B, N_{out})`.
            output_task_index: Tasks of the queries, int64 :math:`(B, N_{out})`; needed, and used, only
                with several tasks.

        Returns:
            Shape :math:`(B, N_{out}, D_{out})`; with several tasks, what :class:`MultitaskReadout` gives.
        """
        latents, rotary = self.encode(
            input_values=input_values,
            input_unit_index=input_unit_index,
            input_timestamps=input_timestamps,
            input_mask=input_mask,
        )
        return self.decode(
            self.process(latents, rotary),
            rotary,
            session_index=session_index,
            output_timestamps=output_timestamps,
            output_task_index=output_task_index,
        )

    def encode(
        self,
        *,
        input_values: torch.Tensor,
        input_unit_index: torch.Tensor,
        input_timestamps: torch.Tensor,
        input_mask: torch.Tensor | None,
        **_: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents :math:`Z_1` after the encoder, :math:`(B, L, D)`, and their rotary embedding."""
        index, timestamps = self._latent_grid(input_values.device)
        rotary = self.rotary_emb(timestamps).expand(len(input_values), -1, -1)
        slots = self.latent_emb(index).expand(len(input_values), -1, -1)
        if self.encoder == "read_in":
            # Windows of one recording without dropout have the same neurons: one set of weights for all of them.
            same = len(input_unit_index) > 1 and bool((input_unit_index == input_unit_index[:1]).all())
            units = self.unit_emb(input_unit_index[0] if same else input_unit_index)
            # Padding has time 0.
            n_patches = input_timestamps.argmax(dim=1) + 1
            return slots + self.read_in(input_values, units, input_mask, n_patches), rotary
        units = self.unit_emb(input_unit_index)
        token_rotary = self.rotary_emb(input_timestamps)
        counts = neurons_without_padding(input_mask)
        if input_mask is not None and counts is not None:
            real = input_mask[:, :, 0]
            tokens = self.value_map(input_values[real]) + units[real].unsqueeze(-2)
            attended = self.enc_atn(slots, tokens, rotary, token_rotary, packed=counts)
        else:
            tokens = (self.value_map(input_values) + units.unsqueeze(-2)).flatten(1, 2)
            mask = None if input_mask is None else input_mask.flatten(1)
            attended = self.enc_atn(slots, tokens, rotary, token_rotary, mask)
        latents = slots + attended
        return latents + self.enc_ffn(latents), rotary

    def process(self, latents: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        """Latents :math:`Z_L` after all self-attention layers, :math:`(B, L, D)`."""
        return process_latents(self, latents, rotary)

    def decode(
        self,
        latents: torch.Tensor,
        rotary: torch.Tensor,
        *,
        session_index: torch.Tensor,
        output_timestamps: torch.Tensor,
        output_task_index: torch.Tensor | None = None,
        **_: object,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Outputs at the queried times; see :meth:`forward`."""
        if isinstance(self.readout, PrototypeReadout):
            assert output_task_index is not None, "tasks by name need output_task_index"
            return self.readout(self.latent_dropout(latents), session_index, output_task_index)
        queries = self.session_emb(session_index)[:, None].expand(-1, output_timestamps.shape[1], -1)
        if isinstance(self.readout, MultitaskReadout):
            assert output_task_index is not None, "several tasks need output_task_index"
            queries = queries + self.readout.embed(output_task_index)
        queries = queries + self.dec_atn(queries, latents, self.rotary_emb(output_timestamps), rotary)
        queries = queries + self.dec_ffn(queries)
        if isinstance(self.readout, MultitaskReadout):
            return self.readout(queries, output_task_index)
        return self.readout(queries)

    def tokenize(self, data: Data) -> ModelInputs:
        """Turn a window into model inputs; the last of the transforms, as ``POYO.tokenize``.

        Raises:
            RecordingError: If the window has no sample, or a neuron or session that is not in the
                vocabulary.
        """
        patches = patches_of(data, self.patch_size)
        return {
            # Tensors: collate would make them of arrays at five times the cost.
            "input_values": pad2d(torch.from_numpy(patches.values)),
            "input_unit_index": pad(torch.from_numpy(look_up(self.unit_emb, unit_ids(data, TRACES).tolist(), data))),
            "input_timestamps": pad(torch.from_numpy(patches.centre)),
            "input_mask": pad2d(torch.from_numpy(np.ones(patches.values.shape[:2], dtype=bool))),
            "session_index": look_up(self.session_emb, [str(data.session.id)], data)[0],
        }

    def _latent_grid(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        index, timestamps = create_linspace_latent_tokens(
            0.0, self.sequence_length, step=self.latent_step, num_latents_per_step=self.num_latents_per_step
        )
        return torch.from_numpy(index).to(device), torch.from_numpy(timestamps).float().to(device)


def _check_arguments(given: ReadOnlyValues) -> None:
    for name, known in {"encoder": ("read_in", "attention"), "readout": ("prototypes", "linear")}.items():
        if given[name] not in known:
            raise RecipeError(f"model.{name} must be {' or '.join(map(repr, known))}, not {given[name]!r}")
    for name in ("sequence_length", "latent_step", "num_latents_per_step", "dim", "depth", "patch_size"):
        if not given[name] > 0:
            raise RecipeError(f"{name} must be greater than 0, not {given[name]}")
    length = given["sequence_length"]
    if length >= 100:
        raise RecipeError(
            f"sequence_length is in seconds, and {length:g} s is too long; if it is in milliseconds, give "
            f"{length / 1000:g}"
        )
