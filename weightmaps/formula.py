"""Eq. 2 of the paper: w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)).

d1 and d2 are the Euclidean distances of pixel x to the masks of the nearest and second-nearest
*cell*: never twice the same cell, never chamfer. The neighbours of a mask have distance 1.
Values of the border term below half of `EPSILON` are exactly 0, so a map depends on its
surroundings only within `halo_px`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightmaps.class_balance import class_weights as balance
from weightmaps.compiled import available
from weightmaps.labels import as_labels
from weightmaps.signed_term import Inner, cut, signed_border_term, working_type
from weightmaps.spec import (
    EPSILON,
    SIGMA_PX,
    W0,
    WeightMapSpec,
    halo_px,
    weights_of,
)
from weightmaps.threads import LIGHT, in_parts

__all__ = ["EPSILON", "WeightMapSpec", "border_term", "halo_px", "volume_weight_map", "weight_map"]

ClassWeights: TypeAlias = str | Sequence[float] | Mapping[int, float]
Map: TypeAlias = npt.NDArray[np.floating[Any]]


def weight_map(
    labels: npt.ArrayLike,
    *,
    w0: float = W0,
    sigma_px: float = SIGMA_PX,
    class_weights: ClassWeights = "balanced",
    where: str = "background",
    separate: str = "after",
    spacing: tuple[float, float] | None = None,
    ignore_label: int | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> Map:
    """Return the weight map of Eq. 2 for an image or a stack of images.

    Parameters
    ----------
    labels
        Instance labels, 0 = background, ids >= 1: one image ``(H, W)`` or a stack of independent
        images ``(S, H, W)``. (A true volume: `volume_weight_map`.)
    w0, sigma_px
        Height and width of the border term; 10 and 5 px in the paper. With `spacing`, sigma is
        in its unit.
    class_weights
        w_c: ``"balanced"`` (N / (K n_k) over all of `labels`, mean exactly 1), ``"per-image"``
        (the same for each slice), ``"falk2019"`` (cells 1, background
        v + (1 - v) exp(-d1^2 / (2 sigma1^2)) with v = 0.1, sigma1 = 10; its authors used
        w0 = 50 and sigma = 6 with it, which stay your choice), ``"none"`` (1), or two numbers,
        background and cells, such as `class_weights` gives for a whole data set.
    where
        ``"background"`` (default) or ``"everywhere"``; inside a cell d1 is 0.
    separate
        ``"after"`` (default): a border is carved between touching cells by the rule of
        `separate_touching`, and distances are measured after that; ``"before"``: carved pixels
        are background, distances are measured to the uncarved cells (the authors' later code);
        ``"watershed"``, ``"watershed-before"``: the same two with a minimal border;
        ``"none"``: as they are (for labels carved otherwise).
    spacing
        Pixel size along (y, x).
    ignore_label
        Pixels of this value have weight 0 and count in no class and no cell.
    dtype
        float16, float32 or float64.

    Returns
    -------
    ndarray
        Same shape as `labels`, within `EPSILON` and rounding of the formula.

    Raises
    ------
    TypeError, ValueError
        As `WeightMapSpec` and `as_labels`.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, Eq. 2.

    Examples
    --------
    >>> weight_map([[1, 0, 0, 2]], class_weights="none").round(3)
    array([[1.   , 9.353, 9.353, 1.   ]], dtype=float32)
    """
    weights = weights_of(class_weights)
    spec = WeightMapSpec(
        w0=w0, sigma_px=sigma_px, class_weights=weights, where=where, separate=separate,
        spacing=spacing, ignore_label=ignore_label,
    )  # fmt: skip
    return map_of_slices(labels, spec, dtype)


def map_of_slices(
    labels: npt.ArrayLike, spec: WeightMapSpec, dtype: npt.DTypeLike, inner: Inner | None = None
) -> Map:
    """Return `weight_map` with the parameters of `spec`, or its inner rows and columns."""
    array = as_labels(labels, ignore_label=spec.ignore_label)
    spec.check_axes(2)
    slices = array[None] if array.ndim == 2 else array
    found = _both_terms(slices, spec, dtype, inner)
    return found.reshape(array.shape[:-2] + found.shape[-2:])


def volume_weight_map(
    labels: npt.ArrayLike,
    *,
    w0: float = W0,
    sigma_px: float = SIGMA_PX,
    class_weights: ClassWeights = "balanced",
    where: str = "background",
    separate: str = "after",
    spacing: tuple[float, float, float] | None = None,
    ignore_label: int | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> Map:
    """Return the weight map of a true volume ``(Z, Y, X)``: distances run through the slices.

    Parameters are those of `weight_map`, with `spacing` along (z, y, x). Carving looks at the 13
    already-scanned neighbours; ``"per-image"`` means per volume.

    Returns
    -------
    ndarray of `dtype`
        Shape ``(Z, Y, X)``, within `EPSILON` and rounding of the formula.

    Raises
    ------
    TypeError, ValueError
        As `weight_map`, and ValueError for other than three axes or numbers of `spacing`.

    Examples
    --------
    >>> volume_weight_map([[[1]], [[0]], [[2]]], class_weights="none").ravel().round(3)
    array([ 1.   , 10.231,  1.   ], dtype=float32)
    """
    weights = weights_of(class_weights)
    spec = WeightMapSpec(
        w0=w0, sigma_px=sigma_px, class_weights=weights, where=where, separate=separate,
        spacing=spacing, ignore_label=ignore_label,
    )  # fmt: skip
    return map_of_volume(labels, spec, dtype)


def map_of_volume(labels: npt.ArrayLike, spec: WeightMapSpec, dtype: npt.DTypeLike) -> Map:
    """Return `volume_weight_map` with the parameters of `spec`."""
    array = as_labels(labels, ignore_label=spec.ignore_label)
    if array.ndim != 3:
        raise ValueError(f"a volume has 3 axes (Z, Y, X), not {array.ndim}")
    spec.check_axes(3)
    return _both_terms(array[None], spec, dtype).reshape(array.shape)


def border_term(
    labels: npt.ArrayLike,
    *,
    w0: float = W0,
    sigma_px: float = SIGMA_PX,
    where: str = "background",
    spacing: tuple[float, float] | None = None,
) -> npt.NDArray[np.float32]:
    """Return the second term of Eq. 2 alone: no carving, no class weights.

    Parameters
    ----------
    labels, w0, sigma_px, where, spacing
        As in `weight_map`.

    Returns
    -------
    ndarray of float32
        Same shape as `labels`; exactly 0 where fewer than two cells are near.

    Examples
    --------
    At the centre of a gap of 1 and 3 pixels:

    >>> [f"{border_term(row)[0].max():.3f}" for row in ([[1, 0, 2]], [[1, 0, 0, 0, 2]])]
    ['9.231', '7.261']
    """
    spec = WeightMapSpec(
        w0=w0, sigma_px=sigma_px, class_weights="none", where=where, separate="none",
        spacing=spacing,
    )  # fmt: skip
    array = as_labels(labels)
    spec.check_axes(2)
    slices = array[None] if array.ndim == 2 else array
    term, _ = signed_border_term(slices, spec, np.dtype(np.float32))
    return np.abs(term, out=term).reshape(array.shape)


def _both_terms(
    slices: npt.NDArray[Any],
    spec: WeightMapSpec,
    dtype: npt.DTypeLike,
    inner: Inner | None = None,
) -> Map:
    """Return w = w_c + border term for slices (S, H, W), or for volumes (1, Z, Y, X)."""
    final = np.dtype(dtype)
    working = working_type(final)
    if not isinstance(spec.class_weights, str) and len(spec.class_weights) != 2:
        raise ValueError(
            f"{len(spec.class_weights)} class weights, but cells and background are two classes;"
            " multiclass_weight_map takes more"
        )
    spec.check_range(final)
    falk = spec.class_weights == "falk2019"  # its class term reads the signs around each pixel
    term, counts = signed_border_term(slices, spec, working, None if falk else inner)
    if falk:
        from weightmaps.nearest_one import add_nearness

        for one, labels_of_one in zip(term, slices, strict=True):
            add_nearness(one, labels_of_one, spec)
        term = cut(term, inner)
    else:
        for one, (background, cell) in zip(term, _pairs(spec, counts), strict=True):
            replace(spec, class_weights=(float(background), float(cell))).check_range(final)
            _add_constants(one, background, cell)
    return term if term.dtype == final else term.astype(final)


def _pairs(spec: WeightMapSpec, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the weights (background, cell) of each slice, shape (S, 2)."""
    if spec.class_weights == "balanced":
        return np.broadcast_to(balance(counts.sum(axis=0)), counts.shape)
    if spec.class_weights == "per-image":
        return np.array([balance(row) for row in counts])
    if spec.class_weights == "none":
        return np.ones(counts.shape)
    return np.broadcast_to(np.array(spec.class_weights, np.float64), counts.shape)


def _add_constants(term: Map, background: float, cell: float) -> None:
    """Turn a signed border term into weights, in place (see `signed_border_term`)."""
    kind = term.dtype.type
    if available() and term.ndim == 2:
        from weightmaps.kernels import add_constants

        def add(begin: int, end: int) -> None:
            add_constants(term[begin:end], kind(background), kind(cell))

        in_parts(add, len(term), term.size // LIGHT)
        return
    for row in term:
        constant = np.where(np.signbit(row), kind(cell), kind(background))
        ignored = np.isnan(row)
        np.abs(row, out=row)
        row += constant
        row[ignored] = 0
