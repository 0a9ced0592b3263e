"""Compiled exact distances for any pixel size, any range and any number of axes.

Strategy. Along the first axis one scan each way finds, for every pixel, the two nearest different
cells of its own line. Along every further axis each pixel then looks outwards, k = 1, 2, ..., and
keeps its two best different cells, until k alone is as far as the second of them. Squared
distances are float64: exact integers up to 2**53 where the pixel size is 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from weightmaps.compiled import compiled

__all__ = ["finish", "scan_first_axis", "spread_axis"]


@compiled
def scan_first_axis(
    labels: Any,
    step: Any,
    limit: Any,
    d1: Any,
    d2: Any,
    l1: Any,
    l2: Any,
    begin: Any,
    end: Any,
) -> None:
    """Write the two nearest different cells along axis 0 of labels ``(N, M)``.

    `step` is the pixel size along that axis; squared distances go to d1, d2 (infinite beyond
    `limit`), cells to l1, l2 (0 for none). Only the columns from `begin` to `end` are done.
    """
    n = labels.shape[0]
    width = end - begin
    for y in range(n):
        d1[y, begin:end] = math.inf
        d2[y, begin:end] = math.inf
        l1[y, begin:end] = 0
        l2[y, begin:end] = 0
    cells = np.empty((2, width), np.int32)  # the latest cell of a column, and the one before it
    rows = np.empty((2, width), np.int64)  # where they were seen
    for way in (1, -1):
        start = 0 if way == 1 else n - 1
        cells[:] = 0
        rows[:] = 0
        for i in range(n):
            y = start + way * i
            for x in range(width):
                at = begin + x
                label = labels[y, at]
                if label != 0:
                    if label != cells[0, x]:
                        cells[1, x], rows[1, x] = cells[0, x], rows[0, x]
                    cells[0, x], rows[0, x] = label, y
                one, two, near, far = d1[y, at], d2[y, at], l1[y, at], l2[y, at]
                for rank in range(2):
                    cell = cells[rank, x]
                    distance = step * abs(y - rows[rank, x])
                    if cell == 0 or distance > limit:
                        break
                    d = distance * distance
                    if d >= two:
                        break
                    if cell == near:
                        one = min(one, d)
                    elif d < one:
                        two, far = one, near
                        one, near = d, cell
                    else:
                        two, far = d, cell
                d1[y, at], d2[y, at], l1[y, at], l2[y, at] = one, two, near, far


@compiled
def spread_axis(
    d1: Any, d2: Any, l1: Any, l2: Any, step: Any, limit: Any, begin: Any, end: Any
) -> None:
    """Spread the two nearest cells along axis 1 of arrays ``(A, N, B)``, in place.

    Only the entries from `begin` to `end` of axis 0 are done.
    """
    n = d1.shape[1]
    near = np.empty((2, n), np.float64)
    cells = np.empty((2, n), np.int32)
    for a in range(begin, end):
        for b in range(d1.shape[2]):
            for x in range(n):
                near[0, x], near[1, x] = d1[a, x, b], d2[a, x, b]
                cells[0, x], cells[1, x] = l1[a, x, b], l2[a, x, b]
            for x in range(n):
                one, two, label, other = _look(near, cells, x, step, limit)
                d1[a, x, b], d2[a, x, b] = one, two
                l1[a, x, b], l2[a, x, b] = label, other


@compiled
def _look(near: Any, cells: Any, x: Any, step: Any, limit: Any) -> Any:
    """Return d1^2, d2^2 and the two cells of pixel x of a line."""
    one, two = near[0, x], near[1, x]
    label, other = cells[0, x], cells[1, x]
    n = near.shape[1]
    for k in range(1, max(x, n - 1 - x) + 1):
        away = step * k
        add = away * away
        if add >= two or away > limit:
            break
        for side in (-1, 1):
            at = x + side * k
            if at < 0 or at >= n:
                continue
            for rank in range(2):
                d = near[rank, at] + add
                if d >= two:
                    break
                cell = cells[rank, at]
                if cell == label:
                    one = min(one, d)
                elif d < one:
                    two, other = one, label
                    one, label = d, cell
                else:
                    two, other = d, cell
    return one, two, label, other


@compiled
def finish(d1: Any, d2: Any, l1: Any, l2: Any, limit: Any) -> None:
    """Turn squared distances of flat arrays into distances, infinite beyond `limit`."""
    for x in range(d1.size):
        one, two = math.sqrt(d1[x]), math.sqrt(d2[x])
        d1[x], d2[x] = one, two
        if one > limit:
            d1[x], l1[x] = math.inf, 0
        if two > limit:
            d2[x], l2[x] = math.inf, 0
