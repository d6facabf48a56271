"""A folder of brainsets recordings, with ``rois`` or ``units``, as one torch_brain dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from poyo_ssl_plugin.compat import (
    ArrayDict,
    Data,
    Dataset,
    DatasetIndex,
    Interval,
    IrregularTimeSeries,
    RegularTimeSeries,
    interval,
    regular_series,
)
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.recordings import (
    Rows,
    SampleClock,
    clone,
    neuron_groups,
    recording_id,
    split_intervals,
    unique_ids,
    unit_ids,
)

# Takes a window and returns it changed or, as the last one does, a model's tokens.
Transform: TypeAlias = Callable[[Data], Any]


class Recordings(Dataset):
    """Recordings that a brainsets pipeline (or :func:`simulate`) wrote to one folder.

    A torch_brain ``Dataset`` that takes Allen recordings as they are: neurons written as ``rois``
    are found as ``units`` too, so every torch_brain transform and POYO tokenizer works on them. Ids of
    neurons are made unique by recording (``recording/id``); tables and diets know them by either id.
    Files are opened on first use, in each process anew, so the dataset can be sent to workers.

    Args:
        dataset_dir: Folder with one ``<recording id>.h5`` per recording.
        recording_ids: Which of them; all by default.
        transform: Applied to every window.
        fields: Time series and intervals to put into a window, for example ``["calcium_traces",
            "drifting_gratings"]``. Loading only these is many times faster. ``None`` loads all.

    Raises:
        RecordingError: If the folder or a recording is missing or unreadable, or ``recording_ids`` is one text.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin.data import simulate
        >>> folder = simulate(tempfile.mkdtemp(), n_recordings=1, n_units=12, minutes=4)
        >>> dataset = Recordings(folder, fields=["calcium_traces"])
        >>> window = dataset[DatasetIndex(dataset.recording_ids[0], 10.0, 12.0)]
        >>> window.calcium_traces.df_over_f.shape, len(window.units)
        ((60, 12), 12)
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        recording_ids: Iterable[str] | None = None,
        transform: Transform | None = None,
        *,
        fields: Iterable[str] | None = None,
    ) -> None:
        self.dataset_dir = Path(dataset_dir)
        paths = _recording_paths(self.dataset_dir, recording_ids)
        # torch_brain's Dataset opens every file here; ours opens them when asked.
        self._recording_ids = list(paths)
        self._data_objects = _Files(paths)
        self._templates: dict[tuple[str, str], _Template] = {}
        self.transform = transform
        self.fields = None if fields is None else tuple(fields)
        self.namespace_attributes = ["session.id", "subject.id", "units.id"]

    @property
    def paths(self) -> dict[str, Path]:
        """The file of every recording, by id."""
        return {name: self._data_objects.paths[name] for name in self.recording_ids}

    def windows(
        self,
        recording_ids: Iterable[str] | None = None,
        transform: Transform | None = None,
        fields: Iterable[str] | None = None,
    ) -> Recordings:
        """Some of these recordings with another transform and other fields; files that are open are shared.

        Args:
            recording_ids: Which; all of these by default.
            transform: Applied to every window.
            fields: As of the class.

        Raises:
            RecordingError: If there is none of that id.

        Example:
            >>> import tempfile
            >>> from poyo_ssl_plugin.data import simulate
            >>> dataset = Recordings(simulate(tempfile.mkdtemp(), n_recordings=2, n_units=12, minutes=4))
            >>> dataset.windows(["sim_001"], fields=["calcium_traces"]).recording_ids
            ['sim_001']
        """
        names = self.recording_ids if recording_ids is None else recording_ids
        chosen = Recordings(self.dataset_dir, names, transform, fields=fields)
        chosen._data_objects = self._data_objects
        return chosen

    def get_recording_hook(self, data: Data) -> None:
        """Make ids of neurons unique, and let ``units`` stand for ``rois`` where the recording has only these."""
        groups = neuron_groups(data)
        for name in groups:
            table = getattr(data, name)
            if "id" in table.keys():
                table.id = unique_ids(np.asarray(table.id).astype(str), recording_id(data))
        if groups == ["rois"]:
            data.units = data.rois
        super().get_recording_hook(data)

    def get_unit_ids(self) -> list[str]:
        """Sorted ids of all neurons of all recordings."""
        return sorted(unit for name in self.recording_ids for unit in unit_ids(self.get_recording(name)).tolist())

    get_roi_ids = get_unit_ids

    def get_sampling_intervals(self, split: str | None = None) -> dict[str, Interval]:
        """Intervals of a split (``"train"``, ``"valid"``, ``"test"``; ``None`` for all) by recording."""
        return {
            recording: interval(split_intervals(self.get_recording(recording), split))
            for recording in self.recording_ids
        }

    def __getitem__(self, index: DatasetIndex) -> Any:
        if self.fields is None:
            sample = self.get_recording(index.recording_id, index._namespace).slice(index.start, index.end)
        else:
            sample = self._template(index).window(index.start, index.end)
        for name in ("seed", "diet_fraction", "target_time"):
            if getattr(index, name, None) is not None:
                setattr(sample, f"window_{name}", getattr(index, name))
        return sample if self.transform is None else self.transform(sample)

    def _template(self, index: DatasetIndex) -> _Template:
        key = (index.recording_id, index._namespace)
        if key not in self._templates:
            self._templates[key] = _Template(self.get_recording(*key), self.fields or ())
        return self._templates[key]

    def __getstate__(self) -> dict[str, object]:
        # Templates hold open files, which belong to one process.
        return {**self.__dict__, "_templates": {}}


