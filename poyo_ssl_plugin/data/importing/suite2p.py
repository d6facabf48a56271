"""The output folder of suite2p."""

from __future__ import annotations

import math
import pickletools
from pathlib import Path

import numpy as np

from poyo_ssl_plugin.data.importing.df_over_f import df_over_f
from poyo_ssl_plugin.data.importing.traces import Traces, load_array, reading, sampling_rate_of
from poyo_ssl_plugin.errors import RecordingError


def read_suite2p(folder: str | Path, *, sampling_rate: float | None = None) -> Traces:
    """dF/F of the cells (``iscell``) of all planes, from ``F.npy`` and ``Fneu.npy``.

    ``ops.npy`` is a pickle, which can run any code when it is loaded. So it is never unpickled: the rate is looked
    for among its plain numbers, then among those of ``settings.npy``. ``stat.npy`` is left alone.

    Args:
        folder: ``suite2p``, with ``plane0``, ``plane1``, ..., or one of these, or ``combined``.
        sampling_rate: In Hz, of one plane; by default ``fs`` of ``ops.npy`` or ``settings.npy``.

    Raises:
        RecordingError: If a file is missing or damaged, no cell is left, or the rate is not known.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.save(folder / "F.npy", np.random.default_rng(0).normal(1000.0, 50.0, (3, 300)))  # (ROIs, frames)
        >>> np.save(folder / "Fneu.npy", np.full((3, 300), 500.0))
        >>> np.save(folder / "iscell.npy", np.array([[1, 0.9], [0, 0.2], [1, 0.8]]))
        >>> traces = read_suite2p(folder, sampling_rate=30.0)
        >>> traces.values.shape, [name.rpartition("_")[2] for name in traces.unit_ids.tolist()]
        ((300, 2), ['0', '2'])
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RecordingError(f"{folder}: no such folder; give the suite2p folder that is to be imported")
    planes = [folder] if (folder / "F.npy").is_file() else sorted(folder.glob("plane*"), key=_plane_number)
    planes = [plane for plane in planes if (plane / "F.npy").is_file()]
    if not planes:
        raise RecordingError(f"{folder}: has neither F.npy nor plane0/F.npy; give the folder that suite2p wrote")
    # suite2p 1 writes no ops.npy for its combined view, and for planes only if it is told to.
    rates = [_rate(planes[0] / name) for name in ("ops.npy", "settings.npy")]
    rate = sampling_rate_of(planes[0] / "ops.npy", rates[1] if rates[0] is None else rates[0], sampling_rate)
    read = [_plane(plane, rate) for plane in planes]
    n_frames = min(len(values) for values, _ in read)
    if max(len(values) for values, _ in read) > n_frames + 1:
        lengths = ", ".join(f"{plane.name} {len(values)}" for plane, (values, _) in zip(planes, read))
        raise RecordingError(f"{folder}: planes differ in frames ({lengths}); import one of them")
    values = np.concatenate([values[:n_frames] for values, _ in read], axis=1)
    names = [folder.name] if len(planes) == 1 and planes[0] == folder else [plane.name for plane in planes]
    ids = [f"{name}_{roi}" for name, (_, rois) in zip(names, read) for roi in rois.tolist()]
    if not ids:
        raise RecordingError(f"{folder}: iscell.npy calls none of the ROIs a cell; curate them in suite2p first")
    return Traces(values, rate, np.array(ids))


def _plane(folder: Path, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """dF/F (T, N) of the cells of a plane, and their numbers in suite2p."""
    fluorescence, neuropil = load_array(folder / "F.npy"), load_array(folder / "Fneu.npy")
    cells = load_array(folder / "iscell.npy")
    if fluorescence.ndim != 2 or neuropil.shape != fluorescence.shape:
        raise RecordingError(
            f"{folder / 'Fneu.npy'}: has shape {neuropil.shape} and F.npy {fluorescence.shape}; both must be "
            "(ROIs, frames)"
        )
    if cells.shape[:1] != fluorescence.shape[:1] or cells.ndim not in (1, 2) or 0 in cells.shape[1:]:
        raise RecordingError(
            f"{folder / 'iscell.npy'}: has shape {cells.shape} for {len(fluorescence)} ROIs of F.npy; were its axes "
            "swapped, or the files written by different runs?"
        )
    if folder.name == "combined":
        # suite2p fills up planes that end a frame earlier with zeros.
        n_filled = (fluorescence[:, ::-1] != 0).argmax(axis=1).max(initial=0)
        n_frames = fluorescence.shape[1] - n_filled
        fluorescence, neuropil = fluorescence[:, :n_frames], neuropil[:, :n_frames]
    rois = np.flatnonzero(cells if cells.ndim == 1 else cells[:, 0])
    if len(rois) == 0:
        return np.empty((fluorescence.shape[1], 0), np.float32), rois
    return df_over_f(fluorescence[rois].T, neuropil[rois].T, rate), rois


def _plane_number(path: Path) -> tuple[int, str]:
    digits = path.name.removeprefix("plane")
    return (int(digits) if digits.isdecimal() else 1 << 30), path.name


def _rate(path: Path) -> float | None:
    """``fs`` of a pickled dictionary, read from the list of its instructions without running them."""
    if not path.is_file():
        return None
    with reading(path, f"{path.name} of suite2p"), path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        skip_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        skip_header(file)
        key_seen = False
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
                continue
            if key_seen and isinstance(argument, (int, float)) and opcode.name.startswith(("BIN", "FLOAT", "INT")):
                return float(argument) if math.isfinite(argument) else None
            key_seen = argument == "fs" and "UNICODE" in opcode.name
    return None
