"""What is decoded: a task names a labelled column of the recordings and how to predict it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import yaml
from omegaconf import DictConfig, OmegaConf

from poyo_ssl_plugin.compat import Data
from poyo_ssl_plugin.data.dataset import Recordings
from poyo_ssl_plugin.data.series import Timed, is_series, is_timed, sample_times
from poyo_ssl_plugin.errors import RecipeError, RecordingError
from poyo_ssl_plugin.extensions import extension_names, load_extension
from poyo_ssl_plugin.plain import ReadOnlyValues, Values
from poyo_ssl_plugin.recordings import recording_id

Kind = Literal["classification", "regression", "frames"]

# Target of a class that losses and metrics leave out; a regression's is NaN.
IGNORED = -100

# A column with more classes than this is a number to regress on, not a label.
MOST_CLASSES = 1000


@dataclass(frozen=True)
class Task:
    """Something to decode, declared by where its labels are.

    Attributes:
        name: Name of the task and of the model's readout.
        source: Intervals (or, for a regression, a time series) of the recording that hold the labels.
        label: Their column with the label; a regression may have several.
        kind: ``"classification"``, ``"regression"`` or ``"frames"`` (of a movie).
        classes: The label of every class, in the order of the model's outputs. Empty until :func:`fit_task`
            finds them in the training split.
        labels_per_class: Consecutive whole-number labels that make one class (30 movie frames a second).
        step: Seconds between the moments at which a time series is decoded.
        mean: Mean of every target of a regression over the training split. Empty until :func:`fit_task`.
        std: Their standard deviation.

    Example:
        >>> task = get_task({"name": "turn", "source": "trials", "label": "turn", "classes": ["left", "right"]})
        >>> task.index(np.array(["right", "left", "up"])).tolist(), task.chance
        ([1, 0, -100], 0.5)
    """

    name: str
    source: str
    label: str | tuple[str, ...]
    kind: Kind = "classification"
    classes: tuple[int | float | str, ...] = ()
    labels_per_class: int = 1
    step: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns with the label."""
        return self.label if isinstance(self.label, tuple) else (self.label,)

    @property
    def is_fitted(self) -> bool:
        """Whether the classes, or the mean and spread of the targets, are known."""
        return bool(self.mean if self.kind == "regression" else self.classes)

    @property
    def n_classes(self) -> int:
        """Number of classes.

        Raises:
            RecipeError: If the task is a regression, or its classes are not known yet.
        """
        if self.kind == "regression":
            raise RecipeError(f"task {self.name!r} is a regression and has no classes")
        self._require_fitted()
        return len(self.classes)

    @property
    def n_outputs(self) -> int:
        """Outputs of a model's readout, one per class or one per target of a regression."""
        self._require_fitted()
        return len(self.mean) if self.kind == "regression" else len(self.classes)

    @property
    def chance(self) -> float:
        """The score of a guess, an accuracy for a classification and R2 for a regression."""
        return 0.0 if self.kind == "regression" else 1 / self.n_classes

    def to_dict(self) -> Values:
        """What :func:`get_task` makes the same task of; plain values, for recipes and checkpoints."""
        defaults = {field.name: field.default for field in fields(self)}
        given = {key: value for key, value in asdict(self).items() if value != defaults[key]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}

    def table(self, data: Data) -> Timed:
        """The intervals or time series that hold the labels.

        Raises:
            RecordingError: If the recording lacks them or a column.
        """
        if self.source not in data.keys():
            raise RecordingError(
                f"recording {recording_id(data)}: has no {self.source!r}, which the task {self.name!r} decodes"
            )
        table = getattr(data, self.source)
        if not is_timed(table):
            raise RecordingError(
                f"recording {recording_id(data)}: {self.source!r}, which the task {self.name!r} decodes, is neither "
                "trials nor a time series; 'poyo-ssl tasks' lists what there is"
            )
        missing = [column for column in self.columns if column not in table.keys()]
        if missing:
            raise RecordingError(
                f"recording {recording_id(data)}: {self.source!r} has no column {missing[0]!r}, which the task "
                f"{self.name!r} decodes; it has {', '.join(map(str, table.keys()))}; choose one, or other recordings"
            )
        return table

    def raw_labels(self, table: Timed) -> np.ndarray:
        """Labels as recorded: one value per row (R,) for classes, float64 (R, D) for a regression."""
        if self.kind == "regression":
            try:
                columns = [np.asarray(getattr(table, column), float) for column in self.columns]
            except ValueError:
                raise RecordingError(
                    f"task {self.name!r}: {self.source}.{', '.join(self.columns)} is text, and a regression needs "
                    "numbers; leave kind: regression out"
                ) from None
            return np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)
        labels = plain_labels(np.asarray(getattr(table, self.columns[0])))
        if self.labels_per_class == 1:
            return labels
        if labels.dtype.kind == "U":
            raise RecordingError(
                f"task {self.name!r}: {self.source}.{self.columns[0]} is text, and labels_per_class needs numbers; "
                "leave it out"
            )
        return labels.astype(np.int64) // self.labels_per_class

    def labels(self, table: Timed) -> np.ndarray:
        """Targets of every row: classes, int64 (R,), or standardized values, float32 (R, D)."""
        raw = self.raw_labels(table)
        return self.standardize(raw) if self.kind == "regression" else self.index(raw)

    def index(self, labels: np.ndarray) -> np.ndarray:
        """Class of every label, int64 (R,); ``IGNORED`` for one that is no class."""
        self._require_fitted()
        known, order = self._sorted_classes
        if labels.dtype.kind != known.dtype.kind and "U" in (labels.dtype.kind, known.dtype.kind):
            return np.full(len(labels), IGNORED)
        place = np.minimum(np.searchsorted(known, labels), len(known) - 1)
        return np.where(known[place] == labels, order[place], IGNORED)

    def standardize(self, values: np.ndarray) -> np.ndarray:
        """Values of the targets (R, D) with mean 0 and standard deviation 1 in training, float32."""
        self._require_fitted()
        return ((values - np.array(self.mean)) / np.array(self.std)).astype(np.float32)

    @cached_property
    def _sorted_classes(self) -> tuple[np.ndarray, np.ndarray]:
        classes = np.array(self.classes)
        order = np.argsort(classes)
        return classes[order], order

    def _require_fitted(self) -> None:
        if not self.is_fitted:
            raise RecipeError(
                f"what the task {self.name!r} can predict is not known yet; fit_task(task, dataset, times) finds it in "
                "the training split"
            )


