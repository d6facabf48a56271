"""What a model has seen: recorded in its checkpoint, and held against the neurons and times of a test."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import adapt, read_checkpoint
from poyo_ssl_plugin.plain import ReadOnlyValues, Values
from poyo_ssl_plugin.predictability import PredictabilityTable
from poyo_ssl_plugin.recordings import intersect_intervals
from poyo_ssl_plugin.training.data import DietData
from poyo_ssl_plugin.training.recipe import Recipe

logger = logging.getLogger(__name__)

# Splits end on imaging frames and stimuli on frames of the screen: this much is no leak.
TOLERANCE = 1.0


def record_of(
    recipe: Recipe, model: nn.Module, data: DietData, times: Mapping[str, np.ndarray], skipped: Mapping[str, str]
) -> Values:
    """What a checkpoint says of itself, in plain values: model arguments, recipe, neurons and times seen.

    Args:
        recipe: The recipe.
        model: The model.
        data: Its windows.
        times: The times of training by recording.
        skipped: Recordings that were left out, with the reason.
    """
    arguments = {key: value for key, value in recipe.model.items() if key != "_target_"}
    return {
        "model": {**arguments, **adapt(model).recorded()},
        "recipe": recipe.content,
        "skipped": dict(skipped),
        "trained_on": {
            "units": {name: data.diet.units(name) for name in data.recordings},
            "intervals": {name: [list(map(float, pair)) for pair in times[name]] for name in data.recordings},
            "subjects": {name: _subject(data, name) for name in data.recordings},
        },
    }


def _subject(data: DietData, name: str) -> str:
    return str(getattr(getattr(data.dataset.get_recording(name), "subject", None), "id", ""))


def leaks_of(recipe: Recipe, table: PredictabilityTable, data: DietData) -> Values:
    """What of the test pretraining and scoring saw, and whether the recipe allows it.

    Raises:
        RecipeError: If it does not.
    """
    before = {} if recipe.init_from is None else check_leaks(recipe.init_from, data, allow=recipe.allow_leak)
    scoring = check_scoring(table, data, allow=recipe.allow_leak)
    return {**before, "scoring": scoring, "allowed": recipe.allow_leak}


def check_leaks(checkpoint: str | Path, data: DietData, *, allow: bool) -> Values:
    """Compare what a checkpoint was trained on with the neurons and test times of a fine-tuning run.

    Args:
        checkpoint: The pretrained checkpoint.
        data: The fine-tuning data.
        allow: Accept a leak; it is recorded all the same.

    Returns:
        ``units``: neurons of the fine-tuning diet that pretraining saw; ``test_seconds``: test time
        that lies in its training intervals, in the same recordings; ``known``: whether the
        checkpoint says what it was trained on at all.

    Raises:
        RecipeError: If there is a leak and it is not allowed.
    """
    seen = read_checkpoint(checkpoint)["hyper_parameters"].get("trained_on")
    if seen is None:
        logger.warning("%s does not say what it was trained on: leaks cannot be excluded", checkpoint)
        return {"known": False, "units": 0, "test_seconds": 0.0}
    units = sum(len(set(data.diet.units(name)) & set(seen["units"].get(name, []))) for name in data.recordings)
    seconds = _test_seconds(seen["intervals"], data)
    found = {"known": True, "units": units, "test_seconds": round(seconds, 3)}
    if units or seconds > TOLERANCE:
        _refuse(
            f"{checkpoint} was trained on {units} of the neurons to be fine-tuned and on {seconds:.0f} s of the test "
            "time; choose another diet or split",
            allow,
        )
    return found


def check_scoring(table: PredictabilityTable, data: DietData, *, allow: bool) -> Values:
    """Refuse a diet whose scores come from the time that is tested.

    Args:
        table: The scored neurons.
        data: The data of the run.
        allow: Accept a leak; it is recorded all the same.

    Returns:
        ``known`` and ``test_seconds`` as :func:`check_leaks`, and ``split``: the split that was scored.

    Raises:
        RecipeError: If there is a leak and it is not allowed.
    """
    scored = table.provenance.get("intervals")
    if scored is None:
        logger.warning("the table does not say which times it was scored on: leaks cannot be excluded")
        return {"known": False, "split": None, "test_seconds": 0.0}
    seconds = _test_seconds(scored, data)
    if seconds > TOLERANCE:
        _refuse(
            f"the neurons were scored on {seconds:.0f} s of the test time; score the training split alone "
            "('poyo-ssl score' does by default)",
            allow,
        )
    return {"known": True, "split": table.provenance.get("split"), "test_seconds": round(seconds, 3)}


def check_test_time(record: ReadOnlyValues, data: DietData, *, allow: bool) -> Values:
    """Refuse to evaluate a model on times that it, or the model it came from, was trained on.

    Args:
        record: What the checkpoint says of itself.
        data: The data to be tested on.
        allow: Accept a leak; it is recorded all the same.

    Returns:
        Seconds of the test time that were ``trained_on`` and ``pretrained_on``.

    Raises:
        RecipeError: If there is a leak and it is not allowed.
    """
    found = {}
    for stage in ("trained_on", "pretrained_on"):
        seconds = _test_seconds((record.get(stage) or {}).get("intervals", {}), data)
        found[stage] = round(seconds, 3)
        if seconds > TOLERANCE:
            _refuse(
                f"the model was {stage.replace('_', ' ')} {seconds:.0f} s of the test time; choose other data", allow
            )
    return found


def _test_seconds(seen: Mapping[str, ArrayLike], data: DietData) -> float:
    """Seconds of the test that lie in times by recording."""
    seconds = 0.0
    for name in data.recordings:
        both = intersect_intervals(data.split["test"][name], np.asarray(seen.get(name, []), float).reshape(-1, 2))
        seconds += float((both[:, 1] - both[:, 0]).sum())
    return seconds


def _refuse(message: str, allow: bool) -> None:
    if not allow:
        raise RecipeError(f"{message}, or pass allow_leak=true to accept it")
    logger.warning("%s (allowed)", message)
