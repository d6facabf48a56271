"""What held-out windows say of the latents: alive, predictable from a part, and of use for a task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from poyo_ssl_plugin.objectives import ObjectiveOutput, latent_health


class LatentMeter:
    """Collects the processor's latents of held-out windows, up to a bound, and measures them together.

    Args:
        max_windows: How many windows to keep; more would not change the numbers.
    """

    def __init__(self, max_windows: int = 256) -> None:
        self.max_windows = max_windows
        self._latents: list[torch.Tensor] = []

    def update(self, latents: torch.Tensor) -> None:
        """Add the latents (B, L, D) of a batch."""
        room = self.max_windows - sum(map(len, self._latents))
        if room > 0:
            self._latents.append(latents[:room].detach().float().cpu())

    def compute(self) -> dict[str, float]:
        """``latent_std`` and ``effective_rank`` of everything collected; then start anew."""
        if sum(map(len, self._latents)) < 2:
            return {}
        latents, self._latents = torch.cat(self._latents), []
        if not latents.isfinite().all():
            # Nothing to measure; what became of the numbers is the guard's to say.
            return {"latent_std": float("nan"), "effective_rank": float("nan")}
        return {name: float(value) for name, value in latent_health(latents).items()}


class SkillMeter:
    r"""How much better an objective predicts than the best constant.

    ``masked_skill`` is :math:`1 - \sum |\hat y - y| / \sum |c - y|` over everything hidden in the held-out
    windows, with :math:`c` the constant per latent and dimension that is best on these very windows: their
    median. 0 means that the input is not used, 1 is perfect. Constants are chosen on what they are measured
    on, so few windows make the skill look smaller, not larger.
    """

    def __init__(self, max_windows: int = 256) -> None:
        self.max_windows = max_windows
        self._seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def update(self, output: ObjectiveOutput) -> None:
        """Add a batch."""
        if output.predicted is None or output.target is None or output.hidden is None:
            return
        if sum(len(seen[0]) for seen in self._seen) < self.max_windows:
            self._seen.append((output.predicted.cpu(), output.target.cpu(), output.hidden.cpu()))

    def compute(self) -> dict[str, float]:
        """``masked_skill`` of everything collected; then start anew."""
        if sum(len(seen[0]) for seen in self._seen) < 2:
            return {}
        predicted, target, hidden = (torch.cat(parts).float() for parts in zip(*self._seen, strict=True))
        self._seen = []
        constant = target.masked_fill(hidden == 0, float("nan")).nanmedian(dim=0).values.nan_to_num()
        error = ((predicted - target).abs() * hidden).sum()
        return {"masked_skill": float(1 - error / ((constant - target).abs() * hidden).sum().clamp_min(1e-12))}


class ProbeMeter:
    """Whether latents serve a task: each labelled window is told by the class means of the others.

    Windows are compared within their recording, by the cosine of their latents minus the recording's mean.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[torch.Tensor, list[str], torch.Tensor]] = []

    def update(self, latents: torch.Tensor, recordings: Sequence[str], labels: torch.Tensor) -> None:
        """Add labelled windows: latents (B, L, D), recording ids and classes (B,)."""
        if len(labels):
            self._seen.append((latents.detach().float().flatten(1).cpu(), list(recordings), labels.cpu()))

    def compute(self) -> dict[str, float]:
        """``probe_accuracy`` of everything collected; then start anew."""
        if not self._seen:
            return {}
        latents = torch.cat([seen[0] for seen in self._seen])
        recordings = [name for seen in self._seen for name in seen[1]]
        labels = torch.cat([seen[2] for seen in self._seen])
        self._seen = []
        right = total = 0
        for name in sorted(set(recordings)):
            rows = torch.tensor([name == other for other in recordings])
            correct = leave_one_out(latents[rows], labels[rows])
            right, total = right + int(correct.sum()), total + len(correct)
        return {"probe_accuracy": right / total} if total else {}


def leave_one_out(latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Which windows (B, F) are told by the class means of the others; those of a class of one are left out.

    Example:
        >>> latents = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> leave_one_out(latents, torch.tensor([0, 0, 1, 1])).tolist()
        [True, True, True, True]
    """
    classes, index, counts = labels.unique(return_inverse=True, return_counts=True)
    windows = F.normalize(latents - latents.mean(dim=0), dim=1)
    sums = torch.zeros(len(classes), windows.shape[1]).index_add_(0, index, windows)
    scores = windows @ F.normalize(sums, dim=1).T
    own = F.normalize(sums[index] - windows, dim=1)
    scores[torch.arange(len(index)), index] = (windows * own).sum(dim=1)
    return (scores.argmax(dim=1) == index)[counts[index] > 1]
