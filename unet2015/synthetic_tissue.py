"""The geometry of synthetic tissue: which cell owns a pixel, and how far the next one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet2015.random_fields import Field, drifting_field

__all__ = [
    "Tissue",
    "cells",
    "draw_tissue",
    "membrane",
    "owners",
    "placed",
    "turned",
    "window_around",
]

REACH_PX = 60  # how far beyond its own rim a cell may claim pixels
NARROWEST_PX, WIDEST_PX = 3.0, 12.0  # membrane width
WARP, WIDTH = 1, 2  # purposes of random numbers, disjoint from those of `synthetic_paint`


@dataclass(frozen=True)
class Tissue:
    """What all slices share; each array holds one row per cell."""

    centre: Field  # (N, 2) y, x in px, in slice 0
    drift: Field  # (N, 2) px per slice
    sway: Field  # (N, 2) amplitude (px) and phase of a slow oscillation
    radius: Field  # (N,) px
    stretch: Field  # (N,) long over short axis, squared root on each
    angle: Field  # (N,) radians
    grey: Field  # (N,)
    grain: Field  # (N,) amplitude of the cytoplasm's texture
    crowd: Field  # (N,) chance of keeping a vesicle
    mito: Field  # (N, 6): offset y, x in radii; long, short axis in px; angle; slice of its middle


def draw_tissue(rng: np.random.Generator, shape: tuple[int, int], slices: int) -> Tissue:
    """Cells packed over the field of view and a rim around it."""
    rim = 40 + 2 * slices
    centre, radius = _packed_discs(rng, shape[0] + 2 * rim, shape[1] + 2 * rim)
    n = len(radius)
    lively = np.clip(radius / 25, 0.4, 1.2)[:, None]  # small profiles wander less
    mito = np.column_stack(
        [
            rng.uniform(-0.35, 0.35, (n, 2)),
            rng.uniform(0.3, 0.55, n) * np.minimum(radius, 45),
            rng.uniform(0.24, 0.38, n) * np.minimum(radius, 40),
            rng.uniform(0, np.pi, n),
            np.where(rng.random(n) < 0.75, rng.uniform(-2, slices + 2, n), -1e6),
        ]
    )
    mito[radius < 17, 5] = -1e6  # no room for one
    return Tissue(
        centre=(centre - rim).astype(np.float32),
        drift=(rng.normal(0, 1.1, (n, 2)) * lively).astype(np.float32),
        sway=np.column_stack([rng.uniform(0, 0.12, n), rng.uniform(0, 6.28, n)]).astype(np.float32),
        radius=radius.astype(np.float32),
        stretch=np.exp(rng.uniform(0, 0.5, n)).astype(np.float32),
        angle=rng.uniform(0, np.pi, n).astype(np.float32),
        grey=rng.normal(160, 15, n).astype(np.float32),
        grain=rng.uniform(3, 17, n).astype(np.float32),
        crowd=(rng.random(n) ** 2).astype(np.float32),
        mito=mito.astype(np.float32),
    )


def _packed_discs(
    rng: np.random.Generator, height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (N, 2) and radii (N,) in px of discs thrown large to small, barely overlapping."""
    thrown = height * width // 450
    radii = np.sort(np.clip(12 * rng.lognormal(0.0, 0.58, thrown), 8, 58))[::-1]
    centre, kept = np.empty((thrown, 2)), np.empty(thrown)
    n = 0
    for radius in radii:
        darts = rng.uniform(0, (height, width), (24, 2))
        apart = np.hypot(*(darts[:, None, :] - centre[None, :n]).transpose(2, 0, 1))
        free = np.flatnonzero((apart > 0.9 * (radius + kept[:n])).all(axis=1))
        if len(free):
            centre[n], kept[n] = darts[free[0]], radius
            n += 1
    return centre[:n], kept[:n]


