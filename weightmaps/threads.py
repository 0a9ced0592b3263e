"""Work in parts on several threads; the compiled functions release the interpreter lock."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["at_once", "in_parts", "in_turn", "set_threads", "threads"]

Part = TypeVar("Part")
Result = TypeVar("Result")

THREAD_PIXELS = 1 << 18  # of a distance transform; fewer cost more to hand over than they save
LIGHT = 16  # so many pixels compared or added cost as much as one of a distance transform
_threads: int | None = None


def set_threads(count: int | None) -> None:
    """Set how many threads the compiled functions of this package use; None: the default.

    The default is the number of usable cores, or ``OMP_NUM_THREADS`` where that is smaller.
    """
    global _threads
    if count is not None and count < 1:
        raise ValueError(f"{count} threads are not possible; choose 1 or more, or None")
    _threads = count


def threads() -> int:
    """Return how many threads the compiled functions of this package use."""
    if _threads is not None:
        return _threads
    usable = getattr(os, "sched_getaffinity", None)
    count = len(usable(0)) if usable else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(count, int(asked)) if asked.isdecimal() and int(asked) > 0 else count


def in_parts(work: Callable[[int, int], object], length: int, pixels: int) -> None:
    """Call ``work(begin, end)`` for parts of ``range(length)``, on threads if it is worth it."""
    count = min(threads(), length, max(1, pixels // THREAD_PIXELS))
    pieces = 4 * count if count > 1 else 1
    take = in_turn(itertools.pairwise(length * k // pieces for k in range(pieces + 1)))

    def some() -> None:
        for begin, end in iter(take, None):
            if begin < end:
                work(begin, end)

    at_once(some, count)


def in_turn(parts: Iterable[Part]) -> Callable[[], Part | None]:
    """Return a function that gives any thread the next of the parts, and None after the last."""
    waiting, lock = iter(parts), threading.Lock()

    def take() -> Part | None:
        with lock:
            return next(waiting, None)

    return take


def at_once(work: Callable[[], Result], count: int) -> list[Result]:
    """Return what ``work()`` gives on each of `count` threads; the calling one is among them."""
    if count == 1:
        return [work()]
    with ThreadPoolExecutor(count - 1) as pool:
        others = [pool.submit(work) for _ in range(count - 1)]
        own = work()
    return [own, *(one.result() for one in others)]
