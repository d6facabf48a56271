"""Recordings, windows and transforms: what a diet does to the data."""

from poyo_ssl_plugin.data.curriculum import CurriculumSampler
from poyo_ssl_plugin.data.dataset import Recordings
from poyo_ssl_plugin.data.sampler import PredictabilitySampler
from poyo_ssl_plugin.data.spike_counts import CountSpikes
from poyo_ssl_plugin.data.supported import tasks_of
from poyo_ssl_plugin.data.tasks import TASKS, Task, fit_task, get_task
from poyo_ssl_plugin.data.transforms import DietUnitDropout, SelectUnits, StandardizeTraces, keep_units
from poyo_ssl_plugin.data.trial_windows import trial_windows
from poyo_ssl_plugin.data.trials import Trials, TrialSampler, find_targets, find_trials
from poyo_ssl_plugin.data.windows import WindowIndex
from poyo_ssl_plugin.simulation import simulate

__all__ = [
    "TASKS",
    "CountSpikes",
    "CurriculumSampler",
    "DietUnitDropout",
    "PredictabilitySampler",
    "Recordings",
    "SelectUnits",
    "StandardizeTraces",
    "Task",
    "TrialSampler",
    "Trials",
    "WindowIndex",
    "find_targets",
    "find_trials",
    "fit_task",
    "get_task",
    "keep_units",
    "simulate",
    "tasks_of",
    "trial_windows",
]