def _movie(name: str, source: str, seconds: int) -> Task:
    """Which second of a movie of 30 frames a second?"""
    return Task(name, source, label="frame", classes=tuple(range(seconds)), labels_per_class=30)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("drifting_gratings", source="drifting_gratings", label="orientation_id", classes=tuple(range(8))),
        _movie("natural_movie", "natural_movie_one", 30),
        _movie("natural_movie_three", "natural_movie_three", 120),
        Task("running", source="running", label="running_speed", kind="regression"),
        Task("pupil", source="pupil", label="size", kind="regression"),
    )
}


# Frames of a movie are no labels: fine-tuning and comparisons know this task, all else does not.
FRAMES = "natural_movie_frames"


def get_task(task: str | ReadOnlyValues | Task) -> Task:
    """A task by name, or one declared as ``{name, source, label, kind}``.

    Args:
        task: A name of :data:`TASKS` or of an entry point of the group ``poyo_ssl_plugin.tasks`` (a function
            that returns a task or a declaration), or a mapping with the fields of :class:`Task`. ``kind`` is
            ``"classification"`` by default.

    Raises:
        RecipeError: If there is none of that name, or the declaration does not fit.

    Example:
        >>> get_task("natural_movie").n_classes
        30
        >>> get_task({"name": "speed", "source": "running", "label": "running_speed", "kind": "regression"}).columns
        ('running_speed',)
    """
    if isinstance(task, Task):
        return task
    if isinstance(task, str) and task.startswith("{"):
        try:
            task = yaml.safe_load(task)
        except yaml.YAMLError:
            raise RecipeError(
                f"task {task!r}: is not YAML; write {{name: NAME, source: INTERVALS, label: COLUMN}}"
            ) from None
    if isinstance(task, DictConfig):
        task = OmegaConf.to_container(task, resolve=True)  # type: ignore[assignment]
    if isinstance(task, Mapping):
        return _declared(task)
    if isinstance(task, str) and task in TASKS:
        return TASKS[task]
    extension = load_extension("tasks", task) if isinstance(task, str) else None
    if extension is None:
        if task == FRAMES:
            raise RecipeError(f"task {FRAMES!r} has no labels; give it to 'finetune --recipe {FRAMES}' or to 'compare'")
        raise RecipeError(
            f"unknown task {task!r}; there are {', '.join([*TASKS, FRAMES, *extension_names('tasks')])}, or declare "
            "one as task={name: NAME, source: INTERVALS, label: COLUMN}"
        )
    return get_task(extension())


