"""Statistics that a table can hold for every neuron, by name.

Skewness, kurtosis, mean and standard deviation are always there. Another statistic is a class that
sees the samples block by block and returns one number per neuron:

Example:
    >>> import numpy as np
    >>> from poyo_ssl_plugin.predictability import register_statistic
    >>> @register_statistic("active_fraction")
    ... class ActiveFraction:
    ...     '''Share of samples above 0.5 dF/F.'''
    ...     def __init__(self, n_units):
    ...         self.active, self.total = np.zeros(n_units), 0
    ...     def update(self, rows):
    ...         self.active += (rows > 0.5).sum(axis=0)
    ...         self.total += len(rows)
    ...     def result(self):
    ...         return self.active / self.total
    >>> "active_fraction" in statistic_names()
    True
    >>> unregister_statistic("active_fraction")

An installed distribution offers one by an entry point, see :mod:`poyo_ssl_plugin.extensions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from poyo_ssl_plugin.errors import PoyoSSLError
from poyo_ssl_plugin.extensions import extension_names, load_extension


class Statistic(Protocol):
    """One number per neuron from samples that arrive in blocks, in the order of time."""

    def update(self, rows: np.ndarray) -> None:
        """See the next samples, shape (T, N); NaN marks missing ones."""

    def result(self) -> np.ndarray:
        """The statistic of all samples seen, shape (N,), float."""


_Factory = TypeVar("_Factory", bound=Callable[[int], Statistic])

_REGISTRY: dict[str, Callable[[int], Statistic]] = {}


def register_statistic(name: str) -> Callable[[_Factory], _Factory]:
    """Class decorator: offer a statistic to :func:`score_dataset` under ``name``.

    The class is constructed with the number of neurons.

    Raises:
        PoyoSSLError: If the name is taken or is not an identifier.

    Example:
        >>> @register_statistic("peak")
        ... class Peak:
        ...     def __init__(self, n_units):
        ...         self.peak = np.full(n_units, -np.inf)
        ...     def update(self, rows):
        ...         self.peak = np.fmax(self.peak, rows.max(axis=0))
        ...     def result(self):
        ...         return self.peak
        >>> peak = find_statistic("peak")(2)
        >>> peak.update(np.array([[1.0, 5.0], [3.0, 2.0]]))
        >>> peak.result().tolist()
        [3.0, 5.0]
        >>> unregister_statistic("peak")
    """
    if not name.isidentifier():
        raise PoyoSSLError(f"a statistic's name becomes a column and must be an identifier, not {name!r}")
    if name in _REGISTRY:
        raise PoyoSSLError(f"statistic {name!r} is registered already")

    def register(factory: _Factory) -> _Factory:
        _REGISTRY[name] = factory
        return factory

    return register


def unregister_statistic(name: str) -> None:
    """Take a statistic back.

    Example:
        >>> register_statistic("half")(lambda n_units: None) is None
        False
        >>> unregister_statistic("half")
        >>> "half" in statistic_names()
        False
    """
    _REGISTRY.pop(name, None)


def statistic_names() -> list[str]:
    """Names of the statistics that are registered or offered by installed distributions, sorted.

    Example:
        >>> _ = register_statistic("peak")(lambda n_units: None)
        >>> "peak" in statistic_names()
        True
        >>> unregister_statistic("peak")
    """
    return sorted({*_REGISTRY, *extension_names("statistics")})


def find_statistic(name: str) -> Callable[[int], Statistic]:
    """What constructs the statistic of a name, given the number of neurons.

    Raises:
        PoyoSSLError: If no statistic has that name, or the distribution that offers it is broken.
    """
    factory = _REGISTRY.get(name) or load_extension("statistics", name)
    if factory is None:
        known = ", ".join(statistic_names()) or "none"
        raise PoyoSSLError(f"unknown statistic {name!r}; registered are: {known}")
    return factory
