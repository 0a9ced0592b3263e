"""Compiled inner loops of the border term: one block of an image at a time.

Strategy. Down every column the two nearest different cells are carried in one scan from above
and one from below (a cell that is second-nearest to a pixel is always among the two nearest
different cells of its own column). Then, along each row, every background pixel looks at the
columns k = 0, 1, 2, ... to both sides and keeps its two best different cells; a group of
pixels stops once k^2 is no less than every second-best distance it still needs.

A candidate is one int32 key: squared distance << bits | cell. Comparing keys compares distances;
the low bits tell cells apart. All loops run over contiguous rows, so they become vector code.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from weightmaps.compiled import compiled, compiled_distinct

__all__ = ["GROUP", "NUMBERS", "add_constants", "block_term", "compact"]

GROUP = 64
NUMBERS = (
    "bits",
    "reach",
    "half",
    "cap",
    "last_class",
    "separate",
    "group",
    "y0",
    "x0",
    "width",
    "out_y",
    "out_x",
)
_BITS, _REACH, _HALF, _CAP, _LAST_CLASS, _SEPARATE, _GROUP = range(7)
_Y0, _X0, _WIDTH, _OUT_Y, _OUT_X = range(7, 12)
_MANY = 2**31 - 1


@compiled
def compact(labels: Any, table_ids: Any, table_new: Any) -> Any:
    """Renumber the ids > 0 of a window to 1 .. n in place; returns n (open addressing)."""
    table_new[:] = 0
    mask = table_ids.size - 1
    count = 0
    last = 0
    last_new = 0
    for y in range(labels.shape[0]):
        row = labels[y]
        for x in range(row.size):
            label = row[x]
            if label <= 0:
                continue
            if label != last:
                slot = (label * 40503 ^ (label >> 15)) & mask
                while table_new[slot] != 0 and table_ids[slot] != label:
                    slot = (slot + 1) & mask
                if table_new[slot] == 0:
                    count += 1
                    table_ids[slot] = label
                    table_new[slot] = count
                last = label
                last_new = table_new[slot]
            row[x] = last_new
    return count


@compiled_distinct
def _carve_row(here: Any, above: Any, out: Any) -> None:
    """Write row `here` without the pixels that touch another cell at W, NW, N or NE."""
    n = here.size - 2
    west, inner, east_of = here[0:n], here[1 : n + 1], above[2 : n + 2]
    north_west, north, to = above[0:n], above[1 : n + 1], out[1 : n + 1]
    for x in range(n):
        label = inner[x]
        w, nw, no, ne = west[x], north_west[x], north[x], east_of[x]
        touches = ((w > 0) & (w != label)) | ((nw > 0) & (nw != label))
        touches |= ((no > 0) & (no != label)) | ((ne > 0) & (ne != label))
        to[x] = 0 if touches & (label > 0) else label


@compiled_distinct
def _class_row(row: Any, classes: Any) -> None:
    """Write 0 background, 1 cell, 2 ignored (label -1)."""
    for x in range(row.size):
        label = row[x]
        classes[x] = 2 if label < 0 else (1 if label > 0 else 0)


@compiled
def _prepare(labels: Any, numbers: Any, spare: Any, classes: Any) -> Any:
    """Carve, find the class of each inner pixel, clear ignored pixels; returns if 2 cells meet.

    Bottom-up, so that the row above is still uncarved. The outermost columns are never cells
    that count: they lie beyond the reach.
    """
    y0, x0 = numbers[_Y0], numbers[_X0]
    nothing, carved = spare[0], spare[1]
    nothing[:] = 0
    low, high = np.int32(_MANY), np.int32(0)
    for y in range(labels.shape[0] - 1, -1, -1):
        row = labels[y]
        if numbers[_SEPARATE] == 0:
            carved[:] = row
        else:
            _carve_row(row, labels[y - 1] if y > 0 else nothing, carved)
        if y0 <= y < y0 + classes.shape[0]:
            _class_row(carved[x0 : x0 + classes.shape[1]], classes[y - y0])
        if numbers[_SEPARATE] == 1:
            row[:] = carved
        for x in range(row.size):
            label = max(row[x], np.int32(0))
            row[x] = label
            high = max(high, label)
            low = min(low, label if label > 0 else np.int32(_MANY))
    return low < high


@compiled_distinct
def _scan(row: Any, unit: Any, none: Any, mask: Any, k1: Any, g1: Any, k2: Any, g2: Any) -> None:
    """Advance one column scan by a row.

    k1, k2 are the candidates of the two latest different cells; g1, g2 what a further row adds to
    them: (d + 1)^2 = d^2 + (2 d + 1). Candidates beyond the reach become `none` and stay so.
    """
    two = np.int32(2 * unit)
    for x in range(row.size):
        label = row[x]
        a = np.int32(k1[x] + g1[x])
        ga = np.int32(g1[x] + two)
        ga = ga if a < none else np.int32(0)
        a = min(a, none)
        b = np.int32(k2[x] + g2[x])
        gb = np.int32(g2[x] + two)
        gb = gb if b < none else np.int32(0)
        b = min(b, none)
        cell = label != 0
        change = cell & ((a & mask) != label)
        k2[x] = a if change else b
        g2[x] = ga if change else gb
        k1[x] = label if cell else a
        g1[x] = unit if cell else ga


@compiled_distinct
def _merge(up1: Any, up2: Any, mask: Any, a: Any, b: Any) -> None:
    """Offer the scan from below to the scan from above: a, b become the two best of a column."""
    for x in range(a.size):
        one = a[x]
        two = b[x]
        c = up1[x]
        far = max(one, c)
        two = two if ((one ^ c) & mask) == 0 else min(two, far)
        one = min(one, c)
        c = up2[x]
        far = max(one, c)
        b[x] = two if ((one ^ c) & mask) == 0 else min(two, far)
        a[x] = min(one, c)


@compiled_distinct
def _begin(a: Any, b: Any, classes: Any, last_class: Any, best: Any, second: Any) -> None:
    """Start a row with its own columns; pixels that get no term have second = 0."""
    for x in range(classes.size):
        active = classes[x] <= last_class
        best[x] = a[x] if active else 0
        second[x] = b[x] if active else 0


@compiled
def _halfway(best: Any, second: Any, square: Any, bits: Any, limits: Any) -> None:
    """Drop pixels whose d1 is beyond half the reach; bound d2 of the others by reach - d1."""
    for x in range(best.size):
        if second[x] == 0:
            continue
        one = best[x] >> bits
        if one >= square:
            second[x] = 0
        else:
            second[x] = min(second[x], np.int32(limits[one] << bits))


@compiled_distinct
def _search(best: Any, second: Any, a: Any, b: Any, x0: Any, numbers: Any, limits: Any) -> None:
    """Find the two nearest cells of a row of pixels; `a`, `b` are padded by the reach.

    Offers the columns at offset -k and k, rank by rank, to all pixels of a group at once.
    """
    bits = numbers[_BITS]
    mask = np.int32((1 << bits) - 1)
    size = numbers[_GROUP]
    for start in range(0, best.size, size):
        firsts, seconds = best[start : start + size], second[start : start + size]
        at = x0 + start
        for k in range(1, numbers[_REACH] + 1):
            if k == numbers[_HALF]:
                _halfway(firsts, seconds, k * k, bits, limits)
            top = np.int32(0)
            for x in range(size):
                top = max(top, seconds[x])
            if k * k >= top >> bits:
                break
            add = np.int32(k * k << bits)
            left_a, right_a = a[at - k : at - k + size], a[at + k : at + k + size]
            left_b, right_b = b[at - k : at - k + size], b[at + k : at + k + size]
            for x in range(size):
                one = firsts[x]
                two = seconds[x]
                c = np.int32(left_a[x] + add)
                far = max(one, c)
                two = two if ((one ^ c) & mask) == 0 else min(two, far)
                one = min(one, c)
                c = np.int32(left_b[x] + add)
                far = max(one, c)
                two = two if ((one ^ c) & mask) == 0 else min(two, far)
                one = min(one, c)
                c = np.int32(right_a[x] + add)
                far = max(one, c)
                two = two if ((one ^ c) & mask) == 0 else min(two, far)
                one = min(one, c)
                c = np.int32(right_b[x] + add)
                far = max(one, c)
                seconds[x] = two if ((one ^ c) & mask) == 0 else min(two, far)
                firsts[x] = min(one, c)


@compiled_distinct
def _write(
    best: Any, second: Any, classes: Any, bits: Any, roots: Any, scales: Any, out: Any
) -> None:
    """Write Eq. 2's exponential of one row with the class in its sign."""
    w0, two_sigma2, reach = scales[0], scales[1], scales[2]
    for x in range(out.size):
        term = 0.0
        two = second[x] >> bits
        if two > 0:
            s = roots[best[x] >> bits] + roots[two]
            if s <= reach:
                term = w0 * math.exp(-(s * s) / two_sigma2)
        if classes[x] == 1:
            term = -term
        elif classes[x] == 2:
            term = math.nan
        out[x] = term


