"""The read-in: from the traces of a population to latents, linear in neurons and in time."""

from __future__ import annotations

import torch
from torch import nn

from poyo_ssl_plugin.compat import InfiniteVocabEmbedding


class ReadIn(nn.Module):
    r"""Latents as weighted sums over neurons and times, without a softmax in between.

    With :math:`x_{np}` the samples of neuron :math:`n` in patch :math:`p`, :math:`e_n` the neuron's
    embedding and :math:`N` the number of neurons in the window,

    .. math:: z_t = \sum_p F_{tp}\, \frac{1}{\sqrt N} \sum_n M e_n \, (w \cdot x_{np}) .

    :math:`w` (samples of a patch), :math:`F` (time) and :math:`M` (width) are shared by all neurons and
    recordings. :math:`w` begins as the mean, :math:`F` as the identity and :math:`M` orthogonal. With
    :class:`UnitEmbedding`, whose vectors begin orthogonal too, the latents of a new model then hold the
    population's activity undistorted. Attention over all tokens, in contrast, begins as nearly the same
    average for every latent (``docs/model.md``).

    :math:`z_t` is cut into ``n_slots`` latents of width ``dim``. A window with another number of patches
    than steps (another sampling rate) is first interpolated to the steps.

    Args:
        n_steps: Latent time steps of a window, :math:`T`.
        patch_size: Samples per patch.
        unit_dim: Width of the unit embeddings.
        n_slots: Latents per time step, :math:`K`.
        dim: Width of a latent, :math:`D`.

    Example:
        >>> read_in = ReadIn(n_steps=6, patch_size=5, unit_dim=8, n_slots=2, dim=4)
        >>> tuple(read_in(torch.randn(3, 20, 6, 5), torch.randn(3, 20, 8)).shape)
        (3, 12, 4)
    """

    def __init__(self, *, n_steps: int, patch_size: int, unit_dim: int, n_slots: int, dim: int) -> None:
        super().__init__()
        self.n_slots, self.dim = n_slots, dim
        self.patch = nn.Parameter(torch.full((patch_size,), 1 / patch_size))
        self.temporal = nn.Parameter(torch.eye(n_steps))
        self.spatial = nn.Linear(unit_dim, n_slots * dim, bias=False)
        nn.init.orthogonal_(self.spatial.weight)

    def forward(
        self,
        values: torch.Tensor,
        units: torch.Tensor,
        mask: torch.Tensor | None = None,
        n_patches: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Latents of windows.

        Args:
            values: Patches, :math:`(B, N, P, S)`.
            units: Unit embeddings, :math:`(B, N, U)`, or :math:`(N, U)` if all windows have the same neurons.
            mask: Which patches are real, bool :math:`(B, N, P)`; ``None`` if all are.
            n_patches: How many patches each window has before padding, int64 :math:`(B,)`; ``None`` if all of them.

        Returns:
            Shape :math:`(B, T K, D)`, steps in the order of time.
        """
        activity = values @ self.patch
        if mask is None:
            n_units = torch.full((len(values), 1, 1), float(values.shape[1]), device=values.device)
        else:
            activity = activity * mask
            n_units = mask.any(dim=2).sum(dim=1).clamp_min(1).view(-1, 1, 1)
        if n_patches is None:
            n_patches = torch.full((len(values),), activity.shape[2], device=values.device)
        to_steps = _interpolation(n_patches, activity.shape[2], len(self.temporal)).to(activity)
        filtered = activity @ (self.temporal @ to_steps).mT * n_units.rsqrt()
        weights = self.spatial(units) if units.ndim == 2 else units
        latents = filtered.transpose(1, 2) @ weights
        if units.ndim == 3:
            # Cheaper in this order: there are more neurons than steps.
            latents = self.spatial(latents)
        return latents.unflatten(2, (self.n_slots, self.dim)).flatten(1, 2)


def filter_for(temporal: torch.Tensor, n_steps: int) -> torch.Tensor:
    """A temporal filter for windows of another length: its middle, or itself in the middle of an identity.

    Example:
        >>> filter_for(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]), 1).tolist()
        [[5.0]]
    """
    extra = n_steps - len(temporal)
    if extra <= 0:
        first = -extra // 2
        return temporal[first : first + n_steps, first : first + n_steps]
    whole, first = torch.eye(n_steps).to(temporal), extra // 2
    whole[first : first + len(temporal), first : first + len(temporal)] = temporal
    return whole


def _interpolation(n_patches: torch.Tensor, n_columns: int, n_steps: int) -> torch.Tensor:
    """Weights (B, T, P) that interpolate the first ``n_patches`` (B,) columns of each window linearly to steps."""
    step = torch.arange(n_steps, device=n_patches.device) + 0.5
    last = (n_patches - 1)[:, None]
    position = torch.minimum((step * n_patches[:, None] / n_steps - 0.5).clamp_min(0), last)
    column = torch.arange(n_columns, device=n_patches.device)
    return (1 - (position[:, :, None] - column).abs()).clamp_min(0)


class UnitEmbedding(InfiniteVocabEmbedding):
    """A vocabulary of neurons whose new vectors are orthogonal within each recording.

    Vectors have a standard deviation of ``init_scale`` per dimension. Up to ``embedding_dim`` neurons of
    a recording are exactly orthogonal; more form a tight frame. The recording is what stands before the
    last ``/`` of a neuron's id.

    Example:
        >>> embedding = UnitEmbedding(8, init_scale=1.0)
        >>> embedding.initialize_vocab(["a/0", "a/1", "b/0"])
        >>> round(abs(float(embedding.weight[1] @ embedding.weight[2])), 5)
        0.0
    """

    def reset_parameters(self) -> None:
        """Draw all vectors anew; the vector of padding is zero."""
        super().reset_parameters()
        if self.is_lazy() or self.vocab is None:
            return
        with torch.no_grad():
            words = [word for word in self.vocab if word != "NA"]
            self.weight[[self.vocab[word] for word in words]] = self.draw(words).to(self.weight)

    def draw(self, words: list[str], generator: torch.Generator | None = None) -> torch.Tensor:
        """New vectors for words, :math:`(W, U)`."""
        vectors = torch.empty(len(words), self.embedding_dim)
        recordings: dict[str, list[int]] = {}
        for row, word in enumerate(words):
            recordings.setdefault(str(word).rpartition("/")[0], []).append(row)
        for rows in recordings.values():
            vectors[rows] = _frame(len(rows), self.embedding_dim, generator)
        return vectors * self.init_scale


def _frame(n_rows: int, width: int, generator: torch.Generator | None) -> torch.Tensor:
    """Rows (or, where there are more of them than columns, columns) orthogonal, of variance 1."""
    long, short = max(n_rows, width), min(n_rows, width)
    basis, upper = torch.linalg.qr(torch.randn(long, short, generator=generator))
    basis = basis * upper.diagonal().sign()
    return (basis.T if n_rows < width else basis) * long**0.5
