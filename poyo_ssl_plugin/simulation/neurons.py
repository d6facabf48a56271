r"""The generative model: neurons with shared dynamics, their rates and their fluorescence.

Neurons are of two kinds: *dense* (high baseline, broadly tuned, reliable, as inhibitory interneurons
are) and *sparse* (nearly silent, narrowly tuned, unreliable, as many excitatory neurons are). Neuron
:math:`n` fires with

.. math::

    \lambda_n(t) &= \big[b_n + g_n\, \eta_{n,k(t)}\, d_n(t)^{p_n} e^{B_n \cdot f(t)}\big]\,
    e^{A_n \cdot s(t) - |A_n|^2 / 2}, \qquad S_n(t) \sim \mathrm{Poisson}(\lambda_n(t)\, \Delta t),

    F_n(t) &= a_n \sum_{t' \le t} S_n(t')\, e^{-(t - t')/\tau_n} + \sigma_n\, \epsilon_n(t) + 0.3\, \sigma_n\, w_n(t).

The population shares two things of low dimension. The *stimulus-locked factors* :math:`f(t)` are
functions of the stimulus alone, the same in every animal, and raise or lower responses by the
neuron's loadings :math:`B_n`. The *states* :math:`s(t)` know nothing of the stimulus: independent
Ornstein-Uhlenbeck processes of the lifetimes :data:`LIFETIMES`. The loadings :math:`A_n` on the first
half are mostly positive (arousal, which moves all neurons), on the other half of both signs.
Private are the tuning :math:`d_n(t) \in [0, 1]` (von Mises, with a weaker lobe at the opposite
direction, times temporal frequency for gratings; energy of the neuron's own Gabor filter for movies),
the gain :math:`\eta_{n,k}` of presentation :math:`k`, Gamma distributed with mean 1 and shape
:math:`r_n`, spikes, white noise :math:`\epsilon` and slow drift :math:`w` (60 s).

The numbers in :data:`POPULATIONS` are set so that the statistics in
:mod:`poyo_ssl_plugin.simulation.calibration` agree with real recordings. They are not to be changed
to help a method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from poyo_ssl_plugin.simulation.stimuli import (
    DIRECTIONS,
    GRATING_SECONDS,
    SAMPLING_RATE,
    TEMPORAL_FREQUENCIES,
    grating_factors,
    movie_factors,
)

LIFETIMES = (0.5, 2.5, 60.0, 0.5, 2.5, 60.0)  # s; the first three states move all neurons one way
STRENGTHS = (1.8, 0.9, 0.2, 1.8, 0.9, 0.2)  # of the loadings on each state


@dataclass(frozen=True)
class Population:
    """Distribution of the parameters of one kind of neuron; pairs are (median, log-sd) of a log-normal.

    Attributes:
        baseline: :math:`b`, spontaneous rate in Hz.
        grating_rate: :math:`g` for gratings, rate in Hz at full drive.
        movie_rate: :math:`g` for movies.
        arousal: Mean and sd of the loadings :math:`A` on the states that move all neurons one way.
        mixed: Sd of the loadings on the other states.
        factors: Sd of the loadings :math:`B` on the slow and on the fast stimulus-locked factors.
        reliability: :math:`r`, shape of the gain's Gamma distribution.
        concentration: Concentration of the direction tuning.
        exponent: :math:`p`, sharpens the drive.
        amplitude: :math:`a`, dF/F per spike.
        decay: :math:`\\tau`, in seconds (GCaMP6f).
        noise: :math:`\\sigma`, in dF/F.

    Example:
        >>> POPULATIONS["dense"].baseline[0], POPULATIONS["sparse"].baseline[0]  # Hz, the median neuron at rest
        (4.0, 0.06)
    """

    baseline: tuple[float, float]
    grating_rate: tuple[float, float]
    movie_rate: tuple[float, float]
    arousal: tuple[float, float]
    mixed: float
    factors: tuple[float, float]
    reliability: tuple[float, float]
    concentration: tuple[float, float]
    exponent: float
    amplitude: tuple[float, float]
    decay: tuple[float, float]
    noise: tuple[float, float]


POPULATIONS: dict[str, Population] = {
    "dense": Population(
        baseline=(4.0, 0.5),
        grating_rate=(8.0, 0.4),
        movie_rate=(5.0, 0.4),
        arousal=(0.17, 0.06),
        mixed=0.1,
        factors=(0.3, 0.1),
        reliability=(6.0, 0.3),
        concentration=(0.8, 0.3),
        exponent=1.0,
        amplitude=(0.035, 0.25),
        decay=(0.65, 0.1),
        noise=(0.045, 0.35),
    ),
    "sparse": Population(
        baseline=(0.06, 0.2),
        grating_rate=(1.1, 0.25),
        movie_rate=(1.3, 0.5),
        arousal=(0.3, 0.07),
        mixed=0.22,
        factors=(0.36, 0.2),
        reliability=(2.6, 0.4),
        concentration=(0.9, 0.3),
        exponent=2.9,
        amplitude=(0.20, 0.25),
        decay=(0.65, 0.1),
        noise=(0.043, 0.35),
    ),
}


@dataclass(frozen=True)
class Neurons:
    """The drawn parameters of the neurons of one recording; the first dimension is that of neurons.

    Attributes:
        baseline: :math:`b`, spontaneous rate in Hz, (N,).
        grating_rate: :math:`g` for gratings, in Hz.
        movie_rate: :math:`g` for movies, in Hz.
        states: Loadings :math:`A`, (N, 6).
        factors: Loadings :math:`B`, (N, 6).
        reliability: :math:`r`, shape of the gain's Gamma distribution.
        concentration: Concentration of the direction tuning.
        exponent: :math:`p`, sharpens the drive.
        amplitude: :math:`a`, dF/F per spike.
        decay: :math:`\\tau`, in seconds.
        noise: :math:`\\sigma`, in dF/F.
        preferred_direction: In rad; also the direction of the Gabor filter.
        opposite: Weight of the lobe at the opposite direction.
        preferred_frequency: In log2 Hz.
        field: Row, column, size and cycles per pixel of the Gabor filter on a 32 x 64 image, (N, 4).

    Example:
        >>> neurons = Neurons.draw(10, share_dense=0.5, rng=np.random.default_rng(0))
        >>> int((neurons.baseline > 1).sum()), neurons.grating_drive().shape  # 5 are dense
        (5, (8, 5, 10))
    """

    baseline: np.ndarray
    grating_rate: np.ndarray
    movie_rate: np.ndarray
    states: np.ndarray
    factors: np.ndarray
    reliability: np.ndarray
    concentration: np.ndarray
    exponent: np.ndarray
    amplitude: np.ndarray
    decay: np.ndarray
    noise: np.ndarray
    preferred_direction: np.ndarray
    opposite: np.ndarray
    preferred_frequency: np.ndarray
    field: np.ndarray

    @classmethod
    def draw(cls, n: int, share_dense: float, rng: np.random.Generator) -> Neurons:
        """Draw ``n`` neurons, ``share_dense`` of them dense."""
        dense, sparse = POPULATIONS["dense"], POPULATIONS["sparse"]
        is_dense = rng.permutation(n) < round(share_dense * n)

        def either(of_dense: float, of_sparse: float) -> np.ndarray:
            return np.where(is_dense, of_dense, of_sparse)

        def log_normal(name: str) -> np.ndarray:
            median, spread = (either(*pair) for pair in zip(getattr(dense, name), getattr(sparse, name), strict=True))
            return median * np.exp(spread * rng.standard_normal(n))

        half = len(LIFETIMES) // 2
        mean, spread = (either(*pair)[:, None] for pair in zip(dense.arousal, sparse.arousal, strict=True))
        arousal = mean + spread * rng.standard_normal((n, half))
        mixed = either(dense.mixed, sparse.mixed)[:, None] * rng.standard_normal((n, half))
        loading = np.stack([either(*pair) for pair in zip(dense.factors, sparse.factors, strict=True)], axis=1)
        limits = np.array([[4, 28], [4, 60], [2.5, 6.0], [0.06, 0.16]])
        return cls(
            baseline=log_normal("baseline"),
            grating_rate=log_normal("grating_rate"),
            movie_rate=log_normal("movie_rate"),
            states=np.hstack([arousal, mixed]) * STRENGTHS,
            factors=np.repeat(loading, 3, axis=1) * rng.standard_normal((n, 6)),
            reliability=log_normal("reliability"),
            concentration=log_normal("concentration"),
            exponent=either(dense.exponent, sparse.exponent),
            amplitude=log_normal("amplitude"),
            decay=log_normal("decay"),
            noise=log_normal("noise"),
            preferred_direction=rng.uniform(0, 2 * np.pi, n),
            opposite=rng.uniform(0.2, 0.9, n),
            preferred_frequency=rng.uniform(0, np.log2(15), n),
            field=rng.uniform(limits[:, 0], limits[:, 1], (n, 4)),
        )

    def select(self, keep: np.ndarray) -> Neurons:
        """Only the neurons of a mask or of indices."""
        return Neurons(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})

    def grating_drive(self) -> np.ndarray:
        """Mean evoked rate in Hz of every direction and temporal frequency, (8, 5, N)."""
        angle = np.deg2rad(DIRECTIONS)[:, None] - self.preferred_direction
        lobe = np.exp(self.concentration * (np.cos(angle) - 1))
        opposite = self.opposite * np.exp(self.concentration * (-np.cos(angle) - 1))
        octaves = np.log2(TEMPORAL_FREQUENCIES)[:, None] - self.preferred_frequency
        tuning = np.maximum(lobe, opposite)[:, None] * np.exp(-(octaves**2) / 8)
        return self.grating_rate * tuning**self.exponent * np.exp(grating_factors() @ self.factors.T)

    def movie_drive(self, movie: np.ndarray) -> np.ndarray:
        """Mean evoked rate in Hz of every frame of a movie (T, 64, 128), (T, N)."""
        small = movie.reshape(len(movie), 32, 2, 64, 2).mean(axis=(2, 4)).reshape(len(movie), -1)
        energy = np.abs((small - small.mean()).astype(np.complex64) @ self._filters().astype(np.complex64))
        energy = np.minimum(energy / np.quantile(energy, 0.99, axis=0), 1.0)
        return self.movie_rate * energy**self.exponent * np.exp(movie_factors(movie) @ self.factors.T)

    def respond(
        self, states: np.ndarray, presentations: list[tuple[int, np.ndarray]], rng: np.random.Generator
    ) -> np.ndarray:
        """dF/F, float32 (T, N), to stimuli shown one after the other.

        Args:
            states: The shared states, (T, 6).
            presentations: Row at which each begins, and its evoked rates in Hz, (rows, N). Each draws a
                gain of its own.
            rng: Draws gains, spikes and noise.
        """
        from scipy.signal import lfilter

        rates = np.tile(self.baseline, (len(states), 1))
        gain = rng.gamma(self.reliability, 1 / self.reliability, (len(presentations), len(self.baseline)))
        for (row, evoked), factor in zip(presentations, gain, strict=True):
            rates[row : row + len(evoked)] += factor * evoked
        rates *= np.exp(states @ self.states.T - (self.states**2).sum(axis=1) / 2)
        spikes = rng.poisson(rates / SAMPLING_RATE)
        drift = ornstein_uhlenbeck(len(states), np.full(len(self.decay), 60.0), rng)
        traces = self.noise * (rng.standard_normal(spikes.shape) + 0.3 * drift)
        for i, keep in enumerate(np.exp(-1 / (SAMPLING_RATE * self.decay))):
            traces[:, i] += self.amplitude[i] * lfilter([1.0], [1.0, -keep], spikes[:, i])
        return traces.astype(np.float32)

    def _filters(self) -> np.ndarray:
        """Complex Gabor filters on a 32 x 64 image, (2048, N), zero mean and unit norm."""
        y, x = np.mgrid[0:32, 0:64].reshape(2, -1, 1).astype(float)
        row, column, size, frequency = self.field.T
        dy, dx = y - row, x - column
        along = dx * np.cos(self.preferred_direction) + dy * np.sin(self.preferred_direction)
        gabor = np.exp(2j * np.pi * frequency * along - (dx**2 + dy**2) / (2 * size**2))
        gabor -= gabor.mean(axis=0)
        return gabor / np.linalg.norm(gabor, axis=0)


def grating_presentations(start: np.ndarray, evoked: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Gratings that start at ``start`` (R,) seconds with the evoked rates (R, N), as ``Neurons.respond`` wants them."""
    length = int(GRATING_SECONDS * SAMPLING_RATE)
    rows = np.round(start * SAMPLING_RATE).astype(int)
    return [(row, np.broadcast_to(rate, (length, len(rate)))) for row, rate in zip(rows, evoked, strict=True)]


def movie_presentations(start: np.ndarray, evoked: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Showings of a movie that start at ``start`` (R,) seconds, with the evoked rates (T, N).

    A second of movie counts as a presentation of its own.
    """
    second = int(SAMPLING_RATE)
    rows = np.round(start * SAMPLING_RATE).astype(int)
    return [(row + i, evoked[i : i + second]) for row in rows for i in range(0, len(evoked), second)]


def draw_states(n_rows: int, rng: np.random.Generator) -> np.ndarray:
    """The states that a population shares, (T, 6)."""
    return ornstein_uhlenbeck(n_rows, np.array(LIFETIMES), rng)


def ornstein_uhlenbeck(n: int, seconds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stationary processes of unit variance that forget within ``seconds`` (K,), (T, K)."""
    from scipy.signal import lfilter

    out = rng.standard_normal((n, len(seconds)))
    for k, keep in enumerate(np.exp(-1 / (SAMPLING_RATE * seconds))):
        first = keep * rng.standard_normal(1)
        out[:, k] = lfilter([math.sqrt(1 - keep**2)], [1.0, -keep], out[:, k], zi=first)[0]
    return out
