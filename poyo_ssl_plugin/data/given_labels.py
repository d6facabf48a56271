"""Labels that are not the recording's: those of a control, or guessed ones."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from poyo_ssl_plugin.compat import Data
from poyo_ssl_plugin.data.tasks import Task
from poyo_ssl_plugin.data.trials import Trials
from poyo_ssl_plugin.recordings import recording_id


class GivenLabels:
    """Give every window the label of the nearest of these trials.

    Acts on windows with one moment to decode, as :class:`~poyo_ssl_plugin.data.TrialSampler` yields them.

    Args:
        task: The task.
        trials: Recording id to its trials, with the labels to give.
    """

    def __init__(self, task: Task, trials: Mapping[str, Trials]) -> None:
        self.task = task
        self._trials = {name: (of.centre, of.label) for name, of in trials.items()}

    def __call__(self, data: Data) -> Data:
        """Give a window another target, which :func:`~poyo_ssl_plugin.data.find_targets` then finds."""
        moment = getattr(data, "window_target_time", None)
        if moment is not None and self.task.source in data.keys():
            centre, label = self._trials[recording_id(data)]
            row = int(np.argmin(np.abs(centre - moment)))
            data.window_target_label = label[row : row + 1]
        return data


def shuffled(trials: Mapping[str, Trials], seed: int = 0) -> dict[str, Trials]:
    """The same trials with each other's labels, by recording: a control that must come out at chance.

    The order follows from the seed and the trials themselves, so data sets with equally many trials do not share one.
    """
    return {name: replace(of, label=_generator(seed, of).permutation(of.label)) for name, of in trials.items()}


def _generator(seed: int, trials: Trials) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(trials.start.tobytes() + trials.label.tobytes())])
