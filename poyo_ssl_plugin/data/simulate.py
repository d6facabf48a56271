r"""Simulated two-photon recordings in the layout that brainsets writes for the Allen Brain Observatory.

Each recording is of one animal of one Cre line, and holds drifting gratings, natural movie one and
spontaneous activity. Neurons are of two kinds: *dense* (high baseline, broadly tuned, reliable, moved
by a shared brain state, as inhibitory interneurons are) and *sparse* (nearly silent, narrowly tuned,
unreliable, as many excitatory neurons are). With :math:`d_n(t) \in [0, 1]` the drive of neuron
:math:`n` by the stimulus and :math:`s(t)` the shared state (Ornstein-Uhlenbeck, 8 s),

.. math::

    \lambda_n(t) &= b_n \exp\!\big(c_n s(t) - c_n^2/2\big) + g_n\, \eta_{n,k(t)}\, d_n(t)^{p_n}, \qquad
    S_n(t) \sim \mathrm{Poisson}(\lambda_n(t)\, \Delta t),

    F_n(t) &= a_n \sum_{t' \le t} S_n(t')\, e^{-(t - t')/\tau_n} + \sigma_n\, \epsilon_n(t) + 0.3\, \sigma_n\, w_n(t),

where the gain :math:`\eta_{n,k}` of presentation :math:`k` is Gamma distributed with mean 1 and shape
:math:`r_n` (the smaller, the less reliable), :math:`\epsilon` is white and :math:`w` a slow drift
(60 s). Drive is direction tuning (von Mises, with a weaker lobe at the opposite direction) times
temporal-frequency tuning for gratings, and the energy of the neuron's own Gabor filter, normalised,
for the movie.

The numbers in :data:`POPULATIONS` are set so that skewness, kurtosis, event rate and noise agree with
real recordings (``docs/simulation.md`` shows how well, and a test guards it). They are not to be
changed to help a method.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poyo_ssl_plugin import compat
from poyo_ssl_plugin.errors import PoyoSSLError
from poyo_ssl_plugin.files import atomic_path

BRAINSET = "poyo_ssl_simulated_ophys"
SAMPLING_RATE = 30.0
MOVIE_FRAMES = 900
MOVIE_SECONDS = 30.0
MOVIE_SHAPE = (64, 128)
GRATING_SECONDS, GRATING_PERIOD = 2.0, 3.0
DIRECTIONS = 45.0 * np.arange(8)
TEMPORAL_FREQUENCIES = np.array([1.0, 2.0, 4.0, 8.0, 15.0])
FRAMES_FILE = "natural_movie_one_frames.npz"


@dataclass(frozen=True)
class Population:
    """Distribution of the parameters of one kind of neuron; pairs are (median, log-sd) of a log-normal.

    Attributes:
        baseline: :math:`b`, spontaneous rate in Hz.
        evoked: :math:`g`, rate in Hz at full drive.
        state_coupling: :math:`c`, (mean, sd) of a normal.
        reliability: :math:`r`, shape of the gain's Gamma distribution.
        concentration: Concentration of the direction tuning.
        exponent: :math:`p`, sharpens the drive.
        amplitude: :math:`a`, dF/F per spike.
        decay: :math:`\\tau`, in seconds (GCaMP6f).
        noise: :math:`\\sigma`, in dF/F.
    """

    baseline: tuple[float, float]
    evoked: tuple[float, float]
    state_coupling: tuple[float, float]
    reliability: tuple[float, float]
    concentration: tuple[float, float]
    exponent: float
    amplitude: tuple[float, float]
    decay: tuple[float, float]
    noise: tuple[float, float]


POPULATIONS: dict[str, Population] = {
    "dense": Population(
        baseline=(4.0, 0.5),
        evoked=(8.0, 0.4),
        state_coupling=(0.5, 0.15),
        reliability=(6.0, 0.3),
        concentration=(0.8, 0.3),
        exponent=1.0,
        amplitude=(0.035, 0.25),
        decay=(0.65, 0.1),
        noise=(0.045, 0.35),
    ),
    "sparse": Population(
        baseline=(0.035, 0.5),
        evoked=(2.2, 0.4),
        state_coupling=(0.3, 0.15),
        reliability=(0.9, 0.3),
        concentration=(3.0, 0.4),
        exponent=2.5,
        amplitude=(0.20, 0.25),
        decay=(0.65, 0.1),
        noise=(0.043, 0.35),
    ),
}

# Share of dense neurons and imaging depth in um, by Cre line as the Allen files spell it.
CRE_LINES: dict[str, tuple[float, int]] = {
    "Cux2_CreERT2": (0.03, 175),
    "Pvalb_IRES_Cre": (0.95, 275),
    "Rorb_IRES2_Cre": (0.03, 275),
    "Sst_IRES_Cre": (0.85, 275),
    "Emx1_IRES_Cre": (0.03, 175),
    "Vip_IRES_Cre": (0.85, 175),
    "Ntsr1_Cre_GN220": (0.60, 550),
    "Slc17a7_IRES2_Cre": (0.03, 175),
}


def simulate(
    out_dir: str | Path,
    *,
    n_recordings: int = 6,
    n_units: int = 80,
    minutes: float = 14.0,
    cre_lines: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[Iterator[Any], int], Iterable[Any]] | None = None,
) -> Path:
    """Write simulated recordings, and the movie they saw, to a folder.

    Args:
        out_dir: Where to write ``<recording id>.h5`` and ``natural_movie_one_frames.npz``.
        n_recordings: Number of recordings, each of another animal.
        n_units: Neurons per recording.
        minutes: Length of a recording, at least 4. Half of it, up to 10 repeats of 30 s, is movie.
        cre_lines: Cre line of each recording, repeated as needed; by default those of
            :data:`CRE_LINES` in turn.
        seed: The same seed gives the same recordings.
        progress: Wraps the iterator of written files, given their number, to show progress.

    Returns:
        ``out_dir``.

    Raises:
        PoyoSSLError: If an argument is out of range.

    Example:
        >>> import tempfile
        >>> folder = simulate(tempfile.mkdtemp(), n_recordings=2, n_units=8, minutes=4)
        >>> sorted(path.name for path in folder.iterdir())
        ['natural_movie_one_frames.npz', 'sim_000.h5', 'sim_001.h5']
    """
    if n_recordings < 1 or n_units < 1 or minutes < 4:
        raise PoyoSSLError(
            "a simulation needs at least 1 recording, 1 unit and 4 minutes, got "
            f"n_recordings={n_recordings}, n_units={n_units}, minutes={minutes}"
        )
    lines = list(cre_lines or CRE_LINES)
    unknown = [line for line in lines if line not in CRE_LINES]
    if unknown:
        raise PoyoSSLError(f"unknown Cre line {unknown[0]!r}; there are {', '.join(CRE_LINES)}")
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    movie = make_movie(seed)
    with atomic_path(out_dir / FRAMES_FILE) as temporary:
        np.savez_compressed(temporary, image=movie, frame=np.arange(MOVIE_FRAMES))

    def write() -> Iterator[Path]:
        for i in range(n_recordings):
            rng = np.random.default_rng([seed, i])
            recording = make_recording(f"sim_{i:03d}", lines[i % len(lines)], n_units, minutes, movie, rng)
            path = out_dir / f"{recording.session.id}.h5"
            with atomic_path(path) as temporary:
                compat.write_recording(recording, temporary)
            yield path

    for _ in progress(write(), n_recordings) if progress else write():
        pass
    return out_dir


def make_movie(seed: int = 0) -> np.ndarray:
    """A movie of smooth moving texture with a 1/f spectrum and cuts, uint8 (900, 64, 128)."""
    rng = np.random.default_rng([seed, 0x4D4F56])
    n_scenes = 6
    length = MOVIE_FRAMES // n_scenes
    scenes = [_moving_texture(length, rng) for _ in range(n_scenes)]
    return np.concatenate(scenes)


def make_recording(
    recording_id: str,
    cre_line: str,
    n_units: int,
    minutes: float,
    movie: np.ndarray,
    rng: np.random.Generator,
) -> compat.Data:
    """Simulate one recording in memory; see :func:`simulate` for the meaning of the arguments."""
    schedule = _Schedule.draw(minutes, rng)
    neurons = _Neurons.draw(n_units, CRE_LINES[cre_line][0], rng)
    state = _ornstein_uhlenbeck(schedule.n_rows, 8.0, rng)
    traces = neurons.traces(neurons.rates(schedule, movie, state, rng), rng)
    return _recording(recording_id, cre_line, schedule, traces, state, rng)


@dataclass(frozen=True)
class _Schedule:
    """When which stimulus was shown, in rows of the traces and in seconds."""

    n_rows: int
    grating_start: np.ndarray
    direction: np.ndarray  # index into DIRECTIONS
    frequency: np.ndarray  # index into TEMPORAL_FREQUENCIES
    grating_blocks: np.ndarray  # (B, 2) s
    movie_start: float
    movie_repeats: int
    spontaneous: tuple[float, float]

    @classmethod
    def draw(cls, minutes: float, rng: np.random.Generator) -> _Schedule:
        total = 60.0 * minutes
        repeats = min(10, int(total / 2 // MOVIE_SECONDS))
        spontaneous = total / 12
        n_trials = int((total - repeats * MOVIE_SECONDS - spontaneous) // GRATING_PERIOD)
        first = n_trials // 2
        movie_start = first * GRATING_PERIOD
        pause = movie_start + repeats * MOVIE_SECONDS
        second_block = pause + spontaneous
        start = np.r_[np.arange(first) * GRATING_PERIOD, second_block + np.arange(n_trials - first) * GRATING_PERIOD]
        end = second_block + (n_trials - first) * GRATING_PERIOD
        conditions = _balanced(len(DIRECTIONS) * len(TEMPORAL_FREQUENCIES), n_trials, rng)
        return cls(
            n_rows=round(end * SAMPLING_RATE),
            grating_start=start,
            direction=conditions % len(DIRECTIONS),
            frequency=conditions // len(DIRECTIONS),
            grating_blocks=np.array([[0.0, movie_start], [second_block, end]]),
            movie_start=movie_start,
            movie_repeats=repeats,
            spontaneous=(pause, second_block),
        )

    @property
    def repeat_start(self) -> np.ndarray:
        return self.movie_start + np.arange(self.movie_repeats) * MOVIE_SECONDS

    def splits(self) -> dict[str, np.ndarray]:
        """Gratings 70/10/20 by trial, movie 80/10/10 by repeat, the rest 70/10/20 by time, as the paper."""
        parts: dict[str, list[tuple[float, float]]] = {"train": [], "valid": [], "test": []}
        for low, high in self.grating_blocks:
            n = round((high - low) / GRATING_PERIOD)
            _share(parts, low + GRATING_PERIOD * _cuts(n, (0.7, 0.1)))
        _share(parts, self.movie_start + MOVIE_SECONDS * _cuts(self.movie_repeats, (0.8, 0.1)))
        low, high = self.spontaneous
        _share(parts, low + (high - low) * np.array([0.0, 0.7, 0.8, 1.0]))
        return {name: np.array(sorted(pairs)) for name, pairs in parts.items()}


@dataclass(frozen=True)
class _Neurons:
    """The drawn parameters of the neurons of one recording; every array has shape (N,)."""

    baseline: np.ndarray
    evoked: np.ndarray
    state_coupling: np.ndarray
    reliability: np.ndarray
    concentration: np.ndarray
    exponent: np.ndarray
    amplitude: np.ndarray
    decay: np.ndarray
    noise: np.ndarray
    preferred_direction: np.ndarray  # rad
    opposite: np.ndarray  # weight of the lobe at the opposite direction
    preferred_frequency: np.ndarray  # log2 Hz
    filters: np.ndarray  # complex Gabors, (pixels, N)

    @classmethod
    def draw(cls, n: int, share_dense: float, rng: np.random.Generator) -> _Neurons:
        dense = rng.permutation(n) < round(share_dense * n)

        def log_normal(name: str) -> np.ndarray:
            both = {kind: getattr(population, name) for kind, population in POPULATIONS.items()}
            median = np.where(dense, both["dense"][0], both["sparse"][0])
            spread = np.where(dense, both["dense"][1], both["sparse"][1])
            return median * np.exp(spread * rng.standard_normal(n))

        coupling = {kind: population.state_coupling for kind, population in POPULATIONS.items()}
        mean = np.where(dense, coupling["dense"][0], coupling["sparse"][0])
        spread = np.where(dense, coupling["dense"][1], coupling["sparse"][1])
        direction = rng.uniform(0, 2 * np.pi, n)
        return cls(
            baseline=log_normal("baseline"),
            evoked=log_normal("evoked"),
            state_coupling=mean + spread * rng.standard_normal(n),
            reliability=log_normal("reliability"),
            concentration=log_normal("concentration"),
            exponent=np.where(dense, POPULATIONS["dense"].exponent, POPULATIONS["sparse"].exponent),
            amplitude=log_normal("amplitude"),
            decay=log_normal("decay"),
            noise=log_normal("noise"),
            preferred_direction=direction,
            opposite=rng.uniform(0.2, 0.9, n),
            preferred_frequency=rng.uniform(0, np.log2(15), n),
            filters=_gabors(direction, rng),
        )

    def rates(self, schedule: _Schedule, movie: np.ndarray, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Firing rates in Hz, (T, N)."""
        coupling = self.state_coupling
        rates = self.baseline * np.exp(coupling * state[:, None] - coupling**2 / 2)
        length = int(GRATING_SECONDS * SAMPLING_RATE)
        gain = self._gain(len(schedule.grating_start), rng)
        drive = self._grating_drive(schedule.direction, schedule.frequency)
        for trial, start in enumerate(schedule.grating_start):
            row = round(start * SAMPLING_RATE)
            rates[row : row + length] += gain[trial] * drive[trial]
        response = self._movie_drive(movie)
        for start in schedule.repeat_start:
            row = round(start * SAMPLING_RATE)
            # A second of movie counts as a presentation of its own.
            gain = np.repeat(self._gain(int(MOVIE_SECONDS), rng), int(SAMPLING_RATE), axis=0)
            rates[row : row + MOVIE_FRAMES] += gain * response
        return rates

    def traces(self, rates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """dF/F of these rates, float32 (T, N)."""
        from scipy.signal import lfilter

        spikes = rng.poisson(rates / SAMPLING_RATE).astype(np.float64)
        traces = np.empty(spikes.shape, dtype=np.float32)
        for i, decay in enumerate(self.decay):
            calcium = lfilter([1.0], [1.0, -math.exp(-1 / (SAMPLING_RATE * decay))], spikes[:, i])
            drift = _ornstein_uhlenbeck(len(calcium), 60.0, rng)
            noise = rng.standard_normal(len(calcium)) + 0.3 * drift
            traces[:, i] = self.amplitude[i] * calcium + self.noise[i] * noise
        return traces

    def _gain(self, n_presentations: int, rng: np.random.Generator) -> np.ndarray:
        shape = (n_presentations, len(self.reliability))
        return self.evoked * rng.gamma(self.reliability, 1 / self.reliability, shape)

    def _grating_drive(self, direction: np.ndarray, frequency: np.ndarray) -> np.ndarray:
        angle = np.deg2rad(DIRECTIONS)[:, None] - self.preferred_direction
        lobe = np.exp(self.concentration * (np.cos(angle) - 1))
        opposite = self.opposite * np.exp(self.concentration * (-np.cos(angle) - 1))
        octaves = np.log2(TEMPORAL_FREQUENCIES)[:, None] - self.preferred_frequency
        tuning = np.maximum(lobe, opposite)[direction] * np.exp(-(octaves**2) / 8)[frequency]
        return tuning**self.exponent

    def _movie_drive(self, movie: np.ndarray) -> np.ndarray:
        small = movie.reshape(len(movie), 32, 2, 64, 2).mean(axis=(2, 4)).reshape(len(movie), -1)
        energy = np.abs((small - small.mean()).astype(np.complex64) @ self.filters.astype(np.complex64))
        energy = np.minimum(energy / np.quantile(energy, 0.99, axis=0), 1.0)
        return energy**self.exponent


def _recording(
    recording_id: str,
    cre_line: str,
    schedule: _Schedule,
    traces: np.ndarray,
    state: np.ndarray,
    rng: np.random.Generator,
) -> compat.Data:
    n_units = traces.shape[1]
    series = compat.regular_series(sampling_rate=SAMPLING_RATE, start=0.0, df_over_f=traces)
    times = np.arange(len(state)) / SAMPLING_RATE
    speed = np.maximum(0.0, 8 * state + rng.standard_normal(len(state))).astype(np.float32)
    sizes = {
        f"imaging_plane_{name}": rng.uniform(*limits, n_units)
        for name, limits in {"area": (80, 400), "width": (9, 40), "height": (9, 40)}.items()
    }
    return compat.Data(
        brainset=compat.BrainsetDescription(
            id=BRAINSET,
            origin_version="1",
            derived_version="1",
            source="poyo_ssl_plugin.data.simulate",
            description="Simulated two-photon recordings in the layout of the Allen Brain Observatory.",
        ),
        subject=compat.SubjectDescription(
            id=f"animal_{recording_id}", species="MUS_MUSCULUS", age=100.0, sex="MALE", cre_line=cre_line
        ),
        session=compat.SessionDescription(id=recording_id, recording_date=datetime.datetime(2016, 1, 1)),
        device=compat.DeviceDescription(
            id=recording_id,
            recording_tech="TWO_PHOTON_IMAGING",
            imaging_depth=CRE_LINES[cre_line][1],
            target_area="VISp",
        ),
        calcium_traces=series,
        rois=compat.ArrayDict(
            id=np.array([f"{recording_id}_{i:04d}" for i in range(n_units)]),
            imaging_plane_xy=rng.uniform(0, 512, (n_units, 2)),
            **sizes,
        ),
        running=compat.IrregularTimeSeries(timestamps=times, running_speed=speed[:, None], domain="auto"),
        drifting_gratings=_gratings(schedule),
        natural_movie_one=_movie_presentations(schedule),
        drifting_gratings_domain=compat.interval(schedule.grating_blocks),
        natural_movie_one_domain=compat.interval(
            np.array([schedule.movie_start, schedule.movie_start + schedule.movie_repeats * MOVIE_SECONDS])
        ),
        spontaneous_domain=compat.interval(np.array(schedule.spontaneous)),
        **{f"{name}_domain": compat.interval(pairs) for name, pairs in schedule.splits().items()},
        domain=series.domain,
    )


def _gratings(schedule: _Schedule) -> compat.Interval:
    start = schedule.grating_start
    return compat.Interval(
        start=start,
        end=start + GRATING_SECONDS,
        timestamps=start + GRATING_SECONDS / 2,
        temporal_frequency=TEMPORAL_FREQUENCIES[schedule.frequency],
        orientation=DIRECTIONS[schedule.direction],
        orientation_id=schedule.direction.astype(np.int64),
        temporal_frequency_id=schedule.frequency.astype(np.int64),
        timekeys=["start", "end", "timestamps"],
    )


def _movie_presentations(schedule: _Schedule) -> compat.Interval:
    edges = schedule.repeat_start[:, None] + np.arange(MOVIE_FRAMES + 1) * (MOVIE_SECONDS / MOVIE_FRAMES)
    start, end = edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1)
    return compat.Interval(
        start=start,
        end=end,
        timestamps=(start + end) / 2,
        frame=np.tile(np.arange(MOVIE_FRAMES), schedule.movie_repeats),
        repeat=np.repeat(np.arange(schedule.movie_repeats), MOVIE_FRAMES),
        timekeys=["start", "end", "timestamps"],
    )


