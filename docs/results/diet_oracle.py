"""Print what the oracle tells right of the trials that the question 'diet' tests, for each simulation and in the mean.

    python docs/results/diet_oracle.py runs/diet

The folder is that of ``poyo-ssl reproduce diet``. The oracle knows how the recordings were made
(``poyo_ssl_plugin.simulation.oracle``); it gets the same unpredictable neurons of the two decoded animals.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from poyo_ssl_plugin.data import Recordings, find_trials, get_task
from poyo_ssl_plugin.data.splits import recorded_split
from poyo_ssl_plugin.predictability import make_diet, score_dataset
from poyo_ssl_plugin.simulation import oracle_accuracy

WINDOW = 2.0


def told_right(root: Path) -> tuple[float, int]:
    """Number of tested trials that the oracle tells right, and of all of them."""
    dataset = Recordings(root, ["sim_004", "sim_005"])
    split = recorded_split(dataset)
    diet = make_diet(score_dataset(dataset, intervals=split["train"]), "unpredictable")
    right, n = 0.0, 0
    for name in dataset.recording_ids:
        data = dataset.get_recording(name)
        trials = find_trials(data, get_task("drifting_gratings"), None, split["test"][name]).that_fit(WINDOW)
        units = np.flatnonzero(diet.mask(name, np.asarray(data.rois.id).astype(str)))
        accuracy = oracle_accuracy(data, "drifting_gratings", centres=trials.centre, labels=trials.label, units=units)
        right, n = right + accuracy * len(trials), n + len(trials)
    return right, n


if __name__ == "__main__":
    found = []
    for folder in sorted(Path(sys.argv[1]).glob("*/recordings")):
        right, n = told_right(folder)
        found.append(right / n)
        print(f"{folder.parent.name}: {right:.0f} of {n}")
    print(f"mean: {np.mean(found):.3f}")
