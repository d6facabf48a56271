"""Make the ``brainsets`` command know the pipeline of this package.

``brainsets list`` shows the subfolders of one folder inside torch_brain (or brainsets), and has no entry
points. So registering puts one symbolic link there, which shows where it leads and stays right when this
package is upgraded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from poyo_ssl_plugin.errors import RegistrationError

PIPELINE = "allen_brain_observatory"
PIPELINE_DIR = Path(__file__).resolve().parent / "pipelines" / PIPELINE
_WITHOUT = f"without registering: brainsets prepare {str(PIPELINE_DIR)!r} --local"


@dataclass(frozen=True)
class Registration:
    """Whether the pipeline is registered.

    Attributes:
        state: ``"registered"``, ``"absent"``, ``"moved"`` (a link to where this package is no longer),
            or ``"foreign"`` (something that this package did not write).
        place: Where the ``brainsets`` command looks for it.
        found: What is there, in words.
        remedy: What to do about it, empty where nothing is wrong.
    """

    state: str
    place: Path
    found: str
    remedy: str = ""


def registration(folder: Path | None = None) -> Registration:
    """Look whether the pipeline is registered, and change nothing.

    Args:
        folder: The folder of pipelines; that of the installed generation by default.
    """
    place = (_pipelines_dir() if folder is None else folder) / PIPELINE
    if not os.path.lexists(place):
        return Registration("absent", place, f"{PIPELINE} is not registered", "poyo-ssl register")
    if not place.is_symlink():
        found = f"{place} exists and was not written by poyo-ssl"
        return Registration("foreign", place, found, _WITHOUT)
    target = place.parent / os.readlink(place)
    if target.resolve() == PIPELINE_DIR:
        return Registration("registered", place, f"{PIPELINE} is registered: {place} -> {PIPELINE_DIR}")
    if target.parts[-3:] == PIPELINE_DIR.parts[-3:]:
        return Registration("moved", place, f"{place} leads to another installation, {target}", "poyo-ssl register")
    return Registration("foreign", place, f"{place} leads to {target}, which is not poyo-ssl's", _WITHOUT)


def register_pipeline(folder: Path | None = None) -> str:
    """Make ``brainsets prepare allen_brain_observatory`` find the pipeline; do nothing if it does.

    Args:
        folder: The folder of pipelines; that of the installed generation by default.

    Returns:
        What was written, in words.

    Raises:
        RegistrationError: If the place is taken by something else or cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> register_pipeline(folder).startswith("wrote")
        True
        >>> register_pipeline(folder).startswith("nothing to do")
        True
        >>> unregister_pipeline(folder).startswith("removed")
        True
    """
    now = registration(folder)
    if now.state == "registered":
        return f"nothing to do: {now.found}"
    if now.state == "foreign":
        raise RegistrationError(f"{now.found}; move it away first, or {now.remedy}")
    if not now.place.parent.is_dir():
        raise RegistrationError(f"{now.place.parent}: no such folder; is torch_brain installed? Or {_WITHOUT}")
    try:
        _replace_link(now.place)
    except OSError as error:
        raise RegistrationError(f"{now.place}: cannot be written ({error.strerror}); {_WITHOUT}") from error
    return f"wrote {now.place} -> {PIPELINE_DIR}; 'poyo-ssl register --undo' removes it"


def unregister_pipeline(folder: Path | None = None) -> str:
    """Remove what :func:`register_pipeline` wrote; do nothing if there is nothing.

    Args:
        folder: As for :func:`register_pipeline`.

    Returns:
        What was removed, in words.

    Raises:
        RegistrationError: If something else is there, or it cannot be removed.
    """
    now = registration(folder)
    if now.state == "absent":
        return f"nothing to do: {now.found}"
    if now.state == "foreign":
        raise RegistrationError(f"{now.found}; it is left as it is")
    try:
        now.place.unlink()
    except OSError as error:
        raise RegistrationError(f"{now.place}: cannot be removed ({error.strerror})") from error
    return f"removed {now.place}"


def _replace_link(place: Path) -> None:
    """Link ``place`` to the pipeline in one step, so that an earlier link stays if that fails."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        temporary.symlink_to(PIPELINE_DIR, target_is_directory=True)
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _pipelines_dir() -> Path:
    from poyo_ssl_plugin.compat import pipelines_dir

    try:
        return pipelines_dir()
    except ModuleNotFoundError as error:
        raise RegistrationError(f"{error}; install torch_brain") from None