def _moving_texture(n_frames: int, rng: np.random.Generator) -> np.ndarray:
    height, width = MOVIE_SHAPE
    t, y, x = np.fft.fftfreq(n_frames), np.fft.fftfreq(height), np.fft.rfftfreq(width)
    space = np.sqrt(y[:, None] ** 2 + x[None, :] ** 2)
    # Energy where temporal frequency is about speed times spatial frequency: texture that moves.
    speed = np.abs(t)[:, None, None] / np.maximum(space, 1e-3)
    power = np.exp(-((speed / 0.25) ** 2)) / np.maximum(space, 1 / width)
    noise = np.fft.rfftn(rng.standard_normal((n_frames, height, width)))
    texture = np.fft.irfftn(noise * power, s=(n_frames, height, width), axes=(0, 1, 2))
    texture = 128 + 50 * (texture - texture.mean()) / texture.std()
    return np.clip(texture, 0, 255).astype(np.uint8)


def _gabors(direction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Complex Gabor filters on a 32 x 64 image, (2048, N), zero mean and unit norm."""
    n = len(direction)
    y, x = np.mgrid[0:32, 0:64].reshape(2, -1, 1).astype(float)
    dy, dx = y - rng.uniform(4, 28, n), x - rng.uniform(4, 60, n)
    size, frequency = rng.uniform(2.5, 6.0, n), rng.uniform(0.06, 0.16, n)
    carrier = np.exp(2j * np.pi * frequency * (dx * np.cos(direction) + dy * np.sin(direction)))
    gabor = carrier * np.exp(-(dx**2 + dy**2) / (2 * size**2))
    gabor -= gabor.mean(axis=0)
    return gabor / np.linalg.norm(gabor, axis=0)


def _ornstein_uhlenbeck(n: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A stationary process of unit variance that forgets within ``seconds``, one value per row."""
    from scipy.signal import lfilter

    keep = math.exp(-1 / (SAMPLING_RATE * seconds))
    first = rng.standard_normal()
    innovation = math.sqrt(1 - keep**2) * rng.standard_normal(n)
    return lfilter([1.0], [1.0, -keep], innovation, zi=[keep * first])[0]


def _balanced(n_conditions: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` conditions in random order, each as often as any other up to one."""
    return np.concatenate([rng.permutation(n_conditions) for _ in range(-(-n // n_conditions))])[:n]


def _cuts(n: int, shares: tuple[float, float]) -> np.ndarray:
    """Where to cut ``n`` pieces into train, valid and test, none of them empty."""
    valid, test = max(1, round(shares[1] * n)), max(1, round((1 - sum(shares)) * n))
    return np.array([0, n - valid - test, n - test, n], dtype=float)


def _share(parts: dict[str, list[tuple[float, float]]], cuts: np.ndarray) -> None:
    for pairs, low, high in zip(parts.values(), cuts[:-1], cuts[1:], strict=True):
        pairs.append((float(low), float(high)))


__all__ = ["CRE_LINES", "POPULATIONS", "Population", "make_movie", "make_recording", "simulate"]
