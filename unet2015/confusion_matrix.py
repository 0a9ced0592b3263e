"""Agreement of class maps: the summed confusion matrix, and what is read off it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ClassScores", "confusion", "mean_iou"]

_MOST_CLASSES = 256


@dataclass(frozen=True, eq=False)
class ClassScores:
    """What is read off a summed confusion matrix; NaN where a figure is not defined.

    Attributes
    ----------
    matrix
        (K, K) int64 pixels; rows are the truth, columns the prediction.

    Examples
    --------
    >>> scores = ClassScores(np.array([[2, 0, 0], [1, 1, 0], [0, 0, 0]]))
    >>> scores.iou, scores.absent
    (array([0.66666667, 0.5       ,        nan]), (2,))
    """

    matrix: NDArray[np.int64]

    def _ratio(self, part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)

    @property
    def absent(self) -> tuple[int, ...]:
        """Labels found in neither truth nor prediction; they are left out of every mean."""
        seen = self.matrix.sum(0) + self.matrix.sum(1)
        return tuple(int(label) for label in np.flatnonzero(seen == 0))

    @property
    def iou(self) -> NDArray[np.float64]:
        """(K,) intersection over union; NaN for absent classes."""
        hits = np.diag(self.matrix)
        return self._ratio(hits, self.matrix.sum(0) + self.matrix.sum(1) - hits)

    @property
    def dice(self) -> NDArray[np.float64]:
        """(K,) Dice coefficient, the F1 of the class; NaN for absent classes."""
        return self._ratio(2 * np.diag(self.matrix), self.matrix.sum(0) + self.matrix.sum(1))

    @property
    def precision(self) -> NDArray[np.float64]:
        """(K,) share of the predicted pixels that are right; NaN where none was predicted."""
        return self._ratio(np.diag(self.matrix), self.matrix.sum(0))

    @property
    def recall(self) -> NDArray[np.float64]:
        """(K,) share of the true pixels that were found; NaN where the truth has none."""
        return self._ratio(np.diag(self.matrix), self.matrix.sum(1))

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes that occur."""
        occurring = self.iou[~np.isnan(self.iou)]
        return float(occurring.mean()) if occurring.size else math.nan

    @property
    def accuracy(self) -> float:
        """Share of pixels with the right class."""
        total = self.matrix.sum()
        return float(np.trace(self.matrix) / total) if total else math.nan

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready record; undefined figures are None."""

        def values(array: NDArray[np.float64]) -> list[float | None]:
            return [None if np.isnan(value) else float(value) for value in array]

        return {
            "mean_iou": self.mean_iou,
            "accuracy": self.accuracy,
            "absent": list(self.absent),
            "confusion": self.matrix.tolist(),
            "iou": values(self.iou),
            "dice": values(self.dice),
            "precision": values(self.precision),
            "recall": values(self.recall),
        }


def confusion(
    prediction: ArrayLike, truth: ArrayLike, classes: int, *, ignore_label: int | None = None
) -> NDArray[np.int64]:
    """Confusion matrix of two class maps; matrices of several slices or images are summed with `+`.

    Parameters
    ----------
    prediction, truth
        Integer or bool arrays of equal shape with classes 0 .. K - 1.
    classes
        Number of classes, K.
    ignore_label
        Truth pixels of this value count nowhere, whatever was predicted there.

    Returns
    -------
    ndarray
        (K, K) int64 pixel counts; rows are the truth, columns the prediction.

    Raises
    ------
    ValueError
        If shapes differ, or a counted value is not in 0 .. K - 1.
    TypeError
        If an array is not of integers.

    Examples
    --------
    >>> confusion(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 255]), 2, ignore_label=255)
    array([[1, 0],
           [1, 1]])
    """
    found, true = np.asarray(prediction), np.asarray(truth)
    if found.shape != true.shape:
        raise ValueError(f"prediction {found.shape} and truth {true.shape} must have equal shapes")
    if not 1 <= classes <= _MOST_CLASSES:
        raise ValueError(
            f"{classes} classes; a class map has 1 to {_MOST_CLASSES} (for instance labels use "
            "SEG or AP: ctc_seg, dsb_ap; --measure seg, --measure ap)"
        )
    for name, array in (("prediction", found), ("truth", true)):
        if array.dtype.kind not in "biu":
            raise TypeError(f"{name} of type {array.dtype}; class maps must be integers")
    if ignore_label is not None:
        found, true = found[true != ignore_label], true[true != ignore_label]
    for name, array in (("prediction", found), ("truth", true)):
        if array.size and (array.min() < 0 or array.max() >= classes):
            worst = array.max() if array.max() >= classes else array.min()
            raise ValueError(
                f"{name} has the label {worst}; {classes} classes are 0..{classes - 1}"
            )
    codes = true.reshape(-1).astype(np.int64) * classes + found.reshape(-1).astype(np.int64)
    return np.bincount(codes, minlength=classes**2).reshape(classes, classes)


def mean_iou(matrix: ArrayLike) -> float:
    """Mean intersection over union of the classes that occur in a confusion matrix.

    A class in neither truth nor prediction is left out; one that was predicted but is not in the
    truth counts with 0. NaN for a matrix without a pixel.

    Parameters
    ----------
    matrix
        (K, K) pixel counts from `confusion`, summed over everything that is scored.

    Examples
    --------
    >>> mean_iou(confusion(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3))
    0.5833333333333333
    """
    return ClassScores(np.asarray(matrix)).mean_iou
