"""Many runs: in parallel processes, and each of them once.

A job is a plain dictionary. Its result is written to its own folder when it is done, beside the job, so
that a second start of the same experiment finds it and goes on with the rest.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from poyo_ssl_plugin.files import write_json

Job = dict[str, Any]
Progress = Callable[[Iterator[Any], int], Iterable[Any]]


def run_jobs(
    work: Callable[[Job], dict[str, Any]],
    jobs: Sequence[Job],
    *,
    processes: int,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Do every job that is not done yet.

    Args:
        work: Does one job; a function of a module, called in another process if there are several.
        jobs: The jobs, each with a folder of its own under ``"folder"``.
        processes: How many at once.
        progress: Wraps the iterator of finished jobs, given their number, to show progress.

    Returns:
        The results, in the order of the jobs.
    """
    results: dict[int, dict[str, Any]] = {}
    waiting = []
    for i, job in enumerate(jobs):
        done = _finished(job)
        if done is None:
            waiting.append(i)
        else:
            results[i] = done
    finished = _parallel(work, jobs, waiting, processes) if processes > 1 else _serial(work, jobs, waiting)
    for i, result in progress(finished, len(waiting)) if progress and waiting else finished:
        results[i] = result
    return [results[i] for i in range(len(jobs))]


def default_processes(cores_per_process: int = 1) -> int:
    """As many processes as there are cores for, at most eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // cores_per_process))


def _serial(work: Callable[[Job], dict[str, Any]], jobs: Sequence[Job], waiting: list[int]) -> Iterator[Any]:
    for i in waiting:
        yield i, _do(work, jobs[i])


def _parallel(
    work: Callable[[Job], dict[str, Any]], jobs: Sequence[Job], waiting: list[int], processes: int
) -> Iterator[Any]:
    # Forked torch processes can deadlock in its thread pools; fresh ones cannot.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, max(len(waiting), 1)), mp_context=context) as pool:
        futures = {pool.submit(_do, work, jobs[i]): i for i in waiting}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _do(work: Callable[[Job], dict[str, Any]], job: Job) -> dict[str, Any]:
    folder = Path(job["folder"])
    if folder.exists():
        # What an interrupted start, or another job of this name, left behind.
        shutil.rmtree(folder)
    result = work(job)
    write_json(folder / "job.json", {"job": job, "result": result})
    return result


def _finished(job: Job) -> dict[str, Any] | None:
    try:
        content = json.loads((Path(job["folder"]) / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content["result"] if content.get("job") == json.loads(json.dumps(job)) else None
