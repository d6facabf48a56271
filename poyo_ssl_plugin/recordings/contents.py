"""What a recording holds: its neurons and their ids, its splits, its animal.

Works on the ``Data`` objects of both torch_brain generations and imports neither.

The Allen pipeline writes the neurons of ``calcium_traces`` as ``rois``, while spike recordings and every
torch_brain transform say ``units``. :func:`neurons` is the one place that knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from poyo_ssl_plugin.errors import PoyoSSLError, RecordingError

if TYPE_CHECKING:
    from poyo_ssl_plugin.compat import ArrayDict, Data

_Thing = TypeVar("_Thing")

TRACES = "calcium_traces.df_over_f"
SPIKES = "spikes"

# What h5py and torch_brain raise, somewhere inside, where a file is not what it should be.
_DAMAGE = (
    OSError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def recording_errors(name: str) -> Iterator[None]:
    """Say of which recording an error is, whatever the file made a library raise.

    Raises:
        RecordingError: Instead of any error that a damaged file can cause.

    Example:
        >>> with recording_errors("a"):
        ...     raise KeyError("domain")
        Traceback (most recent call last):
        ...
        poyo_ssl_plugin.errors.RecordingError: recording a: damaged (KeyError: 'domain'); prepare it again
    """
    try:
        yield
    except RecordingError as error:
        if name in str(error):
            raise
        raise RecordingError(f"recording {name}: {error}") from error
    except PoyoSSLError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise RecordingError(
            f"recording {name}: damaged ({type(error).__name__}: {reason}); prepare it again"
        ) from error


def recording_id(data: Data) -> str:
    """The session id a recording carries (``"?"`` if it has none), for messages.

    Example:
        >>> from types import SimpleNamespace
        >>> recording_id(SimpleNamespace(session=SimpleNamespace(id="mouse1"))), recording_id(SimpleNamespace())
        ('mouse1', '?')
    """
    return str(getattr(getattr(data, "session", None), "id", "?"))


def neurons(data: Data, field: str = TRACES) -> ArrayDict:
    """The table of neurons that the columns (or unit indices) of ``field`` refer to.

    Traces belong to ``rois`` where there are any, else to ``units``; spikes the other way round.

    Raises:
        RecordingError: If the recording has neither.
    """
    for name in neuron_groups(data, field):
        return getattr(data, name)
    raise RecordingError(
        f"recording {recording_id(data)}: has neither 'rois' nor 'units', so its neurons have no ids; "
        "prepare it again with brainsets"
    )


def neuron_groups(data: Data, field: str = TRACES) -> list[str]:
    """Names of the tables (``rois``, ``units``) that describe the neurons of ``field``, best first.

    Example:
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays
        >>> neuron_groups(recording_from_arrays(np.zeros((100, 2)), recording="mouse1", sampling_rate=10.0))
        ['rois']
    """
    order = ("units", "rois") if field.partition(".")[0] == SPIKES else ("rois", "units")
    attributes = data.__dict__  # keys() makes a list of all of them, for every window anew
    return [name for name in order if name in attributes]


def unit_ids(data: Data, field: str = TRACES) -> np.ndarray:
    """Ids of the neurons of ``field``, a string array of shape (N,).

    Raises:
        RecordingError: If there are none.

    Example:
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays
        >>> traces = np.zeros((100, 2))
        >>> data = recording_from_arrays(traces, recording="mouse1", sampling_rate=10.0, unit_ids=["a", "b"])
        >>> unit_ids(data).tolist()
        ['mouse1/a', 'mouse1/b']
    """
    table = neurons(data, field)
    try:
        ids = np.asarray(table.id)
    except AttributeError:
        raise RecordingError(
            f"recording {recording_id(data)}: its neurons have no 'id'; prepare it again with brainsets"
        ) from None
    return ids if ids.dtype.kind == "U" else ids.astype(str)


def unique_ids(ids: np.ndarray, recording: str) -> np.ndarray:
    """Ids (N,) that no other recording has: ``recording/id``, as torch_brain writes them. Those that have it stay.

    Example:
        >>> unique_ids(np.array(["7", "8"]), "a").tolist()
        ['a/7', 'a/8']
    """
    return np.array([f"{recording}/{unit}" for unit in own_ids(ids, recording).tolist()], dtype=str)


def own_ids(ids: np.ndarray, recording: str) -> np.ndarray:
    """Ids (N,) within a recording, as tables and diets hold them: without what :func:`unique_ids` put before them.

    Example:
        >>> own_ids(np.array(["a/7", "a/8"]), "a").tolist()
        ['7', '8']
    """
    prefix = f"{recording}/"
    if len(ids) == 0 or not np.char.startswith(ids, prefix).all():
        return ids
    return np.array([unit[len(prefix) :] for unit in ids.tolist()], dtype=str)


def clone(thing: _Thing, **changes: object) -> _Thing:
    """A shallow copy of a torch_brain object with some attributes replaced, unchecked.

    Constructors and attributes of torch_brain check what they are given; for a window that is cut from
    a checked recording this would be most of the time it takes.

    Example:
        >>> from poyo_ssl_plugin.compat import Interval
        >>> short = Interval(0.0, 2.0)
        >>> long = clone(short, end=np.array([9.0]))
        >>> short.end.tolist(), long.start.tolist(), long.end.tolist()
        ([2.0], [0.0], [9.0])
    """
    made = object.__new__(type(thing))
    made.__dict__.update(thing.__dict__, **changes)
    return made


def refuse_duplicates(ids: np.ndarray, recording: str) -> None:
    """Refuse ids (N,) of which two are the same.

    Raises:
        RecordingError: If two neurons of the recording share an id.

    Example:
        >>> refuse_duplicates(np.array(["a", "b", "a"]), "mouse1")
        Traceback (most recent call last):
        ...
        poyo_ssl_plugin.errors.RecordingError: recording mouse1: unit id 'a' occurs twice; ids must be unique ...
    """
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise RecordingError(
            f"recording {recording}: unit id {str(unique[counts > 1][0])!r} occurs twice; ids must be unique within "
            "a recording"
        )


def cre_line(data: Data) -> str:
    """The Cre line of the animal, ``""`` where the recording does not say.

    Example:
        >>> from types import SimpleNamespace
        >>> cre_line(SimpleNamespace(subject=SimpleNamespace(cre_line="Sst_IRES_Cre"))), cre_line(SimpleNamespace())
        ('Sst_IRES_Cre', '')
    """
    return str(getattr(getattr(data, "subject", None), "cre_line", "") or "")


def split_intervals(data: Data, split: str | None) -> np.ndarray:
    """Start and end times of a split, in seconds, shape (R, 2).

    Args:
        data: The recording.
        split: ``"train"``, ``"valid"``, ``"test"`` or any other name for which the recording has
            ``<split>_domain``; ``None`` for the whole recording.

    Raises:
        RecordingError: If the recording has no such split, or it is empty.

    Example:
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays
        >>> traces = np.zeros((100, 2))
        >>> data = recording_from_arrays(traces, recording="mouse1", sampling_rate=10.0, split="0.6,0.2,0.2")
        >>> split_intervals(data, "train").tolist(), split_intervals(data, None).tolist()
        ([[0.0, 6.0]], [[0.0, 10.0]])
    """
    domain = data.domain if split is None else getattr(data, f"{split}_domain", None)
    if domain is None:
        known = sorted(key.removesuffix("_domain") for key in data.keys() if key.endswith("_domain"))
        raise RecordingError(
            f"recording {recording_id(data)}: has no split {split!r}; it has {', '.join(known) or 'none'}"
        )
    pairs = np.stack([np.asarray(domain.start, float), np.asarray(domain.end, float)], axis=1)
    if len(pairs) == 0:
        raise RecordingError(f"recording {recording_id(data)}: split {split!r} is empty")
    if not (np.isfinite(pairs).all() and (pairs[:, 1] >= pairs[:, 0]).all()):
        raise RecordingError(
            f"recording {recording_id(data)}: split {split!r} has times that are not finite, or that end before they "
            "start; prepare it again"
        )
    return pairs
