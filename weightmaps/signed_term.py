"""The border term of Eq. 2 with the class of each pixel in its sign.

One array then holds everything the class term needs, and class weights that depend on the counts
of a whole stack can be added afterwards, in place.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightmaps.carving import separate_touching, separate_touching_volume
from weightmaps.compiled import available
from weightmaps.spec import WeightMapSpec

__all__ = ["Inner", "cut", "signed_border_term", "sources", "working_type"]

Labels: TypeAlias = npt.NDArray[Any]
Term: TypeAlias = npt.NDArray[np.floating[Any]]
Inner: TypeAlias = tuple[tuple[int, int], tuple[int, int]]


def working_type(final: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which a map of type `final` is computed: float64, or float32.

    Raises
    ------
    TypeError
        For another type than float16, float32 and float64.

    Examples
    --------
    >>> working_type(np.dtype("float16"))
    dtype('float32')
    """
    if final.kind != "f" or final.itemsize > 8:
        raise TypeError(f"dtype {final} is not one of float16, float32, float64")
    return np.dtype(np.float64) if final.itemsize == 8 else np.dtype(np.float32)


def signed_border_term(
    slices: Labels, spec: WeightMapSpec, dtype: np.dtype[Any], inner: Inner | None = None
) -> tuple[Term, npt.NDArray[np.int64]]:
    """Return the signed border term of each slice, and the pixel counts of the two classes.

    Parameters
    ----------
    slices
        Checked labels ``(S, H, W)``, or ``(S, Z, Y, X)`` for true volumes.
    spec
        The parameters.
    dtype
        float32 or float64.
    inner
        Rows and columns (begin and end of each) to compute, for slices; the rest is context.

    Returns
    -------
    term : ndarray of `dtype`
        Same shape, or that of `inner`. Background: +term. Cells: -term (-0.0 where the term is 0,
        so the sign bit always tells the class). Ignored pixels: NaN.
    counts : ndarray of int64
        Shape ``(S, 2)``: background and cell pixels of each slice, after carving.
    """
    if available() and slices.ndim == 3:
        if spec.line == "watershed":
            return _around_line(slices, spec, dtype, inner)
        from weightmaps.fast_term import TooManyCellsError, fast_signed_term, plan_for

        plan = plan_for(spec)
        if plan is not None:
            with contextlib.suppress(TooManyCellsError):
                return fast_signed_term(slices, spec, plan, dtype, inner)
    term = np.empty(slices.shape, dtype)
    counts = np.empty((len(slices), 2), np.int64)
    for k, labels in enumerate(slices):
        term[k], counts[k] = _by_arrays(labels, spec, dtype)
    if inner is None:
        return term, counts
    part = np.ascontiguousarray(cut(term, inner))
    return part, np.array([_counts(one) for one in part])


def cut(slices: Labels, inner: Inner | None) -> Labels:
    """Return the inner rows and columns of slices, as a view."""
    if inner is None:
        return slices
    rows, columns = (slice(*ends) for ends in inner)
    return slices[:, rows, columns]


def _counts(term: Term) -> tuple[int, int]:
    """Background and cell pixels of a signed term."""
    ignored = np.isnan(term)
    cells = int(np.count_nonzero(np.signbit(term) & ~ignored))
    return term.size - cells - int(np.count_nonzero(ignored)), cells


def sources(labels: Labels, spec: WeightMapSpec) -> tuple[Labels, Labels]:
    """Return the labels that distances are measured to, and those that decide the class."""
    cells = labels
    if spec.ignore_label is not None:
        cells = np.where(labels == spec.ignore_label, labels.dtype.type(0), labels)
    if spec.line is None:
        return cells, cells
    carve = separate_touching if labels.ndim == 2 else separate_touching_volume
    carved = carve(cells, method=spec.line)
    return (cells if spec.uncarved_distances else carved), carved


def _around_line(
    slices: Labels, spec: WeightMapSpec, dtype: np.dtype[Any], inner: Inner | None
) -> tuple[Term, npt.NDArray[np.int64]]:
    """Return the term of cells carved by watershed, which the compiled blocks cannot carve."""
    carved = separate_touching(slices, method="watershed", ignore_label=spec.ignore_label)
    if not spec.uncarved_distances:
        return signed_border_term(carved, replace(spec, separate="none"), dtype, inner)
    everywhere = replace(spec, separate="none", where="everywhere")
    term, counts = signed_border_term(slices, everywhere, dtype, inner)
    before, after = cut(slices, inner), cut(carved, inner)
    for one, labels, left, count in zip(term, before, after, counts, strict=True):
        line = (left == 0) & (labels != 0)
        np.negative(one, out=one, where=line)
        count += np.count_nonzero(line) * np.array([1, -1])
        if spec.where == "background":
            one[np.signbit(one)] = -0.0
    return term, counts


def _by_arrays(
    labels: Labels, spec: WeightMapSpec, dtype: np.dtype[Any]
) -> tuple[Term, tuple[int, int]]:
    """Return the signed term and counts of one slice or volume, by whole-array operations."""
    from weightmaps.nearest_two import nearest_two_of_one

    source, classes = sources(labels, spec)
    d1, d2 = nearest_two_of_one(source, spec.reach_px, spec.spacing)
    distance = d1 + d2
    near = distance <= spec.reach_px
    term = np.zeros(labels.shape, dtype)
    term[near] = spec.w0 * np.exp(-np.square(distance[near]) / (2 * spec.sigma_px**2))
    cell = classes != 0
    if spec.where == "background":
        term[cell] = 0
    np.negative(term, out=term, where=cell)
    ignored = 0
    if spec.ignore_label is not None:
        outside = labels == spec.ignore_label
        term[outside] = np.nan
        ignored = int(np.count_nonzero(outside))
    cells = int(np.count_nonzero(cell))
    return term, (labels.size - cells - ignored, cells)
