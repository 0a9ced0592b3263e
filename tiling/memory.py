"""How much memory of the machine a computation may still use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tiling.faults import MemoryFault

__all__ = ["check_address_space", "free_memory"]

_ASSUMED = 2 << 30
_LEAST = 1 << 28


@dataclass(frozen=True)
class _Names:
    """Files of a control group: its limit, what it uses, and the kinds of use."""

    folder: str
    limit: str
    used: str
    files: tuple[str, ...]  # lines of memory.stat: copies of files, dropped when memory is short


_V1 = _Names("memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
             ("total_inactive_file", "total_active_file"))  # fmt: skip
_V2 = _Names("", "memory.max", "memory.current", ("inactive_file", "active_file"))


def free_memory(*, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes a computation may use: four fifths of what is free now.

    On Linux that is the least of what the machine has and of what each control group around the
    process leaves (containers, batch systems; versions 1 and 2). Files that the system holds copies
    of count as free, for it drops the copies. Elsewhere (macOS) half of the machine's memory counts
    as free; where not even that is known (Windows), 2 GiB are assumed. 256 MiB count as free even
    where less is.

    Parameters
    ----------
    proc, groups
        Where the system tells of itself and of its control groups.

    Examples
    --------
    >>> free_memory() > 10**8
    True
    """
    free = [left for group, names in _own_groups(proc, groups) for left in _left(group, names)]
    machine = _table(proc / "meminfo").get("MemAvailable:")
    free += [] if machine is None else [machine << 10]
    return max(min(free or [_half()]), _LEAST) * 4 // 5


def _half() -> int:
    """Half of the machine's memory, or what is assumed where the system does not tell."""
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) // 2
    except (AttributeError, ValueError, OSError):  # Windows; a system without these names
        return _ASSUMED


def check_address_space(least_mib: int) -> None:
    """Refuse to begin under a limit (`ulimit -v`) in which libraries cannot even be loaded.

    Compilers and thread pools that get no memory do not say so: they crash or stand still.

    Parameters
    ----------
    least_mib
        Measured address space of the smallest task, in MiB.

    Raises
    ------
    MemoryFault
        The limit of this process is below that.

    Examples
    --------
    >>> check_address_space(1)
    """
    if sys.platform == "win32":  # knows no such limit
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < least_mib << 20:
        raise MemoryFault(
            f"the limit of memory (ulimit -v) is {limit >> 10} kB; {least_mib << 10} are needed at"
            " least: raise it, or ask for more in the batch script"
        )


def _own_groups(proc: Path, groups: Path) -> Iterator[tuple[Path, _Names]]:
    """Folders of the process's control group and of all around it; not each of them is there."""
    for line in _lines(proc / "self" / "cgroup"):
        kinds, _, path = line.partition(":")[2].partition(":")
        if not path or (kinds and "memory" not in kinds.split(",")):
            continue
        names = _V1 if kinds else _V2
        # A container may be told its path on the host; below the folder that is mounted for it,
        # which is its own group, that path is not there.
        inner = Path() if ".." in path.split("/") else Path(path.lstrip("/"))
        for part in (inner, *inner.parents):
            yield groups / names.folder / part, names


def _left(group: Path, names: _Names) -> list[int]:
    """Bytes that a control group leaves; none where it has no limit or is not there."""
    limit, used = ("".join(_lines(group / file)) for file in (names.limit, names.used))
    if not (limit.isdecimal() and used.isdecimal()):
        return []  # "max" is no limit
    kinds = _table(group / "memory.stat")
    return [int(limit) - int(used) + sum(kinds.get(kind, 0) for kind in names.files)]


def _table(path: Path) -> dict[str, int]:
    """First word and number of each line of a file; empty where there is none."""
    rows = [line.split() for line in _lines(path)]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
