"""Compiled preparation of one window of labels: few bits per id, carving, classes, counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from weightmaps.compiled import compiled, compiled_distinct

__all__ = ["compact", "prepare"]

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
def _count_row(classes: Any, counts: Any) -> None:
    background = 0
    cells = 0
    for x in range(classes.size):
        background += classes[x] == 0
        cells += classes[x] == 1
    counts[0] += background
    counts[1] += cells


@compiled
def prepare(
    labels: Any, separate: Any, y0: Any, x0: Any, width: Any, spare: Any, classes: Any, counts: Any
) -> Any:
    """Carve a window, find the class of each inner pixel, and clear ignored pixels.

    Parameters
    ----------
    labels
        int32 window, -1 = ignored; carved in place where `separate` is 1.
    separate
        0: no carving; 1: distances after carving; 2: distances before carving.
    y0, x0, width
        Where the inner block lies in the window; its width.
    spare
        int32, at least (2, window width).
    classes
        uint8, (rows, columns >= width): receives 0 background, 1 cell, 2 ignored, 3 beyond.
    counts
        int64, (2,): background and cell pixels of the inner block are added.

    Returns
    -------
    bool
        Whether the window holds two different cells.
    """
    # Bottom-up, so that the row above is still uncarved. The outermost columns are not carved
    # but cleared: they lie beyond the reach of the inner block.
    nothing, carved = spare[0], spare[1]
    nothing[:] = 0
    carved[:] = 0
    low, high = np.int32(_MANY), np.int32(0)
    for y in range(labels.shape[0] - 1, -1, -1):
        row = labels[y]
        if separate == 0:
            carved[:] = row
        else:
            _carve_row(row, labels[y - 1] if y > 0 else nothing, carved)
        if y0 <= y < y0 + classes.shape[0]:
            kinds = classes[y - y0]
            kinds[width:] = 3
            _class_row(carved[x0 : x0 + width], kinds)
            _count_row(kinds, counts)
        if separate == 1:
            row[:] = carved
        for x in range(row.size):
            label = max(row[x], np.int32(0))
            row[x] = label
            high = max(high, label)
            low = min(low, label if label > 0 else np.int32(_MANY))
    return low < high
