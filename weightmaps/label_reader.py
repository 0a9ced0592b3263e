"""An open annotation: its pixels by page and rows, as stored, and as instances.

TIFFs are read through the strict reader of `tiling`, band by band; PNG images and folders of
masks are small and read at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tiling.faults import InputChangedError, InputError
from tiling.input_file import InputFile
from tiling.strict_tiff import Limits, TiffImage, open_tiff
from weightmaps.annotations import LabelFile
from weightmaps.label_rule import LabelRule, ids_of, inside_of, taken_as, tally
from weightmaps.labels import as_labels, merge_instance_masks

__all__ = ["InstanceSource", "LabelReader", "band_rows", "identity", "instance_source"]

_BAND_PX = 1 << 22
_DEFAULT_LIMITS = Limits()


def band_rows(width: int, pixels: int = _BAND_PX) -> int:
    """Return how many rows of this width make up about `pixels` pixels (at least 32 rows)."""
    return max(32, pixels // max(1, width))


def identity(file: LabelFile) -> tuple[tuple[int, ...], ...]:
    """Return what tells that the files are the same as before: device, inode, size, time."""
    found = []
    for part in file.parts:
        try:
            now = part.stat()
        except OSError as error:
            raise InputError(part, f"cannot be read: {error.strerror}") from error
        found.append((now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns))
    return tuple(found)


class LabelReader:
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

    Raises
    ------
    InputError
        The file is damaged, in colour, or of a kind that is not read.
    """

    def __init__(
        self, file: LabelFile, rule: LabelRule, limits: Limits = _DEFAULT_LIMITS
    ) -> None:
        self.file, self.rule = file, rule
        self.resolution: tuple[float, float, str] | None = None
        self.overlap_px = 0
        self.identity = identity(file)
        self._tiff: TiffImage | None = None
        self._slices_are_samples = False
        self._memory: npt.NDArray[Any] = np.empty((0, 0, 0), np.uint8)
        if file.container == "tiff":
            self._open_tiff(limits)
        elif file.container == "image":
            self._remember(_read_png(file.path))
        else:
            self._remember(self._merge()[None])

    def _open_tiff(self, limits: Limits) -> None:
        tiff = self._tiff = open_tiff(self.file.path, limits=limits)
        self.pages, self.height, self.width = tiff.pages, tiff.height, tiff.width
        self.dtype, self.resolution = tiff.dtype, tiff.resolution
        if tiff.samples > 1:
            if not (tiff.planar and tiff.pages == 1):
                tiff.close()
                raise InputError(self.file.path, _COLOUR.format(tiff.samples))
            # A stack of 3 or 4 slices whose writer took the slices for colours.
            self.pages, self._slices_are_samples = tiff.samples, True

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
        if self._tiff is None:
            return self._memory[page, y0:y1]
        if self._slices_are_samples:
            return self._tiff.read_rows(0, y0, y1)[page]
        return self._tiff.read_rows(page, y0, y1)[0]

    def bands(self) -> Iterator[npt.NDArray[Any]]:
        """Every stored value, page after page, in bands of rows."""
        step = band_rows(self.width)
        for page in range(self.pages):
            for top in range(0, self.height, step):
                yield self.rows(page, top, min(self.height, top + step))

    def kind(self) -> str:
        """``"mask"`` or ``"instances"``, decided on the values of all pages."""
        if self.file.container == "masks":
            return "instances"
        counts: dict[Any, int] | None = {}
        try:
            if self.rule.kind != "instances" and self.rule.threshold is None:
                for band in self.bands():
                    counts = tally(counts, band)
                    if counts is None:
                        break
            kind = taken_as(self.rule, counts, self.dtype)
        except ValueError as error:
            raise InputError(self.file.path, str(error)) from error
        inverted = self._tiff is not None and self._tiff.photometric == "miniswhite"
        if inverted and kind == "instances":
            raise InputError(
                self.file.path, "stores ids as MinIsWhite, inverted; save it as MinIsBlack"
            )
        return kind

    def sha256(self) -> str:
        """SHA-256 of the file; of names and contents for a folder of masks."""
        if self._tiff is not None:
            return self._tiff.sha256()
        total = hashlib.sha256()
        for part in self.file.parts:
            with InputFile(part) as file:
                digest = file.sha256()
            if self.file.container == "image":
                return digest
            total.update(os.fsencode(part.name) + b"\0" + digest.encode())
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_COLOUR = "has {} channels: an image in colour, not labels; save the ids or the mask as one channel"


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


class _Values:
    """Source of the stored values of one page."""

    def __init__(self, reader: LabelReader, page: int) -> None:
        self.shape: tuple[int, ...] = (reader.height, reader.width)
        self.dtype: np.dtype[Any] = reader.dtype
        self._reader, self._page = reader, page

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        y0, y1, _ = key[1].indices(self.shape[0])
        return self._reader.rows(self._page, y0, y1)[:, key[2]]


class _Inside(_Values):
    """Source of the mask of one page."""

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        return inside_of(super().__getitem__(key), self._reader.rule)


class InstanceSource:
    """Source of the instance labels of one page, whatever they are made from.

    Slices as `[..., y0:y1, x0:x1]`; cheapest from top to bottom.
    """

    def __init__(self, reader: LabelReader, page: int, kind: str, block_rows: int) -> None:
        self._values, self._reader, self._page = _Values(reader, page), reader, page
        self.shape: tuple[int, ...] = self._values.shape
        self._components: Any = None
        if kind == "mask":
            from weightmaps.components import ComponentSource

            mask = _Inside(reader, page)
            self._components = ComponentSource(mask, reader.rule.connectivity, block_rows)
        sample = self._values[..., 0:1, 0:1]
        self.dtype: np.dtype[Any] = self._ids(sample, (..., slice(0, 1), slice(0, 1))).dtype

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        """Instance labels of some rows and columns."""
        needed = self._components is None or self._reader.rule.ignore_label is not None
        values = self._values[key] if needed else np.empty((0, 0))
        return self._ids(values, key)

    def _ids(self, values: npt.NDArray[Any], key: Any) -> npt.NDArray[Any]:
        rule = self._reader.rule
        if self._components is not None:
            return ids_of(self._components[key], values, rule)
        if values.dtype.kind == "b":
            values = values.astype(np.uint8)
        try:
            return as_labels(values, ignore_label=rule.ignore_label)
        except (TypeError, ValueError) as error:
            raise InputError(self._reader.file.path, str(error), page=self._page) from error


def instance_source(
    reader: LabelReader, page: int, kind: str, block_rows: int | None = None
) -> InstanceSource:
    """Return the instance labels of one page; a mask is labelled in bands of `block_rows` rows."""
    return InstanceSource(reader, page, kind, block_rows or reader.height)
