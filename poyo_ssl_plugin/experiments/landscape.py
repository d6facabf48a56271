"""The landscape of the loss around a finished run, in the plane in which the run moved most.

The plane is that of the first two principal directions of the weights along the training (Li et al. 2018,
section 7), through the last of them. A run keeps its weights with ``trainer.trajectory_every_n_steps``.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from poyo_ssl_plugin.errors import CheckpointError
from poyo_ssl_plugin.experiments import figures
from poyo_ssl_plugin.experiments.information import _answers
from poyo_ssl_plugin.files import write_json


@dataclass(frozen=True)
class Landscape:
    """A section of a loss.

    Attributes:
        first: Coordinates along the first direction, (A,).
        second: Coordinates along the second direction, (B,).
        loss: The loss, (A, B).
        path: Where the training went, (K, 2), its end at the origin.
        explained: Share of the training's movement that each direction holds, (2,).
        roughness: Share of the variance of the section that the best quadratic surface leaves, 0 for a bowl.
        not_convex: Share of second differences along rows and columns that are negative, 0 for a bowl.
    """

    first: np.ndarray
    second: np.ndarray
    loss: np.ndarray
    path: np.ndarray
    explained: np.ndarray
    roughness: float
    not_convex: float

    def summary(self) -> dict[str, Any]:
        """Everything in plain values."""
        arrays = {name: getattr(self, name).tolist() for name in ("first", "second", "loss", "path", "explained")}
        return {"format": 1, "roughness": self.roughness, "not_convex": self.not_convex, **arrays}


def principal_directions(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal directions of a trajectory about its end.

    Args:
        points: Weights along the way, (K, P), the last ones last; K of at least 3.

    Returns:
        Orthonormal directions (2, P) and the share of the squared distance to the end that each holds (2,).

    Raises:
        CheckpointError: If there are too few points, or they do not move in two directions.

    Example:
        >>> points = np.array([[4.0, 0.0, 1.0], [3.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
        >>> directions, explained = principal_directions(points)
        >>> directions.shape, round(float(explained.sum()), 6)
        ((2, 3), 1.0)
    """
    if len(points) < 3:
        raise CheckpointError(
            f"a trajectory of {len(points)} weights is too short: train with trainer.trajectory_every_n_steps=N"
        )
    moved = points[:-1] - points[-1]
    # The few rows make a small matrix of products; its eigenvectors give those of the large one.
    values, vectors = np.linalg.eigh(moved @ moved.T)
    values, vectors = values[::-1][:2], vectors[:, ::-1][:, :2]
    if values[1] <= 1e-12 * max(values[0], 1e-300):
        raise CheckpointError("the weights moved along one line only (or not at all): there is no plane to look at")
    directions = (moved.T @ vectors / np.sqrt(values)).T
    return directions, values / np.square(moved).sum()


