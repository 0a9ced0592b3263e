"""Runs of uncompressed segments that lie one behind the other in the file, each read by one call.

A file may store each row, or each pixel, as a segment of its own. One call for each of them takes
longer than all else; so strips in a row are one piece here, and small tiles side by side. The
tiniest are picked out of all that lies between the first and the last of them, in any order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.decode import to_pixels
from tiling.input_file import InputFile
from tiling.layout import Layout, Page
from tiling.segment_groups import Group
from tiling.segment_lists import FEW_BYTES
from tiling.segments import Segments

__all__ = ["Run", "gathered", "runs_of"]

_PIECE = 1 << 20  # bytes of pixels that are read by one call, or one row of them
_SMALL_TILE = 1 << 16  # larger ones are read one by one, and only the rows that are wanted
_SPREAD = 8  # bytes that may be read for each byte of scattered segments
_LEAST = 1 << 16  # and so many in any case
_MOST = 1 << 22  # bytes of scattered segments that are picked out at a time


@dataclass(frozen=True, slots=True)
class Run:
    """Pixels that are read by one call.

    Attributes
    ----------
    group
        Tiles side by side, or a piece of a column of strips or tiles, told by the first of them.
    start, stop
        Pixel rows of the page that they give.
    stored
        Pixel rows that are read, all tiles together.
    place
        First byte in the file.
    """

    group: Group
    start: int
    stop: int
    stored: int
    place: int


def runs_of(layout: Layout, lists: Segments, start: int, stop: int) -> Iterator[Run]:
    """The runs that hold pixel rows `start` to `stop` of a page, none beyond some megabytes."""
    first, last = start // layout.rows, -(-stop // layout.rows)
    for plane in range(layout.planes):
        offsets = lists.offsets[plane, first:last]
        if layout.across == 1:
            yield from _column(layout, offsets[:, 0], plane, start, stop)
            continue
        for down, row in enumerate(offsets, start=first):
            top = down * layout.rows
            y0, y1 = max(start, top), min(stop, top + layout.rows)
            whole = y0 == top and y1 == min(top + layout.rows, layout.height)
            if whole and layout.rows * layout.row_bytes <= _SMALL_TILE:
                yield from _side_by_side(layout, row, plane, down, y1)
            else:
                for left, place in enumerate(row.tolist()):
                    yield from _cut(layout, Group(plane, down, left, 1, 1), y0, y1, place)


def gathered(
    file: InputFile, page: Page, lists: Segments, start: int, stop: int
) -> npt.NDArray[Any] | None:
    """The same rows from tiny segments near one another, as pixels; None where they are not such.

    Returns
    -------
    ndarray or None
        Shape (samples, stop - start, W).
    """
    layout = page.layout
    rows, length = layout.rows, layout.rows * layout.row_bytes
    if length >= FEW_BYTES or not (layout.tiled or layout.height % rows == 0):
        return None
    first, last = start // rows, -(-stop // rows)
    places = lists.offsets[:, first:last]
    low, needed = places.min(), places.size * length
    span = int(places.max() - low) + length
    if needed > _MOST or span > max(_SPREAD * needed, _LEAST):
        return None
    block = np.frombuffer(file.read(int(low), span), np.uint8)
    planes = []
    for plane in places:
        index = (plane.reshape(-1, 1) - low).astype(np.intp) + np.arange(length)
        pixels = to_pixels(block[index].tobytes(), layout, page.order, plane.size * rows)
        tiles = pixels.reshape(-1, *plane.shape, rows, layout.columns).swapaxes(2, 3)
        whole = tiles.reshape(tiles.shape[0], plane.shape[0] * rows, -1)
        planes.append(whole[:, start - first * rows : stop - first * rows, : layout.width])
    return np.concatenate(planes)


def _column(
    layout: Layout, offsets: npt.NDArray[np.uint64], plane: int, start: int, stop: int
) -> Iterator[Run]:
    """Runs of segments below one another; `offsets` begin with that of row `start`."""
    first = start // layout.rows
    for one, behind in _unbroken(offsets, layout.rows * layout.row_bytes):
        y0, y1 = max(start, (first + one) * layout.rows), min(stop, (first + behind) * layout.rows)
        group = Group(plane, first + one, 0, 1, 1)
        yield from _cut(layout, group, y0, y1, int(offsets[one]))


def _cut(layout: Layout, group: Group, start: int, stop: int, place: int) -> Iterator[Run]:
    """Rows of segments that begin at `place` with the first row of the group, not too many each."""
    top, longest = group.down * layout.rows, max(1, _PIECE // layout.row_bytes)
    for y in range(start, stop, longest):
        end = min(stop, y + longest)
        yield Run(group, y, end, end - y, place + (y - top) * layout.row_bytes)


def _side_by_side(
    layout: Layout, offsets: npt.NDArray[np.uint64], plane: int, down: int, stop: int
) -> Iterator[Run]:
    """Runs of whole small tiles of one row of tiles, which end at pixel row `stop` of the page."""
    length = layout.rows * layout.row_bytes
    for one, behind in _unbroken(offsets, length):
        for left in range(one, behind, _PIECE // length):
            across = min(behind - left, _PIECE // length)
            group = Group(plane, down, left, across, 1)
            top, place = down * layout.rows, int(offsets[left])
            yield Run(group, top, stop, across * layout.rows, place)


def _unbroken(offsets: npt.NDArray[np.uint64], length: int) -> Iterator[tuple[int, int]]:
    """First segment of each run of segments of `length` bytes, and the one behind it."""
    breaks = np.flatnonzero(offsets[1:] != offsets[:-1] + np.uint64(length)) + 1
    return itertools.pairwise([0, *breaks.tolist(), offsets.size])
