"""How stable is a diet? Confidence of every neuron's membership, and what flips with less data or more noise.

Skewness and kurtosis of a calcium trace hang on rare events, so a neuron near a threshold may be in the diet
or not by the chance of when it was recorded. Samples of a trace are far from independent; time is therefore
resampled in blocks that are long against events (moving to whole blocks: Kunsch 1989, Carlstein 1986).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.experiments import figures
from poyo_ssl_plugin.files import write_json
from poyo_ssl_plugin.predictability import PAPER_KURTOSIS, PAPER_SKEWNESS, PredictabilityTable
from poyo_ssl_plugin.recordings import TRACES, merge_intervals, open_signal

BLOCK_SECONDS = 30.0
LENGTHS = (0.125, 0.25, 0.5)
NOISES = (0.5, 1.0, 2.0)
# Between these a membership is called uncertain.
SURE = (0.05, 0.95)


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a diet, and which kurtosis they are of."""

    skewness: float = PAPER_SKEWNESS
    kurtosis: float = PAPER_KURTOSIS
    fisher: bool = True

    def members(self, skewness: np.ndarray, kurtosis: np.ndarray) -> np.ndarray:
        """Boolean array: at most both thresholds; NaN is not."""
        return (skewness <= self.skewness) & (kurtosis <= self.kurtosis)


@dataclass(frozen=True)
class Stability:
    """How stable the membership of each of :math:`N` neurons is.

    Attributes:
        recording_id: Recordings, (N,).
        unit_id: Neurons, (N,).
        cre_line: Cre lines, (N,).
        member: Whether it is in the diet, bool (N,).
        confidence: Share of bootstrap samples in which it is in the diet, (N,).
        by_length: Share of the recording to how often a stretch of that length puts the neuron on the other
            side, (N,).
        by_noise: Added white noise, in standard deviations of the neuron's own noise, to whether that puts it
            on the other side, (N,).
    """

    recording_id: np.ndarray
    unit_id: np.ndarray
    cre_line: np.ndarray
    member: np.ndarray
    confidence: np.ndarray
    by_length: dict[float, np.ndarray]
    by_noise: dict[float, np.ndarray]

    @property
    def uncertain(self) -> np.ndarray:
        """Boolean (N,): neither in nor out in nearly all bootstrap samples."""
        return (self.confidence > SURE[0]) & (self.confidence < SURE[1])

    def summary(self) -> dict[str, Any]:
        """Counts and shares, of all neurons and by Cre line, in plain values."""
        lines = {str(line) or "unknown": self.cre_line == line for line in np.unique(self.cre_line)}
        return {
            "all": self._of(np.ones(len(self.member), dtype=bool)),
            "by_cre_line": {line: self._of(rows) for line, rows in lines.items()},
        }

    def _of(self, rows: np.ndarray) -> dict[str, Any]:
        return {
            "neurons": int(rows.sum()),
            "predictable": int(self.member[rows].sum()),
            "uncertain": int(self.uncertain[rows].sum()),
            "expected_flips": float(np.where(self.member, 1 - self.confidence, self.confidence)[rows].sum()),
            "flips_by_length": {str(key): float(flips[rows].mean()) for key, flips in self.by_length.items()},
            "flips_by_noise": {str(key): float(flips[rows].mean()) for key, flips in self.by_noise.items()},
        }


