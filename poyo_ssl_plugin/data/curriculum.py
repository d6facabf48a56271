"""A curriculum: the diet opens from its most to its least predictable neurons as training goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
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


class LossPacing:
    """Open a stage further whenever the training loss has stopped falling: pacing by loss.

    The loss is smoothed exponentially over ``patience`` observations. When the smoothed loss has not come
    ``tolerance`` (relative) below its best since the last opening for ``patience`` observations, the next
    stage opens. A curriculum that ends before its last stage opens says so by :attr:`way`.

    Args:
        stages: Stages after the first.
        patience: Observations without progress until the next stage.
        tolerance: What counts as progress, relative to the best.

    Example:
        >>> pacing = LossPacing(stages=2, patience=3)
        >>> ways = []
        >>> for loss in [3.0, 2.0, *[1.0] * 40]:
        ...     pacing.observe(loss)
        ...     ways.append(pacing.way)
        >>> ways[0], ways[-1], ways == sorted(ways)
        (0.0, 1.0, True)
    """

    def __init__(self, *, stages: int = 4, patience: int = 30, tolerance: float = 0.01) -> None:
        if stages < 1 or patience < 1 or not 0 <= tolerance < 1:
            raise DietError(
                f"pacing by loss needs stages and patience of at least 1 and tolerance in [0, 1), got {stages}, "
                f"{patience} and {tolerance}"
            )
        self.stages, self.patience, self.tolerance = stages, patience, tolerance
        self.stage = 0
        self._smooth = math.nan
        self._best = math.inf
        self._since_best = 0

    def __call__(self, progress: float) -> float:
        """The way opened; ``progress`` is not asked."""
        return self.way

    @property
    def way(self) -> float:
        """The way opened, in [0, 1]."""
        return self.stage / self.stages

    def observe(self, loss: float) -> None:
        """See the loss of one step."""
        if not math.isfinite(loss):
            return
        rate = 1 / self.patience
        self._smooth = loss if math.isnan(self._smooth) else (1 - rate) * self._smooth + rate * loss
        if self._smooth < self._best - self.tolerance * abs(self._best) or math.isinf(self._best):
            self._best, self._since_best = self._smooth, 0
            return
        self._since_best += 1
        if self._since_best >= self.patience and self.stage < self.stages:
            self.stage += 1
            self._best, self._since_best = math.inf, 0

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs."""
        names = ("stage", "_smooth", "_best", "_since_best")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from :meth:`state_dict`."""
        self.__dict__.update(state)


PACINGS: dict[str, Pacing] = {"linear": linear, "exponential": exponential, "step": step}
BY_LOSS = "loss"


def make_pacing(name: str | Pacing) -> Pacing:
    """A pacing by name: ``linear``, ``exponential``, ``step`` or ``loss``; a function is taken as it is.

    Raises:
        DietError: If there is none of that name.
    """
    if callable(name):
        return name
    if name == BY_LOSS:
        return LossPacing()
    if name not in PACINGS:
        raise DietError(f"unknown pacing {name!r}; there are {', '.join([*PACINGS, BY_LOSS])}, or pass a function")
    return PACINGS[name]


class CurriculumSampler(PredictabilitySampler):
    """Windows whose diet opens over training, from the most to the least predictable neurons.

    Each window carries the open share of the diet; :class:`SelectUnits` and
    :class:`DietUnitDropout` (on :class:`Recordings`) keep only that share. Recordings are sampled
    as :class:`PredictabilitySampler` samples them.

    Args:
        epochs: Epochs, whole or not, until the diet is fully open; it stays open after that.
        pacing: ``"linear"``, ``"exponential"``, ``"step"``, a function from progress in [0, 1] to
            the way opened in [0, 1], or ``"loss"`` for a ``LossPacing``, whose ``observe`` the
            trainer calls.
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
        self, *, epochs: float, pacing: str | Pacing = "linear", start_fraction: float = 0.2, **options: Any
    ) -> None:
        if options.get("diet") is None:
            raise DietError("CurriculumSampler needs a diet to open: pass diet=")
        if not epochs > 0 or not 0 < start_fraction <= 1:
            raise DietError(
                f"a curriculum needs epochs > 0 and start_fraction in (0, 1], got {epochs} and {start_fraction}"
            )
        chosen = make_pacing(pacing)
        super().__init__(**options)
        self.epochs = epochs
        self.pacing = chosen
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
