"""Predictions and truths as files: which axis is slices, which is classes, which pages to score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.faults import InputError, UsageFault
from tiling.images import read_image
from tiling.input_file import as_input_error
from tiling.png import is_png
from tiling.strict_tiff import open_tiff
from unet2015.splitting import parse_slices

__all__ = ["ScoredPair", "read_pair"]


@dataclass(frozen=True, eq=False)
class ScoredPair:
    """A prediction and its truth, slice by slice.

    Attributes
    ----------
    prediction, truth
        (S, H, W) arrays as stored.
    slices
        S page numbers of the truth, from 0.
    notes
        What was read in another way than the file says, one sentence each.
    saved
        What the prediction holds by its own word, where `unet2015 predict` made it:
        `probability`, `label`, `logits` or `instances`; "" of others.
    """

    prediction: NDArray[Any]
    truth: NDArray[Any]
    slices: tuple[int, ...]
    notes: tuple[str, ...]
    saved: str = ""


@dataclass(frozen=True, eq=False)
class _Pages:
    path: Path
    pixels: NDArray[Any]  # (S, C, H, W)
    planar: bool  # the channels are separate planes: perhaps slices that a writer called colours
    saved: str = ""


def read_pair(
    prediction: Path, truth: Path, *, slices: str | None = None, class_index: int | None = None
) -> ScoredPair:
    """Prediction and truth of equal shape.

    Parameters
    ----------
    prediction
        TIFF, PNG or Zarr with one page per slice; with several classes per slice, `class_index`
        says which one is wanted (default 1 where there are two).
    truth
        The same, single-channel.
    slices
        Pages of the truth to score, e.g. "12-14,27-29". The prediction has either these pages only
        or as many as the truth. Default: all.
    class_index
        Class of a multi-channel prediction.

    Raises
    ------
    InputError
        If a file is broken, shapes do not match, or an axis has two readings.
    UsageFault
        If `slices` is no list of pages of the truth.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "labels.tif")
    ...     tifffile.imwrite(path, np.zeros((5, 8, 9), np.uint8), photometric="minisblack")
    ...     pair = read_pair(path, path, slices="0,3-4")
    >>> pair.truth.shape, pair.slices
    ((3, 8, 9), (0, 3, 4))
    """
    notes: list[str] = []
    true = _single_channel(_read(truth, notes), notes)
    predicted = _read(prediction, notes)
    found = _chosen_class(predicted, class_index, notes)
    try:
        every = list(range(len(true)))
        chosen = every if slices is None else parse_slices(slices, len(true))
    except ValueError as error:
        raise UsageFault(f"--slices: {error}") from error
    twice = [number for number in every if chosen.count(number) > 1]
    if twice:
        raise UsageFault(f"--slices {slices}: slice {twice[0]} is named twice; name each once")
    if len(found) == len(true):
        found = found[chosen]
    true = true[chosen]
    if found.shape != true.shape:
        raise InputError(
            prediction,
            f"has shape {found.shape}, but the truth {truth} has {true.shape}; both need the same "
            "slices and size (--slices chooses pages of the truth)",
        )
    return ScoredPair(found, true, tuple(chosen), tuple(notes), predicted.saved)


def _read(path: Path, notes: list[str]) -> _Pages:
    with as_input_error(path):
        folder = path.is_dir()
    if folder:
        from tiling.zarr import ZarrSource

        with ZarrSource(path) as source:
            stack = source.whole()
            notes.extend(f"{path}: {doubt}" for doubt in source.doubts)
            saved = str(source.provenance.get("save", ""))
        return _Pages(path, stack if stack.ndim == 4 else stack[:, None], False, saved)
    pixels = read_image(path)
    pixels = pixels if pixels.ndim == 4 else pixels[:, None]
    if is_png(path):
        return _Pages(path, pixels, planar=False)
    with open_tiff(path) as image:
        axes, lengths, planar = image.axes, image.page_shape, image.planar
        notes.extend(f"{path}: {doubt}" for doubt in image.doubts)
        saved = str(image.provenance.get("save", ""))
        if image.photometric == "miniswhite":
            notes.append(f"{path}: stored as MinIsWhite: its zeros are white, the largest values")
    place = axes.find("C")
    if 0 <= place < len(lengths) and pixels.shape[1] == 1:
        by_axis = np.moveaxis(pixels[:, 0].reshape(*lengths, *pixels.shape[-2:]), place, -3)
        pixels = by_axis.reshape(-1, *by_axis.shape[-3:])
    return _Pages(path, np.ascontiguousarray(pixels), planar, saved)


def _as_slices(pages: _Pages, notes: list[str]) -> NDArray[Any] | None:
    """Slices of a single-channel file, or of a stack stored as planar colour; else None."""
    if pages.pixels.shape[1] == 1:
        return pages.pixels[:, 0]
    if pages.planar and len(pages.pixels) == 1:
        count = pages.pixels.shape[1]
        notes.append(f"{pages.path}: stored as planar RGB, read as a stack of {count} slices")
        return np.asarray(pages.pixels[0])
    return None


def _single_channel(pages: _Pages, notes: list[str]) -> NDArray[Any]:
    slices = _as_slices(pages, notes)
    if slices is None:
        raise InputError(
            pages.path,
            f"has {pages.pixels.shape[1]} channels; a truth has one value per pixel: "
            "save it as a label image",
        )
    return slices


def _chosen_class(pages: _Pages, class_index: int | None, notes: list[str]) -> NDArray[Any]:
    classes = pages.pixels.shape[1]
    if class_index is None:
        slices = _as_slices(pages, notes)
        if slices is not None:
            return slices
        if classes != 2:
            raise InputError(
                pages.path, f"has {classes} channels; --class N says which is cell interior"
            )
        class_index = 1
    if not 0 <= class_index < classes:
        raise InputError(
            pages.path, f"has no class {class_index}; --class takes 0 .. {classes - 1} here"
        )
    return pages.pixels[:, class_index]
