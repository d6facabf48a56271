"""What the user did wrong, told once and clearly.

Every error that bad input can cause derives from :class:`PoyoSSLError`. The command line prints its
message and exits with code 2; anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import signal


class PoyoSSLError(ValueError):
    """Base of all errors caused by input: names the file, key or recording, and says what to do."""


class RecordingError(PoyoSSLError):
    """A recording cannot be read, or lacks what was asked of it."""


class TableError(PoyoSSLError):
    """A predictability table is missing, damaged, or lacks a column."""


class DietError(PoyoSSLError):
    """A diet selects nothing, or does not know the recording it is asked about."""


class RecipeError(PoyoSSLError):
    """A recipe has an unknown key, or a value that does not fit."""


class CheckpointError(PoyoSSLError):
    """A checkpoint is damaged, unsafe, or of another architecture."""


class ExtensionError(PoyoSSLError):
    """What another distribution adds to this package cannot be loaded."""


class RegistrationError(PoyoSSLError):
    """The pipeline cannot be made known to the ``brainsets`` command, or its place is taken."""


class OutputError(PoyoSSLError):
    """A result cannot be written: a full disk, a read-only folder, or another run in it."""


class NumericalError(PoyoSSLError):
    """Training met a loss or a gradient that is not finite."""


class DeviceError(PoyoSSLError):
    """The device that was asked for is missing, or too small."""


class Terminated(SystemExit):
    """The scheduler asked the process to stop (SIGTERM). Start it again: it goes on where it was.

    Not an error of the input. Uncaught, it ends the process with exit code 75, "temporary failure,
    try again" in ``sysexits.h``.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(EXIT_TERMINATED)
        self.message = message

    def __reduce__(self) -> tuple[type[Terminated], tuple[str]]:
        return Terminated, (self.message,)


EXIT_TERMINATED = 75


def terminate(*_: object) -> None:
    """A handler of SIGTERM that ends the process in order, by an exception, and once: a second one is ignored.

    It would break into the end that the first has begun.

    Raises:
        Terminated: Always.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated("stopped on SIGTERM; start again, runs with resume=true, to go on")
