"""Ctrl-C and SIGTERM: what they interrupt, what they must not, and how a program is left."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

__all__ = ["Terminated", "leave", "raise_on_sigterm", "undisturbed"]


class Terminated(BaseException):
    """SIGTERM arrived: unwinds like KeyboardInterrupt, so that temporary files are removed."""


def _on_sigterm(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def raise_on_sigterm() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread."""
    signal.signal(signal.SIGTERM, _on_sigterm)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while things change that belong together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(signum: int, _frame: FrameType | None) -> None:
        held.append(signum)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def leave(program: Callable[[], int]) -> NoReturn:
    """Run a program and end the process with its exit code.

    From then on a signal ends the process at once: what leaves last, libraries among it, would be
    interrupted with a traceback.
    """
    try:
        code = program()
        _let_signals_end_it()
    except (KeyboardInterrupt, Terminated) as late:  # while another one was being told
        _let_signals_end_it()
        code = 143 if isinstance(late, Terminated) else 130
    raise SystemExit(code)


def _let_signals_end_it() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
