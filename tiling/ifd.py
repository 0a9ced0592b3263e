"""The directory structure of a TIFF, walked by ourselves with every number checked.

Nothing here decodes a pixel or allocates more than the file's own size suggests. Of the
directories below a page the first few can be looked at (`below`) but are never entered, and
references to other files are never followed.
Source: TIFF 6.0 (Adobe, 1992), BigTIFF as in libtiff 4.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tiling.faults import InputError
from tiling.input_file import ANEW, InputFile

__all__ = [
    "TYPE_BYTES",
    "Ifd",
    "Limits",
    "Tag",
    "below",
    "integer",
    "integers",
    "rational",
    "texts",
    "walk",
]

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
              16: 8, 17: 8, 18: 8}  # fmt: skip
_IFD8 = 18
_INTEGER_TYPES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8"}
_FIRST_PIXEL_BYTE = 8
_MAX_TAGS = 4096
_NEAR = 512  # bytes of a directory of the usual length
_DESCRIPTION, _SUB_IFDS = 270, 330
_MOST_BELOW = 64  # directories of one page that are looked at
_TEXT = 1 << 20  # bytes of it that are looked at
_UTF_16 = {
    "utf-16-le": (b"\xff\xfe", b"<\0?\0", b"<\0O\0"),
    "utf-16-be": (b"\xfe\xff", b"\0<\0?", b"\0<\0O"),
}
# A byte that is no UTF-8, as Python keeps it, is the character of this number, if it is one.
_LATIN_1 = {0xDC00 + byte: chr(byte if byte >= 0xA0 else 0xFFFD) for byte in range(0x80, 0x100)}
_CLASSIC, _BIG = (b"II*\0", b"MM\0*"), (b"II+\0", b"MM\0+")
_MANGLED = "a PNG image that a transfer in text mode has damaged (fetch it again in binary mode)"
_LOOKS_LIKE = {
    b"\x89PNG\r\n\x1a\n": "a PNG image (convert it to TIFF)",
    **dict.fromkeys((b"\x89PNG", b"PNG\r", b"PNG\n"), _MANGLED),  # a tab before the latter two
    b"\xff\xd8\xff": "a JPEG image, whose compression has changed the pixels (take the original; "
    "if there is none, convert it to TIFF or PNG)",
    b"GIF8": "a GIF image (convert it to TIFF or PNG)",
    b"BM": "a BMP image (convert it to TIFF or PNG)",
    b"\x1f\x8b": "gzip-compressed (unpack it first)",
    b"PK\x03\x04": "a zip archive (unpack it first)",
    b"version https://git-lfs": "a Git LFS pointer (fetch the real file with `git lfs pull`)",
    b"<": "a web page or XML text (the download may have failed: fetch it again)",
    b"\x89HDF": "an HDF5 file (export its image as TIFF)",
}


@dataclass(frozen=True)
class Limits:
    """What a file may ask of us, checked before anything is allocated.

    Parameters
    ----------
    max_pixels
        Pixels of one page.
    max_bytes
        Bytes of decoded pixels that one call may hold in memory.
    max_ratio
        Decoded bytes per stored byte of a compressed page or segment (of 16 MiB or more).
    max_pages
        Pages of the file.
    max_chunks
        Chunks of a Zarr in one row of them, in one shard, or of less than 256 pixels in all.
    max_segments
        Strips or tiles of less than 256 bytes of pixels in one page of a TIFF, not counting
        uncompressed ones that lie in a row.
    max_all_segments
        Strips and tiles of all pages of a TIFF.
    """

    max_pixels: int = 1 << 36
    max_bytes: int = 1 << 33
    max_ratio: float = 1100.0
    max_pages: int = 1 << 16
    max_chunks: int = 1 << 16
    max_segments: int = 1 << 16
    max_all_segments: int = 1 << 24


@dataclass(frozen=True, slots=True)
class Tag:
    """One directory entry: field type, number of values, and where in the file they lie."""

    kind: int
    count: int
    start: int


@dataclass(frozen=True, slots=True)
class Ifd:
    """One page's directory: byte order (`<` or `>`), tags by number, page number, where it lies.

    `second` is a second image description, the one tag that may stand twice. `stored` are the bytes
    of the directory, which hold its short values.
    """

    order: Literal["<", ">"]
    tags: dict[int, Tag]
    page: int
    extent: tuple[int, int] = (0, 0)
    second: Tag | None = None
    stored: bytes = b""


def walk(file: InputFile, limits: Limits) -> Iterator[Ifd]:
    """Directories of `file` in their order, each checked.

    Raises
    ------
    InputError
        Not a TIFF; or the chain has a cycle, too many pages, or leaves the file; or a directory
        has no or too many tags, an unknown field type, or a value outside the file.
    """
    order, big, start = _header(file)
    visited: set[int] = set()
    used = 0  # directories that lie apart cannot be longer than the file
    while start:
        page = len(visited)
        if start in visited:
            raise InputError(file.path, f"is damaged: its pages form a cycle; {ANEW}", page=page)
        if page >= limits.max_pages:
            raise InputError(
                file.path,
                f"has more than {limits.max_pages} pages (max_pages); split it into several files",
            )
        visited.add(start)
        ifd, start = _directory(file, start, page, order, big)
        used += len(ifd.tags) * (20 if big else 12)
        if used > file.size:
            raise InputError(file.path, f"is damaged: its pages overlap; {ANEW}", page=page)
        yield ifd
    if not visited:
        raise InputError(file.path, f"is a TIFF without a page: its writer was stopped; {ANEW}")


def below(file: InputFile, ifd: Ifd) -> Iterator[Ifd]:
    """The first directories that the tag SubIFDs of `ifd` names, as far as they can be read.

    Neither their own sub-directories nor what they call the next one are followed.
    """
    tag = ifd.tags.get(_SUB_IFDS)
    kind = "u8" if tag and tag.kind == _IFD8 else _INTEGER_TYPES.get(tag.kind if tag else 0)
    if tag is None or kind is None:
        return
    length = min(tag.count, _MOST_BELOW) * TYPE_BYTES[tag.kind]
    order, big, _ = _header(file)
    for start in np.frombuffer(file.read(tag.start, length), order + kind).tolist():
        with contextlib.suppress(InputError):
            yield _directory(file, start, ifd.page, order, big)[0]


def integers(
    file: InputFile, ifd: Ifd, number: int, name: str, count: int
) -> npt.NDArray[np.uint64]:
    """The `count` values of integer tag `number`, uint64, shape (count,)."""
    data, kind = _stored(file, ifd, number, name, count)
    return np.frombuffer(data, ifd.order + kind).astype(np.uint64)


def _stored(file: InputFile, ifd: Ifd, number: int, name: str, count: int) -> tuple[bytes, str]:
    """The bytes of integer tag `number`, and numpy's name of their type."""
    tag = ifd.tags.get(number)
    if tag is None:
        raise InputError(file.path, f"has no {name} tag; {ANEW}", page=ifd.page)
    kind = _INTEGER_TYPES.get(tag.kind)
    if kind is None or tag.count != count:
        raise InputError(
            file.path,
            f"{name} has {tag.count} values of field type {tag.kind}, "
            f"expected {count} unsigned integers; {ANEW}",
            page=ifd.page,
        )
    size, place = count * TYPE_BYTES[tag.kind], tag.start - ifd.extent[0]
    if 0 <= place <= len(ifd.stored) - size:  # most values lie in the directory itself
        return ifd.stored[place : place + size], kind
    return file.read(tag.start, size), kind


