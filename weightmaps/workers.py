"""Work spread over processes, results in order, and nothing left behind.

Workers are fresh processes (never a fork of a threaded one), ignore Ctrl-C, which is the parent's
business, and end at once when their parent is gone.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from tiling.faults import MemoryFault

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
        A worker was killed from outside.

    Examples
    --------
    >>> list(ordered_map(abs, [-3, 2], 1))
    [3, 2]
    """
    if jobs == 1:
        yield from map(work, tasks)
        return
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin)
    waiting: deque[Future[Result]] = deque()
    remaining = iter(tasks)
    try:
        for task in itertools.islice(remaining, 2 * jobs):
            waiting.append(pool.submit(work, task))
        while waiting:
            result = waiting.popleft().result()
            for task in itertools.islice(remaining, 1):
                waiting.append(pool.submit(work, task))
            yield result
    except BrokenProcessPool as error:
        raise MemoryFault(
            "a worker process was killed, probably for lack of memory; use fewer --jobs or a "
            "smaller --block-px"
        ) from error
    finally:
        _end(pool)


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
