"""Reading brainsets recordings: their neurons, their splits, their activity. Imports neither torch nor torch_brain."""

from poyo_ssl_plugin.recordings.contents import (
    SPIKES,
    TRACES,
    clone,
    cre_line,
    neuron_groups,
    own_ids,
    recording_errors,
    recording_id,
    refuse_duplicates,
    split_intervals,
    unique_ids,
    unit_ids,
)
from poyo_ssl_plugin.recordings.intervals import intersect_intervals, merge_intervals
from poyo_ssl_plugin.recordings.signals import Piece, Rows, SampleClock, Signal, TraceSignal, open_signal

__all__ = [
    "SPIKES",
    "TRACES",
    "Piece",
    "Rows",
    "SampleClock",
    "Signal",
    "TraceSignal",
    "clone",
    "cre_line",
    "intersect_intervals",
    "merge_intervals",
    "neuron_groups",
    "open_signal",
    "own_ids",
    "recording_errors",
    "recording_id",
    "refuse_duplicates",
    "split_intervals",
    "unique_ids",
    "unit_ids",
]
