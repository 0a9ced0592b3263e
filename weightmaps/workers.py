"""Work spread over processes, results in order, and nothing left behind.

Workers are fresh processes (never a fork of a threaded one), ignore Ctrl-C, which is the parent's
business, and end at once when their parent is gone. The tasks of a worker that was killed are tried
once more, by new workers.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from tiling.faults import MemoryFault

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

__all__ = ["ordered_map"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def ordered_map(
    work: Callable[[Task], Result], tasks: Iterable[Task], jobs: int
) -> Generator[Result, None, None]:
    """Yield `work(task)` for each task, in order.

    Parameters
    ----------
    work
        A function of a module (it is sent to other processes by name).
    tasks
        Drawn as needed: at most two per worker are under way.
    jobs
        Number of processes; 1 works in this one.

    Raises
    ------
    MemoryFault
        A worker was killed from outside, and the task that met it was tried twice.

    Examples
    --------
    >>> list(ordered_map(abs, [-3, 2], 1))
    [3, 2]
    """
    if jobs == 1:
        yield from map(work, tasks)
        return
    from concurrent.futures.process import BrokenProcessPool

    pool = _pool(jobs)
    waiting: deque[_Waiting[Task, Result]] = deque()
    remaining = iter(tasks)
    try:
        while True:
            try:
                for task in itertools.islice(remaining, 2 * jobs - len(waiting)):
                    waiting.append(_Waiting(task))
                for one in waiting:
                    one.future = one.future or pool.submit(work, one.task)
                if not waiting:
                    return
                result = waiting[0].future.result()  # type: ignore[union-attr]
            except BrokenProcessPool as error:
                _end(pool)
                pool = _pool(jobs)
                _once_more(waiting, error)
                continue
            waiting.popleft()
            yield result
    finally:
        _end(pool)


@dataclass
class _Waiting(Generic[Task, Result]):
    """A task on its way through the workers."""

    task: Task
    future: Future[Result] | None = None
    losses: int = 0


def _pool(jobs: int) -> ProcessPoolExecutor:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin)


def _once_more(waiting: Iterable[_Waiting[Task, Result]], error: Exception) -> None:
    """Take back the tasks that died with a worker (which of them killed it, nobody knows)."""
    for one in waiting:
        if one.future is None or (one.future.done() and one.future.exception() is None):
            continue
        if one.losses:
            raise MemoryFault(
                "a worker process was killed twice, probably out of memory; use fewer --jobs or "
                "a smaller --block-px"
            ) from error
        one.future, one.losses = None, 1


def _begin() -> None:
    """First thing a worker does; it computes with one thread unless the user said otherwise."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _end(pool: object) -> None:
    """Stop the workers now, also those in the middle of a task."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)  # type: ignore[attr-defined]
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()
    pool.shutdown(wait=True)  # type: ignore[attr-defined]
