"""Frames of a stimulus movie, made small once and kept beside the recordings."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

FRAMES_FILE = "natural_movie_one_frames.npz"


def resize_frames(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    r"""Average frames over the area of every new pixel.

    .. math:: F'_{f} = \operatorname{round}(A F_f B^\top)

    where :math:`A` (h, H) and :math:`B` (w, W) hold the share of each old row and column in a new one.

    Args:
        frames: Grey values, uint8 (F, H, W).
        size: New height and width, at most the old ones.

    Returns:
        uint8 (F, h, w).

    Raises:
        ValueError: If the frames are no such array or the new size is larger.

    Example:
        >>> resize_frames(np.array([[[0, 100, 200, 200]]], np.uint8), (1, 2)).tolist()
        [[[50, 200]]]
    """
    if frames.ndim != 3 or frames.dtype != np.uint8:
        raise ValueError(f"a movie must be uint8 (frames, height, width), not {frames.dtype} {frames.shape}")
    if not all(1 <= new <= old for new, old in zip(size, frames.shape[1:], strict=True)):
        raise ValueError(
            f"frames of {frames.shape[1]}x{frames.shape[2]} cannot be made {size[0]}x{size[1]}; choose a smaller size"
        )
    rows, columns = (_area_weights(old, new) for old, new in zip(frames.shape[1:], size, strict=True))
    small = np.empty((len(frames), *size), np.uint8)
    for i, frame in enumerate(frames):
        small[i] = np.rint(rows @ frame.astype(np.float32) @ columns.T)
    return small


def store_movie(path: Path, size: tuple[int, int], template: Callable[[], np.ndarray]) -> bool:
    """Write the frames of a movie to ``path`` unless they are there.

    Safe for several processes at once: each writes a file of its own and moves it into place.

    Args:
        path: The ``.npz`` to write: ``image`` uint8 (F, h, w) and ``frame`` (F,), the number of each
            frame in the stimulus table.
        size: Height and width.
        template: Gives the frames as shown, uint8 (F, H, W); called only if the file has to be written.

    Returns:
        Whether the file was written.

    Raises:
        ValueError: If there is a file with frames of another size.
    """
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            stored = file["image"].shape[1:]
        if stored != tuple(size):
            raise ValueError(
                f"{path}: holds frames of {stored[0]}x{stored[1]}, not {size[0]}x{size[1]}; pass "
                f"--movie-size {stored[0]}x{stored[1]}, or delete the file to have it written anew"
            )
        return False
    image = resize_frames(template(), size)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, image=image, frame=np.arange(len(image)))
        # mkstemp makes files private; recordings are as readable as the folder they are in.
        os.chmod(name, 0o666 & path.parent.stat().st_mode)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    return True


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from ``"HEIGHTxWIDTH"``.

    Example:
        >>> parse_size("64x128")
        (64, 128)
    """
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError(f"a size is HEIGHTxWIDTH, such as 64x128, not {text!r}")
    return int(height), int(width)


def _area_weights(n_old: int, n_new: int) -> np.ndarray:
    """Share of each old pixel in each new one along an axis, float32 (n_new, n_old); rows sum to 1."""
    scale = n_old / n_new
    low = np.arange(n_new)[:, None] * scale
    old = np.arange(n_old)
    overlap = np.minimum(old + 1, low + scale) - np.maximum(old, low)
    return (np.clip(overlap, 0, None) / scale).astype(np.float32)
