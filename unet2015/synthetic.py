"""A seeded stack of synthetic tissue that looks like serial-section electron microscopy.

The geometry is exact and comes first: discs of very different size are packed, each pixel belongs
to the disc whose (stretched) rim is nearest, and the membrane is what lies within half a membrane
width of two regions' common border. The image is painted over that geometry afterwards, with the
usual nuisances: membranes that fade away, mitochondria, vesicles, shading, noise, defocus. The
truth never sees them.

Every random number comes from `counter.generator`, keyed by seed, purpose and slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet2015.counter import generator
from unet2015.synthetic_paint import CLEAR, NOISY, expose, paint
from unet2015.synthetic_tissue import cells, draw_tissue, membrane, owners

__all__ = ["SyntheticStack", "synthetic_stack"]

TISSUE = 0  # purpose of random numbers; the others are in the two files that draw them


@dataclass(frozen=True)
class SyntheticStack:
    """Images of synthetic tissue with exact annotation; all arrays are read-only.

    Attributes
    ----------
    images
        uint8, (S, H, W): grey values, membranes dark.
    instances
        uint16, (S, H, W): 0 = membrane, 1..N = cell. The cells of a slice are exactly the
        4-connected components of its mask; the largest piece of a cell keeps its id from slice
        to slice.
    mask
        uint8, (S, H, W): 255 = inside a cell, 0 = membrane, as in the ISBI 2012 stacks.
    noisy
        bool, (S,): True where a slice was painted with more noise and more blur.
    """

    images: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    mask: NDArray[np.uint8]
    noisy: NDArray[np.bool_]


def synthetic_stack(
    seed: int = 2015, *, slices: int = 10, size: int | tuple[int, int] = 512
) -> SyntheticStack:
    """Seeded EM-like membrane stack with exact instance labels.

    Neighbouring slices are correlated as in serial sections: cells drift, swell and shrink a
    little. The later half of the slices (from ``(slices + 1) // 2`` on) is noisier and blurrier.

    Parameters
    ----------
    seed
        Seed >= 0; another seed is another tissue.
    slices
        Number of slices S, 1 .. 200.
    size
        Height and width in px, each 64 .. 4096; one integer gives a square.

    Returns
    -------
    SyntheticStack
        Images uint8, instances uint16, mask uint8 (0 / 255), each (S, H, W). Geometry and paint
        are the same on every machine up to the rounding of floating-point library functions.

    Raises
    ------
    ValueError
        If seed, slices or size is out of range.

    Examples
    --------
    >>> stack = synthetic_stack(seed=1, slices=2, size=(96, 128))
    >>> stack.images.shape, stack.images.dtype.name, stack.noisy.tolist()
    ((2, 96, 128), 'uint8', [False, True])
    >>> bool(((stack.instances > 0) == (stack.mask == 255)).all())
    True
    """
    height, width = (size, size) if isinstance(size, int) else size
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; choose an integer >= 0")
    if not 1 <= slices <= 200:
        raise ValueError(f"slices = {slices} is outside 1 .. 200")
    if not (64 <= height <= 4096 and 64 <= width <= 4096):
        raise ValueError(f"size {height} x {width} px is outside 64 .. 4096 px a side")
    tissue = draw_tissue(generator(seed, TISSUE), (height, width), slices)
    noisy = np.arange(slices) >= (slices + 1) // 2
    images = np.empty((slices, height, width), np.uint8)
    instances = np.empty((slices, height, width), np.uint16)
    spare_id = len(tissue.radius)
    for z in range(slices):
        owner = owners(tissue, seed, z, (height, width))
        distance, half_width = membrane(owner, seed, z)
        ids, spare_id = cells(owner, distance >= half_width, spare_id)
        instances[z] = ids
        painted = paint(tissue, seed, z, owner, distance, half_width)
        images[z] = expose(painted, seed, z, NOISY if noisy[z] else CLEAR)
    if spare_id > np.iinfo(np.uint16).max:
        raise ValueError(f"{spare_id} cells do not fit 16-bit ids; ask for fewer or smaller slices")
    mask = np.where(instances > 0, np.uint8(255), np.uint8(0))
    for array in (images, instances, mask, noisy):
        array.setflags(write=False)
    return SyntheticStack(images, instances, mask, noisy)
