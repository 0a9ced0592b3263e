"""Connected components of a mask that never is in memory as a whole.

Bands of rows are labelled one by one; equal components are found where bands meet, and one table
says which provisional number belongs to which cell. The numbers are those of labelling the whole
image at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.mirror import Source

__all__ = ["ClassComponents", "ComponentSource"]

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class ComponentSource:
    """Source of component numbers, computed band by band from a source of a mask.

    Building it reads the mask once; slicing it reads the bands concerned once more, where there
    are several.

    Parameters
    ----------
    mask
        Source of booleans, shape ``(H, W)``.
    connectivity
        4 or 8.
    band_rows
        Rows that are labelled at a time; changes memory and time, never the result.

    Attributes
    ----------
    shape : tuple of int
        ``(H, W)``.
    dtype : dtype
        int32, or int64 beyond 2**31 - 1 components.
    components : int
        Their number.

    Examples
    --------
    >>> mask = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [1, 0, 0]], bool)
    >>> ComponentSource(mask, 4, band_rows=1)[..., 0:4, 0:3]
    array([[1, 0, 1],
           [1, 1, 1],
           [0, 0, 0],
           [2, 0, 0]], dtype=int32)
    """

    def __init__(self, mask: Source, connectivity: int, band_rows: int) -> None:
        self.shape = tuple(int(n) for n in mask.shape)
        self._mask, self._rows = mask, max(1, band_rows)
        self._diagonal = connectivity == 8
        self._bands: dict[int, npt.NDArray[np.int32]] = {}
        self._table = self._unite()
        self.dtype = self._table.dtype
        self.components = int(self._table.max())

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        """Component numbers of some rows and columns."""
        _, rows, columns = key
        y0, y1, _ = rows.indices(self.shape[0])
        parts = []
        for number in range(y0 // self._rows, -(-y1 // self._rows)):
            top = number * self._rows
            band = self._numbered(number)
            parts.append(band[max(0, y0 - top) : max(0, y1 - top), columns])
        if not parts:
            return np.zeros((0, len(range(*columns.indices(self.shape[1])))), self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _numbered(self, number: int) -> npt.NDArray[Any]:
        """Band `number` in final component numbers; the last two stay at hand."""
        if number not in self._bands:
            while len(self._bands) > 1:
                self._bands.pop(min(self._bands))
            local, _ = self._labelled(number)
            start = self._starts[number]
            table = np.concatenate(([0], self._table[start : self._starts[number + 1]]))
            self._bands[number] = table.astype(self.dtype)[local]
        return self._bands[number]

    def _labelled(self, number: int) -> tuple[npt.NDArray[np.int32], int]:
        """Band `number` on its own: numbers 1, 2, ... in raster order, and how many."""
        from scipy import ndimage

        height, width = self.shape
        top = number * self._rows
        mask = self._mask[..., top : min(height, top + self._rows), 0:width]
        structure = ndimage.generate_binary_structure(2, 2 if self._diagonal else 1)
        local = np.empty(mask.shape, np.int32)
        return local, int(ndimage.label(mask, structure=structure, output=local))

    def _unite(self) -> npt.NDArray[Any]:
        """Table: provisional number (bands counted through, from 0) -> component (from 1)."""
        starts, meetings = [0], []
        above: npt.NDArray[np.int64] | None = None
        for number in range(-(-self.shape[0] // self._rows)):
            local, found = self._labelled(number)
            # 0 for background, provisional number + 1 for components.
            first, last = (_counted(local[k], starts[-1]) for k in (0, -1))
            if above is not None:
                pairs = _meetings(above, first, self._diagonal)
                meetings += [pairs] if pairs[0].size else []
            starts.append(starts[-1] + found)
            above = last
        self._starts, total = starts, starts[-1]
        if len(starts) == 2:  # the only band has its final numbers
            self._bands[0] = local
        if total == 0:
            return np.zeros(1, np.int32)
        table = _united(meetings, total) if meetings else np.arange(1, total + 1)
        return table if table.max() > np.iinfo(np.int32).max else table.astype(np.int32)


class ClassComponents:
    """Source of component numbers of an image of classes: touching classes are different cells.

    Parameters
    ----------
    masks
        One source of booleans per class, none of which overlap.
    connectivity, band_rows
        As for `ComponentSource`.
    """

    def __init__(self, masks: Sequence[Source], connectivity: int, band_rows: int) -> None:
        self._parts = [ComponentSource(mask, connectivity, band_rows) for mask in masks]
        numbers = [part.components for part in self._parts]
        self._before = np.cumsum([0, *numbers]).tolist()

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[np.int64]:
        """Component numbers of some rows and columns."""
        found: Any = np.int64(0)
        for part, before in zip(self._parts, self._before, strict=False):
            numbers = part[key].astype(np.int64)
            found = found + np.where(numbers > 0, numbers + before, 0)
        return np.asarray(found)


def _united(meetings: Sequence[Pairs], total: int) -> npt.NDArray[np.int64]:
    """Component (from 1) of each of `total` provisional numbers, of which these are the same."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    a, b = (np.concatenate(numbers) for numbers in zip(*meetings, strict=True))
    graph = coo_array((np.ones(a.size, np.bool_), (a, b)), shape=(total, total))
    count, group = connected_components(graph, directed=False)
    # Groups by their first provisional number, which is raster order of the first pixel.
    first_seen = np.full(count, total, np.int64)
    np.minimum.at(first_seen, group, np.arange(total))
    order = np.empty(count, np.int64)
    order[np.argsort(first_seen)] = np.arange(1, count + 1)
    table: npt.NDArray[np.int64] = order[group]
    return table


def _counted(row: npt.NDArray[np.int32], start: int) -> npt.NDArray[np.int64]:
    wide = row.astype(np.int64)
    wide[row != 0] += start
    return wide


def _meetings(above: npt.NDArray[np.int64], below: npt.NDArray[np.int64], diagonal: bool) -> Pairs:
    """Provisional numbers (from 0) that meet where one band ends and the next begins."""
    shifts = [(above, below)]
    if diagonal:
        shifts += [(above[1:], below[:-1]), (above[:-1], below[1:])]
    a = np.concatenate([x for x, _ in shifts])
    b = np.concatenate([y for _, y in shifts])
    both = (a != 0) & (b != 0)
    pairs = np.unique(np.stack([a[both], b[both]]), axis=1) - 1
    return pairs[0], pairs[1]
