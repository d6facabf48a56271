"""What other distributions add to this package, found by their entry points and loaded on first use.

Four groups are read. An installed distribution offers a statistic, a rule for diets, a mask or a task by
naming an object in its ``pyproject.toml``::

    [project.entry-points."poyo_ssl_plugin.statistics"]
    active_fraction = "my_package:ActiveFraction"

``docs/ecosystem.md`` has an example of each. Names of our own are not to be taken by others.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from poyo_ssl_plugin.errors import ExtensionError

Kind = Literal["statistics", "diets", "masks", "tasks"]
KINDS: tuple[Kind, ...] = ("statistics", "diets", "masks", "tasks")


def extension_names(kind: Kind) -> list[str]:
    """Names that installed distributions offer, sorted; nothing is imported."""
    return sorted({point.name for point in _points(kind)})


def load_extension(kind: Kind, name: str) -> Any:
    """What an installed distribution offers under a name.

    Returns:
        The object, or ``None`` if no distribution offers that name.

    Raises:
        ExtensionError: If it cannot be imported, is not callable, or two distributions offer the name.
    """
    points = [point for point in _points(kind) if point.name == name]
    if not points:
        return None
    if len({point.value for point in points}) > 1:
        offered = " and ".join(sorted(map(_origin, points)))
        raise ExtensionError(f"{kind}: {name!r} is offered by {offered}; uninstall one of them")
    point = points[0]
    try:
        loaded = point.load()
    except Exception as error:  # whatever a module of somebody else raises on import
        raise ExtensionError(
            f"{kind}: {name!r} of {_origin(point)} cannot be loaded ({type(error).__name__}: {error}); repair or "
            "uninstall that distribution"
        ) from error
    if not callable(loaded):
        raise ExtensionError(f"{kind}: {name!r} of {_origin(point)} is not callable but {type(loaded).__name__}")
    return loaded


def _points(kind: Kind) -> list[EntryPoint]:
    return list(entry_points(group=f"poyo_ssl_plugin.{kind}"))


def _origin(point: EntryPoint) -> str:
    """The distribution of an entry point and the object it names."""
    distribution = getattr(point.dist, "name", None) or "an unnamed distribution"
    return f"{distribution} ({point.value})"
