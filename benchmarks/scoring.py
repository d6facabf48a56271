"""Scoring a dataset on disk."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from scipy import stats

from benchmarks.harness import PeakMemory, Row, Settings, race
from benchmarks.recordings import allen_size
from poyo_ssl_plugin import Recordings, score_dataset
from poyo_ssl_plugin.recordings import SampleClock, split_intervals

MEGABYTE = 1 << 20


def run(settings: Settings) -> Iterator[Row]:
    dataset = Recordings(allen_size(settings))
    best = race(
        {
            "score_dataset": lambda: score_dataset(dataset, split="train"),
            "h5py": lambda: read_rows(dataset),
        },
        settings.pick(9, 2),
        clock=time.process_time,
    )
    yield Row(
        "score_dataset from HDF5",
        "reading the same rows with h5py",
        best["score_dataset"] / best["h5py"],
        1.3,
        sense="<=",
        details={"processor seconds": best, "stored": "float32, contiguous, in the page cache"},
    )
    yield folder_of_recordings(settings)
    peaks = {n_rows: peak(settings, n_rows) / MEGABYTE for n_rows in settings.pick((115_000, 460_000), (20_000,))}
    yield Row(
        "  peak extra memory, the longest of the recordings",
        "-",
        max(peaks.values()),
        64,
        sense="<=",
        unit="MB",
        details={"MB by rows of 250 neurons": peaks},
    )


def folder_of_recordings(settings: Settings) -> Row:
    """A folder of recordings from the page cache: ours in all its ways, and the loop that one would write."""
    n, n_rows = settings.pick((30, 20_000), (3, 5_000))
    folder = settings.folder / f"folder{n}x{n_rows}"
    for i in range(n):
        if not (folder / f"long{i}.h5").exists():
            write(folder, n_rows, name=f"long{i}")
    best = race(
        {
            "score_dataset": lambda: score_dataset(Recordings(folder), split=None),
            "h5py + scipy": lambda: score_with_scipy(folder),
        },
        1,
        clock=time.process_time,
    )
    return Row(
        f"scoring a folder of {n} recordings of ({n_rows:,} x 250)",
        "h5py + scipy.stats",
        best["h5py + scipy"] / best["score_dataset"],
        15,
        details={"processor seconds": best},
    )


def score_with_scipy(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            x = file["calcium_traces/df_over_f"][:].astype(np.float64)
        found[path.stem] = np.array([stats.skew(x), stats.kurtosis(x)])
    return found


def read_rows(dataset: Recordings) -> None:
    """All samples of the training split, as one would read them with h5py."""
    for name in dataset.recording_ids:
        data = dataset.get_recording(name)
        traces = data.calcium_traces
        samples = traces.__dict__["df_over_f"]
        clock = SampleClock(float(traces.domain.start[0]), float(traces.sampling_rate), len(samples))
        for first, last in clock.rows(split_intervals(data, "train")):
            samples[first:last]


def peak(settings: Settings, n_rows: int) -> int:
    """Peak memory above the start while a recording of ``n_rows`` is scored in a fresh process, in bytes."""
    folder = settings.folder / f"rows{n_rows}"
    if not folder.exists():
        write(folder, n_rows)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_here, (folder,))


def peak_here(folder: Path) -> int:
    dataset = Recordings(folder)
    dataset.get_recording("long")
    with PeakMemory() as memory:
        score_dataset(dataset, split=None)
    return memory.extra


def write(folder: Path, n_rows: int, n_units: int = 250, name: str = "long") -> None:
    """A recording of traces alone."""
    from poyo_ssl_plugin.compat import ArrayDict, Data, Interval, regular_series, write_recording

    folder.mkdir(parents=True, exist_ok=True)
    traces = np.random.default_rng(0).gamma(2.0, 0.1, size=(n_rows, n_units)).astype(np.float32)
    data = Data(
        domain=Interval(0.0, n_rows / 30),
        session=Data(id=name),
        rois=ArrayDict(id=np.array([f"u{i}" for i in range(n_units)])),
        calcium_traces=regular_series(sampling_rate=30.0, start=0.0, df_over_f=traces),
    )
    write_recording(data, folder / f"{name}.h5")
