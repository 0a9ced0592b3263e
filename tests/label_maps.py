"""Random label images for the tests: touching, nested, cut by the border, in several pieces."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from scipy import ndimage

KINDS = ("cells", "noise", "nested", "voronoi")


def some(examples: int) -> settings:
    """Return hypothesis settings: fewer examples than the profile's, for what is expensive.

    A soak takes its own number (tests/conftest.py).
    """
    return settings(max_examples=examples)


def random_labels(seed: int, height: int, width: int, kind: str) -> np.ndarray:
    """Return int32 labels (height, width); the seed decides everything."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 14))
    labels = np.zeros((height, width), np.int32)
    if kind == "noise":  # scattered pixels: every cell in many pieces
        filled = rng.random((height, width)) < rng.choice([0.01, 0.1, 0.6, 1.0])
        return np.where(filled, rng.integers(0, count + 1, (height, width)), 0).astype(np.int32)
    if count == 0:
        return labels
    y, x = np.mgrid[:height, :width]
    centres = rng.uniform(-3, [height + 3, width + 3], (count, 2))  # some cut by the border
    radii = rng.uniform(0.5, 9, count)
    if kind == "voronoi":  # all cells touch
        near = [np.hypot(y - cy, x - cx) for cy, cx in centres]
        labels = 1 + np.argmin(near, axis=0).astype(np.int32)
        labels[np.min(near, axis=0) > rng.uniform(2, 30)] = 0
        return labels
    for number, ((cy, cx), r) in enumerate(zip(centres, radii, strict=True), start=1):
        labels[np.hypot(y - cy, x - cx) <= r] = number
        if kind == "nested":  # a ring of background, and another cell inside
            labels[np.hypot(y - cy, x - cx) <= r - 2] = 0
            labels[np.hypot(y - cy, x - cx) <= r - 3] = number + count
    return labels


label_maps = st.builds(
    random_labels,
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    kind=st.sampled_from(KINDS),
)


def voronoi_cells(side: int, cells: int, gap: float, seed: int = 0) -> np.ndarray:
    """Return a crowded int32 label image: Voronoi cells with background strips between them."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros((side, side), np.int32)
    where = rng.choice(side * side, cells, replace=False)
    seeds.ravel()[where] = np.arange(1, cells + 1)
    nearest = ndimage.distance_transform_edt(
        seeds == 0, return_distances=False, return_indices=True
    )
    labels = seeds[tuple(nearest)]
    inner = (ndimage.minimum_filter(labels, 3) == labels) & (
        ndimage.maximum_filter(labels, 3) == labels
    )
    labels[ndimage.distance_transform_edt(inner) <= gap] = 0
    return labels
