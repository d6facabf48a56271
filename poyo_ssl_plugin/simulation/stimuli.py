"""What the simulated animals see: movies, drifting gratings, and when each is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAMPLING_RATE = 30.0
MOVIE_FRAMES = 900
MOVIE_SECONDS = 30.0
MOVIE_SHAPE = (64, 128)
SCENE_SECONDS = 5
GRATING_SECONDS, GRATING_PERIOD = 2.0, 3.0
DIRECTIONS = 45.0 * np.arange(8)
TEMPORAL_FREQUENCIES = np.array([1.0, 2.0, 4.0, 8.0, 15.0])
SMOOTHING_SECONDS = (2.2, 0.1)  # s, of the slow and the fast stimulus-locked factors
TEXTURE_SPEED = 0.35  # pixels per frame


def make_movie(seed: int = 0, seconds: int = int(MOVIE_SECONDS), *, number: int = 1) -> np.ndarray:
    """A movie of smooth moving texture with a 1/f spectrum and a cut every 5 s, uint8 (frames, 64, 128).

    Args:
        seed: The same seed gives the same movie.
        seconds: Its length, at 30 frames a second.
        number: Natural movie one or three: another movie of the same kind.

    Example:
        >>> make_movie(seconds=1).shape
        (30, 64, 128)
    """
    rng = np.random.default_rng([seed, 0x4D4F56] if number == 1 else [seed, 0x4D4F56, number])
    scenes = [_moving_texture(int(SCENE_SECONDS * SAMPLING_RATE), rng) for _ in range(-(-seconds // SCENE_SECONDS))]
    return np.concatenate(scenes)[: int(seconds * SAMPLING_RATE)]


def movie_factors(movie: np.ndarray) -> np.ndarray:
    """Shared factors of a movie, (T, 6): slow contrast, then motion, in the left, middle and right of the screen.

    Contrast is smoothed over some seconds. Each three are uncorrelated and of unit variance.
    """
    from scipy.ndimage import gaussian_filter1d

    thirds = np.array_split(movie.astype(np.float32), 3, axis=2)
    contrast = np.stack([third.std(axis=(1, 2)) for third in thirds], axis=1)
    motion = np.stack([np.abs(np.diff(third, axis=0, append=third[:1])).mean(axis=(1, 2)) for third in thirds], axis=1)
    both = zip((contrast, motion), SMOOTHING_SECONDS, strict=True)
    return np.hstack([_uncorrelated(gaussian_filter1d(x, SAMPLING_RATE * s, axis=0, mode="wrap")) for x, s in both])


def grating_factors() -> np.ndarray:
    """The same factors for gratings: harmonics of direction and speed of each of the 40 conditions, (8, 5, 6)."""
    angle, octave = np.meshgrid(np.deg2rad(DIRECTIONS), np.log2(TEMPORAL_FREQUENCIES), indexing="ij")
    harmonics = [np.cos(2 * angle), np.sin(2 * angle), octave, np.cos(angle), np.sin(angle), octave**2]
    return _uncorrelated(np.stack(harmonics, axis=-1).reshape(-1, 6)).reshape(*angle.shape, 6)


def _uncorrelated(x: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(np.cov(x.T))
    return (x - x.mean(axis=0)) @ (vectors / np.sqrt(values)) @ vectors.T


@dataclass(frozen=True)
class Schedule:
    """When which stimulus was shown: half of the gratings, movie one, grey, movie three, the other gratings.

    Attributes:
        n_rows: Length of the traces.
        grating_start: Start of each grating in seconds, (R,).
        direction: Its direction in steps of 45 degrees, 0 to 7, (R,).
        frequency: Index into the temporal frequencies 1, 2, 4, 8 and 15 Hz, (R,).
        grating_blocks: Start and end of the blocks of gratings in seconds, (2, 2).
        movie_start: Start of each repeat of movie one in seconds.
        spontaneous: Start and end of the grey screen in seconds.
        excerpt_start: Start of each repeat of the excerpt of movie three in seconds.
        excerpt_seconds: Length of that excerpt.

    Example:
        >>> schedule = Schedule.draw(minutes=14.0, rng=np.random.default_rng(0))
        >>> len(schedule.movie_start), len(schedule.grating_start), sorted(schedule.splits())
        (10, 123, ['test', 'train', 'valid'])
    """

    n_rows: int
    grating_start: np.ndarray
    direction: np.ndarray
    frequency: np.ndarray
    grating_blocks: np.ndarray
    movie_start: np.ndarray
    spontaneous: tuple[float, float]
    excerpt_start: np.ndarray
    excerpt_seconds: int

    @classmethod
    def draw(cls, minutes: float, rng: np.random.Generator) -> Schedule:
        """Share ``minutes`` among the stimuli and draw the order of the gratings."""
        total = 60.0 * minutes
        repeats = min(10, int(total / 2 // MOVIE_SECONDS))
        excerpt = 10 * int(np.clip(minutes // 14, 1, 12))
        excerpt_repeats = int(np.clip(0.75 * minutes, 3, 10))
        spontaneous = total / 12
        between = repeats * MOVIE_SECONDS + spontaneous + excerpt_repeats * excerpt
        n_trials = int((total - between) // GRATING_PERIOD)
        first = n_trials // 2
        movie_start = first * GRATING_PERIOD
        pause = movie_start + repeats * MOVIE_SECONDS
        second_block = movie_start + between
        end = second_block + (n_trials - first) * GRATING_PERIOD
        start = np.r_[np.arange(first) * GRATING_PERIOD, second_block + np.arange(n_trials - first) * GRATING_PERIOD]
        conditions = _balanced(len(DIRECTIONS) * len(TEMPORAL_FREQUENCIES), n_trials, rng)
        return cls(
            n_rows=round(end * SAMPLING_RATE),
            grating_start=start,
            direction=conditions % len(DIRECTIONS),
            frequency=conditions // len(DIRECTIONS),
            grating_blocks=np.array([[0.0, movie_start], [second_block, end]]),
            movie_start=movie_start + np.arange(repeats) * MOVIE_SECONDS,
            spontaneous=(pause, pause + spontaneous),
            excerpt_start=pause + spontaneous + np.arange(excerpt_repeats) * float(excerpt),
            excerpt_seconds=excerpt,
        )

    def splits(self) -> dict[str, np.ndarray]:
        """Gratings 70/10/20 by trial, movies 80/10/10 by repeat, the rest 70/10/20 by time, as the paper."""
        parts: dict[str, list[tuple[float, float]]] = {"train": [], "valid": [], "test": []}
        for low, high in self.grating_blocks:
            _share(parts, low + GRATING_PERIOD * _cuts(round((high - low) / GRATING_PERIOD), (0.7, 0.1)))
        for start, seconds in ((self.movie_start, MOVIE_SECONDS), (self.excerpt_start, self.excerpt_seconds)):
            _share(parts, start[0] + seconds * _cuts(len(start), (0.8, 0.1)))
        low, high = self.spontaneous
        _share(parts, low + (high - low) * np.array([0.0, 0.7, 0.8, 1.0]))
        return {name: np.array(sorted(pairs)) for name, pairs in parts.items()}


def _moving_texture(n_frames: int, rng: np.random.Generator) -> np.ndarray:
    height, width = MOVIE_SHAPE
    t, y, x = np.fft.fftfreq(n_frames), np.fft.fftfreq(height), np.fft.rfftfreq(width)
    space = np.sqrt(y[:, None] ** 2 + x[None, :] ** 2)
    # Energy where temporal frequency is about speed times spatial frequency: texture that moves.
    speed = np.abs(t)[:, None, None] / np.maximum(space, 1e-3)
    power = np.exp(-((speed / TEXTURE_SPEED) ** 2)) / np.maximum(space, 1 / width)
    noise = np.fft.rfftn(rng.standard_normal((n_frames, height, width)))
    texture = np.fft.irfftn(noise * power, s=(n_frames, height, width), axes=(0, 1, 2))
    texture = 128 + 50 * (texture - texture.mean()) / texture.std()
    return np.clip(texture, 0, 255).astype(np.uint8)


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
