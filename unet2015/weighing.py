"""Weights of a labelled stack by Eq. 2: computed here, read from files, or made after the warp.

The class weights are those of the whole stack given (the training slices), never of one image,
unless the recipe says "per-image". Touching cells are separated first, and the class labels get
the same background line as the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unet2015.recipe import Recipe
from unet2015.stack import Stack

if TYPE_CHECKING:
    from weightmaps import WeightMapSpec

__all__ = [
    "IGNORED",
    "annotation",
    "border_spec",
    "cell_ids",
    "weigh",
    "whole_window",
    "without_unlabelled",
]

IGNORED = -1  # id of pixels without annotation, in the instance maps of a weighed stack


def weigh(stack: Stack, recipe: Recipe) -> Stack:
    """The stack with its weight maps, and with touching cells separated in the labels.

    Parameters
    ----------
    stack
        Labelled slices; cells are its instances, or the 4-connected components of each
        foreground class.
    recipe
        w0, sigma, class weights, where, separation, ignore label, unlabelled border band.

    Returns
    -------
    Stack
        `weights` float32, `labels` with the separating line (unless the recipe recomputes the
        weights after the warp, where the line is drawn then), `instances` with -1 where there
        is no annotation, `class_weights`.

    Raises
    ------
    ValueError
        If a label is neither a class of the recipe nor its ignore label, or the recipe wants
        `class_weights = "falk2019"` for more than two classes.

    Examples
    --------
    >>> from unet2015.recipe import isbi2012
    >>> labels = np.array([[[1, 1, 0, 0, 0, 1]]])
    >>> stack = Stack(np.zeros((1, 1, 1, 6), np.uint8), labels)
    >>> weigh(stack, isbi2012()).weights[0].round(2)
    array([[1.  , 1.  , 8.26, 8.26, 8.26, 1.  ]], dtype=float32)
    """
    ids, labels, carved = annotation(stack, recipe)
    balance = _dataset_weights(carved, ids, recipe)
    weights = [_eq2(c, i, recipe, balance) for c, i in zip(carved, ids, strict=True)]
    notes = stack.notes
    if recipe.classes > 2:  # of cells alone that is what the paper does
        lost = sum(int((a != b).sum()) for a, b in zip(carved, labels, strict=True))
        line = f"{lost} pixels where labelled pieces touch are learned as background"
        how = f"(--set separate={recipe.separate}; none leaves them as they are)"
        notes = (*notes, f"{line} {how}") if lost else notes
    if recipe.weights_after_warp == "warped":
        labels = carved
    return replace(
        stack, labels=labels, weights=weights, instances=ids, notes=notes,
        class_weights=None if balance is None else balance.tolist(),
    )  # fmt: skip


def annotation(
    stack: Stack, recipe: Recipe
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Cell ids, class labels, and class labels with touching cells separated, of each slice.

    Where there is no annotation the ids are -1 and the labels the recipe's ignore label, if any.
    """
    _check_classes(stack, recipe)
    ids = cell_ids(stack, recipe)
    labels = [np.array(x) for x in stack.labels]
    if recipe.ignore_label is not None:
        for label, cells in zip(labels, ids, strict=True):
            label[cells == IGNORED] = recipe.ignore_label
    carved = [_carved(label, cells, recipe) for label, cells in zip(labels, ids, strict=True)]
    return ids, labels, carved


def without_unlabelled(stack: Stack, recipe: Recipe) -> Stack:
    """The stack with the ignore label where the recipe says there is no annotation.

    Held-out slices are measured on these labels; touching cells keep all their pixels.

    Examples
    --------
    >>> from unet2015.recipe import Recipe
    >>> stack = Stack(np.zeros((1, 1, 1, 6), np.uint8), np.array([[[1, 0, 0, 0, 0, 0]]]))
    >>> without_unlabelled(stack, Recipe(ignore_label=255, unlabelled_beyond_px=2)).labels[0]
    array([[  1,   0,   0, 255, 255, 255]])
    """
    if not (recipe.unlabelled_border_px or recipe.unlabelled_beyond_px):
        return stack
    return replace(stack, labels=annotation(stack, recipe)[1])


