"""An unbuffered file of ours, that notices when another program cuts it off."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tiling.disk import BINARY, explained, writing
from tiling.faults import WriteError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["RawFile", "let_go"]

_TAIL = 16  # bytes by which the end of what was written is known again


class RawFile(io.RawIOBase):
    """Unbuffered read-write file on a descriptor, whose failures are `WriteError`s.

    It has no `fileno`, so that no library writes behind our back. After `abandon()` nothing is
    written any more: what a buffer above still holds is dropped in silence.

    Parameters
    ----------
    path
        File to open.
    flags
        `os.O_CREAT`, `os.O_EXCL`, ... on top of read-write.
    target
        Final name, for the error text.
    """

    def __init__(self, path: Path, flags: int, target: Path) -> None:
        super().__init__()
        self.path, self.target = path, target
        self._abandoned = False
        self._written, self._tail = 0, b""  # how far this object has written, and the last of it
        self._descriptor = -1
        with writing(target):
            self._descriptor = os.open(path, os.O_RDWR | BINARY | flags, 0o666)

    @property
    def descriptor(self) -> int:
        """The open file descriptor (for `os.pread`, `os.fchmod`)."""
        return self._descriptor

    def abandon(self) -> None:
        """Write nothing from now on."""
        self._abandoned = True

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read into `buffer`; returns the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        with writing(self.target):
            found = os.read(self._descriptor, len(view))
        view[: len(found)] = found
        return len(found)

    def write(self, data: ReadableBuffer) -> int:
        """Write some of `data`; returns the number of bytes taken."""
        view = memoryview(data).cast("B")
        if self._abandoned:
            return len(view)
        self.check_length()
        start = self.tell()
        try:
            count = os.write(self._descriptor, view)
        except OSError as error:
            raise WriteError(
                self.target, explained(error, self.target, start + len(view))
            ) from error
        end = start + count
        if start >= self._written or end <= self._written - len(self._tail):
            self.check_length()  # a write beyond a cut fills it with zeros
        if end >= self._written:
            self._written, self._tail = end, bytes(view[max(0, count - _TAIL) : count])
        return count

    def check_length(self) -> None:
        """`WriteError` if something at the end of what was written is no longer there."""
        with writing(self.target):
            whole = os.fstat(self._descriptor).st_size >= self._written
            if whole and self._tail and hasattr(os, "pread"):
                place = self._written - len(self._tail)
                whole = os.pread(self._descriptor, len(self._tail), place) == self._tail
        if not whole:
            reason = f"{self.path.name} was cut off by another program meanwhile; run again"
            raise WriteError(self.target, reason)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to `offset`; returns the new position."""
        with writing(self.target):
            return os.lseek(self._descriptor, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        """Make the file `size` bytes long (default: up to here); returns the size."""
        size = self.tell() if size is None else size
        if not self._abandoned:
            self.check_length()
            with writing(self.target, size):
                os.ftruncate(self._descriptor, size)
            if size < self._written:
                self._written, self._tail = size, b""
            self.check_length()
        return size

    def sync(self) -> None:
        """Wait until the bytes are on the disk."""
        with writing(self.target):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        try:
            super().close()
        finally:
            if descriptor >= 0:
                with writing(self.target):
                    os.close(descriptor)


def let_go(*files: RawFile) -> None:
    """Close files that are about to be renamed or deleted, where that needs them closed."""
    if sys.platform == "win32":
        for file in files:
            file.abandon()
            file.close()
