"""Shuffled labels: the control that must come out at chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from poyo_ssl_plugin.data.tasks import Task, Trials
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
        """Overwrite the labels of a window, in place."""
        moment = getattr(data, "window_target_time", None)
        if moment is None or self.task.source not in data.keys():
            return data
        centre, label = self._trials[recording_id(data)]
        presentations = getattr(data, self.task.source)
        wrong = int(label[np.argmin(np.abs(centre - moment))]) * self.task.labels_per_class
        # A new array: the window's own may be shared with the whole recording.
        setattr(presentations, self.task.label, np.full(len(presentations.start), wrong))
        return data
