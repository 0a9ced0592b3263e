"""Stored bytes of a TIFF segment to pixels, never more of them than the page has.

Deflate goes through libdeflate where the package imagecodecs has it, and through `zlib` where not
or where something is wrong; LZW, PackBits and zstd through tifffile's table of codecs, which is
that package too. Predictors: TIFF 6.0 section 14; TIFF Technical Note 3 (floats).
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tiling.codec import libdeflate
from tiling.faults import InputError
from tiling.input_file import ANEW
from tiling.layout import Layout
from tiling.lzw import sound_stream, without_last_code
from tiling.pages import CODECS, DEFLATE, DEFLATE_OLD, LZW, NONE

__all__ = ["DeflateStream", "decompress", "is_deflate", "to_pixels"]

_INPUT_BLOCK = 1 << 18
_looked_up = functools.cache(libdeflate)  # once, not for each segment


def is_deflate(compression: int) -> bool:
    """Whether `zlib` reads it."""
    return compression in (DEFLATE, DEFLATE_OLD)


def decompress(path: str, page: int, compression: int, data: bytes, length: int) -> bytes:
    """The `length` bytes that `data` stands for.

    Raises
    ------
    InputError
        The data are damaged, of another length, or imagecodecs is missing.
    """
    if compression == NONE:
        found = data
    elif is_deflate(compression):
        sound = _by_libdeflate(data, length)
        if sound is None:  # zlib is stricter, and can say what is wrong
            return DeflateStream(path, page, iter([data]), length).read(length)
        return sound
    else:
        found = _by_tifffile(path, page, compression, data, length)
    if len(found) != length:
        raise InputError(
            path,
            f"is damaged: a {CODECS[compression]} segment has {_many(found, length)} bytes, "
            f"its pixels need {length}; {ANEW}",
            page=page,
        )
    return found


def _by_libdeflate(data: bytes, length: int) -> bytes | None:
    """The bytes, if they are as many and their checksum holds; None too without imagecodecs."""
    decode = _looked_up("deflate_decode")
    if decode is None:
        return None
    try:
        found = bytes(decode(data, out=length))
    except Exception:  # noqa: BLE001 - of whatever kind: the bytes are looked at again
        return None
    return found if len(found) == length else None


def _many(found: bytes, length: int) -> str:
    return f"more than {length}" if len(found) > length else str(len(found))


def _by_tifffile(path: str, page: int, compression: int, data: bytes, length: int) -> bytes:
    import tifffile

    name = CODECS[compression]
    try:
        codec = tifffile.TIFF.DECOMPRESSORS[compression]
    except KeyError as error:
        raise _lacks_imagecodecs(path, page, name) from error
    if compression == LZW:
        if data[:1] == b"\0" and data[1:2] and data[1] & 1:
            reason = "has LZW in the bit order of before TIFF 6, which is not read; save it anew"
            raise InputError(path, reason, page=page)
        data = sound_stream(data, length)
    try:
        # One byte more than needed, so that too long a segment shows.
        found = bytes(codec(data, out=length + 1))
        # Some encoders (Cell Tracking Challenge files) end a strip with a code of surplus bytes,
        # which libtiff drops too.
        if compression == LZW and len(found) > length:
            shorter = codec(without_last_code(data, length), out=length + 1)
            found = found[:length] if len(shorter) <= length else found
        return found
    except ImportError as error:  # a name that tifffile has for a codec of newer Pythons
        raise _lacks_imagecodecs(path, page, name) from error
    except Exception as error:
        reason = f"is damaged: a {name} segment cannot be decoded; {ANEW}"
        raise InputError(path, reason, page=page) from error


def _lacks_imagecodecs(path: str, page: int, name: str) -> InputError:
    reason = f"is compressed with {name}, which needs the package imagecodecs"
    return InputError(path, f"{reason}: pip install imagecodecs", page=page)


class DeflateStream:
    """Deflated bytes read piece by piece, so that a giant strip needs no memory.

    Parameters
    ----------
    path, page
        For the error text.
    blocks
        The stored bytes, in pieces.
    length
        Decoded bytes that there must be, exactly.

    Examples
    --------
    >>> stream = DeflateStream("a.tif", 0, iter([zlib.compress(b"abcdef")]), 6)
    >>> stream.read(2), stream.read(4)
    (b'ab', b'cdef')
    """

    def __init__(self, path: str, page: int, blocks: Iterator[bytes], length: int) -> None:
        self._path, self._page, self._blocks = path, page, blocks
        self._left = length
        self._stored = b""
        self._zlib = zlib.decompressobj()

    def read(self, length: int) -> bytes:
        """The next `length` bytes; with the last of them the end of the stream is checked."""
        length = min(length, self._left)
        parts = []
        while length:
            part = self._some(length)
            parts.append(part)
            length -= len(part)
            self._left -= len(part)
        if not self._left:
            self._check_end()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _some(self, length: int) -> bytes:
        """Between 1 and `length` decoded bytes."""
        while True:
            if self._zlib.eof:
                raise self._damaged("ends too early")
            try:
                part = self._zlib.decompress(self._stored, length)
                self._stored = self._zlib.unconsumed_tail
                if part:
                    return part
                if not self._stored:
                    self._stored = next(self._blocks)
            except zlib.error as error:
                raise self._damaged("cannot be decoded") from error
            except StopIteration:
                raise self._damaged("ends too early") from None

    def _check_end(self) -> None:
        """The stream's own end and checksum follow, and nothing more comes out."""
        while not self._zlib.eof:
            try:
                more = self._zlib.decompress(self._stored or next(self._blocks), 1)
            except zlib.error as error:
                raise self._damaged("cannot be decoded") from error
            except StopIteration:
                raise self._damaged("has no end") from None
            self._stored = self._zlib.unconsumed_tail
            if more:
                raise self._damaged("holds more than its pixels")

    def _damaged(self, what: str) -> InputError:
        reason = f"is damaged: a deflate segment {what}; {ANEW}"
        return InputError(self._path, reason, page=self._page)


