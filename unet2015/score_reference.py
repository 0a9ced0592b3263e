"""The ISBI measures of one slice, slow and obvious: plain loops straight from the definitions.

Nothing here is shared with the compiled code that `unet2015.score` uses; the tests hold the two
against each other on small slices.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from unet2015.warping import Mismatch

__all__ = [
    "cells_reference",
    "information_f_reference",
    "is_simple_reference",
    "mismatches_reference",
    "rand_f_reference",
    "relax_reference",
    "thin_reference",
]

FOUR = ((-1, 0), (0, -1), (1, 0), (0, 1))
EIGHT = (*FOUR, (-1, -1), (-1, 1), (1, -1), (1, 1))


def _around(
    shape: tuple[int, ...], y: int, x: int, steps: tuple[tuple[int, int], ...]
) -> Iterator[tuple[int, int]]:
    for dy, dx in steps:
        if 0 <= y + dy < shape[0] and 0 <= x + dx < shape[1]:
            yield y + dy, x + dx


def cells_reference(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """4-connected components by breadth-first search, numbered row by row from 1.

    Examples
    --------
    >>> cells_reference(np.array([[True, False], [False, True]]))
    array([[1, 0],
           [0, 2]], dtype=int32)
    """
    labels = np.zeros(mask.shape, np.int32)
    count = 0
    for start in product(range(mask.shape[0]), range(mask.shape[1])):
        if labels[start] or not mask[start]:
            continue
        count += 1
        labels[start] = count
        queue = deque([start])
        while queue:
            y, x = queue.popleft()
            for there in _around(mask.shape, y, x, FOUR):
                if mask[there] and not labels[there]:
                    labels[there] = count
                    queue.append(there)
    return labels


def thin_reference(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Vincent and Soille's flood with a Python queue; see `unet2015.thinning.thin`.

    Examples
    --------
    >>> thin_reference(np.int32([[1, 0, 0, 0, 2]]))
    array([[1, 1, 0, 2, 2]], dtype=int32)
    """
    left_up_right_down = ((0, -1), (-1, 0), (0, 1), (1, 0))
    height, width = labels.shape
    out: dict[tuple[int, int], int | str] = {}
    for y, x in product(range(height), range(width)):
        out[y, x] = int(labels[y, x]) or "waiting"
    if not labels.any():
        return np.ones(labels.shape, np.int32)
    queue: deque[tuple[int, int]] = deque()
    for x, y in product(range(width), range(height)):
        if out[y, x] == "waiting" and any(
            isinstance(out[there], int) for there in _around(labels.shape, y, x, FOUR)
        ):
            queue.append((y, x))
    for here in queue:
        out[here] = "queued"
    while queue:
        here = queue.popleft()
        only_touched_line = False
        for there in _around(labels.shape, *here, left_up_right_down):
            mine, other = out[here], out[there]
            if other == "waiting":
                out[there] = "queued"
                queue.append(there)
            elif other == "line" and mine == "queued":
                out[here], only_touched_line = "line", True
            elif isinstance(other, int):
                if mine == "queued" or (mine == "line" and only_touched_line):
                    out[here] = other
                elif isinstance(mine, int) and mine != other:
                    out[here], only_touched_line = "line", False
    flat = [0 if value == "line" else value for value in out.values()]
    return np.array(flat, np.int32).reshape(labels.shape)


def _with_singletons(
    truth: NDArray[np.int32], proposal: NDArray[np.int32]
) -> tuple[list[int], list[int]]:
    """Labels of the truth's foreground pixels; proposal membrane pixels get a label each."""
    inside = truth > 0
    theirs = [
        int(label) if label else -1 - index for index, label in enumerate(proposal[inside].tolist())
    ]
    return truth[inside].tolist(), theirs


def rand_f_reference(truth: NDArray[np.int32], proposal: NDArray[np.int32]) -> float:
    """Rand F by visiting all ordered pairs of foreground pixels, each with itself included.

    The truth joins two pixels of one cell, and the proposal likewise; a pixel of proposed membrane
    is joined to itself only.

    Examples
    --------
    >>> rand_f_reference(np.int32([[1, 1, 1, 2]]), np.int32([[1, 1, 0, 2]]))
    0.75
    """
    ours, theirs = _with_singletons(truth, proposal)
    pairs = list(product(range(len(ours)), repeat=2))
    joined_truth = {(a, b) for a, b in pairs if ours[a] == ours[b]}
    joined_proposal = {(a, b) for a, b in pairs if theirs[a] == theirs[b]}
    return 2 * len(joined_truth & joined_proposal) / (len(joined_truth) + len(joined_proposal))


