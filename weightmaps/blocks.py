"""The weight map of an image larger than memory, block by block, equal to the whole map bit by bit.

A block is a band of full rows: files store rows, the carving rule looks left and up, and a band
needs context on two sides only. The border term below half of `EPSILON` is exactly 0, so context
further away than `WeightMapSpec.halo_px` changes nothing. What does depend on the whole image is
the class term: a first pass counts the pixels of both classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.band import RowBand
from tiling.mirror import Source
from weightmaps.carving import separate_touching
from weightmaps.class_balance import class_weights
from weightmaps.formula import map_of_slices
from weightmaps.labels import as_labels
from weightmaps.multiclass import class_numbers, map_of_classes, with_ignored
from weightmaps.spec import WeightMapSpec
from weightmaps.touching import touching_pairs

__all__ = ["Census", "census", "weight_map_blocks"]

BLOCK_PX = 1 << 21  # pixels of a block, context not counted, when nothing else is said
_PORTION = 32  # rows asked from a source at once
_PAPER = WeightMapSpec()


def weight_map_blocks(
    labels: Source,
    spec: WeightMapSpec = _PAPER,
    *,
    classes: Source | None = None,
    block_rows: int | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Return the weight map as bands of rows from top to bottom.

    Parameters
    ----------
    labels
        Instance labels of one image, shape ``(H, W)``: an integer array, or anything that has
        `shape` and `dtype` and reads by ``labels[..., y0:y1, x0:x1]`` (a zarr array, a page of a
        file). Read from top to bottom, each row once; twice with class weights ``"balanced"`` or
        ``"per-image"``, which for one image are the same.
    spec
        Parameters. For a data set pass its class weights as numbers: ``class_weights=(1.2, 0.8)``.
    classes
        Class of each pixel, as for `multiclass_weight_map`; a source like `labels`.
    block_rows
        Rows of a block; about 2 million pixels if not given. Memory is proportional to it.
    dtype
        float16, float32 or float64.

    Yields
    ------
    top : int
        First row of the block.
    block : ndarray of `dtype`
        Shape ``(rows, W)``, the bits of ``weight_map(labels, ...)[top : top + rows]``.

    Raises
    ------
    ValueError
        For block_rows below 1, other than two axes, and as `weight_map`.

    Examples
    --------
    >>> labels = np.array([[1, 0, 2], [1, 0, 2], [0, 0, 0]])
    >>> for top, block in weight_map_blocks(labels, WeightMapSpec(class_weights="none"),
    ...                                     block_rows=2):
    ...     print(top, block.round(2))
    0 [[ 1.   10.23  1.  ]
       [ 1.   10.23  1.  ]]
    2 [[9.11 9.52 9.11]]
    """
    if len(labels.shape) != 2:
        raise ValueError(f"labels of shape {labels.shape} are not one image (H, W)")
    spec.check_axes(2)
    width = labels.shape[1]
    rows = max(1, BLOCK_PX // max(1, width)) if block_rows is None else block_rows
    if rows < 1:
        raise ValueError(f"block_rows {rows} must be at least 1")
    if spec.class_weights in ("balanced", "per-image"):
        counts = census(labels, spec, classes=classes, block_rows=rows).counts
        spec = replace(spec, class_weights=tuple(class_weights(counts).tolist()))
    return _blocks(labels, spec, classes, rows, dtype)


def _blocks(
    labels: Source, spec: WeightMapSpec, classes: Source | None, rows: int, dtype: npt.DTypeLike
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    height = labels.shape[0]
    halo = spec.halo_px
    band = RowBand(labels, rows + 2 * halo + 1)
    beside = None if classes is None else RowBand(classes, rows + 2 * halo + 1)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        y0, y1 = _context(top, halo, spec), min(height, bottom + halo)
        inner = ((top - y0, bottom - y0), (0, labels.shape[1]))
        # Nothing here holds the block while the next one is made.
        if beside is None:
            yield top, map_of_slices(_window(band, y0, y1), spec, dtype, inner)
        else:
            window = as_labels(_window(band, y0, y1), ignore_label=spec.ignore_label)
            kinds = _window(beside, y0, y1)
            window = with_ignored(window, kinds, spec.ignore_label)
            kinds = kinds[top - y0 : bottom - y0]
            yield top, map_of_classes(window[None], kinds[None], spec, dtype, inner)[0]


def _context(top: int, halo: int, spec: WeightMapSpec) -> int:
    """First row of a window; an even one where the flooding goes by even and odd rows."""
    first = max(0, top - halo)
    return first - first % 2 if spec.line == "watershed" else first


def _window(band: RowBand, y0: int, y1: int) -> npt.NDArray[Any]:
    """Rows of the band, which takes the new ones in small portions: readers need copies."""
    width = band.shape[1]
    for bottom in range(y0 + _PORTION, y1, _PORTION):
        band[..., y0:bottom, 0:width]
    rows: npt.NDArray[Any] = band[..., y0:y1, 0:width][0]
    return rows


@dataclass
class Census:
    """What has been counted in an image, or in several.

    Parameters
    ----------
    counts
        Background and cell pixels after carving, int64, shape ``(2,)``; pixels of each class,
        shape ``(K,)``, where classes were counted.
    ids
        Instance labels that occur, sorted.
    pairs
        Pairs of instances that touch (8 neighbours, before carving), shape ``(N, 2)``, sorted.
    """

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    ids: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.int64))
    pairs: npt.NDArray[Any] = field(default_factory=lambda: np.zeros((0, 2), np.int64))


