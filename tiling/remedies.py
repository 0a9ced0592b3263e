"""What to do where the system refuses a file: one table for reading, writing and all else."""

from __future__ import annotations

import errno

__all__ = ["ANEW", "FEWER_FILES", "of_reading", "of_writing", "tells_of_the_system"]

ANEW = "copy it again from where it came, or save it anew"
"""What to do with a file that is damaged."""
FEWER_FILES = "delete files there, or choose another folder"
"""What to do where a disk has room for bytes but for no other file."""

_NAME = "check the name"
_READABLE = "ask its owner for permission to read it"
_WRITABLE = "choose a folder that you may write to"
_ROOM = "free some space or choose another folder"
_FAILING = "the disk may be failing"
_OTHER = "choose another folder or disk"
_OTHER_NAME = "its file system may not take such a name or size: choose another name, or disk"
_FILES = "raise the limit (ulimit -n)"
_STALE = "mount the network disk again"
_NOT_MOUNTED = "mount it again"
_UNPLUGGED = "was it unplugged?"
_LAYER = (
    "it lies in another layer of a container than what is to replace it: remove it, then run again"
    " with --resume"
)
_MOUNTED = "it is in use, or mounted by itself: choose another name"

# Error of the system: what to do where a file cannot be read, and where it cannot be written.
_REMEDIES: dict[int | None, tuple[str, str]] = {
    errno.ENOENT: (_NAME, _FAILING),
    errno.ENOTDIR: (_NAME, "a part of its name is a file, no folder: choose another name"),
    errno.ENAMETOOLONG: (_NAME, "choose a shorter name"),
    errno.ELOOP: ("check the links that lead to it", "check the links that lead to it"),
    errno.EACCES: (_READABLE, _WRITABLE), errno.EPERM: (_READABLE, _WRITABLE),
    errno.EROFS: (ANEW, _WRITABLE),
    errno.EMFILE: (_FILES, _FILES), errno.ENFILE: (_FILES, _FILES),
    errno.ENOSPC: (ANEW, _ROOM), errno.EDQUOT: (ANEW, _ROOM),
    errno.EFBIG: (ANEW, "raise the file size limit (ulimit -f)"),
    errno.EIO: (f"{_FAILING}: {ANEW}", _FAILING),
    errno.ESTALE: (_STALE, _STALE), errno.ENOTCONN: (_NOT_MOUNTED, _NOT_MOUNTED),
    errno.ENODEV: (_UNPLUGGED, _UNPLUGGED),
    errno.EINVAL: (ANEW, _OTHER_NAME), errno.EILSEQ: (ANEW, _OTHER_NAME),
    errno.EXDEV: (ANEW, _LAYER), errno.EBUSY: (ANEW, _MOUNTED),
}  # fmt: skip

# Where nobody foresaw an error, these are the disk's doing and no bug of ours.
_SYSTEM = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO, errno.ENODEV,
    errno.ESTALE, errno.ENOTCONN,
)  # fmt: skip


def of_reading(error: OSError) -> str:
    """What to do about a file that cannot be read.

    Examples
    --------
    >>> of_reading(FileNotFoundError(errno.ENOENT, "No such file or directory"))
    'check the name'
    """
    return _REMEDIES.get(error.errno, (ANEW, ""))[0]


def of_writing(error: OSError) -> str:
    """What to do about a file that cannot be written.

    Examples
    --------
    >>> of_writing(OSError(errno.EROFS, "Read-only file system"))
    'choose a folder that you may write to'
    """
    return _REMEDIES.get(error.errno, ("", _OTHER))[1]


def tells_of_the_system(error: BaseException) -> bool:
    """Whether an error that nobody foresaw is told as a disk that refuses, and not as a bug.

    Examples
    --------
    >>> tells_of_the_system(OSError(errno.EIO, "")), tells_of_the_system(ValueError())
    (True, False)
    """
    return isinstance(error, OSError) and error.errno in _SYSTEM
