"""PNG images read strictly: chunks checked here, pixels unfiltered by Pillow.

Grey of 1, 8 or 16 bits and RGB(A) of 8 bits are read as stored (no gamma, no colour profile). Grey
with alpha is read as grey where the alpha is opaque everywhere. Palettes, transparency, animations,
16-bit colour and images that Exif data turn are refused.
Source: PNG specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.decode import DeflateStream
from tiling.disk import StrPath
from tiling.faults import InputError
from tiling.ifd import Limits
from tiling.input_file import ANEW, InputFile, as_input_error
from tiling.rows import check_bytes

__all__ = ["is_png", "png_shape", "read_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {(0, 1): 1, (0, 8): 1, (0, 16): 1, (2, 8): 3, (4, 8): 2, (6, 8): 4}
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
_SMALL = 1 << 24
_READ = 1 << 20
_OTHER = 1 << 26  # bytes of a file that are no pixels: texts, colour profiles, thumbnails


def is_png(path: StrPath) -> bool:
    """Whether the file begins like a PNG, whatever its name.

    Raises
    ------
    InputError
        There is no such file, or it is not an ordinary one.
    """
    with InputFile(path) as file:
        return file.read(0, min(len(SIGNATURE), file.size)) == SIGNATURE


def read_png(path: StrPath, *, limits: Limits | None = None) -> npt.NDArray[Any]:
    """Pixels of a PNG, shape (1, H, W), or (1, C, H, W) for RGB(A); bool, uint8 or uint16.

    Parameters
    ----------
    path
        An ordinary file.
    limits
        As for TIFF files.

    Raises
    ------
    InputError
        The file is damaged, cut off, or of a kind that is not read.
    """
    limits = limits or Limits()
    with InputFile(path) as file, as_input_error(file.path):
        header, pieces = _chunks(file, limits)
        size = _checked_size(file, header, limits)
        stream = DeflateStream(file.path, 0, iter(pieces), size)
        left = size
        while left:  # only to know that all of it is there
            left -= len(stream.read(min(left, _READ)))
        pixels = _by_pillow(file.path, header, pieces)
        file.check_unchanged()
    return np.moveaxis(pixels, 2, 0)[None].copy() if pixels.ndim == 3 else pixels[None]


def png_shape(path: StrPath) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that `read_png` would give, from the header: no pixel is decoded.

    Parameters
    ----------
    path
        An ordinary file.

    Raises
    ------
    InputError
        The file is cut off, its chunks are damaged, or it is of a kind that is not read.
    """
    with InputFile(path) as file, as_input_error(file.path):
        header, _ = _chunks(file, Limits())
    width, height, bits, colour = struct.unpack(">IIBB", header[:10])
    samples = {2: (3,), 6: (4,)}.get(colour, ())
    return (1, *samples, height, width), _dtype(bits)


def _dtype(bits: int) -> np.dtype[Any]:
    return np.dtype({1: np.bool_, 8: np.uint8, 16: np.uint16}[bits])


def _chunks(file: InputFile, limits: Limits) -> tuple[bytes, list[bytes]]:
    """The header's 13 bytes and the pieces of compressed pixels, every checksum verified."""
    if file.read(0, min(8, file.size)) != SIGNATURE:
        raise InputError(file.path, "is not a PNG file; convert it to PNG or TIFF")
    header, before, size = b"", b"", 0
    pieces: list[bytes] = []
    for kind, data in _each_chunk(file):
        if (kind == b"IHDR") != (not header):
            raise InputError(file.path, f"is damaged: its header is not the first chunk; {ANEW}")
        if kind == b"IHDR":
            header = data
            size = _checked_size(file, header, limits)
            if file.size > 2 * size + _OTHER:  # what is read next is held in memory
                raise InputError(
                    file.path,
                    f"has {file.size} bytes for {size} bytes of pixels; save it as a plain PNG",
                )
        elif kind == b"IDAT":
            if pieces and before != kind:
                raise InputError(
                    file.path, f"is damaged: chunk {before!r} parts its pixels; {ANEW}"
                )
            pieces.append(data)
        elif kind == b"IEND":
            _check_ratio(file, size, sum(map(len, pieces)), limits)
            return header, pieces
        elif kind in (b"acTL", b"tRNS") or (kind[0] & 32 == 0 and kind != b"PLTE"):
            what = {b"acTL": "an animation", b"tRNS": "transparency"}.get(kind, f"chunk {kind!r}")
            raise InputError(file.path, f"holds {what}; save it as a plain PNG or TIFF")
        elif kind == b"eXIf" and 2 <= _orientation(data) <= 8:
            raise InputError(
                file.path,
                f"has orientation {_orientation(data)} in its Exif data, so that viewers turn or "
                "mirror it; save it with orientation 1",
            )
        before = kind
    raise InputError(file.path, f"is cut off: it has no end; {ANEW}")


