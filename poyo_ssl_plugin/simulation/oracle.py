"""A decoder that knows how the recording was made: how much there is to gain.

It draws as many fresh trials as it likes from the generative model, with the true tuning, loadings and
noise of the recorded neurons, and so knows mean and covariance of the fluorescence in a window for every
condition. With these it decodes the recorded trials by a Gaussian discriminant. No recorded trial is used
for training.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from poyo_ssl_plugin.errors import PoyoSSLError
from poyo_ssl_plugin.simulation.neurons import Neurons, draw_states, grating_presentations, movie_presentations
from poyo_ssl_plugin.simulation.stimuli import (
    DIRECTIONS,
    GRATING_PERIOD,
    MOVIE_SECONDS,
    SAMPLING_RATE,
    TEMPORAL_FREQUENCIES,
)

WINDOW_SECONDS, N_BINS = 2.0, 6
TASKS = ("drifting_gratings", "natural_movie")

DECONV = True
ROOT = True


def features(traces, neurons, centre):
    x = traces.astype(np.float64)
    if DECONV:
        keep = np.exp(-1 / (SAMPLING_RATE * neurons.decay))
        x = np.vstack([np.zeros((1, x.shape[1])), x[1:] - keep * x[:-1]]) / neurons.amplitude
    length = int(WINDOW_SECONDS * SAMPLING_RATE)
    total = np.cumsum(np.vstack([np.zeros((1, x.shape[1])), x]), axis=0)
    first = np.round((centre - WINDOW_SECONDS / 2) * SAMPLING_RATE).astype(int)
    edges = np.clip(first[:, None] + np.arange(N_BINS + 1) * (length // N_BINS), 0, len(x))
    out = np.diff(total[edges], axis=1)  # (R, bins, N)
    if ROOT:
        out = np.sign(out) * np.sqrt(np.abs(out)+.25) if ROOT == 1 else np.log(np.maximum(out, 0) + ROOT)
    return out.reshape(len(centre), -1)


def draw(neurons, task, n, drive, rng):
    if task == "natural_movie":
        start = MOVIE_SECONDS * np.arange(n) + 3
        rows = int((start[-1] + MOVIE_SECONDS + 3) * SAMPLING_RATE)
        tr = neurons.respond(draw_states(rows, rng), movie_presentations(start, drive), rng)
        secs = int(MOVIE_SECONDS)
        return features(tr, neurons, (start[:, None] + np.arange(secs) + 0.5).ravel()), np.tile(np.arange(secs), n)
    nc = len(DIRECTIONS) * len(TEMPORAL_FREQUENCIES)
    c = np.concatenate([rng.permutation(nc) for _ in range(n)])
    start = GRATING_PERIOD * np.arange(len(c)) + 3
    rows = int((start[-1] + 6) * SAMPLING_RATE)
    tr = neurons.respond(draw_states(rows, rng), grating_presentations(start, drive.reshape(nc, -1)[c]), rng)
    return features(tr, neurons, start + 1), c


def oracle_accuracy(data, task, *, units=None, n=100, seed=0, mask=None):
    sim = data.simulation
    neurons = Neurons(**{f.name: np.asarray(getattr(sim, f.name)) for f in fields(Neurons)})
    keep = np.arange(len(neurons.decay)) if units is None else units
    neurons = neurons.select(keep)
    drive = np.asarray(sim.movie_drive)[keep].T.astype(float) if task == "natural_movie" else neurons.grating_drive()
    rng = np.random.default_rng(seed)
    x, cond = draw(neurons, task, n, drive, rng)
    if task == "natural_movie":
        m = data.natural_movie_one
        sel = m.frame % 30 == 0
        centre, label, cls = m.start[sel] + 0.5, m.frame[sel] // 30, np.arange(30)
    else:
        g = data.drifting_gratings
        centre, label = g.start + 1, g.orientation_id
        cls = np.arange(40) // 5
    test = features(np.asarray(data.calcium_traces.df_over_f)[:, keep], neurons, centre)
    K = len(cls)
    mean = np.stack([x[cond == k].mean(0) for k in range(K)])
    res = x - mean[cond]
    cov = res.T @ res / (len(res) - K)
    cov += 1e-3 * np.trace(cov) / len(cov) * np.eye(len(cov))
    L = np.linalg.cholesky(cov)
    w = np.linalg.solve(L, test.T).T
    mw = np.linalg.solve(L, mean.T).T
    ll = w @ mw.T - (mw**2).sum(1) / 2
    p = np.exp(ll - ll.max(1, keepdims=True))
    post = np.stack([p[:, cls == k].sum(1) for k in range(cls.max() + 1)], 1)
    return (post.argmax(1) == label).mean()