def measure_stability(
    dataset: Any,
    table: PredictabilityTable,
    *,
    thresholds: Thresholds | None = None,
    n_bootstrap: int = 500,
    block_seconds: float = BLOCK_SECONDS,
    lengths: Sequence[float] = LENGTHS,
    noises: Sequence[float] = NOISES,
    seed: int = 0,
) -> Stability:
    """Measure how stable a diet is, on the times that the table was scored on.

    Each recording is read once, whatever the number of bootstrap samples.

    Args:
        dataset: The recordings.
        table: Their scored neurons; only those of status "ok" are looked at.
        thresholds: Of the diet; the paper's by default.
        n_bootstrap: Bootstrap samples.
        block_seconds: Length of a block of time, in seconds; long against the events of a trace.
        lengths: Shares of the scored time; the time is cut into stretches of that length.
        noises: Standard deviations of white noise to add, in units of each neuron's noise (estimated from
            differences between neighbouring samples).
        seed: Seed of the bootstrap.

    Raises:
        RecordingError: If a recording has fewer than four blocks of scored time.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin.data import Recordings, simulate
        >>> from poyo_ssl_plugin.predictability import score_dataset
        >>> dataset = Recordings(simulate(tempfile.mkdtemp(), n_recordings=1, n_units=12, minutes=4))
        >>> stability = measure_stability(dataset, score_dataset(dataset), n_bootstrap=50, block_seconds=10.0)
        >>> len(stability.confidence), bool((stability.confidence <= 1).all())
        (12, True)
    """
    thresholds = thresholds or Thresholds(fisher=table.provenance.get("kurtosis", "fisher") == "fisher")
    field, bin_width = table.provenance.get("field", TRACES), table.provenance.get("bin_width", 0.1)
    parts = []
    for number, name in enumerate(table.recordings):
        rows = np.flatnonzero((table["recording_id"] == name) & table.ok)
        if len(rows) == 0:
            continue
        signal = open_signal(dataset.get_recording(name), field, bin_width=bin_width)
        ids = {unit: i for i, unit in enumerate(signal.unit_ids.tolist())}
        columns = np.array([ids[unit] for unit in table["unit_id"][rows].tolist()])
        pieces = cut(np.asarray(table.provenance["intervals"][name], float), block_seconds)
        if len(pieces) < 4:
            raise RecordingError(
                f"recording {name}: {len(pieces)} blocks of {block_seconds:g} s of scored time are too few for a "
                "bootstrap; use shorter blocks or a longer split"
            )
        sums, noise = _read(signal, pieces, columns, table["mean"][rows])
        rng = np.random.default_rng([seed, number])
        found = _of_recording(sums, noise, thresholds, n_bootstrap, lengths, noises, rng)
        parts.append((table["recording_id"][rows], table["unit_id"][rows], table["cre_line"][rows], *found))
    columns_of: Any = list(zip(*parts, strict=True))
    recording_id, unit_id, cre_line, member, confidence = (np.concatenate(column) for column in columns_of[:5])
    return Stability(
        recording_id,
        unit_id,
        cre_line,
        member,
        confidence,
        {key: np.concatenate([flips[key] for flips in columns_of[5]]) for key in lengths},
        {key: np.concatenate([flips[key] for flips in columns_of[6]]) for key in noises},
    )


def cut(intervals: np.ndarray, seconds: float) -> np.ndarray:
    """Cut intervals (R, 2) into pieces of about ``seconds``, none across a gap; what is too short is left out.

    Example:
        >>> cut(np.array([[0.0, 10.0], [20.0, 21.0]]), 4.0).tolist()
        [[0.0, 5.0], [5.0, 10.0]]
    """
    pieces = []
    for start, end in merge_intervals(intervals):
        n = round((end - start) / seconds)
        edges = np.linspace(start, end, n + 1)
        pieces += list(itertools.pairwise(edges.tolist()))
    return np.array(pieces).reshape(-1, 2)


