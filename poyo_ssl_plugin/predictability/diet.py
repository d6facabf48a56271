"""Diets: which neurons a model is fed.

A diet is a set of neurons of a scored dataset. The paper's (section 3.1) holds the predictable ones:
skewness <= 3.51 and kurtosis <= 22.62 on the pretraining split; fine-tuning takes the others. Its
published code selects whole Cre lines instead: :meth:`Diet.from_cre_lines`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from poyo_ssl_plugin.errors import DietError, TableError
from poyo_ssl_plugin.files import write_json
from poyo_ssl_plugin.plain import ReadOnlyValues, Values
from poyo_ssl_plugin.predictability.table import PredictabilityTable
from poyo_ssl_plugin.recordings import own_ids

PAPER_SKEWNESS = 3.51
PAPER_KURTOSIS = 22.62
PAPER_PRETRAIN_CRE_LINES = ("Sst", "Vip", "Pvalb", "Ntsr1")

_FORMAT = 1


def unpredictability(
    table: PredictabilityTable, *, skewness: float = PAPER_SKEWNESS, kurtosis: float = PAPER_KURTOSIS
) -> np.ndarray:
    """How far out a neuron is, relative to the thresholds: the larger of its two ratios, shape (N,).

    A neuron passes both thresholds exactly where this is at most 1, so it orders neurons from the
    most to the least predictable in the sense of the paper.

    Example:
        >>> rows = [(0.5, 1.0), (3.51, 1.0), (1.0, 45.24)]  # skewness and kurtosis
        >>> table = PredictabilityTable.from_rows(
        ...     dict(recording_id="a", unit_id=str(i), skewness=s, kurtosis=k) for i, (s, k) in enumerate(rows)
        ... )
        >>> unpredictability(table).round(2).tolist()
        [0.14, 1.0, 2.0]
    """
    return np.maximum(table["skewness"] / skewness, table["kurtosis"] / kurtosis)


def _require_table(table: object) -> None:
    """Say so where a diet is made from something that is no table."""
    if not isinstance(table, PredictabilityTable):
        given = repr(str(table)) if isinstance(table, str | Path) else f"a {type(table).__name__}"
        raise TableError(f"a diet is made of a table, not of {given}: PredictabilityTable.load reads one")


class Diet:
    """A set of neurons, by recording and unit id, with an order from most to least predictable.

    Make one with a class method; ``&``, ``|`` and :meth:`complement` combine them. Neurons whose
    status in the table is not ``"ok"`` are in no diet, nor in any complement.

    Args:
        table: The scored neurons.
        members: Boolean (N,), the rows of ``table`` to take.
        name: What to call the diet in logs and results.
        rule: How the members were chosen; kept with the diet.
        order: Number (N,) by which neurons go from most to least predictable; by default
            :func:`unpredictability`.

    Example:
        >>> table = PredictabilityTable.from_rows([
        ...     dict(recording_id="a", unit_id="1", skewness=0.5, kurtosis=1.0),
        ...     dict(recording_id="a", unit_id="2", skewness=6.0, kurtosis=50.0),
        ...     dict(recording_id="a", unit_id="3", skewness=np.nan, kurtosis=np.nan, status="constant"),
        ... ])
        >>> diet = Diet.from_thresholds(table)
        >>> diet.mask("a", ["3", "2", "1"]).tolist()
        [False, False, True]
        >>> diet.complement().mask("a", ["3", "2", "1"]).tolist()
        [False, True, False]
    """

    def __init__(
        self,
        table: PredictabilityTable,
        members: np.ndarray,
        *,
        name: str = "custom",
        rule: ReadOnlyValues | None = None,
        order: np.ndarray | None = None,
    ) -> None:
        _require_table(table)
        order = unpredictability(table) if order is None else order
        self.name = name
        self.rule: Values = dict(rule or {})
        self.provenance: Values = dict(table.provenance)
        ids, ok = table["unit_id"], table.ok
        self._recordings = {
            recording: _Neurons(ids[rows], members[rows] & ok[rows], ok[rows], order[rows])
            for recording, rows in table.by_recording().items()
        }
        self._set_ranks()

    @classmethod
    def from_thresholds(
        cls, table: PredictabilityTable, skewness: float = PAPER_SKEWNESS, kurtosis: float = PAPER_KURTOSIS
    ) -> Diet:
        """The predictable neurons: skewness and kurtosis at most the thresholds (the paper's)."""
        _require_table(table)
        members = (table["skewness"] <= skewness) & (table["kurtosis"] <= kurtosis)
        rule = {"kind": "thresholds", "skewness": skewness, "kurtosis": kurtosis}
        return cls(table, members, name="predictable", rule=rule)

    @classmethod
    def from_quantile(cls, table: PredictabilityTable, quantile: float = 0.5, *, by: str | None = None) -> Diet:
        """The most predictable fraction of all neurons, by :func:`unpredictability` or by another statistic.

        Args:
            table: The scored neurons.
            quantile: The fraction, in (0, 1].
            by: A column of the table, such as a registered statistic; its lowest values are taken.

        Raises:
            DietError: If ``quantile`` is not in (0, 1].
            TableError: If the table has no such column.
        """
        _require_table(table)
        if not 0 < quantile <= 1:
            raise DietError(f"quantile must be in (0, 1], not {quantile}")
        if by is not None and (by not in table.columns or table[by].dtype.kind == "U"):
            raise TableError(f"the table has no statistic {by!r}; add it with 'poyo-ssl score --statistic {by}'")
        order = unpredictability(table) if by is None else table[by]
        order = np.where(table.ok & ~np.isnan(order), order, np.inf)
        keep = np.argsort(order, kind="stable")[: round(quantile * int(np.isfinite(order).sum()))]
        rule = {"kind": "quantile", "quantile": quantile, **({} if by is None else {"by": by})}
        name = f"quantile-{quantile:g}" + (f"-of-{by}" if by else "")
        return cls(table, indicator(len(table), keep), name=name, rule=rule, order=order)

    @classmethod
    def from_cre_lines(cls, table: PredictabilityTable, cre_lines: Iterable[str] = PAPER_PRETRAIN_CRE_LINES) -> Diet:
        """All neurons of some Cre lines, named in full or by their gene (``Sst`` for ``Sst_IRES_Cre``).

        The default is the pretraining half of the authors' published code.

        Raises:
            DietError: If no recording of the table is of any of these lines.
        """
        _require_table(table)
        wanted = {str(line).lower() for line in cre_lines}
        lines = [line.lower().replace("-", "_") for line in table["cre_line"].tolist()]
        members = np.array([line in wanted or line.split("_")[0] in wanted for line in lines], dtype=bool)
        if not members.any():
            known = ", ".join(sorted(set(table["cre_line"].tolist()) - {""})) or "no Cre lines at all"
            raise DietError(f"no neuron is of Cre line {', '.join(sorted(wanted))}; the table has {known}")
        return cls(table, members, name="cre-lines", rule={"kind": "cre_lines", "cre_lines": sorted(wanted)})

    @classmethod
    def random(
        cls, table: PredictabilityTable, *, n_units: int | None = None, fraction: float = 0.5, seed: int = 0
    ) -> Diet:
        """A random set of ``n_units`` neurons, or of a ``fraction`` of all: the control diet."""
        _require_table(table)
        candidates = np.flatnonzero(table.ok)
        n = round(fraction * len(candidates)) if n_units is None else n_units
        if not 0 < n <= len(candidates):
            raise DietError(f"cannot draw {n} of {len(candidates)} neurons")
        keep = np.random.default_rng(seed).permutation(candidates)[:n]
        rule = {"kind": "random", "n_units": n, "seed": seed}
        return cls(table, indicator(len(table), keep), name="random", rule=rule)

    @classmethod
    def everything(cls, table: PredictabilityTable) -> Diet:
        """Every neuron that could be scored."""
        _require_table(table)
        return cls(table, np.ones(len(table), dtype=bool), name="everything", rule={"kind": "everything"})

    def subset(self, fraction: float, *, seed: int = 0) -> Diet:
        """A random fraction of the diet's neurons, recording by recording, at least one of each that has any.

        With one seed a smaller fraction is part of a larger one.

        Raises:
            DietError: If ``fraction`` is not in (0, 1].
        """
        if not 0 < fraction <= 1:
            raise DietError(f"fraction must be in (0, 1], not {fraction}")
        rng = np.random.default_rng(seed)
        members = {}
        for key, neurons in self._recordings.items():
            rows = rng.permutation(np.flatnonzero(neurons.member))
            members[key] = indicator(len(neurons.ids), rows[: math.ceil(fraction * len(rows) - 1e-9)])
        rule = {"kind": "subset", "fraction": fraction, "seed": seed, "of": self.rule}
        return self._with_members(members, self.name, rule)

    def complement(self) -> Diet:
        """The scored neurons that are not in this diet."""
        members = {key: neurons.eligible & ~neurons.member for key, neurons in self._recordings.items()}
        name = {"predictable": "unpredictable"}.get(self.name, f"not-{self.name}")
        return self._with_members(members, name, {"kind": "complement", "of": self.rule})

    def __and__(self, other: Diet) -> Diet:
        return self._combine(other, np.logical_and, "and")

    def __or__(self, other: Diet) -> Diet:
        return self._combine(other, np.logical_or, "or")

    def mask(self, recording_id: str, unit_ids: np.ndarray | list[str], *, fraction: float = 1.0) -> np.ndarray:
        """Which of these neurons are in the diet.

        Args:
            recording_id: The recording they belong to.
            unit_ids: Their ids, shape (N,), any order, any subset of the recording's; with or without
                ``recording_id/`` before them.
            fraction: Only the most predictable part of the whole diet, for a curriculum.

        Returns:
            Boolean array of shape (N,).

        Raises:
            DietError: If the recording or a neuron was not scored.
        """
        neurons = self._neurons(recording_id)
        rows = neurons.rows(np.asarray(unit_ids, dtype=str), recording_id)
        return neurons.member[rows] & (neurons.rank[rows] <= fraction)

    def members_of(self, table: PredictabilityTable) -> np.ndarray:
        """Boolean (N,): the rows of a table whose neurons are in the diet."""
        members = np.zeros(len(table), dtype=bool)
        for recording, rows in table.by_recording().items():
            members[rows] = self.mask(recording, table["unit_id"][rows])
        return members

    def units(self, recording_id: str) -> list[str]:
        """Ids of the neurons of a recording that are in the diet, sorted."""
        neurons = self._neurons(recording_id)
        return neurons.ids[neurons.member].tolist()

    def count(self, recording_id: str) -> int:
        """How many neurons of a recording are in the diet."""
        return int(self._neurons(recording_id).member.sum())

    @property
    def recordings(self) -> list[str]:
        """All scored recordings, whether or not the diet feeds them."""
        return list(self._recordings)

    def __len__(self) -> int:
        return sum(self.count(recording) for recording in self._recordings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Diet) and self._as_json() == other._as_json()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Diet({self.name!r}: {self.summary()})"

    def summary(self, recordings: Iterable[str] | None = None) -> str:
        """``"kept n of N units in r of R recordings"``, of all or of the given recordings."""
        chosen = [self._neurons(recording) for recording in (self._recordings if recordings is None else recordings)]
        units = sum(int(neurons.member.sum()) for neurons in chosen)
        fed = sum(bool(neurons.member.any()) for neurons in chosen)
        total = sum(len(neurons.ids) for neurons in chosen)
        return f"kept {units} of {total} units in {fed} of {len(chosen)} recordings"

    def save(self, path: str | Path) -> None:
        """Write the diet as JSON."""
        write_json(path, self._as_json())

    @classmethod
    def load(cls, path: str | Path) -> Diet:
        """Read a diet that :meth:`save` wrote.

        Raises:
            DietError: If the file is missing or is not a diet.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls._from_json(content)
        except FileNotFoundError:
            raise DietError(f"{path}: no such diet file") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DietError(f"{path}: not a diet file ({error})") from None

    def _as_json(self) -> Values:
        return {
            "format": _FORMAT,
            "name": self.name,
            "rule": self.rule,
            "provenance": self.provenance,
            "recordings": {key: neurons.as_json() for key, neurons in self._recordings.items()},
        }

    @classmethod
    def _from_json(cls, content: ReadOnlyValues) -> Diet:
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']} is newer than this version of the plugin")
        diet = cls.__new__(cls)
        diet.name, diet.rule = str(content["name"]), dict(content["rule"])
        diet.provenance = dict(content["provenance"])
        diet._recordings = {key: _Neurons.from_json(value) for key, value in content["recordings"].items()}
        diet._set_ranks()
        return diet

    def _neurons(self, recording_id: str) -> _Neurons:
        try:
            return self._recordings[recording_id]
        except KeyError:
            raise DietError(
                f"recording {recording_id!r} was not scored, so diet {self.name!r} does not know its neurons; "
                "run 'poyo-ssl score' on a dataset that holds it"
            ) from None

    def _set_ranks(self) -> None:
        """Give every member its place, in (0, 1], among all members from most to least predictable."""
        order = np.concatenate([n.order[n.member] for n in self._recordings.values()] or [np.empty(0)])
        place = np.empty(len(order))
        place[np.argsort(order, kind="stable")] = np.arange(1, len(order) + 1) / max(len(order), 1)
        first = 0
        for neurons in self._recordings.values():
            n = int(neurons.member.sum())
            neurons.rank = np.ones(len(neurons.ids))
            rank = place[first : first + n]
            # The best neuron of a recording is always open, so that no window comes out empty.
            rank[rank == rank.min(initial=1.0)] = 0.0
            neurons.rank[neurons.member] = rank
            first += n

    def _with_members(self, members: Mapping[str, np.ndarray], name: str, rule: Values) -> Diet:
        diet = Diet.__new__(Diet)
        diet.name, diet.rule, diet.provenance = name, rule, dict(self.provenance)
        diet._recordings = {
            key: _Neurons(neurons.ids, members[key], neurons.eligible, neurons.order)
            for key, neurons in self._recordings.items()
        }
        diet._set_ranks()
        return diet

    def _combine(self, other: Diet, operation: np.ufunc, word: str) -> Diet:
        members = {}
        for key, neurons in self._recordings.items():
            members[key] = operation(neurons.member, other.mask(key, neurons.ids)) & neurons.eligible
        rule = {"kind": word, "of": [self.rule, other.rule]}
        return self._with_members(members, f"{self.name}-{word}-{other.name}", rule)


class _Neurons:
    """The scored neurons of one recording, sorted by id."""

    def __init__(self, ids: np.ndarray, member: np.ndarray, eligible: np.ndarray, order: np.ndarray) -> None:
        by_id = np.argsort(ids)
        self.ids = np.asarray(ids, dtype=str)[by_id]
        self.member = np.asarray(member, dtype=bool)[by_id]
        self.eligible = np.asarray(eligible, dtype=bool)[by_id]
        self.order = np.asarray(order, dtype=float)[by_id]
        self.rank = np.ones(len(ids))
        self._last: tuple[bytes, np.ndarray] = (b"", np.empty(0, dtype=np.int64))

    def rows(self, unit_ids: np.ndarray, recording_id: str) -> np.ndarray:
        """Rows of these ids; windows ask with the same ids over and over, so the last answer is kept."""
        key = unit_ids.tobytes()
        if key != self._last[0] or len(unit_ids) != len(self._last[1]):
            unit_ids = own_ids(unit_ids, recording_id)
            rows = np.searchsorted(self.ids, unit_ids)
            rows = np.minimum(rows, len(self.ids) - 1)
            unknown = self.ids[rows] != unit_ids
            if unknown.any():
                raise DietError(
                    f"unit {str(unit_ids[unknown][0])!r} of recording {recording_id!r} was not scored; "
                    "score the dataset again"
                )
            self._last = (key, rows)
        return self._last[1]

    def as_json(self) -> Values:
        return {
            "units": self.ids.tolist(),
            "member": self.member.astype(int).tolist(),
            "eligible": self.eligible.astype(int).tolist(),
            "unpredictability": [float(x) if np.isfinite(x) else None for x in self.order],
        }

    @classmethod
    def from_json(cls, content: ReadOnlyValues) -> _Neurons:
        order = [np.nan if x is None else x for x in content["unpredictability"]]
        columns = (content["units"], content["member"], content["eligible"], order)
        if len({len(column) for column in columns}) != 1:
            raise ValueError("columns of a recording differ in length")
        return cls(*(np.asarray(column) for column in columns))


def indicator(n: int, rows: np.ndarray) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[rows] = True
    return mask
