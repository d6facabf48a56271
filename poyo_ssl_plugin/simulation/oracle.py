"""A decoder that knows how a recording was made: how much there is to gain.

It draws as many fresh trials as it likes from the generative model, with the true tuning, loadings and
noise of the recorded neurons, and so knows the mean and the covariance of the fluorescence in a window for
every condition. With these it decodes the recorded trials by a Gaussian discriminant on the logarithm of the
fluorescence, in spikes. No recorded trial is used for training. The true decoder of Bayes, which would
integrate over spike trains, can be better still.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from poyo_ssl_plugin.compat import Data
from poyo_ssl_plugin.errors import PoyoSSLError
from poyo_ssl_plugin.simulation.neurons import Neurons, draw_states, grating_presentations, movie_presentations
from poyo_ssl_plugin.simulation.stimuli import DIRECTIONS, GRATING_PERIOD, MOVIE_SECONDS, SAMPLING_RATE

WINDOW_SECONDS, N_BINS = 2.0, 6
SHRINKAGE = 0.1  # of the covariance of the fresh trials towards its diagonal
OFFSET = 0.3  # spikes, added before the logarithm: about the noise of a bin
TASKS = ("drifting_gratings", "natural_movie")


def oracle_accuracy(
    data: Data,
    task: str,
    *,
    centres: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    units: np.ndarray | None = None,
    n_draws: int = 50,
    seed: int = 0,
) -> float:
    """Share of trials of a simulated recording that a decoder with the true parameters tells right.

    Args:
        data: A recording that :func:`~poyo_ssl_plugin.simulation.simulate` wrote.
        task: ``"drifting_gratings"`` (8 directions) or ``"natural_movie"`` (30 seconds of movie one).
        centres: Middle of each trial to decode in seconds, (R,); by default all of the recording.
        labels: Their classes, (R,).
        units: The neurons to decode from, a mask or indices; by default all.
        n_draws: Fresh trials of each condition.
        seed: Draws the fresh trials.

    Returns:
        Accuracy from windows of 2 s around the middles, in six bins.

    Raises:
        PoyoSSLError: If the task is unknown or the recording holds no true parameters.

    Example:
        >>> from poyo_ssl_plugin.simulation import make_movie, make_recording
        >>> movie = make_movie(0)
        >>> data = make_recording("x", "Pvalb_IRES_Cre", 8, 4.0, movie, np.random.default_rng(0))
        >>> 1 / 8 < oracle_accuracy(data, "drifting_gratings", n_draws=10) <= 1
        True
    """
    if task not in TASKS:
        raise PoyoSSLError(f"the oracle does not know the task {task!r}; it knows {', '.join(TASKS)}")
    if "simulation" not in data.keys():
        raise PoyoSSLError(
            f"recording {data.session.id}: holds no true parameters ('simulation'); simulate it with this version"
        )
    truth = data.simulation
    neurons = Neurons(**{field.name: np.asarray(getattr(truth, field.name)) for field in fields(Neurons)})
    keep = np.arange(len(neurons.baseline)) if units is None else units
    neurons = neurons.select(keep)
    if centres is None or labels is None:
        centres, labels = _all_trials(data, task)
    rng = np.random.default_rng(seed)
    if task == "natural_movie":
        drive = np.asarray(truth.movie_drive, dtype=float)[keep].T
        fresh, condition = _draw_movie(neurons, drive, n_draws, rng)
        class_of = np.arange(int(MOVIE_SECONDS))
    else:
        fresh, condition = _draw_gratings(neurons, n_draws, rng)
        class_of = np.repeat(np.arange(len(DIRECTIONS)), condition.max() // len(DIRECTIONS) + 1)
    recorded = _windows(np.asarray(data.calcium_traces.df_over_f)[:, keep], neurons, centres)
    posterior = _posterior(fresh, condition, recorded)
    classes = np.stack([posterior[:, class_of == k].sum(axis=1) for k in range(class_of.max() + 1)], axis=1)
    return float((classes.argmax(axis=1) == labels).mean())


def _all_trials(data: Data, task: str) -> tuple[np.ndarray, np.ndarray]:
    if task == "drifting_gratings":
        gratings = data.drifting_gratings
        return (np.asarray(gratings.start) + np.asarray(gratings.end)) / 2, np.asarray(gratings.orientation_id)
    movie, second = data.natural_movie_one, int(SAMPLING_RATE)
    first = np.asarray(movie.frame) % second == 0
    return np.asarray(movie.start)[first] + 0.5, np.asarray(movie.frame)[first] // second


def _draw_movie(neurons: Neurons, drive: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Windows (n * 30, F) of every second of ``n`` fresh repeats, and the seconds."""
    start = WINDOW_SECONDS + MOVIE_SECONDS * np.arange(n)
    states = draw_states(round((start[-1] + MOVIE_SECONDS + WINDOW_SECONDS) * SAMPLING_RATE), rng)
    traces = neurons.respond(states, movie_presentations(start, drive), rng)
    seconds = np.arange(int(MOVIE_SECONDS))
    return _windows(traces, neurons, (start[:, None] + seconds + 0.5).reshape(-1)), np.tile(seconds, n)


def _draw_gratings(neurons: Neurons, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Windows (n * 40, F) of ``n`` fresh trials of every direction and temporal frequency, and the conditions."""
    drive = neurons.grating_drive().reshape(-1, len(neurons.baseline))
    condition = np.concatenate([rng.permutation(len(drive)) for _ in range(n)])
    start = WINDOW_SECONDS + GRATING_PERIOD * np.arange(len(condition))
    states = draw_states(round((start[-1] + GRATING_PERIOD) * SAMPLING_RATE), rng)
    traces = neurons.respond(states, grating_presentations(start, drive[condition]), rng)
    return _windows(traces, neurons, start + WINDOW_SECONDS / 2), condition


def _windows(traces: np.ndarray, neurons: Neurons, centre: np.ndarray) -> np.ndarray:
    """Logarithm of the fluorescence, in spikes, in the bins of windows around ``centre`` (R,), (R, bins * N)."""
    width = round(WINDOW_SECONDS * SAMPLING_RATE) // N_BINS
    first = np.round((centre - WINDOW_SECONDS / 2) * SAMPLING_RATE).astype(int)
    rows = np.clip(first[:, None] + np.arange(N_BINS * width), 0, len(traces) - 1)
    spikes = traces[rows].reshape(len(centre), N_BINS, width, -1).mean(axis=2) / neurons.amplitude
    return np.log(np.maximum(spikes, 0) + OFFSET).reshape(len(centre), -1)


def _posterior(fresh: np.ndarray, condition: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Probability of every condition for recorded windows (R, F), by a Gaussian discriminant, (R, C)."""
    mean = np.stack([fresh[condition == k].mean(axis=0) for k in range(condition.max() + 1)])
    noise = np.cov((fresh - mean[condition]).T)
    noise = (1 - SHRINKAGE) * noise + SHRINKAGE * np.diag(np.diag(noise)) + 1e-9 * np.eye(len(noise))
    weights = np.linalg.solve(noise, mean.T)
    evidence = recorded @ weights - (mean.T * weights).sum(axis=0) / 2
    evidence = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    return evidence / evidence.sum(axis=1, keepdims=True)
