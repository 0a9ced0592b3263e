"""Distances to the nearest two *distinct* instances, exact, whatever their number."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightmaps.compiled import available
from weightmaps.labels import as_labels
from weightmaps.reference import per_instance, two_nearest_by_bits
from weightmaps.threads import in_parts

__all__ = ["two_nearest_distances", "volume_two_nearest_distances"]

Distances: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[Any]

# With so few instances and no limit, a handful of distance transforms beats searching far.
_FEW = 8
_LONG = 1024


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
    limit = _limit(max_distance)
    _check_spacing(spacing, 2)
    array = as_labels(labels)
    slices = array[None] if array.ndim == 2 else array
    parts = [_one(s, limit, spacing, return_labels) for s in slices]
    stacked = (np.stack(column) for column in zip(*parts, strict=True))
    return tuple(part.reshape(array.shape) for part in stacked)


def volume_two_nearest_distances(
    labels: npt.ArrayLike,
    *,
    max_distance: float | None = None,
    spacing: tuple[float, float, float] | None = None,
    return_labels: bool = False,
) -> tuple[Labels, ...]:
    """Return d1 and d2 of a true volume ``(Z, Y, X)``; parameters as `two_nearest_distances`.

    Returns
    -------
    d1, d2 : ndarray of float64
        Shape ``(Z, Y, X)``. Inside a cell d1 is 0. Infinite where there is no such instance.
    l1, l2 : ndarray of the labels' dtype
        Only with `return_labels`: the two instances, 0 where there is none.

    Raises
    ------
    ValueError
        For other than three axes or numbers of `spacing`, and as `two_nearest_distances`.
    TypeError
        As `as_labels`.

    Examples
    --------
    >>> d1, d2 = volume_two_nearest_distances([[[3]], [[0]], [[4]]], spacing=(2.0, 1.0, 1.0))
    >>> d2.ravel()
    array([4., 2., 4.])
    """
    limit = _limit(max_distance)
    _check_spacing(spacing, 3)
    array = as_labels(labels)
    if array.ndim != 3:
        raise ValueError(f"a volume has 3 axes (Z, Y, X), not {array.ndim}")
    return _one(array, limit, spacing, return_labels)


def nearest_two_of_one(
    labels: Labels, limit: float, spacing: tuple[float, ...] | None
) -> tuple[Distances, Distances]:
    """Return d1, d2 of one checked image or volume, infinite above `limit`."""
    d1, d2 = _one(labels, limit, spacing, False)
    return d1, d2


def _limit(max_distance: float | None) -> float:
    if max_distance is None:
        return math.inf
    if not max_distance > 0:
        raise ValueError(f"max_distance {max_distance} must be > 0, or None for no limit")
    return float(max_distance)


def _check_spacing(spacing: tuple[float, ...] | None, axes: int) -> None:
    if spacing is None:
        return
    if len(spacing) != axes or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing {spacing} must be {axes} finite numbers > 0, one per axis")


def _one(
    labels: Labels, limit: float, spacing: tuple[float, ...] | None, return_labels: bool
) -> tuple[Labels, ...]:
    """Return d1, d2 (and l1, l2) of one checked image or volume."""
    ids, numbers = _numbered(labels)
    far = math.isinf(limit) and not return_labels and max(labels.shape) >= _LONG
    if far and _has_few(numbers):
        return two_nearest_by_bits(numbers, spacing)
    if not available():
        return _by_transforms(labels, limit, spacing, return_labels)
    d1, d2, l1, l2 = _compiled(numbers, limit, spacing)
    if not return_labels:
        return d1, d2
    if ids is None:
        return d1, d2, l1.astype(labels.dtype), l2.astype(labels.dtype)
    return d1, d2, ids[l1], ids[l2]


def _by_transforms(
    labels: Labels, limit: float, spacing: tuple[float, ...] | None, return_labels: bool
) -> tuple[Labels, ...]:
    """Do the same without numba."""
    by = per_instance if return_labels else two_nearest_by_bits
    found = by(labels, spacing)
    for k, d in enumerate(found[:2]):
        beyond = d > limit
        d[beyond] = np.inf
        if return_labels:
            found[k + 2][beyond] = 0
    return found


def _has_few(numbers: npt.NDArray[np.int32]) -> bool:
    """Return whether there are at most `_FEW` instances, without sorting a crowded image."""
    seen: set[int] = set()
    for row in numbers.reshape(numbers.shape[0], -1):
        seen.update(np.unique(row).tolist())
        if len(seen) > _FEW + 1:
            return False
    return True


def _numbered(labels: Labels) -> tuple[Labels | None, npt.NDArray[np.int32]]:
    """Return labels as int32; where they do not fit, also the table to translate back."""
    if labels.dtype.itemsize < 4 or labels.max() < 2**31:
        return None, np.ascontiguousarray(labels, np.int32)
    ids, number = np.unique(labels, return_inverse=True)
    number = number.reshape(labels.shape)
    if ids[0] != 0:
        ids = np.concatenate([np.zeros(1, ids.dtype), ids])
        number = number + 1
    return ids, np.ascontiguousarray(number, np.int32)


def _compiled(
    labels: npt.NDArray[np.int32], limit: float, spacing: tuple[float, ...] | None
) -> tuple[Distances, Distances, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    from weightmaps.spread import finish, scan_first_axis, spread_axis

    steps = [1.0] * labels.ndim if spacing is None else [float(s) for s in spacing]
    shape = labels.shape
    d1, d2 = np.empty(shape), np.empty(shape)
    l1, l2 = np.empty(shape, np.int32), np.empty(shape, np.int32)
    fields = (d1, d2, l1, l2)
    columns = labels.reshape(shape[0], -1)
    f1, f2, c1, c2 = (f.reshape(columns.shape) for f in fields)

    def scan(begin: int, end: int) -> None:
        scan_first_axis(columns, steps[0], limit, f1, f2, c1, c2, begin, end)

    in_parts(scan, columns.shape[1], labels.size)
    for axis in range(1, labels.ndim):
        lines = (math.prod(shape[:axis]), shape[axis], -1)
        e1, e2, b1, b2 = (f.reshape(lines) for f in fields)
        step = steps[axis]

        def spread(
            begin: int,
            end: int,
            views: tuple[Labels, ...] = (e1, e2, b1, b2),
            step: float = step,
        ) -> None:
            spread_axis(*views, step, limit, begin, end)  # type: ignore[call-arg]

        in_parts(spread, lines[0], labels.size)
    finish(d1.ravel(), d2.ravel(), l1.ravel(), l2.ravel(), limit)
    return d1, d2, l1, l2
