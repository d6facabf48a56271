"""Which neurons pretraining may see and which are decoded, the same for all arms of a comparison."""

from __future__ import annotations

import numpy as np

from poyo_ssl_plugin.predictability import PredictabilityTable
from poyo_ssl_plugin.training import FinetuneRecipe

DECODED, SET_ASIDE = "decoded", "set_aside"


def withhold(table: PredictabilityTable, rows: np.ndarray, status: str) -> PredictabilityTable:
    """A table in which some neurons have another status than "ok", so that no diet has them."""
    return PredictabilityTable(table.frame.assign(status=np.where(rows, status, table["status"])), table.provenance)


def split_neurons(
    table: PredictabilityTable, recipe: FinetuneRecipe, *, fraction: float, seed: int = 0
) -> tuple[PredictabilityTable, PredictabilityTable]:
    """Keep a random fraction of the neurons that a fine-tuning recipe decodes for decoding alone.

    Args:
        table: The scored neurons.
        recipe: The fine-tuning recipe; its diet names the candidates.
        fraction: The fraction of them to decode, in (0, 1], recording by recording.
        seed: Seed of the draw.

    Returns:
        The table for pretraining, without the decoded neurons, and the table for fine-tuning, in which the
        diet has these alone.
    """
    candidates = recipe.make_diet(table)
    decoded = candidates.subset(fraction, seed=seed).members_of(table)
    return withhold(table, decoded, DECODED), withhold(table, candidates.members_of(table) & ~decoded, SET_ASIDE)
