"""Class means before the first step, and labels for what has none (self-training)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from poyo_ssl_plugin.models import run_without_dropout
from poyo_ssl_plugin.models.readout import PrototypeReadout
from poyo_ssl_plugin.plain import Batch
from poyo_ssl_plugin.training.data import FinetuningData
from poyo_ssl_plugin.training.recipe import SelfTraining

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WindowLatents:
    """Latents of windows around trials.

    Attributes:
        latents: Of unit length, one vector a window, (B, F).
        session: Their recordings, int64 (B,), in the model's vocabulary.
        label: Their classes, int64 (B,).
        recording_id: The same recordings by name.
        time: Centre of each trial in seconds, float64 (B,).
    """

    latents: torch.Tensor
    session: torch.Tensor
    label: torch.Tensor
    recording_id: list[str]
    time: torch.Tensor


@torch.no_grad()
def window_latents(model: nn.Module, loader: Iterable[Batch]) -> WindowLatents:
    """The processor's latents of all windows of a loader, without dropout; windows that are not finite are left out."""
    parts: list[tuple[torch.Tensor, ...]] = []
    names: list[str] = []
    for batch in loader:
        inputs = batch["inputs"]
        latents = run_without_dropout(model, inputs).processor_latents.flatten(1)
        times = batch["start"] + inputs["output_timestamps"][:, 0]
        finite = latents.isfinite().all(dim=1)
        columns = (F.normalize(latents, dim=1), inputs["session_index"], batch["target"][:, 0], times)
        parts.append(tuple(column[finite] for column in columns))
        names += [name for name, good in zip(batch["recording_id"], finite.tolist(), strict=True) if good]
    latents, session, label, time = (torch.cat(column) for column in zip(*parts, strict=True))
    return WindowLatents(latents, session, label, names, time)


def start_from_class_means(model: nn.Module, data: FinetuningData, task: str, options: SelfTraining) -> int:
    """Set a prototype readout to the class means of the labelled training windows; other readouts stay.

    With self-training, trials of the training split without a label are guessed, their guesses improve the
    means, and the data treats them as labelled from then on.

    Args:
        model: The model, changed in place.
        data: Its data, changed in place by self-training.
        task: Name of the decoded task.
        options: Self-training.

    Returns:
        How many trials were guessed.
    """
    if not isinstance(model.readout, PrototypeReadout):
        return 0
    labelled = window_latents(model, data.labelled_windows())
    model.readout.fit(task, labelled.latents[:, None], labelled.session, labelled.label)
    loader = data.unlabelled_trials() if options.rounds else None
    if loader is None:
        return 0
    unlabelled = window_latents(model, loader)
    n_classes = model.readout.dims_out()[task]
    weights = torch.zeros(len(unlabelled.label), n_classes)
    for session in unlabelled.session.unique().tolist():
        own, known = unlabelled.session == session, labelled.session == session
        weights[own] = guess(
            unlabelled.latents[own], labelled.latents[known], labelled.label[known], n_classes, options
        )
    guessed = weights.argmax(dim=1)
    right = float((guessed == unlabelled.label).float().mean())
    logger.info("self-training: guessed %d unlabelled training trials", len(guessed))
    logger.debug("self-training: %.3f of the guesses are right (used for nothing)", right)
    data.adopt(unlabelled.recording_id, unlabelled.time.double().numpy(), guessed.numpy())
    both = window_latents(model, data.labelled_windows())
    model.readout.fit(task, both.latents[:, None], both.session, both.label)
    return len(guessed)


def guess(
    unlabelled: torch.Tensor, labelled: torch.Tensor, label: torch.Tensor, n_classes: int, options: SelfTraining
) -> torch.Tensor:
    """Class weights (U, C) of unlabelled unit vectors (U, F), from labelled ones (B, F).

    Each round scores by cosine, balances classes (Sinkhorn-Knopp, as Caron et al. 2020), and adds the weighted
    vectors to the class sums.

    Example:
        >>> labelled = torch.eye(2)
        >>> unlabelled = F.normalize(torch.tensor([[1.0, 0.2], [0.1, 1.0]]), dim=1)
        >>> guess(unlabelled, labelled, torch.tensor([0, 1]), 2, SelfTraining(rounds=3)).argmax(dim=1).tolist()
        [0, 1]
    """
    hot = F.one_hot(label, n_classes).to(labelled)
    sums = hot.T @ labelled / hot.sum(dim=0).clamp_min(1)[:, None]
    n_labelled = hot.sum() / n_classes
    known, weights = sums * n_labelled, hot.new_zeros(len(unlabelled), n_classes)
    present = hot.sum(dim=0) > 0
    prototypes = F.normalize(sums, dim=1)
    for _ in range(options.rounds):
        scores = options.scale * unlabelled @ prototypes.T
        weights = scores.masked_fill(~present, -torch.inf).softmax(dim=1)
        for _ in range(20):
            weights = weights / weights.sum(dim=0, keepdim=True).clamp_min(1e-12)
            weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        prototypes = F.normalize(known + weights.T @ unlabelled, dim=1)
    return weights