def shape_of(sums: np.ndarray, *, fisher: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Skewness and kurtosis from sums of powers.

    Args:
        sums: Count and sums of the first to fourth power of samples about any shift, (5, ...).
        fisher: Subtract 3 from the kurtosis.

    Example:
        >>> x = np.array([0.0, 0.0, 0.0, 4.0])
        >>> [round(float(v), 4) for v in shape_of(np.stack([(x**k).sum() for k in range(5)]))]
        [1.1547, -0.6667]
    """
    m2, m3, m4 = _central(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        return m3 / m2**1.5, m4 / m2**2 - (3.0 if fisher else 0.0)


def write_stability(stability: Stability, path: str | Path, *, settings: dict[str, Any] | None = None) -> list[Path]:
    """Write a JSON file and, beside it, a figure; returns both.

    Args:
        stability: What was measured.
        path: The JSON file.
        settings: What to say of how it was measured.
    """
    path = Path(path)
    neurons = zip(
        stability.recording_id.tolist(),
        stability.unit_id.tolist(),
        stability.cre_line.tolist(),
        stability.member.tolist(),
        np.round(stability.confidence, 4).tolist(),
        strict=True,
    )
    names = ("recording_id", "unit_id", "cre_line", "predictable", "confidence")
    content = {
        "format": 1,
        **(settings or {}),
        **stability.summary(),
        "neurons": [dict(zip(names, neuron, strict=True)) for neuron in neurons],
    }
    write_json(path, content)
    return [path, figures.stability_panels(stability, path.with_suffix(".png"))]


def _read(signal: Any, pieces: np.ndarray, columns: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of powers of every block, (5, B, N), and each neuron's noise, (N,)."""
    sums = np.zeros((5, len(pieces), len(columns)))
    steps = []
    for i, piece in enumerate(pieces):
        for rows in signal.blocks(piece[None]):
            x = np.asarray(rows, dtype=float)[:, columns] - shift
            seen = np.isfinite(x)
            sums[0, i] += seen.sum(axis=0)
            steps.append(np.nanmedian(np.abs(np.diff(x, axis=0)), axis=0) if len(x) > 1 else np.zeros(len(columns)))
            x = np.where(seen, x, 0.0)
            power = x.copy()
            for k in range(1, 5):
                sums[k, i] += power.sum(axis=0)
                power *= x
    # Of white noise: the median of absolute differences is 0.6745 sqrt(2) standard deviations.
    return sums, np.nanmedian(steps, axis=0) / (0.6745 * np.sqrt(2))


def _of_recording(
    sums: np.ndarray,
    noise: np.ndarray,
    thresholds: Thresholds,
    n_bootstrap: int,
    lengths: Sequence[float],
    noises: Sequence[float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, dict[float, np.ndarray], dict[float, np.ndarray]]:
    def members(of: np.ndarray) -> np.ndarray:
        return thresholds.members(*shape_of(of, fisher=thresholds.fisher))

    n_blocks = sums.shape[1]
    member = members(sums.sum(axis=1))
    weights = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_bootstrap)
    confidence = members(weights.astype(float) @ sums).mean(axis=0)
    by_length = {}
    for share in lengths:
        stretches = np.array_split(np.arange(n_blocks), max(1, min(n_blocks, round(1 / share))))
        by_length[share] = np.mean([members(sums[:, rows].sum(axis=1)) != member for rows in stretches], axis=0)
    m2, m3, m4 = _central(sums.sum(axis=1))
    by_noise = {}
    for level in noises:
        # Moments of a sum of independent variables; white noise has m3 = 0 and m4 = 3 sd^4.
        extra = (level * noise) ** 2
        noisy_m2, noisy_m4 = m2 + extra, m4 + 6 * m2 * extra + 3 * extra**2
        with np.errstate(invalid="ignore", divide="ignore"):
            kurtosis = noisy_m4 / noisy_m2**2 - (3.0 if thresholds.fisher else 0.0)
            by_noise[level] = (thresholds.members(m3 / noisy_m2**1.5, kurtosis) != member).astype(float)
    return member, confidence, by_length, by_noise


def _central(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Second to fourth central moment."""
    with np.errstate(invalid="ignore", divide="ignore"):
        s1, s2, s3, s4 = sums[1:] / sums[0]
    m2 = s2 - s1**2
    m3 = s3 - 3 * s1 * s2 + 2 * s1**3
    m4 = s4 - 4 * s1 * s3 + 6 * s1**2 * s2 - 3 * s1**4
    return m2, m3, m4
