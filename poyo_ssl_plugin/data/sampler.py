"""Which windows: fixed-length windows from the recordings that a diet feeds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.distributed

from poyo_ssl_plugin.compat import DatasetIndex, Interval
from poyo_ssl_plugin.data.windows import WindowIndex
from poyo_ssl_plugin.errors import DietError, RecordingError
from poyo_ssl_plugin.predictability import Diet

logger = logging.getLogger(__name__)

# Windows become Python objects this many at a time, so the first one does not wait for the last.
_CHUNK = 4096


class PredictabilitySampler(torch.utils.data.Sampler[DatasetIndex]):
    r"""Random fixed-length windows from the recordings (and intervals) that a diet feeds.

    Takes the place of ``torch_brain.samplers.RandomFixedWindowSampler``: without a diet it yields
    the same number of windows per epoch, with fresh jitter in every epoch, and raises the same
    errors. From an interval of length :math:`L` it takes :math:`\lfloor L / w \rfloor` windows of
    length :math:`w` per epoch; none crosses from one interval into another. Start times are uniform over the
    interval, where the stock sampler puts many windows of short intervals exactly at an edge. A whole
    epoch is drawn at once, in numpy.

    Under ``torch.distributed`` every process yields the same epoch, which is what Lightning's own wrapper
    expects; ``ShardedSampler`` cuts it into shares.

    Args:
        sampling_intervals: Recording id to the intervals to sample from.
        window_length: Length of a window, in seconds.
        generator: Source of randomness; one number is drawn from it per epoch. By default torch's
            global generator (under ``torch.distributed``, one that all processes share).
        drop_short: Skip intervals shorter than a window, with a warning; ``False`` makes them a
            ``ValueError``.
        diet: Sample only recordings in which this diet has neurons.

    Raises:
        ValueError: If ``window_length`` is not positive.
        DietError: If the diet feeds none of the recordings.

    Example:
        >>> from poyo_ssl_plugin.compat import Interval
        >>> intervals = {"a": Interval(0.0, 100.0), "b": Interval(0.0, 200.0)}
        >>> sampler = PredictabilitySampler(sampling_intervals=intervals, window_length=1.0)
        >>> len(sampler), len(list(sampler))
        (300, 300)
    """

    def __init__(
        self,
        *,
        sampling_intervals: Mapping[str, Interval],
        window_length: float,
        generator: torch.Generator | None = None,
        drop_short: bool = True,
        diet: Diet | None = None,
    ) -> None:
        if not isinstance(sampling_intervals, Mapping):
            kind = type(sampling_intervals).__name__
            raise RecordingError(f"sampling_intervals must be {{recording id: Interval(...), ...}}, not a {kind}")
        if window_length <= 0:
            raise ValueError("window_length must be greater than 0.")
        self.window_length = window_length
        self.generator = generator
        self.drop_short = drop_short
        self.diet = diet
        self.sampling_intervals = _fed(sampling_intervals, diet)
        self._epoch_generator: torch.Generator | None = None

    def __len__(self) -> int:
        """Windows per epoch."""
        return self._spans.n_windows

    def __iter__(self) -> Iterator[WindowIndex]:
        spans = self._spans
        rng = np.random.default_rng(self._draw_seed())
        span, start = spans.draw(self.window_length, rng)
        order = rng.permutation(len(span))
        seeds = rng.integers(2**63, size=spans.n_windows)
        for first in range(0, len(order), _CHUNK):
            chunk = order[first : first + _CHUNK]
            names = spans.recording[span[chunk]].tolist()
            starts = start[chunk].tolist()
            yield from self._indices(names, starts, seeds[chunk].tolist(), first)

    def _indices(self, names: list[int], starts: list[float], seeds: list[int], first: int) -> Iterator[WindowIndex]:
        recordings, length = self._spans.recordings, self.window_length
        for name, start, seed in zip(names, starts, seeds, strict=True):
            yield WindowIndex(recordings[name], start, start + length, seed=seed)

    def _draw_seed(self) -> int:
        generator = self.generator
        if generator is None and torch.distributed.is_available() and torch.distributed.is_initialized():
            generator = self._shared_generator()
        return int(torch.randint(2**62, (1,), generator=generator).item())

    def _shared_generator(self) -> torch.Generator:
        """A generator that all processes seed alike, so that they agree on every epoch."""
        if self._epoch_generator is None:
            seed = [torch.initial_seed()]
            torch.distributed.broadcast_object_list(seed, src=0)
            self._epoch_generator = torch.Generator().manual_seed(seed[0])
        return self._epoch_generator

    @cached_property
    def _spans(self) -> _Spans:
        return _Spans.of(self.sampling_intervals, self.window_length, self.drop_short)


@dataclass(frozen=True)
class _Spans:
    """All intervals that hold at least one window, side by side."""

    recordings: list[str]
    recording: np.ndarray  # index into recordings, per interval
    start: np.ndarray  # seconds
    end: np.ndarray
    count: np.ndarray  # windows per epoch

    @property
    def n_windows(self) -> int:
        return int(self.count.sum())

    @classmethod
    def of(cls, intervals: Mapping[str, Interval], window_length: float, drop_short: bool) -> _Spans:
        recordings = list(intervals)
        lengths = [len(intervals[name].start) for name in recordings]
        recording = np.repeat(np.arange(len(recordings)), lengths)
        start = np.concatenate([np.asarray(intervals[name].start, float) for name in recordings])
        end = np.concatenate([np.asarray(intervals[name].end, float) for name in recordings])
        short = end - start < window_length
        if short.any() and not drop_short:
            worst = int(np.flatnonzero(short)[0])
            raise ValueError(
                f"Interval {(start[worst].item(), end[worst].item())} of recording {recordings[recording[worst]]} "
                f"is too short to sample from. Minimum length is {window_length}."
            )
        count = np.floor((end - start) / window_length).astype(np.int64)
        if short.all():
            raise ValueError(
                f"All intervals are too short to sample from: the longest of {len(short)} is "
                f"{(end - start).max(initial=0):.3g} s and a window {window_length} s."
            )
        if short.any():
            logger.warning(
                "Skipping %.1f seconds of data due to short intervals. Remaining: %.1f seconds.",
                (end - start)[short].sum(),
                count.sum() * window_length,
            )
        keep = ~short
        return cls(recordings, recording[keep], start[keep], end[keep], count[keep])

    def draw(self, window_length: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One epoch: the interval and the start time of every window.

        Each interval is tiled from a random offset in [0, w). Where the offset costs a window, one is drawn
        uniformly from the whole interval. So the number never changes, and start times are uniform over
        [start, end - w], in intervals that hold a single window too.
        """
        length = self.end - self.start
        offset = rng.uniform(0, window_length, len(length))
        tiles = np.minimum(np.floor((length - offset) / window_length), self.count).astype(np.int64)
        span = np.repeat(np.arange(len(length)), self.count)
        place = np.arange(len(span)) - np.repeat(np.cumsum(self.count) - self.count, self.count)
        start = self.start[span] + offset[span] + place * window_length
        anywhere = self.start + rng.uniform(0, np.maximum(length - window_length, 0))
        start = np.where(place < tiles[span], start, anywhere[span])
        return span, np.minimum(start, (self.end - window_length)[span])


def _fed(intervals: Mapping[str, Interval], diet: Diet | None) -> dict[str, Interval]:
    if diet is None:
        return dict(intervals)
    fed = {name: times for name, times in intervals.items() if diet.count(name)}
    logger.info("diet %s (%s)", diet.summary(intervals), diet.name)
    if not fed:
        raise DietError(
            f"diet {diet.name!r} keeps no neuron of these recordings ({diet.summary(intervals)}); loosen its thresholds"
        )
    return fed
