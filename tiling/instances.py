"""Connected components of an image that passes by in bands, numbered as if seen whole.

Rows are cut into runs of one class; runs that touch runs of the row above belong together. Each
band is solved alone, and a table of equal labels (union-find) joins what touches across the border
of two bands. Numbers are given in the order of each component's first pixel, row by row, as
`scipy.ndimage.label` and `skimage.measure.label` give them for the whole image. Two passes: the
first finds the components, the second writes their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.mirror import Source

__all__ = ["Components", "label_bands"]

Ints = npt.NDArray[np.int64]


class Components:
    """Union-find over provisional labels 1, 2, ...; the smallest of a set stands for it.

    Examples
    --------
    >>> sets = Components()
    >>> sets.grow(4)
    >>> sets.join(np.array([4, 2]), np.array([2, 3]))
    >>> sets.numbers()
    array([0, 1, 2, 2, 2], dtype=uint32)
    """

    def __init__(self) -> None:
        self._parent: Ints = np.zeros(1, np.int64)
        self._count = 1

    def grow(self, labels: int) -> None:
        """Add that many new labels, each a set of its own."""
        end = self._count + labels
        if end > self._parent.size:
            parent = np.zeros(max(end, 2 * self._parent.size), np.int64)
            parent[: self._count] = self._parent[: self._count]
            self._parent = parent
        self._parent[self._count : end] = np.arange(self._count, end)
        self._count = end

    def join(self, one: Ints, other: Ints) -> None:
        """Join the sets of each pair of labels."""
        if one.size == 0:
            return
        pairs = np.unique(np.stack([one, other], axis=1), axis=0)
        for a, b in pairs.tolist():
            low, high = sorted((self._root(a), self._root(b)))
            self._parent[high] = low

    def _root(self, label: int) -> int:
        root = label
        while self._parent[root] != root:
            root = int(self._parent[root])
        while self._parent[label] != root:
            self._parent[label], label = root, int(self._parent[label])
        return root

    def numbers(self) -> npt.NDArray[np.uint32]:
        """Final number of each provisional label, 1, 2, ... in the order of the smallest.

        Raises
        ------
        OverflowError
            If there are more components than 32 bits can number.
        """
        parent = _flat(self._parent[: self._count])
        roots = parent == np.arange(self._count)
        roots[0] = False
        if np.count_nonzero(roots) >= 2**32:
            raise OverflowError("more than 4294967295 components; label regions of the image")
        order = np.cumsum(roots)
        order[0] = 0
        return order[parent].astype(np.uint32)


def label_bands(
    source: Source, sink: Any, *, rows: int = 512, eight: bool = False, background: int = 0
) -> int:
    """Label the connected components of equal class in `source`, into `sink`; memory of a band.

    Parameters
    ----------
    source
        (H, W) or (1, H, W) integer or bool class labels; read twice, in bands.
    sink
        (H, W) or (1, H, W), uint32; takes full-width bands in order.
    rows
        Height of a band.
    eight
        Whether diagonal neighbours touch (8-connected); else only sides do (4-connected).
    background
        The class that is no object; it becomes 0.

    Returns
    -------
    int
        Number of components. Two classes never make one component.

    Raises
    ------
    ValueError
        If `source` has more than one channel, or `rows` is less than 1.
    OverflowError
        If there are more components than 32 bits can number.

    Examples
    --------
    >>> image = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [2, 0, 1]])
    >>> found = np.zeros(image.shape, np.uint32)
    >>> label_bands(image, found, rows=1)
    3
    >>> found
    array([[1, 0, 1],
           [1, 1, 1],
           [0, 0, 0],
           [2, 0, 3]], dtype=uint32)
    """
    if rows < 1:
        raise ValueError(f"a band of rows {rows} holds nothing; use 1 or more")
    if len(source.shape) == 3 and source.shape[0] != 1:
        raise ValueError(f"class labels of shape {tuple(source.shape)}; they have one channel")
    components = Components()
    above: _Runs | None = None
    first = 0
    for _, classes in _bands(source, rows):
        runs = _solved(classes, background, eight)
        components.grow(runs.count)
        runs.labels[runs.labels > 0] += first
        if above is not None:
            top = runs.row(0)
            one, other = _touching(above, top, eight)
            components.join(above.labels[one], top.labels[other])
        above = runs.row(classes.shape[0] - 1)
        first += runs.count
    numbers = components.numbers()
    first = 0
    flat = len(tuple(getattr(sink, "shape", (0, 0)))) == 2
    for y, classes in _bands(source, rows):
        runs = _solved(classes, background, eight)
        runs.labels[runs.labels > 0] += first
        height, width = classes.shape
        block = np.repeat(numbers[runs.labels], runs.ends - runs.starts).reshape(height, width)
        sink[..., y : y + height, 0:width] = block if flat else block[None]
        first += runs.count
    return int(numbers.max())


@dataclass(frozen=True)
class _Runs:
    """Runs of one class, all pixels of a band in raster order, background included.

    `starts` and `ends` count `pitch` = width + 1 positions to a row, so that the end of one row
    never touches the start of the next. `labels` is 0 for background, else 1 ... `count`.
    """

    starts: Ints
    ends: Ints
    classes: npt.NDArray[Any]
    labels: Ints
    pitch: int
    count: int

    def row(self, number: int) -> _Runs:
        """Runs of one row, as if it were the first."""
        offset = number * self.pitch
        low, high = np.searchsorted(self.starts, [offset, offset + self.pitch])
        part = slice(low, high)
        return _Runs(
            self.starts[part] - offset, self.ends[part] - offset, self.classes[part],
            self.labels[part].copy(), self.pitch, 0,
        )  # fmt: skip


def _solved(classes: npt.NDArray[Any], background: int, eight: bool) -> _Runs:
    """Runs of a band with the components they form, numbered by their first pixel."""
    height, width = classes.shape
    begins = np.ones(classes.shape, bool)
    np.not_equal(classes[:, 1:], classes[:, :-1], out=begins[:, 1:])
    flat = np.flatnonzero(begins)
    ends = np.append(flat[1:], height * width)
    row = flat // width
    values = classes.reshape(-1)[flat]
    runs = _Runs(flat + row, ends + row, values, np.zeros(flat.size, np.int64), width + 1, 0)
    below = _Runs(runs.starts - runs.pitch, runs.ends - runs.pitch, values, runs.labels, 0, 0)
    parent = _joined(runs.starts.size, *_touching(runs, below, eight))
    roots = (parent == np.arange(parent.size)) & (values != background)
    labels = np.cumsum(roots)[parent]
    labels[values == background] = 0
    return _Runs(runs.starts, runs.ends, values, labels, runs.pitch, int(np.count_nonzero(roots)))


def _touching(above: _Runs, below: _Runs, eight: bool) -> tuple[Ints, Ints]:
    """Pairs (index above, index below) of runs of one class that overlap, in equal positions."""
    low = np.searchsorted(above.ends, below.starts, side="left" if eight else "right")
    high = np.searchsorted(above.starts, below.ends, side="right" if eight else "left")
    number = np.maximum(high - low, 0)
    lower = np.repeat(np.arange(low.size), number)
    upper = np.arange(lower.size) - np.repeat(np.cumsum(number) - number - low, number)
    same = above.classes[upper] == below.classes[lower]
    return upper[same], lower[same]


def _joined(size: int, one: Ints, other: Ints) -> Ints:
    """Smallest member of each element's set, when the pairs are joined."""
    parent = np.arange(size)
    while True:
        a, b = parent[one], parent[other]
        apart = a != b
        if not apart.any():
            return parent
        one, other = one[apart], other[apart]
        np.minimum.at(parent, np.maximum(a, b)[apart], np.minimum(a, b)[apart])
        parent = _flat(parent)


def _flat(parent: Ints) -> Ints:
    """Every element pointing at its root."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return above
        parent = above


def _bands(source: Source, rows: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    height, width = source.shape[-2:]
    for y in range(0, height, rows):
        block = np.asarray(source[..., y : min(y + rows, height), 0:width])
        yield y, block.reshape(block.shape[-2:])
