"""The two nearest instances by ordinary distance transforms: slow, obviously right, shipped.

`two_nearest_distances_reference` makes one transform per instance. `two_nearest_by_bits` needs
2 ceil(log2 N) transforms for N instances: an independent oracle for large images, and the way
taken where numba is not installed.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightmaps.labels import as_labels

__all__ = ["two_nearest_by_bits", "two_nearest_distances_reference"]

Distances: TypeAlias = npt.NDArray[np.float64]
Spacing: TypeAlias = tuple[float, ...] | None


def two_nearest_distances_reference(
    labels: npt.ArrayLike, *, spacing: Spacing = None
) -> tuple[Distances, Distances]:
    """Return d1 and d2 by one Euclidean distance transform per instance.

    Parameters
    ----------
    labels
        Instance labels ``(H, W)``, or a stack ``(S, H, W)`` treated slice by slice.
    spacing
        Size of a pixel along (y, x); None means 1 (distances in pixels).

    Returns
    -------
    d1, d2 : ndarray of float64
        Distance to the masks of the nearest and second-nearest instance; infinite where there is
        no such instance. Inside a cell d1 is 0.

    Examples
    --------
    >>> d1, d2 = two_nearest_distances_reference([[1, 0, 0, 0, 2]])
    >>> d1 + d2
    array([[4., 4., 4., 4., 4.]])
    """
    array = as_labels(labels)
    if array.ndim == 3:
        d1 = np.empty(array.shape)
        d2 = np.empty(array.shape)
        for k, one in enumerate(array):
            d1[k], d2[k] = per_instance(one, spacing)[:2]
        return d1, d2
    d1, d2 = per_instance(array, spacing)[:2]
    return d1, d2


def per_instance(labels: npt.NDArray[Any], spacing: Spacing) -> tuple[npt.NDArray[Any], ...]:
    """Return d1, d2 and the two instances l1, l2 of one image or volume of any dimension."""
    d1 = np.full(labels.shape, np.inf)
    d2 = np.full(labels.shape, np.inf)
    l1 = np.zeros_like(labels)
    l2 = np.zeros_like(labels)
    for label in np.unique(labels[labels != 0]):
        d = transform(labels == label, spacing)
        nearer = d < d1
        between = ~nearer & (d < d2)
        l2[nearer], d2[nearer] = l1[nearer], d1[nearer]
        l1[nearer], d1[nearer] = label, d[nearer]
        l2[between], d2[between] = label, d[between]
    return d1, d2, l1, l2


def two_nearest_by_bits(
    labels: npt.NDArray[Any], spacing: Spacing = None
) -> tuple[Distances, Distances]:
    """Return d1, d2 of one image or volume from 2 ceil(log2 N) distance transforms.

    Number the instances 0 .. N-1. For each bit b let D_b0, D_b1 be the distances to the union of
    the instances whose number has bit b clear or set. Two different instances differ in some bit,
    so d1 = min(D_00, D_01) and d2 = min over b of max(D_b0, D_b1).

    Parameters
    ----------
    labels
        Instance labels, 0 = background.
    spacing
        Pixel size along each axis, or None for 1.

    Examples
    --------
    >>> d1, d2 = two_nearest_by_bits(np.array([[1, 0, 0, 0, 2]]))
    >>> d2
    array([[4., 3., 2., 3., 4.]])
    """
    cells = labels != 0
    ids = np.unique(labels[cells])
    d1 = np.full(labels.shape, np.inf)
    d2 = np.full(labels.shape, np.inf)
    if ids.size == 1:
        return transform(cells, spacing), d2
    number = np.searchsorted(ids, labels)
    for b in range(max(int(ids.size) - 1, 0).bit_length()):
        is_set = (number >> b & 1).astype(bool)
        clear_d = transform(cells & ~is_set, spacing)
        set_d = transform(cells & is_set, spacing)
        if b == 0:
            np.minimum(clear_d, set_d, out=d1)
        np.minimum(d2, np.maximum(clear_d, set_d), out=d2)
    return d1, d2


def transform(mask: npt.NDArray[np.bool_], spacing: Spacing) -> Distances:
    """Return the Euclidean distance of every pixel to `mask`; infinite for an empty mask."""
    from scipy import ndimage

    if not mask.any():
        return np.full(mask.shape, np.inf)
    distances: Distances = ndimage.distance_transform_edt(~mask, sampling=spacing)
    return distances
