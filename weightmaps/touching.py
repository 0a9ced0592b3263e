"""Where cells touch: pixels that have a pixel of another cell as a neighbour, corners included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["meetings", "touching_pairs"]

Labels: TypeAlias = npt.NDArray[Any]
Window: TypeAlias = tuple[slice, ...]

# Neighbours that a raster scan has already visited: NW, N, NE, W (Falk et al. 2019's rule). Of two
# opposite neighbours it is always one, so every pair of neighbours is met once.
_SCANNED_2D = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
_SCANNED_3D = (
    *((-1, dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)),
    *((0, dy, dx) for dy, dx in _SCANNED_2D),
)


def meetings(cells: Labels) -> Iterator[tuple[Window, Window, npt.NDArray[np.bool_]]]:
    """Yield where different cells are neighbours, one direction after the other.

    Parameters
    ----------
    cells
        Instance labels of one image ``(H, W)`` or volume ``(Z, Y, X)``, 0 = background.

    Yields
    ------
    here, there : tuple of slice
        Windows of the pixels that have a neighbour in this direction, and of those neighbours:
        the 4 (in volumes 13) that a raster scan has visited before the pixel.
    meet : ndarray of bool
        Which of these pairs are pixels of two cells, in the shape of both windows.

    Examples
    --------
    >>> for here, there, meet in meetings(np.array([[1, 1], [0, 2]])):
    ...     print(meet.tolist())
    [[True]]
    [[False, True]]
    [[False]]
    [[False], [False]]
    """
    for offset in _SCANNED_2D if cells.ndim == 2 else _SCANNED_3D:
        steps = list(zip(offset, cells.shape, strict=True))
        here = tuple(slice(max(0, -d), n - max(0, d)) for d, n in steps)
        there = tuple(slice(max(0, d), n - max(0, -d)) for d, n in steps)
        a, b = cells[here], cells[there]
        yield here, there, (a != b) & (a != 0) & (b != 0)


def touching_pairs(cells: Labels) -> Labels:
    """Return the pairs (smaller, larger) of ids that are neighbours somewhere, each once.

    Parameters
    ----------
    cells
        As for `meetings`.

    Returns
    -------
    ndarray
        Shape ``(N, 2)``, sorted, of the dtype of `cells`.

    Examples
    --------
    >>> touching_pairs(np.array([[3, 0, 0], [0, 1, 1]]))
    array([[1, 3]])
    """
    found = []
    for here, there, meet in meetings(cells):
        if meet.any():
            a, b = cells[here][meet], cells[there][meet]
            found.append(np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1), axis=0))
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), cells.dtype)
