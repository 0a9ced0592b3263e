"""The files of a Zarr folder, read strictly.

Before zarr sees a byte of a file: it is an ordinary file inside the folder (no pipe that hangs, no
device, no link to somewhere else or to nothing, no folder in its place, which zarr would read as an
empty chunk), its size is sane, and what is compressed in it does not inflate to much more than the
chunk that it says it is. Only codecs whose inflation can be bounded are read.
Sources: Zarr v2 and v3 core specifications; the c-blosc 1 header.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

from tiling.faults import InputError
from tiling.ifd import Limits
from tiling.zarr_checks import METADATA, check_chain, check_codecs, inner_chunks
from tiling.zarr_streams import inflated

__all__ = ["StrictStore", "check_file"]

_MAX_METADATA = 1 << 24
_SMALL = 1 << 24  # what inflates to no more is no bomb, whatever its ratio
_LARGER = 4  # times the chunk that a stream may inflate to: filters may change the type
_AT_ONCE = 1 << 14  # a file so small is read faster than handed to another thread
_AGAIN = "copy the folder again from where it came"
_BLOSC_HEADER = 16
_VERSIONS = {"zarr.json": 3, ".zarray": 2, ".zgroup": 2}
_NO_CHUNK = (1 << 64) - 1  # place and length of a chunk that a shard does not have


def check_file(root: Path, file: Path) -> int:
    """Bytes of a file of the folder `root`, which must be an ordinary one and lie there.

    A missing file is no fault but has 0 bytes: an absent chunk is empty.

    Raises
    ------
    InputError
        As said.
    """
    try:
        found = file.stat()
    except FileNotFoundError:
        if _leads_nowhere(root, file):
            raise InputError(file, f"is reached by a link to nothing; {_AGAIN}") from None
        return 0
    except OSError as error:
        raise InputError(file, f"cannot be read: {error.strerror}; {_AGAIN}") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(file, f"is a folder where a file of the Zarr belongs; {_AGAIN}")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(file, "is a pipe or device, not an ordinary file of a Zarr folder")
    real, inside = os.path.realpath(file), os.path.realpath(root)
    if os.path.commonpath((real, inside)) != inside:
        raise InputError(file, f"is a link out of its Zarr folder, to {real}; copy the file here")
    if file.name in METADATA and found.st_size > _MAX_METADATA:
        raise InputError(file, f"is Zarr metadata of {found.st_size} bytes, above {_MAX_METADATA}")
    return found.st_size


def _leads_nowhere(root: Path, file: Path) -> bool:
    """Whether a missing file, or the nearest thing above it, is a link whose end is missing."""
    while file != root and not os.path.lexists(file):
        file = file.parent
    return file.is_symlink() and not file.exists()


class StrictStore(LocalStore):
    """A read-only folder of Zarr chunks, each of them checked before it is decoded.

    Parameters
    ----------
    root
        The folder.
    limits
        `max_bytes` bounds one chunk, `max_chunks` those of a shard.

    Attributes
    ----------
    asked : str
        Name of the chunk that was asked for last.
    """

    def __init__(self, root: str | os.PathLike[str], limits: Limits) -> None:
        super().__init__(os.fspath(root), read_only=True)
        self._limits = limits
        self._codecs: frozenset[str] = frozenset()
        self._ceiling = 0  # bytes; 0: no array is known yet
        self._pairs = 0  # bytes of places in the index of a shard; 0: there are no shards
        self._index = 0  # the same with its checksum
        self._index_first = False
        self._checksum = 0  # bytes behind each compressed chunk
        self._exact = 0  # bytes of a chunk that is stored as it is; 0: its size is not known
        self.asked = ""

    def expect(self, array: Any) -> None:
        """Check what an array says about its chunks, and hold them to it from now on.

        Raises
        ------
        InputError
            A codec is not among those that are read, a chunk is far larger than the array, or a
            shard has too many chunks.
        """
        path = self.root
        self._codecs = check_codecs(path, array.metadata)
        item = int(array.dtype.itemsize)
        chunk = math.prod(array.chunks) * item
        whole = math.prod(array.shape) * item
        if min(array.chunks, default=1) < 1 or chunk > self._limits.max_bytes:
            raise InputError(
                path, f"has chunks of {tuple(array.chunks)}, {chunk} bytes each; "
                f"1 to {self._limits.max_bytes} are read (max_bytes)",
            )  # fmt: skip
        if chunk > _SMALL and chunk > _LARGER * whole:
            raise InputError(path, f"has chunks of {chunk} bytes in an array of {whole} bytes")
        self._ceiling = max(_SMALL, _LARGER * chunk)
        inner = inner_chunks(path, array, self._limits)
        chain: Any = getattr(array.metadata, "codecs", ())
        if "sharding_indexed" in self._codecs:
            shard, chain = chain[0], chain[0].codecs
            self._pairs = 16 * inner
            self._index = self._pairs + 4 * ("crc32c" in check_chain(path, shard.index_codecs))
            self._index_first = shard.to_dict()["configuration"].get("index_location") == "start"
        elif self._codecs <= {"bytes", "transpose", "crc32c"}:
            self._exact = chunk + 4 * ("crc32c" in self._codecs)
        self._checksum = 4 * ("crc32c" in check_chain(path, chain[-1:]))

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """The bytes of a file, or a part of them; None where there is no such file."""
        prototype = prototype or default_buffer_prototype()
        if check_file(self.root, self.root / key) < _AT_ONCE:
            return self._got(key, prototype, byte_range)
        return await asyncio.to_thread(self._got, key, prototype, byte_range)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """As `get`, for versions of zarr that read without an event loop."""
        check_file(self.root, self.root / key)
        return self._got(key, prototype or default_buffer_prototype(), byte_range)

    def _got(self, key: str, prototype: BufferPrototype, part: ByteRequest | None) -> Buffer | None:
        """The bytes of a file, or a part of them, read and checked."""
        file = self.root / key
        try:
            data = _read(file, part)
        except (FileNotFoundError, NotADirectoryError):
            data = None
        except OSError as error:
            raise InputError(file, f"cannot be read: {error.strerror}; {_AGAIN}") from error
        self._check(key, data, part)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Several of them."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    def _check(self, key: str, data: bytes | None, part: ByteRequest | None) -> None:
        file = self.root / key
        if file.name in _VERSIONS and data is not None and part is None:
            _check_version(file, data)
        if not self._ceiling or file.name in METADATA:
            return
        self.asked = key
        if data is None:
            return
        wanted = self._exact
        if isinstance(part, RangeByteRequest):
            wanted = part.end - part.start
        elif isinstance(part, SuffixByteRequest):
            wanted = part.suffix
        if wanted and len(data) != wanted:
            raise InputError(file, f"is damaged: {len(data)} bytes are there of {wanted}; {_AGAIN}")
        for stream in self._streams(file, data, part):
            self._check_blosc(file, stream)
            size = max((inflated(stream, name, self._ceiling) for name in self._codecs), default=0)
            if size > self._ceiling:
                raise InputError(
                    file, f"inflates to more than {self._ceiling} bytes, far more than its chunk"
                )

    def _check_blosc(self, file: Path, data: bytes) -> None:
        """Refuse what is not as long as its header says: the decoder would read beyond its end."""
        there, said = len(data) - self._checksum, int.from_bytes(data[12:16], "little")
        if "blosc" in self._codecs and (there < _BLOSC_HEADER or said != there):
            raise InputError(
                file, f"is damaged: {there} bytes of blosc are there of {said}; {_AGAIN}"
            )

    def _streams(self, file: Path, data: bytes, part: ByteRequest | None) -> Iterator[bytes]:
        """The compressed streams in a file, or in a part of it that zarr asked for."""
        if not self._pairs:
            yield data
            return
        at_start = isinstance(part, RangeByteRequest) and part.start == 0
        index_only = at_start if self._index_first else isinstance(part, SuffixByteRequest)
        if part is not None and not index_only:  # one chunk of the shard
            yield data
            return
        size = len(data) if part is None else file.stat().st_size
        places = data[: self._pairs] if self._index_first else data[-self._index :][: self._pairs]
        if len(places) < self._pairs:
            raise InputError(file, f"is damaged: the index of its chunks is cut off; {_AGAIN}")
        first = self._index if self._index_first else 0
        stop = size if self._index_first else size - self._index
        pairs = np.frombuffer(places, "<u8").reshape(-1, 2).tolist()
        there = [pair for pair in pairs if pair != [_NO_CHUNK, _NO_CHUNK]]
        for start, length in there:
            if not length or start < first or start + length > stop:
                raise InputError(
                    file, f"is damaged: it names a chunk of {length} bytes at {start}, "
                    f"but its chunks lie from {first} to {stop}; {_AGAIN}",
                )  # fmt: skip
        for (start, length), (other, _) in itertools.pairwise(sorted(there)):
            if start + length > other:
                raise InputError(
                    file, f"is damaged: two of its chunks share bytes from {other} on; {_AGAIN}"
                )
        if part is None:
            yield from (data[start : start + length] for start, length in there)


def _check_version(file: Path, data: bytes) -> None:
    """Refuse metadata of another version than the name says: zarr would say that there are none."""
    top: list[tuple[str, Any]] = []

    def seen(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        top[:] = pairs  # the outermost object comes last
        return dict(pairs)

    try:
        found = json.loads(data, object_pairs_hook=seen)
    except (ValueError, RecursionError):
        return  # zarr says what it is
    if not isinstance(found, dict):
        return
    anew = f"{_AGAIN}, or save the image anew"
    if len(found) < len(top):
        name, _ = collections.Counter(name for name, _ in top).most_common(1)[0]
        raise InputError(file, f"names {name[:40]!r} more than once; {anew}")
    wanted = _VERSIONS[file.name]
    told = found.get("zarr_format", wanted)
    if told != wanted:
        words = f"says zarr_format {str(told)[:40]}, which is {wanted} in a file of this name"
        raise InputError(file, f"{words}; {anew}")


def _read(file: Path, part: ByteRequest | None) -> bytes:
    """The bytes of a file, or a part of them."""
    with file.open("rb") as stream:
        if isinstance(part, SuffixByteRequest):
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - part.suffix))
        elif isinstance(part, RangeByteRequest):
            stream.seek(part.start)
            return stream.read(part.end - part.start)
        elif isinstance(part, OffsetByteRequest):
            stream.seek(part.offset)
        return stream.read()
