"""The labelled stack: image slices, class labels, weights, cell ids, names and hashes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet2015.counter import generator
from unet2015.deformation import POSITION
from unet2015.recipe import Recipe

__all__ = ["PACKED_BITS", "PACKED_IGNORE", "Stack", "place"]

PACKED_BITS = 8
PACKED_IGNORE = (1 << PACKED_BITS) - 1  # class, among packed ones, of a label that is none


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices with class labels; slices may differ in size, never in channels or dtype.

    Parameters
    ----------
    images
        One array (C, H, W) per slice, as stored: uint8, uint16 and float32 are scaled by the range
        of their dtype when a tile is drawn, never by their own content; other integers need
        `scaled_stack` first. An array (S, C, H, W) will do.
    labels
        One int64 array (H, W) per slice: classes 0 .. K-1, and perhaps the ignore label.
    weights
        One float32 array (H, W) per slice; None until `weigh` or `read_weights` made them.
    instances
        One integer array (H, W) of cell ids per slice, where the annotation has them.
    names
        One name per slice; default "0", "1", ...
    class_weights
        Weight of each class over the data set, shape (K,); set by `weigh`.
    sources
        (label file, page) of each slice read from files; `read_weights` goes by it.
    notes
        Sentences about what reading did to the data, for the command line to show.
    scale
        Normalisation that the images have been through (`scaled_stack`); "" as stored.

    Raises
    ------
    ValueError
        If shapes, counts or dtypes do not fit together; the message names both.

    Examples
    --------
    >>> stack = Stack(np.zeros((2, 1, 8, 8), np.uint8), np.zeros((2, 8, 8), np.int64))
    >>> len(stack), stack.names, stack.channels
    (2, ('0', '1'), 1)
    """

    images: Sequence[NDArray[Any]]
    labels: Sequence[NDArray[np.int64]]
    weights: Sequence[NDArray[np.float32]] | None = None
    instances: Sequence[NDArray[Any]] | None = None
    names: Sequence[str] = ()
    class_weights: Sequence[float] | None = None
    sources: Sequence[tuple[str, int]] = ()
    notes: Sequence[str] = ()
    scale: str = ""

    def __post_init__(self) -> None:
        for name in (field.name for field in dataclasses.fields(self)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        if not self.names:
            object.__setattr__(self, "names", tuple(str(i) for i in range(len(self.images))))
        _check_stack(self)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """Channels of every slice."""
        return int(self.images[0].shape[0])

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of each image slice (dtype, shape and pixels)."""
        return tuple(_sha256(image) for image in self.images)

    @cached_property
    def packed(self) -> tuple[NDArray[np.int64], ...]:
        """Cell id and class of each pixel in one number, id << 8 | class; ids are below 2**31.

        Examples
        --------
        >>> labels = np.array([[[0, 1, 255]]])
        >>> stack = Stack(np.zeros((1, 1, 1, 3), np.uint8), labels,
        ...               instances=np.array([[[0, 5, -1]]]))
        >>> stack.packed[0]
        array([[   0, 1281,   -1]])
        """
        assert self.instances is not None
        return tuple(map(_packed, self.instances, self.labels))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all images, labels and weights: whether a run goes on with the same data."""
        parts = [*self.hashes, *map(_sha256, self.labels), *map(_sha256, self.weights or ())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def take(self, slices: Sequence[int]) -> Stack:
        """Stack of the given slices, in the given order; the arrays are shared.

        Examples
        --------
        >>> stack = Stack(np.zeros((3, 1, 4, 4), np.uint8), np.zeros((3, 4, 4), np.int64))
        >>> stack.take([2, 0]).names
        ('2', '0')
        """

        def picked(values: Any) -> Any:
            return tuple(values[i] for i in slices) if values else values

        return dataclasses.replace(
            self, images=picked(self.images), labels=picked(self.labels), names=picked(self.names),
            weights=picked(self.weights), instances=picked(self.instances),
            sources=picked(self.sources),
        )  # fmt: skip

    def drawn(self, recipe: Recipe, step: int) -> list[str]:
        """Names of the slices that the tiles of a step come from."""
        return [
            self.names[place(self, recipe, step, sample)[0]]
            for sample in range(recipe.batch * recipe.accumulate)
        ]


def _packed(ids: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    if ids.max() >= 1 << 31:
        values, number = np.unique(ids, return_inverse=True)
        ids = np.where(ids > 0, number.reshape(ids.shape) + 1 - np.searchsorted(values, 1), ids)
    known = (labels >= 0) & (labels < PACKED_IGNORE)
    shifted = ids.astype(np.int64) << PACKED_BITS
    return np.asarray(shifted | np.where(known, labels, PACKED_IGNORE))


def place(stack: Stack, recipe: Recipe, step: int, sample: int) -> tuple[int, tuple[float, float]]:
    """Slice and tile centre (y, x) of a sample, drawn uniformly over slices, then over pixels.

    The centre is such that an undeformed tile falls on whole pixels.

    Examples
    --------
    >>> from unet2015.recipe import quick
    >>> stack = Stack(np.zeros((2, 1, 8, 8), np.uint8), np.zeros((2, 8, 8), np.int64))
    >>> place(stack, quick(), 0, 0) == place(stack, quick(), 0, 0)
    True
    """
    random = generator(recipe.seed, step, sample, POSITION)
    index = int(random.integers(len(stack)))
    height, width = stack.labels[index].shape
    half = 0.5 * (1 - recipe.tile_px % 2)
    return index, (int(random.integers(height)) - half, int(random.integers(width)) - half)


def _check_stack(stack: Stack) -> None:
    count = len(stack.images)
    if count == 0:
        raise ValueError("a stack needs at least one slice")
    for name in ("labels", "weights", "instances", "names"):
        values = getattr(stack, name)
        if values is not None and len(values) != count:
            raise ValueError(f"{count} image slices, but {len(values)} {name}")
    first = stack.images[0]
    for i, image in enumerate(stack.images):
        where = f"slice {stack.names[i]!r}"
        if image.ndim != 3:
            raise ValueError(f"{where}: image of shape {image.shape}; (C, H, W) was expected")
        if image.shape[0] != first.shape[0] or image.dtype != first.dtype:
            raise ValueError(
                f"{where}: {image.shape[0]} channels of {image.dtype}, but slice"
                f" {stack.names[0]!r} has {first.shape[0]} of {first.dtype}"
            )
        for name in ("labels", "weights", "instances"):
            values = getattr(stack, name)
            if values is not None and values[i].shape != image.shape[1:]:
                raise ValueError(
                    f"{where}: {name} of shape {values[i].shape} do not fit the image of shape"
                    f" {image.shape[1:]}"
                )


def _sha256(array: NDArray[Any]) -> str:
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    digest = hashlib.sha256(f"{native.dtype.name} {native.shape} ".encode())
    digest.update(native.data)
    return digest.hexdigest()
