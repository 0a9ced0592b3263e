"""The term w_c of Eq. 2: weights that balance the frequencies of the classes.

The paper leaves the normalisation open. Ours: N / (K n_k) over the whole data set, whose mean
over all counted pixels is exactly 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from weightmaps.carving import separate_touching
from weightmaps.labels import as_labels
from weightmaps.spec import WeightMapSpec

__all__ = ["class_counts", "class_map", "class_weights"]


def class_counts(
    labels: npt.ArrayLike, *, separate: str = "none", ignore_label: int | None = None
) -> npt.NDArray[np.int64]:
    """Return the numbers of background and of cell pixels, ignored pixels left out.

    Parameters
    ----------
    labels
        Instance labels ``(H, W)`` or ``(S, H, W)``.
    separate
        ``"none"``: as they are; otherwise after carving as `weight_map` does.
    ignore_label
        Value of the pixels to leave out.

    Returns
    -------
    ndarray of int64
        Shape ``(2,)``: background, cells. Counts of several images may be added up.

    Raises
    ------
    TypeError, ValueError
        As `WeightMapSpec` and `as_labels`.

    Examples
    --------
    >>> class_counts([[0, 0, 0, 5]])
    array([3, 1])
    """
    line = WeightMapSpec(separate=separate, ignore_label=ignore_label).line
    if line is None:
        array = as_labels(labels, ignore_label=ignore_label)
    else:
        array = separate_touching(labels, method=line, ignore_label=ignore_label)
    background = int(array.size) - int(np.count_nonzero(array))
    ignored = 0 if ignore_label is None else int(np.count_nonzero(array == ignore_label))
    return np.array([background, int(array.size) - background - ignored])


def class_weights(
    labels_or_counts: npt.ArrayLike | Mapping[int, int], *, ignore_label: int | None = None
) -> npt.NDArray[np.float64]:
    """Return one weight per class, N / (K n_k), so that the mean over all pixels is 1.

    Parameters
    ----------
    labels_or_counts
        Either pixel counts, one per class (a 1-D sequence, or a mapping class -> count), for
        instance summed over a data set; or an instance label array ``(H, W)`` or ``(S, H, W)``,
        whose two classes are background and cell.
    ignore_label
        Value of the pixels to leave out of the counts (label arrays only).

    Returns
    -------
    ndarray of float64
        Shape ``(K,)``. N is the number of pixels, K the number of classes that occur, n_k the
        pixels of class k. A class that does not occur has weight 1.

    Raises
    ------
    ValueError
        For negative counts or no counts at all.

    Examples
    --------
    >>> class_weights([300, 100])
    array([0.66666667, 2.        ])
    >>> class_weights([[0, 0, 0, 5]])
    array([0.66666667, 2.        ])
    """
    if isinstance(labels_or_counts, Mapping):
        length = max(labels_or_counts, default=-1) + 1
        counts = np.array([labels_or_counts.get(k, 0) for k in range(length)], np.int64)
    else:
        counts = np.asarray(labels_or_counts)
        if counts.ndim != 1:
            counts = class_counts(labels_or_counts, ignore_label=ignore_label)
    if counts.size == 0 or (counts < 0).any():
        raise ValueError(f"class counts {counts.tolist()} must be one number >= 0 per class")
    weights = np.ones(counts.size)
    present = counts > 0
    share = counts[present].astype(np.float64)
    weights[present] = share.sum() / (np.count_nonzero(present) * share)
    return weights


def class_map(
    classes: npt.ArrayLike, weights: npt.ArrayLike, *, ignore_label: int | None = None
) -> npt.NDArray[np.float32]:
    """Return w_c(x) for several classes: the weight of each pixel's class.

    For more than two classes Eq. 2 is ``class_map(classes, class_weights(counts))`` plus
    `border_term` of the instances.

    Parameters
    ----------
    classes
        Class of each pixel, 0 .. K-1, integer array of any shape.
    weights
        Shape ``(K,)``.
    ignore_label
        Pixels of this value have weight 0.

    Returns
    -------
    ndarray of float32
        Same shape as `classes`.

    Raises
    ------
    ValueError
        For a class without a weight.

    Examples
    --------
    >>> class_map([[0, 1, 2, 255]], [0.5, 1.0, 4.0], ignore_label=255)
    array([[0.5, 1. , 4. , 0. ]], dtype=float32)
    """
    array: npt.NDArray[Any] = np.asarray(classes)
    table = np.asarray(weights, np.float32)
    ignored = np.zeros(array.shape, np.bool_) if ignore_label is None else array == ignore_label
    index = np.where(ignored, 0, array)
    if index.size and (index.min() < 0 or index.max() >= table.size):
        raise ValueError(
            f"class {int(index.max() if index.max() >= table.size else index.min())} has no"
            f" weight; {table.size} weights cover classes 0 to {table.size - 1}"
        )
    result = table[index.astype(np.intp)]
    result[ignored] = 0
    return result
