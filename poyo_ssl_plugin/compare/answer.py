"""The answer to a question: values of its comparisons side by side, and the planned differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from poyo_ssl_plugin.compare.estimates import Estimate, PairedComparison

__all__ = ["Answer", "Column"]


@dataclass(frozen=True)
class Column:
    """What one comparison says, over data sets or folds.

    Attributes:
        arms: What each arm reached.
        simple_decoders: Mean of each simple decoder.
        log_loss: What the arms and simple decoders that give probabilities have of it, in nats; of a classification.
        chance: What guessing reaches, where there is such a thing.
        metric: What was measured, in words.
        seconds: Wall-clock time.
        git: Revision of the checkout, if it was one.

    Example:
        >>> arms = {"scratch": Estimate(0.5, [0.4, 0.6], 5), "pretrained": Estimate(0.6, [0.5, 0.7], 5)}
        >>> column = Column(arms, {"template": 0.55}, chance=0.125, metric="accuracy", seconds=60.0, git=None)
        >>> str(column.arms["pretrained"])
        '0.600 [0.500, 0.700]'
    """

    arms: Mapping[str, Estimate]
    simple_decoders: Mapping[str, float]
    chance: float | None
    metric: str
    seconds: float
    git: str | None
    log_loss: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PlannedDifference(PairedComparison):
    """A difference that was to be compared.

    Attributes:
        column: The comparison.
        arm: Name of an arm.
        reference: Name of the arm it is compared with.
        p_holm: ``p`` adjusted for the number of planned differences.
        beside: What it is a difference of, where not of the metric; ``"log_loss"``, less of which is better.
        log_loss: The same difference of log-losses, in nats, of a classification.
    """

    column: str
    arm: str
    reference: str
    p_holm: float | None
    beside: str | None = None
    log_loss: Estimate | None = None


@dataclass(frozen=True)
class Answer:
    """What all comparisons of a question say.

    Attributes:
        question: The question.
        small: Whether runs were too short to say anything.
        unit: What counts as independent: ``"data set"``, ``"fold"`` or ``"seed"``.
        columns: What each comparison says.
        planned: The planned differences.

    Example:
        >>> arms = {"scratch": Estimate(0.5, [0.4, 0.6], 5)}
        >>> column = Column(arms, {"template": 0.55}, chance=0.125, metric="accuracy", seconds=60.0, git=None)
        >>> answer = Answer("Does it help?", small=False, unit="fold", columns={"all labels": column}, planned=[])
        >>> answer.arms, answer.simple_decoders
        (['scratch'], ['template'])
    """

    question: str
    small: bool
    unit: str
    columns: Mapping[str, Column]
    planned: Sequence[PlannedDifference]

    @property
    def arms(self) -> list[str]:
        """Names of all arms, in order of their first column."""
        return list(dict.fromkeys(name for column in self.columns.values() for name in column.arms))

    @property
    def simple_decoders(self) -> list[str]:
        """Names of all simple decoders, likewise."""
        return list(dict.fromkeys(name for column in self.columns.values() for name in column.simple_decoders))

    def lines(self) -> list[str]:
        """It as Markdown: a table of values, and one of the planned differences."""
        columns = self.columns.values()
        rows = [["", *self.columns], ["---"] * (len(columns) + 1)]
        rows += [[f"`{name}`", *(_cell(column.arms.get(name)) for column in columns)] for name in self.arms]
        for name in self.simple_decoders:
            values = (column.simple_decoders.get(name) for column in columns)
            rows.append([name, *("-" if value is None else f"{value:.3f}" for value in values)])
        rows.append(["chance", *(f"{column.chance or 0:.3f}" for column in columns)])
        header = [f"# {self.question}", ""]
        if self.small:
            header += ["**Three steps a run: these numbers say nothing.**", ""]
        return [*header, *map(_row, rows), "", *self._losses(), *map(_row, self._planned_rows())]

    def _losses(self) -> list[str]:
        columns = self.columns.values()
        found = dict.fromkeys(name for column in columns for name in column.log_loss)
        if not found:
            return []
        rows = [["log-loss, nats", *self.columns], ["---"] * (len(columns) + 1)]
        for name in found:
            title = f"`{name}`" if name in self.arms else name
            rows.append([title, *(_cell(column.log_loss.get(name)) for column in columns)])
        return [*map(_row, rows), ""]

    def _planned_rows(self) -> list[list[str]]:
        losses = any(pair.log_loss for pair in self.planned)
        header = ["planned comparison", "difference", "relative", "Holm's p", f"{self.unit}s"]
        header += ["of log-loss"] * losses
        rows = [header, ["---"] * len(header)]
        for pair in self.planned:
            of = "" if pair.beside is None else f", {pair.beside.replace('_', '-')}"
            row = [
                f"{pair.column}: `{pair.arm}` - `{pair.reference}`{of}",
                _signed(pair),
                "-" if pair.relative_gain is None else f"{pair.relative_gain:+.0%}",
                "-" if pair.p_holm is None else f"{pair.p_holm:.2g}",
                str(pair.n),
            ]
            rows.append([*row, "-" if pair.log_loss is None else _signed(pair.log_loss)] if losses else row)
        return rows


def _cell(value: Estimate | None) -> str:
    return "-" if value is None else f"{value.mean:.3f}{_interval(value.ci95, '.3f')}"


def _signed(difference: Estimate) -> str:
    return f"{difference.mean:+.3f}{_interval(difference.ci95, '+.3f')}"


def _interval(ci95: Sequence[float] | None, form: str) -> str:
    return "" if ci95 is None else f" ({ci95[0]:{form}} to {ci95[1]:{form}})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