def _each_chunk(file: InputFile) -> Iterator[tuple[bytes, bytes]]:
    place = len(SIGNATURE)
    while place < file.size:
        length, kind = struct.unpack(">I4s", file.read(place, 8))
        if place == len(SIGNATURE) and length > _READ:
            raise InputError(file.path, f"is damaged: its header makes no sense; {ANEW}")
        data = file.read(place + 8, length)
        (checksum,) = struct.unpack(">I", file.read(place + 8 + length, 4))
        if zlib.crc32(data, zlib.crc32(kind)) != checksum:
            raise InputError(file.path, f"is damaged: checksum of chunk {kind!r} is wrong; {ANEW}")
        yield kind, data
        place += length + 12


def _orientation(exif: bytes) -> int:
    """How the image is to be turned; 1, not at all, where the first directory does not say."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (start,) = struct.unpack(order + "I", exif[4:8])
    (count,) = struct.unpack(order + "H", exif[start : start + 2].ljust(2, b"\0"))
    entries = exif[start + 2 : start + 2 + 12 * count]
    for entry in range(0, len(entries) - 11, 12):
        number, kind, values, value = struct.unpack_from(order + "HHIH", entries, entry)
        if (number, kind, values) == (274, 3, 1):
            return int(value)
    return 1


def _checked_size(file: InputFile, header: bytes, limits: Limits) -> int:
    """Decompressed bytes that the header asks for, within the limits."""
    if len(header) != 13:
        raise InputError(file.path, f"is damaged: its header makes no sense; {ANEW}")
    width, height, bits, colour, method, filtering, interlaced = struct.unpack(">IIBBBBB", header)
    samples = _SAMPLES.get((colour, bits))
    if samples is None:
        name = _COLOURS.get(colour, f"colour type {colour}")
        raise InputError(
            file.path, f"is {bits}-bit {name}; save it as 8- or 16-bit grey or 8-bit RGB"
        )
    if not width or not height or method or filtering or interlaced > 1:
        raise InputError(file.path, f"is damaged: its header makes no sense; {ANEW}")
    if width * height > limits.max_pixels:
        raise InputError(
            file.path,
            f"has {width} x {height} pixels, above max_pixels {limits.max_pixels}; "
            "cut it into smaller images",
        )
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    size = 0
    for x, y, dx, dy in passes:
        columns, rows = max(-(-(width - x) // dx), 0), max(-(-(height - y) // dy), 0)
        size += rows * (1 + -(-columns * samples * bits // 8)) if columns else 0
    check_bytes(file.path, 3 * size, limits)
    return size


def _check_ratio(file: InputFile, size: int, stored: int, limits: Limits) -> None:
    if not stored:
        raise InputError(file.path, f"is damaged: no header or no pixels; {ANEW}")
    if size > _SMALL and size > stored * limits.max_ratio:
        raise InputError(
            file.path,
            f"decodes to {size / stored:.0f} times its size, above max_ratio {limits.max_ratio:g}; "
            "save it as TIFF",
        )


def _by_pillow(path: str, header: bytes, pieces: list[bytes]) -> npt.NDArray[Any]:
    """Pixels as Pillow sees the chunks that matter, shape (H, W) or (H, W, C)."""
    try:
        from PIL.PngImagePlugin import PngImageFile
    except ImportError as error:
        raise InputError(path, "is a PNG, which needs Pillow: pip install pillow") from error
    plain = io.BytesIO()
    plain.write(SIGNATURE)
    for kind, data in ((b"IHDR", header), *((b"IDAT", piece) for piece in pieces), (b"IEND", b"")):
        checksum = zlib.crc32(data, zlib.crc32(kind))
        plain.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))
    plain.seek(0)
    with PngImageFile(plain) as image:
        pixels = np.array(image)
    width, height, bits = struct.unpack(">IIB", header[:9])
    if pixels.shape[:2] != (height, width):
        raise InputError(
            path,
            f"was decoded to shape {pixels.shape}, not {(height, width)}; save it anew or as TIFF",
        )
    if header[9] == 4:
        if (pixels[..., 1] != 255).any():
            raise InputError(path, "is grey with transparent pixels; save it as plain grey")
        pixels = pixels[..., 0]
    return pixels.astype(_dtype(bits), copy=False)
