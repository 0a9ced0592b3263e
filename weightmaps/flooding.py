"""The minimal line between touching cells: their common band, flooded back from both sides."""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightmaps.touching import meetings

__all__ = ["REACH_PX", "dry_line"]

Labels: TypeAlias = npt.NDArray[Any]

REACH_PX = 5  # of a pixel's state: the band looks one pixel far, each of four passes one more


def dry_line(cells: Labels) -> npt.NDArray[np.bool_]:
    """Return the pixels that keep cells apart after all others of their band were given back.

    Parameters
    ----------
    cells
        Instance labels of one image or volume, 0 = background.

    Returns
    -------
    ndarray of bool
        Same shape. Without these pixels no two neighbours (corners included) carry different ids,
        and none of them could be given back.

    Examples
    --------
    >>> dry_line(np.array([[1, 1, 2, 2]])).astype(int)
    array([[0, 1, 0, 0]])
    """
    # Pixels of one parity class (y mod 2, x mod 2) are never neighbours, so a whole class can be
    # given back at once without two of them joining different cells.
    padded = np.pad(cells, 1)
    flat = padded.ravel()
    strides = [s // padded.itemsize for s in padded.strides]
    steps = np.array(
        [np.dot(o, strides) for o in itertools.product((-1, 0, 1), repeat=cells.ndim) if any(o)]
    )
    band = np.flatnonzero(np.pad(_touching(cells), 1))
    kept = flat.copy()
    kept[band] = 0
    parity = np.stack(np.unravel_index(band, padded.shape)) % 2
    for odd in itertools.product((1, 0), repeat=cells.ndim):  # the padding has made even odd
        some = band[(parity == np.array(odd)[:, None]).all(axis=0)]
        own = flat[some]
        around = kept[some[:, None] + steps]
        free = ~((around != 0) & (around != own[:, None])).any(axis=1)
        kept[some[free]] = own[free]
    inner = (slice(1, -1),) * cells.ndim
    dry: npt.NDArray[np.bool_] = (kept != flat).reshape(padded.shape)[inner]
    return dry


def _touching(cells: Labels) -> npt.NDArray[np.bool_]:
    """Tell which cell pixels have a neighbour of another cell."""
    found = np.zeros(cells.shape, np.bool_)
    for here, there, meet in meetings(cells):
        found[here] |= meet
        found[there] |= meet
    return found
