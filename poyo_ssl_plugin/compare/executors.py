"""Where runs are done: in this process, in processes of this machine, or on a Ray cluster. Each of them once.

A run whose record says that it is finished is not done again; one that was begun goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from poyo_ssl_plugin.compare.progress import Track
from poyo_ssl_plugin.compare.record import Outcome, Run, finished, keep
from poyo_ssl_plugin.errors import EXIT_TERMINATED, PoyoSSLError, Terminated, terminate
from poyo_ssl_plugin.predictability.on_ray import error_as_value, ray_session

Work = Callable[[Run], Outcome]
# How often Ray starts a run again whose worker or node died.
RETRIES = 3


class Executor(Protocol):
    """Does runs and yields what came of each as it ends, with its place among them."""

    def __call__(self, work: Work, runs: Sequence[Run]) -> Iterator[tuple[int, Outcome]]: ...


def run_all(work: Work, runs: Sequence[Run], executor: Executor, *, progress: Track | None = None) -> list[Outcome]:
    """Do every run that is not finished.

    Args:
        work: Does one run; a function of a module, so that other processes find it.
        runs: The runs.
        executor: Where.
        progress: Wraps the iterator of ending runs, given their number, to show progress.

    Returns:
        What came of them, in their order.
    """
    outcomes = {i: done for i, run in enumerate(runs) if (done := finished(run)) is not None}
    waiting = [i for i in range(len(runs)) if i not in outcomes]
    if waiting:
        ending = executor(work, [runs[i] for i in waiting])
        for i, outcome in progress(ending, len(waiting)) if progress else ending:
            outcomes[waiting[i]] = outcome
    return [outcomes[i] for i in range(len(runs))]


@dataclass(frozen=True)
class LocalExecutor:
    """This machine.

    Attributes:
        processes: Runs at once; one is done in this process, 0 means one per core, at most eight.
    """

    processes: int = 0

    def __call__(self, work: Work, runs: Sequence[Run]) -> Iterator[tuple[int, Outcome]]:
        n = min(self.processes or default_processes(), len(runs))
        return _in_processes(work, runs, n) if n > 1 else _here(work, runs)


@dataclass(frozen=True)
class RayExecutor:
    """A Ray cluster: the one this process or RAY_ADDRESS names, else one that is started on this machine.

    Every node must see recordings and output under the same path and have this package installed. A run
    whose worker or node dies is started again, and goes on from its last checkpoint.

    Attributes:
        num_cpus: Cores that a run asks for.
        num_gpus: GPUs that a run asks for; a fraction lets runs share one. With 0 runs see none.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0

    def __call__(self, work: Work, runs: Sequence[Run]) -> Iterator[tuple[int, Outcome]]:
        with ray_session() as ray:
            options = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "max_retries": RETRIES}
            task = ray.remote(**options)(error_as_value)
            going_on = {task.remote(_do, work, run): i for i, run in enumerate(runs)}
            try:
                while going_on:
                    [ended], _ = ray.wait(list(going_on), num_returns=1)
                    answer = _answered(ray, ended, runs[going_on[ended]])
                    yield going_on.pop(ended), answer
            finally:
                for reference in going_on:
                    ray.cancel(reference)


def default_processes() -> int:
    """As many processes as there are cores, at most eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores))


def _do(work: Work, run: Run) -> Outcome:
    # Another comparison, or an earlier try of this task, may have finished it meanwhile.
    done = finished(run)
    if done is None:
        with only_warnings():
            done = work(run)
        keep(run, done)
    return done


@contextmanager
def only_warnings() -> Iterator[None]:
    """Only warnings of a run are told: what they have in common the comparison says once."""
    logger = logging.getLogger("poyo_ssl_plugin")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


def _here(work: Work, runs: Sequence[Run]) -> Iterator[tuple[int, Outcome]]:
    for i, run in enumerate(runs):
        yield i, _do(work, run)


def _in_processes(work: Work, runs: Sequence[Run], n: int) -> Iterator[tuple[int, Outcome]]:
    # Forked torch processes can deadlock in its thread pools; fresh ones cannot.
    context = multiprocessing.get_context("spawn")
    heard, stop = context.Pipe(duplex=False)
    with (
        tempfile.TemporaryDirectory(prefix="poyo_ssl_") as notes,
        ProcessPoolExecutor(n, mp_context=context, initializer=_begin, initargs=(heard, notes)) as pool,
    ):
        futures = {pool.submit(_in_worker, work, run): i for i, run in enumerate(runs)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
            pool.shutdown()
        except BrokenProcessPool as error:
            pool.shutdown()
            raise _what_broke(Path(notes)) from error
        except BaseException:
            # Told to stop, or a run failed: the workers save their state and end.
            stop.close()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            stop.close()
            heard.close()


def _what_broke(notes: Path) -> BaseException:
    """Which runs' processes were killed, of workers that have all ended; or that they were told to stop."""
    # A worker takes its note back when it ends a run or is told to stop; one that is killed cannot.
    killed = sorted(note.read_text(encoding="utf-8") for note in notes.iterdir() if note.name != "stopped")
    if not killed and (notes / "stopped").exists():
        return Terminated("the runs were stopped on SIGTERM; start again to go on")
    return PoyoSSLError(
        f"the process of {' and '.join(killed) or 'a run that had not begun'} was killed, most often for want of "
        "memory; start again with fewer processes=..., finished runs are kept and the others go on where they were"
    )


_notes = Path()


def _begin(heard: Connection, notes: str) -> None:
    """Make a worker process end when it is told to, or when its parent is gone; both close the pipe."""
    global _notes
    _notes = Path(notes)
    signal.signal(signal.SIGTERM, terminate)
    # Ctrl-C reaches all processes of a terminal; the parent tells its workers what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_listen, args=(heard,), daemon=True).start()


def _listen(heard: Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([heard, parent.sentinel])
    if not parent.is_alive():
        os._exit(1)
    os.kill(os.getpid(), signal.SIGTERM)
    wait([parent.sentinel])
    os._exit(1)


def _in_worker(work: Work, run: Run) -> Outcome:
    note = _notes / str(os.getpid())
    try:
        note.write_text(f"arm {run.arm} ({run.folder})", encoding="utf-8")
        return _do(work, run)
    except Terminated:
        # The pool would take it for a result and the process would wait for another run, for ever.
        (_notes / "stopped").touch()
        note.unlink(missing_ok=True)
        os._exit(EXIT_TERMINATED)
    finally:
        note.unlink(missing_ok=True)


def _answered(ray: Any, reference: Any, run: Run) -> Outcome:
    try:
        answer = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise PoyoSSLError(
            f"the worker of arm {run.arm} ({run.folder}) died {RETRIES + 1} times "
            f"({' '.join(str(error).split())[:200]}); ask for more with num_cpus=... or num_gpus=..., "
            "and start again: finished runs are kept"
        ) from None
    if isinstance(answer, PoyoSSLError):
        raise answer
    return answer
