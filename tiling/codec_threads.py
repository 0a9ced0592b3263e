"""Threads that decode or encode stored tiles beside each other.

The codecs let go of Python's lock, so that their work spreads over the processor. A single thread
reads and writes some 50 megapixels a second, less than a GPU segments.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from tiling.worker import Worker

__all__ = ["codec_threads", "on_threads"]

T = TypeVar("T")

_MOST = 8  # beyond it Python's own share of the work, which is not parallel, is what counts


def codec_threads() -> int:
    """Number of threads worth having: the processors of this process, at most eight."""
    usable = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return min(_MOST, len(usable(0)) if usable else os.cpu_count() or 1)


def on_threads(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Call `work` with each item, several at a time and in any order, and wait for all of them.

    Parameters
    ----------
    work
        Its result is dropped. After it raised, no further item is begun.
    items
        What it is called with.

    Raises
    ------
    BaseException
        What `work` raised first.

    Examples
    --------
    >>> found = [0, 0, 0]
    >>> on_threads(lambda i: found.__setitem__(i, i * i), range(3))
    >>> found
    [0, 1, 4]
    """
    # Neither a queue nor an executor: a signal in the main thread could leave their locks taken.
    left = deque(items)
    raised: list[BaseException] = []

    def go_on() -> None:
        while left:
            try:
                item = left.popleft()
            except IndexError:  # another thread took the last one
                return
            work(item)

    def help_on() -> None:
        try:
            go_on()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            raised.append(error)
            left.clear()

    helpers = [Worker(help_on, "tiling codec") for _ in range(min(codec_threads(), len(left)) - 1)]
    for helper in helpers:
        helper.start()
    try:
        go_on()
    finally:
        left.clear()
        for helper in helpers:
            helper.join()
    if raised:
        raise raised[0]
