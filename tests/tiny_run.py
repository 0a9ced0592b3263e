"""A training run so small that it takes a second: stack, recipe, and files of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile

from unet2015.data import Stack, weigh
from unet2015.recipe import Recipe, quick

TINY = replace(
    quick(), name="tiny", base_channels=2, depth=1, tile_px=44, steps=60, batch=1,
    precision="fp32", validate_every=20, checkpoint_every=10, learning_rate=1e-2,
)  # fmt: skip


def tiny_stack(slices: int = 4, side: int = 48) -> Stack:
    """Bright cells on dark ground, with noise: easy to learn."""
    random = np.random.default_rng(0)
    labels = np.zeros((slices, side, side), np.int64)
    for k in range(slices):
        labels[k, 4 + k : 20 + k, 4:20] = labels[k, 24:44, 6 + k : side - 4] = 1
    images = (labels * 100 + random.integers(0, 100, labels.shape)).astype(np.uint8)
    return Stack(images[:, None], labels)


def tiny_training(recipe: Recipe = TINY) -> tuple[Stack, Stack]:
    """Weighed training slices, and one held-out slice."""
    stack = tiny_stack()
    return weigh(stack.take([0, 1, 2]), recipe), stack.take([3])


def write_tiny(folder: Path) -> tuple[Path, Path]:
    """The stack as two TIFF files: images, labels."""
    stack = tiny_stack()
    images, labels = folder / "images.tif", folder / "labels.tif"
    pixels = np.stack([image[0] for image in stack.images])
    tifffile.imwrite(images, pixels, photometric="minisblack", metadata=None)
    masks = (np.stack(list(stack.labels)) * 255).astype(np.uint8)
    tifffile.imwrite(labels, masks, photometric="minisblack", metadata=None)
    return images, labels
