"""Warping error: what is left of the differences once borders may slide freely.

The truth is *relaxed* towards the proposal: a differing pixel is flipped if it is a simple point,
which moves a border but merges, splits, adds or deletes nothing. The pixels that still differ are
errors of topology (Jain et al. 2010); the challenge counts those that split or merge cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet2015.segments import cells
from unet2015.simple_points import RING, simple_table
from weightmaps.compiled import compiled

__all__ = ["Mismatch", "WarpingCounts", "count_mismatches", "mismatches", "relax"]


class Mismatch(IntEnum):
    """What a pixel that still differs after relaxation does to the cells of the truth."""

    NONE = 0
    SPLIT = 1
    MERGE = 2
    HOLE_ADDITION = 3
    HOLE_DELETION = 4
    OBJECT_ADDITION = 5
    OBJECT_DELETION = 6


# Plain integers, which compiled code may close over.
SPLIT, MERGE = int(Mismatch.SPLIT), int(Mismatch.MERGE)
HOLE_ADDITION, HOLE_DELETION = int(Mismatch.HOLE_ADDITION), int(Mismatch.HOLE_DELETION)
OBJECT_ADDITION, OBJECT_DELETION = int(Mismatch.OBJECT_ADDITION), int(Mismatch.OBJECT_DELETION)


@compiled
def _relax(
    truth: NDArray[np.uint8],
    waiting: NDArray[np.int64],
    ring: NDArray[np.int64],
    table: NDArray[np.uint8],
) -> int:
    # Flips `truth` (flat, framed) in place; `waiting` holds the differing pixels in visiting order
    # and is compacted, order kept, to those that never became simple. A flipped pixel agrees with
    # the proposal, so it never comes back, and later rounds need no new list.
    left = waiting.size
    while True:
        kept = 0
        for w in range(left):
            k = waiting[w]
            code = 0
            for bit in range(8):
                code |= truth[k + ring[bit]] << bit
            if table[code]:
                truth[k] = 1 - truth[k]
            else:
                waiting[kept] = k
                kept += 1
        if kept == left or kept == 0:
            return kept
        left = kept


def _largest_first(values: NDArray[np.float32]) -> NDArray[np.intp]:
    """Stable order of non-negative floats, largest first: `argsort(-values)`, as a radix sort."""
    # Non-negative floats sort as their bit patterns, and numpy sorts 16-bit keys in linear time.
    key = ~values.view(np.uint32)
    order = np.argsort(key.astype(np.uint16), kind="stable")
    return order[np.argsort((key >> 16).astype(np.uint16)[order], kind="stable")]


def relax(
    probability: NDArray[np.float32], truth: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """Truth of one slice after every possible border shift towards `probability > threshold`.

    Differing pixels are visited in order of |probability - threshold| (float32), largest first,
    ties column by column (x outer, y inner); each is flipped if it is a simple point at that
    moment. Rounds repeat until the number of differing pixels does not fall any more. A frame of
    membrane one pixel wide surrounds both images.

    Parameters
    ----------
    probability
        (H, W) float32, probability of cell interior.
    truth
        (H, W) boolean, True = cell interior.
    threshold
        Compared with the probability in binary64, strictly.

    Returns
    -------
    ndarray
        (H, W) boolean; pixels that differ from `probability > threshold` are the mismatches.

    Examples
    --------
    >>> relax(np.float32([[0.9, 0.9, 0.1]]), np.array([[True, False, False]]), 0.5)
    array([[ True,  True, False]])
    """
    differs = (probability.astype(np.float64) > threshold) != truth
    x, y = np.divmod(np.flatnonzero(np.ascontiguousarray(differs.T)), truth.shape[0])
    certainty = np.abs(probability[y, x].astype(np.float64) - threshold).astype(np.float32)
    stride = truth.shape[1] + 2
    framed = np.pad(truth.astype(np.uint8), 1)
    waiting = ((y + 1) * stride + x + 1)[_largest_first(certainty)]
    ring = np.array([dy * stride + dx for dy, dx in RING])
    _relax(framed.reshape(-1), waiting, ring, simple_table())
    relaxed: NDArray[np.bool_] = framed[1:-1, 1:-1] != 0
    return relaxed


@compiled
def _stays_whole(labels: NDArray[np.int32], y: int, x: int, radius: int) -> bool:
    # Whether the neighbours of (y, x) that belong to a cell still form one 4-component of the
    # window once (y, x) itself is cut out: flood from one of them, then look for the others.
    side = 2 * radius + 1
    reached = np.zeros((side, side), np.uint8)
    reached[radius, radius] = 1
    stack = np.empty((side * side, 2), np.int64)
    top = sought = 0
    for v in range(y - 1, y + 2):
        for u in range(x - 1, x + 2):
            if labels[v, u] > 0 and (v != y or u != x):
                stack[0, 0], stack[0, 1] = v, u
                top = 1
                sought += 1
    reached[stack[0, 0] - y + radius, stack[0, 1] - x + radius] = 1
    sought -= 1
    while top > 0 and sought > 0:
        top -= 1
        here_v, here_u = stack[top, 0], stack[top, 1]
        for dv, du in ((-1, 0), (0, -1), (1, 0), (0, 1)):
            v, u = here_v + dv, here_u + du
            if abs(v - y) > radius or abs(u - x) > radius or labels[v, u] <= 0:
                continue
            if not reached[v - y + radius, u - x + radius]:
                reached[v - y + radius, u - x + radius] = 1
                stack[top, 0], stack[top, 1] = v, u
                top += 1
                if abs(v - y) <= 1 and abs(u - x) <= 1:
                    sought -= 1
    return sought == 0


@compiled
def _classify(
    labels: NDArray[np.int32], rows: NDArray[np.int64], columns: NDArray[np.int64], radius: int
) -> NDArray[np.uint8]:
    # `labels`: cells of the relaxed truth in a frame of -1, which neighbours ignore.
    classes = np.zeros(rows.size, np.uint8)
    for k in range(rows.size):
        y, x = rows[k], columns[k]
        on = labels[y, x] > 0
        membrane = False
        cell = 0
        several = False
        for v in range(y - 1, y + 2):
            for u in range(x - 1, x + 2):
                label = labels[v, u]
                if v == y and u == x:
                    continue
                if label == 0:
                    membrane = True
                elif label > 0:
                    several = several or (cell != 0 and cell != label)
                    cell = label
        if cell == 0:
            classes[k] = OBJECT_DELETION if on else OBJECT_ADDITION
        elif several:
            classes[k] = SPLIT if on else MERGE
        elif not membrane:
            classes[k] = HOLE_ADDITION if on else HOLE_DELETION
        elif not on:
            classes[k] = HOLE_ADDITION
        else:
            classes[k] = HOLE_DELETION if _stays_whole(labels, y, x, radius) else SPLIT
    return classes


def mismatches(
    probability: NDArray[np.float32],
    truth: NDArray[np.bool_],
    threshold: float = 0.5,
    *,
    radius_px: int = 20,
) -> NDArray[np.uint8]:
    """Class (`Mismatch`) of each pixel of one slice that still differs after relaxation.

    The class follows from the cells (4-components) of the relaxed truth among the pixel's eight
    neighbours, neighbours outside the image left out:

    ============================  ===================================  ================
    neighbours                    pixel is interior in relaxed truth   pixel is membrane
    ============================  ===================================  ================
    membrane only                 object deletion                      object addition
    one cell, no membrane         hole addition                        hole deletion
    one cell and membrane         split, if cutting the pixel out of   hole addition
                                  its window parts the neighbours,
                                  else hole deletion
    two cells or more             split                                merge
    ============================  ===================================  ================

    Parameters
    ----------
    probability, truth, threshold
        As for `relax`.
    radius_px
        The window is (2 radius + 1) pixels wide; the challenge uses 20.

    Returns
    -------
    ndarray
        (H, W) uint8, 0 where nothing is wrong.

    Examples
    --------
    >>> mismatches(np.float32([[1, 1, 1]]), np.array([[True, False, True]]))
    array([[0, 2, 0]], dtype=uint8)
    """
    relaxed = relax(probability, truth, threshold)
    wrong = (probability.astype(np.float64) > threshold) != relaxed
    rows, columns = np.nonzero(wrong)
    framed = np.full((truth.shape[0] + 2, truth.shape[1] + 2), -1, np.int32)
    framed[1:-1, 1:-1] = cells(relaxed)
    classes = np.zeros(truth.shape, np.uint8)
    classes[rows, columns] = _classify(framed, rows + 1, columns + 1, radius_px)
    return classes


@dataclass(frozen=True)
class WarpingCounts:
    """Left-over pixels by class, and clusters of splits and mergers.

    Attributes
    ----------
    split, merge, hole_addition, hole_deletion, object_addition, object_deletion
        Pixels of each class.
    split_clusters
        4-connected components of the split pixels.
    merge_clusters
        8-connected components of the merge pixels.
    """

    split: int = 0
    merge: int = 0
    hole_addition: int = 0
    hole_deletion: int = 0
    object_addition: int = 0
    object_deletion: int = 0
    split_clusters: int = 0
    merge_clusters: int = 0

    @property
    def pixels(self) -> int:
        """All left-over pixels, whatever their class."""
        return (
            self.split + self.merge + self.hole_addition + self.hole_deletion
            + self.object_addition + self.object_deletion
        )  # fmt: skip


def count_mismatches(classes: NDArray[np.uint8]) -> WarpingCounts:
    """Counts of one slice's mismatch classes.

    Parameters
    ----------
    classes
        (H, W) uint8, from `mismatches`.

    Examples
    --------
    >>> counts = count_mismatches(np.uint8([[0, 2, 0], [2, 0, 1], [0, 0, 1]]))
    >>> counts.merge, counts.merge_clusters, counts.split, counts.split_clusters
    (2, 1, 2, 1)
    """
    pixels = np.bincount(classes.reshape(-1), minlength=len(Mismatch))
    _, split_clusters = ndimage.label(classes == SPLIT)
    _, merge_clusters = ndimage.label(classes == MERGE, structure=np.ones((3, 3)))
    counts = [*pixels[1:].tolist(), int(split_clusters), int(merge_clusters)]
    return WarpingCounts(*counts)
