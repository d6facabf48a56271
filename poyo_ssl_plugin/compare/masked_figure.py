"""The figure of masked activity: what was hidden, what the model predicts of it, and what is true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from poyo_ssl_plugin.compare.figures import GREY, PREDICTABLE, save, style
from poyo_ssl_plugin.models import CalciumPOYO, model_inputs, run_without_dropout
from poyo_ssl_plugin.objectives import MaskedActivity
from poyo_ssl_plugin.objectives.activity_masks import real_patches
from poyo_ssl_plugin.plain import ReadOnlyValues

__all__ = ["draw_masked_activity"]


@torch.no_grad()
def draw_masked_activity(
    objective: MaskedActivity,
    model: CalciumPOYO,
    inputs: ReadOnlyValues,
    path: str | Path,
    *,
    window: int = 0,
    generator: torch.Generator | None = None,
) -> Path:
    """Draw one window: the activity with its hidden part, what the model predicts of that part, and what is true.

    Below are the traces of three neurons: the one whose hidden part is predicted best, the median one and the worst.

    Args:
        objective: The objective, trained.
        model: The model that was trained with it.
        inputs: A batch of the model's inputs, as ``collate`` gives it.
        path: Where to write the PNG; the SVG goes beside it.
        window: Which window of the batch, in :math:`[0, B)`.
        generator: Source of randomness of the mask.

    Returns:
        The path of the PNG.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1, patch_size=10)
        >>> model.set_vocabs(unit_ids=["a", "b"], session_ids=["s"])
        >>> inputs = dict(
        ...     input_values=torch.randn(4, 2, 3, 10), input_unit_index=torch.tensor([[1, 2]] * 4),
        ...     input_timestamps=torch.arange(3).repeat(4, 1) / 3, input_mask=None,
        ... )
        >>> objective = MaskedActivity(dim=16, patch_size=10, dim_head=32)
        >>> draw_masked_activity(objective, model, inputs, tempfile.mkdtemp() + "/masked.png").name
        'masked.png'
    """
    inputs = model_inputs(inputs)
    values, real = inputs["input_values"], real_patches(inputs)
    hidden = objective.mask(real.cpu(), objective.ratio, generator).to(real.device)
    predictions = objective.predict(model, inputs, run_without_dropout(model, {**inputs, "input_mask": real & ~hidden}))
    kept = real[window].any(dim=1)
    masks = hidden[..., None].expand_as(values)
    true, predicted, masked = (_rows(tensor[window][kept]) for tensor in (values, predictions, masks))
    centre = inputs["input_timestamps"][window].cpu().numpy()
    step = float(centre[1] - centre[0]) if len(centre) > 1 else 1.0
    times = centre[0] - step / 2 + (np.arange(true.shape[1]) + 0.5) * step / values.shape[-1]
    with style(**{"axes.grid": False}):
        figure = Figure(figsize=(9, 5.6))
        grid = figure.add_gridspec(2, 3, height_ratios=[1.5, 1.0])
        panels = [figure.add_subplot(grid[0, i]) for i in range(3)]
        _heatmaps(panels, times, np.where(masked, np.nan, true), np.where(masked, predicted, np.nan), true)
        for i, (word, row) in enumerate(_three(true, predicted, masked)):
            axes = figure.add_subplot(grid[1, i])
            _traces(axes, times, true[row], predicted[row], masked[row])
            axes.set_title(f"predicted {word}: neuron {row}")
            if i == 0:
                axes.set_ylabel("activity (sd)")
                figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.suptitle(f"the model predicts {_fraction(true, predicted, masked):.0%} of the power of what was hidden")
        return save(figure, path)


def _rows(window: torch.Tensor) -> np.ndarray:
    """A window's patches side by side, a row for each neuron."""
    return window.cpu().numpy().reshape(len(window), -1)


def _fraction(true: np.ndarray, predicted: np.ndarray, masked: np.ndarray) -> float:
    """Fraction of the hidden power that is predicted: 0 for predicting nothing, 1 for all."""
    power = float((true[masked] ** 2).sum())
    return 1 - float(((true - predicted)[masked] ** 2).sum()) / max(power, 1e-8)


def _three(true: np.ndarray, predicted: np.ndarray, masked: np.ndarray) -> list[tuple[str, int]]:
    """Neurons with something hidden: the one predicted best, the median and the worst."""
    rows = [row for row in range(len(true)) if masked[row].any()]
    order = sorted(rows, key=lambda row: _fraction(true[row], predicted[row], masked[row]), reverse=True)
    return [("best", order[0]), ("at the median", order[len(order) // 2]), ("worst", order[-1])] if order else []


def _heatmaps(panels: list[Axes], times: np.ndarray, left: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> None:
    titles = ("what is left", "what the model predicts of the rest", "what is true")
    low, high = np.percentile(true, [2, 99])
    for axes, title, image in zip(panels, titles, (left, predicted, true), strict=True):
        axes.set_facecolor("#D9DCE1")
        drawn = axes.imshow(
            image, aspect="auto", interpolation="nearest", cmap="cividis", vmin=low, vmax=high,
            extent=(times[0], times[-1], len(image), 0),
        )  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel("time (s)")
    panels[0].set_ylabel("neuron")
    panels[0].figure.colorbar(drawn, ax=panels, label="activity (sd)", fraction=0.05)


def _traces(axes: Axes, times: np.ndarray, true: np.ndarray, predicted: np.ndarray, masked: np.ndarray) -> None:
    axes.fill_between(times, 0, 1, where=masked, transform=axes.get_xaxis_transform(), color=GREY, alpha=0.25, lw=0,
                      label="hidden")  # fmt: skip
    axes.plot(times, true, color="black", lw=0.9, label="true")
    axes.plot(times, np.where(masked, predicted, np.nan), color=PREDICTABLE, lw=1.8, label="predicted")
    axes.set_xlabel("time (s)")
