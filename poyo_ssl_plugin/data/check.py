"""Is a recording fit for training? Looked at before the first step, not found out in the middle."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from poyo_ssl_plugin.data.dataset import Recordings
from poyo_ssl_plugin.data.transforms import activity_field
from poyo_ssl_plugin.errors import PoyoSSLError, RecordingError
from poyo_ssl_plugin.recordings import TraceSignal, open_signal, recording_errors, recording_id, split_intervals

logger = logging.getLogger(__name__)

# A process that has not even loaded HDF5 by then is not slow because of a recording.
_START = 120.0


def usable_recordings(
    dataset: Recordings,
    names: Iterable[str] | None = None,
    *,
    on_error: str = "stop",
    field: str | None = None,
    timeout: float | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Recordings that can be trained on, and those that cannot with the reason.

    Args:
        dataset: The recordings.
        names: Which of them; all by default.
        on_error: ``"stop"`` raises at the first damaged one, ``"skip"`` lists it.
        field: The activity; by default traces where there are any, else spikes.
        timeout: As :func:`examine_recordings`.

    Raises:
        RecordingError: Naming the recording and what to do; also if none is left.
    """
    examined = examine_recordings(dataset, names, field=field, timeout=timeout)
    return _sort_out(examined, on_error, "Pass data.on_error=skip to train without it")


def responsive_recordings(
    dataset: Recordings, *, on_error: str = "stop", timeout: float | None
) -> tuple[list[str], dict[str, str]]:
    """Recordings that HDF5 neither hangs nor crashes on, and the others with the reason; as :func:`usable_recordings`.

    Raises:
        RecordingError: Naming the recording and what to do; also if none is left.
    """
    hanging = _unresponsive(dataset, dataset.recording_ids, timeout)
    examined = ((name, hanging.get(name)) for name in dataset.recording_ids)
    return _sort_out(examined, on_error, "Leave it out with --on-error skip")


def examine_recordings(
    dataset: Recordings, names: Iterable[str] | None = None, *, field: str | None = None, timeout: float | None = None
) -> Iterator[tuple[str, PoyoSSLError | None]]:
    """Each recording by name with what is wrong with it, or ``None``.

    Args:
        dataset: The recordings.
        names: Which of them; all by default.
        field: The activity; by default traces where there are any, else spikes.
        timeout: Look at all files in another process first, and take one for damaged that HDF5 crashes on
            or does not come back from in so many seconds. ``None`` or 0 trusts HDF5.
    """
    names = list(dataset.recording_ids if names is None else names)
    hanging = _unresponsive(dataset, names, timeout)
    for name in names:
        error: PoyoSSLError | None = hanging.get(name)
        if error is None:
            try:
                check_recording(dataset, name, field=field)
            except PoyoSSLError as found:
                error = found
        yield name, error


def _unresponsive(dataset: Recordings, names: Iterable[str], timeout: float | None) -> dict[str, RecordingError]:
    if not timeout:
        return {}
    found = unresponsive_files({name: dataset.paths[name] for name in names}, timeout=timeout)
    return {name: RecordingError(f"recording {name}: {reason}") for name, reason in found.items()}


def _sort_out(
    examined: Iterable[tuple[str, PoyoSSLError | None]], on_error: str, remedy: str
) -> tuple[list[str], dict[str, str]]:
    if on_error not in ("stop", "skip"):
        raise RecordingError(f"data.on_error must be stop or skip, not {on_error!r}")
    good, damaged = [], {}
    for name, error in examined:
        if error is None:
            good.append(name)
        elif on_error == "stop":
            raise RecordingError(f"{error}. {remedy}") from error
        else:
            logger.warning("skipped: %s", error)
            damaged[name] = str(error)
    if not good:
        raise RecordingError(f"none of {len(damaged)} recordings can be used: {'; '.join(damaged.values())}")
    return good, damaged


def check_recording(dataset: Recordings, name: str, *, field: str | None = None) -> None:
    """Open a recording, its activity and its splits, and read the first and last samples.

    Raises:
        RecordingError: If any of it is missing or damaged.
    """
    with recording_errors(name):
        data = dataset.get_recording(name)
        signal = open_signal(data, field or activity_field(data))
        if recording_id(data) != name:
            raise RecordingError(f"its session has the id {recording_id(data)!r}; the file must bear that name")
        if isinstance(signal, TraceSignal):
            np.asarray(signal.samples[:1]), np.asarray(signal.samples[-1:])
        for split in ("train", "valid", "test"):
            if f"{split}_domain" in data.keys() and len(getattr(data, f"{split}_domain").start):
                split_intervals(data, split)


def unresponsive_files(paths: Mapping[str, Path], *, timeout: float) -> dict[str, str]:
    """Files that HDF5 hangs on or crashes on, with the reason, by name.

    Groups, attributes, small arrays and the ends of large ones are read. What else is wrong with a file
    is not said here: reading it raises an error, which can be dealt with where it is read.

    Args:
        paths: Files by name.
        timeout: Seconds that one file may take.

    Raises:
        RecordingError: If no process can be started to look at them.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.h5"
        >>> _ = path.write_bytes(b"not HDF5, which HDF5 says at once")
        >>> unresponsive_files({"a": path}, timeout=30)
        {}
    """
    waiting, found = dict(paths), {}
    while waiting:
        n_done, reason = _go_through(list(waiting.values()), timeout)
        for name in list(waiting)[:n_done]:
            del waiting[name]
        if reason is None:
            break
        name = next(iter(waiting))
        found[name] = f"{waiting.pop(name)}: {reason}; prepare it again"
    return found


def _go_through(paths: list[Path], timeout: float) -> tuple[int, str | None]:
    """How many files a child process came through, and what happened to it at the next; ``None`` for nothing."""
    # Without the working directory on its path: the child imports nothing that lies about there.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "poyo_ssl_plugin.hdf5_check"]
    child = subprocess.Popen(  # noqa: S603  this Python, no shell
        command, text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdin is not None and child.stdout is not None
    said: queue.Queue[str | None] = queue.Queue()
    listener = threading.Thread(target=_listen, args=(child.stdout, said), daemon=True)
    listener.start()
    try:
        # A child that ended at once does not listen; what became of it is seen below.
        with suppress(BrokenPipeError), child.stdin:
            json.dump([str(path) for path in paths], child.stdin)
        _await_start(said, len(paths))
        for n_done in range(len(paths)):
            try:
                if said.get(timeout=timeout) is None:
                    return n_done, f"HDF5 crashed on it (exit code {child.wait()})"
            except queue.Empty:
                return n_done, f"HDF5 did not come back from it in {timeout:g} s"
        return len(paths), None
    finally:
        child.kill()
        child.wait()
        listener.join()
        child.stdout.close()


def _await_start(said: queue.Queue[str | None], n_files: int) -> None:
    with suppress(queue.Empty):
        if said.get(timeout=_START) is not None:
            return
    raise RecordingError(
        f"no process could be started to look at {n_files} recordings; a time limit of 0 (--timeout 0) reads them as "
        "they are"
    )


def _listen(lines: Iterable[str], said: queue.Queue[str | None]) -> None:
    for line in lines:
        said.put(line)
    said.put(None)
