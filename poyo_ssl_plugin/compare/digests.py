"""Digests of what a run reads: where it has changed, the run is another one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.predictability import PredictabilityTable


def table_digest(table: PredictabilityTable) -> str:
    """A digest of what diets and standardisation read of a table."""
    said = hashlib.sha256()
    for name in table.columns:
        values = table[name].tolist()
        said.update("\n".join([name, *(f"{v:.9g}" if isinstance(v, float) else str(v) for v in values)]).encode())
    return said.hexdigest()[:12]


class LabelDigests:
    """Digests of the times and labels of stimuli; each recording is read once.

    Args:
        dataset: The recordings.
    """

    def __init__(self, dataset: Recordings) -> None:
        self._dataset = dataset
        self._known: dict[tuple[str, str], bytes] = {}

    def of(self, recordings: Sequence[str], source: str) -> str:
        """One digest of a stimulus or series over some recordings, whether they have it or not."""
        said = hashlib.sha256()
        for name in recordings:
            if (name, source) not in self._known:
                self._known[name, source] = self._read(name, source)
            said.update(name.encode() + self._known[name, source])
        return said.hexdigest()[:12]

    def _read(self, recording: str, source: str) -> bytes:
        data, said = self._dataset.get_recording(recording), hashlib.sha256()
        if source in data.keys():
            table = getattr(data, source)
            for column in sorted(table.keys()):
                values = np.asarray(getattr(table, column))
                content = values.tobytes() if values.dtype.kind in "biuf" else "\n".join(map(str, values)).encode()
                said.update(column.encode() + content)
        return said.digest()
