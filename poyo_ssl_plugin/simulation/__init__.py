"""Simulated recordings: the generative model, its calibration to real ones, and a decoder that knows it."""

from poyo_ssl_plugin.simulation.neurons import POPULATIONS, Neurons, Population
from poyo_ssl_plugin.simulation.oracle import oracle_accuracy
from poyo_ssl_plugin.simulation.stimuli import MOVIE_FRAMES, Schedule, make_movie
from poyo_ssl_plugin.simulation.write import CRE_LINES, FRAMES_FILE, make_recording, simulate

__all__ = [
    "CRE_LINES",
    "FRAMES_FILE",
    "MOVIE_FRAMES",
    "POPULATIONS",
    "Neurons",
    "Population",
    "Schedule",
    "make_movie",
    "make_recording",
    "oracle_accuracy",
    "simulate",
]
