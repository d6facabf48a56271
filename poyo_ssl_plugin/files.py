"""Outputs: whole files or none, written beside their place and then moved there, and one run per folder."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from poyo_ssl_plugin.errors import OutputError

# What the operating system says when a place cannot take an output; all else is a defect.
_REFUSALS = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO"),
        *("ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG"),
    )
    if hasattr(errno, name)
}

# In the folder of a run: what was asked, how far it is, and what came of it.
RECORD = "run.json"
# A run that was killed may have worker processes that take a moment to notice.
PATIENCE = 10.0


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` and rename it to ``path`` on success.

    Creates the folder if needed. If the body raises, the temporary file is removed and an earlier
    file at ``path`` stays as it was. What was renamed has reached the disk.

    Raises:
        OutputError: If the disk is full or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "out" / "hello.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("hello")
        >>> target.read_text()
        'hello'
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=path.suffix[-20:])
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            # mkstemp makes files private; results are meant to be shared like any other file.
            temporary.chmod(0o666 & ~_umask())
            _to_disk(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the operating system says against writing ``path`` into an :class:`OutputError`."""
    try:
        yield
    except OSError as error:
        number = _error_number(error)
        if number is None or number not in _REFUSALS:
            raise
        raise OutputError(
            f"{path}: cannot be written ({os.strerror(number)}); make room or choose another place. Files that were "
            "there before are as they were"
        ) from error


def write_json(path: str | Path, content: object) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def only_run_in(folder: str | Path, *, patience: float | None = None) -> Iterator[None]:
    """Hold the folder for this process. The system lets go of it however the process ends.

    Args:
        folder: The folder; created if need be.
        patience: How long to wait for another run to end, in seconds; :data:`PATIENCE` by default.

    Raises:
        OutputError: If another run goes on there, or the folder cannot be written.
    """
    folder = Path(folder)
    new = not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ".lock"
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=PATIENCE if patience is None else patience)
        except filelock.Timeout:
            raise OutputError(
                f"{folder}: another run is going on there; wait for it to end, or choose another out_dir=..."
            ) from None
    try:
        yield
    finally:
        # A run that was refused leaves nothing behind.
        if [entry.name for entry in folder.iterdir()] == [path.name]:
            path.unlink(missing_ok=True)
            if new:
                with suppress(OSError):
                    folder.rmdir()
        lock.release()


def _error_number(error: OSError) -> int | None:
    if error.errno is not None:
        return error.errno
    # HDF5 says it in words only.
    said = re.search(r"errno = (\d+)", str(error))
    return int(said.group(1)) if said else None


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