@compiled
def _scan_down(labels: Any, numbers: Any, state: Any, a: Any, b: Any) -> None:
    """Scan from above; `a`, `b` receive the two nearest cells above each inner pixel."""
    unit = np.int32(1 << numbers[_BITS])
    mask = np.int32(unit - 1)
    none = np.int32(numbers[_CAP] << numbers[_BITS])
    y0 = numbers[_Y0]
    state[0], state[1], state[2], state[3] = none, 0, none, 0
    for y in range(y0 + a.shape[0]):
        _scan(labels[y], unit, none, mask, state[0], state[1], state[2], state[3])
        if y >= y0:
            a[y - y0] = state[0]
            b[y - y0] = state[2]


@compiled
def _rows_up(
    labels: Any,
    numbers: Any,
    scales: Any,
    limits: Any,
    roots: Any,
    state: Any,
    a: Any,
    b: Any,
    classes: Any,
    out: Any,
) -> None:
    """Scan from below and finish each inner row on the way."""
    bits = numbers[_BITS]
    unit = np.int32(1 << bits)
    mask = np.int32(unit - 1)
    none = np.int32(numbers[_CAP] << bits)
    y0, x0, width = numbers[_Y0], numbers[_X0], numbers[_WIDTH]
    best, second = state[4, : classes.shape[1]], state[5, : classes.shape[1]]
    left = numbers[_OUT_X]
    state[0], state[1], state[2], state[3] = none, 0, none, 0
    for y in range(labels.shape[0] - 1, y0 - 1, -1):
        _scan(labels[y], unit, none, mask, state[0], state[1], state[2], state[3])
        row = y - y0
        if row >= a.shape[0]:
            continue
        _merge(state[0], state[2], mask, a[row], b[row])
        kinds = classes[row]
        near_a, near_b = a[row, x0 : x0 + kinds.size], b[row, x0 : x0 + kinds.size]
        _begin(near_a, near_b, kinds, numbers[_LAST_CLASS], best, second)
        _search(best, second, a[row], b[row], x0, numbers, limits)
        to = out[numbers[_OUT_Y] + row, left : left + width]
        _write(best, second, kinds, bits, roots, scales, to)


