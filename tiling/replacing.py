"""One folder takes the name of another, and what a kill in between leaves is put right.

A folder cannot be replaced in one step. The predecessor goes to `.NAME.old.zarr`, the new folder
`.NAME.part.zarr` gets the name, and the predecessor goes on to `.NAME.trash.zarr` before anything
in it is deleted. So what bears `.old` is always whole. It comes back only while the new folder
still lies beside it: once that has its name, the old one never returns.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tiling.disk import beside, fsync_folder, remove_folder
from tiling.faults import WriteError
from tiling.renaming import give_name
from tiling.signals import undisturbed

__all__ = ["clear_folders", "hidden_predecessor", "new_folder", "put_back", "replace_folder"]

_OLD, _TRASH = ".old.zarr", ".trash.zarr"


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
    old = beside(target, _OLD)
    _throw_away(target)
    with undisturbed():
        moved = overwrite and target.exists()
        if moved:
            os.replace(target, old)  # noqa: PTH105 - seen by the fault shim
        try:
            give_name(new_folder(target), target, replace=False)
        except OSError:
            if moved:
                with contextlib.suppress(OSError):  # else the next run does
                    os.replace(old, target)  # noqa: PTH105
            raise
    fsync_folder(target.parent)
    _throw_away(target)


def hidden_predecessor(target: Path) -> Path | None:
    """What lies beside the free name `target` since a run was killed replacing it, or None."""
    old = beside(target, _OLD)
    return old if old.is_dir() and not old.is_symlink() and not os.path.lexists(target) else None


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
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            raise WriteError(target, f"{path.name} beside it is no folder; remove it")
    old = beside(target, _OLD)
    if old.is_dir() and new_folder(target).is_dir() and not os.path.lexists(target):
        os.replace(old, target)  # noqa: PTH105
        fsync_folder(target.parent)
    if os.path.lexists(target):
        _throw_away(target)
    else:  # somebody took the new folder away; a whole predecessor is not ours to delete here
        remove_folder(beside(target, _TRASH))


def clear_folders(target: Path) -> None:
    """Delete what lies beside a complete `target`: its predecessor and a new folder begun."""
    put_back(target)
    remove_folder(new_folder(target))


def _places(target: Path) -> tuple[Path, ...]:
    return new_folder(target), beside(target, _OLD), beside(target, _TRASH)


def _throw_away(target: Path) -> None:
    """Delete a predecessor that has been replaced, and what is left of an earlier one."""
    old, trash = beside(target, _OLD), beside(target, _TRASH)
    remove_folder(trash)
    if old.is_dir() and not trash.exists():
        with contextlib.suppress(OSError):  # the new folder has its name; the next run tries again
            os.replace(old, trash)  # noqa: PTH105
            fsync_folder(target.parent)
        remove_folder(trash)
