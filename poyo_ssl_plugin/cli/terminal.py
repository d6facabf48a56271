"""What commands print: tables, results, paths."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape as plain  # brackets that rich would take for markup, made harmless
from rich.table import Table

if TYPE_CHECKING:
    from poyo_ssl_plugin.compare.results import TestSummary

console = Console()
errors = Console(stderr=True)

__all__ = ["console", "errors", "plain", "print_results", "print_table", "say", "wrote"]


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def wrote(*paths: str | Path) -> None:
    """Say which files were written."""
    say("wrote " + ", ".join(map(str, paths)))


def print_table(header: Iterable[str], rows: Iterable[Iterable[object]], *, title: str | None = None) -> None:
    """Print rows of anything that has a text; where words do not fit into the terminal, a line per cell."""
    names = list(header)
    cells = [[plain(str(cell)) for cell in row] for row in rows]
    table = Table(*names, title=title)
    for row in cells:
        table.add_row(*row)
    whole_words = console.measure(table, options=console.options.update(max_width=10_000)).minimum
    if console.is_terminal and whole_words > console.width:
        console.print(title or "")
        for row in cells:
            lines = Table.grid(padding=(0, 2))
            for pair in zip(names, row):
                lines.add_row(*pair)
            console.print(lines, "")
        return
    # In a file, what may be copied from a cell is not folded.
    place = console if console.is_terminal else Console(width=200, quiet=console.quiet)
    place.print(table)


def print_results(summary: TestSummary) -> None:
    """The arms of a comparison, or the one run, and what follows from them."""
    from poyo_ssl_plugin.compare.figures import in_words
    from poyo_ssl_plugin.compare.report import result_rows
    from poyo_ssl_plugin.compare.results import ComparisonSummary
    from poyo_ssl_plugin.compare.verdicts import arm_verdicts, leak_warnings, verdict

    metric = summary.measured
    intervals = f"95 %, runs and {metric.samples}", f"95 %, {metric.samples} alone"
    beside = map(in_words, summary.beside)
    print_table(("arm", metric.name, *intervals, *beside, "runs"), result_rows(summary), title=summary.task)
    if not isinstance(summary, ComparisonSummary):
        return
    if summary.pretrained_minus_scratch is not None:
        say(verdict(summary))
    others = [text for text in arm_verdicts(summary) if not text.startswith("pretrained (")]
    for text in [*others, *leak_warnings(summary.leaks)]:
        say(text)
