"""The images of a movie, and which of them are trained and tested on."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from poyo_ssl_plugin.compat import Data
from poyo_ssl_plugin.data.tasks import FRAMES, Task
from poyo_ssl_plugin.data.trials import Trials
from poyo_ssl_plugin.errors import RecipeError, RecordingError
from poyo_ssl_plugin.recordings import recording_id

# Every presentation of a frame is a trial of its own, labelled with the number of the frame.
FRAMES_TASK = Task(FRAMES, source="natural_movie_one", label="frame", kind="frames", classes=tuple(range(900)))
FRAMES_STEM = "natural_movie_one_frames"


@dataclass(frozen=True)
class MovieFrames:
    """Images of some or all frames of a movie.

    Attributes:
        image: Grayscale images, uint8 (F, H, W).
        frame: Which frames of the movie they are, increasing, int64 (F,).

    Example:
        >>> frames = MovieFrames(np.zeros((2, 64, 128), np.uint8), frame=np.array([7, 8]))
        >>> frames.size, frames.rows(np.array([8, 7, 8])).tolist()
        ((64, 128), [1, 0, 1])
    """

    image: np.ndarray
    frame: np.ndarray

    @classmethod
    def load(cls, path: str | Path) -> MovieFrames:
        """Read ``image`` (F, H, W) and ``frame`` (F,) from an ``.npz`` or HDF5 file; nothing is unpickled.

        Raises:
            RecordingError: If the file is missing, damaged, or its arrays are not as they must be.

        Example:
            >>> import tempfile
            >>> file = Path(tempfile.mkdtemp()) / "natural_movie_one_frames.npz"
            >>> np.savez(file, image=np.zeros((2, 64, 128), np.uint8), frame=np.array([7, 8]))
            >>> MovieFrames.load(file).frame.tolist()
            [7, 8]
        """
        path = Path(path)
        if not path.is_file():
            raise RecordingError(f"{path}: no such file of movie frames; name one with frames.file=...")
        try:
            with np.load(path, allow_pickle=False) if path.suffix == ".npz" else h5py.File(path, "r") as file:
                image, frame = np.asarray(file["image"]), np.asarray(file["frame"])
        except (OSError, KeyError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise RecordingError(
                f"{path}: cannot be read as movie frames ({error}); it must be an .npz or HDF5 file with 'image' "
                "(frames, height, width) and 'frame' (frames,)"
            ) from None
        found = f"image {image.dtype} {image.shape}, frame {frame.dtype} {frame.shape}"
        if image.ndim != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise RecordingError(f"{path}: 'image' is not (frames, height, width) of uint8: {found}")
        if frame.shape != image.shape[:1] or frame.dtype.kind not in "iu":
            raise RecordingError(f"{path}: 'frame' is not ({len(image)},) of integers: {found}")
        if len(np.unique(frame)) < len(frame):
            raise RecordingError(f"{path}: a frame occurs twice in 'frame'")
        order = np.argsort(frame)
        return cls(image[order], frame[order].astype(np.int64))

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[1], self.image.shape[2]

    def rows(self, frames: np.ndarray) -> np.ndarray:
        """Rows of ``image`` that show ``frames``, int64 of the same shape.

        Raises:
            RecordingError: If a frame has no image.
        """
        rows = np.minimum(np.searchsorted(self.frame, frames), len(self.frame) - 1)
        missing = self.frame[rows] != frames
        if missing.any():
            raise RecordingError(f"frame {int(np.asarray(frames)[missing].flat[0])} of the movie has no image")
        return rows


def find_frames_file(folder: str | Path, file: str | Path | None = None) -> Path:
    """The file of movie frames: the one named, or the one beside the recordings or in the folder above.

    Raises:
        RecordingError: If there is none.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.savez(folder / "natural_movie_one_frames.npz", image=np.zeros((1, 64, 128), np.uint8), frame=[0])
        >>> find_frames_file(folder).name
        'natural_movie_one_frames.npz'
    """
    if file is not None:
        return Path(file)
    folder = Path(folder)
    for place in (folder, folder.parent):
        for suffix in (".npz", ".h5", ".hdf5"):
            if (found := place / f"{FRAMES_STEM}{suffix}").is_file():
                return found
    raise RecordingError(
        f"{folder}: has no {FRAMES_STEM}.npz (or .h5) beside its recordings, so there are no images to reconstruct; "
        "name the file with frames.file=..."
    )


def split_frames(
    available: np.ndarray,
    *,
    protocol: Literal["repeats", "frames"] = "repeats",
    fold: int = 0,
    n_folds: int = 5,
    n_blocks: int = 10,
    gap: int = 30,
    n_frames: int = FRAMES_TASK.n_classes,
) -> dict[str, np.ndarray]:
    """Choose the frames to train, to validate and to test on.

    Protocol ``"repeats"`` (the paper's) takes all frames everywhere: the test is on repeats of the movie
    that training did not see, of images that it did. Protocol ``"frames"`` holds out images: the frames
    are cut into ``n_blocks`` contiguous blocks, every ``n_folds``-th block from ``fold`` on is tested, and
    frames closer than ``gap`` to a tested one are not used at all. The movie is shown end to end, so its
    first and last frames are neighbours. Validation uses the frames of training, in repeats of its own.

    Args:
        available: Frames that have an image, (F,).
        protocol: ``"repeats"`` or ``"frames"``.
        fold: Which blocks to hold out, in [0, n_folds).
        n_folds: Number of folds.
        n_blocks: Number of blocks.
        gap: Frames to leave out on both sides of a held-out block.
        n_frames: Length of the movie.

    Returns:
        ``"train"``, ``"valid"`` and ``"test"`` to frames, increasing.

    Raises:
        RecipeError: If the arguments leave nothing to train or to test on.

    Example:
        >>> parts = split_frames(np.arange(12), protocol="frames", fold=1, n_folds=3, n_blocks=3, gap=2, n_frames=12)
        >>> parts["test"].tolist(), parts["train"].tolist()
        ([4, 5, 6, 7], [0, 1, 10, 11])
    """
    available = np.unique(available)
    if protocol not in ("repeats", "frames"):
        raise RecipeError(f"frames.protocol must be 'repeats' or 'frames', not {protocol!r}")
    if protocol == "repeats":
        return {"train": available, "valid": available, "test": available}
    if not 0 <= fold < n_folds <= n_blocks:
        raise RecipeError(
            f"frames.fold={fold}, n_folds={n_folds}, n_blocks={n_blocks}: it must be 0 <= fold < n_folds <= n_blocks"
        )
    test = np.concatenate(np.array_split(available, n_blocks)[fold::n_folds])
    distance = np.abs(available[:, None] - test)
    distance = np.minimum(distance, n_frames - distance)
    train = available[(distance > gap).all(axis=1)]
    if len(train) == 0 or len(test) == 0:
        raise RecipeError(
            f"holding out {len(test)} of {len(available)} frames with a gap of {gap} leaves {len(train)} to train on; "
            "choose a smaller frames.gap or other frames.n_blocks"
        )
    return {"train": train, "valid": train, "test": test}


def find_presentations(data: Data, frames: np.ndarray, times: np.ndarray) -> Trials:
    """Find the presentations of some frames whose middle lies in some times.

    :func:`~poyo_ssl_plugin.data.find_trials` allows trials to stick out by more than a frame lasts; here
    every presentation belongs to one part of a split only.

    Args:
        data: The recording.
        frames: The frames, (F,).
        times: Start and end in seconds, (R, 2).

    Raises:
        RecordingError: If the recording was not shown the movie.

    Example:
        >>> from poyo_ssl_plugin.compat import Data, Interval
        >>> shown = Interval(start=np.array([0.0, 0.5, 1.0]), end=np.array([0.5, 1.0, 1.5]), frame=np.array([7, 8, 7]))
        >>> data = Data(domain=Interval(0.0, 2.0), natural_movie_one=shown)
        >>> find_presentations(data, np.array([7]), np.array([[0.0, 2.0]])).start.tolist()
        [0.0, 1.0]
    """
    task = FRAMES_TASK
    if task.source not in data.keys():
        raise RecordingError(f"recording {recording_id(data)}: has no {task.source!r}, whose frames are reconstructed")
    presentations = getattr(data, task.source)
    start, end = np.asarray(presentations.start, float), np.asarray(presentations.end, float)
    label = task.labels(presentations)
    middle = (start + end)[:, None] / 2
    inside = (middle >= times[:, 0]) & (middle < times[:, 1])
    keep = inside.any(axis=1) & np.isin(label, frames)
    bounds = times[inside[keep].argmax(axis=1)] if keep.any() else np.empty((0, 2))
    return Trials(start[keep], end[keep], label[keep], bounds)