def census(
    labels: Source,
    spec: WeightMapSpec = _PAPER,
    *,
    classes: Source | None = None,
    block_rows: int | None = None,
) -> Census:
    """Return the pixels of the classes, the cells and the touching pairs of one image.

    Parameters
    ----------
    labels, classes, block_rows
        As in `weight_map_blocks`.
    spec
        Its `separate` and `ignore_label` decide what is counted.

    Examples
    --------
    >>> found = census(np.array([[1, 1, 2], [0, 0, 2]]))
    >>> found.counts, found.ids, found.pairs
    (array([4, 2]), array([1, 2]), array([[1, 2]]))
    """
    height, width = labels.shape
    rows = max(1, BLOCK_PX // max(1, width)) if block_rows is None else block_rows
    reach = max(1, spec.line_reach_px)  # touching looks one pixel up, whatever is carved
    band = RowBand(labels, rows + 2 * reach + 1)
    beside = None if classes is None else RowBand(classes, rows + 2 * reach + 1)
    total = Census()
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        below = bottom if spec.line != "watershed" else min(height, bottom + reach)
        first = _context(top, reach, spec)
        window = as_labels(_window(band, first, below), ignore_label=spec.ignore_label)
        kinds = None if beside is None else _window(beside, first, below)
        total = _added(total, window, slice(top - first, bottom - first), spec, kinds)
    return total


def _added(
    total: Census,
    window: npt.NDArray[Any],
    rows: slice,
    spec: WeightMapSpec,
    kinds: npt.NDArray[Any] | None,
) -> Census:
    cells, outside = window, np.zeros((), np.bool_)
    if spec.ignore_label is not None:
        outside = window == spec.ignore_label
        if kinds is not None:
            outside |= kinds == spec.ignore_label
        cells = np.where(outside, window.dtype.type(0), window)
    pairs = touching_pairs(cells)
    inside = cells
    if spec.line is not None and len(pairs):
        inside = separate_touching(cells, method=spec.line)
    ignored = outside[rows] if outside.ndim else None
    if kinds is None:
        kinds = inside[rows] != 0
    else:
        kinds = np.where((cells[rows] != 0) & (inside[rows] == 0), 0, kinds[rows])
    return Census(
        added_counts(total.counts, class_pixels(kinds, ignored)),
        np.union1d(total.ids, _ids(cells)) if len(total.ids) else _ids(cells),
        np.unique(np.concatenate([total.pairs, pairs]), axis=0) if len(total.pairs) else pairs,
    )


def class_pixels(
    kinds: npt.NDArray[Any], ignored: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.int64]:
    """Return the pixels of each class 0, 1, ... (at least two), those ignored left out.

    Examples
    --------
    >>> class_pixels(np.array([[0, 2, 2]]), None)
    array([1, 0, 2])
    """
    if kinds.dtype == np.bool_:
        counted = kinds.size if ignored is None else int(np.count_nonzero(~ignored))
        cells = int(np.count_nonzero(kinds))  # an ignored pixel is none
        return np.array([counted - cells, cells])
    taken = kinds.ravel() if ignored is None else kinds[~ignored]
    return np.bincount(class_numbers(taken), minlength=2)


def added_counts(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the sum of two rows of counts; the shorter one has zeros beyond its end.

    Examples
    --------
    >>> added_counts([1, 2], [1, 0, 5])
    array([2, 2, 5])
    """
    first, second = np.asarray(a, np.int64), np.asarray(b, np.int64)
    total = np.zeros(max(first.size, second.size), np.int64)
    total[: first.size] += first
    total[: second.size] += second
    return total


def _ids(cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sorted ids; only pixels where a run begins are looked at."""
    begins = np.empty(cells.shape, np.bool_)
    begins[:, :1] = True
    np.not_equal(cells[:, 1:], cells[:, :-1], out=begins[:, 1:])
    found = np.unique(cells[begins])
    cell_ids: npt.NDArray[Any] = found[found != 0]
    return cell_ids
