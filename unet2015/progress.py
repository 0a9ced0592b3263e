"""A progress line on standard error: shown on a terminal, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO, cast

from tiling.command import note, visible
from tiling.streams import close_quietly

__all__ = ["Bar", "bar"]


class Bar(Protocol):
    """What a command tells its progress to."""

    def update(self, done: float, total: float, text: str = "") -> None:
        """Show `done` of `total` units and a word about what is happening."""

    def say(self, line: str) -> None:
        """Put a whole line above the bar."""


class _Terminal:
    """Standard error on a terminal that may be closed meanwhile, which stops no work."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            close_quietly(self._stream)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            close_quietly(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Silent:
    """No terminal: lines are written, progress is not."""

    def update(self, done: float, total: float, text: str = "") -> None:
        pass

    def say(self, line: str) -> None:
        note(line)


@contextmanager
def bar(unit: str) -> Iterator[Bar]:
    """Progress in `unit`s, with rate and time left, while the block runs."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.completed:.1f}/{task.total:.1f} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(file=cast(TextIO, _Terminal()))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0, unit=unit, rate="")

        class Shown:
            def update(self, done: float, total: float, text: str = "") -> None:
                speed = progress.tasks[0].speed
                rate = f"{speed:.2f} {unit}/s" if speed else ""
                about = visible(text)
                progress.update(task, completed=done, total=total, description=about, rate=rate)

            def say(self, line: str) -> None:
                progress.console.print(visible(line), markup=False, highlight=False)

        yield Shown()
