"""The images of a stack scaled as `predict` will scale them: once, each file as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from unet2015.augment import dtype_range
from unet2015.intensity import blocks_of, measure_scale
from unet2015.stack import Stack

__all__ = ["left_to_scale", "scaled_stack"]


def scaled_stack(stack: Stack, text: str) -> Stack:
    """The stack with images as the network is to see them, float32.

    `dtype-range` and `none` need no look at the pixels; they are applied when a tile is drawn, and
    the stack comes back as it is (with `none` only where tiles can be drawn from such a type). Of
    the others, what is measured is measured over all slices of a file, held-out ones included, as
    in prediction. Call it before the stack is split.

    Parameters
    ----------
    stack
        Images as stored.
    text
        The normalisation, see `unet2015.intensity`.

    Raises
    ------
    ValueError
        If the normalisation is unknown, or is `dtype-range` and the type has no agreed grey range.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.array([[[[10, 20]]], [[[30, 20]]]], np.uint8)
    >>> stack = Stack(images, np.zeros((2, 1, 2), np.int64))
    >>> [image.tolist() for image in scaled_stack(stack, "min-max").images]
    [[[[0.0, 0.5]]], [[[1.0, 0.5]]]]
    """
    if stack.scale == text:
        return stack
    dtype = stack.images[0].dtype
    if text == "dtype-range":
        dtype_range(dtype)
        return stack
    if text == "none" and (dtype.kind == "f" or dtype in (np.uint8, np.uint16)):
        return stack
    images = list(stack.images)
    for numbers in _files(stack):
        planes = [images[i] for i in numbers]
        scale = measure_scale(text, planes[0].dtype, lambda: blocks_of(planes))  # noqa: B023
        for i in numbers:
            images[i] = scale(images[i])
    return replace(stack, images=images, scale=text)


def left_to_scale(stack: Stack, text: str) -> str:
    """What is still to be done to the images of `stack` for a network that wants `text`."""
    return "none" if stack.scale == text else text


def _files(stack: Stack) -> Iterator[list[int]]:
    """Slices of each file; those of a stack that was read from none are one file."""
    names = [name for name, _ in stack.sources] or [""] * len(stack)
    for name in dict.fromkeys(names):
        yield [i for i, other in enumerate(names) if other == name]
