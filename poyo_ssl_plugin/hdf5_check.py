"""Files that HDF5 never comes back from, found in a process that can be stopped.

A damaged file can make the HDF5 library loop for ever or crash, which no ``except`` catches. One child
process goes through all files, saying where it is; where it falls silent or dies, that file is named
and another child goes on with the next.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from poyo_ssl_plugin.errors import RecordingError

# A process that has not even loaded HDF5 by then is not slow because of a recording.
_START = 120.0
# Arrays up to so many bytes are read whole, of others the first and last row.
_SMALL = 1 << 16


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
    command = [sys.executable, "-m", __spec__.name]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(command, text=True, env=environment, **pipes)  # noqa: S603  this Python, no shell
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


def _listen(lines: Any, said: queue.Queue[str | None]) -> None:
    for line in lines:
        said.put(line)
    said.put(None)


def main() -> None:
    """Read the files that standard input names, a line of output for each."""
    import h5py

    print("ready", flush=True)
    for path in json.load(sys.stdin):
        # Errors are the readers' to report.
        with suppress(Exception), h5py.File(path, "r") as file:
            _read(file, set())
        print("done", flush=True)


def _read(item: Any, seen: set[int]) -> None:
    import h5py

    # A damaged file may contain itself.
    address = h5py.h5o.get_info(item.id).addr
    if address in seen:
        return
    seen.add(address)
    with suppress(Exception):
        for name in item.attrs:
            with suppress(Exception):
                item.attrs[name]
    if isinstance(item, h5py.Group):
        for name in item:
            with suppress(Exception):
                _read(item[name], seen)
    elif item.ndim == 0 or item.nbytes <= _SMALL:
        item[()]
    else:
        item[:1], item[-1:]


if __name__ == "__main__":
    main()
