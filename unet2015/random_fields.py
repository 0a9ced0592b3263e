"""Smooth random fields: cubic B-splines over a coarse grid of normal numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unet2015.counter import generator

__all__ = ["Field", "drifting_field", "smooth_field"]

Field = NDArray[np.float32]


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], spacing_px: float) -> Field:
    """Random field (H, W), mean 0, standard deviation 1: cubic B-spline over a coarse grid."""
    rows, columns = (spline_weights(n, spacing_px) for n in shape)
    nodes = rng.standard_normal((rows.shape[1], columns.shape[1]), np.float32)
    # The mean square of the spline's weights is 151/315 per axis.
    return np.asarray((rows @ nodes @ columns.T) / np.float32(151 / 315), np.float32)


def spline_weights(length: int, spacing_px: float) -> Field:
    """Cubic B-spline weights (length, nodes) of pixels over nodes `spacing_px` apart."""
    at = np.arange(length) / spacing_px
    first = np.floor(at).astype(int)
    t = at - first
    weights = np.zeros((length, int(first[-1]) + 4), np.float32)
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, piece in enumerate(pieces):
        weights[np.arange(length), first + k] = piece / 6
    return weights


def drifting_field(
    seed: int, purpose: int, z: int, shape: tuple[int, ...], spacing_px: float, count: int,
    *, salt: int = 0,
) -> Field:  # fmt: skip
    """Random fields (count, H, W) of unit variance that change slowly from slice to slice.

    Every fourth slice has its own fields; those between mix the two around them.
    """
    before, turn = z // 4, (z % 4) / 4 * np.pi / 2
    mixed = []
    for k in range(count):
        a, b = (
            smooth_field(generator(seed, purpose, salt, k, key), shape, spacing_px)
            for key in (before, before + 1)
        )
        mixed.append(np.cos(turn) * a + np.sin(turn) * b)
    return np.asarray(mixed, np.float32)