def integer(file: InputFile, ifd: Ifd, number: int, name: str, default: int | None = None) -> int:
    """The single value of integer tag `number`, or `default` where the tag is absent."""
    if number not in ifd.tags and default is not None:
        return default
    data, _ = _stored(file, ifd, number, name, 1)
    return int.from_bytes(data, "little" if ifd.order == "<" else "big")


def texts(file: InputFile, ifd: Ifd) -> list[str]:
    """First megabyte of each image description, without padding; mostly one or none.

    A NUL ends it, save that of ImageJ, whose lines it ends. It is to be UTF-8 (or ASCII); what some
    programs write instead, UTF-16 and Latin-1, is read too.
    """
    tags = [ifd.tags.get(_DESCRIPTION), ifd.second]
    return [
        _decoded(file.read(tag.start, min(tag.count, _TEXT)))
        for tag in tags
        if tag is not None and tag.kind in (1, 2, 7)
    ]


def _decoded(data: bytes) -> str:
    """The characters of a description."""
    for encoding, heads in _UTF_16.items():
        if data.startswith(heads):
            return data.decode(encoding, "replace").lstrip("\ufeff").partition("\0")[0]
    data = data.strip(b"\0")
    lines = data.replace(b"\0", b"\n") if data.lstrip().startswith(b"ImageJ=") else data
    return lines.partition(b"\0")[0].decode("utf-8", "surrogateescape").translate(_LATIN_1)


