"""Simulated two-photon recordings in the layout that brainsets writes for the Allen Brain Observatory."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from poyo_ssl_plugin import compat
from poyo_ssl_plugin.errors import PoyoSSLError
from poyo_ssl_plugin.files import atomic_path
from poyo_ssl_plugin.simulation.neurons import Neurons, draw_states, grating_presentations, movie_presentations
from poyo_ssl_plugin.simulation.stimuli import (
    DIRECTIONS,
    GRATING_SECONDS,
    MOVIE_FRAMES,
    MOVIE_SECONDS,
    SAMPLING_RATE,
    TEMPORAL_FREQUENCIES,
    Schedule,
    make_movie,
)

BRAINSET = "poyo_ssl_simulated_ophys"
FRAMES_FILE = "natural_movie_one_frames.npz"

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
    progress: Callable[[Iterator[Path], int], Iterable[Path]] | None = None,
) -> Path:
    """Write simulated recordings, and the movie they saw, to a folder.

    Args:
        out_dir: Where to write ``<recording id>.h5`` and ``natural_movie_one_frames.npz``.
        n_recordings: Number of recordings, each of another animal.
        n_units: Neurons per recording.
        minutes: Length of a recording, at least 4. Half of it, up to 10 repeats of 30 s, is movie one.
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


def make_recording(
    recording_id: str,
    cre_line: str,
    n_units: int,
    minutes: float,
    movie: np.ndarray,
    rng: np.random.Generator,
) -> compat.Data:
    """Simulate one recording in memory.

    Args:
        recording_id: Its id.
        cre_line: Its Cre line, one of :data:`CRE_LINES`.
        n_units: Number of neurons N.
        minutes: Its length, at least 4; the traces are (T, N) at 30 Hz.
        movie: Movie one, uint8 (900, 64, 128), see :func:`make_movie`.
        rng: Source of randomness.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> recording = make_recording("sim_000", "Sst_IRES_Cre", 4, 4.0, make_movie(), rng)
        >>> recording.calcium_traces.df_over_f.shape[1], recording.subject.cre_line
        (4, 'Sst_IRES_Cre')
    """
    schedule = Schedule.draw(minutes, rng)
    neurons = Neurons.draw(n_units, CRE_LINES[cre_line][0], rng)
    states = draw_states(schedule.n_rows, rng)
    # Its seed follows from movie one, so that all animals that saw that one see the same movie three.
    excerpt = make_movie(int(movie[0].sum(dtype=np.int64)), schedule.excerpt_seconds, number=3)
    movie_drive = neurons.movie_drive(movie)
    shown = [
        *grating_presentations(schedule.grating_start, neurons.grating_drive()[schedule.direction, schedule.frequency]),
        *movie_presentations(schedule.movie_start, movie_drive),
        *movie_presentations(schedule.excerpt_start, neurons.movie_drive(excerpt)),
    ]
    traces = neurons.respond(states, shown, rng)
    speed = np.maximum(0.0, 8 * states[:, 1] + rng.standard_normal(len(states))).astype(np.float32)
    movie_end = schedule.movie_start[-1] + MOVIE_SECONDS
    excerpt_end = schedule.excerpt_start[-1] + schedule.excerpt_seconds
    return compat.Data(
        **_descriptions(recording_id, cre_line),
        calcium_traces=compat.regular_series(sampling_rate=SAMPLING_RATE, start=0.0, df_over_f=traces),
        rois=_rois(recording_id, n_units, rng),
        simulation=compat.ArrayDict(
            **{field.name: getattr(neurons, field.name) for field in fields(neurons)},
            movie_drive=movie_drive.T.astype(np.float32),
        ),
        running=compat.IrregularTimeSeries(
            timestamps=np.arange(len(speed)) / SAMPLING_RATE, running_speed=speed[:, None], domain="auto"
        ),
        drifting_gratings=_gratings(schedule),
        natural_movie_one=_frames(schedule.movie_start, MOVIE_FRAMES),
        natural_movie_three=_frames(schedule.excerpt_start, len(excerpt)),
        drifting_gratings_domain=compat.interval(schedule.grating_blocks),
        natural_movie_one_domain=compat.interval(np.array([schedule.movie_start[0], movie_end])),
        natural_movie_three_domain=compat.interval(np.array([schedule.excerpt_start[0], excerpt_end])),
        spontaneous_domain=compat.interval(np.array(schedule.spontaneous)),
        **{f"{name}_domain": compat.interval(pairs) for name, pairs in schedule.splits().items()},
        domain=compat.Interval(0.0, (len(traces) - 1) / SAMPLING_RATE),
    )


def _descriptions(recording_id: str, cre_line: str) -> dict[str, object]:
    return {
        "brainset": compat.BrainsetDescription(
            id=BRAINSET,
            origin_version="2",
            derived_version="2",
            source="poyo_ssl_plugin.simulation",
            description="Simulated two-photon recordings in the layout of the Allen Brain Observatory.",
        ),
        "subject": compat.SubjectDescription(
            id=f"animal_{recording_id}", species="MUS_MUSCULUS", age=100.0, sex="MALE", cre_line=cre_line
        ),
        "session": compat.SessionDescription(id=recording_id, recording_date=datetime.datetime(2016, 1, 1)),
        "device": compat.DeviceDescription(
            id=recording_id,
            recording_tech="TWO_PHOTON_IMAGING",
            imaging_depth=CRE_LINES[cre_line][1],
            target_area="VISp",
        ),
    }


def _rois(recording_id: str, n_units: int, rng: np.random.Generator) -> compat.ArrayDict:
    sizes = {
        f"imaging_plane_{name}": rng.uniform(*limits, n_units)
        for name, limits in {"area": (80, 400), "width": (9, 40), "height": (9, 40)}.items()
    }
    return compat.ArrayDict(
        id=np.array([f"{recording_id}_{i:04d}" for i in range(n_units)]),
        imaging_plane_xy=rng.uniform(0, 512, (n_units, 2)),
        **sizes,
    )


def _gratings(schedule: Schedule) -> compat.Interval:
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


def _frames(repeat_start: np.ndarray, n_frames: int) -> compat.Interval:
    edges = repeat_start[:, None] + np.arange(n_frames + 1) / SAMPLING_RATE
    start, end = edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1)
    return compat.Interval(
        start=start,
        end=end,
        timestamps=(start + end) / 2,
        frame=np.tile(np.arange(n_frames), len(repeat_start)),
        repeat=np.repeat(np.arange(len(repeat_start)), n_frames),
        timekeys=["start", "end", "timestamps"],
    )
