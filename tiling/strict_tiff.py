"""TIFF files read strictly: what is not understood is refused, what is refused costs nothing.

The directories are walked by our own code (`tiling.ifd`), everything is checked against an
allowed list and against named limits before memory is claimed (`tiling.pages`), and pixels are
read row by row (`tiling.decode`). Every failure is an `InputError` with file, page and reason.

Conversions, all of them: MinIsWhite is inverted (1-bit and unsigned integers); 1-bit pixels become
bool; big-endian pixels become native; the 32768 that ImageJ adds to signed numbers are taken off.
Palette, YCbCr, CMYK, rotated files are refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.axes import PageAxes, chosen_description, page_axes
from tiling.closing import Closing
from tiling.disk import StrPath
from tiling.faults import InputError
from tiling.ifd import Ifd, Limits, integer, rational, texts, walk
from tiling.imagej import SIGNED, calibration, slice_labels
from tiling.input_file import InputFile, as_input_error
from tiling.layout import Page
from tiling.meaning import Meaning, in_unit
from tiling.ome import history
from tiling.pages import read_pages
from tiling.promises import Held, doubts
from tiling.rows import RowReader, check_bytes
from tiling.segment_lists import check_lists
from tiling.segments import check_pages, promised_pages

__all__ = ["Limits", "TiffImage", "open_tiff", "read_stack"]

_DEFAULT_LIMITS = Limits()


def open_tiff(path: StrPath, *, limits: Limits = _DEFAULT_LIMITS) -> TiffImage:
    """The TIFF at `path`, checked as a whole, its pixels still on the disk.

    Parameters
    ----------
    path
        An ordinary file: classic or BigTIFF, strips or tiles.
    limits
        What the file may ask of us.

    Returns
    -------
    TiffImage
        A context manager; close it.

    Raises
    ------
    InputError
        The file is damaged, or of a kind that is not read.

    Examples
    --------
    >>> import numpy, os, tempfile, tifffile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.tif")
    ...     tifffile.imwrite(path, numpy.arange(12, dtype="uint8").reshape(3, 4))
    ...     with open_tiff(path) as image:
    ...         print(image.axes, image.pages, image.dtype)
    ...         print(image.read_rows(0, 1, 3))
    YX 1 uint8
    [[[ 4  5  6  7]
      [ 8  9 10 11]]]
    """
    file = InputFile(path)
    try:
        with as_input_error(file.path):
            return TiffImage(file, limits)
    except BaseException:
        file.close()
        raise


def read_stack(path: StrPath, *, limits: Limits = _DEFAULT_LIMITS) -> npt.NDArray[Any]:
    """All pages of a TIFF in memory.

    Parameters
    ----------
    path
        The file.
    limits
        What it may ask of us.

    Returns
    -------
    ndarray
        Shape (pages, H, W), or (pages, C, H, W) for RGB(A); native byte order; bool for 1 bit.

    Raises
    ------
    InputError
        As `open_tiff`; or the pixels need more than `limits.max_bytes`.
    InputChangedError
        The file was written to meanwhile.
    """
    with open_tiff(path, limits=limits) as image, as_input_error(image.path):
        shape = (image.pages, image.samples, image.height, image.width)
        check_bytes(image.path, math.prod(shape) * image.dtype.itemsize, limits)
        stack = np.empty(shape, image.dtype)
        for page in range(image.pages):
            stack[page] = image.read_page(page)
        image.check_unchanged()
    return stack[:, 0] if image.samples == 1 else stack


class TiffImage(Closing):
    """An open, checked TIFF.

    Parameters and errors are those of `open_tiff`, which makes it.

    Attributes
    ----------
    path : str
        As given.
    pages, samples, height, width : int
        Size: images in the file, channels of a pixel, pixels.
    dtype : numpy.dtype
        Pixel type in native byte order; bool for 1 bit.
    bits : int
        Stored bits of a sample.
    axes : str
        Axes of the whole: page axes, then "YX", then "S" for channels; "I" is an unknown page axis,
        "Q" one whose letter in the file cannot be right.
    page_shape : tuple of int
        Length of each page axis; their product is `pages`. () for a single page.
    photometric : str
        "minisblack", "miniswhite" (already inverted) or "rgb".
    planar : bool
        The channels lie in separate planes: possibly a stack of 3 or 4 slices, written as RGB.
    tiled : bool
        Tiles, not strips.
    resolution : (float, float, str) or None
        Pixels per unit in x and y, and the unit ("um", "cm", "inch", ..., "" if unknown).
    meaning : Meaning
        Axes, resolution, distance of slices and names of the channels together.
    description : str
        Image description of the first page, at most a megabyte of it; of two the first that is
        OME-XML or ImageJ's, else tifffile's JSON.
    doubts : tuple of str
        Sentences about what it promises or says of its numbers that was not followed; for the user.
    """

    def __init__(self, file: InputFile, limits: Limits) -> None:
        self._file = file
        self.path = file.path
        ifds = walk(file, limits)
        first = next(ifds)
        pages, directories = read_pages(file, first, ifds, limits)
        self.description = chosen_description(texts(file, first))
        pages = _with_sign(pages, self.description)
        layout = pages[0].layout
        self.samples, self.height, self.width = layout.samples, layout.height, layout.width
        self.dtype, self.bits = layout.dtype, layout.bits
        self.photometric, self.planar, self.tiled = layout.photometric, layout.planar, layout.tiled
        meaning = page_axes(self.description, self.samples, (self.height, self.width))
        if meaning.fault:
            raise InputError(file.path, meaning.fault)
        check_lists(file, pages, limits)
        pages = promised_pages(file, first, pages, meaning.images, limits, alone=directories == 1)
        check_pages(file, pages, limits)
        self.pages = len(pages)
        letters, self.page_shape = meaning.letters, meaning.shape
        order = _order(file, meaning, pages, directories)
        places = frozenset(page.directory[0] for page in pages)
        self.doubts = doubts(file, first, Held(self.pages, directories, layout, places))
        pages = [pages[i] for i in order or range(self.pages)]
        if order is None or math.prod(self.page_shape) != self.pages:
            letters, self.page_shape = ("I", (self.pages,)) if self.pages > 1 else ("", ())
        self.axes = f"{letters}YX{'S' if self.samples > 1 else ''}"
        self.resolution = _resolution(file, first, meaning, (self.height, self.width))
        names = meaning.channels or _labelled(letters, self.page_shape, slice_labels(file, first))
        self.meaning = Meaning(
            axes=self.axes, resolution=self.resolution, channels=names,
            z_step=in_unit(*meaning.z_step, self.resolution[2] if self.resolution else ""),
        )  # fmt: skip
        self._rows = RowReader(file, pages, limits)

    def read_page(self, page: int) -> npt.NDArray[Any]:
        """One page, shape (samples, H, W)."""
        return self.read_rows(page, 0, self.height)

    def read_rows(self, page: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Pixel rows `start` to `stop` of one page.

        Each stored segment is decoded once while `start` does not go back behind the rows of the
        call before. Held in between: the last rows returned and the rest of their segments.

        Returns
        -------
        ndarray
            A new array, shape (samples, stop - start, W).

        Raises
        ------
        InputError
            The pixels are damaged, or the rows need more than `max_bytes`.
        """
        if not (0 <= page < self.pages and 0 <= start < stop <= self.height):
            raise ValueError(
                f"rows {start} to {stop} of page {page} are outside {self.pages} pages of "
                f"{self.height} rows"
            )
        with as_input_error(self.path, page):
            return self._rows.read(page, start, stop)

    @property
    def provenance(self) -> dict[str, Any]:
        """What our own sink noted about the making of the file; {} in files of others."""
        text = self.description
        try:
            found = json.loads(text)["unet2015"] if text[:1] == "{" else json.loads(history(text))
        except (ValueError, KeyError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def sha256(self) -> str:
        """SHA-256 of the whole file, as hex digits."""
        return self._file.sha256()

    def check_unchanged(self) -> None:
        """Raise `InputChangedError` if the file was written to or replaced since it was opened."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


def _with_sign(pages: list[Page], description: str) -> list[Page]:
    """The pages, signed where ImageJ has added 32768 to their numbers."""
    first = pages[0].layout
    stored = first.kind, first.bits, first.samples, first.photometric
    if stored != ("u", 16, 1, "minisblack") or calibration(description) != SIGNED:
        return pages
    return [replace(page, layout=replace(page.layout, signed=True)) for page in pages]


def _order(
    file: InputFile, meaning: PageAxes, pages: list[Page], directories: int
) -> list[int] | None:
    """Page of each plane; None where the description leaves it open."""
    if meaning.planes is None:
        return list(range(len(pages)))
    try:
        meaning.planes.later.check(directories, Path(file.path).name)
        before = sum(page.ifd_page == i for i, page in enumerate(pages))
        return meaning.planes.order(len(pages), before if before < len(pages) else None)
    except ValueError as error:
        raise InputError(file.path, str(error)) from error


def _labelled(letters: str, shape: tuple[int, ...], labels: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the channels, where the labels of their first slices are distinct."""
    if "C" not in letters or len(labels) != math.prod(shape):
        return ()
    first = [slice(None) if letter == "C" else 0 for letter in letters]
    names = [labels[i] for i in np.arange(len(labels)).reshape(shape)[tuple(first)].tolist()]
    return tuple(names) if all(names) and len(set(names)) == len(names) else ()


def _resolution(
    file: InputFile, ifd: Ifd, meaning: PageAxes, size: tuple[int, int]
) -> tuple[float, float, str] | None:
    """Pixels per unit: from OME where it says so, else from the tags with ImageJ's unit.

    Not where OME-XML tells of an image of another size: it was cut or resized since, and the pixels
    may be of any size.
    """
    if any(said and said != side for said, side in zip(meaning.size, size, strict=True)):
        return None
    if meaning.per_unit is not None:
        return (*meaning.per_unit, meaning.unit)
    x, y = rational(file, ifd, 282), rational(file, ifd, 283)
    if x is None or y is None or not meaning.y_factor:
        return None
    unit = {2: "inch", 3: "cm", 4: "mm", 5: "um"}.get(
        integer(file, ifd, 296, "ResolutionUnit", 2), ""
    )
    if meaning.unit == "?":  # ImageJ names one that is not known: it is not that of the tag
        return None if unit else (x, y, "")
    return x, y * meaning.y_factor, meaning.unit or unit
