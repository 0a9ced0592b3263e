"""Work spread over processes, results in order, and nothing left behind.

Each worker is a fresh process (never a fork of a threaded one) with a pipe of its own, so that one
that is killed, even in the middle of sending a result, is noticed by the end of its pipe and by
nobody else. Its task is tried once more, by a new worker. Workers ignore Ctrl-C, which is the
parent's business, and end at once when their parent is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, TypeVar

from tiling.faults import MemoryFault
from tiling.process import die_with_parent

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

__all__ = ["ordered_map"]

_PATIENCE_S = 1.0  # for a worker that is told to end

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
        A worker was killed from outside, and so was the next one that met its task.

    Examples
    --------
    >>> list(ordered_map(abs, [-3, 2], 1))
    [3, 2]
    """
    if jobs == 1:
        yield from map(work, tasks)
        return
    crew = _Crew()
    threads = ThreadPoolExecutor(jobs, "weights")
    waiting: deque[Future[Result]] = deque()
    remaining = iter(tasks)
    try:
        while True:
            for task in itertools.islice(remaining, 2 * jobs - len(waiting)):
                waiting.append(threads.submit(crew.do, work, task))
            if not waiting:
                return
            yield _awaited(waiting.popleft())
    finally:
        crew.end()
        threads.shutdown(wait=True, cancel_futures=True)


def _awaited(answer: Future[Result]) -> Result:
    """The answer, looked for now and then: a signal that another thread was given wakes nobody."""
    while not answer.done():
        wait([answer], _PATIENCE_S)
    return answer.result()


class _WorkerLostError(Exception):
    """The pipe of a worker ended: it is dead."""


class _Crew:
    """The workers; each thread that calls `do` has one to itself."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []
        self._lock = threading.Lock()
        self._ended = False

    def do(self, work: Callable[[Task], Result], task: Task) -> Result:
        """`work(task)` in a worker, or in a second one if the first is killed."""
        for _ in range(2):
            worker = self._take()
            try:
                result: Result = worker.do(work, task)
            except _WorkerLostError as error:
                lost = error
                continue
            finally:
                self._give_back(worker)
            return result
        raise MemoryFault(
            "a worker process was killed twice, probably out of memory; use fewer --jobs or "
            "a smaller --block-rows"
        ) from lost

    def end(self) -> None:
        """Stop the workers now, also those in the middle of a task."""
        with self._lock:
            self._ended = True
            workers = list(self._all)
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(_PATIENCE_S)
            worker.process.kill()  # one that is stopped, or waits for a disk, hears nothing else
            worker.process.join(_PATIENCE_S)

    def _take(self) -> _Worker:
        with self._lock:
            if self._ended:
                raise _WorkerLostError
            if not self._idle:
                self._idle.append(_Worker())
                self._all.append(self._idle[-1])
            return self._idle.pop()

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            if not worker.lost:
                self._idle.append(worker)
            elif not self._ended:
                self._all.remove(worker)
                worker.process.join()


class _Worker:
    """A process and its pipe."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _no_ctrl_c():
            self.process.start()
        theirs.close()  # theirs alone now, so that the pipe ends with them
        self.lost = False

    def do(self, work: Callable[[Task], Result], task: Task) -> Result:
        try:
            self._pipe.send((work, task))
            result, error = self._pipe.recv()
        except (EOFError, OSError) as gone:
            self.lost = True
            raise _WorkerLostError from gone
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]


@contextlib.contextmanager
def _no_ctrl_c() -> Iterator[None]:
    """Hold Ctrl-C back from this thread and, for good, from the processes that it starts.

    A worker ignores Ctrl-C, but would die of it with a traceback while it still imports.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # started by the first worker, it would let Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection) -> None:
    """What a worker does; it computes with one thread unless the user said otherwise."""
    die_with_parent()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)  # the terminal tells the parent too
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            pipe.send(_answer(*pipe.recv()))


def _answer(work: Callable[[Any], Any], task: object) -> tuple[Any, BaseException | None]:
    try:
        return work(task), None
    except BaseException as error:  # noqa: BLE001 - raised again by the parent
        return None, error


def _end_with_parent() -> None:
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is not None:
        with contextlib.suppress(OSError):  # it cannot be watched: then neither can we go on
            connection.wait([parent.sentinel])
        os._exit(1)
