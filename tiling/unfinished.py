"""What an interrupted run left beside its output: who began it, and how it goes."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from tiling.disk import StrPath, beside, fsync_folder, real_target, remove, writing
from tiling.faults import WriteError
from tiling.journal import read_journal
from tiling.lock import OutputLock

__all__ = ["clear", "discard_partial", "is_ordinary", "unfinished_identity"]

_MAX_HEADER = 1 << 20


def discard_partial(path: StrPath) -> list[Path]:
    """Hold the output `path` and `clear` what is unfinished of it; returns what was there."""
    target = real_target(path)
    with OutputLock(target), writing(target):
        return clear(target)


def unfinished_identity(path: StrPath) -> dict[str, Any] | None:
    """The `identity` that the unfinished output of `path` was begun with; None where none lies."""
    journal = beside(real_target(path), ".part.journal")
    try:
        if not is_ordinary(journal):
            return None
        with journal.open("rb") as file:
            records, _, _ = read_journal(file.readline(_MAX_HEADER))
    except OSError:
        return None
    found = records[0].get("identity") if records else None
    return found if isinstance(found, dict) else None


def is_ordinary(path: Path) -> bool:
    """Whether an ordinary file lies there: no link to elsewhere, and no pipe that would hang."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def clear(target: Path) -> list[Path]:
    """Delete the unfinished output of `target`, which the caller holds; returns what was there."""
    names = (beside(target, ".part.journal"), beside(target, ".part"))
    found = [path for path in names if os.path.lexists(path)]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            raise WriteError(target, f"{path.name} is a folder, not an unfinished output; move it")
        remove(path)
    if found:
        fsync_folder(target.parent)
    return found