def section(
    loss: Callable[[np.ndarray], float],
    centre: np.ndarray,
    directions: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> np.ndarray:
    """The loss at ``centre + a directions[0] + b directions[1]`` for all a and b, (A, B)."""
    return np.array([[loss(centre + a * directions[0] + b * directions[1]) for b in second] for a in first])


def roughness(first: np.ndarray, second: np.ndarray, loss: np.ndarray) -> float:
    """Share of the variance of a section that the best quadratic surface does not explain.

    Example:
        >>> a = np.linspace(-1, 1, 9)
        >>> bowl = a[:, None] ** 2 + 3 * a[None] ** 2 + a[:, None] * a[None]
        >>> round(roughness(a, a, bowl), 9), roughness(a, a, bowl + 0.3 * np.cos(9 * a)) > 0.01
        (0.0, True)
    """
    a, b = (grid.ravel() for grid in np.meshgrid(first, second, indexing="ij"))
    a, b = a / max(np.abs(a).max(), 1e-300), b / max(np.abs(b).max(), 1e-300)
    terms = np.stack([np.ones_like(a), a, b, a * a, a * b, b * b], axis=1)
    value = loss.ravel()
    fitted = terms @ np.linalg.lstsq(terms, value, rcond=None)[0]
    return float(np.var(value - fitted) / max(float(np.var(value)), 1e-300))


def not_convex(loss: np.ndarray) -> float:
    """Share of second differences, along both axes, that are negative beyond rounding."""
    differences = np.concatenate([np.diff(loss, 2, axis=axis).ravel() for axis in (0, 1)])
    return float((differences < -1e-9 * max(float(np.ptp(loss)), 1e-300)).mean())


def landscape_of_run(
    run_dir: str | Path, *, n_points: int = 11, n_windows: int = 128, margin: float = 0.3, inputs: Any = None
) -> Landscape:
    """The landscape of the training loss around a finished fine-tuning run.

    The loss is the mean cross-entropy of the same training windows everywhere, without dropout.

    Args:
        run_dir: Folder of the run, of ``poyo-ssl finetune`` (one seed) or of a comparison.
        n_points: Points along each direction.
        n_windows: Training windows.
        margin: How far to look beyond where the training went, relative to how far that is.
        inputs: What the run read, where it was neither.

    Raises:
        CheckpointError: If the folder holds no fine-tuning run or its trajectory was not kept.
    """
    from poyo_ssl_plugin.training import model_state, open_finetuned, read_checkpoint

    run_dir = Path(run_dir)
    last = run_dir / "checkpoints" / "last.ckpt"
    opened = open_finetuned(last, inputs=inputs or _inputs_of(run_dir))
    module = opened.module.eval()
    names = [name for name, _ in module.model.named_parameters()]
    states = [model_state(read_checkpoint(path)) for path in [*trajectory(run_dir), last]]
    points = np.stack([_flat(state, names) for state in states])
    if np.array_equal(points[-1], points[-2]):
        points = points[:-1]
    directions, explained = principal_directions(points)
    path = (points - points[-1]) @ directions.T
    first, second = (_reach(path[:, i], n_points, margin) for i in range(2))
    batches = _batches(opened.data.train_dataloader(), n_windows)
    loss = section(lambda at: _loss(module, names, at, batches), points[-1], directions, first, second)
    return Landscape(first, second, loss, path, explained, roughness(first, second, loss), not_convex(loss))


def write_landscape(landscape: Landscape, path: str | Path) -> list[Path]:
    """Write a JSON file and, beside it, a figure; returns both."""
    path = Path(path)
    write_json(path, landscape.summary())
    return [path, figures.landscape_map(landscape, path.with_suffix(".png"))]


def trajectory(run_dir: Path) -> list[Path]:
    """Checkpoints along the training, in order."""
    found = {path: re.fullmatch(r"step=(\d+)\.ckpt", path.name) for path in (run_dir / "trajectory").glob("*.ckpt")}
    return [path for path, match in sorted(found.items(), key=lambda item: int(item[1][1]) if item[1] else 0) if match]


def _inputs_of(run_dir: Path) -> Any:
    """What a run of a comparison read: its table was never written to a file."""
    from poyo_ssl_plugin.experiments.compare import finetuning_of

    try:
        job = json.loads((run_dir / "job.json").read_text(encoding="utf-8"))["job"]
    except (OSError, ValueError, KeyError):
        return None
    return finetuning_of(job)[1] if "init_from" in job else None


def _flat(state: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    return np.concatenate([state[name].detach().double().numpy().ravel() for name in names])


def _reach(path: np.ndarray, n_points: int, margin: float) -> np.ndarray:
    low, high = float(path.min()), float(path.max())
    room = margin * max(high - low, 1e-12)
    return np.linspace(low - room, high + room, n_points)


def _batches(loader: Any, n_windows: int) -> list[Any]:
    """The same windows for all points; their random parts (dropped neurons) are drawn once."""
    kept: list[Any] = []
    for batch in itertools.islice(loader, n_windows):
        kept.append(batch)
        if sum(len(b["target"]) for b in kept) >= n_windows:
            break
    return kept


@torch.no_grad()
def _loss(module: Any, names: Sequence[str], at: np.ndarray, batches: Sequence[Any]) -> float:
    parameters = dict(module.model.named_parameters())
    first = 0
    for name in names:
        size = parameters[name].numel()
        values = torch.from_numpy(at[first : first + size]).reshape(parameters[name].shape)
        parameters[name].copy_(values)
        first += size
    losses = [F.cross_entropy(*_answers(module, batch)) * len(batch["target"]) for batch in batches]
    return float(sum(losses)) / sum(len(batch["target"]) for batch in batches)
