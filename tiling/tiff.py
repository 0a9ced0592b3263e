"""TIFF files as sources: one page, another page, or several pages as channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.closing import Closing
from tiling.disk import StrPath
from tiling.faults import InputError
from tiling.meaning import Meaning
from tiling.strict_tiff import Limits, TiffImage, open_tiff

__all__ = ["TiffSource"]

_DEFAULT_LIMITS = Limits()


class TiffSource(Closing):
    """One page of a TIFF as a source for `stitch`; also the way to its other pages.

    A context manager; it reads only the rows it is asked for.

    Parameters
    ----------
    path
        The file.
    page
        Which page its own pixels are.
    limits
        What the file may ask of us.

    Attributes
    ----------
    shape : tuple of int
        (H, W), or (S, H, W) for colour.
    dtype : numpy.dtype
        Type of a pixel, native byte order.
    image : TiffImage
        The open file: `.axes`, `.page_shape`, `.resolution`, `.description`, `.sha256()`.
    keeps_rows : bool
        True: what was decoded below the rows asked for is there for the next call.
    """

    keeps_rows = True

    def __init__(self, path: StrPath, *, page: int = 0, limits: Limits = _DEFAULT_LIMITS) -> None:
        self.image = open_tiff(path, limits=limits)
        self._path, self._limits = path, limits
        self._more: list[TiffImage] = []
        try:
            self._view = _page_of(self.image, page)
        except BaseException:
            self.image.close()
            raise
        self.shape, self.dtype = self._view.shape, self._view.dtype

    @property
    def axes(self) -> str:
        """Axes of the whole file, "ZYX", "CYX", "YXS", ...; "I" is an unknown page axis."""
        return self.image.axes

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self.image.pages

    @property
    def resolution(self) -> tuple[float, float, str] | None:
        """Pixels per unit in x and y, and the unit."""
        return self.image.resolution

    @property
    def meaning(self) -> Meaning:
        """Axes, pixel size and names of the channels."""
        return self.image.meaning

    @property
    def doubts(self) -> tuple[str, ...]:
        """What the file promises or says of its numbers that was not followed."""
        return self.image.doubts

    @property
    def provenance(self) -> dict[str, Any]:
        """What made the file, where it is one of ours."""
        return self.image.provenance

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        """Rows and columns of the page."""
        return self._view[key]

    def page(self, number: int) -> _Page:
        """Another page of the same file as a source, open as long as this object."""
        return _page_of(self.image, number)

    def stack(self, numbers: list[int]) -> _Channels:
        """Several pages as the channels of one source (C, H, W).

        Each channel has a view of the file to itself, so that it keeps its own place in it; all
        stacks share these views.
        """
        while len(self._more) < len(numbers):
            self._more.append(open_tiff(self._path, limits=self._limits))
        views = zip(self._more, numbers, strict=False)
        return _Channels([_page_of(image, number) for image, number in views])

    def check_unchanged(self) -> None:
        """Raise `InputChangedError` if the file was touched since it was opened."""
        for image in (self.image, *self._more):
            image.check_unchanged()

    def close(self) -> None:
        """Close the file."""
        for image in (self.image, *self._more):
            image.close()


class _Page:
    """One page of an open TIFF."""

    keeps_rows = True

    def __init__(self, image: TiffImage, number: int) -> None:
        size = (image.height, image.width)
        self.shape = size if image.samples == 1 else (image.samples, *size)
        self.dtype = image.dtype
        self._image, self._number = image, number

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        _, rows, columns = key
        found = self._image.read_rows(self._number, rows.start, rows.stop)
        found = found[:, :, columns]
        return found if len(self.shape) == 3 else found[0]


class _Channels:
    """Several pages, one behind the other along the channel axis."""

    keeps_rows = True

    def __init__(self, pages: list[_Page]) -> None:
        self._pages = pages
        self.dtype = pages[0].dtype
        channels = sum(page.shape[0] if len(page.shape) == 3 else 1 for page in pages)
        self.shape = (channels, *pages[0].shape[-2:])

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        blocks = (page[key] for page in self._pages)
        return np.concatenate([b if b.ndim == 3 else b[None] for b in blocks])


def _page_of(image: TiffImage, number: int) -> _Page:
    if not 0 <= number < image.pages:
        raise InputError(image.path, f"has no page {number}; its pages are 0 to {image.pages - 1}")
    return _Page(image, number)
