"""Standard streams that nobody reads any more: given up, so that they stop no program."""

from __future__ import annotations

import os
import select
import sys

__all__ = ["close_quietly", "give_up_if_full", "open_closed_streams"]

PATIENCE = 1.0  # seconds a reader is waited for when the program is told to end


def close_quietly(stream: object) -> None:
    """Point a broken standard stream at nowhere, so that interpreter exit stays silent.

    Examples
    --------
    >>> close_quietly(None)
    """
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[attr-defined]
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass


def open_closed_streams() -> None:
    """Nowhere in the place of standard streams that the caller closed (`>&-`).

    Each takes the lowest free descriptor, so that no output file gets the number of one.

    Examples
    --------
    >>> open_closed_streams()
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - until we end


def give_up_if_full(stream: object, patience: float = PATIENCE) -> None:
    """Give a stream up that takes nothing: a full pipe without a reader.

    A program that is told to end would stand still in its last words.

    Parameters
    ----------
    stream
        A standard stream.
    patience
        Seconds its reader is given to make room.

    Examples
    --------
    >>> give_up_if_full(None)
    """
    if not hasattr(select, "poll"):  # Windows
        return
    try:
        room = select.poll()
        room.register(stream.fileno(), select.POLLOUT)  # type: ignore[attr-defined]
        ready = room.poll(patience * 1000)
    except (OSError, ValueError, AttributeError):
        return
    if not ready:
        close_quietly(stream)
