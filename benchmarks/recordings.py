"""Recordings of the size of the Allen Brain Observatory's, simulated once per folder."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import Settings
from poyo_ssl_plugin.data import simulate


def allen_size(settings: Settings) -> Path:
    """One recording of 250 neurons and 64 minutes (115,000 frames) with all its stimuli."""
    return simulated(settings, n_units=settings.pick(250, 40), minutes=settings.pick(64, 5))


def simulated(settings: Settings, *, n_units: int, minutes: float, n_recordings: int = 1) -> Path:
    folder = settings.folder / f"{n_recordings}x{n_units}x{minutes:g}"
    if not list(folder.glob("*.h5")):
        simulate(folder, n_recordings=n_recordings, n_units=n_units, minutes=minutes, seed=0)
    return folder
