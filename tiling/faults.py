"""The errors a user can meet, each with its exit code and one clear sentence.

Every package of the project raises these; the command line turns them into one line on
standard error and the exit code of the class. They import nothing, so that the reading and
writing layers stay free of heavy packages.
"""

from __future__ import annotations

import functools
import os

__all__ = [
    "Fault",
    "InputChangedError",
    "InputError",
    "LockedError",
    "MemoryFault",
    "ModelFileError",
    "NumericsError",
    "PeerFault",
    "UsageFault",
    "WriteError",
]


class Fault(Exception):  # noqa: N818 - a word of the house
    """An expected failure: its text is one line that names value, rule and remedy."""

    exit_code = 1


class UsageFault(Fault):
    """The request itself does not make sense (exit code 2)."""

    exit_code = 2


class InputError(Fault):
    """An input file or array that cannot be used as it is (exit code 3).

    Parameters
    ----------
    path
        The file (or a word for the array) the error is about.
    reason
        What is wrong, and the remedy, in one sentence without a final full stop.
    page
        Zero-based page of a multi-page file, where it matters.
    """

    exit_code = 3

    def __init__(
        self, path: str | bytes | os.PathLike[str], reason: str, *, page: int | None = None
    ) -> None:
        self.path = os.fsdecode(path)
        self.reason = reason
        self.page = page
        where = self.path if page is None else f"{self.path}, page {page}"
        super().__init__(f"{where}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the constructor's own arguments, so that workers can hand it over."""
        return functools.partial(type(self), page=self.page), (self.path, self.reason)


class ModelFileError(InputError):
    """A checkpoint or model file that is broken, foreign or of another network (exit code 4)."""

    exit_code = 4


class WriteError(InputError):
    """An output that cannot be written: space, permission, an existing file (exit code 5)."""

    exit_code = 5


class MemoryFault(Fault):
    """Not enough memory even at the smallest setting (exit code 6)."""

    exit_code = 6


class PeerFault(Fault):
    """Another process that the work was shared with is gone (exit code 6)."""

    exit_code = 6


class LockedError(Fault):
    """The output is held by another run (exit code 7)."""

    exit_code = 7


class InputChangedError(InputError):
    """An input changed while it was being read (exit code 7)."""

    exit_code = 7


class NumericsError(Fault):
    """Training met a NaN, an Inf or a run of overflowing steps (exit code 8)."""

    exit_code = 8
