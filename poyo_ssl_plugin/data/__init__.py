"""Recordings, windows and transforms: what a diet does to the data."""

from poyo_ssl_plugin.data.curriculum import CurriculumSampler
from poyo_ssl_plugin.data.dataset import Recordings
from poyo_ssl_plugin.data.sampler import PredictabilitySampler
from poyo_ssl_plugin.data.simulate import simulate
from poyo_ssl_plugin.data.tasks import TASKS, Task, Trials, TrialSampler, find_targets, find_trials, get_task
from poyo_ssl_plugin.data.transforms import DietUnitDropout, SelectUnits, StandardizeTraces, keep_units
from poyo_ssl_plugin.data.windows import WindowIndex

__all__ = [
    "TASKS",
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
    "get_task",
    "keep_units",
    "simulate",
]
