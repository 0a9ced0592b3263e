"""Probability maps, thresholds, and one measure over all of them.

The ISBI 2012 measures cut a probability map at eleven thresholds and keep the best result. Where
a map hits a threshold exactly, the outcome depends on the number types; here, as in the
challenge's program, probabilities are binary32 and are compared as binary64 with thresholds that
were accumulated in binary64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet2015.truth import TruthError, true_labels
from weightmaps.threads import threads

__all__ = ["SWEEP", "Sweep", "as_probability", "paired", "slice_by_slice"]


_ROUNDING = 1e-6


def _accumulated(step: float, last: float) -> tuple[float, ...]:
    thresholds = [0.0]
    while thresholds[-1] + step <= last:
        thresholds.append(thresholds[-1] + step)
    return tuple(thresholds)


SWEEP = _accumulated(0.1, 1.0)
"""Thresholds 0, 0.1, ..., 0.9999999999999999, sums of 0.1: a map's 1.0 is above the last one."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """A measure at each threshold, over the stack and for each slice.

    Attributes
    ----------
    name
        The measure's name.
    thresholds
        T thresholds.
    values
        (T,) float64, the measure over the stack.
    per_slice
        (S, T) float64, the measure of each slice alone.
    best_is
        Whether the measure is an error or a score.

    Examples
    --------
    >>> sweep = Sweep("error", (0.0, 0.5), np.array([0.3, 0.1]), np.array([[0.3, 0.1]]), "smallest")
    >>> sweep.best, sweep.threshold, sweep.at(0.0)
    (0.1, 0.5, 0.3)
    """

    name: str
    thresholds: tuple[float, ...]
    values: NDArray[np.float64]
    per_slice: NDArray[np.float64]
    best_is: Literal["smallest", "largest"]

    def _best_index(self, values: NDArray[np.float64]) -> int:
        return int(values.argmin() if self.best_is == "smallest" else values.argmax())

    @property
    def best(self) -> float:
        """Best value of the stack over the thresholds."""
        return float(self.values[self._best_index(self.values)])

    @property
    def threshold(self) -> float:
        """Threshold of the best value; the lowest one if several are equally good."""
        return self.thresholds[self._best_index(self.values)]

    def at(self, threshold: float = 0.5) -> float:
        """Value of the stack at one of the thresholds.

        Raises
        ------
        ValueError
            If the sweep has no such threshold.
        """
        return float(self.values[self._index(threshold)])

    def _index(self, threshold: float) -> int:
        distance = np.abs(np.array(self.thresholds) - threshold)
        if distance.min() > 1e-9:
            raise ValueError(f"threshold {threshold} is not in the sweep {self.thresholds}")
        return int(distance.argmin())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready record: best, its threshold, at_0.5, the curve, and the same per slice."""

        def record(values: NDArray[np.float64]) -> dict[str, Any]:
            index = self._best_index(values)
            found = {"best": float(values[index]), "threshold": self.thresholds[index]}
            if 0.5 in self.thresholds:
                found["at_0.5"] = float(values[self._index(0.5)])
            return found

        return {
            **record(self.values),
            "better": self.best_is,
            "thresholds": list(self.thresholds),
            "curve": [float(value) for value in self.values],
            "per_slice": [record(values) for values in self.per_slice],
        }


def as_probability(prediction: ArrayLike) -> NDArray[np.float32]:
    """Probability map as float32 in 0..1.

    Parameters
    ----------
    prediction
        Array of any shape: uint8 is divided by 255, uint16 by 65535 (one correctly rounded float32
        division), bool becomes 0 and 1, floats must lie in 0..1 (rounding errors of 1e-6 aside)
        and are rounded to float32.

    Returns
    -------
    ndarray
        float32, C order.

    Raises
    ------
    ValueError
        If a float is NaN, infinite, or outside 0..1.
    TypeError
        If the dtype is another one.

    Examples
    --------
    >>> as_probability(np.uint8([0, 51, 255]))
    array([0. , 0.2, 1. ], dtype=float32)
    """
    array = np.asarray(prediction)
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array, np.float32)
    if array.dtype in (np.uint8, np.uint16):
        full = np.float32(np.iinfo(array.dtype).max)
        return np.ascontiguousarray(array.astype(np.float32) / full)
    if array.dtype.kind != "f":
        raise TypeError(
            f"a probability map of type {array.dtype} has no known scale; "
            "give uint8, uint16, bool or floats in 0..1"
        )
    inside = (array >= -_ROUNDING) & (array <= 1 + _ROUNDING)
    if not inside.all():
        worst = array[~inside].flat[0]
        raise ValueError(
            f"a probability of {worst} is outside 0..1; apply the soft-max, "
            "or divide by the full scale"
        )
    return np.ascontiguousarray(array, np.float32)


def paired(
    prediction: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Probability stack and interior mask of equal shape (S, H, W), checked.

    Parameters
    ----------
    prediction
        (H, W) or (S, H, W) probability of cell interior, see `as_probability`.
    truth
        Same shape; bool, integer, or floats that are whole numbers; > 0 is cell interior.

    Raises
    ------
    ValueError
        If the shapes differ or are not of slices, a label is negative or no whole number, or a
        slice of the truth has no interior.
    TypeError
        If the truth is of another type.
    """
    labels = true_labels(truth, zero="membrane")
    shape = np.shape(prediction)
    if shape != labels.shape:
        raise ValueError(f"prediction {shape} and truth {labels.shape} must have equal shapes")
    if labels.ndim not in (2, 3) or labels.size == 0:
        raise ValueError(f"shape {labels.shape} is not (H, W) or (slices, H, W)")
    stack = labels.reshape(-1, *labels.shape[-2:]) > 0
    for index, interior in enumerate(stack):
        if not interior.any():
            raise TruthError(
                "has no foreground (no value above 0); leave it out (--slices), or name the right"
                " truth", index=index,
            )  # fmt: skip
    return as_probability(prediction).reshape(stack.shape), stack


def slice_by_slice(
    function: Callable[..., Any],
    prediction: NDArray[np.float32],
    truth: NDArray[np.bool_],
    thresholds: Sequence[float],
) -> list[list[Any]]:
    """Results [slice][threshold] of `function(probability, truth, threshold)`, in threads."""

    def one(index: int) -> list[Any]:
        call = partial(function, prediction[index], truth[index])
        return [call(float(threshold)) for threshold in thresholds]

    with ThreadPoolExecutor(threads()) as pool:
        return list(pool.map(one, range(len(truth))))
