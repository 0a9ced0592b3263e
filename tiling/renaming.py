"""A finished file or folder gets its final name, and nothing that came meanwhile is lost by it.

A plain rename replaces whatever has the name. Where that is not asked for, Linux can be told so
(`renameat2` with `RENAME_NOREPLACE`), so that not even a moment lies between the last look and the
rename. Elsewhere, and on file systems that do not know it, the look before has to do. In the same
way two names that are both taken can be exchanged in one step (`RENAME_EXCHANGE`).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["can_exchange", "exchange_names", "give_name", "rename_to_free_name"]

_HERE = -100  # AT_FDCWD: relative names as everywhere
_NO_REPLACE, _EXCHANGE = 1, 2
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def give_name(path: Path, target: Path, *, replace: bool) -> None:
    """Rename `path` to `target`.

    Parameters
    ----------
    path
        The finished file or folder.
    target
        Its final name, in the same folder.
    replace
        Whether a file of that name may be replaced.

    Raises
    ------
    FileExistsError
        The name is taken and may not be (where the system can tell, see above).
    OSError
        The disk refuses.
    """
    if replace or not rename_to_free_name(path, target):
        os.replace(path, target)  # noqa: PTH105 - seen by the fault shim


def rename_to_free_name(path: Path, target: Path) -> bool:
    """Rename `path` to a name that is free; False, and nothing done, where the system cannot.

    Raises
    ------
    OSError
        The name is taken (`FileExistsError`), or the disk refuses.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     new, old = Path(folder, "new"), Path(folder, "old")
    ...     _ = new.write_text("new"), old.write_text("old")
    ...     try:
    ...         done = rename_to_free_name(new, old)
    ...     except FileExistsError:
    ...         done = False
    ...     done, old.read_text()
    (False, 'old')
    """
    return _renamed(path, target, _NO_REPLACE)


def can_exchange() -> bool:
    """Whether the system knows how to exchange two names; a file system may refuse it all the same.

    Examples
    --------
    >>> can_exchange() in (True, False)
    True
    """
    return sys.platform == "linux" and _renameat2() is not None


def exchange_names(path: Path, target: Path) -> bool:
    """Let `path` and `target` swap names in one step; False, and nothing done, where none can.

    Raises
    ------
    OSError
        One of the two is not there (`FileNotFoundError`), or the disk refuses.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     new, old = Path(folder, "new"), Path(folder, "old")
    ...     _ = new.write_text("new"), old.write_text("old")
    ...     exchange_names(new, old) == (old.read_text() == "new")
    True
    """
    return _renamed(path, target, _EXCHANGE)


def _renamed(path: Path, target: Path, how: int) -> bool:
    """Whether the system knows this kind of rename; it is then done."""
    call = _renameat2() if sys.platform == "linux" else None
    if call is None:
        return False
    if call(_HERE, os.fsencode(path), _HERE, os.fsencode(target), how) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(path), None, str(target))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """The function of the system's C library, where it has one."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    call.restype = ctypes.c_int
    return call
