"""Reduced levels of an image that passes by in groups of rows, for viewers that zoom.

Every level has half the rows and columns of the one above it, rounded up. A group of a level is
due as soon as the two groups above it have passed, so that what waits is half a group of each
level. All of it can be computed again from the groups that are already written: an interrupted
file goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["METHODS", "Pyramid", "halved_mean", "halved_mode", "levels_for"]

SMALLEST = 256
"""Longer side in px at which no smaller level is made."""

Array = npt.NDArray[Any]


def levels_for(shape: tuple[int, ...]) -> int:
    """How often an image of `shape` (..., H, W) is halved until its longer side is 256 px or less.

    Examples
    --------
    >>> levels_for((256, 256)), levels_for((257, 10)), levels_for((3, 900, 1100))
    (0, 1, 3)
    """
    side, levels = max(shape[-2:]), 0
    while side > SMALLEST:
        side, levels = -(-side // 2), levels + 1
    return levels


def halved_mean(image: Array) -> Array:
    """Mean of each 2 x 2 pixels of (..., H, W); at an odd end, of those that are there.

    Integers are rounded, halves upwards.

    Examples
    --------
    >>> halved_mean(np.array([[1, 2, 7], [3, 5, 8], [0, 1, 9]], np.uint8))
    array([[3, 8],
           [1, 9]], dtype=uint8)
    """
    if image.dtype.kind not in "ui":
        wide = np.promote_types(image.dtype, np.float32)
        a, b, c, d = (part.astype(wide) * wide.type(0.25) for part in _quads(image))
        mean: Array = (a + b) + (c + d)
        return mean.astype(image.dtype)
    parts = _quads(image)
    if image.dtype.itemsize == 8:  # no type is wider: of pixels 4 q + r, q and r are summed apart
        quarters, rests = sum(part >> 2 for part in parts), sum(part & 3 for part in parts)
        return np.asarray(quarters + ((rests + 2) >> 2))
    wider = image.dtype.kind + str(2 * image.dtype.itemsize)
    total = parts[0].astype(wider)
    for part in parts[1:]:
        total += part
    total += np.array(2, wider)
    total >>= np.array(2, wider)
    return total.astype(image.dtype)


def halved_mode(image: Array) -> Array:
    """Most frequent value of each 2 x 2 pixels of (..., H, W); of equals the first by row.

    Examples
    --------
    >>> halved_mode(np.array([[1, 2, 7], [3, 2, 8], [0, 1, 9]]))
    array([[2, 7],
           [0, 9]])
    """
    a, b, c, d = _quads(image)
    later = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    return np.where((a == b) | (a == c) | (a == d), a, later)


METHODS: dict[str, Callable[[Array], Array]] = {"mean": halved_mean, "mode": halved_mode}


def _quads(image: Array) -> tuple[Array, Array, Array, Array]:
    """The four pixels that become one; beyond an odd end the last one counts twice."""
    image = _evened(image)
    first, second = _columns(image[..., ::2, :])
    third, fourth = _columns(image[..., 1::2, :])
    return first, second, third, fourth


def _columns(rows: Array) -> tuple[Array, Array]:
    """Even and odd columns; of bytes, two by two as one number: several times faster."""
    if rows.dtype.itemsize != 1:
        return rows[..., ::2], rows[..., 1::2]
    pairs = np.ascontiguousarray(rows).view("<u2")
    return pairs.astype(np.uint8).view(rows.dtype), (pairs >> 8).astype(np.uint8).view(rows.dtype)


def _evened(image: Array) -> Array:
    """With the last row and column twice where their number is odd."""
    odd = [(0, side % 2) for side in image.shape[-2:]]
    if any(end for _, end in odd):
        return np.pad(image, [(0, 0)] * (image.ndim - 2) + odd, mode="edge")
    return image


class Pyramid:
    """Levels of an image (K, H, W), made while its groups of rows pass by in order.

    Parameters
    ----------
    size
        (H, W) of the finest level.
    height
        Rows of a group, an even number; the last group of a level may have fewer.
    levels
        Number of reduced levels; 0 for none.
    method
        "mean" or "mode".

    Attributes
    ----------
    sizes : list of (int, int)
        (H, W) of each level, the finest first.

    Examples
    --------
    >>> pyramid = Pyramid((3, 4), 2, levels=1, method="mean")
    >>> image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    >>> for row in (0, 1):
    ...     for level, number, group in pyramid.add(row, image[:, 2 * row : 2 * row + 2]):
    ...         print(level, number, group[0].tolist())
    0 0 [[0, 1, 2, 3], [4, 5, 6, 7]]
    0 1 [[8, 9, 10, 11]]
    1 0 [[3, 5], [9, 11]]
    """

    def __init__(
        self, size: tuple[int, ...], height: int, *, levels: int = 0, method: str = "mean"
    ) -> None:
        self.sizes = [tuple(-(-side // (1 << k)) for side in size) for k in range(levels + 1)]
        self._height, self._halve = height, METHODS[method]
        self._held: dict[int, Array] = {}
        self._begun: dict[int, tuple[int, Array]] = {}  # columns and halves of coming groups

    @property
    def levels(self) -> int:
        """Number of reduced levels."""
        return len(self.sizes) - 1

    def down(self, level: int) -> int:
        """Groups of a level."""
        return -(-self.sizes[level][0] // self._height)

    def due(self, row: int) -> list[tuple[int, int]]:
        """(level, group) of what group `row` of the finest level completes, itself the first."""
        found = [(0, row)]
        for level in range(self.levels):
            if row % 2 == 0 and row + 1 < self.down(level):
                break
            row //= 2
            found.append((level + 1, row))
        return found

    def begin(self, row: int, group: Array, *, ready: int) -> None:
        """Halve a coming group of the finest level where it is final: left of column `ready`."""
        height, width = group.shape[-2:]
        end = ready // 2 * 2 if ready < width else width
        if not self.levels:
            return
        if row not in self._begun:
            size = (*group.shape[:-2], -(-height // 2), -(-width // 2))
            self._begun[row] = 0, np.empty(size, group.dtype)
        done, half = self._begun[row]
        if end > done:
            half[..., done // 2 : -(-end // 2)] = self._halve(group[..., done:end])
            self._begun[row] = end, half

    def _halved(self, row: int, group: Array) -> Array:
        """The half of a complete group of the finest level."""
        if row not in self._begun:
            return self._halve(group)
        self.begin(row, group, ready=group.shape[-1])
        return self._begun.pop(row)[1]

    def add(self, row: int, group: Array) -> Iterator[tuple[int, int, Array]]:
        """(level, number, pixels) of every group that this one completes, itself the first."""
        if row == 0:
            self._held.clear()
        level = 0
        for level, number in self.due(row):
            if level:
                above = self._held.pop(level, None)
                half = self._halved(row, group) if level == 1 else self._halve(group)
                group = half if above is None else np.concatenate((above, half), axis=1)
            yield level, number, group
        if level < self.levels:
            self._held[level + 1] = self._halve(group) if level else self._halved(row, group)

    def take_up(self, rows: int, read: Callable[[int, int], Array]) -> None:
        """Be as after `rows` groups of the finest level; `read(level, number)` gives old groups."""
        self._held.clear()
        for level in range(self.levels):
            if rows >= self.down(level):
                return
            if rows % 2:
                self._held[level + 1] = self._halve(read(level, rows - 1))
            rows //= 2
