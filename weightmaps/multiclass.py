"""Eq. 2 for more than two classes: the border term of the cells, and one weight per class.

Which cells there are and which class a pixel has are two images: cells of one class that touch are
told apart by their ids, and a carved pixel has the class of the background, 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightmaps.class_balance import class_weights
from weightmaps.labels import as_labels
from weightmaps.signed_term import Inner, cut, signed_border_term, working_type
from weightmaps.spec import WeightMapSpec

__all__ = [
    "class_numbers",
    "class_table",
    "map_of_classes",
    "multiclass_weight_map",
    "with_ignored",
]

Labels: TypeAlias = npt.NDArray[Any]
Map: TypeAlias = npt.NDArray[np.floating[Any]]
_PAPER = WeightMapSpec()
_LAST_CLASS = 65_535


def multiclass_weight_map(
    labels: npt.ArrayLike,
    classes: npt.ArrayLike,
    spec: WeightMapSpec = _PAPER,
    *,
    dtype: npt.DTypeLike = np.float32,
) -> Map:
    """Return the weight map of Eq. 2 with w_c of K classes.

    Parameters
    ----------
    labels
        Instance labels ``(H, W)`` or ``(S, H, W)``, as in `weight_map`.
    classes
        Class of each pixel, 0 = background, 1 .. K-1; the same shape.
    spec
        Parameters. `class_weights` is ``"balanced"`` (N / (K n_k) over all of `labels`, counted
        after carving), ``"per-image"`` (the same for each slice), ``"none"``, or K numbers.
        Pixels that are `ignore_label` in either image weigh 0.
    dtype
        float16, float32 or float64.

    Returns
    -------
    ndarray
        Same shape as `labels`.

    Raises
    ------
    ValueError
        For images of two shapes, a negative class or one without a weight, or the two-class form
        ``"falk2019"``; and as `weight_map`.
    TypeError
        For classes that are not integers, or another `dtype`.

    Examples
    --------
    >>> spec = WeightMapSpec(class_weights=(0.5, 1, 4))
    >>> multiclass_weight_map([[1, 0, 2]], [[1, 0, 2]], spec).round(3)
    array([[1.   , 9.731, 4.   ]], dtype=float32)
    """
    ids, kinds = as_labels(labels, ignore_label=spec.ignore_label), np.asarray(classes)
    if ids.shape != kinds.shape:
        raise ValueError(
            f"labels are {ids.shape}, classes {kinds.shape}; they must be of one shape"
        )
    if kinds.dtype.kind not in "iu":
        raise TypeError(f"classes of dtype {kinds.dtype} are not integers")
    spec.check_axes(2)
    ids = with_ignored(ids, kinds, spec.ignore_label)
    slices, shape = (ids[None], kinds[None]) if ids.ndim == 2 else (ids, kinds), ids.shape
    found = map_of_classes(*slices, spec, dtype)
    return found.reshape(shape)


def map_of_classes(
    slices: Labels,
    classes: Labels,
    spec: WeightMapSpec,
    dtype: npt.DTypeLike,
    inner: Inner | None = None,
) -> Map:
    """Return `multiclass_weight_map` of checked slices ``(S, H, W)``, or of the inner part.

    `classes` has the shape of the result.
    """
    class_table(spec, 1)  # a form of two classes is refused before the work
    final = np.dtype(dtype)
    working = working_type(final)
    term: Any = signed_border_term(slices, spec, working, inner)[0]
    ignored = np.isnan(term)
    carved = ~np.signbit(term) & (cut(slices, inner) > 0)
    kinds = class_numbers(np.where(carved | ignored, 0, classes))
    np.abs(term, out=term)
    each = spec.class_weights == "per-image"
    for one in [[k] for k in range(len(term))] if each else [list(range(len(term)))]:
        counts = np.bincount(kinds[one][~ignored[one]])
        table = class_table(spec, len(counts), counts)
        replace(spec, class_weights=tuple(table.tolist())).check_range(final)
        term[one] += table.astype(working)[kinds[one]]
    term[ignored] = 0
    result: Map = term if term.dtype == final else term.astype(final)
    return result


def with_ignored(labels: Labels, classes: Labels, ignore_label: int | None) -> Labels:
    """Return the labels with the ignore label also where the class is it.

    Examples
    --------
    >>> with_ignored(np.array([1, 2], np.uint8), np.array([1, 300]), 300)
    array([  1, 300], dtype=uint16)
    """
    if ignore_label is None:
        return labels
    outside = classes == ignore_label
    if not np.any(outside):
        return labels
    wide = np.result_type(labels.dtype, np.min_scalar_type(ignore_label))
    if wide.kind not in "iu":  # ids of 64 bits beside a negative ignore label
        found, numbers = np.unique(labels, return_inverse=True)
        labels, wide = numbers + int(found[0] != 0), np.dtype(np.int64)
    marked = labels.reshape(outside.shape).astype(wide)
    marked[outside] = ignore_label
    return marked


def class_numbers(classes: Labels) -> npt.NDArray[np.intp]:
    """Return classes as numbers that can be counted.

    Raises
    ------
    ValueError
        One is negative or too large to be a class.

    Examples
    --------
    >>> class_numbers(np.array([2, 0], np.uint8))
    array([2, 0])
    """
    for wrong in (classes.min(initial=0), classes.max(initial=0)):
        if not 0 <= wrong <= _LAST_CLASS:
            raise ValueError(
                f"class {wrong} is not one of 0 .. {_LAST_CLASS}; number the classes 0, 1, 2, ...,"
                " or make it the ignore label"
            )
    return classes.astype(np.intp)


def class_table(
    spec: WeightMapSpec, classes: int, counts: npt.ArrayLike | None = None
) -> npt.NDArray[np.float64]:
    """Return the weights of classes 0 .. `classes` - 1, at least two, that `spec` stands for.

    Parameters
    ----------
    spec
        Its `class_weights`.
    classes
        How many occur.
    counts
        Pixels of each class, for the balances.

    Raises
    ------
    ValueError
        There are fewer weights than classes, or the form has two classes only.

    Examples
    --------
    >>> class_table(WeightMapSpec(), 3, [2, 1, 1]).round(3)
    array([0.667, 1.333, 1.333])
    """
    known = spec.class_weights
    if known == "falk2019":
        raise ValueError("class_weights 'falk2019' is a form of two classes, background and cells")
    if isinstance(known, str):
        table = np.ones(max(2, classes))
        if known != "none" and counts is not None:
            balanced = class_weights(counts) if np.any(counts) else np.ones(classes)
            table[: len(balanced)] = balanced
        return table
    if classes > len(known):
        raise ValueError(
            f"class {classes - 1} has no weight; {len(known)} weights cover classes 0 to"
            f" {len(known) - 1}"
        )
    return np.array(known, np.float64)