def rational(file: InputFile, ifd: Ifd, number: int) -> float | None:
    """Positive value of rational tag `number`; None where absent or meaningless."""
    tag = ifd.tags.get(number)
    if tag is None or tag.kind != 5 or tag.count != 1:
        return None
    top, bottom = struct.unpack(ifd.order + "II", file.read(tag.start, 8))
    return top / bottom if top and bottom else None


def _header(file: InputFile) -> tuple[Literal["<", ">"], bool, int]:
    head = file.read(0, min(file.size, 16))
    order: Literal["<", ">"] = "<" if head[:2] == b"II" else ">"
    magic = head[:4]
    if magic in _CLASSIC and len(head) >= 8:
        return order, False, struct.unpack(order + "I", head[4:8])[0]
    if magic in _BIG and len(head) == 16:
        width, zero, start = struct.unpack(order + "HHQ", head[4:16])
        if (width, zero) != (8, 0):
            raise InputError(
                file.path,
                f"is a damaged BigTIFF: it says that its offsets have {width} bytes (they have 8) "
                f"and {zero} after it (0); {ANEW}",
            )
        return order, True, start
    if magic in (*_CLASSIC, *_BIG):
        raise InputError(file.path, f"is a TIFF that is cut off in its header; {ANEW}")
    for beginning, meaning in _LOOKS_LIKE.items():
        if head.lstrip().startswith(beginning[:16]):
            raise InputError(file.path, f"is not a TIFF file but {meaning}")
    raise InputError(
        file.path,
        f"is not a TIFF file (it begins with {head[:4]!r}); "
        "TIFF, PNG and Zarr are read: convert it",
    )


def _directory(
    file: InputFile, start: int, page: int, order: Literal["<", ">"], big: bool
) -> tuple[Ifd, int]:
    """The directory at byte `start`, and where the next one lies (0: there is none)."""
    head, entry, layout, pointer = (8, 20, "HHQQ", "Q") if big else (2, 12, "HHII", "I")
    inline = 8 if big else 4
    if start < _FIRST_PIXEL_BYTE or start + head > file.size:
        raise InputError(
            file.path,
            f"is cut off or damaged: a page is said to be at byte {start}; {ANEW}",
            page=page,
        )
    near = file.read(start, min(_NEAR, file.size - start))  # in one go where it is short
    count = int.from_bytes(near[:head], "little" if order == "<" else "big")
    if not 1 <= count <= _MAX_TAGS:
        raise InputError(
            file.path, f"is damaged: a page with {count} tags (1 to {_MAX_TAGS}); {ANEW}", page=page
        )
    stop = start + head + count * entry + inline
    stored = near[: stop - start] if stop - start <= len(near) else file.read(start, stop - start)
    block = stored[head:]
    tags: dict[int, Tag] = {}
    second: Tag | None = None
    for index, (number, kind, values, place) in enumerate(
        struct.iter_unpack(order + layout, block[: count * entry])
    ):
        size = TYPE_BYTES.get(kind, 0) * values
        again = number in tags
        if kind not in TYPE_BYTES or (again and (number != _DESCRIPTION or second is not None)):
            what = "twice in one page" if again else f"of unknown field type {kind}"
            raise InputError(file.path, f"is damaged: tag {number} {what}; {ANEW}", page=page)
        if size <= inline:
            place = start + head + index * entry + (entry - inline)
        elif place < _FIRST_PIXEL_BYTE or place + size > file.size:
            raise InputError(
                file.path,
                f"is cut off or damaged: tag {number} has {size} bytes at {place}, "
                f"the file ends at {file.size}; {ANEW}",
                page=page,
            )
        if again:
            second = Tag(kind, values, place)
        else:
            tags[number] = Tag(kind, values, place)
    following = struct.unpack(order + pointer, block[count * entry :])[0]
    return Ifd(order, tags, page, (start, stop), second, stored), following
