"""Border thinning: a one-pixel line between cells, by Vincent and Soille's flooding in FIFO order.

Before the thinned scores V_rand and V_info are taken, the membranes of the proposal are reduced to
a line, so that their width costs nothing. The challenge's program floods the membrane from the
cells with the queue of Vincent and Soille (1991). Where the line falls depends on the order in
which pixels wait in that queue; other watersheds draw other lines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weightmaps.compiled import compiled

__all__ = ["thin"]

LINE, UNSEEN, QUEUED, OUTSIDE = 0, -1, -2, -3


@compiled
def _flood(labels: NDArray[np.int32], stride: int) -> None:
    # `labels` is flat, column after column, with a frame of OUTSIDE, so that the neighbours left,
    # up, right, down lie at these fixed distances, and one pass visits x outer, y inner.
    steps = (-stride, -1, stride, 1)
    queue = np.empty(labels.size, np.int32)
    head = tail = 0
    for k in range(labels.size):
        if labels[k] == UNSEEN:
            for step in steps:
                if labels[k + step] > 0:
                    labels[k] = QUEUED
                    queue[tail] = k
                    tail += 1
                    break
    while head < tail:
        k = queue[head]
        head += 1
        line_by_line = False  # the pixel became line only because it touched line
        for step in steps:
            other = labels[k + step]
            if other > 0:
                if labels[k] == QUEUED or (labels[k] == LINE and line_by_line):
                    labels[k] = other
                elif labels[k] > 0 and labels[k] != other:
                    labels[k] = LINE
                    line_by_line = False
            elif other == LINE:
                if labels[k] == QUEUED:
                    labels[k] = LINE
                    line_by_line = True
            elif other == UNSEEN:
                labels[k + step] = QUEUED
                queue[tail] = k + step
                tail += 1


def thin(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels grown over the membrane until only a 4-connected flood's meeting line is 0.

    Pixels enter the queue column by column (x outer, y inner) and look at their neighbours in the
    order left, up, right, down. A pixel takes the first cell it sees and becomes line when it sees
    a second one; a pixel that is line only because it touched line is given to the first cell it
    sees after that.

    Parameters
    ----------
    labels
        (H, W) int32, cells >= 1, 0 = to be flooded.

    Returns
    -------
    ndarray
        (H, W) int32, 0 = line. Without any cell the whole slice is one cell, labelled 1.

    References
    ----------
    Vincent and Soille, "Watersheds in digital spaces", IEEE PAMI 13(6), 1991.

    Examples
    --------
    >>> thin(np.int32([[1, 0, 0, 0, 2]]))
    array([[1, 1, 0, 2, 2]], dtype=int32)
    """
    if not labels.any():
        return np.ones(labels.shape, np.int32)
    framed = np.full((labels.shape[1] + 2, labels.shape[0] + 2), OUTSIDE, np.int32)
    inner = framed[1:-1, 1:-1]
    inner[...] = labels.T
    inner[inner == 0] = UNSEEN
    _flood(framed.reshape(-1), framed.shape[1])
    return np.ascontiguousarray(inner.T)