def to_pixels(data: bytes, layout: Layout, order: Literal["<", ">"], rows: int) -> npt.NDArray[Any]:
    """Pixels of `rows` rows of one segment, shape (channels, rows, columns), native byte order.

    Parameters
    ----------
    data
        Decompressed bytes, `rows * layout.row_bytes` of them.
    layout
        The page's layout: predictor, bits, channels; MinIsWhite is inverted here, and
        the sign of ImageJ put back.
    order
        Byte order of the file, "<" or ">".
    rows
        Pixel rows in `data`.
    """
    channels = 1 if layout.planar else layout.samples
    shape = (rows, layout.columns, channels)
    if layout.bits == 1:
        packed = np.frombuffer(data, np.uint8).reshape(rows, layout.row_bytes)
        pixels = np.unpackbits(packed, axis=1, count=layout.columns).view(bool)[..., None]
    elif layout.predictor == 3:
        pixels = _undo_float_predictor(data, layout, shape)
    else:
        pixels = np.frombuffer(data, layout.dtype.newbyteorder(order)).reshape(shape)
        pixels = pixels.astype(layout.dtype, copy=False)
        if layout.predictor == 2:
            pixels = _undo_difference(pixels)
    if layout.signed:
        pixels = pixels ^ np.int16(-32768)  # the upper bit: less by 32768
    if layout.photometric == "miniswhite":
        pixels = ~pixels  # the largest value minus the pixel, for bool and unsigned integers
    return pixels.transpose(2, 0, 1)


def _undo_difference(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Running sum along each row, wrapping around as the writer's differences did."""
    unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
    return np.cumsum(unsigned, axis=1, dtype=unsigned.dtype).view(pixels.dtype)


def _undo_float_predictor(
    data: bytes, layout: Layout, shape: tuple[int, int, int]
) -> npt.NDArray[Any]:
    """Byte differences, then bytes sorted by significance; big-endian whatever the file is."""
    rows, columns, channels = shape
    size = layout.dtype.itemsize
    stored = np.frombuffer(data, np.uint8).reshape(rows, size * columns, channels)
    planes = np.cumsum(stored, axis=1, dtype=np.uint8).reshape(rows, size, columns * channels)
    joined = np.ascontiguousarray(planes.transpose(0, 2, 1))
    return joined.view(f">f{size}").reshape(shape).astype(layout.dtype)
