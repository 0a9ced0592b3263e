"""How much a compressed chunk inflates to, from what it says or by counting, never by keeping it.

Sources: RFC 1950, 1952 and 8878; the c-blosc 1 header; the codec lz4 of numcodecs.
"""

from __future__ import annotations

import zlib

__all__ = ["inflated"]

_DEFLATE_RATIO = 1032  # of deflate at most
_ZSTD, _ZSTD_SKIPPED = 0xFD2FB528, range(0x184D2A50, 0x184D2A60)


def inflated(data: bytes, codec: str, ceiling: int) -> int:
    """Bytes that a stream inflates to, or any number above `ceiling`; 0 where it is no such one."""
    if codec == "blosc":
        return int.from_bytes(data[4:8], "little") if len(data) >= 16 else 0
    if codec == "lz4":
        return int.from_bytes(data[:4], "little")
    if codec == "zstd":
        return _zstd_size(data, ceiling)
    if codec in ("gzip", "zlib") and len(data) * _DEFLATE_RATIO > ceiling:
        return _deflated_size(data, ceiling)
    return 0


def _deflated_size(data: bytes, ceiling: int) -> int:
    """Bytes of all deflate streams in `data`, counted without keeping them."""
    size, rest = 0, data
    while rest and size <= ceiling:
        stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # with the header of zlib or of gzip
        try:
            while not stream.eof and size <= ceiling:
                found = len(stream.decompress(rest, 1 << 20))
                size, rest = size + found, stream.unconsumed_tail
                if not found and not rest:
                    break
        except zlib.error:
            return size  # zarr's decoder will say so
        rest = stream.unused_data
    return size


def _zstd_size(data: bytes, ceiling: int) -> int:
    """Bytes that the frames of Zstandard announce, one behind the other; 0 for no such data."""
    total = place = 0
    while place < len(data):
        magic = int.from_bytes(data[place : place + 4], "little")
        if magic in _ZSTD_SKIPPED:
            place += 8 + int.from_bytes(data[place + 4 : place + 8], "little")
            continue
        if magic != _ZSTD or len(data) < place + 6:
            return total  # the decoder will say so
        flags = data[place + 4]
        single = flags >> 5 & 1
        start = place + 5 + (not single) + (0, 1, 2, 4)[flags & 3]
        width = (single, 2, 4, 8)[flags >> 6]
        if not width:  # the frame does not say: all is decoded once to know
            return _zstd_counted(data, ceiling)
        total += int.from_bytes(data[start : start + width], "little") + 256 * (width == 2)
        place, last = start + width, 0
        while not last and place < len(data):
            block = int.from_bytes(data[place : place + 3], "little")
            last, stored = block & 1, 1 if block >> 1 & 3 == 1 else block >> 3
            place += 3 + stored
        place += 4 * (flags >> 2 & 1)
    return total


def _zstd_counted(data: bytes, ceiling: int) -> int:
    try:
        from imagecodecs import zstd_decode
    except ImportError:
        return ceiling + 1
    try:
        return len(zstd_decode(data, out=ceiling))
    except Exception:  # noqa: BLE001 - damaged, or too large: both are refused
        return ceiling + 1
