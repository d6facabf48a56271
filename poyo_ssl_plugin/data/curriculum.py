"""A curriculum: the diet opens from its most to its least predictable neurons as training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from poyo_ssl_plugin.data.sampler import PredictabilitySampler
from poyo_ssl_plugin.data.windows import WindowIndex
from poyo_ssl_plugin.errors import DietError

Pacing = Callable[[float], float]


def linear(progress: float) -> float:
    """Open in proportion to progress."""
    return progress


def exponential(progress: float) -> float:
    """Double the open share six times over: slowly at first, most of it late."""
    return (2.0 ** (6 * progress) - 1) / (2.0**6 - 1)


def step(progress: float) -> float:
    """A quarter more of the way at each quarter of training."""
    return min(1.0, int(progress * 4 + 1e-9) / 3)


PACINGS: dict[str, Pacing] = {"linear": linear, "exponential": exponential, "step": step}


class CurriculumSampler(PredictabilitySampler):
    """Windows whose diet opens over training, from the most to the least predictable neurons.

    Each window carries the open share of the diet; :class:`SelectUnits` and
    :class:`DietUnitDropout` (on :class:`Recordings`) keep only that share. Recordings are sampled
    as :class:`PredictabilitySampler` samples them.

    Args:
        epochs: Epochs until the diet is fully open; it stays open after that.
        pacing: ``"linear"``, ``"exponential"``, ``"step"``, or a function from progress in [0, 1] to
            the way opened in [0, 1].
        start_fraction: Share of the diet that is open at the start, in (0, 1].
        **options: As :class:`PredictabilitySampler`; ``diet`` is required.

    Raises:
        DietError: If there is no diet, or an argument is out of range.

    Example:
        >>> from poyo_ssl_plugin.compat import Interval
        >>> from poyo_ssl_plugin.predictability import Diet, PredictabilityTable
        >>> table = PredictabilityTable.from_rows(
        ...     [dict(recording_id="a", unit_id=str(i), skewness=i, kurtosis=i) for i in range(4)]
        ... )
        >>> sampler = CurriculumSampler(
        ...     diet=Diet.everything(table), epochs=2, start_fraction=0.25,
        ...     sampling_intervals={"a": Interval(0.0, 4.0)}, window_length=1.0,
        ... )
        >>> [round(window.diet_fraction, 2) for _ in range(2) for window in sampler]
        [0.25, 0.34, 0.44, 0.53, 0.62, 0.72, 0.81, 0.91]
    """

    def __init__(
        self,
        *,
        epochs: int,
        pacing: str | Pacing = "linear",
        start_fraction: float = 0.2,
        **options: Any,
    ) -> None:
        if options.get("diet") is None:
            raise DietError("CurriculumSampler needs a diet to open: pass diet=")
        if epochs < 1 or not 0 < start_fraction <= 1:
            raise DietError(
                f"a curriculum needs epochs >= 1 and start_fraction in (0, 1], got {epochs} and {start_fraction}"
            )
        if not callable(pacing) and pacing not in PACINGS:
            raise DietError(f"unknown pacing {pacing!r}; there are {', '.join(PACINGS)}, or pass a function")
        super().__init__(**options)
        self.epochs = epochs
        self.pacing: Pacing = pacing if callable(pacing) else PACINGS[pacing]
        self.start_fraction = start_fraction
        self.epoch = -1

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next (Lightning does); otherwise each iteration counts as one."""
        self.epoch = epoch - 1

    def fraction(self, progress: float) -> float:
        """Open share of the diet at ``progress`` in [0, 1] of the curriculum."""
        way = min(max(self.pacing(min(max(progress, 0.0), 1.0)), 0.0), 1.0)
        return self.start_fraction + (1 - self.start_fraction) * way

    def __iter__(self) -> Iterator[WindowIndex]:
        self.epoch += 1
        return super().__iter__()

    def _indices(self, names: list[int], starts: list[float], seeds: list[int], first: int) -> Iterator[WindowIndex]:
        n = len(self)
        for i, window in enumerate(super()._indices(names, starts, seeds, first)):
            window.diet_fraction = self.fraction((self.epoch + (first + i) / n) / self.epochs)
            yield window
