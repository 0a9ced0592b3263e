"""An open annotation: its pixels by page and rows, as stored.

TIFFs and Zarr arrays are read through the readers of `tiling`, band by band; PNG images and
folders of masks are small and read at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.closing import Closing
from tiling.faults import InputChangedError, InputError
from tiling.input_file import InputFile, as_input_error
from tiling.strict_tiff import Limits, TiffImage, open_tiff
from weightmaps.annotations import LabelFile
from weightmaps.label_rule import LabelRule, inside_of, looks_like_image, taken_as, tally
from weightmaps.labels import merge_instance_masks

__all__ = ["LabelReader", "band_rows", "changes_ns", "identity"]

_BAND_PX = 1 << 21
_DEFAULT_LIMITS = Limits()


def band_rows(width: int, pixels: int = _BAND_PX) -> int:
    """Return how many rows of this width make up about `pixels` pixels (at least 32 rows)."""
    return max(32, pixels // max(1, width))


def identity(file: LabelFile) -> tuple[tuple[int, ...], ...]:
    """Return what tells that the files are the same as before: device, inode, size, time."""
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in _status(file))


def changes_ns(file: LabelFile) -> tuple[int, ...]:
    """Return when the files, or what is said of them, last changed (ctime).

    Unlike the time of writing it cannot be set back; it also moves with a permission.
    """
    return tuple(status.st_ctime_ns for status in _status(file))


def _status(file: LabelFile) -> Iterator[os.stat_result]:
    for part in file.parts:
        with as_input_error(part):
            status = part.stat()
        yield status


class LabelReader(Closing):
    """An annotation opened for reading; a context manager.

    Parameters
    ----------
    file
        The annotation.
    rule
        How its values are taken.
    limits
        What the file may ask of us.

    Attributes
    ----------
    pages, height, width : int
        Size.
    dtype : dtype
        Type of the stored values (int32 for merged masks).
    resolution : (float, float, str) or None
        Pixels per unit along x and y, and the unit.
    identity : tuple
        See `identity`.
    overlap_px : int
        Pixels claimed by several masks of a folder; the first mask by name has them.
    doubts : tuple of str
        What the file promises or says of its numbers that was not followed.

    Raises
    ------
    InputError
        The file is damaged, in colour, or of a kind that is not read.
    """

    def __init__(self, file: LabelFile, rule: LabelRule, limits: Limits = _DEFAULT_LIMITS) -> None:
        self.file, self.rule = file, rule
        self.resolution: tuple[float, float, str] | None = None
        self.overlap_px = 0
        self.doubts: tuple[str, ...] = ()
        self.identity = identity(file)
        self._tiff: TiffImage | None = None
        self._zarr: Any = None
        self._slices_are_samples = False
        self._memory: npt.NDArray[Any] = np.empty((0, 0, 0), np.uint8)
        if file.container == "tiff":
            self._open_tiff(limits)
        elif file.container == "zarr":
            self._open_zarr(limits)
        elif file.container == "image":
            self._remember(_read_png(file.path))
        else:
            self._remember(self._merge()[None])

    def _open_tiff(self, limits: Limits) -> None:
        tiff = self._tiff = open_tiff(self.file.path, limits=limits)
        self.pages, self.height, self.width = tiff.pages, tiff.height, tiff.width
        self.dtype, self.resolution, self.doubts = tiff.dtype, tiff.resolution, tiff.doubts
        if "C" in tiff.axes and tiff.pages > 1:
            self.doubts += ("calls its pages channels; each is taken as a slice of its own",)
        if tiff.samples > 1:
            if not (tiff.planar and tiff.pages == 1):
                tiff.close()
                raise InputError(self.file.path, _COLOUR.format(tiff.samples))
            # A stack of 3 or 4 slices whose writer took the slices for colours.
            self.pages, self._slices_are_samples = tiff.samples, True

    def _open_zarr(self, limits: Limits) -> None:
        from tiling.zarr import ZarrSource

        array = self._zarr = ZarrSource(self.file.path, limits=limits)
        if len(array.shape) == 3 and array.shape[0] > 1:
            raise InputError(self.file.path, _COLOUR.format(array.shape[0]))
        self.pages, self.dtype, self.resolution = array.pages, array.dtype, array.resolution
        self.height, self.width = array.shape[-2:]
        self.doubts = array.doubts

    def _remember(self, stack: npt.NDArray[Any]) -> None:
        if stack.ndim != 3:
            raise InputError(self.file.path, _COLOUR.format(stack.shape[1]))
        self._memory, self.dtype = stack, stack.dtype
        self.pages, self.height, self.width = stack.shape

    def _merge(self) -> npt.NDArray[np.int32]:
        """One id per mask file, in the order of their names."""
        parts = self.file.parts
        if not parts:
            raise InputError(self.file.path, "holds no mask files (.png or .tif)")
        claims: list[npt.NDArray[np.uint32]] = []
        merged = merge_instance_masks(self._masks(parts, claims))
        self.overlap_px = int(np.count_nonzero(claims[0] > 1))
        return merged

    def _masks(
        self, parts: tuple[Path, ...], claims: list[npt.NDArray[np.uint32]]
    ) -> Iterator[npt.NDArray[np.bool_]]:
        mask_rule = LabelRule("mask", threshold=self.rule.threshold)
        for part in parts:
            values = _read_page(part)
            try:
                taken_as(mask_rule, tally({}, values), values.dtype)
            except ValueError as error:
                raise InputError(part, str(error)) from error
            _refuse_nan(values, part, 0, 0)
            mask = inside_of(values, mask_rule)
            if not claims:
                claims.append(np.zeros(mask.shape, np.uint32))
            if mask.shape != claims[0].shape:
                raise InputError(
                    part, f"is {_size(mask.shape)}, but {parts[0].name} is {_size(claims[0].shape)}"
                )
            claims[0] += mask
            yield mask

    def rows(self, page: int, y0: int, y1: int) -> npt.NDArray[Any]:
        """Stored values of some rows, shape ``(y1 - y0, W)``."""
        found: npt.NDArray[Any]
        if self._zarr is not None:
            found = self._zarr.page(page)[..., y0:y1, 0 : self.width].reshape(y1 - y0, self.width)
        elif self._tiff is None:
            found = self._memory[page, y0:y1]
        elif self._slices_are_samples:
            found = self._tiff.read_rows(0, y0, y1)[page]
        else:
            found = self._tiff.read_rows(page, y0, y1)[0]
        return found

    def inside(self, page: int, y0: int, y1: int) -> npt.NDArray[np.bool_]:
        """Which pixels of some rows of a mask are inside a cell, shape ``(y1 - y0, W)``."""
        values = self.rows(page, y0, y1)
        _refuse_nan(values, self.file.path, page, y0)
        return inside_of(values, self.rule)

    def bands(self) -> Iterator[npt.NDArray[Any]]:
        """Every stored value, page after page, in bands of rows."""
        for page in range(self.pages):
            yield from self._bands_of(page)

    def _bands_of(self, page: int) -> Iterator[npt.NDArray[Any]]:
        step = band_rows(self.width, _BAND_PX // 4)
        for top in range(0, self.height, step):
            yield self.rows(page, top, min(self.height, top + step))

    def values(self, page: int) -> list[Any]:
        """The different values of a page, sorted."""
        found: set[Any] = set()
        for band in self._bands_of(page):
            found.update(np.unique(band).tolist())
        return sorted(found)

    @property
    def inverted(self) -> bool:
        """Zero is stored as white (MinIsWhite); the values read are turned round."""
        return self._tiff is not None and self._tiff.photometric == "miniswhite"

    def kind(self) -> str:
        """``"mask"``, ``"instances"`` or ``"classes"``, decided on the values of all pages."""
        if self.file.container == "masks":
            if self.rule.kind == "classes":
                raise InputError(
                    self.file.path, "holds one mask per cell, not classes; leave out --labels"
                )
            return "instances"
        reason = "stores ids as MinIsWhite, inverted; save it as MinIsBlack"
        try:
            kind = self._kind()
        except ValueError as error:
            raise InputError(self.file.path, reason if self.inverted else str(error)) from error
        if self.inverted and kind != "mask":
            raise InputError(self.file.path, reason)
        return kind

    def _kind(self) -> str:
        counts: dict[Any, int] | None = {}
        noisy = False
        if self.rule.kind != "instances" and self.rule.threshold is None:
            for band in self.bands():
                noisy = noisy or looks_like_image(band)
                counts = tally(counts, band)
                if counts is None:
                    break
        kind = taken_as(self.rule, counts, self.dtype)
        if noisy and kind == "instances":
            raise ValueError(
                "most neighbouring pixels differ: this looks like an image, not labels; "
                "use --labels instances if its values are cell ids"
            )
        return kind

    def sha256(self) -> str:
        """SHA-256 of the file; of names and contents for a folder."""
        if self._tiff is not None:
            return self._tiff.sha256()
        total = hashlib.sha256()
        for part in self.file.parts:
            with InputFile(part) as file:
                digest = file.sha256()
            if self.file.container == "image":
                return digest
            name = part.relative_to(self.file.path).as_posix()
            total.update(os.fsencode(name) + b"\0" + digest.encode())
        return total.hexdigest()

    def check_unchanged(self) -> None:
        """Raise `InputChangedError` if a file was written to or replaced since it was opened."""
        if identity(self.file) != self.identity:
            raise InputChangedError(
                self.file.path, "changed while it was being read; run again on a file at rest"
            )

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._tiff is not None:
            self._tiff.close()


_COLOUR = "has {} channels: an image in colour, not labels; save the ids or the mask as one channel"


def _refuse_nan(values: npt.NDArray[Any], path: Path, page: int, top: int) -> None:
    if values.dtype.kind == "f" and np.isnan(values).any():
        y, x = (int(i[0]) for i in np.nonzero(np.isnan(values)))
        raise InputError(path, f"holds NaN at ({top + y}, {x}), neither inside nor out", page=page)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _read_png(path: Path) -> npt.NDArray[Any]:
    from tiling.images import read_image

    return read_image(path)


def _read_page(path: Path) -> npt.NDArray[Any]:
    """The only page of a small file."""
    from tiling.images import read_image

    stack = read_image(path)
    if stack.ndim != 3:
        raise InputError(path, _COLOUR.format(stack.shape[1]))
    if len(stack) != 1:
        raise InputError(path, f"has {len(stack)} pages; a mask of one cell has one")
    page: npt.NDArray[Any] = stack[0]
    return page
