"""Has the test been seen? Neurons and times that pretraining was trained on, against those tested."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import read_checkpoint
from poyo_ssl_plugin.recordings import intersect_intervals
from poyo_ssl_plugin.training.data import DietData

logger = logging.getLogger(__name__)


def check_leaks(checkpoint: str | Path, data: DietData, *, allow: bool) -> dict[str, Any]:
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
    units, seconds = 0, 0.0
    for name in data.recordings:
        units += len(set(data.diet.units(name)) & set(seen["units"].get(name, [])))
        both = intersect_intervals(data.split["test"][name], np.asarray(seen["intervals"].get(name, [])).reshape(-1, 2))
        seconds += float((both[:, 1] - both[:, 0]).sum())
    found = {"known": True, "units": units, "test_seconds": round(seconds, 3)}
    if units or seconds > 1.0:
        message = (
            f"{checkpoint} was trained on {units} of the neurons to be fine-tuned and on {seconds:.0f} s of the test "
            "time"
        )
        if not allow:
            raise RecipeError(f"{message}; choose another diet or split, or pass allow_leak=true to accept it")
        logger.warning("%s (allowed)", message)
    return found
