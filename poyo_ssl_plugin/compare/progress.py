"""What a user sees of a long command: one bar for a stage, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Lines of a stage at most, besides its first and its last.
_LINES = 10

_Item = TypeVar("_Item")


class Track(Protocol):
    """Hands on items, and shows how many of ``n`` are done."""

    def __call__(self, items: Iterator[_Item], n: int, /) -> Iterable[_Item]: ...


class Stages:
    """Stages of a command, one after another, each with how much is done and how long the rest may take.

    Args:
        console: Where to write.

    Example:
        >>> import io
        >>> with Stages(Console(file=io.StringIO())) as stage:
        ...     list(stage("training", 2)(iter("ab"), 2))
        ['a', 'b']
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Callable[[str, int], Track]:
        self._bar.start()
        return self._stage

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _stage(self, label: str, total: int) -> Track:
        def track(items: Iterator[_Item], n: int) -> Iterable[_Item]:
            if self.console.is_terminal:
                return self._bar.track(items, total=n, description=label)
            return self._lines(items, n, label)

        return track

    def _lines(self, items: Iterator[_Item], n: int, label: str) -> Iterator[_Item]:
        self._say(f"{label}: {n} to do")
        began = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            if done == n or done * _LINES // n > (done - 1) * _LINES // n:
                left = (time.monotonic() - began) / done * (n - done)
                self._say(f"{label}: {done} of {n}" + (f", about {_duration(left)} left" if done < n else ", done"))

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
