"""Compiled inner loops of the border term: one block of an image at a time.

Strategy. Down every column the two nearest different cells are carried in one scan from above
and one from below (a cell that is second-nearest to a pixel is always among the two nearest
different cells of its own column). Then, along each row, every background pixel looks at the
columns k = 0, 1, 2, ... to both sides and keeps its two best different cells; a group of
pixels stops once k^2 is no less than every second-best distance it still needs. A pixel may be
high and wide by small whole numbers: squared distances are whole numbers all the same.

A candidate is one key, int32 or int64: squared distance << bits | cell. Comparing keys compares
distances; the low bits tell cells apart. All loops run over contiguous rows, so they become vector
code. The wide keys are for pixels whose sides are no small whole numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from weightmaps.compiled import compiled, compiled_distinct

__all__ = ["GROUP", "PLACE", "add_constants", "blank_block", "block_term"]

GROUP = 64
# Where the whole numbers lie that a kernel is given: those of the image, then those of the block.
_BITS, _REACH, _HALF, _CAP, _LAST_CLASS, _GROUP, _HIGH2, _WIDE2 = range(8)
PLACE = 8
_Y0, _X0, _WIDTH, _OUT_Y, _OUT_X = range(PLACE, PLACE + 5)


@compiled_distinct
def _scan(row: Any, unit: Any, none: Any, mask: Any, k1: Any, g1: Any, k2: Any, g2: Any) -> None:
    """Advance one column scan by a row.

    k1, k2 are the candidates of the two latest different cells; g1, g2 what a further row adds to
    them: (d + 1)^2 = d^2 + (2 d + 1), times `unit`, the square of a pixel's height. Candidates
    beyond the reach become `none` and stay so.
    """
    key = k1.dtype.type
    two = key(2 * unit)
    for x in range(row.size):
        label = key(row[x])
        a = key(k1[x] + g1[x])
        ga = key(g1[x] + two)
        ga = ga if a < none else key(0)
        a = min(a, none)
        b = key(k2[x] + g2[x])
        gb = key(g2[x] + two)
        gb = gb if b < none else key(0)
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
def _halfway(best: Any, second: Any, square: Any, bits: Any, limits: Any, reach: Any) -> None:
    """Drop pixels whose d1 is beyond half the reach; bound d2 of the others by reach - d1."""
    key = best.dtype.type
    for x in range(best.size):
        if second[x] == 0:
            continue
        one = best[x] >> bits
        if one >= square:
            second[x] = 0
        else:
            left = reach - math.sqrt(one)
            limit = limits[one] if limits.size > 0 else np.int64(left * left) + 2
            second[x] = min(second[x], key(limit << bits))


@compiled_distinct
def _search(
    best: Any, second: Any, a: Any, b: Any, x0: Any, numbers: Any, limits: Any, reach: Any
) -> None:
    """Find the two nearest cells of a row of pixels; `a`, `b` are padded by the reach.

    Offers the columns at offset -k and k, rank by rank, to all pixels of a group at once.
    """
    bits = numbers[_BITS]
    key = best.dtype.type
    mask = key((1 << bits) - 1)
    size = numbers[_GROUP]
    wide2 = numbers[_WIDE2]
    for start in range(0, best.size, size):
        firsts, seconds = best[start : start + size], second[start : start + size]
        at = x0 + start
        for k in range(1, numbers[_REACH] + 1):
            square = k * k * wide2
            if k == numbers[_HALF]:
                _halfway(firsts, seconds, square, bits, limits, reach)
            top = key(0)
            for x in range(size):
                top = max(top, seconds[x])
            if square >= top >> bits:
                break
            add = key(square << bits)
            left_a, right_a = a[at - k : at - k + size], a[at + k : at + k + size]
            left_b, right_b = b[at - k : at - k + size], b[at + k : at + k + size]
            for x in range(size):
                one = firsts[x]
                two = seconds[x]
                c = key(left_a[x] + add)
                far = max(one, c)
                two = two if ((one ^ c) & mask) == 0 else min(two, far)
                one = min(one, c)
                c = key(left_b[x] + add)
                far = max(one, c)
                two = two if ((one ^ c) & mask) == 0 else min(two, far)
                one = min(one, c)
                c = key(right_a[x] + add)
                far = max(one, c)
                two = two if ((one ^ c) & mask) == 0 else min(two, far)
                one = min(one, c)
                c = key(right_b[x] + add)
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
            one = best[x] >> bits
            s = roots[one] + roots[two] if roots.size > 0 else math.sqrt(one) + math.sqrt(two)
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
    key = a.dtype.type
    unit = key(numbers[_HIGH2] << numbers[_BITS])
    mask = key((1 << numbers[_BITS]) - 1)
    none = key(numbers[_CAP] << numbers[_BITS])
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
    key = a.dtype.type
    bits = numbers[_BITS]
    unit = key(numbers[_HIGH2] << bits)
    mask = key((1 << bits) - 1)
    none = key(numbers[_CAP] << bits)
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
        _search(best, second, a[row], b[row], x0, numbers, limits, scales[2])
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
) -> None:
    """Write the signed border term of the inner block of a prepared window.

    Parameters
    ----------
    labels
        int32 window, cells 1 .. 2**bits - 1.
    numbers
        int64, in the order of `_BITS` to `_OUT_X`.
    scales
        float64: w0, 2 sigma^2, reach (the last two in units of distance).
    limits
        int64: for each squared d1 up to half the reach, the squared d2 that is too far; empty for
        wide keys, where it is computed.
    roots
        float64: square roots of 0, 1, 2, ...; empty for wide keys.
    work
        Keys, (2 * rows + 6, window width).
    classes
        uint8, (rows, width rounded up to whole groups): 0 background, 1 cell, 2 ignored, 3 none.
    out
        float, C-contiguous image.
    """
    rows = classes.shape[0]
    a, b = work[:rows], work[rows : 2 * rows]
    state = work[2 * rows : 2 * rows + 6]
    _scan_down(labels, numbers, state, a, b)
    _rows_up(labels, numbers, scales, limits, roots, state, a, b, classes, out)


@compiled
def blank_block(classes: Any, numbers: Any, out: Any) -> None:
    """Write the signed border term of a block near which no two cells meet: zeros."""
    left = numbers[_OUT_X]
    for row in range(classes.shape[0]):
        to = out[numbers[_OUT_Y] + row, left : left + numbers[_WIDTH]]
        kinds = classes[row]
        for x in range(to.size):
            kind = kinds[x]
            to[x] = math.nan if kind == 2 else (-0.0 if kind == 1 else 0.0)


@compiled
def add_constants(term: Any, background: Any, cell: Any) -> None:
    """Turn a signed border term (H, W) into weights, in place."""
    for y in range(term.shape[0]):
        row = term[y]
        for x in range(row.size):
            value = row[x]
            constant = cell if math.copysign(1.0, value) < 0 else background
            row[x] = abs(value) + constant if value == value else 0
