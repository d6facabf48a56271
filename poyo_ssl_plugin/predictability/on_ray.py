"""Scoring on a Ray cluster, or on all cores of this machine: one task per recording."""

from __future__ import annotations

import logging
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from types import ModuleType
from typing import TypeVar

from poyo_ssl_plugin.errors import ExtensionError, PoyoSSLError
from poyo_ssl_plugin.predictability.score import Scored, Scorer

_Result = TypeVar("_Result")


def on_ray(scorer: Scorer, recordings: list[str], workers: int | None = None) -> Generator[Scored, None, None]:
    """Score recordings as Ray tasks and yield their results in order; give it to ``score_dataset(on=...)``.

    Joins the Ray that this process has initialised, else the cluster that ``RAY_ADDRESS`` or ``ray start``
    names, else starts one on this machine and stops it afterwards. Every node must see the recordings under
    the same path and have this package installed. A task asks for one core.

    Args:
        scorer: Scores one recording.
        recordings: Their ids.
        workers: Recordings at once; by default as many as the cluster has room for.

    Raises:
        ExtensionError: If Ray is not installed.
        PoyoSSLError: If the dataset cannot be sent to other processes, or a recording cannot be scored.
    """
    try:
        pickle.dumps(scorer.dataset)
    except Exception as error:  # whatever an attribute of somebody's dataset raises
        raise PoyoSSLError(
            f"{type(scorer.dataset).__name__} cannot be sent to other processes ({error}); use "
            "poyo_ssl_plugin.Recordings, or score without Ray"
        ) from error
    with ray_session() as ray:
        task, sent = ray.remote(num_cpus=1)(error_as_value), ray.put(scorer)
        waiting = iter(recordings)
        running = deque(task.remote(_score_one, sent, name) for name in islice(waiting, workers))
        while running:
            outcome = ray.get(running.popleft())
            if isinstance(outcome, PoyoSSLError):
                raise outcome
            running.extend(task.remote(_score_one, sent, name) for name in islice(waiting, 1))
            yield outcome


@contextmanager
def ray_session() -> Iterator[ModuleType]:
    """Ray as this process has it, else the cluster that is named, else one that is stopped afterwards.

    Raises:
        ExtensionError: If Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ExtensionError("--ray needs ray, which is not installed: pip install 'poyo-ssl-plugin[ray]'") from None
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def error_as_value(work: Callable[..., _Result], *arguments: object) -> _Result | PoyoSSLError:
    """What comes of some work, or an error of ours as a value: Ray would wrap it in a traceback."""
    try:
        return work(*arguments)
    except PoyoSSLError as error:
        return error


def _score_one(scorer: Scorer, recording: str) -> Scored:
    with ThreadPoolExecutor(1) as summing:
        return scorer(recording, summing)
