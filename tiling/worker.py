"""A thread that is waited for to its end, also when Ctrl-C comes meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

__all__ = ["Worker"]

_PATIENCE_S = 0.5  # a time limit, so that Ctrl-C is served everywhere


class Worker:
    """A thread of ours; `Thread.join` must not be used for it.

    Where a signal interrupts `Thread.join`, Python up to 3.12 takes the thread for ended although
    it works on (CPython issue 90882), and the next `join` returns at once.

    Parameters
    ----------
    work
        What it does. It must not raise.
    name
        Of the thread.

    Examples
    --------
    >>> done = []
    >>> worker = Worker(lambda: done.append(1), "example")
    >>> worker.start(), worker.join(), done
    (None, None, [1])
    """

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self._work = work
        self._ended = False
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._ended = True
            self._bell.put(None)

    def join(self) -> None:
        """Wait until the work is done; at once if it was not begun. Ctrl-C goes through."""
        while self._thread.ident is not None and not self._ended:
            with contextlib.suppress(Empty):
                self._bell.get(timeout=_PATIENCE_S)
