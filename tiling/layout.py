"""How the pages of a TIFF store their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tiling.ifd import Tag

__all__ = ["Layout", "Page"]


@dataclass(frozen=True)
class Layout:
    """How one page stores its pixels.

    Parameters
    ----------
    width, height, samples, bits
        Pixels, channels, and bits of one sample.
    kind
        "b" (1 bit), "u", "i" or "f".
    photometric
        "miniswhite", "minisblack" or "rgb".
    planar
        Each channel in segments of its own.
    compression, predictor
        TIFF numbers.
    tiled
        Tiles, not strips.
    rows, columns
        Size of one full segment in pixels.
    signed
        16 bits without a sign that stand for numbers less by 32768: so ImageJ keeps signed ones.
    """

    width: int
    height: int
    samples: int
    bits: int
    kind: Literal["b", "u", "i", "f"]
    photometric: Literal["miniswhite", "minisblack", "rgb"]
    planar: bool
    compression: int
    predictor: int
    tiled: bool
    rows: int
    columns: int
    signed: bool = False

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Pixel type in native byte order; bool for 1 bit."""
        kind = "i" if self.signed else self.kind
        return np.dtype(bool if kind == "b" else f"{kind}{self.bits // 8}")

    @property
    def down(self) -> int:
        """Rows of segments."""
        return -(-self.height // self.rows)

    @property
    def across(self) -> int:
        """Segments side by side."""
        return -(-self.width // self.columns)

    @property
    def planes(self) -> int:
        """Sets of segments: one, or one for each channel."""
        return self.samples if self.planar else 1

    @property
    def row_bytes(self) -> int:
        """Stored bytes of one pixel row of one segment."""
        return -(-self.columns * (1 if self.planar else self.samples) * self.bits // 8)

    @property
    def page_bytes(self) -> int:
        """Decoded bytes of the page in memory."""
        return self.height * self.width * self.samples * self.dtype.itemsize

    def segment_rows(self, down: int) -> int:
        """Pixel rows stored in segments of row `down`: the last strips are cut, tiles are not."""
        return self.rows if self.tiled else min(self.rows, self.height - down * self.rows)


@dataclass(frozen=True, slots=True)
class Page:
    """Layout of one page, where its segment lists lie in the file, and its directory's bytes."""

    layout: Layout
    ifd_page: int
    order: Literal["<", ">"]
    offsets: Tag
    counts: Tag
    directory: tuple[int, int]
    shift: int = 0
