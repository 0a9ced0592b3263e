"""The weights of a training tile, made anew from its deformed cells instead of being deformed.

Cells and classes travel as one number per pixel (`Stack.packed`) through the same pass as the
image, with a margin as wide as the border term reaches. Then touching cells are carved apart again
and Eq. 2 is applied to the inner part. Nothing is renumbered, no source point computed twice.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unet2015.augment import deform, warp_nearest
from unet2015.recipe import Recipe
from unet2015.stack import PACKED_BITS, PACKED_IGNORE, Stack
from unet2015.weighing import IGNORED, border_spec, whole_window
from weightmaps.compiled import compiled

if TYPE_CHECKING:
    from unet2015.deformation import Deformation

__all__ = ["recomputed_tile"]

_spec = functools.lru_cache(maxsize=8)(border_spec)


def recomputed_tile(
    image: Any,
    stack: Stack,
    index: int,
    recipe: Recipe,
    deformation: Deformation,
    *,
    centre: tuple[float, float],
    output_px: int,
    device: str,
) -> tuple[Any, Any, Any]:
    """The deformed tile of a slice with labels and weights of its deformed cells.

    Parameters
    ----------
    image
        The slice, (C, H, W); on `device`.
    stack, index
        Weighed stack (`weigh`), and which slice of it.
    recipe, deformation, centre
        As for `draw_tile` and `deform`.
    output_px
        Side of labels and weights.
    device
        "cpu", or where the tile is wanted; the weights are made on the CPU.

    Returns
    -------
    tuple
        Image (C, in, in) float32, labels (out, out) int64, weights (out, out) float32.
    """
    spec, tile_px = _spec(recipe), recipe.tile_px
    margin = spec.halo_px
    window_px = output_px + 2 * margin
    fused = device == "cpu" and window_px <= tile_px
    picture, packed, factors = deform(
        image, stack.packed[index] if fused else _nothing_like(image), None, deformation,
        centre=centre, input_px=tile_px, output_px=window_px if fused else output_px, device=device,
    )  # fmt: skip
    inner = slice(margin, margin + output_px)
    if fused:
        factors = factors[inner, inner]
    else:
        packed = warp_nearest(
            stack.packed[index], deformation, centre=centre, input_px=tile_px, window_px=window_px
        )
    labels, weights = _weighed(packed, inner, stack, recipe)
    if device == "cpu":
        if recipe.mirrored_weight != 1:
            weights *= factors
        return picture, labels, weights
    import torch

    on_device = torch.as_tensor(weights, device=picture.device)
    return picture, torch.as_tensor(labels, device=picture.device), on_device * factors


def _nothing_like(image: Any) -> Any:
    """Class labels of a slice for whom only the image matters, where the image is."""
    if isinstance(image, np.ndarray):
        return np.zeros(image.shape[1:], np.int64)
    import torch

    return torch.zeros(image.shape[1:], dtype=torch.int64, device=image.device)


def _weighed(
    packed: NDArray[np.int64], inner: slice, stack: Stack, recipe: Recipe
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels and weights of the inner part of a window of packed cells and classes."""
    ids = (packed >> PACKED_BITS).astype(np.int32)
    ignore = IGNORED if recipe.ignore_label is None else recipe.ignore_label
    if stack.class_weights is None:
        classes = packed & PACKED_IGNORE
        classes[classes == PACKED_IGNORE] = ignore
        labels, weights = whole_window(classes, ids, recipe)
        return np.ascontiguousarray(labels[inner, inner]), weights[inner, inner].copy()
    from weightmaps.signed_term import signed_border_term

    ends = (inner.start, inner.stop)
    term, _ = signed_border_term(ids[None], _spec(recipe), np.dtype(np.float32), (ends, ends))
    labels = np.empty(term.shape[1:], np.int64)
    table = np.ones(PACKED_IGNORE + 1, np.float32)
    table[: len(stack.class_weights)] = stack.class_weights
    _finish(term[0], packed[inner, inner], table, ignore, labels)
    return labels, term[0]


@compiled
def _finish(term: Any, packed: Any, table: Any, ignore: Any, labels: Any) -> None:
    """Make weights of a signed border term, in place, and class labels with the carved line."""
    for y in range(term.shape[0]):
        for x in range(term.shape[1]):
            value = term[y, x]
            kind = packed[y, x] & PACKED_IGNORE
            if value != value:
                term[y, x] = 0
            else:
                if packed[y, x] > PACKED_IGNORE and math.copysign(1.0, value) > 0:
                    kind = 0  # of a cell, and carved
                term[y, x] = abs(value) + table[kind]
            labels[y, x] = ignore if kind == PACKED_IGNORE else kind
