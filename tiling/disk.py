"""How bytes reach the disk: every write, fsync and rename of an artefact passes through here.

The calls are looked up on the `os` module at the moment they are made (`os.write`, `os.fsync`,
`os.replace`, ...), so that a test can count them, and fail or kill at the N-th one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from tiling.faults import UsageFault, WriteError
from tiling.remedies import FEWER_FILES, of_writing

__all__ = [
    "BINARY",
    "StrPath",
    "beside",
    "check_descriptors",
    "check_folder",
    "explained",
    "free_bytes",
    "fsync_folder",
    "holds",
    "keep_mode",
    "names",
    "real_target",
    "remove",
    "remove_folder",
    "writing",
]

_DESCRIPTORS = 12
_NAME_MAX = 255  # NAME_MAX of every file system in common use, in bytes
StrPath = str | bytes | os.PathLike[str]

BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)


def real_target(path: StrPath) -> Path:
    """Path that a write to `path` ends in: a symbolic link is followed, and stays a link."""
    try:
        target = Path(os.path.realpath(os.fsdecode(path)))
    except (OSError, ValueError) as error:
        raise WriteError(
            os.fsdecode(path), f"is no usable file name: {error}; give another, or the whole path"
        ) from error
    length = len(os.fsencode(target.name))
    if length > _NAME_MAX:
        raise WriteError(
            os.fsdecode(path),
            f"its name has {length} bytes, a disk takes {_NAME_MAX}; choose a shorter one",
        )
    try:
        target.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            reason = "its path, or a folder's name in it, is too long for a disk; shorten it"
            raise WriteError(os.fsdecode(path), reason) from error
    return target


def beside(target: Path, ending: str) -> Path:
    """Hidden name in the folder of `target`, `.NAME` + `ending`, short enough for any disk."""
    name = f".{target.name}{ending}"
    if len(os.fsencode(name)) > _NAME_MAX:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}{ending}"
    return target.parent / name


def free_bytes(folder: Path) -> int | None:
    """Bytes an ordinary user may still write in `folder`; None where the system cannot tell."""
    found = _disk(folder)
    return found and found.f_bavail * found.f_frsize


def _lacks_inodes(folder: Path) -> bool:
    """Whether a disk with free bytes takes no other file."""
    found = _disk(folder)
    return found is not None and found.f_bavail > 0 and found.f_favail == 0 < found.f_files


def _disk(folder: Path) -> os.statvfs_result | None:
    """What the system says of the disk of `folder`, if it can."""
    try:
        return os.statvfs(folder)
    except (OSError, AttributeError):
        return None


def holds(path: Path, data: bytes) -> bool:
    """Whether an ordinary file holds exactly these bytes; one of another size is not read."""
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (a no-op where folders cannot be synced)."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | BINARY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def keep_mode(descriptor: int, target: Path) -> None:
    """Give the new file the permissions of the file it is about to replace, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(target.stat().st_mode)
        if hasattr(os, "fchmod") and mode != stat.S_IMODE(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, mode)


def names(path: Path, descriptor: int) -> bool:
    """Whether `path` is the name of the open file now."""
    try:
        named = path.lstat()
    except OSError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def remove(path: Path) -> None:
    """Delete `path` if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - seen by the fault shim


def remove_folder(folder: Path) -> None:
    """Delete a folder with all that is in it, as far as the disk lets it.

    `shutil.rmtree` would close a descriptor twice when Ctrl-C arrives at the wrong moment, and then
    raise "bad file descriptor" instead of what it was told. Of a link only the link goes.
    """
    if folder.is_symlink():
        with contextlib.suppress(OSError):
            remove(folder)
        return
    for place, folders, files in os.walk(folder, topdown=False):  # through no link
        for name in files:
            with contextlib.suppress(OSError):
                remove(Path(place, name))
        for name in folders:
            with contextlib.suppress(OSError):
                path = Path(place, name)
                remove(path) if path.is_symlink() else path.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def writing(
    target: Path, needed_bytes: int = 0, *, bound: str = "at least", done: str = ""
) -> Iterator[None]:
    """Turn an `OSError` of the writing layer into a `WriteError` about `target`.

    `bound` says whether "at least" or "up to" `needed_bytes` are needed, for a full disk; `done`
    what is well all the same.
    """
    try:
        yield
    except OSError as error:
        reason = explained(error, target, needed_bytes, bound)
        raise WriteError(target, f"{reason}; {done}" if done else reason) from error


def explained(error: OSError, target: Path, needed_bytes: int, bound: str = "at least") -> str:
    """Why `target` cannot be written, and what to do; `needed_bytes` of it for a full disk."""
    if error.errno == errno.EEXIST and target.parent.is_dir():
        return "exists since a moment ago; use --overwrite to replace it, or another name"
    reason = f"cannot write: {error.strerror or error}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        what = "what was written of it" if target.parent.is_dir() else "its folder"
        return f"{reason}; {what} was moved or removed meanwhile: run again"
    other = _of_another_user(error, target)
    if other:
        what = f"{other} beside it belongs to another user"
        return f"{reason}; {what}: have it removed, or use another name"
    need = f"{needed_bytes} bytes needed" if needed_bytes else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        if error.errno == errno.ENOSPC and _lacks_inodes(target.parent):
            return f"{reason} (no room for another file: its inodes are used up); {FEWER_FILES}"
        free = free_bytes(target.parent)
        need = f"{bound} {need}, " if need else ""
        reason += f" ({need}{'unknown' if free is None else free} bytes free)"
    elif error.errno == errno.EFBIG and need:
        reason += f" ({bound} {need})"
    return f"{reason}; {of_writing(error)}"


def _of_another_user(error: OSError, target: Path) -> str:
    """Name of what lies beside `target`, is somebody else's and in the way; or nothing."""
    if error.errno not in (errno.EACCES, errno.EPERM) or not hasattr(os, "geteuid"):
        return ""
    with contextlib.suppress(OSError, ValueError, TypeError):
        inside = Path(os.fsdecode(error.filename)).relative_to(target.parent)
        name = inside.parts[0] if inside.parts else target.name
        if name != target.name and (target.parent / name).lstat().st_uid != os.geteuid():
            return name
    return ""


def check_descriptors() -> None:
    """Refuse to begin where hardly a file can be opened: zarr's threads die of it with riddles.

    Raises
    ------
    OSError
        The limit of open files is nearly reached.
    """
    with contextlib.ExitStack() as opened:
        for _ in range(_DESCRIPTORS):
            opened.enter_context(Path(os.devnull).open("rb"))


def check_folder() -> None:
    """Refuse to work in a folder that is no longer there: libraries die of it with riddles.

    Raises
    ------
    UsageFault
        It has been deleted.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UsageFault(
            "the folder this was started in has been deleted; change to one that exists (cd)"
        ) from error