def information_f_reference(truth: NDArray[np.int32], proposal: NDArray[np.int32]) -> float:
    """Information F from the entropies of label counts, each lone pixel a label of its own.

    Examples
    --------
    >>> information_f_reference(np.int32([[1, 1, 2, 2]]), np.int32([[5, 5, 3, 3]]))
    1.0
    """
    ours, theirs = _with_singletons(truth, proposal)
    pixels = len(ours)

    def entropy(labels: list[object]) -> float:
        shares = [count / pixels for count in Counter(labels).values()]
        return -sum(share * math.log(share) for share in shares)

    h_truth, h_proposal = entropy(list(ours)), entropy(list(theirs))
    joint = entropy(list(zip(ours, theirs, strict=True)))
    if h_truth + h_proposal == 0.0:
        return 1.0
    return 2 * (h_truth + h_proposal - joint) / (h_truth + h_proposal)


def is_simple_reference(patch: NDArray[np.bool_]) -> bool:
    """Whether the centre of a 3 x 3 patch is simple, by counting components both ways.

    Exactly one 4-component of the foreground neighbours is 4-adjacent to the centre, and not all
    eight neighbours are foreground.

    Examples
    --------
    >>> is_simple_reference(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]], bool))
    True
    """
    ring = patch.copy()
    ring[1, 1] = False
    if ring.sum() == 8:
        return False
    components = cells_reference(ring)
    touching = {int(components[there]) for there in _around((3, 3), 1, 1, FOUR)} - {0}
    return len(touching) == 1


def relax_reference(
    probability: NDArray[np.float32], truth: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """Relaxed truth by listing and sorting all differing pixels anew each round; see `relax`.

    Examples
    --------
    >>> relax_reference(np.float32([[0.9, 0.9, 0.1]]), np.array([[True, False, False]]), 0.5)
    array([[ True,  True, False]])
    """
    target = np.pad(probability.astype(np.float64) > threshold, 1)
    relaxed = np.pad(truth, 1)
    certainty = np.pad(np.float32(np.abs(probability.astype(np.float64) - threshold)), 1)
    before = -1
    while True:
        differing = [
            (y, x)
            for x, y in product(range(target.shape[1]), range(target.shape[0]))
            if target[y, x] != relaxed[y, x]
        ]
        if len(differing) in (0, before):
            return relaxed[1:-1, 1:-1]
        before = len(differing)
        for y, x in sorted(differing, key=lambda place: -certainty[place]):
            if is_simple_reference(relaxed[y - 1 : y + 2, x - 1 : x + 2]):
                relaxed[y, x] = target[y, x]


def mismatches_reference(
    probability: NDArray[np.float32],
    truth: NDArray[np.bool_],
    threshold: float = 0.5,
    *,
    radius_px: int = 20,
) -> NDArray[np.uint8]:
    """Classes of left-over pixels by the table of `unet2015.warping.mismatches`.

    Examples
    --------
    >>> mismatches_reference(np.float32([[1, 1, 1]]), np.array([[True, False, True]]))
    array([[0, 2, 0]], dtype=uint8)
    """
    relaxed = relax_reference(probability, truth, threshold)
    labels = cells_reference(relaxed)
    classes = np.zeros(truth.shape, np.uint8)
    wrong = (probability.astype(np.float64) > threshold) != relaxed
    for y, x in zip(*np.nonzero(wrong), strict=True):
        on = relaxed[y, x]
        ids = {int(labels[there]) for there in _around(truth.shape, y, x, EIGHT)}
        if ids <= {0}:
            kind = Mismatch.OBJECT_DELETION if on else Mismatch.OBJECT_ADDITION
        elif len(ids - {0}) > 1:
            kind = Mismatch.SPLIT if on else Mismatch.MERGE
        elif 0 not in ids:
            kind = Mismatch.HOLE_ADDITION if on else Mismatch.HOLE_DELETION
        elif not on:
            kind = Mismatch.HOLE_ADDITION
        else:
            padded = np.pad(relaxed, radius_px)
            window = padded[y : y + 2 * radius_px + 1, x : x + 2 * radius_px + 1].copy()
            window[radius_px, radius_px] = False
            parts = cells_reference(window)
            around = _around(window.shape, radius_px, radius_px, EIGHT)
            split = len({int(parts[there]) for there in around}) > 2
            kind = Mismatch.SPLIT if split else Mismatch.HOLE_DELETION
        classes[y, x] = kind
    return classes
