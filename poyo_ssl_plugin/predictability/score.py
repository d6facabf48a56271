"""Scoring: read the neurons of a dataset once and write down how predictable each one is."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from poyo_ssl_plugin.errors import PoyoSSLError, RecordingError
from poyo_ssl_plugin.plain import Values
from poyo_ssl_plugin.predictability.moments import Moments
from poyo_ssl_plugin.predictability.registered_statistics import Statistic, find_statistic
from poyo_ssl_plugin.predictability.table import STATUS_OK, PredictabilityTable
from poyo_ssl_plugin.recordings import TRACES, Piece, Signal, cre_line, open_signal, recording_errors, split_intervals

if TYPE_CHECKING:
    from poyo_ssl_plugin.compat import Dataset

logger = logging.getLogger(__name__)

DEFAULT_MIN_SAMPLES = 100
# Reads that a thread sums at once, and how many if their samples are kept for further statistics.
_READS, _READS_KEPT = 4, 2
# Such tasks that are given to threads ahead of the one that is waited for.
_AHEAD = 4


def score_dataset(
    dataset: Dataset,
    *,
    split: str | None = "train",
    field: str = TRACES,
    bin_width: float = 0.1,
    statistics: Sequence[str] = (),
    fisher: bool = True,
    min_samples: int = DEFAULT_MIN_SAMPLES,
    intervals: Mapping[str, np.ndarray] | None = None,
    workers: int | None = None,
    on_error: str = "raise",
    on: Backend | None = None,
    progress: Callable[[Iterator[Scored], int], Iterable[Scored]] | None = None,
) -> PredictabilityTable:
    """Measure the predictability of every neuron of a dataset on one split.

    Only samples inside the intervals of the split are read, each once, in bounded memory. NaN
    samples are left out neuron by neuron. The table records the split and the intervals it saw.

    Args:
        dataset: A torch_brain ``Dataset`` of either generation (``recording_ids``,
            ``get_recording``), with ``rois`` or ``units``.
        split: Name of the split, or ``None`` for whole recordings.
        field: Traces of shape (T, N), or ``"spikes"``, which are counted in bins.
        bin_width: Width of those bins, in seconds.
        statistics: Names of further registered statistics to add as columns.
        fisher: Kurtosis minus 3 (a normal distribution has 0), the default reading of the paper.
        min_samples: A neuron with fewer finite samples gets the status ``"too_short"``.
        intervals: Recording id to times in seconds, shape (R, 2), used instead of ``split``.
        workers: Recordings scored at once; by default as many threads as cores, at most 4.
        on_error: ``"raise"`` stops at the first unreadable recording; ``"skip"`` leaves it out and
            lists it, with the reason, under ``skipped`` in the provenance.
        on: Where recordings are scored: by default in threads of this process; see
            ``poyo_ssl_plugin.predictability.on_ray``. The table is the same.
        progress: Wraps the iterator of finished recordings, given their number, to show progress.

    Returns:
        One row per neuron, in the order of the recordings and of the neurons in them.

    Raises:
        RecordingError: If a recording lacks the split or the field, or cannot be read.
        PoyoSSLError: If an argument is of the wrong kind, or a statistic is unknown.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin.data import Recordings, simulate
        >>> folder = simulate(tempfile.mkdtemp(), n_recordings=1, n_units=12, minutes=4)
        >>> table = score_dataset(Recordings(folder), split="train")
        >>> len(table), table.columns[-3:]
        (12, ['skewness', 'kurtosis', 'status'])
    """
    if not hasattr(dataset, "get_recording"):
        hint = f": give Recordings({str(dataset)!r})" if isinstance(dataset, str | os.PathLike) else ""
        raise RecordingError(f"score_dataset takes a dataset, not a {type(dataset).__name__}{hint}")
    if isinstance(statistics, str):
        raise PoyoSSLError(f"statistics is a list of names: give [{statistics!r}], not {statistics!r}")
    if on_error not in ("raise", "skip"):
        raise RecordingError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
    scorer = Scorer(
        dataset,
        split=split,
        field=field,
        bin_width=bin_width,
        statistics={name: find_statistic(name) for name in statistics},
        fisher=fisher,
        min_samples=min_samples,
        intervals=None if intervals is None else dict(intervals),
        on_error=on_error,
    )
    recordings = list(dataset.recording_ids)
    with closing((on or in_threads)(scorer, recordings, workers)) as finished:
        results = []
        for result in progress(finished, len(recordings)) if progress else finished:
            if result.skipped is not None:
                logger.warning("skipped: %s", result.skipped)
            results.append(result)

    scored = [result for result in results if result.skipped is None]
    skipped = {result.recording: result.skipped for result in results if result.skipped is not None}
    if not scored:
        raise RecordingError(f"none of {len(recordings)} recordings could be scored: {skipped}")
    columns = {name: np.concatenate([result.columns[name] for result in scored]) for name in scored[0].columns}
    provenance: Values = {
        "split": split if intervals is None else "given intervals",
        "field": field,
        "kurtosis": "fisher" if fisher else "pearson",
        "min_samples": min_samples,
        "intervals": {result.recording: result.intervals for result in scored},
    }
    if "." not in field:
        provenance["bin_width"] = bin_width
    if skipped:
        provenance["skipped"] = skipped
    return PredictabilityTable(columns, provenance)


@dataclass(frozen=True)
class Scored:
    """What came of one recording.

    Attributes:
        recording: Its id.
        columns: Columns of its neurons by name, (N,) each.
        intervals: The times that were read, [start, end] in seconds.
        skipped: Why it was left out, without columns and intervals; ``None`` if it was not.
    """

    recording: str
    columns: Mapping[str, np.ndarray]
    intervals: list[list[float]]
    skipped: str | None = None


@dataclass(frozen=True)
class Scorer:
    """Scores one recording of a dataset; can be sent to another process. Fields as :func:`score_dataset`."""

    dataset: Dataset
    split: str | None
    field: str
    bin_width: float
    statistics: Mapping[str, Callable[[int], Statistic]]
    fisher: bool
    min_samples: int
    intervals: Mapping[str, np.ndarray] | None
    on_error: str

    def __call__(self, recording: str, summing: Executor) -> Scored:
        """Columns and intervals of a recording, or why it was skipped.

        Args:
            recording: Its id.
            summing: Where blocks are read and summed.

        Raises:
            RecordingError: If it cannot be scored and is not to be skipped.
        """
        try:
            with recording_errors(recording):
                data = self.dataset.get_recording(recording)
                times = split_intervals(data, self.split) if self.intervals is None else self.intervals[recording]
                signal = open_signal(data, self.field, bin_width=self.bin_width)
                rows = _measure(signal, times, self.statistics, self.fisher, self.min_samples, summing)
                n_units = len(rows["unit_id"])
                rows["recording_id"] = np.full(n_units, recording)
                rows["cre_line"] = np.full(n_units, cre_line(data))
        except RecordingError as error:
            if self.on_error == "raise":
                raise
            return Scored(recording, {}, [], skipped=str(error))
        return Scored(recording, rows, np.asarray(times, float).tolist())


# What scores recordings and yields a result for each, in their order: (scorer, recordings, how many at once).
Backend = Callable[[Scorer, list[str], "int | None"], Generator[Scored, None, None]]


def in_threads(scorer: Scorer, recordings: list[str], workers: int | None = None) -> Generator[Scored, None, None]:
    """Score recordings in threads of this process and yield their results in order."""
    n_workers = workers or min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(n_workers) as reading, ThreadPoolExecutor(n_workers) as summing:
        yield from reading.map(partial(scorer, summing=summing), recordings)


def _measure(
    signal: Signal,
    intervals: np.ndarray,
    statistics: Mapping[str, Callable[[int], Statistic]],
    fisher: bool,
    min_samples: int,
    executor: Executor,
) -> dict[str, np.ndarray]:
    """All columns that come from the samples of one recording; blocks are read and summed in threads."""
    n_units = len(signal.unit_ids)
    moments = Moments(n_units, nan_policy="omit")
    further = {name: factory(n_units) for name, factory in statistics.items()}
    infinite = np.zeros(n_units, dtype=bool)
    pending: deque[Future[_Summed]] = deque()

    def add(summed: _Summed) -> None:
        nonlocal infinite
        moments.merge(summed.moments)
        infinite |= summed.infinite
        for rows in summed.blocks:
            for statistic in further.values():
                statistic.update(rows)

    # What further statistics are to see is kept until they do.
    for reads in _batches(signal.pieces(intervals), _READS_KEPT if further else _READS):
        pending.append(executor.submit(_sum_pieces, reads, n_units, keep=bool(further)))
        if len(pending) > _AHEAD:
            add(pending.popleft().result())
    for future in pending:
        add(future.result())
    return {
        "unit_id": signal.unit_ids,
        "n_samples": moments.count.astype(np.int64),
        "mean": np.where(moments.count > 0, moments.mean, np.nan),
        "std": np.sqrt(moments.variance()),
        "skewness": moments.skewness(),
        "kurtosis": moments.kurtosis(fisher=fisher),
        "status": _status(moments, infinite, min_samples),
        **{name: np.asarray(statistic.result(), float) for name, statistic in further.items()},
    }


@dataclass(frozen=True)
class _Summed:
    """Moments of consecutive samples, which traces had infinity (N,), and the samples if they are kept.

    ``blocks`` are the samples, (T, N) each, with NaN for infinity.
    """

    moments: Moments
    infinite: np.ndarray
    blocks: list[np.ndarray]


def _sum_pieces(reads: list[Piece], n_units: int, *, keep: bool) -> _Summed:
    blocks = [read() for read in reads] if keep else []
    moments = Moments(n_units)
    moments.extend(blocks if keep else (read() for read in reads))
    infinite = ~np.isfinite(moments.mean)
    if infinite.any():
        # Rare enough to read again what was not kept.
        blocks = blocks or [read() for read in reads]
        infinite = np.any([np.isinf(rows).any(axis=0) for rows in blocks], axis=0)
        blocks = [np.where(np.isinf(rows), np.nan, rows) for rows in blocks]
        moments = Moments(n_units)
        moments.extend(blocks)
    return _Summed(moments, infinite, blocks if keep else [])


def _batches(items: Iterable[Piece], n: int) -> Iterator[list[Piece]]:
    iterator = iter(items)
    while batch := list(islice(iterator, n)):
        yield batch


def _status(moments: Moments, infinite: np.ndarray, min_samples: int) -> np.ndarray:
    return np.select(
        [infinite, moments.count == 0, moments.count < min_samples, moments.constant()],
        ["not_finite", "all_nan", "too_short", "constant"],
        default=STATUS_OK,
    )
