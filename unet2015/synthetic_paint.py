"""The looks of synthetic tissue: cytoplasm, organelles, membranes, exposure and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet2015.counter import generator
from unet2015.random_fields import Field, drifting_field, smooth_field
from unet2015.synthetic_tissue import Tissue, placed, turned, window_around

__all__ = ["CLEAR", "NOISY", "Exposure", "expose", "paint"]

FADING, SHADE, GRAIN, VESICLES, NOISE = range(3, 8)  # purposes of random numbers


@dataclass(frozen=True)
class Exposure:
    """How well a slice was photographed; noise is a standard deviation in grey values."""

    blur_px: float
    sharp_noise: float
    soft_noise: float  # correlated over 1.7 px
    lift: float  # mean offset in grey values


CLEAR = Exposure(blur_px=0.8, sharp_noise=12.0, soft_noise=9.0, lift=-12.0)
NOISY = Exposure(blur_px=1.25, sharp_noise=16.0, soft_noise=12.0, lift=-20.0)


def paint(
    tissue: Tissue,
    seed: int,
    z: int,
    owner: NDArray[np.int32],
    distance: Field,
    half_width: Field,
) -> Field:
    """Noise-free grey values (H, W)."""
    shape = owner.shape
    rng = generator(seed, GRAIN, z)
    grain = smooth_field(rng, shape, 3.2) + 0.8 * smooth_field(rng, shape, 9.0)
    image = tissue.grey[owner] + tissue.grain[owner] * grain
    organelles = _vesicles(tissue, seed, z, owner) + _mitochondria(tissue, z, owner)
    image += organelles * np.clip((distance - half_width - 1.0) / 2.0, 0, 1)
    # Membranes fade where two slow fields say so: about an eighth of their length is faint.
    fading = drifting_field(seed, FADING, z, shape, 24.0, 1)[0]
    contrast = np.clip(0.85 + 0.4 * fading, 0.15, 1.0)
    image -= 112 * contrast * np.exp(-((distance / (0.85 * half_width)) ** 2))
    return np.asarray(image, np.float32)


def _vesicles(tissue: Tissue, seed: int, z: int, owner: NDArray[np.int32]) -> Field:
    """Small dark rings and dots, (H, W) grey values to add; crowded in some cells."""
    rng = generator(seed, VESICLES, z)
    height, width = owner.shape
    n = height * width // 110
    y, x = rng.integers(6, height - 6, n), rng.integers(6, width - 6, n)
    radius, depth = rng.uniform(1.0, 3.6, n), rng.uniform(30, 80, n)
    keep = np.flatnonzero(rng.random(n) < tissue.crowd[owner[y, x]])
    rows, columns = np.mgrid[-6:7, -6:7]
    around = np.hypot(rows, columns)
    layer = np.zeros(owner.shape, np.float32)
    for i in keep:
        ring = -depth[i] * np.exp(-(((around - radius[i]) / 0.9) ** 2))
        layer[y[i] - 6 : y[i] + 7, x[i] - 6 : x[i] + 7] += ring
    return np.maximum(layer, -75)


def _mitochondria(tissue: Tissue, z: int, owner: NDArray[np.int32]) -> Field:
    """Dark ovals with a darker rim and cristae, (H, W) grey values to add, in their cell only."""
    layer = np.zeros(owner.shape, np.float32)
    centre, radius = placed(tissue, z)
    for i in np.flatnonzero(np.abs(tissue.mito[:, 5] - z) < 4):
        off_y, off_x, long_px, short_px, angle, middle = tissue.mito[i]
        size = np.sqrt(1 - ((z - middle) / 4) ** 2)  # an ellipsoid cut by slices
        if min(long_px, short_px) * size < 3:
            continue
        window = window_around(
            centre[i] + radius[i] * np.array([off_y, off_x]), long_px + 6, owner.shape
        )
        y, x = np.mgrid[window].astype(np.float32)
        along, across = turned(
            y - centre[i, 0] - radius[i] * off_y, x - centre[i, 1] - radius[i] * off_x, angle
        )
        rho = np.hypot(along / (long_px * size), across / (short_px * size))
        body = np.clip((1.05 - rho) / 0.1, 0, 1)
        rim = np.exp(-(((rho - 0.93) * short_px * size / 1.6) ** 2))
        cristae = np.cos(1.15 * along + 0.25 * across)
        oval = -body * (46 + 16 * cristae) - 40 * rim
        layer[window] += np.where(owner[window] == i, oval, 0)
    return layer


def expose(painted: Field, seed: int, z: int, how: Exposure) -> NDArray[np.uint8]:
    """Grey values uint8 (H, W): blur, shading, contrast of the exposure, then noise."""
    from scipy import ndimage

    rng = generator(seed, NOISE, z)
    shade_rng = generator(seed, SHADE, z)
    shading = 1 + 0.05 * smooth_field(shade_rng, painted.shape, 190.0)
    gain, lift = shade_rng.normal(1.0, 0.05), shade_rng.normal(how.lift, 5)
    blurred = np.asarray(ndimage.gaussian_filter(painted, how.blur_px), np.float32)
    exposed = (blurred * shading - 128) * gain + 128 + lift
    exposed += how.sharp_noise * rng.standard_normal(painted.shape, np.float32)
    exposed += how.soft_noise * smooth_field(rng, painted.shape, 1.7)
    return np.clip(np.rint(exposed), 0, 255).astype(np.uint8)
