"""Ctrl-C, SIGTERM and their like: what they interrupt, what not, and how a program is left.

The like of SIGTERM are SIGHUP, by which a closed terminal or connection ends a program, and
SIGXCPU, by which a limit of its computing time does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from tiling.streams import give_up_if_full

__all__ = [
    "INTERRUPTED",
    "Terminated",
    "ending_by_exception",
    "exit_code",
    "leave",
    "leave_at_once",
    "undisturbed",
]

INTERRUPTED = 130  # exit code of a program that Ctrl-C has ended
_ENDING = tuple(  # Windows has SIGTERM alone
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGXCPU") if hasattr(signal, name)
)

_at_once = False  # how `leave` ends the process


class Terminated(BaseException):
    """SIGTERM or its like arrived: unwinds like KeyboardInterrupt, so that nothing is left behind.

    Parameters
    ----------
    number
        The signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


def exit_code(stop: BaseException) -> int:
    """Exit code of a program that a `KeyboardInterrupt` or `Terminated` has ended.

    Examples
    --------
    >>> exit_code(KeyboardInterrupt()), exit_code(Terminated())
    (130, 143)
    """
    return 128 + stop.number if isinstance(stop, Terminated) else INTERRUPTED


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    _give_up_what_nobody_reads()
    raise Terminated(number)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    _give_up_what_nobody_reads()
    raise KeyboardInterrupt


def _give_up_what_nobody_reads() -> None:
    give_up_if_full(sys.stdout)
    give_up_if_full(sys.stderr)


@contextlib.contextmanager
def ending_by_exception() -> Iterator[None]:
    """Within, SIGTERM and its like raise `Terminated` in the main thread, Ctrl-C as ever.

    Not those that the caller had ignored, as `nohup` does, or handles in a way of its own. A
    standard stream that takes no more is written no more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = {signal.SIGINT: _interrupt} | dict.fromkeys(_ENDING, _terminate)
    plain = (signal.SIG_DFL, signal.default_int_handler)
    before = {n: signal.signal(n, ours[n]) for n in ours if signal.getsignal(n) in plain}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold Ctrl-C, SIGTERM and its like back while things change that belong together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(signum: int, _frame: FrameType | None) -> None:
        held.append(signum)

    ignored = signal.SIG_IGN
    numbers = [
        one for one in (signal.SIGINT, *_ENDING) if signal.getsignal(one) not in (ignored, None)
    ]
    before = {number: signal.signal(number, hold) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def leave_at_once() -> None:
    """From now on `leave` ends the process without finalizing what threads of libraries still use.

    Examples
    --------
    >>> leave_at_once.__name__
    'leave_at_once'
    """
    global _at_once
    _at_once = True


def leave(program: Callable[[], int]) -> NoReturn:
    """Run a program and end the process with its exit code.

    From then on a signal ends the process at once: what leaves last, libraries among it, would be
    interrupted with a traceback. What libraries had begun when they were interrupted is finalized
    in silence too, unless `--traceback` stands on the command line.
    """
    if "--traceback" not in sys.argv:
        sys.unraisablehook = lambda _error: None
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
        code = program()
        _let_signals_end_it()
    except (KeyboardInterrupt, Terminated) as late:  # while another one was being told
        _let_signals_end_it()
        code = exit_code(late)
    if _at_once:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    raise SystemExit(code)


def _let_signals_end_it() -> None:
    for number in (signal.SIGINT, *_ENDING):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
