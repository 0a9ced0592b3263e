"""Cells of one slice, and how two ways of cutting it into cells overlap.

A segmentation of a slice is an integer image: 0 = membrane, 1, 2, ... = cells. Two of them are
compared through the numbers n_ij of pixels that carry label i in the truth and j in the proposal,
counted over the truth's foreground only. Membrane pixels of the proposal inside a true cell are
*singletons*: each counts as a cell of its own (Arganda-Carreras et al. 2015, section 2.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from weightmaps.compiled import compiled

__all__ = ["PairCounts", "cells", "information_f", "pair_counts", "rand_counts"]


def cells(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Cells of a slice: the 4-connected components of its interior, numbered from 1.

    Parameters
    ----------
    mask
        (H, W) boolean, True = cell interior.

    Returns
    -------
    ndarray
        (H, W) int32, 0 = membrane.

    Examples
    --------
    >>> cells(np.array([[True, False], [False, True]]))
    array([[1, 0],
           [0, 2]], dtype=int32)
    """
    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels


@dataclass(frozen=True)
class PairCounts:
    """Overlap of a proposal's labels with the cells of the truth, over the truth's foreground.

    Attributes
    ----------
    truth_label, proposal_label, pixels
        (P,) int64 each: pairs (i >= 1, j >= 0) that occur, and their pixel counts n_ij.
    """

    truth_label: NDArray[np.int64]
    proposal_label: NDArray[np.int64]
    pixels: NDArray[np.int64]

    @property
    def total(self) -> int:
        """Pixels of the truth's foreground, n."""
        return int(self.pixels.sum())

    @property
    def singletons(self) -> int:
        """Pixels of true cells that the proposal calls membrane, Z."""
        return int(self.pixels[self.proposal_label == 0].sum())

    @property
    def truth_sizes(self) -> NDArray[np.int64]:
        """Sizes a_i of the true cells that occur, proposal membrane included."""
        return _sums(self.truth_label, self.pixels)

    @property
    def proposal_sizes(self) -> NDArray[np.int64]:
        """Sizes b_j of the proposal's cells, j >= 1, within the truth's foreground."""
        inside = self.proposal_label > 0
        return _sums(self.proposal_label[inside], self.pixels[inside])


def _sums(label: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of `pixels` for each label that occurs, exact in integers."""
    total = np.zeros(int(label.max(initial=0)) + 1, np.int64)
    np.add.at(total, label, pixels)
    return total[total > 0]


@compiled
def _count_pairs(
    truth: NDArray[np.int32], proposal: NDArray[np.int32], truth_count: int, proposal_count: int
) -> NDArray[np.int64]:
    # Pixels are sorted by true label (counting sort); then each true cell is tallied in one dense
    # row over the proposal's labels, of which only the touched entries are read and cleared.
    start = np.zeros(truth_count + 2, np.int64)
    for k in range(truth.size):
        start[truth[k] + 1] += 1
    for label in range(1, truth_count + 2):
        start[label] += start[label - 1]
    cursor = start.copy()
    sorted_labels = np.empty(truth.size, np.int32)
    for k in range(truth.size):
        sorted_labels[cursor[truth[k]]] = proposal[k]
        cursor[truth[k]] += 1
    row = np.zeros(proposal_count + 1, np.int64)
    pairs = np.empty((truth.size - start[1], 3), np.int64)
    found = 0
    for label in range(1, truth_count + 1):
        first = found
        for k in range(start[label], start[label + 1]):
            other = sorted_labels[k]
            if row[other] == 0:
                pairs[found, 0], pairs[found, 1] = label, other
                found += 1
            row[other] += 1
        for k in range(first, found):
            pairs[k, 2] = row[pairs[k, 1]]
            row[pairs[k, 1]] = 0
    return pairs[:found].copy()


def pair_counts(truth: NDArray[np.int32], proposal: NDArray[np.int32]) -> PairCounts:
    """Pixel counts n_ij of each pair of labels, over the foreground of the truth.

    Parameters
    ----------
    truth, proposal
        (H, W) int32 labels >= 0 of the same shape; 0 = membrane.

    Returns
    -------
    PairCounts
        In order of the true label, then of first appearance.

    Examples
    --------
    >>> pairs = pair_counts(np.int32([[1, 1, 0, 2]]), np.int32([[1, 0, 1, 1]]))
    >>> pairs.truth_label, pairs.proposal_label, pairs.pixels
    (array([1, 1, 2]), array([1, 0, 1]), array([1, 1, 1]))
    """
    flat_truth = np.ascontiguousarray(truth, np.int32).reshape(-1)
    flat_proposal = np.ascontiguousarray(proposal, np.int32).reshape(-1)
    if flat_truth.shape != flat_proposal.shape:
        raise ValueError(f"labels of shapes {truth.shape} and {proposal.shape} cannot be paired")
    highest = int(flat_truth.max(initial=0)), int(flat_proposal.max(initial=0))
    pairs = _count_pairs(flat_truth, flat_proposal, *highest)
    return PairCounts(pairs[:, 0], pairs[:, 1], pairs[:, 2])


def rand_counts(pairs: PairCounts) -> tuple[int, int, int]:
    """Sums of squares (S_AB, S_A, S_B) of the foreground-restricted Rand score.

    Pixel pairs are counted with N^2 normalisation, and each singleton adds 1 to S_AB and S_B.

    Examples
    --------
    >>> rand_counts(pair_counts(np.int32([[1, 1, 1, 2]]), np.int32([[1, 1, 0, 2]])))
    (6, 10, 6)
    """
    joint = pairs.pixels[pairs.proposal_label > 0]
    z = pairs.singletons
    return (
        int((joint * joint).sum()) + z,
        int((pairs.truth_sizes**2).sum()),
        int((pairs.proposal_sizes**2).sum()) + z,
    )


def information_f(pairs: PairCounts) -> float:
    """Information score of one slice: 2 I / (H(truth) + H(proposal)), natural logarithm.

    Entropies are over the truth's foreground; each singleton is a cell of one pixel. If both
    entropies are 0 the truth and the proposal are the same single cell, and the score is 1.

    Examples
    --------
    >>> information_f(pair_counts(np.int32([[1, 1, 2, 2]]), np.int32([[1, 1, 1, 1]])))
    0.0
    >>> information_f(pair_counts(np.int32([[1, 1, 2, 2]]), np.int32([[5, 5, 3, 3]])))
    1.0
    """
    n = pairs.total
    lone = pairs.singletons / n * np.log(n)
    s_a = _plogp(pairs.truth_sizes / n)
    s_b = _plogp(pairs.proposal_sizes / n) - lone
    s_ab = _plogp(pairs.pixels[pairs.proposal_label > 0] / n) - lone
    if s_a + s_b == 0.0:
        return 1.0
    return float(2.0 * (s_ab - s_a - s_b) / -(s_a + s_b))


def _plogp(p: NDArray[np.float64]) -> float:
    return float((p * np.log(p)).sum())
