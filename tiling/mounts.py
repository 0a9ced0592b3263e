"""What is mounted where: a name that is a mount point cannot be given to another file."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["is_mounted"]

_TABLE = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")


def is_mounted(path: Path, table: Path = _TABLE) -> bool:
    """Whether something is mounted at just this path, as `docker run -v FILE:PATH` does.

    Parameters
    ----------
    path
        Absolute path without links.
    table
        Linux's list of mounts; where there is none, nothing is known and the answer is False.

    Examples
    --------
    >>> is_mounted(Path("/no such place"))
    False
    """
    try:
        lines = table.read_bytes().splitlines()
    except OSError:
        return False
    wanted = os.fsencode(path)
    mounts = (line.split(b" ") for line in lines)  # man 5 proc_pid_mountinfo: the fifth word
    return any(len(words) > 4 and _unescaped(words[4]) == wanted for words in mounts)


def _unescaped(place: bytes) -> bytes:
    """Blanks, line ends and backslashes are written as octal numbers."""
    return _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), place)
