"""Measures that match whole objects: SEG of the Cell Tracking Challenge, average precision of DSB.

Label images are matched slice by slice: an id belongs to one object of one slice, of any number of
pieces, and 0 is background.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet2015.truth import TruthError, true_labels
from weightmaps.labels import whole_numbers

__all__ = ["ctc_jaccards", "ctc_seg", "dsb_ap", "dsb_image_ap"]


class _Overlap(NamedTuple):
    """Pairs of objects that meet in one slice, and the sizes of all objects."""

    truth: NDArray[np.intp]  # (P,) index into truth_sizes
    found: NDArray[np.intp]  # (P,) index into found_sizes
    pixels: NDArray[np.int64]  # (P,) common pixels
    truth_sizes: NDArray[np.int64]
    found_sizes: NDArray[np.int64]

    @property
    def union(self) -> NDArray[np.int64]:
        return self.truth_sizes[self.truth] + self.found_sizes[self.found] - self.pixels


def _label_stacks(prediction: ArrayLike, truth: ArrayLike) -> tuple[NDArray, NDArray]:  # type: ignore[type-arg]
    found, true = whole_numbers(np.asarray(prediction)), true_labels(truth, zero="background")
    if found.shape != true.shape:
        raise ValueError(f"prediction {found.shape} and truth {true.shape} must have equal shapes")
    if true.ndim not in (2, 3) or true.size == 0:
        raise ValueError(f"shape {true.shape} is not (H, W) or (slices, H, W)")
    if found.dtype.kind not in "biu":
        raise TypeError(f"prediction of type {found.dtype}; object labels must be integers")
    if found.min() < 0:
        raise ValueError(
            f"prediction has the negative label {found.min()}; 0 is background, cells are above:"
            " save it so"
        )
    shape = (-1, *true.shape[-2:])
    return found.reshape(shape), true.reshape(shape)


def _overlap(found: NDArray[np.integer], truth: NDArray[np.integer]) -> _Overlap:
    truth_ids, truth_index, truth_sizes = np.unique(truth, return_inverse=True, return_counts=True)
    found_ids, found_index, found_sizes = np.unique(found, return_inverse=True, return_counts=True)
    both = ((truth != 0) & (found != 0)).reshape(-1)
    key = truth_index.reshape(-1)[both] * len(found_ids) + found_index.reshape(-1)[both]
    pairs, pixels = np.unique(key, return_counts=True)
    rows, columns = np.divmod(pairs, len(found_ids))
    # Background, if there is any, is the first id of its image.
    skip_truth, skip_found = int(truth_ids[0] == 0), int(found_ids[0] == 0)
    return _Overlap(
        rows - skip_truth, columns - skip_found, pixels,
        truth_sizes[skip_truth:], found_sizes[skip_found:],
    )  # fmt: skip


def ctc_jaccards(prediction: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Jaccard index of each reference object, slice by slice in order of id.

    Parameters, errors and matching are those of `ctc_seg`.

    Examples
    --------
    >>> ctc_jaccards(np.array([[1, 1, 0, 0, 5]]), np.array([[1, 1, 1, 2, 2]]))
    array([0.66666667, 0.        ])
    """
    indices = []
    for found, true in zip(*_label_stacks(prediction, truth), strict=True):
        overlap = _overlap(found, true)
        scores = np.zeros(len(overlap.truth_sizes))
        claimed = 2 * overlap.pixels > overlap.truth_sizes[overlap.truth]
        scores[overlap.truth[claimed]] = (overlap.pixels / overlap.union)[claimed]
        indices.append(scores)
    return np.concatenate(indices)


def ctc_seg(prediction: ArrayLike, truth: ArrayLike) -> float:
    """SEG of the Cell Tracking Challenge: mean Jaccard index of the reference objects.

    A reference object is matched by the result object that covers more than half of it (there is
    at most one); without such an object it scores 0. Result objects that match nothing cost
    nothing, as reference annotation may be partial. The mean is over all objects of all slices.

    Parameters
    ----------
    prediction, truth
        (H, W) or (S, H, W) instance labels of equal shape, 0 = background: integers, or floats
        that are whole numbers.

    Raises
    ------
    ValueError
        If shapes differ, a label is negative or no whole number, or the truth has no object.
    TypeError
        If labels are not numbers.

    References
    ----------
    Ulman et al., "An objective comparison of cell-tracking algorithms", Nat. Methods 14, 2017.

    Examples
    --------
    >>> ctc_seg(np.array([[1, 1, 1, 0, 9]]), np.array([[4, 4, 0, 0, 0]]))
    0.6666666666666666
    """
    indices = ctc_jaccards(prediction, truth)
    if indices.size == 0:
        raise TruthError(
            "has no object, and SEG is a mean over the objects of the truth; name the right truth,"
            " or measure ap instead"
        )
    return float(indices.mean())


def dsb_image_ap(prediction: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Average precision of each image; see `dsb_ap`.

    Examples
    --------
    >>> dsb_image_ap(np.array([[1, 1, 1, 0]]), np.array([[1, 1, 1, 1]]))
    array([0.5])
    """
    scores = []
    for found, true in zip(*_label_stacks(prediction, truth), strict=True):
        overlap = _overlap(found, true)
        objects = len(overlap.truth_sizes) + len(overlap.found_sizes)
        precisions = []
        for twentieths in range(10, 20):  # IoU > 0.50, 0.55, ..., 0.95, decided in integers
            hits = int(np.count_nonzero(20 * overlap.pixels > twentieths * overlap.union))
            precisions.append(hits / (objects - hits) if objects else 1.0)
        scores.append(float(np.mean(precisions)))
    return np.array(scores)


def dsb_ap(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Average precision of the 2018 Data Science Bowl.

    At each threshold t = 0.50, 0.55, ..., 0.95 a pair of objects with IoU > t is a true positive,
    and the precision is TP / (TP + FP + FN); the mean over t, then over images. Above 0.5 no object
    can have two partners. An image without objects in both truth and prediction scores 1.

    Parameters
    ----------
    prediction, truth
        (H, W) or (S, H, W) instance labels of equal shape, 0 = background: integers, or floats
        that are whole numbers.

    Raises
    ------
    ValueError
        If shapes differ, or a label is negative or no whole number.
    TypeError
        If labels are not numbers.

    References
    ----------
    Caicedo et al., "Nucleus segmentation across imaging experiments", Nat. Methods 16, 2019.

    Examples
    --------
    >>> dsb_ap(np.array([[1, 1, 1, 0]]), np.array([[1, 1, 1, 1]]))
    0.5
    """
    return float(dsb_image_ap(prediction, truth).mean())
