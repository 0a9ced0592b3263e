"""A short queue between two threads that either side can end, with the error that ended it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Channel", "ClosedError"]

T = TypeVar("T")


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
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._finished = False
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        """Append an item; waits while the channel is full."""
        with self._changed:
            while len(self._items) >= self._capacity and self._error is None:
                self._changed.wait(0.5)  # a time limit, so that Ctrl-C is served everywhere
            self._raise()
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T:
        """Take the oldest item; waits while there is none."""
        with self._changed:
            while not self._items and self._error is None and not self._finished:
                self._changed.wait(0.5)
            self._raise()
            if not self._items:
                raise ClosedError
            item = self._items.popleft()
            self._changed.notify_all()
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
        with self._changed:
            self._raise()

    def finish(self) -> None:
        """No more items will come; those already there can still be taken."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """End the channel for both sides with `error`; the first error stays."""
        with self._changed:
            self._error = self._error or error
            self._items.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """End the channel for both sides, without an error of its own."""
        self.fail(ClosedError())

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