def _declared(task: ReadOnlyValues) -> Task:
    known = [field.name for field in fields(Task)]
    unknown = [key for key in task if key not in known]
    if unknown:
        raise RecipeError(f"task: unknown key {unknown[0]!r}; a task has {', '.join(known)}")
    for key in ("name", "source", "label"):
        if not task.get(key):
            raise RecipeError(
                f"task: {key!r} is missing; declare it as {{name: NAME, source: INTERVALS, label: COLUMN}}"
            )
    given: Values = {key: tuple(value) if isinstance(value, list) else value for key, value in task.items()}
    for key in ("name", "source"):
        if not isinstance(given[key], str) or not re.fullmatch(r"[A-Za-z_]\w*", given[key]):
            raise RecipeError(f"task: {key} {given[key]!r} must be a word of letters, digits and '_'")
    made = Task(**given)
    if made.kind not in get_args(Kind):
        raise RecipeError(f"task {made.name!r}: kind must be {', '.join(get_args(Kind))}, not {made.kind!r}")
    if made.kind == "frames" and made.name != FRAMES:
        raise RecipeError(f"task {made.name!r}: of kind frames there is only natural movie one; write task={FRAMES}")
    if not all(isinstance(column, str) for column in made.columns):
        raise RecipeError(f"task {made.name!r}: label must be the name of a column, not {made.label!r}")
    if made.kind != "regression" and len(made.columns) > 1:
        raise RecipeError(f"task {made.name!r}: only a regression has several columns; set kind: regression")
    for key in ("classes", "mean", "std"):
        values = getattr(made, key)
        if not isinstance(values, tuple) or not all(isinstance(value, int | float | str) for value in values):
            raise RecipeError(f"task {made.name!r}: {key} must be a list, not {values!r}")
    if len(set(made.classes)) < len(made.classes) or len({isinstance(c, str) for c in made.classes}) > 1:
        raise RecipeError(f"task {made.name!r}: classes must be different labels of one type, not {made.classes}")
    numbers = (made.labels_per_class, made.step, *made.std)
    if not all(isinstance(number, (int, float)) and number > 0 for number in numbers):
        raise RecipeError(f"task {made.name!r}: labels_per_class, step and std must be positive numbers")
    same = TASKS.get(made.name)
    if same is not None and (same.source, same.columns) != (made.source, made.columns):
        raise RecipeError(f"task {made.name!r} is the name of a built-in task of {same.source!r}; choose another name")
    return made


