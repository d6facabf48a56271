"""The predictability table: one row per neuron, with the record of how it was made."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from poyo_ssl_plugin.errors import TableError
from poyo_ssl_plugin.files import atomic_path
from poyo_ssl_plugin.plain import ReadOnlyValues, Values

if TYPE_CHECKING:
    import pandas as pd  # loaded when a table is made, so that importing this package stays quick

logger = logging.getLogger(__name__)

STATUS_OK = "ok"

_TEXT = ("recording_id", "unit_id", "cre_line", "status")
_COLUMNS = ("recording_id", "unit_id", "cre_line", "n_samples", "mean", "std", "skewness", "kurtosis", "status")
_DIGEST = "table_sha256"
_DEFAULTS = {"cre_line": "", "n_samples": 0, "mean": np.nan, "std": np.nan, "status": STATUS_OK}


class PredictabilityTable:
    """Predictability of every neuron of a dataset, as :func:`score_dataset` measures it.

    Columns: ``recording_id``, ``unit_id``, ``cre_line`` and ``status`` (text), ``n_samples``
    (int64), ``mean``, ``std``, ``skewness``, ``kurtosis`` (float64, in the units of the traces), then
    any registered statistic. ``status`` is ``"ok"`` for a neuron that can be in a diet, else it says
    why not: ``"constant"``, ``"too_short"``, ``"all_nan"`` or ``"not_finite"``.

    Args:
        columns: Name to array of shape (N,), all of one length; or a pandas ``DataFrame``.
        provenance: How the table was made; anything that JSON can hold.

    Attributes:
        frame: The table as a pandas ``DataFrame``.

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
        self,
        columns: Mapping[str, Sequence[object] | np.ndarray] | pd.DataFrame,
        provenance: ReadOnlyValues | None = None,
    ) -> None:
        import pandas as pd

        missing = [name for name in _COLUMNS if name not in columns]
        if missing:
            raise TableError(f"a predictability table needs the column(s) {', '.join(missing)}")
        order = [*_COLUMNS, *(str(name) for name in columns if name not in _COLUMNS)]
        try:
            self.frame = pd.DataFrame({name: _as_column(name, columns[name]) for name in order})
        except ValueError as error:
            raise TableError(f"columns of a predictability table: {error}") from None
        self.provenance: Values = dict(provenance or {})
        twice = self.frame[self.frame.duplicated(["recording_id", "unit_id"])]
        if len(twice):
            recording, unit = twice.iloc[0][["recording_id", "unit_id"]]
            raise TableError(f"unit {unit!r} of recording {recording!r} occurs twice in the table")

    @classmethod
    def from_rows(cls, rows: Iterable[ReadOnlyValues], provenance: ReadOnlyValues | None = None) -> PredictabilityTable:
        """Build a table from one mapping per neuron; what is not given is empty, 0 or NaN."""
        import pandas as pd

        frame = pd.DataFrame(list(rows))
        for name, default in _DEFAULTS.items():
            frame[name] = frame[name].fillna(default) if name in frame else default
        return cls(frame, provenance)

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.frame:
            raise TableError(f"the predictability table has no column {name!r}; it has {', '.join(self.columns)}")
        return self.frame[name].to_numpy(dtype=str if name in _TEXT else None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PredictabilityTable):
            return NotImplemented
        return self.provenance == other.provenance and self.frame.equals(other.frame)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PredictabilityTable({len(self)} units, {int(self.ok.sum())} ok, {len(self.recordings)} recordings)"

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.frame.columns)

    @property
    def recordings(self) -> list[str]:
        """Recording ids, in the order of their first neuron."""
        return list(self.by_recording())

    @property
    def ok(self) -> np.ndarray:
        """Which neurons can be in a diet, bool (N,)."""
        return self["status"] == STATUS_OK

    def by_recording(self) -> dict[str, np.ndarray]:
        """The numbers of the rows of each recording, in the order of their first neuron."""
        return dict(self.frame.groupby("recording_id", sort=False).indices)

    def select(self, mask: np.ndarray) -> PredictabilityTable:
        """The rows where ``mask`` (N,) is true, with the same provenance."""
        return PredictabilityTable(self.frame[mask], self.provenance)

    def save(self, path: str | Path) -> None:
        """Write the table as Parquet if ``path`` ends in ``.parquet`` (needs pyarrow), else as CSV.

        Provenance goes into a file beside it: ``table.provenance.json`` for ``table.csv``. Floats are
        written so that reading gives them back bit for bit.
        """
        with atomic_path(path) as table, atomic_path(_provenance_path(path)) as provenance:
            if Path(path).suffix == ".parquet":
                with _pyarrow_needed():
                    self.frame.to_parquet(table, index=False)
            else:
                self.frame.to_csv(table, index=False, na_rep="nan", lineterminator="\n")
            content = {**self.provenance, _DIGEST: _digest(table)}
            provenance.write_text(json.dumps(content, sort_keys=True, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> PredictabilityTable:
        """Read a table that :meth:`save` wrote, or any CSV or Parquet file with its columns.

        Provenance of a table that was changed since is left out, with a warning.

        Raises:
            TableError: If the file is missing, damaged, or lacks a column.
        """
        path = Path(path)
        if not path.is_file():
            raise TableError(f"{path}: no such table; make it with 'poyo-ssl score DATASET_DIR --out {path}'")
        try:
            frame = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
            return cls(frame, _read_provenance(path))
        except TableError as error:
            raise TableError(f"{path}: {error}") from None
        except ValueError as error:
            raise TableError(f"{path}: not a predictability table ({error}); make it with 'poyo-ssl score'") from None

    to_csv = save
    from_csv = load


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    with path.open("rb") as file:
        if file.read(13) == b"# provenance:":
            raise TableError(
                "was written by version 0.1, which kept the provenance in the first line; make it again with "
                "'poyo-ssl score'"
            )
    try:
        # Texts first: the table's own columns make numbers of them, bit for bit.
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise TableError("is empty; make it with 'poyo-ssl score'") from None


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    with _pyarrow_needed():
        return pd.read_parquet(path)


@contextmanager
def _pyarrow_needed() -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise TableError("Parquet needs pyarrow: pip install pyarrow, or use a .csv file") from None


def _as_column(name: str, values: Sequence[object] | np.ndarray) -> np.ndarray:
    try:
        if name in _TEXT:
            return np.asarray(values, dtype=str).reshape(-1).astype(object)
        values = np.asarray(values).reshape(-1)
        if values.dtype.kind in "OUT":
            values = np.where(values == "", "nan", values)
        return values.astype(np.int64 if name == "n_samples" else np.float64)
    except ValueError as error:
        raise TableError(f"column {name!r} holds something that is not a number: {error}") from None


def _provenance_path(path: str | Path) -> Path:
    return Path(path).with_suffix(".provenance.json")


def _read_provenance(path: Path) -> Values:
    beside = _provenance_path(path)
    content: Values = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    if content.pop(_DIGEST, None) == _digest(path):
        return content
    if beside.is_file():
        logger.warning("%s was changed after %s was written, so it does not say how the table was made", path, beside)
    return {}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
