"""One run per folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from poyo_ssl_plugin.errors import OutputError
from poyo_ssl_plugin.files import writing

# A run that was killed may have worker processes that take a moment to notice.
PATIENCE = 10.0


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
