"""Scoring on a Ray cluster, or on all cores of this machine: one task per recording."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from poyo_ssl_plugin.errors import ExtensionError, PoyoSSLError
from poyo_ssl_plugin.predictability.score import Scorer


def on_ray(scorer: Scorer, recordings: list[str], workers: int | None = None) -> Generator[dict[str, Any], None, None]:
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
    ray = _import_ray()
    try:
        pickle.dumps(scorer.dataset)
    except Exception as error:  # whatever an attribute of somebody's dataset raises
        raise PoyoSSLError(
            f"{type(scorer.dataset).__name__} cannot be sent to other processes ({error}); use "
            "poyo_ssl_plugin.Recordings, or score without Ray"
        ) from error
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="warning")
    try:
        task, sent = ray.remote(num_cpus=1)(_score_one), ray.put(scorer)
        waiting = iter(recordings)
        running = deque(task.remote(sent, name) for name in islice(waiting, workers))
        while running:
            outcome = ray.get(running.popleft())
            if isinstance(outcome, PoyoSSLError):
                raise outcome
            running.extend(task.remote(sent, name) for name in islice(waiting, 1))
            yield outcome
    finally:
        if started:
            ray.shutdown()


def _score_one(scorer: Scorer, recording: str) -> dict[str, Any] | PoyoSSLError:
    """A result, or an error of ours as a value: Ray would wrap it in a traceback."""
    with ThreadPoolExecutor(1) as summing:
        try:
            return scorer(recording, summing)
        except PoyoSSLError as error:
            return error


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ExtensionError(
            "scoring with Ray needs ray, which is not installed: pip install 'poyo-ssl-plugin[ray]'"
        ) from None
    return ray
