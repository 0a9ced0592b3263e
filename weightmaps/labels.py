"""From annotations to instance labels: checks, components, merged masks.

An instance label image holds 0 for background and one id >= 1 per cell. A 2-D array is one
image; a 3-D array ``(S, H, W)`` is a stack of S images that know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightmaps.threads import LIGHT, in_parts

__all__ = ["as_labels", "extreme", "instances_from_mask", "merge_instance_masks", "whole_numbers"]

Labels: TypeAlias = npt.NDArray[Any]
_EXACT_FLOAT = np.float64(2.0**53)


def extreme(labels: Labels, find: Callable[[Labels], Any]) -> int:
    """Return what `find` (`numpy.min` or `numpy.max`) finds in labels (..., H, W), on threads.

    Examples
    --------
    >>> extreme(np.array([[3, 1], [4, 1]]), np.max)
    4
    """
    found: list[int] = []
    rows = labels.shape[-2]
    in_parts(lambda a, b: found.append(find(labels[..., a:b, :])), rows, labels.size // LIGHT)
    return int(find(np.array(found)))


def as_labels(labels: npt.ArrayLike, *, ignore_label: int | None = None) -> Labels:
    """Return the labels as a checked integer array, uncopied where they already are one.

    Parameters
    ----------
    labels
        Integer array, shape ``(H, W)`` or ``(S, H, W)``, any integer dtype and memory layout.
        Floating-point labels are accepted when every value is a whole number below 2**53.
    ignore_label
        The one value that may be negative.

    Returns
    -------
    ndarray
        Integer array of the same shape.

    Raises
    ------
    TypeError
        For boolean masks (`instances_from_mask` makes instances of them) and other dtypes.
    ValueError
        For a wrong number of axes, an empty array, fractional or negative labels.

    Examples
    --------
    >>> as_labels([[0.0, 7.0]])
    array([[0, 7]])
    """
    array = np.asarray(labels)
    if array.ndim not in (2, 3):
        raise ValueError(f"labels have {array.ndim} axes; they must be (H, W) or a stack (S, H, W)")
    if array.size == 0:
        raise ValueError(f"labels of shape {array.shape} are empty")
    if array.dtype.kind == "b":
        raise TypeError(
            "a boolean mask carries no instances; pass it through instances_from_mask first"
        )
    array = whole_numbers(array)
    if array.dtype.kind not in "iu":
        raise TypeError(f"labels of dtype {array.dtype} are not integers")
    if array.dtype.kind == "i" and extreme(array, np.min) < 0:
        _refuse_negative(array, ignore_label)
    return array


def whole_numbers(array: Labels) -> Labels:
    """Return floating-point labels as int64, all other arrays as they are.

    Raises
    ------
    ValueError
        A value is not a whole number below 2**53.

    Examples
    --------
    >>> whole_numbers(np.array([0.0, 7.0]))
    array([0, 7])
    """
    if array.dtype.kind != "f":
        return array
    with np.errstate(invalid="ignore"):  # of signalling NaN
        bad = ~np.isfinite(array)
        np.logical_or(bad, array != np.trunc(array), out=bad, where=~bad)
        np.logical_or(bad, np.abs(array) >= _EXACT_FLOAT, out=bad, where=~bad)
    if bad.any():
        where = tuple(int(i[0]) for i in np.nonzero(bad))
        raise ValueError(
            f"label {array[where]} at {where} is not a whole number below 2**53; "
            "labels are ids, not probabilities: save whole numbers"
        )
    return array.astype(np.int64)


def _refuse_negative(array: Labels, ignore_label: int | None) -> None:
    bad = array < 0
    if ignore_label is not None and ignore_label < 0:
        bad &= array != ignore_label
    if bad.any():
        where = tuple(int(i[0]) for i in np.nonzero(bad))
        raise ValueError(
            f"label {array[where]} at {where} is negative; cells have ids >= 1, background is 0"
            " (a negative value may only be the ignore label: ignore_label=, --ignore-label)"
        )


def instances_from_mask(mask: npt.ArrayLike, *, connectivity: int = 4) -> npt.NDArray[np.int32]:
    """Return the connected components of a binary mask as instance labels.

    Parameters
    ----------
    mask
        Boolean or number array, shape ``(H, W)`` or ``(S, H, W)``; every non-zero pixel is cell
        (so masks of 0/255 and 0/1 are the same). Slices of a stack are labelled one by one.
    connectivity
        4 (edges; the ISBI 2012 convention for cells) or 8 (edges and corners).

    Returns
    -------
    ndarray of int32
        Same shape; ids 1, 2, ... in raster order, in every slice anew.

    Raises
    ------
    ValueError
        For another connectivity, a wrong number of axes or NaN values.

    Examples
    --------
    >>> instances_from_mask([[255, 0, 0], [0, 255, 0]], connectivity=4)
    array([[1, 0, 0],
           [0, 2, 0]], dtype=int32)
    >>> instances_from_mask([[255, 0, 0], [0, 255, 0]], connectivity=8)
    array([[1, 0, 0],
           [0, 1, 0]], dtype=int32)
    """
    from scipy import ndimage

    array = np.asarray(mask)
    if array.ndim not in (2, 3):
        raise ValueError(f"the mask has {array.ndim} axes; it must be (H, W) or (S, H, W)")
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity {connectivity} is not known; choose 4 or 8")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError("the mask holds NaN; say first whether those pixels are cell")
    structure = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    slices = array[None] if array.ndim == 2 else array
    result = np.empty(slices.shape, np.int32)
    for k, one in enumerate(slices):
        ndimage.label(one != 0, structure=structure, output=result[k])
    return result.reshape(array.shape)


def merge_instance_masks(
    masks: Iterable[npt.ArrayLike], *, overlap: str = "first"
) -> npt.NDArray[np.int32]:
    """Return one label image made of one mask per cell.

    Parameters
    ----------
    masks
        Masks of shape ``(H, W)``, non-zero inside the cell (an array ``(N, H, W)`` will do).
        Mask number k becomes id k + 1; an empty mask uses up its id.
    overlap
        Who owns a pixel that several masks claim: ``"first"`` (the earliest mask, default),
        ``"last"``, or ``"background"`` (nobody).

    Returns
    -------
    ndarray of int32
        Shape ``(H, W)``.

    Raises
    ------
    ValueError
        For no masks, masks of different shapes, or another word for `overlap`.

    Examples
    --------
    >>> merge_instance_masks([[[1, 1, 0]], [[0, 1, 1]]])
    array([[1, 1, 2]], dtype=int32)
    """
    if overlap not in ("first", "last", "background"):
        raise ValueError(f"overlap {overlap!r} is not known; choose first, last or background")
    merged: npt.NDArray[np.int32] | None = None
    claimed: npt.NDArray[np.bool_] | None = None
    for number, item in enumerate(masks, start=1):
        mask = np.asarray(item) != 0
        if merged is None or claimed is None:
            if mask.ndim != 2:
                raise ValueError(f"mask 1 has {mask.ndim} axes; each mask must be (H, W)")
            merged = np.zeros(mask.shape, np.int32)
            claimed = np.zeros(mask.shape, np.bool_)
        if mask.shape != merged.shape:
            raise ValueError(f"mask {number} is {mask.shape}, mask 1 is {merged.shape}")
        if overlap == "last":
            merged[mask] = number
        else:
            merged[mask & ~claimed] = number
            if overlap == "background":
                merged[mask & claimed] = 0
        claimed |= mask
    if merged is None:
        raise ValueError("there are no masks to merge")
    return merged
