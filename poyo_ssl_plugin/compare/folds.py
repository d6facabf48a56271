"""Folds of a comparison: a division of time, and the neurons as its training time scores them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from poyo_ssl_plugin.compare.decoded_neurons import split_neurons
from poyo_ssl_plugin.compare.protocol import Comparison, decoded_task
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.data.splits import Split, recorded_split, repeat_fold
from poyo_ssl_plugin.predictability import PredictabilityTable, score_dataset
from poyo_ssl_plugin.training import FinetuneRecipe


@dataclass(frozen=True)
class Fold:
    """One division of time, and the neurons scored on its training time.

    Attributes:
        number: Which fold; ``None`` for the recordings' own split.
        split: Times of training, validation and test.
        table: All scored neurons.
        pretraining: Those that pretraining may choose from.
        decoding: Those that fine-tuning may choose from.
    """

    number: int | None
    split: Split
    table: PredictabilityTable = field(repr=False)
    pretraining: PredictabilityTable = field(repr=False)
    decoding: PredictabilityTable = field(repr=False)


def load_fold(comparison: Comparison, dataset: Recordings, number: int | None, finetune: FinetuneRecipe) -> Fold:
    """Divide time, score the neurons on its training part, and share them out.

    Args:
        comparison: What is compared.
        dataset: Its recordings.
        number: Which fold; ``None`` for the recordings' own split.
        finetune: The recipe of fine-tuning, whose diet says which neurons are decoded.
    """
    if number is None:
        split = recorded_split(dataset)
    else:
        source, contiguous = decoded_task(comparison.task).source, comparison.contiguous_folds
        split = repeat_fold(dataset, source, number, comparison.folds, contiguous=contiguous)
    table = score_dataset(dataset, field=comparison.field, intervals=split["train"])
    if comparison.held_out:
        held_out = np.isin(table["recording_id"], comparison.held_out)
        return Fold(number, split, table, table.select(~held_out), table.select(held_out))
    if comparison.decode_fraction < 1:
        return Fold(number, split, table, *split_neurons(table, finetune, fraction=comparison.decode_fraction))
    return Fold(number, split, table, table, table)
