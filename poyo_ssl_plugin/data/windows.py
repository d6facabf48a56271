"""The index of a window: a torch_brain ``DatasetIndex`` that also says how to draw from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from poyo_ssl_plugin.compat import DatasetIndex


@dataclass
class WindowIndex(DatasetIndex):
    """A window of a recording, as the samplers of this package yield it.

    Any torch_brain ``Dataset`` accepts it. :class:`~poyo_ssl_plugin.Recordings` hands the further
    fields on to the transforms, as attributes of the sample.

    Args:
        seed: Seed of whatever is random about this window (which units are dropped), so that a
            window is the same in any worker process and after a resumed run.
        diet_fraction: The share of the diet that is open, from its most predictable neuron on.
        target_time: Absolute time in seconds of what is to be decoded, if one moment is asked for.
    """

    seed: int | None = None
    diet_fraction: float = 1.0
    target_time: float | None = None


def window_generator(data: Any) -> np.random.Generator | np.random.RandomState:
    """The random generator of a sample: its own where its index had a seed, else numpy's global one."""
    seed = getattr(data, "window_seed", None)
    if seed is None:
        return np.random.mtrand._rand
    return np.random.Generator(np.random.PCG64(seed))
