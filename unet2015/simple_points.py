"""Simple points: pixels that can be flipped without changing any cell's topology.

Digital topology of Kong and Rosenfeld with 4-connected foreground and 8-connected background, as
in Jain et al. 2010. Whether a pixel is simple depends on its eight neighbours only, so the answer
for all 256 neighbourhoods is one table.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["RING", "is_simple", "simple_table"]

# Neighbours (dy, dx) in a circle; bit k of a neighbourhood's code is neighbour RING[k]. Even ones
# are the corners, odd ones are 4-adjacent to the centre.
RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def is_simple(neighbours: int) -> bool:
    """Whether a pixel with these eight neighbours is simple.

    It is if exactly one 4-connected component of the foreground neighbours is 4-adjacent to the
    centre, and not all eight are foreground. The centre's own value does not matter.

    Parameters
    ----------
    neighbours
        0..255: bit k is set where the neighbour `RING[k]` is foreground.

    Examples
    --------
    >>> is_simple(0b00001110)  # the whole row to one side
    True
    >>> is_simple(0b00100010)  # above and below only: a bridge
    False
    """
    if neighbours == 255:
        return False
    # Around the circle, consecutive neighbours are 4-adjacent: components are runs of set bits.
    # A run touches the centre's 4-neighbourhood if it holds an odd bit, and every run of two or
    # more does; so components are counted where such a run begins.
    bit = [neighbours >> k & 1 for k in range(8)]
    starts = 0
    for k in range(8):
        if bit[k] and not bit[k - 1]:
            starts += k % 2 == 1 or bit[(k + 1) % 8]
    return starts == 1


@cache
def simple_table() -> NDArray[np.uint8]:
    """(256,) uint8 table of `is_simple`, indexed by the neighbourhood's code.

    Examples
    --------
    >>> int(simple_table().sum())
    116
    """
    table = np.array([is_simple(code) for code in range(256)], np.uint8)
    table.flags.writeable = False
    return table
