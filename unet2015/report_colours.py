"""Pixels of the report's pictures: grey images, coloured instances, overlays and error maps.

Plain arrays, no plotting library. Colours are from the palette of Okabe and Ito (2008), which
readers with any common colour vision can tell apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BLUE",
    "ORANGE",
    "VERMILION",
    "error_rgb",
    "grey_rgb",
    "instances_rgb",
    "overlay_rgb",
    "same_shape",
    "shrunk",
    "unit_probability",
]

Rgb = NDArray[np.uint8]

BLUE, ORANGE, VERMILION = (0, 114, 178), (230, 159, 0), (213, 94, 0)
# Neighbours get different entries; the order mixes light and dark. Their last, grey or black, would
# look like no cell in a micrograph; violet stands in.
INSTANCE_COLOURS = np.array(
    [(86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (0, 114, 178),
     (213, 94, 0), (120, 94, 240)],
    np.float32,
)  # fmt: skip
TINT = 0.55  # share of the colour in an instance's pixels


def same_shape(**arrays: ArrayLike) -> tuple[NDArray[Any], ...]:
    """The arrays, checked to be 2-D slices (H, W) of one shape.

    Raises
    ------
    ValueError
        If one is not 2-D or differs in shape from the first; the message names both.

    Examples
    --------
    >>> image, mask = same_shape(image=[[1, 2]], mask=[[0, 1]])
    >>> mask.shape
    (1, 2)
    """
    found = {name: np.asarray(array) for name, array in arrays.items()}
    first_name, first = next(iter(found.items()))
    for name, array in found.items():
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(f"{name} has shape {array.shape}; one slice (H, W) is needed")
        if array.shape != first.shape:
            raise ValueError(
                f"{name} has shape {array.shape}, {first_name} has {first.shape}; they must agree"
            )
    return tuple(found.values())


def shrunk(array: NDArray[Any], limit_px: int) -> NDArray[Any]:
    """Every k-th pixel of a slice (H, W), k the smallest that keeps both sides within a limit.

    Examples
    --------
    >>> shrunk(np.arange(10).reshape(1, 10), 4)
    array([[0, 3, 6, 9]])
    """
    every = max(1, -(-max(array.shape) // limit_px))
    return array[::every, ::every]


def grey_rgb(image: ArrayLike) -> Rgb:
    """Grey picture uint8 (H, W, 3) of a slice, stretched from its 0.2 to its 99.8 percentile.

    Examples
    --------
    >>> grey_rgb([[0.0, 1.0]])[0].tolist()
    [[0, 0, 0], [255, 255, 255]]
    """
    values = np.nan_to_num(np.asarray(image, np.float32))
    low, high = np.percentile(values, (0.2, 99.8))
    scaled = (values - low) / max(float(high - low), 1e-12)
    grey = np.clip(np.rint(255 * scaled), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def instances_rgb(image: ArrayLike, instances: ArrayLike) -> Rgb:
    """Grey picture (H, W, 3) with every instance tinted; neighbours differ in colour.

    Parameters
    ----------
    image
        Slice (H, W) of any number type.
    instances
        Integers (H, W): 0 = background, else an instance id.

    Examples
    --------
    >>> picture = instances_rgb([[0, 9, 9, 0]], [[7, 0, 0, 5]])
    >>> bool((picture[0, 0] != picture[0, 3]).any())  # one colour each
    True
    """
    image, instances = same_shape(image=image, instances=instances)
    _, compact = np.unique(instances, return_inverse=True)
    compact = compact.reshape(instances.shape)
    if not (instances == 0).any():
        compact = compact + 1  # keep 0 for the background
    colour = INSTANCE_COLOURS[_colouring(compact)[compact]]
    grey = grey_rgb(image).astype(np.float32)
    # Keep the texture visible: tint in proportion to the brightness of the image.
    tinted = (1 - TINT) * grey + TINT * colour * (0.35 + 0.65 * grey / 255)
    return np.where((compact > 0)[..., None], tinted, 0.8 * grey).astype(np.uint8)


def _colouring(compact: NDArray[np.intp]) -> NDArray[np.intp]:
    """Colour index per instance such that instances facing each other differ (greedy)."""
    from scipy import ndimage

    count = int(compact.max())
    colours = np.zeros(count + 1, np.intp)
    if count == 0:
        return colours
    # Every background pixel goes to its nearest instance; then look across pixel borders.
    nearest = ndimage.distance_transform_edt(
        compact == 0, return_distances=False, return_indices=True
    )
    filled = compact[tuple(nearest)]
    facing: list[set[int]] = [set() for _ in range(count + 1)]
    for a, b in ((filled[:, 1:], filled[:, :-1]), (filled[1:], filled[:-1])):
        differ = a != b
        for i, j in np.unique(np.stack([a[differ], b[differ]], axis=-1), axis=0):
            facing[i].add(int(j))
            facing[j].add(int(i))
    for i in range(1, count + 1):
        taken = {int(colours[j]) for j in facing[i] if j < i}
        order = [(i + k) % len(INSTANCE_COLOURS) for k in range(len(INSTANCE_COLOURS))]
        colours[i] = next((c for c in order if c not in taken), i % len(INSTANCE_COLOURS))
    return colours


def overlay_rgb(image: ArrayLike, probability: ArrayLike) -> Rgb:
    """Grey picture (H, W, 3) with the predicted membrane in orange, the surer the stronger.

    Parameters
    ----------
    image
        Slice (H, W).
    probability
        Probability (H, W) of the *inside* class: floating 0 .. 1, or integers over their range.

    Examples
    --------
    >>> overlay_rgb([[0, 0, 1]], [[1.0, 0.0, 1.0]])[0].tolist()
    [[0, 0, 0], [195, 135, 0], [255, 255, 255]]
    """
    image, probability = same_shape(image=image, probability=probability)
    membrane = 0.85 * (1 - unit_probability(probability))[..., None]
    mixed = (1 - membrane) * grey_rgb(image) + membrane * np.asarray(ORANGE, np.float32)
    return mixed.astype(np.uint8)


def error_rgb(image: ArrayLike, probability: ArrayLike, truth: ArrayLike) -> Rgb:
    """Pale grey picture (H, W, 3) with the wrong pixels at threshold 0.5 in two colours.

    Vermilion: called inside, is membrane (it may merge two cells). Blue: called membrane, is
    inside (it may split a cell).

    Parameters
    ----------
    image, probability
        As for `overlay_rgb`.
    truth
        Labels (H, W): > 0 = inside a cell, 0 = membrane.

    Examples
    --------
    >>> error_rgb([[0, 0, 0]], [[0.9, 0.1, 0.9]], [[0, 255, 255]])[0, :2].tolist()
    [[213, 94, 0], [0, 114, 178]]
    """
    image, probability, truth = same_shape(image=image, probability=probability, truth=truth)
    called, inside = unit_probability(probability) > 0.5, truth > 0
    picture = (160 + 0.35 * grey_rgb(image)).astype(np.uint8)
    picture[~inside] = (0.78 * picture[~inside]).astype(np.uint8)  # the true membrane, softly
    picture[called & ~inside] = VERMILION
    picture[~called & inside] = BLUE
    return picture


def unit_probability(probability: ArrayLike) -> NDArray[np.float32]:
    """Probability as float32 0 .. 1; integers are divided by the largest value of their type.

    Examples
    --------
    >>> unit_probability(np.array([0, 255], np.uint8)).tolist()
    [0.0, 1.0]
    """
    values = np.asarray(probability)
    if np.issubdtype(values.dtype, np.integer):
        return np.asarray(values / np.iinfo(values.dtype).max, np.float32)
    return values.astype(np.float32)
