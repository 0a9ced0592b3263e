"""The bytes of a tiled BigTIFF around its pixels: header, directories, description.

Pixels come first in the file, in the order they are made; the directories follow, and at last the
header is pointed at them. So a file can be written in one pass, taken up after an interruption,
and depends on nothing but its content. Reduced levels hang below their page as SubIFDs, as
OME-TIFF has them. Source: TIFF 6.0; BigTIFF as in libtiff 4; OME-TIFF specification 6.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.meaning import Meaning, Resolution
from tiling.ome import ome_xml

__all__ = ["HEADER_BYTES", "Layout", "Level", "description", "directories", "header"]

HEADER_BYTES = 16
COMPRESSIONS = {"none": 1, "deflate": 8, "zstd": 50000}
_SHORT, _LONG, _ASCII, _RATIONAL, _LONG8, _IFD8 = 3, 4, 2, 5, 16, 18
_CODES = {_SHORT: "<u2", _LONG: "<u4", _LONG8: "<u8", _IFD8: "<u8"}
_VALUE_BYTES = {_SHORT: 2, _LONG: 4, _ASCII: 1, _RATIONAL: 8, _LONG8: 8, _IFD8: 8}
_SAMPLE_FORMATS = {"u": 1, "b": 1, "i": 2, "f": 3}
_PER_CM = {"um": 1e4, "nm": 1e7, "mm": 10.0, "cm": 1.0, "m": 0.01}
_MAX_DESCRIPTION = 60_000  # what our reader and others are sure to look at


@dataclass(frozen=True)
class Layout:
    """How pixels lie in the file.

    Parameters
    ----------
    shape
        (..., H, W); every leading index is one page of one channel.
    dtype
        Pixel type; bool is stored as uint8.
    compression
        "deflate", "zstd" or "none".
    tile
        Side of a tile, a multiple of 16.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    compression: str
    tile: int

    @property
    def images(self) -> int:
        """Number of directories."""
        return math.prod(self.shape[:-2])

    @property
    def down(self) -> int:
        """Tile rows of one image."""
        return -(-self.shape[-2] // self.tile)

    @property
    def across(self) -> int:
        """Tile columns of one image."""
        return -(-self.shape[-1] // self.tile)


@dataclass(frozen=True)
class Level:
    """Where the tiles of one level lie.

    Parameters
    ----------
    layout
        How its pixels are stored.
    offsets, counts
        Place and length of each tile, (images, down * across).
    """

    layout: Layout
    offsets: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.uint32]

    @classmethod
    def empty(cls, layout: Layout) -> Level:
        """A level none of whose tiles is there yet."""
        tiles = layout.images, layout.down * layout.across
        return cls(layout, np.zeros(tiles, np.uint64), np.zeros(tiles, np.uint32))


def header(directory: int) -> bytes:
    """The 16 bytes a little-endian BigTIFF begins with; `directory` is where page 0 lies."""
    return struct.pack("<2sHHHQ", b"II", 43, 8, 0, directory)


def description(
    shape: tuple[int, ...],
    meaning: Meaning,
    provenance: Mapping[str, Any],
    *,
    ome_type: np.dtype[Any] | None = None,
) -> str:
    """Compact JSON of shape, axes and channels (as tifffile reads them) and what made the file.

    Parameters
    ----------
    shape, meaning, provenance
        Of the finest level.
    ome_type
        Where a type of pixels is given, OME-XML of the same content is returned instead.

    Examples
    --------
    >>> description((2, 5, 7), Meaning(axes="CYX"), {"seed": 1})
    '{"shape":[2,5,7],"axes":"CYX","unet2015":{"seed":1}}'
    """
    found: dict[str, Any] = {"shape": list(shape), "axes": meaning.axes}
    if meaning.channels:
        found["Channel"] = {"Name": list(meaning.channels)}
    if meaning.z_step and meaning.resolution is not None:
        found["PhysicalSizeZ"] = meaning.z_step
        found["PhysicalSizeZUnit"] = meaning.resolution[2]
    if provenance:
        found["unet2015"] = dict(provenance)
    text = json.dumps(found, separators=(",", ":"), allow_nan=False)
    if ome_type is not None:
        text = ome_xml(shape, ome_type, meaning, json.dumps(provenance, separators=(",", ":")))
    if len(text) > _MAX_DESCRIPTION:
        raise ValueError(
            f"provenance of {len(text)} characters is more than the {_MAX_DESCRIPTION} that "
            "readers of TIFF descriptions are sure to take; shorten it"
        )
    return text


def directories(
    levels: Sequence[Level], texts: Sequence[str], resolution: Resolution | None, start: int
) -> tuple[int, bytes]:
    """Where page 0's directory lies, and all bytes that follow the pixels.

    Parameters
    ----------
    levels
        The image and its reduced levels, the finest first.
    texts
        Image description of page 0 of each level; "" for none.
    resolution
        Pixels per unit in x and y, and the unit ("um", "cm", "inch", ..., "" if unknown).
    start
        Where the pixels end; a multiple of 8.
    """
    finest = levels[0].layout
    blob = bytearray()
    pages = []
    for image in range(finest.images):
        below = []
        for number, (level, text) in enumerate(zip(levels[1:], texts[1:], strict=True), 1):
            tags = _tags(level, image, _coarser(resolution, number), reduced=1)
            _describe(tags, text if image == 0 else "")
            entries = _entries(tags, blob, start)
            below.append(start + len(blob))
            blob += struct.pack("<Q", len(entries) // 20) + entries + struct.pack("<Q", 0)
            blob += b"\0" * (-len(blob) % 8)
        tags = _tags(levels[0], image, resolution)
        if below:
            tags[330] = (_IFD8, below)
        _describe(tags, texts[0] if image == 0 else "")
        pages.append(_entries(tags, blob, start))
    first = place = start + len(blob)
    for number, entries in enumerate(pages):
        place += 8 + len(entries) + 8
        following = place if number + 1 < len(pages) else 0
        blob += struct.pack("<Q", len(entries) // 20) + entries + struct.pack("<Q", following)
    return first, bytes(blob)


def _describe(tags: dict[int, tuple[int, Any]], text: str) -> None:
    if text:
        tags[270] = (_ASCII, text.encode("utf-8") + b"\0")


def _coarser(resolution: Resolution | None, halvings: int) -> Resolution | None:
    if resolution is None:
        return None
    x, y, unit = resolution
    return x / (1 << halvings), y / (1 << halvings), unit


def _tags(
    level: Level, image: int, resolution: Resolution | None, *, reduced: int = 0
) -> dict[int, tuple[int, Any]]:
    """Field type and values of each tag of one page of a level."""
    layout = level.layout
    kind = np.dtype(layout.dtype)
    tags: dict[int, tuple[int, Any]] = {
        254: (_LONG, [reduced]),  # 1: a smaller version of another image
        256: (_LONG, [layout.shape[-1]]),
        257: (_LONG, [layout.shape[-2]]),
        258: (_SHORT, [kind.itemsize * 8]),
        259: (_SHORT, [COMPRESSIONS[layout.compression]]),
        262: (_SHORT, [1]),  # black is zero
        277: (_SHORT, [1]),
        284: (_SHORT, [1]),
        305: (_ASCII, b"unet2015\0"),
        322: (_LONG, [layout.tile]),
        323: (_LONG, [layout.tile]),
        324: (_LONG8, level.offsets[image]),
        325: (_LONG, level.counts[image]),
        339: (_SHORT, [_SAMPLE_FORMATS[kind.kind]]),
    }
    if resolution is not None:
        x, y, unit = resolution
        factor = _PER_CM.get(unit, 1.0)
        tags[282] = (_RATIONAL, _rational(x * factor))
        tags[283] = (_RATIONAL, _rational(y * factor))
        tags[296] = (_SHORT, [3 if unit in _PER_CM else 2 if unit == "inch" else 1])
    return tags


def _rational(value: float) -> bytes:
    """The nearest fraction of two 32-bit numbers, neither of them 0."""
    largest = 2**32 - 1
    near = Fraction(value).limit_denominator(max(1, int(largest / max(value, 1.0))))
    return struct.pack("<II", min(max(near.numerator, 1), largest), near.denominator)


def _entries(tags: dict[int, tuple[int, Any]], blob: bytearray, start: int) -> bytes:
    """The 20-byte entries of one directory; values that do not fit in one go to `blob`."""
    entries = bytearray()
    for number, (kind, values) in sorted(tags.items()):
        data = values if isinstance(values, bytes) else np.asarray(values, _CODES[kind]).tobytes()
        place = data.ljust(8, b"\0")
        if len(data) > 8:
            place = struct.pack("<Q", start + len(blob))
            blob += data + b"\0" * (-len(data) % 8)
        entries += struct.pack("<HHQ", number, kind, len(data) // _VALUE_BYTES[kind]) + place
    return bytes(entries)
