"""Is a recording fit for training? Looked at before the first step, not found out in the middle."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from poyo_ssl_plugin.data.transforms import activity_field
from poyo_ssl_plugin.errors import PoyoSSLError, RecordingError
from poyo_ssl_plugin.recordings import open_signal, recording_errors, recording_id, split_intervals

logger = logging.getLogger(__name__)


def usable_recordings(
    dataset: Any, names: Iterable[str] | None = None, *, on_error: str = "stop", field: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """Recordings that can be trained on, and those that cannot with the reason.

    Args:
        dataset: The recordings.
        names: Which of them; all by default.
        on_error: ``"stop"`` raises at the first damaged one, ``"skip"`` lists it.
        field: The activity; by default traces where there are any, else spikes.

    Raises:
        RecordingError: Naming the recording and what to do; also if none is left.
    """
    if on_error not in ("stop", "skip"):
        raise RecordingError(f"data.on_error must be stop or skip, not {on_error!r}")
    good, damaged = [], {}
    for name in dataset.recording_ids if names is None else names:
        try:
            check_recording(dataset, name, field=field)
            good.append(name)
        except PoyoSSLError as error:
            if on_error == "stop":
                raise RecordingError(f"{error}. Pass data.on_error=skip to train without it") from error
            logger.warning("skipped: %s", error)
            damaged[name] = str(error)
    if not good:
        raise RecordingError(f"none of {len(damaged)} recordings can be used: {'; '.join(damaged.values())}")
    return good, damaged


def check_recording(dataset: Any, name: str, *, field: str | None = None) -> None:
    """Open a recording, its activity and its splits, and read the first and last samples.

    Raises:
        RecordingError: If any of it is missing or damaged.
    """
    with recording_errors(name):
        data = dataset.get_recording(name)
        signal: Any = open_signal(data, field or activity_field(data))
        if recording_id(data) != name:
            raise RecordingError(f"its session has the id {recording_id(data)!r}; the file must bear that name")
        if hasattr(signal, "samples"):
            np.asarray(signal.samples[:1]), np.asarray(signal.samples[-1:])
        for split in ("train", "valid", "test"):
            if f"{split}_domain" in data.keys() and len(getattr(data, f"{split}_domain").start):
                split_intervals(data, split)
