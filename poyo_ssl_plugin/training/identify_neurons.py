"""Label-free identification of new neurons, before any label is used."""

from __future__ import annotations

import logging

from torch import nn

from poyo_ssl_plugin.objectives import identify_units
from poyo_ssl_plugin.training.data import FinetuningData, PretrainingData
from poyo_ssl_plugin.training.inputs import Inputs
from poyo_ssl_plugin.training.recipe import FinetuneRecipe

logger = logging.getLogger(__name__)


def identify(model: nn.Module, recipe: FinetuneRecipe, inputs: Inputs, data: FinetuningData, *, seed: int) -> bool:
    """:func:`~poyo_ssl_plugin.objectives.identify_units` as a recipe asks for it; the model is changed in place.

    Args:
        model: A POYO-family model, its vocabularies initialised.
        recipe: What is asked for.
        inputs: What it reads.
        data: The windows that are decoded.
        seed: Seed of the unlabelled windows.

    Returns:
        Whether neurons were identified.
    """
    options = recipe.identify
    if options.method == "none":
        return False
    windows = unlabelled_data(recipe, inputs, data, model, batch_size=options.batch_size, seed=seed)
    loss = identify_units(model, windows.train_dataloader(), steps=options.steps, lr=options.lr)
    logger.info("identified %d neurons on unlabelled training time: decorrelation %.2f", len(windows.unit_ids), loss)
    return True


def unlabelled_data(
    recipe: FinetuneRecipe, inputs: Inputs, data: FinetuningData, model: nn.Module, *, batch_size: int, seed: int = 0
) -> PretrainingData:
    """Unlabelled windows of the training time of the neurons that are decoded, as a model reads them."""
    options = {**recipe.data.of_windows(), "batch_size": batch_size, "unit_dropout": None}
    fed = {part: {name: times[name] for name in data.recordings} for part, times in inputs.split.items()}
    chosen = inputs.dataset.windows(data.recordings)
    windows = PretrainingData(chosen, inputs.table, data.diet, fed, task=None, seed=seed, **options)
    windows.attach(model)
    return windows
