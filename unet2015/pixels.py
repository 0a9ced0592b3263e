"""Pixel measures of the ISBI 2012 challenge: the pixel error, and the share of wrong pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet2015.sweep import SWEEP, Sweep, paired, slice_by_slice

__all__ = ["Map", "Mask", "counts_of", "interior", "pixel_error", "wrong_pixels"]

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]


def interior(probability: Map, threshold: float) -> Mask:
    """Pixels whose probability, promoted to binary64, is strictly above the threshold.

    Examples
    --------
    >>> interior(np.float32([51 / 255, 0.1]), 0.2)  # float32(0.2) is a little more than 0.2
    array([ True, False])
    """
    return probability.astype(np.float64) > threshold


def counts_of(
    function: Callable[..., tuple[int, int, int]],
    maps: Map,
    stack: Mask,
    thresholds: Sequence[float],
) -> NDArray[np.int64]:
    """(S, T, 3) counts of each slice at each threshold."""
    return np.array(slice_by_slice(function, maps, stack, thresholds), np.int64)


def _pixel_counts(probability: Map, truth: Mask, threshold: float) -> tuple[int, int, int]:
    """True positives, false positives, false negatives; interior is positive."""
    found = interior(probability, threshold)
    hits = int(np.count_nonzero(found & truth))
    return hits, int(np.count_nonzero(found)) - hits, int(np.count_nonzero(truth)) - hits


def pixel_error(
    prediction: ArrayLike, truth: ArrayLike, *, thresholds: Sequence[float] = SWEEP
) -> Sweep:
    """Pixel error of ISBI 2012: 1 - F1 with interior as the positive class.

    Not the share of wrong pixels (`wrong_pixels`). True and false positives are summed over the
    stack before F is taken. No thinning; border pixels count like all others.

    Parameters
    ----------
    prediction
        (H, W) or (S, H, W) probability of interior: floats in 0..1, uint8 / 255, uint16 / 65535.
    truth
        Same shape, integer or bool, interior > 0.
    thresholds
        Thresholds to sweep; default 0, 0.1, ..., 1.0.

    Returns
    -------
    Sweep
        `.best` is the challenge's figure, `.at(0.5)` the one at threshold 0.5.

    Raises
    ------
    ValueError
        If shapes differ, a probability is outside 0..1, or a slice of the truth has no foreground.
    TypeError
        If a dtype has no known meaning.

    Examples
    --------
    >>> pixel_error(np.float32([[0.9, 0.6, 0.1, 0.1]]), np.array([[1, 1, 1, 0]])).at(0.5)
    0.19999999999999996
    """
    counts = counts_of(_pixel_counts, *paired(prediction, truth), thresholds)

    def error(c: NDArray[np.int64]) -> NDArray[np.float64]:
        return 1.0 - 2.0 * c[..., 0] / (2 * c[..., 0] + c[..., 1] + c[..., 2])

    return Sweep("pixel_error", tuple(thresholds), error(counts.sum(0)), error(counts), "smallest")


def wrong_pixels(
    prediction: ArrayLike, truth: ArrayLike, *, thresholds: Sequence[float] = SWEEP
) -> Sweep:
    """Share of all pixels on the wrong side of the threshold.

    Parameters, errors and thresholds are those of `pixel_error`.

    Examples
    --------
    >>> wrong_pixels(np.float32([[0.9, 0.6, 0.1, 0.1]]), np.array([[1, 1, 1, 0]])).at(0.5)
    0.25
    """
    maps, stack = paired(prediction, truth)
    counts = counts_of(_pixel_counts, maps, stack, thresholds)
    shares = (counts[..., 1] + counts[..., 2]) / stack[0].size
    return Sweep("wrong_pixels", tuple(thresholds), shares.mean(0), shares, "smallest")
