"""The annotation that a prediction is scored against: its labels, and what it may not be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weightmaps.labels import whole_numbers

__all__ = ["TruthError", "true_labels", "whole_truth"]


class TruthError(ValueError):
    """It is the truth that cannot be scored, not the prediction.

    Parameters
    ----------
    reason
        What is wrong with it, and the remedy.
    index
        The slice that it is about, from 0; None for all of them.
    """

    def __init__(self, reason: str, *, index: int | None = None) -> None:
        self.reason, self.index = reason, index
        where = "" if index is None else f"slice {index} of "
        super().__init__(f"{where}the truth {reason}")


def whole_truth(truth: ArrayLike) -> NDArray[Any]:
    """Labels of the truth, floating-point ones as int64.

    Raises
    ------
    TruthError
        A value is not a whole number.

    Examples
    --------
    >>> whole_truth(np.array([0.0, -1.0]))
    array([ 0, -1])
    """
    try:
        return whole_numbers(np.asarray(truth))
    except ValueError as error:
        raise TruthError(f"cannot be scored: {error}") from error


def true_labels(truth: ArrayLike, *, zero: str) -> NDArray[Any]:
    """Labels of the truth as integers or bool, none of them negative.

    Parameters
    ----------
    truth
        Array of any shape: bool, integer, or floats that are whole numbers.
    zero
        What 0 means, for messages.

    Raises
    ------
    TruthError
        A label is negative or no whole number.
    TypeError
        The labels are of another type.

    Examples
    --------
    >>> true_labels(np.array([0.0, 3.0]), zero="membrane")
    array([0, 3])
    """
    labels = whole_truth(truth)
    if labels.dtype.kind not in "biu":
        raise TypeError(f"truth of type {labels.dtype}; labels must be integers or bool")
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise TruthError(
            f"has the negative label {labels.min()}; 0 is {zero}, cells are above: save it so"
        )
    return labels
