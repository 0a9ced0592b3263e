"""Which process a temporary file belongs to, and whether that one still runs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import zlib
from pathlib import Path

__all__ = ["die_with_parent", "lives", "machine", "start_time"]

_PR_SET_PDEATHSIG = 1


def machine() -> str:
    """Eight hex digits for this host and its process numbering (a container has its own)."""
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no file, only its text
    except OSError:
        space = sys.platform
    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return f"{zlib.crc32(f'{host} {space}'.encode('utf-8', 'surrogateescape')):08x}"


def start_time(process: int) -> int:
    """Start of a process in clock ticks since boot; 0 where the system does not tell."""
    try:
        return int(_status(process)[19])
    except (IndexError, ValueError):
        return 0


def _status(process: int) -> list[bytes]:
    """What Linux says of a process from its state on; nothing elsewhere, or where there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def lives(process: int, start: int) -> bool:
    """Whether the process that has this number and began then still runs."""
    if sys.platform == "win32":
        return True  # cannot be asked: signal 0 would be Ctrl-C there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # it exists but is not ours, or cannot be asked
    return not _ended(process) and (start == 0 or start_time(process) in (0, start))


def _ended(process: int) -> bool:
    """Whether it only waits for its parent to notice its end; in some containers none ever does."""
    return _status(process)[:1] in ([b"Z"], [b"X"])


def die_with_parent() -> None:
    """Have the system kill this process when the thread that started it ends, even while stopped.

    Linux alone can do that; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