@compiled
def block_term(
    labels: Any,
    numbers: Any,
    scales: Any,
    limits: Any,
    roots: Any,
    work: Any,
    classes: Any,
    out: Any,
    counts: Any,
) -> None:
    """Write the signed border term of the inner block of a window, and count its classes.

    Parameters
    ----------
    labels
        int32 window, cells < 2**bits, -1 = ignored; overwritten.
    numbers
        int64, the layout of `NUMBERS`.
    scales
        float64: w0, 2 sigma^2, reach.
    limits
        int64: for each squared d1 up to half the reach, the squared d2 that is too far.
    roots
        float64: square roots of 0, 1, 2, ...
    work
        int32, (2 * rows + 6, window width).
    classes
        uint8, (rows, width rounded up to whole groups).
    out
        float, C-contiguous image.
    counts
        int64, (2,): background and cell pixels are added.
    """
    rows = classes.shape[0]
    state = work[2 * rows : 2 * rows + 6]
    meet = _prepare(labels, numbers, state, classes)
    width = numbers[_WIDTH]
    classes[:, width:] = 3
    for row in range(rows):
        cells = 0
        ignored = 0
        for x in range(width):
            cells += classes[row, x] == 1
            ignored += classes[row, x] == 2
        counts[0] += width - cells - ignored
        counts[1] += cells
    if meet:
        a, b = work[:rows], work[rows : 2 * rows]
        _scan_down(labels, numbers, state, a, b)
        _rows_up(labels, numbers, scales, limits, roots, state, a, b, classes, out)
        return
    best, second = state[4, : classes.shape[1]], state[5, : classes.shape[1]]
    second[:] = 0
    left = numbers[_OUT_X]
    for row in range(rows):
        to = out[numbers[_OUT_Y] + row, left : left + width]
        _write(best, second, classes[row], numbers[_BITS], roots, scales, to)


@compiled
def add_constants(term: Any, background: Any, cell: Any) -> None:
    """Turn a signed border term (H, W) into weights, in place."""
    for y in range(term.shape[0]):
        row = term[y]
        for x in range(row.size):
            value = row[x]
            constant = cell if math.copysign(1.0, value) < 0 else background
            row[x] = abs(value) + constant if value == value else 0
