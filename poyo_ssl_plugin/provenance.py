"""What a result was made with: versions and the state of the source."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from poyo_ssl_plugin import __version__

_PACKAGES = (
    "torch",
    "torch_brain",
    "temporaldata",
    "brainsets",
    "lightning",
    "numpy",
    "scipy",
    "torchmetrics",
    "hydra-core",
)


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of what is installed of the packages it stands on."""
    found = {"poyo_ssl_plugin": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision(folder: str | Path | None = None) -> str | None:
    """Revision of the checkout that holds this package (or ``folder``), ``None`` outside of one.

    Ends in ``-dirty`` where tracked files were changed.
    """
    place = Path(folder) if folder is not None else Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607  the user's own git
            cwd=place,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
