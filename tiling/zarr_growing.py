"""A Zarr folder that is written to, and never made anew where somebody has taken it away.

The store of zarr makes every folder that is missing, also those above its own: the user's folder,
removed or renamed while a run writes into it, would be there again with a torn image in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

__all__ = ["GrowingStore"]


class GrowingStore(LocalStore):
    """Files of a Zarr below a folder that is there; folders are made below it only.

    Parameters
    ----------
    root
        The folder.
    read_only
        As for the store of zarr.

    Raises
    ------
    FileNotFoundError
        On any use, where the folder is gone.

    Examples
    --------
    >>> import tempfile, zarr
    >>> with tempfile.TemporaryDirectory() as place:
    ...     store = GrowingStore(Path(place))
    ...     array = zarr.create_array(store, name="0", shape=(4, 4), chunks=(4, 4), dtype="u1")
    ...     array[:] = 1
    ...     sorted(file.relative_to(place).as_posix() for file in Path(place).rglob("*"))
    ['0', '0/c', '0/c/0', '0/c/0/0', '0/zarr.json', 'zarr.json']
    """

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)

    async def _open(self, **_words: Any) -> None:
        self._check_there()
        await Store._open(self)  # not that of LocalStore, which makes the folder

    def _ensure_open_sync(self) -> None:
        self._check_there()
        self._is_open = True

    def _check_there(self) -> None:
        if not self.root.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.root))

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file; it is whole or not there."""
        self._check_writable()
        await asyncio.to_thread(self._write, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file that is not there."""
        if not await self.exists(key):
            await self.set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """As `set`, for versions of zarr that write without an event loop."""
        self._check_writable()
        self._write(key, value)

    def _write(self, key: str, value: Buffer) -> None:
        for folder in list(PurePosixPath(key).parents)[-2::-1]:  # the last one is the root itself
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.root / folder)  # noqa: PTH102 - one at a time, none above the root
        file = self.root / key
        temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
        try:
            with temporary.open("wb") as stream:
                stream.write(value.as_numpy_array().data)
            os.replace(temporary, file)  # noqa: PTH105
        except Exception:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
