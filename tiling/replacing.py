"""One folder takes the name of another, and what a kill in between leaves is put right.

The new folder grows as `.NAME.part.zarr`. It goes on to `.NAME.NUMBER.swap.zarr`, with its own
inode number, and then exchanges names with its predecessor: one step, so that a whole result bears
the name at any moment. After a kill the number tells which of the two lies under the hidden name.

Where the system exchanges no names, the predecessor goes to `.NAME.old.zarr` and the new folder
gets the name. So what bears `.old` is always whole. It comes back only while the new folder still
lies beside it: once that has its name, the old one never returns.

Either way a predecessor goes on to `.NAME.trash.zarr` before anything in it is deleted.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from tiling import renaming
from tiling.disk import beside, fsync_folder, remove_folder
from tiling.faults import LockedError, WriteError
from tiling.lock import OutputLock
from tiling.signals import undisturbed

__all__ = [
    "clear_folders",
    "hidden_predecessor",
    "new_folder",
    "put_back",
    "remove_dead_predecessors",
    "replace_folder",
]

_OLD, _TRASH = ".old.zarr", ".trash.zarr"
_SWAP = re.compile(r"\.([0-9]{1,20})\.swap\.zarr\Z")
_REPLACED = re.compile(r"\.(.+)(?:\.[0-9]{1,20}\.swap|\.trash)\.zarr", re.DOTALL)


def new_folder(target: Path) -> Path:
    """Where the folder that is to become `target` grows."""
    return beside(target, ".part.zarr")


def replace_folder(target: Path, *, overwrite: bool) -> None:
    """Give the new folder the name `target`; what had it is deleted, as far as the disk lets it.

    Raises
    ------
    FileExistsError
        The name is taken, and `overwrite` is not given.
    OSError
        A rename or the wait for the disk failed. The old folder has its name again, where the disk
        lets it; else the next run puts the names right.
    """
    _throw_away(target)
    replacing = overwrite and target.exists()
    if replacing:  # a folder that others may not look into stays one
        new_folder(target).chmod(stat.S_IMODE(target.stat().st_mode))
    with undisturbed():
        if not replacing:
            renaming.give_name(new_folder(target), target, replace=False)
        elif not _exchanged(target):
            _rename_both(target)
    fsync_folder(target.parent)
    _throw_away(target)


def _exchanged(target: Path) -> bool:
    """Whether the new folder and `target` could swap names; if not, both are as before."""
    if not renaming.can_exchange():
        return False
    new = new_folder(target)
    swap = beside(target, f".{_number(new)}.swap.zarr")
    os.replace(new, swap)  # noqa: PTH105 - seen by the fault shim
    done = False
    try:
        done = renaming.exchange_names(swap, target)
    finally:
        if not done:
            with contextlib.suppress(OSError):  # else the next run does
                os.replace(swap, new)  # noqa: PTH105
    return done


def _rename_both(target: Path) -> None:
    """Move `target` out of the way and give the new folder its name; undone if the second fails."""
    old = beside(target, _OLD)
    os.replace(target, old)  # noqa: PTH105
    try:
        renaming.give_name(new_folder(target), target, replace=False)
    except OSError:
        with contextlib.suppress(OSError):  # else the next run does
            os.replace(old, target)  # noqa: PTH105
        raise


def hidden_predecessor(target: Path) -> Path | None:
    """What lies beside the free name `target` since a run was killed replacing it, or None."""
    old = beside(target, _OLD)
    return old if _is_folder(old) and not os.path.lexists(target) else None


def put_back(target: Path) -> None:
    """Undo a replacement that was killed half-way, or finish one that had come further.

    Raises
    ------
    WriteError
        Something else than a folder lies in a place of ours.
    OSError
        The disk refuses.
    """
    for path in _places(target):  # never through a link into somebody else's folder
        if os.path.lexists(path) and not _is_folder(path):
            raise WriteError(target, f"{path.name} beside it is no folder; remove it")
    _settle_swapped(target)
    old = beside(target, _OLD)
    if old.is_dir() and new_folder(target).is_dir() and not os.path.lexists(target):
        os.replace(old, target)  # noqa: PTH105
        fsync_folder(target.parent)
    if os.path.lexists(target):
        _throw_away(target)
    else:  # somebody took the new folder away; a whole predecessor is not ours to delete here
        remove_folder(beside(target, _TRASH))


def _settle_swapped(target: Path) -> None:
    """Give what a kill about the exchange left the name of what it is.

    It is the new folder where it has the number in its name, or where nothing tells: that will be
    compared with its journal. Else it is the predecessor.
    """
    for swap, number in _swapped(target):
        if number == _number(target):
            continue  # published: `_throw_away` does the rest
        ours = number == _number(swap) or os.path.lexists(target)
        place = new_folder(target) if ours else beside(target, _OLD)
        if os.path.lexists(place):
            _delete(swap, beside(target, _TRASH))
        else:
            os.replace(swap, place)  # noqa: PTH105
        fsync_folder(target.parent)


def clear_folders(target: Path) -> None:
    """Delete what lies beside a complete `target`: its predecessor and a new folder begun."""
    put_back(target)
    remove_folder(new_folder(target))


def remove_dead_predecessors(directory: Path) -> list[Path]:
    """Delete what dead runs in `directory` had replaced and not yet deleted; returns what went."""
    removed = []
    for name in sorted(os.listdir(directory)):  # noqa: PTH208 - plain names, any bytes
        found = _REPLACED.fullmatch(name)
        left = directory / name
        if found is None or not _is_folder(left):
            continue
        if not (directory / found[1] / "zarr.json").is_file():
            continue
        with contextlib.suppress(OSError, WriteError, LockedError):
            with OutputLock(directory / found[1]) as lock:
                _throw_away(lock.target)
            if not left.exists():
                removed.append(left)
    return removed


def _places(target: Path) -> tuple[Path, ...]:
    ours = new_folder(target), beside(target, _OLD), beside(target, _TRASH)
    return (*ours, *(path for path, _ in _swapped(target)))


def _swapped(target: Path) -> list[tuple[Path, int]]:
    """What lies beside `target` under a name for the exchange, and the number in that name."""
    found = []
    for name in sorted(os.listdir(target.parent)):  # noqa: PTH208 - plain names, any bytes
        end = _SWAP.search(name)
        if end is not None and beside(target, end[0]).name == name:
            found.append((target.parent / name, int(end[1])))
    return found


def _number(path: Path) -> int:
    """The inode number of a folder, which a rename keeps; 0 where there is none."""
    try:
        return path.lstat().st_ino
    except OSError:
        return 0


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _throw_away(target: Path) -> None:
    """Delete a predecessor that has been replaced, and what is left of an earlier one."""
    trash, published = beside(target, _TRASH), _number(target)
    remove_folder(trash)
    replaced = [path for path, number in _swapped(target) if number == published]
    for old in (beside(target, _OLD), *replaced):
        if old.is_dir():
            _delete(old, trash)


def _delete(old: Path, trash: Path) -> None:
    """Delete a folder under another name, as far as the disk lets it; the next run tries again."""
    if trash.exists():
        return
    with contextlib.suppress(OSError):
        os.replace(old, trash)  # noqa: PTH105
        fsync_folder(trash.parent)
    remove_folder(trash)
