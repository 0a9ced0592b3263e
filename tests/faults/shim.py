"""Faults on demand at the N-th write, fsync, rename or truncation of an ordinary file.

`UNET2015_FAULT` holds one or more of these, separated by `;` (calls are counted from 1):

    log:PATH    append one line `N name file` for each call
    kill:N      SIGKILL to ourselves instead of the N-th call
    torn:N      let half of the N-th write happen, then SIGKILL (a kill where it is no write)
    enospc:N    the N-th call fails with "no space left"; eio:N with "input/output error"
    full:N      every call from the N-th on fails with "no space left"
    sigint:N    Ctrl-C before the N-th call; sigterm:N a scheduler's stop

The product is not changed: `tiling.disk` and `tiling.lock` look the functions up on `os` when they
call them, and `install` puts counting ones there. The rename that takes only a free name and the
exchange of two names are none of `os`; they are looked up in `tiling.renaming`, and each counts as
one "replace".
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys

from tiling import renaming

NAMES = ("write", "pwrite", "fsync", "replace", "rename", "ftruncate", "posix_fallocate")
_RENAMES = ("rename_to_free_name", "exchange_names")
_real = {name: getattr(os, name) for name in NAMES if hasattr(os, name)}
_real |= {name: getattr(renaming, name) for name in _RENAMES}


class Counter:
    """What to do at which call."""

    def __init__(self, text: str) -> None:
        self.calls = 0
        self.log = -1
        self.at: dict[int, str] = {}
        self.full = 0
        for part in filter(None, text.split(";")):
            name, _, value = part.partition(":")
            if name == "log":
                self.log = os.open(value, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            elif name == "full":
                self.full = int(value)
            elif name in ("kill", "torn", "enospc", "eio", "sigint", "sigterm"):
                self.at[int(value)] = name
            else:
                raise ValueError(f"unknown fault {part!r}")

    def call(self, name: str, args: tuple[object, ...], keywords: dict[str, object]) -> object:
        file = _file_of(args[0])
        if file is None:
            return _real[name](*args, **keywords)
        self.calls += 1
        if self.log >= 0:
            shown = "replace" if name in _RENAMES else name
            _real["write"](self.log, f"{self.calls} {shown} {file}\n".encode(errors="replace"))
        what = self.at.get(self.calls, "")
        if what == "torn" and name == "write":
            _real["write"](args[0], bytes(args[1])[: len(bytes(args[1])) // 2])  # type: ignore[arg-type]
        if what in ("kill", "torn"):
            os.kill(os.getpid(), signal.SIGKILL)
        if what in ("sigint", "sigterm"):
            signal.raise_signal(getattr(signal, what.upper()))
        if what == "enospc" or (self.full and self.calls >= self.full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if what == "eio":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return _real[name](*args, **keywords)


def _file_of(target: object) -> str | None:
    """Path of an ordinary file or folder (for the log); None for pipes, terminals, devices."""
    if not isinstance(target, int):
        return os.fsdecode(target)  # type: ignore[arg-type]
    try:
        mode = os.fstat(target).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return None
        link = f"/proc/self/fd/{target}"
        return os.readlink(link) if os.path.exists(link) else f"descriptor {target}"
    except OSError:
        return None


def install(text: str) -> Counter:
    """Put the counting functions on `os`; returns the counter."""
    counter = Counter(text)
    for name in _real:

        def counted(*args: object, _name: str = name, **keywords: object) -> object:
            return counter.call(_name, args, keywords)

        setattr(_home(name), name, counted)
    return counter


def uninstall() -> None:
    """Put the real functions back."""
    for name, function in _real.items():
        setattr(_home(name), name, function)


def _home(name: str) -> object:
    return renaming if name in _RENAMES else os


def log_of(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """(name, file) of each logged call."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return [tuple(line.rstrip("\n").split(" ", 2)[1:]) for line in file]  # type: ignore[misc]


if __name__ == "__main__":
    sys.exit("use run_with_shim.py")
