"""Augmentation, section 3.1: shift, rotation, elastic grid and grey values in one resampling.

    source = centre + shift + R M (q + u(q)),      q = output pixel - tile centre

where M mirrors, R rotates and u is the smooth displacement field, u = B d B^T with the random
vectors d on a coarse grid. The image is read linearly, the labels by the nearest pixel, the
weights linearly, all three at the same source points of the whole slice; what lies beyond the
slice is its mirror image (the edge pixel not repeated), never zeros.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unet2015.counter import generator
from unet2015.deformation import (
    Deformation,
    affine,
    basis,
    displacement_field,
    draw_deformation,
)
from unet2015.intensity import without_range

__all__ = [
    "Deformation",
    "deform",
    "deform_reference",
    "displacement_field",
    "draw_deformation",
    "dtype_range",
    "warp_nearest",
]


def dtype_range(dtype: DTypeLike) -> float:
    """Divisor that brings stored grey values to 0..1: 255, 65535, or 1 for floating point.

    It depends on the dtype alone, never on an image or a tile ([R]: im2double).

    Raises
    ------
    ValueError
        For other dtypes: scale such images by a rule that looks at their values, or convert them.

    Examples
    --------
    >>> dtype_range("uint8"), dtype_range("float32")
    (255.0, 1.0)
    """
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype in (np.uint8, np.uint16):
        return float(np.iinfo(dtype).max)
    if dtype.kind == "f":
        return 1.0
    raise ValueError(
        f"{without_range(dtype)}; train with --set scale=percentile (or min-max, median,"
        " fixed:LOW:HIGH), or convert them to uint8, uint16 or float32"
    )


def deform(
    image: NDArray[Any],
    labels: NDArray[np.int64],
    weights: NDArray[np.float32] | None,
    deformation: Deformation,
    *,
    centre: tuple[float, float],
    input_px: int,
    output_px: int,
    device: str = "cpu",
) -> tuple[Any, Any, Any]:
    """Deformed tile: image (C, in, in) float32, labels (out, out) int64, weights float32.

    Parameters
    ----------
    image
        Whole slice, shape (C, H, W), uint8, uint16 or float32 (any layout; never modified).
    labels
        Class labels, int64, shape (H, W).
    weights
        Loss weights, float32, shape (H, W); None: 1 everywhere.
    deformation
        What to do; `Deformation()` only cuts the tile out.
    centre
        Tile centre (y, x) in slice pixels; a tile whose first row is y0 has centre
        y0 + (input_px - 1) / 2. It may lie anywhere.
    input_px, output_px
        Sides of the image tile and of the centred label tile; their difference is even.
    device
        "cpu": the compiled kernel, arrays come back. "cpu-torch" or a torch device ("cuda",
        "mps"): the torch twin, tensors on that device come back; both agree within 1e-4.

    Raises
    ------
    ValueError
        If shapes, dtypes or sizes do not fit.

    Examples
    --------
    >>> image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    >>> tile, _, _ = deform(image, np.zeros((4, 4), np.int64), None, Deformation(),
    ...                     centre=(0.5, 1.5), input_px=4, output_px=2)
    >>> tile[0]
    array([[ 4.,  5.,  6.,  7.],
           [ 0.,  1.,  2.,  3.],
           [ 4.,  5.,  6.,  7.],
           [ 8.,  9., 10., 11.]], dtype=float32)
    """
    _check_tile(image, labels, weights, input_px, output_px)
    offsets = np.arange(input_px, dtype=np.float64) - (input_px - 1) / 2
    where = (affine(deformation, centre), *basis(deformation, offsets, input_px), offsets)
    divisor = dtype_range(image.dtype) if deformation.divisor is None else deformation.divisor
    from unet2015 import resample

    if device == "cpu":
        tile, label_tile, weight_tile = resample.warp_tile(
            image, labels, weights, where,
            output_px=output_px, mirrored_weight=deformation.mirrored_weight,
        )  # fmt: skip
        return _grey(tile, divisor, deformation), label_tile, weight_tile
    from unet2015 import resample_torch

    tensors = resample_torch.warp_tile(
        image, labels, weights, where, output_px=output_px,
        mirrored_weight=deformation.mirrored_weight, device=device.removesuffix("-torch"),
    )  # fmt: skip
    return resample_torch.grey(tensors[0], divisor, deformation), *tensors[1:]


def warp_nearest(
    labels: NDArray[np.int64],
    deformation: Deformation,
    *,
    centre: tuple[float, float],
    input_px: int,
    window_px: int,
) -> NDArray[np.int64]:
    """Labels of a centred window of the deformed tile, nearest pixel, shape (window, window).

    The window may be larger than the tile: the displacement field continues mirrored.

    Parameters
    ----------
    labels
        Class or instance labels of the slice, int64, shape (H, W).
    deformation, centre, input_px
        As for `deform`.
    window_px
        Side of the window; `window_px - input_px` is even.

    Examples
    --------
    >>> labels = np.arange(9).reshape(3, 3)
    >>> warp_nearest(labels, Deformation(mirrored=True), centre=(1, 1), input_px=3, window_px=3)
    array([[2, 1, 0], [5, 4, 3], [8, 7, 6]])
    """
    from unet2015 import resample

    offsets = np.arange(window_px, dtype=np.float64) - (window_px - 1) / 2
    where = (affine(deformation, centre), *basis(deformation, offsets, input_px), offsets)
    return resample.warp_nearest(labels, where)


def deform_reference(
    image: NDArray[Any],
    labels: NDArray[np.int64],
    weights: NDArray[np.float32] | None,
    deformation: Deformation,
    *,
    centre: tuple[float, float],
    input_px: int,
    output_px: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """`deform` the slow, obvious way, in float64 with scipy's `map_coordinates`.

    Parameters and result as for `deform`; the compiled and the torch path are tested against it.

    Examples
    --------
    >>> image = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    >>> labels = np.zeros((3, 3), np.int64)
    >>> deform_reference(image, labels, None, Deformation(shift_px=(0, 0.5)),
    ...                  centre=(1, 1), input_px=3, output_px=1)[0][0]
    array([[0.5, 1.5, 1.5],
           [3.5, 4.5, 4.5],
           [6.5, 7.5, 7.5]], dtype=float32)
    """
    from scipy.ndimage import map_coordinates

    _check_tile(image, labels, weights, input_px, output_px)
    q = np.mgrid[:input_px, :input_px].astype(np.float64)
    u = np.zeros_like(q)
    if deformation.displacement is not None:
        nodes = deformation.displacement.shape[1]
        if deformation.mode == "interpolate":
            at = q * (nodes - 1) / (input_px - 1)
        else:
            at = (q - (input_px - 1) / 2) / deformation.spacing_px + (nodes - 1) / 2
        spline = deformation.mode == "interpolate"
        u = np.stack([map_coordinates(d, at, order=3, mode="mirror", prefilter=spline)
                      for d in deformation.displacement])  # fmt: skip
    y, x = q + u - (input_px - 1) / 2
    x = -x if deformation.mirrored else x
    angle = math.radians(deformation.rotation_deg)
    source = np.stack([
        centre[0] + deformation.shift_px[0] + math.cos(angle) * y - math.sin(angle) * x,
        centre[1] + deformation.shift_px[1] + math.sin(angle) * y + math.cos(angle) * x,
    ])  # fmt: skip
    tile = np.stack([map_coordinates(channel.astype(np.float64), source, order=1, mode="mirror")
                     for channel in image])  # fmt: skip
    divisor = dtype_range(image.dtype) if deformation.divisor is None else deformation.divisor
    margin = (input_px - output_px) // 2
    window = source[:, margin : margin + output_px, margin : margin + output_px]
    size = np.array(labels.shape).reshape(2, 1, 1)
    inside = ((window >= -0.5) & (window < size - 0.5)).all(0)
    near = map_coordinates(labels, window, order=0, mode="mirror")
    if weights is None:
        weights = np.ones(labels.shape, np.float32)
    weight = map_coordinates(weights.astype(np.float64), window, order=1, mode="mirror")
    weight = np.where(inside, weight, deformation.mirrored_weight * weight)
    return _grey(tile.astype(np.float32), divisor, deformation), near, weight.astype(np.float32)


def _grey(
    tile: NDArray[np.float32], divisor: float, deformation: Deformation
) -> NDArray[np.float32]:
    """Grey-value variation, in place on our own fresh tile; neutral steps are left out."""
    with np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite is told
        return _varied(tile, divisor, deformation)


def _varied(
    tile: NDArray[np.float32], divisor: float, deformation: Deformation
) -> NDArray[np.float32]:
    """The steps of `_grey`, in their order."""
    if divisor != 1.0:
        tile /= np.float32(divisor)
    if deformation.gamma != 1.0:
        gamma = np.float32(deformation.gamma)
        if tile.min() >= 0:
            np.power(tile, gamma, out=tile)
        else:
            tile = np.sign(tile) * np.abs(tile) ** gamma
    if deformation.gain != 1.0:
        tile *= np.float32(deformation.gain)
    if deformation.grey_shift != 0.0:
        tile += np.float32(deformation.grey_shift)
    if deformation.noise_std != 0.0:
        noise = generator(*deformation.noise_key).standard_normal(tile.shape, np.float32)
        tile += np.float32(deformation.noise_std) * noise
    return tile


def _check_tile(
    image: NDArray[Any],
    labels: NDArray[Any],
    weights: NDArray[Any] | None,
    input_px: int,
    output_px: int,
) -> None:
    """Refuse shapes and sizes that do not belong together."""
    if image.ndim != 3:
        raise ValueError(f"the image has shape {image.shape}; (C, H, W) was expected")
    for name, array in (("labels", labels), ("weights", weights)):
        if array is not None and array.shape != image.shape[1:]:
            raise ValueError(f"{name} have shape {array.shape}, the image {image.shape[1:]}")
    if input_px < 2 or not 0 < output_px <= input_px or (input_px - output_px) % 2:
        raise ValueError(
            f"tile sides {input_px} -> {output_px} do not nest; the output must be smaller than "
            "the input by an even number of pixels"
        )
