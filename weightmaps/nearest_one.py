"""The class term of the authors' later code: background weighs less, the further from a cell.

w_c = 1 on cells and v + (1 - v) exp(-d1^2 / (2 sigma1^2)) beside them. Squared distances up to the
reach of that exponential (58 px) are small whole numbers: columns are scanned up and down, rows are
searched outwards, both in 16-bit integers, and the exponential is a table.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from weightmaps.compiled import available, compiled, compiled_distinct
from weightmaps.spec import FALK_SIGMA1_PX, FALK_V, WeightMapSpec
from weightmaps.threads import LIGHT, in_parts

__all__ = ["add_nearness"]

_ROWS, _COLUMNS = 128, 512
_GROUP = 64


def add_nearness(
    term: npt.NDArray[np.floating[Any]], labels: npt.NDArray[Any], spec: WeightMapSpec
) -> None:
    """Turn a signed border term (see `signed_border_term`) into weights of the 2019 form, in place.

    Parameters
    ----------
    term
        One image, float32 or float64 ``(H, W)``, or a volume.
    labels
        Its checked labels.
    spec
        The parameters it was made with.
    """
    if available() and term.ndim == 2 and spec.spacing is None:
        _compiled_nearness(term, labels, spec)
    else:
        _nearness_by_transform(term, labels, spec)


def _table(spec: WeightMapSpec) -> npt.NDArray[np.float64]:
    """w_c of the background by squared distance 0, 1, ...; the last entry is for all beyond."""
    reach = math.floor(spec.class_reach_px)
    square = np.arange((reach + 1) ** 2 + 1)
    near = np.exp(-square / (2 * FALK_SIGMA1_PX**2))
    near[square > spec.class_reach_px**2] = 0
    table: npt.NDArray[np.float64] = FALK_V + (1 - FALK_V) * near
    return table


def _nearness_by_transform(term: Any, labels: npt.NDArray[Any], spec: WeightMapSpec) -> None:
    """Do it by scipy's distance transform: any pixel size, any number of axes."""
    from weightmaps.reference import transform
    from weightmaps.signed_term import sources

    d1 = transform(sources(labels, spec)[0] != 0, spec.spacing)
    if spec.spacing is None:
        table = _table(spec)
        background = table[np.minimum(np.square(d1), len(table) - 1).round().astype(np.intp)]
    else:
        near = np.exp(-np.square(d1) / (2 * FALK_SIGMA1_PX**2))
        near[d1 > spec.class_reach_px] = 0
        background = FALK_V + (1 - FALK_V) * near
    constant = np.where(np.signbit(term), 1.0, background)
    ignored = np.isnan(term)
    np.abs(term, out=term)
    term += constant.astype(term.dtype)
    term[ignored] = 0


def _compiled_nearness(term: Any, labels: npt.NDArray[Any], spec: WeightMapSpec) -> None:
    # While blocks are under way each reads the signs around itself, so signs stay until the end.
    height, width = term.shape
    reach = math.floor(spec.class_reach_px)
    table = _table(spec).astype(term.dtype)
    bands = math.ceil(height / _ROWS)

    def work(begin: int, end: int) -> None:
        squares = np.empty((_ROWS, _COLUMNS + 2 * reach), np.int16)
        away = np.empty(_COLUMNS + 2 * reach, np.int16)
        for y in range(begin * _ROWS, min(height, end * _ROWS), _ROWS):
            y1 = min(height, y + _ROWS)
            for x in range(0, width, _COLUMNS):
                x1 = min(width, x + _COLUMNS)
                rows = slice(max(0, y - reach), min(height, y1 + reach))
                columns = slice(max(0, x - reach), min(width, x1 + reach))
                cells = _is_source(term[rows, columns], labels[rows, columns], spec)
                place = np.array([y - rows.start, x - columns.start, reach])
                nearness_block(cells, place, table, away, squares, term[y:y1, x:x1])

    in_parts(work, bands, term.size)
    in_parts(lambda begin, end: unsign(term[begin:end]), height, term.size // LIGHT)


def _is_source(term: Any, labels: npt.NDArray[Any], spec: WeightMapSpec) -> npt.NDArray[np.uint8]:
    """Tell which pixels distances are measured to; ignored ones (NaN) never are."""
    if spec.uncarved_distances:
        cells = (labels != 0) & ~np.isnan(term)
    else:
        cells = np.signbit(term) & ~np.isnan(term)
    found: npt.NDArray[np.uint8] = cells.view(np.uint8)
    return found


@compiled_distinct
def _scan(cells: Any, away: Any, furthest: Any) -> None:
    """Advance the distances to the last cell of each column by a row."""
    for x in range(cells.size):
        further = np.int16(min(np.int16(away[x] + np.int16(1)), furthest))
        away[x] = np.int16(0) if cells[x] != 0 else further


@compiled_distinct
def _nearer(away: Any, row: Any) -> None:
    """Square the smaller of the distances upwards and downwards."""
    for x in range(away.size):
        d = min(away[x], row[x])
        row[x] = np.int16(d * d)


@compiled_distinct
def _search(row: Any, best: Any, reach: Any) -> None:
    """Find the nearest cell of each pixel of a row; `row` is wider than `best` by the reach."""
    for start in range(0, best.size, _GROUP):
        some = best[start : start + _GROUP]
        at = reach + start
        for x in range(some.size):
            some[x] = row[at + x]
        for k in range(1, reach + 1):
            top = np.int16(0)
            for x in range(some.size):
                top = max(top, some[x])
            if k * k >= top:
                break
            add = np.int16(k * k)
            left, right = row[at - k : at - k + some.size], row[at + k : at + k + some.size]
            for x in range(some.size):
                nearest = min(left[x], right[x])
                some[x] = min(some[x], np.int16(nearest + add))


@compiled
def nearness_block(cells: Any, place: Any, table: Any, away: Any, squares: Any, term: Any) -> None:
    """Add the class term to a block of a signed border term; the signs stay.

    Parameters
    ----------
    cells
        uint8 window around the block, 1 = cell.
    place
        Where the block begins in the window (row, column), and the reach.
    table
        Class term of the background by squared distance.
    away, squares
        int16 scratch, at least as wide as the block and twice the reach.
    term
        The block.
    """
    y0, x0, reach = place[0], place[1], place[2]
    rows, width = term.shape
    furthest = np.int16(reach + 1)
    wide = cells.shape[1]
    shift = reach - x0  # of the window in the scratch rows, which have the whole reach
    state = away[:wide]
    best = away[:width]
    squares[:rows, :shift] = furthest * furthest
    squares[:rows, shift + wide :] = furthest * furthest
    state[:] = furthest
    for y in range(y0 + rows):
        _scan(cells[y], state, furthest)
        if y >= y0:
            squares[y - y0, shift : shift + wide] = state
    state[:] = furthest
    for y in range(cells.shape[0] - 1, y0 - 1, -1):
        _scan(cells[y], state, furthest)
        if y < y0 + rows:
            _nearer(state, squares[y - y0, shift : shift + wide])
    for y in range(rows):
        _search(squares[y], best, reach)
        row = term[y]
        for x in range(width):
            value = row[x]
            if math.copysign(1.0, value) < 0:
                row[x] = value - 1
            else:
                row[x] = value + table[best[x]]


@compiled
def unsign(term: Any) -> None:
    """Make weights of signed weights, and 0 of NaN, in place."""
    for y in range(term.shape[0]):
        row = term[y]
        for x in range(row.size):
            row[x] = abs(row[x]) if row[x] == row[x] else 0
