"""One input file, opened once, read at given places, and watched for changes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterator

from tiling.closing import Closing
from tiling.disk import StrPath
from tiling.faults import Fault, InputChangedError, InputError
from tiling.remedies import ANEW, of_reading

__all__ = ["ANEW", "InputFile", "as_input_error"]

_BLOCK = 1 << 20
_MEMORY = "more memory than there is; close other programs, or cut it into smaller images"
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe that takes the file's place must not hang us
)


@contextlib.contextmanager
def as_input_error(path: StrPath, page: int | None = None) -> Iterator[None]:
    """The boundary of the readers: whatever goes wrong inside is an `InputError`."""
    try:
        yield
    except Fault:
        raise
    except MemoryError as error:
        raise InputError(path, f"needs {_MEMORY}", page=page) from error
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}; {of_reading(error)}"
        raise InputError(path, reason, page=page) from error
    except Exception as error:
        reason = f"cannot be read: {type(error).__name__}: {error}; {ANEW}"
        raise InputError(path, reason, page=page) from error


class InputFile(Closing):
    """An ordinary file, opened once and read by position; a context manager.

    Parameters
    ----------
    path
        The file. Folders, pipes, devices and empty files are refused before they are opened.

    Attributes
    ----------
    path : str
        As given.
    size : int
        Bytes, when it was opened.

    Raises
    ------
    InputError
        There is no such file, it is not an ordinary one, or it is empty.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = os.fsdecode(path)
        self._place = threading.Lock()
        self._descriptor = -1
        with as_input_error(self.path):
            _check_ordinary(self.path, os.stat(self.path))  # noqa: PTH116 - any str, also ""
            self._descriptor = os.open(self.path, _FLAGS)
            try:
                found = os.fstat(self._descriptor)
                _check_ordinary(self.path, found)
            except BaseException:
                self.close()
                raise
        self.size = found.st_size
        self._identity = _identity(found)

    def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `start`.

        Raises
        ------
        InputError
            They are not all inside the file, or the disk fails.
        InputChangedError
            The file has become shorter since it was opened.
        """
        if start < 0 or length < 0 or start + length > self.size:
            raise InputError(
                self.path,
                f"is cut off or damaged: bytes {start} to {start + length} are needed, "
                f"the file has {self.size}; {ANEW}",
            )
        parts = []
        while length:
            part = self._read_some(start, length)
            if not part:
                raise InputChangedError(
                    self.path, "became shorter while it was being read; run again on a file at rest"
                )
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_some(self, start: int, length: int) -> bytes:
        try:  # the boundary only where something fails: a stack of pages reads a million values
            if hasattr(os, "pread"):
                return os.pread(self._descriptor, length, start)
            with self._place:
                os.lseek(self._descriptor, start, os.SEEK_SET)
                return os.read(self._descriptor, length)
        except Exception:
            with as_input_error(self.path):
                raise

    def sha256(self) -> str:
        """SHA-256 of the whole file, as hex digits."""
        found = hashlib.sha256()
        for start in range(0, self.size, _BLOCK):
            found.update(self.read(start, min(_BLOCK, self.size - start)))
        return found.hexdigest()

    def check_unchanged(self) -> None:
        """Raise `InputChangedError` if the file was written to or replaced since it was opened."""
        try:
            now = _identity(os.fstat(self._descriptor)), _identity(os.stat(self.path))  # noqa: PTH116
        except OSError as error:
            raise InputChangedError(
                self.path,
                f"went away while it was being read: {error.strerror}; {of_reading(error)}",
            ) from error
        if now != (self._identity, self._identity):
            raise InputChangedError(
                self.path, "changed while it was being read; run again on a file at rest"
            )

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):  # all that was wanted of it has been read
                os.close(descriptor)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.close()


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check_ordinary(path: str, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise InputError(path, "is a folder, not an image file; name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(path, "is a pipe or device, not an ordinary file; copy it to a file first")
    if found.st_size == 0:
        raise InputError(path, f"is empty (0 bytes); {ANEW}")
