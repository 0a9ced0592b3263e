"""A PNG file as a source. Unlike a TIFF it is decoded as a whole: its rows cannot be skipped."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from tiling.closing import Closing
from tiling.disk import StrPath
from tiling.faults import InputError
from tiling.ifd import Limits
from tiling.input_file import InputFile
from tiling.meaning import Meaning
from tiling.png import read_png

__all__ = ["PngSource"]

_DEFAULT_LIMITS = Limits()


class PngSource(Closing):
    """A PNG as a source for `stitch`: one page, (H, W) or (S, H, W) for colour.

    A context manager, like the other sources. A PNG tells nothing of channels or history, and its
    pixel size is not read.

    Parameters
    ----------
    path
        The file.
    page
        0: there is no other.
    limits
        What the file may ask of us.

    Attributes
    ----------
    shape : tuple of int
        (H, W) or (S, H, W).
    dtype : numpy.dtype
        bool, uint8 or uint16.
    axes : str
        "YX", or "YXS" for colour.
    pages : int
        1.

    Raises
    ------
    InputError
        The file is damaged, or of a kind that is not read.
    """

    pages = 1
    page_shape = ()
    resolution = None
    doubts: tuple[str, ...] = ()
    provenance: dict[str, Any] = {}  # noqa: RUF012 - empty for every PNG

    def __init__(self, path: StrPath, *, page: int = 0, limits: Limits = _DEFAULT_LIMITS) -> None:
        self._path = path
        self._check(page)
        self._file = InputFile(path)
        try:
            pixels = read_png(path, limits=limits)[0]
        except BaseException:
            self._file.close()
            raise
        self._pixels = pixels
        self.shape, self.dtype = pixels.shape, pixels.dtype
        self.axes = "YX" if pixels.ndim == 2 else "YXS"
        self.meaning = Meaning(axes=self.axes)

    def _check(self, page: int) -> None:
        if page:
            raise InputError(self._path, f"has no page {page}; a PNG has one, page 0")

    def page(self, number: int) -> PngSource:
        """The source itself, if `number` is 0."""
        self._check(number)
        return self

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        """Rows and columns of the image."""
        found: npt.NDArray[Any] = self._pixels[key]
        return found

    def check_unchanged(self) -> None:
        """Raise `InputChangedError` if the file was touched since it was opened."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
