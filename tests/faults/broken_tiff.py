"""A TIFF written tag by tag, so that each of them can lie."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

CODES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "Q", 7: "B", 13: "I", 16: "Q"}
GREY = {256: (4, 8), 257: (4, 6), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1), 278: (4, 6)}


def tiff(
    *pages: dict[int, tuple[int, Any] | None],
    data: bytes = bytes(range(48)),
    big: bool = False,
    order: str = "<",
    next_page: int | None = None,
) -> bytes:
    """A TIFF with the tags of `GREY` (8 x 6, uint8, one strip), changed by each of `pages`.

    A value is (field type, number or numbers); None removes the tag. The pixels lie at byte 16,
    and strip offset and size fit them unless a page says otherwise or has tiles. `next_page` is
    what the last page points to.
    """
    pages = pages or ({},)
    out = bytearray(16) + bytearray(data)
    links = [4 if not big else 8]
    for page in pages:
        strips = {} if 324 in page else {273: (4, 16), 279: (4, len(data))}
        tags: dict[int, Any] = {**GREY, **strips, **page}
        entries = sorted((n, v) for n, v in tags.items() if v is not None)
        packed = []
        for number, (kind, values) in entries:
            raw = values if isinstance(values, bytes) else struct.pack(
                f"{order}{len(listed(values))}{CODES[kind]}", *listed(values))  # fmt: skip
            count = len(raw) // struct.calcsize(CODES[kind])
            room = 8 if big else 4
            if len(raw) > room:
                place = len(out)
                out += raw
                raw = struct.pack(order + ("Q" if big else "I"), place)
            packed.append(
                struct.pack(order + ("HHQ" if big else "HHI"), number, kind, count)
                + raw.ljust(room, b"\0")
            )
        start = len(out)
        struct.pack_into(order + ("Q" if big else "I"), out, links[-1], start)
        out += struct.pack(order + ("Q" if big else "H"), len(packed)) + b"".join(packed)
        links.append(len(out))
        out += bytes(8 if big else 4)
    if next_page is not None:
        struct.pack_into(order + ("Q" if big else "I"), out, links[-1], next_page)
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(order + "H", 43 if big else 42)
    out[: len(head)] = head
    if big:
        out[4:8] = struct.pack(order + "HH", 8, 0)
    return bytes(out)


def listed(values: Any) -> Sequence[int]:
    return values if isinstance(values, (list, tuple)) else [values]


def first_page(file: bytes) -> int:
    """Where the first directory lies (classic, little-endian)."""
    return int(struct.unpack_from("<I", file, 4)[0])


def deflated(decoded: int) -> bytes:
    """A deflate stream of `decoded` zero bytes."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(decoded >> 20)]
    parts.append(packer.compress(bytes(decoded & ((1 << 20) - 1))))
    return b"".join([*parts, packer.flush()])
