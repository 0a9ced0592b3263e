"""What every file sink keeps account of: axes, pages, and which rows came so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.row_groups import RowGroups

__all__ = ["Key", "PagedRows", "checked_axes"]

Key = tuple[Any, slice, slice]
"""What a band is given under: anything, rows, columns."""


class PagedRows:
    """Takes full-width bands of page after page, and hands on groups of rows of one height.

    Parameters
    ----------
    shape, axes
        (pages..., [K,] H, W) and one letter for each axis.
    dtype
        Type of the pixels to come.
    height
        Rows of a group.
    write
        Called with the number of a group and its pixels (K, up to `height`, W), in order.

    Attributes
    ----------
    done : int
        Groups that are there already, over all pages.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        axes: str,
        dtype: np.dtype[Any],
        height: int,
        write: Callable[[int, npt.NDArray[Any]], None],
    ) -> None:
        channels = axes[-3:-2] == "C"
        self.channels = shape[-3] if channels else 1
        self.page_axes = axes[: -3 if channels else -2]
        self.page_shape = shape[: len(self.page_axes)]
        self.size = shape[-3:] if channels else shape[-2:]
        self.pages = math.prod(self.page_shape)
        self.down = -(-shape[-2] // height)
        self.done = 0
        self._dtype, self._height, self._write = dtype, height, write
        self._page = 0
        self._rows: RowGroups | None = None

    def rows_done(self, page: int) -> int:
        """Rows of a page that are there already."""
        now, group = divmod(self.done, self.down)
        if page != now:
            return self.size[-2] if page < now else 0
        return group * self._height

    def write(self, page: int, key: Key, block: npt.NDArray[Any]) -> None:
        """Take the next full-width band of a page, (K, h, W) or (h, W)."""
        _, rows, columns = key
        if (columns.start, columns.stop) != (0, self.size[-1]):
            raise ValueError(f"columns {columns.start} to {columns.stop} came, all were due")
        groups, band = self._due(page, rows, block)
        for group in groups.add(rows.start, band):
            self._write(self.done, group)
            self.done += 1

    def coming(
        self, page: int, key: Key, block: npt.NDArray[Any]
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Numbers and pixels of the groups that a band will complete, see `RowGroups.coming`."""
        _, rows, columns = key
        groups, band = self._due(page, rows, block)
        yield from enumerate(groups.coming(rows.start, band, columns), self.done)

    def _due(
        self, page: int, rows: slice, block: npt.NDArray[Any]
    ) -> tuple[RowGroups, npt.NDArray[Any]]:
        """The open groups of a page and a band (K, h, W) for them, if that is the next one."""
        band = np.asarray(block)
        band = band if band.ndim == 3 else band[None]
        expected = (self.channels, rows.stop - rows.start, self.size[-1])
        if band.shape != expected:
            raise ValueError(f"a band of shape {band.shape} came, {expected} was due")
        if band.dtype != self._dtype:
            raise ValueError(f"pixels of {band.dtype} came for an output of {self._dtype}")
        if self._rows is None or rows.start == 0:
            self._begin(page)
        if page != self._page or self._rows is None:
            raise ValueError(f"page {page} came while page {self._page} is unfinished")
        return self._rows, band

    def _begin(self, page: int) -> None:
        if page != self.done // self.down:
            raise ValueError(f"page {page} came out of order; write pages one after the other")
        self._page = page
        shape = (self.channels, self.size[-2], self.size[-1])
        self._rows = RowGroups(shape, self._height, self.rows_done(page))

    def check_complete(self) -> None:
        """Raise ValueError if rows are missing."""
        if self.done < self.pages * self.down:
            page = self.done // self.down
            raise ValueError(
                f"the output is incomplete: page {page} of {self.pages} ends at row "
                f"{self.rows_done(page)} of {self.size[-2]}"
            )


def checked_axes(shape: tuple[int, ...], axes: str) -> str:
    """One letter per axis of `shape`; a default where `axes` is empty.

    Examples
    --------
    >>> checked_axes((2, 9, 9), ""), checked_axes((30, 9, 9), "ZYX")
    ('CYX', 'ZYX')
    """
    usual = {2: "YX", 3: "CYX", 4: "ICYX"}
    axes = axes or usual.get(len(shape), "")
    if len(axes) != len(shape) or not axes.endswith("YX") or len(set(axes)) != len(axes):
        raise ValueError(
            f"axes {axes!r} do not name the {len(shape)} axes of shape {shape}; give one letter "
            "for each, ending in YX"
        )
    if min(shape) < 1:
        raise ValueError(f"an output of shape {shape} has no pixels")
    if "C" in axes[:-3]:
        raise ValueError(f"axes {axes!r}: the channels C come right before YX")
    return axes
