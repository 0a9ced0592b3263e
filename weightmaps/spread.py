"""Compiled exact distances for any pixel size, any range and any number of axes.

Strategy. Along the first axis one scan each way finds, for every pixel, the two nearest different
cells of its own line. Along every further axis each pixel then looks outwards, k = 1, 2, ..., and
keeps its two best different cells, until k alone is as far as the second of them. Squared
distances are float64: exact integers up to 2**53 where the pixel size is 1.
"""

from __future__ import annotations

import math
from typing import Any

from weightmaps.compiled import compiled

__all__ = ["finish", "scan_first_axis", "spread_axis"]


@compiled
def scan_first_axis(labels: Any, step: Any, limit: Any, d1: Any, d2: Any, l1: Any, l2: Any) -> None:
    """Write the two nearest different cells along axis 0 of labels ``(N, M)``.

    `step` is the pixel size along that axis; squared distances go to d1, d2 (infinite beyond
    `limit`), cells to l1, l2 (0 for none). Every row of all arrays is contiguous.
    """
    n, m = labels.shape
    for y in range(n):
        for x in range(m):
            d1[y, x] = d2[y, x] = math.inf
            l1[y, x] = l2[y, x] = 0
    for way in (1, -1):
        start = 0 if way == 1 else n - 1
        for x in range(m):
            near = far = 0
            near_y = far_y = 0
            for i in range(n):
                y = start + way * i
                label = labels[y, x]
                if label != 0:
                    if label != near:
                        far, far_y = near, near_y
                    near, near_y = label, y
                if near != 0:
                    _offer(d1, d2, l1, l2, y, x, step * abs(y - near_y), near, limit)
                if far != 0:
                    _offer(d1, d2, l1, l2, y, x, step * abs(y - far_y), far, limit)


@compiled
def _offer(
    d1: Any, d2: Any, l1: Any, l2: Any, y: Any, x: Any, distance: Any, label: Any, limit: Any
) -> None:
    """Offer one cell to the two best different cells of a pixel."""
    if distance > limit:
        return
    d = distance * distance
    if label == l1[y, x]:
        d1[y, x] = min(d1[y, x], d)
    elif d < d1[y, x]:
        d2[y, x], l2[y, x] = d1[y, x], l1[y, x]
        d1[y, x], l1[y, x] = d, label
    elif d < d2[y, x]:
        d2[y, x], l2[y, x] = d, label


@compiled
def spread_axis(d1: Any, d2: Any, l1: Any, l2: Any, step: Any, limit: Any, line: Any) -> None:
    """Spread the two nearest cells along axis 1 of arrays ``(A, N, B)``, in place.

    `line` is float64 scratch of shape ``(2, N)`` and int32 scratch of shape ``(2, N)``.
    """
    near, cells = line
    n = d1.shape[1]
    for a in range(d1.shape[0]):
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
