"""Shuffled labels: the control that must come out at chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from poyo_ssl_plugin.data.tasks import Task
from poyo_ssl_plugin.data.trials import Trials
from poyo_ssl_plugin.recordings import recording_id


class ShuffleLabels:
    """Give every trial the label of another trial of its recording, always the same one.

    Acts on windows with one moment to decode, as :class:`~poyo_ssl_plugin.data.TrialSampler` yields them.

    Args:
        task: The task.
        trials: Recording id to its trials.
        seed: Seed of the permutations.
    """

    def __init__(self, task: Task, trials: Mapping[str, Trials], *, seed: int = 0) -> None:
        self.task = task
        self._trials = {
            name: (of.centre, np.random.default_rng([seed, i]).permutation(of.label))
            for i, (name, of) in enumerate(sorted(trials.items()))
        }

    def __call__(self, data: Any) -> Any:
        """Give a window another target, which :func:`~poyo_ssl_plugin.data.find_targets` then finds."""
        moment = getattr(data, "window_target_time", None)
        if moment is not None and self.task.source in data.keys():
            centre, label = self._trials[recording_id(data)]
            row = int(np.argmin(np.abs(centre - moment)))
            data.window_target_label = label[row : row + 1]
        return data