class _Template:
    """What all windows of a recording share, loaded once; a window adds the samples between two times.

    A window is put together from clones of objects that torch_brain made once for the recording.
    """

    def __init__(self, data: Data, fields: Iterable[str]) -> None:
        ids = unit_ids(data)
        self._shared: dict[str, ArrayDict | Data] = {"session": data.session}
        for name in neuron_groups(data):
            own = np.asarray(getattr(data, name).id)
            # One array for both tables, so that transforms see at a glance that they agree.
            same = len(own) == len(ids) and bool((own.astype(str) == ids).all())
            self._shared[name] = ArrayDict(id=ids if same else own)
        if "subject" in data.keys():
            self._shared["subject"] = data.subject
        self._interval = Interval(0.0, 1.0)
        self._window = Data(domain=self._interval)
        self._regular: dict[str, tuple[SampleClock, dict[str, Rows], RegularTimeSeries]] = {}
        self._sliced: dict[str, Interval | IrregularTimeSeries] = {}
        for name in fields:
            if name not in data.keys():
                continue
            child = getattr(data, name)
            if hasattr(child, "sampling_rate"):
                arrays = {key: Rows(child.__dict__[key]) for key in child.keys()}
                n_rows = len(next(iter(arrays.values())))
                clock = SampleClock(float(child.domain.start[0]), float(child.sampling_rate), n_rows)
                first_row = {key: samples[0:1] for key, samples in arrays.items()}
                series = regular_series(sampling_rate=clock.rate, start=0.0, **first_row)
                self._regular[name] = (clock, arrays, series)
            else:
                self._sliced[name] = child.materialize()

    def window(self, start: float, end: float) -> Data:
        parts = {name: clone(value) for name, value in self._shared.items()}
        for name, (clock, arrays, series) in self._regular.items():
            first, last = clock.row(start), clock.row(end)
            origin = clock.start + first / clock.rate - start
            domain = self._span(origin, origin + (last - first) / clock.rate)
            rows = {key: samples[first:last] for key, samples in arrays.items()}
            parts[name] = clone(series, _domain=domain, **rows)
        for name, child in self._sliced.items():
            parts[name] = child.slice(start, end)
        return clone(self._window, _domain=self._span(0.0, end - start), _absolute_start=start, **parts)

    def _span(self, start: float, end: float) -> Interval:
        return clone(self._interval, start=np.array([start]), end=np.array([end]))


class _Files:
    """Recordings by id, opened on first use and again in every process that asks."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self.paths = paths
        self._process = os.getpid()
        self._open: dict[str, Data] = {}

    def __getitem__(self, recording_id: str) -> Data:
        if self._process != os.getpid():
            self._process, self._open = os.getpid(), {}
        if recording_id not in self._open:
            self._open[recording_id] = _open_recording(self.paths, recording_id)
        return self._open[recording_id]

    def __getstate__(self) -> dict[str, object]:
        return {"paths": self.paths, "_process": -1, "_open": {}}


def _recording_paths(folder: Path, recording_ids: Iterable[str] | None) -> dict[str, Path]:
    if not folder.is_dir():
        raise RecordingError(f"{folder}: no such folder; give the folder that holds the recordings (*.h5)")
    # Names with a dot in front are of files that are being written, or of macOS.
    found = {path.stem: path for path in sorted(folder.glob("*.h5")) if not path.name.startswith(".")}
    if not found:
        inner = sorted({path.parent.name for path in folder.glob("*/*.h5")})
        folders = " or ".join(str(folder / name) for name in inner[:3])
        hint = f"; did you mean {folders}?" if inner else "; prepare them with 'brainsets prepare'"
        raise RecordingError(f"{folder}: has no recordings (*.h5){hint}")
    if recording_ids is None:
        return found
    if isinstance(recording_ids, str):
        raise RecordingError(f"recording_ids is a list of ids: give [{recording_ids!r}], not {recording_ids!r}")
    missing = sorted(set(map(str, recording_ids)) - set(found))
    if missing:
        digits = [name for name in found if name.replace("_", "").lstrip("0") in missing]
        hint = f"; an id of digits needs quotes, 'data.recordings=[\"{digits[0]}\"]'" if digits else ""
        raise RecordingError(
            f"{folder}: has no recording {', '.join(missing)}; it has {', '.join(list(found)[:10])}"
            + (" ..." if len(found) > 10 else "")
            + hint
        )
    return {recording: found[recording] for recording in sorted(set(map(str, recording_ids)))}


def _open_recording(paths: dict[str, Path], recording_id: str) -> Data:
    if recording_id not in paths:
        raise RecordingError(f"no recording {recording_id!r}; there are {', '.join(paths)}")
    path = paths[recording_id]
    try:
        return Data.from_hdf5(h5py.File(path, "r"))
    except (OSError, KeyError, ValueError, AssertionError, TypeError, AttributeError) as error:
        raise RecordingError(
            f"{path}: cannot be read as a brainsets recording ({str(error) or type(error).__name__}); prepare it again"
        ) from error
