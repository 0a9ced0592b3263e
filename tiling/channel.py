"""A short queue between two threads that either side can end, with the error that ended it.

Ctrl-C may come between any two instructions of the main thread. A lock that it holds just then is
never given back: `threading.Condition` and `queue.Queue` hold one, `queue.SimpleQueue` does not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

__all__ = ["Channel", "ClosedError"]

T = TypeVar("T")

_END = object()  # put last; whoever takes it out puts it back
_PATIENCE_S = 0.5  # a time limit, so that Ctrl-C is served everywhere


class ClosedError(Exception):
    """The other side has left; raised to whoever still waits on the channel."""


class Channel(Generic[T]):
    """Bounded queue of `capacity` items.

    `put` and `get` wait; after `fail(error)` both raise `error`, after `finish()` the reader gets
    what is left and then `ClosedError`, after `close()` both raise `ClosedError` at once.

    Examples
    --------
    >>> channel = Channel(2)
    >>> channel.put("a"), channel.put("b"), channel.finish()
    (None, None, None)
    >>> list(channel)
    ['a', 'b']
    """

    def __init__(self, capacity: int) -> None:
        self._items: SimpleQueue[Any] = SimpleQueue()
        self._room: SimpleQueue[Any] = SimpleQueue()  # one entry for each item that may be added
        for _ in range(capacity):
            self._room.put(None)
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        """Append an item; waits while the channel is full."""
        self._take(self._room)
        self._items.put(item)

    def get(self) -> T:
        """Take the oldest item; waits while there is none."""
        item: T = self._take(self._items)
        self._room.put(None)
        return item

    def __iter__(self) -> Iterator[T]:
        """Items until the other side finishes."""
        while True:
            try:
                item = self.get()
            except ClosedError:
                return
            yield item

    def check(self) -> None:
        """Raise the error the other side ended with, if any."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """No more items will come; those already there can still be taken."""
        self._items.put(_END)

    def fail(self, error: BaseException) -> None:
        """End the channel for both sides with `error`; the first error stays."""
        self._error = self._error or error
        with contextlib.suppress(Empty):
            while True:
                self._items.get_nowait()
        self._items.put(_END)
        self._room.put(_END)

    def close(self) -> None:
        """End the channel for both sides, without an error of its own."""
        self.fail(ClosedError())

    def _take(self, queue: SimpleQueue[Any]) -> Any:
        """First of what the queue holds, once there is something."""
        found: Any = None
        waiting = True
        while waiting:
            self.check()
            with contextlib.suppress(Empty):
                found = queue.get(timeout=_PATIENCE_S)
                waiting = False
        if found is _END:
            queue.put(_END)
            self.check()
            raise ClosedError
        self.check()
        return found
