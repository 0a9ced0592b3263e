"""Reading a labelled stack from files, as users have them.

Multi-page TIFFs, folders of images and labels with equal names, and folders with one mask per
cell (2018 Data Science Bowl). Every conversion is named in `Stack.notes`; what could be read in
two ways is refused with the question that decides it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiling.faults import InputError
from tiling.input_file import as_input_error
from unet2015.label_values import Meaning, as_class_labels
from unet2015.pages_of_file import about_white_zeros, pages_of
from unet2015.pairing import cell_mask_folders, image_files, pairs
from unet2015.stack import Stack
from unet2015.value_check import LARGEST, check_values

__all__ = ["read_stack_pair"]


@dataclass
class _Read:
    """Slices of one or more files while they are being put together."""

    images: list[NDArray[Any]]
    labels: list[NDArray[Any]]
    names: list[str]
    notes: list[str]
    sources: list[tuple[str, int]]
    white: dict[Path, list[int]] = field(default_factory=dict)
    """Label files stored as MinIsWhite, and the values that they are read as."""


def read_stack_pair(
    images: str | Path,
    labels: str | Path | None = None,
    *,
    classes: int = 2,
    channels: int | None = None,
    meaning: Meaning = "auto",
    label_values: Sequence[int] | Mapping[int, int] | None = None,
    ignore_label: int | None = None,
    unlabelled_value: int | None = None,
    alone: Literal["refused", "left out"] = "refused",
) -> Stack:
    """Labelled stack from image and label files.

    Parameters
    ----------
    images
        A TIFF (one slice per page) or PNG, a folder of them, or a folder of samples
        <id>/images/*.png with <id>/masks/*.png, one mask per cell.
    labels
        The labels in the same form: as many pages, or a folder with files of the same names.
        None (or the same folder) for a folder of samples.
    classes
        Number of classes.
    channels
        Channels the network wants; colour images with equal channels are then read as grey.
        None takes the images as they are.
    meaning, label_values, ignore_label, unlabelled_value
        What the label values mean, see `label_values.as_class_labels`.
    alone
        What happens to images of a folder that have no label file.

    Returns
    -------
    Stack
        Images as stored, labels as classes, cell ids where the labels have them.

    Raises
    ------
    InputError
        If a file is broken, has no partner or is its own, does not fit its partner, holds channels
        as pages, or holds other label values than expected.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     image, label = Path(folder, "image.tif"), Path(folder, "label.tif")
    ...     tifffile.imwrite(image, np.zeros((3, 8, 9), np.uint8), photometric="minisblack")
    ...     tifffile.imwrite(label, np.full((3, 8, 9), 255, np.uint8), photometric="minisblack")
    ...     stack = read_stack_pair(image, label)
    >>> len(stack), stack.images[0].shape, int(stack.labels[0].max())
    (3, (1, 8, 9), 1)
    """
    images = Path(images)
    labels = images if labels is None else Path(labels)
    samples = cell_mask_folders(images) if labels == images else None
    with as_input_error(images):
        folders = images.is_dir() or labels.is_dir()
    if samples is not None:
        read = _read_samples(samples)
        meaning = "instances"
    elif folders:
        read = _read_folders(images, labels, alone)
    else:
        read = _Read([], [], [], [], [])
        _read_pair(read, "", images, labels)
    if read.white and label_values is None:
        read.notes.append(about_white_zeros(read.white))
    arrays = _as_stored(_fit_channels(read, images, channels), read, images)
    try:
        classified, ids = as_class_labels(
            read.labels, classes=classes, meaning=meaning, label_values=label_values,
            ignore_label=ignore_label, unlabelled_value=unlabelled_value,
        )  # fmt: skip
        return Stack(
            arrays, classified, instances=ids, names=read.names, notes=read.notes,
            sources=read.sources,
        )  # fmt: skip
    except ValueError as error:
        raise InputError(labels, str(error)) from error


def _read_folders(images: Path, labels: Path, alone: Literal["refused", "left out"]) -> _Read:
    for path, other in ((images, labels), (labels, images)):
        if not path.is_dir():
            raise InputError(path, f"is a file, but {other} is a folder; give two of a kind")
    _refuse_same(images, labels, "folder")
    read = _Read([], [], [], [], [])
    partners = pairs(images, labels, alone=alone)
    left_out = len(image_files(images)) - len(partners)
    if left_out:
        read.notes.append(f"{images}: {left_out} images without labels are left out")
    for name, image, label in partners:
        _read_pair(read, name, image, label)
    return read


def _read_pair(read: _Read, name: str, image: Path, label: Path) -> None:
    """Append the slices of one image file and its label file."""
    _refuse_same(image, label, "file")
    pictures, picture_planar, _ = pages_of(image, read.notes)
    annotated = pages_of(label, read.notes)
    if annotated.white_zeros:
        read.white[label] = [int(value) for value in np.unique(annotated.pixels)]
    truths = annotated.pixels
    if truths.shape[1] > 1:
        truths = _grey_labels(truths, annotated.planar, label, read)
    if picture_planar and len(pictures) == 1 and pictures.shape[1] == len(truths):
        read.notes.append(f"{image}: {len(truths)} slices stored as planar RGB, read as slices")
        pictures = pictures.transpose(1, 0, 2, 3)
    if len(pictures) != len(truths):
        reason = f"has {len(truths)} pages, but {image} has {len(pictures)}"
        raise InputError(label, f"{reason}; name the labels of this stack")
    if pictures.shape[2:] != truths.shape[2:]:
        raise InputError(
            label,
            f"is {_size(truths)}, but {image} is {_size(pictures)} (height x width); name the "
            "labels of this stack",
        )
    read.images.extend(pictures)
    read.labels.extend(truths[:, 0])
    count = len(pictures)
    numbers = [str(i) for i in range(count)]
    if name:
        numbers = [name] if count == 1 else [f"{name}[{i}]" for i in numbers]
    read.names.extend(numbers)
    read.sources.extend((str(label), i) for i in range(count))


def _refuse_same(images: Path, labels: Path, what: str) -> None:
    """Refuse one file under two names, as a link too: a network would learn to copy it."""
    found = []
    for path in (images, labels):
        with as_input_error(path):
            found.append(path.stat())
    if os.path.samestat(*found):
        raise InputError(
            labels, f"is named as the {what} of images and of labels; name the {what} of the labels"
        )


def _grey_labels(truths: NDArray[Any], planar: bool, label: Path, read: _Read) -> NDArray[Any]:
    """Labels that a writer stored with channels: as slices, or as grey if all are equal."""
    if planar and len(truths) == 1:
        read.notes.append(f"{label}: {truths.shape[1]} slices stored as planar RGB")
        return truths.transpose(1, 0, 2, 3)
    colours = truths[:, :3]
    if (colours == colours[:, :1]).all():
        read.notes.append(f"{label}: colour with equal channels, read as grey")
        return colours[:, :1]
    raise InputError(
        label, f"has {truths.shape[1]} channels; labels have one (classes or cell ids)"
    )


def _read_samples(samples: dict[str, tuple[Path, list[Path]]]) -> _Read:
    """Samples with one mask per cell; of overlapping masks the first one keeps the pixel."""
    from weightmaps import merge_instance_masks

    read, white = _Read([], [], [], [], []), []
    for name, (image, masks) in samples.items():
        pictures = pages_of(image, read.notes).pixels
        if len(pictures) != 1:
            raise InputError(image, f"has {len(pictures)} pages; one was expected")
        cells = []
        for mask in masks:
            annotated = pages_of(mask, read.notes)
            white += [mask] if annotated.white_zeros else []
            pixels = annotated.pixels
            if pixels.shape[0] != 1 or pixels.shape[2:] != pictures.shape[2:]:
                raise InputError(mask, f"is {_size(pixels)}, but {image} is {_size(pictures)}")
            colours = pixels[0, :3]
            if pixels.shape[1] > 1 and not (colours == colours[:1]).all():
                raise InputError(mask, "is a colour image; a mask has one channel")
            cells.append(colours[0] != 0)
        merged = merge_instance_masks(cells)
        claimed = sum(int(cell.sum()) for cell in cells) - int((merged > 0).sum())
        if claimed:
            read.notes.append(f"{name}: {claimed} pixels in two masks went to the first of them")
        read.images.append(pictures[0])
        read.labels.append(merged)
        read.names.append(name)
        read.sources.append((str(masks[0].parent), 0))
    if white:
        more = f" and {len(white) - 1} more" if len(white) > 1 else ""
        read.notes.append(f"{white[0]}{more}: stored as MinIsWhite: zeros are read as the cell")
    return read


def _fit_channels(read: _Read, source: Path, channels: int | None) -> list[NDArray[Any]]:
    """Images without a constant alpha channel, grey where colour channels are all equal."""
    arrays = read.images
    if any(a.shape[0] == 4 for a in arrays):
        for name, a in zip(read.names, arrays, strict=True):
            if a.shape[0] == 4 and a[3].min() != a[3].max():
                raise InputError(
                    source,
                    f"slice {name}: its fourth channel, by rights alpha, varies; remove it, or "
                    "save one channel",
                )
        arrays = [a[:3] if a.shape[0] == 4 else a for a in arrays]
        read.notes.append(f"{source}: constant alpha channel left out")
    kinds = {a.shape[0] for a in arrays}
    wanted = channels or max(kinds)
    if wanted == 1 and kinds != {1}:
        for name, a in zip(read.names, arrays, strict=True):
            if not (a == a[:1]).all():
                raise InputError(
                    source,
                    f"slice {name} is a colour image, but the network takes one channel; train"
                    " with --set in_channels=3, or convert it to grey",
                )
        read.notes.append(f"{source}: colour images with equal channels read as grey")
        return [a[:1] for a in arrays]
    if wanted == 3 and 1 in kinds:
        read.notes.append(f"{source}: grey images repeated in three channels")
        return [np.repeat(a, 3, axis=0) if a.shape[0] == 1 else a for a in arrays]
    return arrays


def _as_stored(arrays: list[NDArray[Any]], read: _Read, source: Path) -> list[NDArray[Any]]:
    """Images of numbers, integers as they are; floating point as float32, finite."""
    for name, a in zip(read.names, arrays, strict=True):
        if a.dtype.kind not in "uif":
            raise InputError(
                source, f"slice {name} holds {a.dtype}, no grey values; convert to uint8 (0 to 255)"
            )
        bad = 0 if a.dtype.kind != "f" else int(a.size - np.isfinite(a).sum())
        if bad:
            first = tuple(int(i) for i in np.argwhere(~np.isfinite(a))[0][1:])
            raise InputError(
                source,
                f"slice {name}: {bad} pixels are NaN or Inf, the first at {first}; replace them",
            )
        largest = max(a.max(), -a.min()) if a.dtype.kind == "f" and a.dtype.itemsize > 2 else 0
        if largest >= LARGEST:
            value = a.flat[np.abs(a).argmax()]
            raise InputError(
                source,
                f"slice {name} holds {value:g}; networks are shown values below {LARGEST:g}: "
                "divide the images by a constant first",
            )
    if len({a.dtype for a in arrays}) > 1:
        found = ", ".join(sorted({a.dtype.name for a in arrays}))
        raise InputError(source, f"images of several dtypes ({found}); convert them to one")
    try:
        check_values(((i, 0, a) for i, a in enumerate(arrays)), arrays[0].dtype)
    except ValueError as error:
        raise InputError(source, str(error)) from error
    if arrays[0].dtype.kind == "f":
        return [np.asarray(a, np.float32) for a in arrays]
    return arrays


def _size(stack: NDArray[Any]) -> str:
    return f"{stack.shape[2]} x {stack.shape[3]}"
