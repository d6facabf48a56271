"""Tables of trials and of time series, each value with the file, column and row it is from."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from poyo_ssl_plugin.errors import RecordingError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

_EMPTY = {"", "na", "n/a", "nan", "none", "null"}


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes:
        name: Where they are from, for messages.
        columns: Column name to its values, (R,) or (R, D).
        first_row: Number of the first row; 2 for a file whose first line has the names.

    Example:
        >>> trials = Table.of("my trials", {"start": [0.0, 1.0], "turn": ["left", "right"]})
        >>> len(trials), trials.numbers("start").tolist()
        (2, [0.0, 1.0])
        >>> trials.numbers("turn")
        Traceback (most recent call last):
        ...
        poyo_ssl_plugin.errors.RecordingError: my trials: column 'turn', row 0: 'left' is not a number
    """

    name: str
    columns: dict[str, np.ndarray]
    first_row: int = 0

    @classmethod
    def of(cls, name: str, table: Columns) -> Table:
        """A table of a mapping of columns or a pandas DataFrame.

        Raises:
            RecordingError: If the columns differ in length.
        """
        if isinstance(table, Table):
            return table
        try:
            columns = {str(key): np.asarray(table[key]) for key in table.keys()}
        except (AttributeError, ValueError):
            raise RecordingError(f"{name}: must be a mapping or a DataFrame of columns, one value per row") from None
        lengths = {column.shape[:1] for column in columns.values()}
        if len(lengths) > 1 or () in lengths:
            raise RecordingError(f"{name}: columns differ in length: {', '.join(columns)}")
        return cls(name, {key: _without_objects(column) for key, column in columns.items()})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def numbers(self, column: str) -> np.ndarray:
        """A column of finite numbers, float64 (R,).

        Raises:
            RecordingError: If it is missing, or a value is not a finite number.
        """
        if column not in self.columns:
            raise RecordingError(f"{self.name}: has no column {column!r}; it has {', '.join(self.columns) or 'none'}")
        values = self.columns[column]
        if values.dtype.kind not in "iuf" or values.ndim != 1:
            self.refuse(_first_word(values), column, "is not a number")
        self.check(~np.isfinite(values), column, "is missing or not finite")
        return values.astype(float)

    def check(self, wrong: np.ndarray, column: str, problem: str) -> None:
        """Refuse the first row that is wrong, if there is one."""
        if wrong.any():
            self.refuse(int(np.flatnonzero(wrong)[0]), column, problem)

    def refuse(self, row: int, column: str, problem: str) -> None:
        """Raise a RecordingError that names file, column and row."""
        value = self.columns[column][row] if row < len(self) else ""
        raise RecordingError(f"{self.name}: column {column!r}, row {row + self.first_row}: {str(value)!r} {problem}")


Columns: TypeAlias = "Table | Mapping[str, ArrayLike] | pd.DataFrame"


def read_table(path: Path) -> Table:
    """A CSV file with the names of its columns in the first line; whole columns become integers, numbers or text.

    Raises:
        RecordingError: If the file is missing, is not CSV, or a row has too few or too many values.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "trials.csv"
        >>> _ = path.write_text("start,end,turn\\n0.0,1.5,left\\n2.0,3.5,right\\n")
        >>> table = read_table(path)
        >>> table.numbers("end").tolist(), table.columns["turn"].tolist()
        ([1.5, 3.5], ['left', 'right'])
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except FileNotFoundError:
        raise RecordingError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordingError(f"{path}: cannot be read as CSV ({error})") from None
    if not lines:
        raise RecordingError(f"{path}: is empty; its first line must name the columns")
    names = [name.strip() for name in lines[0]]
    if len(set(names)) < len(names) or "" in names:
        raise RecordingError(f"{path}: row 1: names of columns must be there and differ, not {','.join(names)}")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(names):
            raise RecordingError(f"{path}: row {number}: has {len(line)} values for {len(names)} columns")
    columns = zip(*lines[1:]) if len(lines) > 1 else ([] for _ in names)
    return Table(str(path), {name: _parsed(column) for name, column in zip(names, columns)}, first_row=2)


def _parsed(texts: Iterable[str]) -> np.ndarray:
    """Integers if all are, else numbers with NaN where there is none, else text."""
    texts = [text.strip() for text in texts]
    try:
        return np.array([int(text) for text in texts], dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    empty = [text.lower() in _EMPTY for text in texts]
    try:
        return np.array([np.nan if none else float(text) for text, none in zip(texts, empty)])
    except ValueError:
        return np.array(["" if none else text for text, none in zip(texts, empty)], dtype=str)


def _without_objects(column: np.ndarray) -> np.ndarray:
    """Text of a column of Python objects, ``""`` where it is missing."""
    if column.dtype.kind == "S":
        return np.char.decode(column, "utf-8")
    if column.dtype.kind in "iufbU":
        return column.astype(np.int64) if column.dtype.kind == "b" else column
    return np.array(["" if str(value).lower() in _EMPTY else str(value) for value in column.tolist()], dtype=str)


def _first_word(values: np.ndarray) -> int:
    """The first row that is not a number."""
    for row, value in enumerate(values.tolist()):
        try:
            float(value)
        except (TypeError, ValueError):
            return row
    return 0
