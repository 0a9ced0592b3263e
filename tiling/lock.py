"""One run per output: a lock that dies with its process."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Self

from tiling.disk import StrPath, beside, names, real_target, writing
from tiling.faults import LockedError, WriteError
from tiling.process import lives, machine, start_time

__all__ = ["OutputLock", "check_held", "holding", "remove_dead_lock"]

# What `holding` holds in this thread; another thread starts with nothing, and is refused.
_held_here: ContextVar[tuple[OutputLock, ...]] = ContextVar("outputs held here", default=())

_SIGNED = re.compile(rb"unet2015 ([0-9]{1,19}) ([0-9]{1,19}) ([0-9a-f]{8})\n")
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)

if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int) -> None:
        # Far behind the text, because a Windows lock also forbids reading the locked byte.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _take(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OutputLock:
    """Context manager that holds an output for one run.

    A hidden file `.NAME.lock` beside the target is locked by the operating system (`flock`), so
    the lock is gone with its process, however that ends; a leftover file means nothing.

    Parameters
    ----------
    path
        The output to hold; it need not exist.

    Raises
    ------
    LockedError
        Another run holds the output; its process id is in the text.
    WriteError
        The folder cannot be written to, or its file system has no locks.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = os.path.join(folder, "out.tif")
    ...     with OutputLock(target):
    ...         try:
    ...             OutputLock(target).acquire()
    ...         except LockedError:
    ...             print("held")
    held
    """

    def __init__(self, path: StrPath) -> None:
        self.target = real_target(path)
        self.path = beside(self.target, ".lock")
        self.descriptor = -1

    @property
    def held(self) -> bool:
        """Whether this object holds the lock now."""
        return self.descriptor >= 0

    def acquire(self) -> Self:
        """Take the lock at once or raise `LockedError`; returns itself."""
        if any(lock.target == self.target for lock in _held_here.get()):
            return self
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        while not self.held:
            with writing(self.target):
                self._refuse_others()
                descriptor = os.open(self.path, flags, 0o666)
            try:
                if _held_already(descriptor):
                    return self  # its folder has another name than when it was locked
                self._take_or_tell(descriptor)
                if not names(self.path, descriptor):
                    continue  # its former holder removed the file between our open and lock
                self.descriptor, descriptor = descriptor, -1
                self._sign()
            finally:
                if descriptor >= 0:
                    _let_go(descriptor)
        return self

    def _sign(self) -> None:
        """Write into the lock whose it is, or give it back."""
        process = os.getpid()
        text = f"unet2015 {process} {start_time(process)} {machine()}\n"
        try:
            with writing(self.target):
                os.ftruncate(self.descriptor, 0)
                os.write(self.descriptor, text.encode("ascii"))
        except BaseException:
            self.release()
            raise

    def _refuse_others(self) -> None:
        """Refuse a pipe or a link, hard or soft, in its place; a holder may remove it meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            found = self.path.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise WriteError(
                    self.target, f"{self.path.name} beside it is no lock file of ours; remove it"
                )

    def _take_or_tell(self, descriptor: int) -> None:
        try:
            _take(descriptor)
        except OSError as error:
            if error.errno not in _HELD:
                with contextlib.suppress(OSError):  # nobody can hold it there, neither can it stay
                    os.unlink(self.path)  # noqa: PTH108
                raise WriteError(
                    self.target,
                    f"its file system cannot lock files ({error.strerror}); use a local disk",
                ) from error
            raise LockedError(
                f"{self.target}: another run (process {_process(descriptor)}) is writing it; "
                "wait for it or stop it"
            ) from error

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor < 0:
            return
        if sys.platform == "win32":
            _let_go(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108 - while held, so that nobody else's file goes
        if sys.platform != "win32":
            _let_go(descriptor)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


@contextlib.contextmanager
def holding(path: StrPath) -> Iterator[None]:
    """Hold an output over several steps that each lock it.

    Inside the block, an `OutputLock` on the same output in the same thread is part of this one:
    it is given at once, and giving it back does nothing.

    Parameters
    ----------
    path
        The output to hold; it need not exist.

    Raises
    ------
    LockedError, WriteError
        As `OutputLock`.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = os.path.join(folder, "out.tif")
    ...     with holding(target):
    ...         with OutputLock(target):
    ...             pass
    ...         print(os.listdir(folder))
    ['.out.tif.lock']
    """
    with OutputLock(path) as lock:
        mine = (lock,) if lock.held else ()  # else it is part of one that is there already
        token = _held_here.set((*_held_here.get(), *mine))
        try:
            yield
        finally:
            _held_here.reset(token)


def check_held(path: StrPath) -> None:
    """Refuse to go on where an output that `holding` holds lies elsewhere by now.

    Parameters
    ----------
    path
        The output, as `holding` was given it; of one that is not held nothing is said.

    Raises
    ------
    WriteError
        Its folder was moved, removed or replaced: what bears the name may be another run's.

    Examples
    --------
    >>> check_held("nobody holds this")
    """
    target = real_target(path)
    for lock in _held_here.get():
        if lock.target == target and not names(lock.path, lock.descriptor):
            if os.fstat(lock.descriptor).st_nlink:
                what = "was moved or replaced meanwhile; what was written lies in the folder that "
                raise WriteError(target.parent, f"{what}was here: go on there, or run again")
            raise WriteError(
                target.parent,
                f"was removed meanwhile, or its lock {lock.path.name} was, so that another run may "
                "write here: see what is there, and run again with --resume",
            )


def remove_dead_lock(path: Path) -> bool:
    """Delete a lock file that a killed run of ours on this machine left; whether it was one."""
    flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    descriptor = os.open(path, flags)
    try:
        signed = _holder(descriptor)
        if signed is None or signed[3].decode() != machine():
            return False
        if lives(int(signed[1]), int(signed[2])):
            return False
        _take(descriptor)  # an error where another run has just taken it
        if names(path, descriptor):
            os.unlink(path)  # noqa: PTH108 - while held, as in `OutputLock.release`
        return True
    finally:
        _let_go(descriptor)


def _held_already(descriptor: int) -> bool:
    """Whether this is the very lock file of an output held in this thread."""
    opened = os.fstat(descriptor)
    return any(os.path.samestat(opened, os.fstat(lock.descriptor)) for lock in _held_here.get())


def _let_go(descriptor: int) -> None:
    """Close a lock file; the lock is gone, also where the disk then refuses the text in it."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _holder(descriptor: int) -> re.Match[bytes] | None:
    """Process, its start and its machine, as a run of ours has written them into the lock file."""
    with contextlib.suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        return _SIGNED.fullmatch(os.read(descriptor, 80))
    return None


def _process(descriptor: int) -> str:
    """The process of the lock file, or a word for not knowing."""
    signed = _holder(descriptor)
    return signed[1].decode("ascii") if signed else "unknown"
