"""The index of a window: a torch_brain ``DatasetIndex`` that also says how to draw from it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from poyo_ssl_plugin.compat import Data, DatasetIndex


@dataclass
class WindowIndex(DatasetIndex):
    """A window of a recording, as the samplers of this package yield it.

    Any torch_brain ``Dataset`` accepts it. :class:`~poyo_ssl_plugin.Recordings` hands the further
    fields on to the transforms, as attributes of the sample.

    Args:
        recording_id: Id of the recording.
        start: Start of the window in seconds.
        end: Its end in seconds.
        seed: Seed of whatever is random about this window (which units are dropped), so that a
            window is the same in any worker process and after a resumed run.
        diet_fraction: The share of the diet that is open, from its most predictable neuron on.
        target_time: Absolute time in seconds of what is to be decoded, if one moment is asked for.

    Example:
        >>> index = WindowIndex("mouse1", 10.0, 12.0, seed=7)
        >>> index.recording_id, index.end - index.start, index.diet_fraction
        ('mouse1', 2.0, 1.0)
    """

    seed: int | None = None
    diet_fraction: float = 1.0
    target_time: float | None = None


def window_generator(data: Data) -> np.random.Generator | np.random.RandomState:
    """The random generator of a sample: its own where its index had a seed, else numpy's global one.

    Its own is one generator per thread, set to a state that follows from the seed, which takes a tenth
    of the time of making one; it is the sample's until the next sample asks.
    """
    seed = getattr(data, "window_seed", None)
    if seed is None:
        return np.random.mtrand._rand
    generator: np.random.Generator = _local.generator
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": _scramble(seed) << 64 | _scramble(seed ^ _OTHER), "inc": 1},
        "has_uint32": 0,
        "uinteger": 0,
    }
    return generator


class _Local(threading.local):
    def __init__(self) -> None:
        self.generator = np.random.Generator(np.random.PCG64())


_local = _Local()
_WORD = (1 << 64) - 1
_OTHER = 0x5851F42D4C957F2D


def _scramble(z: int) -> int:
    """A 64-bit number without resemblance to ``z``: a step of SplitMix64 (Steele et al. 2014)."""
    z = (z + 0x9E3779B97F4A7C15) & _WORD
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _WORD
    return z ^ z >> 31
