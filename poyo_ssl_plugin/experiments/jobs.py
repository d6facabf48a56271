"""Many runs: in parallel processes, and each of them once.

A job is a plain dictionary. It is written to its own folder when it begins and its result when it is
done, so that a second start of the same experiment skips what is done, resumes what was begun, and does
the rest.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from poyo_ssl_plugin.errors import EXIT_TERMINATED, PoyoSSLError, Terminated, terminate
from poyo_ssl_plugin.files import write_json

Job = dict[str, Any]
# Name of the file that says which job was begun in a folder.
BEGUN = "begun.json"
# Name of the file that says which process does it, for as long as it does.
DOES = "process.json"
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
    with ProcessPoolExecutor(min(processes, max(len(waiting), 1)), mp_context=context, initializer=_worker) as pool:
        futures = {pool.submit(_do_in_worker, work, jobs[i]): i for i in waiting}
        workers = dict(getattr(pool, "_processes", None) or {})
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            pool.shutdown()
            raise _what_broke(workers, [jobs[i] for i in waiting]) from error
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, Exception):
                # Told to stop: so are the workers, which save their state first. The pool has forgotten them by now.
                for process in workers.values():
                    process.terminate()
            raise


def _what_broke(workers: Mapping[int, Any], jobs: Sequence[Job]) -> BaseException:
    """Which job's process was killed; or that the workers were told to stop, from outside.

    Args:
        workers: The worker processes, all ended, by number.
        jobs: The jobs they were given.
    """
    # When one was killed the others are told to stop.
    stopped = (0, -signal.SIGTERM, EXIT_TERMINATED)
    killed = {pid for pid, process in workers.items() if process.exitcode not in stopped}
    if not killed:
        return Terminated("the runs were stopped on SIGTERM; start again to go on")
    began = {pid: job for job in jobs if (pid := _read(Path(job["folder"]) / DOES)) in workers}
    names = [_name(job) for pid, job in began.items() if pid in killed] or ["a run that had not begun"]
    return PoyoSSLError(
        f"the process of {' and '.join(names)} was killed, most often for want of memory; start again with fewer "
        "processes=..., finished runs are kept and the others go on where they were"
    )


def _name(job: Job) -> str:
    return f"arm {job['arm']} ({job['folder']})" if "arm" in job else str(job["folder"])


def _worker() -> None:
    """Make a worker process end when it is told to, and when its parent is gone."""
    signal.signal(signal.SIGTERM, terminate)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _do_in_worker(work: Callable[[Job], dict[str, Any]], job: Job) -> dict[str, Any]:
    try:
        return _do(work, job)
    except Terminated:
        # The pool would take it for a result and the process would wait for another job, for ever.
        os._exit(EXIT_TERMINATED)


def _do(work: Callable[[Job], dict[str, Any]], job: Job) -> dict[str, Any]:
    folder = Path(job["folder"])
    if folder.exists() and _read(folder / BEGUN) != _as_json(job):
        # Of another job of this name.
        shutil.rmtree(folder)
    write_json(folder / BEGUN, _as_json(job))
    write_json(folder / DOES, os.getpid())
    result = work(job)
    write_json(folder / "job.json", {"job": job, "result": result})
    (folder / DOES).unlink(missing_ok=True)
    return result


def _finished(job: Job) -> dict[str, Any] | None:
    content = _read(Path(job["folder"]) / "job.json")
    return content["result"] if isinstance(content, dict) and content.get("job") == _as_json(job) else None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _as_json(job: Job) -> Any:
    return json.loads(json.dumps(job))
