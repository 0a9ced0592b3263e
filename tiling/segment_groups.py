"""Stored segments that are read and decoded together.

Decoding lets go of Python's lock and takes it again for each segment. Where segments are small and
threads are several, waiting for the lock costs more than the decoding; so a thread takes some
neighbours at a time, reads them by one call where they lie in one piece, and places them by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tiling.input_file import InputFile
from tiling.layout import Layout
from tiling.segments import Segments

__all__ = ["Group", "groups_of"]

_TOGETHER = 1 << 18  # decoded bytes of a group, or a single segment
_READ = 1 << 20  # stored bytes that are read by one call

Where = tuple[int, int, int]


@dataclass(frozen=True)
class Group:
    """Tiles side by side, or strips below one another.

    Attributes
    ----------
    plane, down, left
        Index of the first one, as in `Segments`.
    across, height
        How many there are side by side, and below one another; one of them is 1.
    """

    plane: int
    down: int
    left: int
    across: int
    height: int

    def rows(self, layout: Layout) -> int:
        """Pixel rows that are stored in all of them together."""
        downs = range(self.down, self.down + self.height)
        return self.across * sum(layout.segment_rows(down) for down in downs)

    def stored(self, file: InputFile, lists: Segments) -> Iterator[tuple[Where, bytes]]:
        """Index and stored bytes of each."""
        wheres = [
            (self.plane, down, left)
            for down in range(self.down, self.down + self.height)
            for left in range(self.left, self.left + self.across)
        ]
        places = [int(lists.offsets[where]) for where in wheres]
        counts = [int(lists.counts[where]) for where in wheres]
        ends = [place + count for place, count in zip(places, counts, strict=True)]
        if places[1:] != ends[:-1] or ends[-1] - places[0] > _READ:
            for where, place, count in zip(wheres, places, counts, strict=True):
                yield where, file.read(place, count)
            return
        block = file.read(places[0], ends[-1] - places[0])
        for where, place, end in zip(wheres, places, ends, strict=True):
            yield where, block[place - places[0] : end - places[0]]


def groups_of(layout: Layout, start: int, stop: int) -> Iterator[Group]:
    """All segments of rows `start` to `stop` of segments, in groups.

    Parameters
    ----------
    layout
        Of the page.
    start, stop
        Rows of segments, half open.
    """
    most = max(1, _TOGETHER // (layout.rows * layout.row_bytes))
    for plane in range(layout.planes):
        if layout.across == 1:
            for down in range(start, stop, most):
                yield Group(plane, down, 0, 1, min(most, stop - down))
            continue
        for down in range(start, stop):
            for left in range(0, layout.across, most):
                yield Group(plane, down, left, min(most, layout.across - left), 1)