def cell_ids(stack: Stack, recipe: Recipe) -> list[NDArray[np.int64]]:
    """Cell ids of each slice, -1 where there is no annotation.

    That is at the ignore label, and in the background of the border band and of whatever lies
    farther from every cell than `recipe.unlabelled_beyond_px`.

    Examples
    --------
    >>> from unet2015.recipe import isbi2012
    >>> stack = Stack(np.zeros((1, 1, 1, 4), np.uint8), np.array([[[1, 0, 1, 1]]]))
    >>> cell_ids(stack, isbi2012())[0]
    array([[1, 0, 2, 2]])
    """
    from weightmaps.reference import transform

    found = []
    band = recipe.unlabelled_border_px
    for i, label in enumerate(stack.labels):
        if stack.instances is None:
            ids = _components(label, recipe)
        else:
            ids = np.array(stack.instances[i], np.int64)
        if recipe.ignore_label is not None:
            ids[label == recipe.ignore_label] = IGNORED
        if band:
            inner = np.zeros(label.shape, bool)
            inner[band : label.shape[0] - band, band : label.shape[1] - band] = True
            ids[~inner & (ids == 0)] = IGNORED
        if recipe.unlabelled_beyond_px:
            far = transform(ids > 0, None) > recipe.unlabelled_beyond_px
            ids[far & (ids == 0)] = IGNORED
        found.append(ids)
    return found


def whole_window(
    classes: NDArray[np.int64], ids: NDArray[Any], recipe: Recipe
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Class labels with touching cells separated, and weights balanced over this window alone."""
    carved = _carved(classes, ids, recipe)
    return carved, _eq2(carved, ids, recipe, None)


def border_spec(recipe: Recipe) -> WeightMapSpec:
    """Parameters of the border term; pixels without annotation have id -1."""
    from weightmaps import WeightMapSpec

    return WeightMapSpec(
        w0=recipe.w0 if recipe.border_weight else 0.0,
        sigma_px=recipe.sigma_px,
        class_weights="none",
        where=recipe.where,
        separate=recipe.separate,
        ignore_label=IGNORED,
    )


def _components(label: NDArray[np.int64], recipe: Recipe) -> NDArray[np.int64]:
    """4-connected components of each foreground class."""
    from weightmaps import instances_from_mask

    ids = np.zeros(label.shape, np.int64)
    for value in np.unique(label[label > 0]).tolist():
        if value != recipe.ignore_label:
            part = instances_from_mask(label == value).astype(np.int64)
            ids += np.where(part > 0, part + ids.max(), 0)
    return ids


def _carved(label: NDArray[np.int64], ids: NDArray[np.int64], recipe: Recipe) -> NDArray[np.int64]:
    """Class labels with background where touching cells are separated."""
    method = border_spec(recipe).line
    if method is None:
        return label
    from weightmaps import separate_touching

    line = (separate_touching(ids, method=method, ignore_label=IGNORED) == 0) & (ids > 0)
    return np.where(line, 0, label)


def _dataset_weights(
    labels: Sequence[NDArray[np.int64]], ids: Sequence[NDArray[np.int64]], recipe: Recipe
) -> NDArray[np.float64] | None:
    """Class weights (K,) over all slices; None where each map makes its own."""
    from weightmaps import class_weights

    if recipe.class_weights in ("per-image", "falk2019"):
        if recipe.class_weights == "falk2019" and recipe.classes > 2:
            raise ValueError("class_weights = 'falk2019' is defined for two classes only")
        return None
    if recipe.class_weights == "none":
        return np.ones(recipe.classes)
    counts = sum(_counts(label, i, recipe) for label, i in zip(labels, ids, strict=True))
    return np.asarray(class_weights(counts))


def _counts(label: NDArray[np.int64], ids: NDArray[np.int64], recipe: Recipe) -> NDArray[np.int64]:
    """Annotated pixels of each class."""
    return np.bincount(label[ids != IGNORED], minlength=recipe.classes).astype(np.int64)


def _eq2(
    label: NDArray[np.int64],
    ids: NDArray[np.int64],
    recipe: Recipe,
    balance: NDArray[np.float64] | None,
) -> NDArray[np.float32]:
    """W = w_c + border term of one slice; `label` is carved, `ids` are not."""
    from weightmaps import class_map, class_weights
    from weightmaps.formula import map_of_slices

    spec = border_spec(recipe)
    if recipe.classes == 2:
        ours = recipe.class_weights if balance is None else tuple(balance.tolist())
        return np.asarray(
            map_of_slices(ids, replace(spec, class_weights=ours), np.float32), np.float32
        )
    if balance is None:
        balance = np.asarray(class_weights(_counts(label, ids, recipe)))
    border = np.asarray(map_of_slices(ids, spec, np.float32), np.float32) - 1
    weights = class_map(np.where(ids == IGNORED, 0, label), balance) + border
    weights[ids == IGNORED] = 0
    return weights


def _check_classes(stack: Stack, recipe: Recipe) -> None:
    for name, label in zip(stack.names, stack.labels, strict=True):
        values = set(np.unique(label).tolist()) - {recipe.ignore_label}
        if values and not 0 <= min(values) <= max(values) < recipe.classes:
            raise ValueError(
                f"slice {name!r}: labels {sorted(values)[:8]} are not all among the"
                f" {recipe.classes} classes 0 .. {recipe.classes - 1}; check classes and"
                " ignore_label"
            )
