"""What readers return: traces with their clock, or spikes, and the ids of their neurons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from poyo_ssl_plugin.data.importing.csv_table import Table
from poyo_ssl_plugin.errors import PoyoSSLError, RecordingError


@dataclass(frozen=True)
class Traces:
    """dF/F of one recording.

    Attributes:
        values: dF/F, (T, N), or (R, T, N) of R trials that were cut out.
        rate: Sampling rate in Hz.
        unit_ids: Ids of the neurons within the recording, (N,).
        start: Time of the first sample in seconds.
        trials: Trials that the file itself holds.

    Example:
        >>> traces = Traces(np.zeros((300, 2)), rate=30.0, unit_ids=np.array(["a", "b"]))
        >>> len(traces.values) / traces.rate  # seconds
        10.0
    """

    values: np.ndarray
    rate: float
    unit_ids: np.ndarray
    start: float = 0.0
    trials: Table | None = None


@dataclass(frozen=True)
class Spikes:
    """Spikes of one recording.

    Attributes:
        times: Their times in seconds, (S,).
        unit_index: The neuron of each, its place in ``unit_ids``, (S,).
        unit_ids: Ids of the neurons within the recording, (N,).
        trials: Trials that the file itself holds.

    Example:
        >>> spikes = Spikes(times=np.array([0.2, 0.9]), unit_index=np.array([0, 1]), unit_ids=np.array(["a", "b"]))
        >>> spikes.unit_ids[spikes.unit_index].tolist()
        ['a', 'b']
    """

    times: np.ndarray
    unit_index: np.ndarray
    unit_ids: np.ndarray
    trials: Table | None = None


# What numpy, h5py and pynwb raise, somewhere inside, where a file is not what it should be.
_DAMAGE = (OSError, EOFError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Say of which file an error is, whatever it made a library raise.

    Raises:
        RecordingError: Instead of any error that a damaged or missing file can cause.
    """
    if not path.exists():
        raise RecordingError(f"{path}: no such file or folder; give the {what} that is to be imported")
    try:
        yield
    except PoyoSSLError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise RecordingError(f"{path}: cannot be read as {what} ({reason or type(error).__name__})") from error


def load_array(path: Path) -> np.ndarray:
    """A numeric array of an ``.npy`` file; nothing is unpickled.

    Raises:
        RecordingError: If the file is missing, damaged, pickled, or holds no numbers.
    """
    with reading(path, ".npy array"), path.open("rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if array.dtype.kind not in "fiub":
            raise RecordingError(f"{path}: holds {array.dtype}, not numbers")
        return array


def sampling_rate_of(path: Path, found: float | None, given: float | None) -> float:
    """The rate that the user gave, else the one that the file holds.

    Raises:
        RecordingError: If there is neither.
    """
    if given is not None:
        return given
    if found is None:
        raise RecordingError(f"{path}: does not say its sampling rate; give it in Hz with --sampling-rate")
    return found
