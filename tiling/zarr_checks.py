"""What the metadata of a Zarr array may ask of us, which chunk is damaged, and what has changed.

Sizes are refused before anything is built per page or per chunk: a few hundred bytes of metadata
can name a million million of them.
Sources: Zarr v2 and v3 core specifications, the v3 codec "sharding_indexed".
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tiling.disk import StrPath
from tiling.faults import InputError
from tiling.ifd import Limits

__all__ = [
    "COMPRESSED", "METADATA", "check_codecs", "check_shape", "folder_state", "inner_chunks",
    "is_zarr_folder", "narrowed",
]  # fmt: skip

_HEADS = ("zarr.json", ".zarray", ".zgroup")  # of an array or a group
METADATA = (*_HEADS, ".zattrs", ".zmetadata")
PLAIN = frozenset({"bytes", "transpose", "crc32c", "sharding_indexed", "shuffle", "delta", "crc32"})
COMPRESSED = frozenset({"gzip", "zlib", "zstd", "blosc", "lz4"})
See = Callable[[os.DirEntry[str]], None]
_SMALL_CHUNK = 256  # pixels; smaller chunks cost more than their pixels


def check_codecs(path: StrPath, metadata: Any) -> frozenset[str]:
    """Names of the codecs of an array, those inside shards too.

    Raises
    ------
    InputError
        One of them is not read; or shards lie within shards, or within another codec.
    """
    if not hasattr(metadata, "codecs"):
        filters = check_chain(path, [str(codec.codec_id) for codec in metadata.filters or ()])
        last = [] if metadata.compressor is None else [str(metadata.compressor.codec_id)]
        if last and COMPRESSED & filters:
            raise _coded_again(path)
        return filters | check_chain(path, last)
    names = check_chain(path, metadata.codecs)
    if "sharding_indexed" not in names:
        return names
    shard, inside = metadata.codecs[0], frozenset[str]()
    if len(metadata.codecs) == 1:
        inside = check_chain(path, shard.codecs) | check_chain(path, shard.index_codecs)
    if len(metadata.codecs) > 1 or "sharding_indexed" in inside:
        raise InputError(
            path, "has shards within shards or within another codec; save it with plain shards"
        )
    return names | inside


def check_chain(path: StrPath, chain: Iterable[Any]) -> frozenset[str]:
    """Names of codecs that are applied one after the other.

    Raises
    ------
    InputError
        One is not read; or what one has compressed is coded again, and could not be bounded.
    """
    names = [codec if isinstance(codec, str) else str(codec.to_dict()["name"]) for codec in chain]
    odd = sorted(set(names) - PLAIN - COMPRESSED)
    if odd:
        known = ", ".join(sorted(COMPRESSED))
        raise InputError(path, f"is compressed with {odd[0][:40]!r}; {known} are read")
    compressed = [place for place, name in enumerate(names) if name in COMPRESSED]
    if compressed and set(names[compressed[0] + 1 :]) - {"crc32c"}:
        raise _coded_again(path)
    return frozenset(names)


def _coded_again(path: StrPath) -> InputError:
    return InputError(path, "is coded again after it was compressed; save it with one compressor")


def inner_chunks(path: StrPath, array: Any, limits: Limits) -> int:
    """Chunks in a shard of an array; 1 where it has no shards.

    Raises
    ------
    InputError
        They are more than `max_chunks`.
    """
    shards = getattr(array, "shards", None)
    if shards is None:
        return 1
    count: int = math.prod(a // b for a, b in zip(shards, array.chunks, strict=True))
    if count > limits.max_chunks:
        raise _too_many(path, array, f"{count} chunks in a shard", limits)
    return count


def check_shape(path: StrPath, array: Any, axes: str, limits: Limits) -> None:
    """Refuse an array of no pixels, or of too many pages, pixels, bytes or chunks.

    Parameters
    ----------
    path
        Its name, for messages.
    array
        The array, its chunks at least 1 wide.
    axes
        One letter for each of its axes, ending in "YX".
    limits
        See `Limits`.

    Raises
    ------
    InputError
        The message names the limit.
    """
    shape, chunks = array.shape, array.chunks
    if min(shape) < 1:
        raise InputError(path, f"has shape {shape}; every side must be 1 at least")
    inside = [n for n, axis in enumerate(axes) if axis in "CX"]
    pages = math.prod(side for side, axis in zip(shape, axes, strict=True) if axis not in "CYX")
    if pages > limits.max_pages:
        raise InputError(
            path, f"has {pages} pages, above max_pages {limits.max_pages}; "
            "cut it into images of fewer pages",
        )  # fmt: skip
    if shape[-2] * shape[-1] > limits.max_pixels:
        raise InputError(
            path, f"has {shape[-2]} x {shape[-1]} pixels a page, above max_pixels "
            f"{limits.max_pixels}; cut it into smaller images",
        )  # fmt: skip
    held = math.prod(shape[n] for n in inside) * chunks[-2] * int(array.dtype.itemsize)
    if held > limits.max_bytes:
        raise InputError(
            path, f"has shape {shape}, {held} bytes in a row of chunks; "
            f"rows of 1 to {limits.max_bytes} bytes are read (max_bytes)",
        )  # fmt: skip
    counts = [-(-side // chunk) for side, chunk in zip(shape, chunks, strict=True)]
    across = math.prod(counts[n] for n in inside)
    if across > limits.max_chunks:
        raise _too_many(path, array, f"{across} chunks in a row of them", limits)
    total = math.prod(counts)
    if total > limits.max_chunks and math.prod(shape) < total * _SMALL_CHUNK:
        words = f"{total} chunks of less than {_SMALL_CHUNK} pixels"
        raise _too_many(path, array, words, limits)


def _too_many(path: StrPath, array: Any, words: str, limits: Limits) -> InputError:
    sides = " x ".join(map(str, array.chunks))
    return InputError(
        path, f"has {words} ({sides} each), above max_chunks {limits.max_chunks}; "
        "save it in larger chunks, 256 x 256 for instance",
    )  # fmt: skip


def narrowed(array: Any, where: tuple[Any, ...]) -> tuple[Any, ...]:
    """The part of `where` that lies in one stored file and cannot be decoded, found by halving.

    Parameters
    ----------
    array
        The array.
    where
        An index of integers and slices without steps, whose pixels cannot be decoded.
    """
    cells = getattr(array, "shards", None) or array.chunks
    while (halves := _halved(where, cells)) is not None:
        try:
            array[halves[0]]
            where = halves[1]
        except Exception:  # noqa: BLE001 - whatever it is: the damage is in this half
            where = halves[0]
    return where


def _halved(
    where: tuple[Any, ...], cells: tuple[int, ...]
) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
    for n, (part, cell) in enumerate(zip(where, cells, strict=True)):
        if isinstance(part, slice):
            first, last = part.start // cell, -(-part.stop // cell)
            if last - first > 1:
                middle = (first + last) // 2 * cell
                before, after = slice(part.start, middle), slice(middle, part.stop)
                return (*where[:n], before, *where[n + 1 :]), (*where[:n], after, *where[n + 1 :])
    return None


def is_zarr_folder(folder: Path) -> bool:
    """Whether the metadata of a Zarr array or group lie in a folder."""
    return any((folder / name).is_file() for name in _HEADS)


def folder_state(root: str, inside: str, see: See | None = None) -> int:
    """A number that changes when the array `inside` of a Zarr, or metadata above it, is touched.

    It is the sum of a hash of name, inode, size and time of each file: memory does not grow with
    their number. A folder that is not there adds nothing. `see` is shown each file of the array.
    """
    found, above, names = 0, root, [name for name in inside.split("/") if name]
    for name in names:
        found += sum(_marks(above))
        above = os.path.join(above, name)  # noqa: PTH118 - a thousand files a band
    folders = [above]
    while folders:
        found += sum(_marks(folders.pop(), see or (lambda _: None), folders))
    return found & ((1 << 64) - 1)


def _marks(folder: str, see: See | None = None, folders: list[str] | None = None) -> Iterator[int]:
    """A number for each file of a folder, or of Zarr's metadata where nobody is to see them."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if folders is not None:
                        folders.append(entry.path)
                elif see is not None or entry.name in METADATA:
                    now = entry.stat(follow_symlinks=False)
                    yield hash((entry.path, now.st_ino, now.st_size, now.st_mtime_ns))
                    if see is not None:
                        see(entry)
    except FileNotFoundError:
        return
