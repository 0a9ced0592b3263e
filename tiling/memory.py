"""How much memory of the machine a computation may still use."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["free_memory"]

_ASSUMED = 2 << 30
_LEAST = 1 << 28


def free_memory() -> int:
    """Return the bytes a computation may use: four fifths of what is free now.

    On Linux the limit of the process's memory group counts too; where nothing can be measured,
    2 GiB are assumed.

    Examples
    --------
    >>> free_memory() > 10**8
    True
    """
    free: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text("ascii").strip()
        used = int((group / "memory.current").read_text("ascii"))
        free += [int(limit) - used] if limit != "max" else []
    return max(min(free, default=_ASSUMED), _LEAST) * 4 // 5
