"""What a run reads: recordings, the scored neurons, and how time is split."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from poyo_ssl_plugin.data import Recordings, Task, fit_task
from poyo_ssl_plugin.data.check import usable_recordings
from poyo_ssl_plugin.data.splits import Split, recorded_split
from poyo_ssl_plugin.data.transforms import activity_field
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.predictability import PredictabilityTable, score_dataset
from poyo_ssl_plugin.training.recipe import PretrainRecipe, Recipe

logger = logging.getLogger(__name__)


@dataclass
class Inputs:
    """What a run reads: recordings, the scored neurons, and how time is split.

    A run reads them as its recipe says; an experiment can make them once and hand them to many runs.

    Attributes:
        dataset: The recordings.
        table: Their scored neurons.
        split: Part (``"train"``, ``"valid"``, ``"test"``) to recording id to times in seconds, (R, 2).
        skipped: Recordings that were left out since they are damaged, with the reason.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays, save_recording
        >>> from poyo_ssl_plugin.training import parse_recipe
        >>> traces = np.random.default_rng(0).normal(size=(600, 6))
        >>> folder = save_recording(
        ...     recording_from_arrays(traces, recording="mouse1", sampling_rate=10.0), tempfile.mkdtemp()
        ... ).parent
        >>> config = compose_recipe("pretrain", None, [f"data.root={folder}", "diet=all"])
        >>> inputs = Inputs.from_recipe(parse_recipe(PretrainRecipe, config))
        >>> inputs.dataset.recording_ids, len(inputs.table), list(inputs.split)
        (['mouse1'], 6, ['train', 'valid', 'test'])
    """

    dataset: Recordings
    table: PredictabilityTable
    split: Split
    skipped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Inputs:
        data, table = recipe.data, recipe.diet.get("table")
        dataset = Recordings(data.folder, data.recordings)
        good, damaged = usable_recordings(dataset, on_error=data.on_error, timeout=data.timeout)
        if damaged:
            dataset = Recordings(data.folder, good)
        split = recorded_split(dataset, data.split)
        if table is not None:
            return cls(dataset, PredictabilityTable.load(table), split, damaged)
        if recipe.diet["rule"] != "all":
            raise RecipeError("diet.table is not set: give diet.table=..., the table that 'poyo-ssl score' wrote")
        logger.info("diet=all without a table: measuring all neurons on the training split first")
        activity = data.field or activity_field(dataset.get_recording(dataset.recording_ids[0]))
        scored = score_dataset(dataset, intervals=split["train"], field=activity, bin_width=data.bin_width)
        return cls(dataset, scored, split, damaged)


def auxiliary_task(recipe: PretrainRecipe, inputs: Inputs) -> Task | None:
    """The auxiliary task, its classes known, if it has weight and any recording has its labels."""
    task, dataset = recipe.auxiliary_task(), inputs.dataset
    if task is None:
        return None
    labelled = {
        name: inputs.split["train"][name]
        for name in dataset.recording_ids
        if task.source in (data := dataset.get_recording(name)).keys()
        and set(task.columns) <= set(getattr(data, task.source).keys())
    }
    if not labelled:
        logger.warning("no recording has labels of %s: pretraining without the auxiliary loss", task.name)
        return None
    return fit_task(task, dataset, labelled)