def placed(tissue: Tissue, z: int) -> tuple[Field, Field]:
    """Centres (N, 2) and radii (N,) of the cells in slice `z`."""
    amplitude, phase = tissue.sway.T
    breath = np.sin(phase + 0.5 * z)
    return tissue.centre + tissue.drift * z, tissue.radius * (1 + amplitude * breath)


def owners(tissue: Tissue, seed: int, z: int, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Index of the cell whose stretched rim is nearest, per pixel; (H, W)."""
    coarse = drifting_field(seed, WARP, z, shape, 46.0, 2)
    fine = drifting_field(seed, WARP, z, shape, 15.0, 2, salt=1)
    y, x = 6.5 * coarse + 1.8 * fine
    y += np.arange(shape[0], dtype=np.float32)[:, None]
    x += np.arange(shape[1], dtype=np.float32)[None, :]
    centre, radius = placed(tissue, z)
    best = np.full(shape, np.inf, np.float32)
    owner = np.zeros(shape, np.int32)
    for i in range(len(radius)):
        window = window_around(centre[i], float(radius[i] * tissue.stretch[i]) + REACH_PX, shape)
        along, across = turned(y[window] - centre[i, 0], x[window] - centre[i, 1], tissue.angle[i])
        rim = np.sqrt((along / tissue.stretch[i]) ** 2 + (across * tissue.stretch[i]) ** 2)
        rim -= radius[i]
        nearer = rim < best[window]
        best[window][nearer] = rim[nearer]
        owner[window][nearer] = i
    return owner


def membrane(owner: NDArray[np.int32], seed: int, z: int) -> tuple[Field, Field]:
    """Distance (H, W) to the border between two cells and half the membrane's width there, px."""
    from scipy import ndimage

    border = np.zeros(owner.shape, bool)
    border[:, :-1] |= owner[:, :-1] != owner[:, 1:]
    border[:-1, :] |= owner[:-1, :] != owner[1:, :]
    distance = np.asarray(ndimage.distance_transform_edt(~border), np.float32)
    swell = np.clip(drifting_field(seed, WIDTH, z, owner.shape, 60.0, 1)[0] + 0.6, 0, 3) / 3
    width = NARROWEST_PX + 0.9 + (WIDEST_PX - NARROWEST_PX - 0.9) * swell**1.5
    return distance, (width / 2).astype(np.float32)


def cells(
    owner: NDArray[np.int32], inside: NDArray[np.bool_], spare_id: int
) -> tuple[NDArray[np.int64], int]:
    """Instance ids (H, W): the largest piece keeps its owner's id, others take a spare one.

    Pieces under 30 px are given to the membrane, as an annotator would.
    """
    from scipy import ndimage

    pieces, count = ndimage.label(inside)
    area = np.bincount(pieces.ravel(), minlength=count + 1)
    _, first = np.unique(pieces, return_index=True)
    whose = np.zeros(count + 1, np.int64)
    whose[pieces.ravel()[first]] = owner.ravel()[first]
    ids = np.zeros(count + 1, np.int64)
    seen: set[int] = set()
    for piece in np.argsort(-area[1:], kind="stable") + 1:
        if area[piece] < 30:
            break
        cell = int(whose[piece])
        if cell in seen:
            spare_id += 1
            ids[piece] = spare_id
        else:
            seen.add(cell)
            ids[piece] = cell + 1
    return ids[pieces], spare_id


def window_around(centre: Any, reach: float, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns within `reach` px of a point, clipped to the image (possibly empty)."""
    low = [max(0, int(np.floor(c - reach))) for c in centre]
    high = [max(0, min(n, int(np.ceil(c + reach)) + 1)) for c, n in zip(centre, shape, strict=True)]
    return slice(min(low[0], high[0]), high[0]), slice(min(low[1], high[1]), high[1])


def turned(dy: Field, dx: Field, angle: float) -> tuple[Field, Field]:
    """Coordinates along and across an axis at `angle`."""
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * dx + sine * dy, cosine * dy - sine * dx
