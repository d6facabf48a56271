"""Label-free identification of new neurons, before any label is used."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from poyo_ssl_plugin.objectives import identify_units
from poyo_ssl_plugin.training.data import FinetuningData, PretrainingData
from poyo_ssl_plugin.training.recipe import Inputs, data_options

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identification:
    """How new neurons are identified before any label is used.

    Attributes:
        method: ``"none"``, or ``"unlabelled"``: fit the embeddings of units to unlabelled training time.
        steps: Steps of Adam, along a cosine.
        batch_size: Windows per step.
        lr: Learning rate at first.
    """

    method: str = "none"
    steps: int = 300
    batch_size: int = 128
    lr: float = 0.02


def identify(model: Any, config: DictConfig, inputs: Inputs, data: FinetuningData, *, seed: int) -> bool:
    """:func:`~poyo_ssl_plugin.objectives.identify_units` as a recipe asks for it; the model is changed in place.

    Args:
        model: A POYO-family model, its vocabularies initialised.
        config: The recipe.
        inputs: What it reads.
        data: The windows that are decoded.
        seed: Seed of the unlabelled windows.

    Returns:
        Whether neurons were identified.
    """
    options = Identification(**config.identify)
    if options.method == "none":
        return False
    windows = unlabelled_data(config, inputs, data, model, batch_size=options.batch_size, seed=seed)
    loss = identify_units(model, windows.train_dataloader(), steps=options.steps, lr=options.lr)
    logger.info("identified %d neurons on unlabelled training time: decorrelation %.2f", len(windows.unit_ids), loss)
    return True


def unlabelled_data(
    config: DictConfig, inputs: Inputs, data: FinetuningData, model: Any, *, batch_size: int, seed: int = 0
) -> PretrainingData:
    """Unlabelled windows of the training time of the neurons that are decoded, as a model reads them."""
    options = {**data_options(config), "batch_size": batch_size, "unit_dropout": None}
    fed = {part: {name: times[name] for name in data.recordings} for part, times in inputs.split.items()}
    chosen = inputs.dataset.windows(data.recordings)
    windows = PretrainingData(chosen, inputs.table, data.diet, fed, task=None, seed=seed, **options)
    windows.attach(model)
    return windows
