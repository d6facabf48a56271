"""The predictability table: one row per neuron, with the record of how it was made."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poyo_ssl_plugin.errors import TableError
from poyo_ssl_plugin.files import atomic_path

STATUS_OK = "ok"

_TEXT = ("recording_id", "unit_id", "cre_line", "status")
_COLUMNS = (
    "recording_id",
    "unit_id",
    "cre_line",
    "n_samples",
    "mean",
    "std",
    "skewness",
    "kurtosis",
    "status",
)
_PROVENANCE = "# provenance: "


class PredictabilityTable:
    """Predictability of every neuron of a dataset, as :func:`score_dataset` measures it.

    Columns: ``recording_id``, ``unit_id``, ``cre_line`` and ``status`` (text), ``n_samples``
    (int64), ``mean``, ``std``, ``skewness``, ``kurtosis`` (float64, in the units of the traces), then
    any registered statistic. ``status`` is ``"ok"`` for a neuron that can be in a diet, else it says
    why not: ``"constant"``, ``"too_short"``, ``"all_nan"`` or ``"not_finite"``.

    Args:
        columns: Name to array of shape (N,), all of one length.
        provenance: How the table was made; anything that JSON can hold.

    Raises:
        TableError: If a column is missing, lengths differ, or a neuron occurs twice.

    Example:
        >>> table = PredictabilityTable.from_rows(
        ...     [dict(recording_id="a", unit_id="1", skewness=0.5, kurtosis=1.0)]
        ... )
        >>> len(table), table["skewness"].tolist(), table.recordings
        (1, [0.5], ['a'])
    """

    def __init__(
        self, columns: Mapping[str, Sequence[Any] | np.ndarray], provenance: Mapping[str, Any] | None = None
    ) -> None:
        missing = [name for name in _COLUMNS if name not in columns]
        if missing:
            raise TableError(f"a predictability table needs the column(s) {', '.join(missing)}")
        order = [*_COLUMNS, *(name for name in columns if name not in _COLUMNS)]
        self._columns = {name: _as_column(name, columns[name]) for name in order}
        self.provenance: dict[str, Any] = dict(provenance or {})
        lengths = {len(column) for column in self._columns.values()}
        if len(lengths) != 1:
            raise TableError(f"columns of a predictability table differ in length: {sorted(lengths)}")
        self._refuse_duplicates()

    @classmethod
    def from_rows(
        cls, rows: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any] | None = None
    ) -> PredictabilityTable:
        """Build a table from one mapping per neuron; what is not given is empty, 0 or NaN."""
        default = {"cre_line": "", "status": STATUS_OK, "n_samples": 0, "mean": np.nan, "std": np.nan}
        names = [*_COLUMNS, *(name for row in rows for name in row if name not in _COLUMNS)]
        columns = {name: [row.get(name, default.get(name, np.nan)) for row in rows] for name in dict.fromkeys(names)}
        return cls(columns, provenance)

    def __len__(self) -> int:
        return len(self._columns["unit_id"])

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self._columns[name]
        except KeyError:
            raise TableError(
                f"the predictability table has no column {name!r}; it has {', '.join(self.columns)}"
            ) from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PredictabilityTable):
            return NotImplemented
        return (
            self.columns == other.columns
            and self.provenance == other.provenance
            and all(_same(self[name], other[name]) for name in self.columns)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        n_ok = int((self["status"] == STATUS_OK).sum())
        return f"PredictabilityTable({len(self)} units, {n_ok} ok, {len(self.recordings)} recordings)"

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self._columns)

    @property
    def recordings(self) -> list[str]:
        """Recording ids, in the order of their first neuron."""
        return list(dict.fromkeys(self["recording_id"].tolist()))

    @property
    def ok(self) -> np.ndarray:
        """Boolean (N,): neurons that can be in a diet."""
        return self["status"] == STATUS_OK

    def select(self, mask: np.ndarray) -> PredictabilityTable:
        """The rows where ``mask`` (N,) is true, with the same provenance."""
        return PredictabilityTable({name: column[mask] for name, column in self._columns.items()}, self.provenance)

    def to_csv(self, path: str | Path) -> None:
        """Write the table as CSV whose first line, a comment, holds the provenance as JSON.

        Floats are written so that reading gives them back bit for bit.
        """
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            file.write(_PROVENANCE + json.dumps(self.provenance, sort_keys=True) + "\n")
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(zip(*(column.tolist() for column in self._columns.values()), strict=True))

    @classmethod
    def from_csv(cls, path: str | Path) -> PredictabilityTable:
        """Read a table that :meth:`to_csv` wrote, or any CSV with its columns.

        Raises:
            TableError: If the file is missing, damaged, or lacks a column.
        """
        path = Path(path)
        _require(path)
        try:
            with path.open(newline="", encoding="utf-8") as file:
                provenance = {}
                line = file.readline()
                if line.startswith(_PROVENANCE):
                    provenance = json.loads(line[len(_PROVENANCE) :])
                else:
                    file.seek(0)
                header, *rows = [*csv.reader(file)] or [[]]
            columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else {}
        except (ValueError, UnicodeDecodeError, csv.Error) as error:
            raise TableError(f"{path}: not a predictability table ({error}); make it with 'poyo-ssl score'") from None
        if not columns:
            raise TableError(f"{path}: the predictability table is empty; make it with 'poyo-ssl score'")
        try:
            return cls(columns, provenance)
        except TableError as error:
            raise TableError(f"{path}: {error}") from None

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as Parquet, provenance in the schema. Needs pyarrow."""
        pyarrow, parquet = _pyarrow()
        table = pyarrow.table(self._columns)
        metadata = {**(table.schema.metadata or {}), b"provenance": json.dumps(self.provenance).encode()}
        with atomic_path(path) as temporary:
            parquet.write_table(table.replace_schema_metadata(metadata), temporary)

    @classmethod
    def from_parquet(cls, path: str | Path) -> PredictabilityTable:
        """Read a table that :meth:`to_parquet` wrote. Needs pyarrow."""
        _require(Path(path))
        pyarrow, parquet = _pyarrow()
        try:
            table = parquet.read_table(path)
        except pyarrow.ArrowInvalid as error:
            raise TableError(f"{path}: not a Parquet file ({error})") from None
        provenance = json.loads((table.schema.metadata or {}).get(b"provenance", b"{}"))
        return cls({name: table[name].to_pylist() for name in table.column_names}, provenance)

    def save(self, path: str | Path) -> None:
        """Write as Parquet if ``path`` ends in ``.parquet``, else as CSV."""
        self.to_parquet(path) if Path(path).suffix == ".parquet" else self.to_csv(path)

    @classmethod
    def load(cls, path: str | Path) -> PredictabilityTable:
        """Read what :meth:`save` wrote."""
        return cls.from_parquet(path) if Path(path).suffix == ".parquet" else cls.from_csv(path)

    def _refuse_duplicates(self) -> None:
        pairs = list(zip(self["recording_id"].tolist(), self["unit_id"].tolist(), strict=True))
        if len(set(pairs)) != len(pairs):
            seen: set[tuple[str, str]] = set()
            recording, unit = next(pair for pair in pairs if pair in seen or seen.add(pair))  # type: ignore[func-returns-value]
            raise TableError(f"unit {unit!r} of recording {recording!r} occurs twice in the table")


def _as_column(name: str, values: Sequence[Any] | np.ndarray) -> np.ndarray:
    try:
        if name in _TEXT:
            return np.asarray(values, dtype=str).reshape(-1)
        if name == "n_samples":
            return np.asarray(values).astype(np.int64).reshape(-1)
        return np.asarray(values).astype(np.float64).reshape(-1)
    except ValueError as error:
        raise TableError(f"column {name!r} holds something that is not a number: {error}") from None


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _require(path: Path) -> None:
    if not path.is_file():
        raise TableError(f"{path}: no such table; make it with 'poyo-ssl score DATASET_DIR --out {path}'")


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TableError("Parquet needs pyarrow: pip install pyarrow, or use a .csv file") from None
    return pyarrow, pyarrow.parquet
