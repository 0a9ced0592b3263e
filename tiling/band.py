"""The rows of an image that the tiles of one band need, kept while the band slides down."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.mirror import Source

__all__ = ["RowBand"]


class RowBand:
    """A source that keeps its last rows in memory, so that each row is read once.

    It slices like the source itself (`band[..., y0:y1, x0:x1]`, coordinates of the whole image),
    as long as the windows move downwards; a window further up is read again. What it returns is a
    view of memory that the next slice may overwrite.

    Parameters
    ----------
    source
        (H, W) or (C, H, W).
    rows
        How many rows to keep: at least the height of the largest window.
    columns
        (x0, x1) outside of which no window will reach; the whole width if not given.

    Examples
    --------
    >>> band = RowBand(np.arange(20).reshape(10, 2), rows=3)
    >>> band[..., 4:6, 0:2]
    array([[[ 8,  9],
            [10, 11]]])
    """

    def __init__(self, source: Source, rows: int, columns: tuple[int, int] | None = None) -> None:
        self._source = source
        self.shape = tuple(int(side) for side in source.shape)
        self.dtype = np.dtype(source.dtype)
        self._left, self._right = columns or (0, self.shape[-1])
        channels = self.shape[0] if len(self.shape) == 3 else 1
        size = (channels, min(rows, self.shape[-2]), self._right - self._left)
        self._memory: npt.NDArray[Any] = np.empty(size, self.dtype.newbyteorder("="))
        self._top = self._bottom = 0

    @property
    def bottom(self) -> int:
        """The row below the last one that is there."""
        return self._bottom

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return int(self._memory.nbytes)

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        """Rows and columns of the image, (C, y1 - y0, x1 - x0)."""
        _, rows, columns = key
        self._slide(rows.start, rows.stop)
        left = self._left
        return self._memory[
            :,
            rows.start - self._top : rows.stop - self._top,
            columns.start - left : columns.stop - left,
        ]

    def read_on(self, bottom: int, goal: int) -> None:
        """Read rows down to `bottom` before a window asks for them.

        Parameters
        ----------
        bottom
            Where to stop now.
        goal
            How far later calls will go on. Old rows make room for all of it at once, so that the
            rest is not moved by every call; the rows that windows still need must fit beside it.
        """
        goal = min(goal, self.shape[-2])
        if self._bottom < min(bottom, goal):
            keep = max(self._top, goal - self._memory.shape[1])
            self._extend(min(keep, self._bottom), min(bottom, goal))

    def _slide(self, top: int, bottom: int) -> None:
        """Make rows [top, bottom) present, reading only those that are not."""
        if self._top <= top and bottom <= self._bottom:
            return
        capacity = self._memory.shape[1]
        if bottom - top > capacity:
            raise ValueError(f"{bottom - top} rows do not fit a band of {capacity}")
        touching = self._top <= top <= self._bottom
        # As many of the old rows as there is room for: a mirrored window may reach further up.
        self._extend(max(self._top, bottom - capacity) if touching else top, bottom)

    def _extend(self, top: int, bottom: int) -> None:
        """Hold rows [top, bottom), of which those that are there already are moved, not read."""
        if self._top <= top <= self._bottom:
            kept = self._bottom - top
            if top > self._top:
                self._memory[:, :kept] = self._memory[:, top - self._top : top - self._top + kept]
            self._top = top
        else:
            self._top = self._bottom = top
        have, self._bottom = self._bottom, self._top  # nothing is valid if the reading fails
        block = np.asarray(self._source[..., have:bottom, self._left : self._right])
        self._memory[:, have - self._top : bottom - self._top] = block
        self._bottom = bottom
