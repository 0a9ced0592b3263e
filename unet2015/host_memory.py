"""Freed memory is kept for the next tile or step instead of being handed back to the system.

A layer's result on a large tile is a block of many megabytes. The C library of Linux asks the
system for each such block anew, page by page, and gives it back after use: a fifth to two fifths of
the processor time of a narrow network goes there (measured: 1.2 to 1.8 times the throughput on
tiles of 1000 px and more), of a training step of the paper's width a tenth. The price is memory,
for small blocks that stay come to lie between the large ones: in prediction peaks were 1.2 to 1.9
times as high where both were measured (`tile_bytes` counts it), in training 1.2 times.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h of glibc
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the allocator of this process to keep what is freed; whether it listened.

    For programs, not for libraries: it holds for the whole process. Without effect elsewhere than
    on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(option(_MMAP_MAX, 0) and option(_TRIM_THRESHOLD, _NEVER))
