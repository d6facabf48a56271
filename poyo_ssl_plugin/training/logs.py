"""The log of a run as CSV: one file over all its starts, never half a line in it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from poyo_ssl_plugin.files import atomic_path, writing

# Rows kept in memory at most; a checkpoint writes them whatever their number.
_ROWS = 100


class MetricsLog(Logger):
    """Writes ``<folder>/metrics.csv``, a row per call, with columns added as metrics appear.

    A resumed run goes on in the same file: where a step occurs twice, the later row counts.

    Args:
        folder: Folder of the file.
        checkpoint: The run's; where there is one before the first row is written, what an earlier start wrote is kept.

    Example:
        >>> import tempfile
        >>> log = MetricsLog(tempfile.mkdtemp())
        >>> log.log_metrics({"train/loss": 0.5}, step=3)
        >>> log.save()
        >>> log.path.read_text()
        'step,train/loss\\n3,0.5\\n'
    """

    def __init__(self, folder: str | Path, checkpoint: Path | None = None) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._checkpoint = checkpoint
        self._columns: list[str] | None = None
        self._rows: list[dict[str, float | None]] = []
        self._latest: dict[str, float | None] = {}

    @property
    def name(self) -> str:
        return self.path.parent.name

    @property
    def version(self) -> str:
        return ""

    @property
    def log_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        if row == self._latest:
            return
        self._latest = row
        self._rows.append(row)
        if len(self._rows) >= _ROWS:
            self.save()

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Nothing: the recipe is beside the log."""

    @rank_zero_only
    def save(self) -> None:
        if not self._rows:
            return
        if self._columns is None:
            self._columns = self._take_up()
        new = [name for row in self._rows for name in row if name not in self._columns]
        if new or not self.path.exists():
            self._widen([*self._columns, *dict.fromkeys(new)])
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerows(self._rows)
        self._rows = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _take_up(self) -> list[str]:
        """The columns of the file of an earlier start, its last line removed if it was cut off."""
        if self._checkpoint is None or not self._checkpoint.exists() or not self.path.exists():
            self.path.unlink(missing_ok=True)
            return []
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            with atomic_path(self.path) as temporary:
                temporary.write_text(whole, encoding="utf-8")
        return next(csv.reader(whole.splitlines()), [])

    def _widen(self, columns: list[str]) -> None:
        rows = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns
