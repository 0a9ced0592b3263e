"""One fused, compiled pass: displacement field, source points and the three samples of a tile.

Strategy: for each row of the tile the displacement is a short sum over the coarse grid (the
first of the two products of B d B^T is made once per row); each pixel's source point is folded
back into the slice by reflection; image, label and weight are read there. The kernels release
the GIL, use one thread per tile and no fast-math, so results do not depend on the threads.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightmaps.compiled import compiled

__all__ = ["Map", "warp_nearest", "warp_tile"]

Map = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def warp_tile(
    image: NDArray[Any],
    labels: NDArray[np.int64],
    weights: NDArray[np.float32] | None,
    where: Map,
    *,
    output_px: int,
    mirrored_weight: float,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Image (C, P, P) in stored grey values, labels and weights of the centred window.

    Parameters
    ----------
    image, labels, weights
        The whole slice, (C, H, W), (H, W), (H, W) or None for weight 1.
    where
        Affine map (2, 3), basis (n, P), vectors (2, n, n), offsets from the tile centre (P,).
    output_px
        Side of the label window.
    mirrored_weight
        Factor on weights read from beyond the slice.
    """
    affine, basis, vectors, offsets = where
    stored = image.dtype.newbyteorder("=")
    if stored not in (np.uint8, np.uint16):
        stored = np.dtype(np.float32)
    image = np.ascontiguousarray(image, dtype=stored)
    labels = np.ascontiguousarray(labels, dtype=np.int64)
    weighed = np.ones((1, 1), np.float32) if weights is None else weights
    weighed = np.ascontiguousarray(weighed, dtype=np.float32)
    side = offsets.size
    tile = np.empty((image.shape[0], side, side), np.float32)
    label_tile = np.empty((output_px, output_px), np.int64)
    weight_tile = np.empty((output_px, output_px), np.float32)
    _warp_tile(
        image, labels, weighed, weights is not None, affine, basis, vectors, offsets,
        np.float32(mirrored_weight), tile, label_tile, weight_tile,
    )  # fmt: skip
    return tile, label_tile, weight_tile


def warp_nearest(labels: NDArray[np.int64], where: Map) -> NDArray[np.int64]:
    """Labels (P, P) of the nearest source pixels; `where` as in `warp_tile`."""
    affine, basis, vectors, offsets = where
    tile = np.empty((offsets.size, offsets.size), np.int64)
    labels = np.ascontiguousarray(labels, dtype=np.int64)
    _warp_nearest(labels, affine, basis, vectors, offsets, tile)
    return tile


@compiled
def _fold(position, last):
    """Position mirrored into 0 .. last, the edge not repeated."""
    if 0.0 <= position <= last:
        return position
    if last == 0:
        return 0.0
    position = abs(position)
    if position > 2.0 * last:
        position %= 2.0 * last
    return 2.0 * last - position if position > last else position


@compiled
def _source_row(i, affine, basis, vectors, offsets, ys, xs):
    """Source points of row i of the tile, written to ys, xs."""
    nodes, side = basis.shape
    for j in range(side):
        ys[j] = offsets[i]
        xs[j] = offsets[j]
    for m in range(nodes):
        along_y = 0.0
        along_x = 0.0
        for n in range(nodes):
            along_y += basis[n, i] * vectors[0, n, m]
            along_x += basis[n, i] * vectors[1, n, m]
        if along_y != 0.0 or along_x != 0.0:
            for j in range(side):
                ys[j] += along_y * basis[m, j]
                xs[j] += along_x * basis[m, j]
    a, b, origin_y = affine[0, 0], affine[0, 1], affine[0, 2]
    c, d, origin_x = affine[1, 0], affine[1, 1], affine[1, 2]
    for j in range(side):
        y = ys[j]
        x = xs[j]
        ys[j] = origin_y + (a * y + b * x)
        xs[j] = origin_x + (c * y + d * x)


@compiled
def _linear(plane, y, x):
    """Bilinear value of a plane at (y, x) inside it; exact where a fraction is zero."""
    height, width = plane.shape
    y0 = int(y)
    x0 = int(x)
    y1 = min(y0 + 1, height - 1)
    x1 = min(x0 + 1, width - 1)
    fy = np.float32(y - y0)
    fx = np.float32(x - x0)
    one = np.float32(1.0)
    top = np.float32(plane[y0, x0]) * (one - fx) + np.float32(plane[y0, x1]) * fx
    low = np.float32(plane[y1, x0]) * (one - fx) + np.float32(plane[y1, x1]) * fx
    return top * (one - fy) + low * fy


@compiled
def _warp_tile(
    image, labels, weights, weighed, affine, basis, vectors, offsets, mirrored_weight,
    tile, label_tile, weight_tile,
):  # fmt: skip
    channels, height, width = image.shape
    side = offsets.size
    output = label_tile.shape[0]
    margin = (side - output) // 2
    ys = np.empty(side)
    xs = np.empty(side)
    for i in range(side):
        _source_row(i, affine, basis, vectors, offsets, ys, xs)
        row = i - margin
        for j in range(side):
            y = _fold(ys[j], height - 1)
            x = _fold(xs[j], width - 1)
            for channel in range(channels):
                tile[channel, i, j] = _linear(image[channel], y, x)
            column = j - margin
            if 0 <= row < output and 0 <= column < output:
                label_tile[row, column] = labels[int(y + 0.5), int(x + 0.5)]
                weight = np.float32(1.0)
                if weighed:
                    weight = _linear(weights, y, x)
                if not (-0.5 <= ys[j] < height - 0.5 and -0.5 <= xs[j] < width - 0.5):
                    weight *= mirrored_weight
                weight_tile[row, column] = weight


@compiled
def _warp_nearest(labels, affine, basis, vectors, offsets, tile):
    height, width = labels.shape
    side = offsets.size
    ys = np.empty(side)
    xs = np.empty(side)
    for i in range(side):
        _source_row(i, affine, basis, vectors, offsets, ys, xs)
        for j in range(side):
            y = _fold(ys[j], height - 1)
            x = _fold(xs[j], width - 1)
            tile[i, j] = labels[int(y + 0.5), int(x + 0.5)]