def fit_task(task: Task, dataset: Recordings, times: Mapping[str, np.ndarray]) -> Task:
    """Find the classes of a task, or the mean and spread of its targets, in the training time.

    Args:
        task: The task. One whose classes are known is returned as it is.
        dataset: The recordings; those without the task's source do not count.
        times: Recording id to its training times in seconds, (R, 2).

    Raises:
        RecordingError: If there is nothing to learn: no label, a single class, or a constant target.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin.data import Recordings, simulate
        >>> from poyo_ssl_plugin.data.splits import recorded_split
        >>> dataset = Recordings(simulate(tempfile.mkdtemp(), n_recordings=1, n_units=4, minutes=4))
        >>> task = get_task({"name": "contrast", "source": "drifting_gratings", "label": "temporal_frequency_id"})
        >>> fit_task(task, dataset, recorded_split(dataset)["train"]).classes
        (0, 1, 2, 3, 4)
    """
    if task.is_fitted:
        return task
    found = [
        _labels_within(task, dataset.get_recording(name), intervals)
        for name, intervals in times.items()
        if task.source in dataset.get_recording(name).keys()
    ]
    if not found:
        raise RecordingError(f"no recording has {task.source!r}, which the task {task.name!r} decodes")
    if task.kind != "regression" and len({labels.dtype.kind == "U" for labels in found if len(labels)}) > 1:
        raise RecordingError(
            f"task {task.name!r}: {task.source}.{task.columns[0]} is text in some recordings and numbers in others; "
            "write it alike in all"
        )
    values = np.concatenate(found)
    if task.kind == "regression":
        return _fit_targets(task, values)
    classes = np.unique(values)
    if not 2 <= len(classes) <= MOST_CLASSES:
        hint = "; is it a number to predict? Then set kind: regression" if len(classes) > MOST_CLASSES else ""
        raise RecordingError(
            f"task {task.name!r}: {task.source}.{task.columns[0]} has {len(classes)} labels in training, and a "
            f"classification needs 2 to {MOST_CLASSES}{hint}"
        )
    return replace(task, classes=tuple(classes.tolist()))


def _fit_targets(task: Task, values: np.ndarray) -> Task:
    values = values[np.isfinite(values).all(axis=1)]
    mean, std = (values.mean(axis=0), values.std(axis=0)) if len(values) else (np.zeros(1), np.zeros(1))
    if not (std > 1e-12 * np.maximum(np.abs(mean), 1e-300)).all():
        raise RecordingError(
            f"task {task.name!r}: {task.source}.{', '.join(task.columns)} has {len(values)} values in training and "
            "does not vary, so there is nothing to predict"
        )
    return replace(task, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def _labels_within(task: Task, data: Data, intervals: np.ndarray) -> np.ndarray:
    """Recorded labels of the rows whose middle lies in some times."""
    table = task.table(data)
    labels = task.raw_labels(table)
    middle = sample_times(table) if is_series(table) else (np.asarray(table.start) + np.asarray(table.end)) / 2
    inside = ((middle[:, None] >= intervals[:, 0]) & (middle[:, None] < intervals[:, 1])).any(axis=1)
    refuse_missing_labels(task, data, labels[inside])
    return labels[inside]


def refuse_missing_labels(task: Task, data: Data, labels: np.ndarray) -> None:
    """Raise a RecordingError if a class label is not a number, or an empty text."""
    if task.kind == "regression":
        return
    missing = np.isnan(labels) if labels.dtype.kind == "f" else labels == "" if labels.dtype.kind == "U" else None
    if missing is not None and missing.any():
        raise RecordingError(
            f"recording {recording_id(data)}: {int(missing.sum())} rows of {task.source}.{task.columns[0]} have no "
            "label; leave those trials out"
        )


def plain_labels(column: np.ndarray) -> np.ndarray:
    """A column as int64, float64 or text."""
    if column.dtype.kind in "iub":
        return column.astype(np.int64)
    if column.dtype.kind == "f":
        whole = np.isfinite(column).all() and (column == np.round(column)).all()
        return column.astype(np.int64 if whole else float)
    if column.dtype.kind == "S":
        return np.char.decode(column, "utf-8")
    return column.astype(str)
