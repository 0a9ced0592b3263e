"""Zarr arrays and OME-Zarr images as sources."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from tiling.closing import Closing
from tiling.disk import StrPath, check_descriptors
from tiling.faults import Fault, InputChangedError, InputError
from tiling.input_file import as_input_error
from tiling.meaning import Meaning, in_unit
from tiling.ngff import (
    axis_letters,
    channel_labels,
    check_finest_first,
    coded_numbers,
    dimension_names,
    other_images,
    pixel_sizes,
)
from tiling.strict_tiff import Limits
from tiling.zarr_checks import check_shape, folder_state, narrowed
from tiling.zarr_names import ChunkNames
from tiling.zarr_store import StrictStore

__all__ = ["ZarrSource"]

_UNITS = {"micrometer": "um", "nanometer": "nm", "millimeter": "mm", "centimeter": "cm",
          "meter": "m", "inch": "inch"}  # fmt: skip
_DEFAULT_LIMITS = Limits()
_FIVE = "TCZYX"  # the axes of OME-Zarr 0.1 and 0.2, which do not name them


class ZarrSource(Closing):
    """One page of a Zarr array, or of the finest level of an OME-Zarr image, as a source.

    Parameters
    ----------
    path
        A folder in the local file system.
    page
        Which page its own pixels are; pages run over all axes but channels, rows and columns.
    limits
        What the array may ask of us.

    Attributes
    ----------
    shape : tuple of int
        (H, W) or (C, H, W).
    dtype : numpy.dtype
        Type of a pixel.
    axes : str
        Axes of the whole array, "TCZYX", ...; "I" where the file does not say. Never "S".
    resolution : (float, float, str) or None
        Pixels per unit in x and y, and the unit.
    meaning : Meaning
        Axes, resolution, distance of slices and names of the channels together.
    doubts : tuple of str
        What the array says of its numbers that was not followed, chunks and images that are left
        out; for the user.
    provenance : dict
        What made the image, where it is one of ours.
    keeps_rows : bool
        True: what was decoded below the rows asked for is there for the next call.

    Raises
    ------
    InputError
        The folder is no Zarr array or image, or its axes do not end in rows and columns.
    """

    keeps_rows = True

    def __init__(self, path: StrPath, *, page: int = 0, limits: Limits = _DEFAULT_LIMITS) -> None:
        self.path = os.fsdecode(path)
        with as_input_error(path), _unwarned():
            if not Path(self.path).is_dir():
                raise InputError(path, "is not a Zarr folder; check the name")
            check_descriptors()
            store = StrictStore(self.path, limits)
            self._array, self.meaning, self.provenance, doubts = _opened(self.path, store)
            if np.dtype(self._array.dtype).kind not in "buif":
                reason = f"has pixels of {self._array.dtype}; numbers are read: convert them"
                raise InputError(path, reason)
            with _understood(self.path):
                store.expect(self._array)
                doubts += coded_numbers(dict(self._array.attrs))
            self.axes, self.resolution = self.meaning.axes, self.meaning.resolution
            check_shape(path, self._array, self.axes, limits)
            names = ChunkNames(self.path, self._array)
            self._stamp = folder_state(self.path, self._array.path, names.see_entry)
            self.doubts = (*doubts, *names.doubts())
        self._store, self._limits = store, limits
        self.dtype = np.dtype(self._array.dtype).newbyteorder("=")
        sizes = dict(zip(self.axes, self._array.shape, strict=True))
        self._leading = [axis for axis in self.axes[:-2] if axis != "C"]
        self.page_shape = tuple(sizes[axis] for axis in self._leading)
        self.pages = math.prod(self.page_shape)
        size = tuple(self._array.shape[-2:])
        self.shape = (sizes["C"], *size) if "C" in sizes else size
        self._held: tuple[int, int, npt.NDArray[Any]] | None = None
        self._number = page
        self._check(page)

    def _check(self, page: int) -> None:
        if not 0 <= page < self.pages:
            raise InputError(self.path, f"has no page {page}; it has {self.pages}")

    def page(self, number: int) -> _ZarrPage:
        """Another page of the same array as a source."""
        self._check(number)
        return _ZarrPage(self, number)

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        """Rows and columns of the page."""
        return self.read(self._number, key)

    def read(self, page: int, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        """Rows and columns of a page; the rest of the last row of chunks is kept for the next."""
        _, rows, columns = key
        with as_input_error(self.path, page):
            size = (*self.shape[:-2], rows.stop - rows.start, self.shape[-1])
            self._claim(math.prod(size))
            found = np.empty(size, self.dtype)
            start = rows.start
            if self._held is not None and self._held[0] == page:
                _, top, held = self._held
                if top <= start < top + held.shape[-2]:
                    kept = held[..., start - top : rows.stop - top, :]
                    found[..., : kept.shape[-2], :] = kept
                    start += kept.shape[-2]
            for top, new in self._bands(page, start, rows.stop):
                first = max(start, top)
                stop = min(rows.stop, top + new.shape[-2])
                there = slice(first - rows.start, stop - rows.start)
                found[..., there, :] = new[..., first - top : stop - top, :]
                last = (top + new.shape[-2] - 1) // self._array.chunks[-2] * self._array.chunks[-2]
                self._held = page, last, new[..., last - top :, :].copy()
        return found[..., columns]

    def whole(self) -> npt.NDArray[Any]:
        """All pages in memory, shape (pages, H, W) or (pages, C, H, W).

        Raises
        ------
        InputError
            They need more than `max_bytes`, or more memory than there is; or a chunk is damaged.
        InputChangedError
            The folder was written to meanwhile.
        """
        with as_input_error(self.path):
            self._claim(self.pages * math.prod(self.shape))
            found = np.empty((self.pages, *self.shape), self.dtype)
            every = (..., slice(0, self.shape[-2]), slice(0, self.shape[-1]))
            for number in range(self.pages):
                found[number] = self.read(number, every)
            self.check_unchanged()
        return found

    def _claim(self, pixels: int) -> None:
        needed = pixels * self.dtype.itemsize
        if needed > self._limits.max_bytes:
            raise InputError(
                self.path, f"needs {needed} bytes of memory, above max_bytes "
                f"{self._limits.max_bytes}; cut it into smaller images",
            )  # fmt: skip

    def _bands(self, page: int, start: int, stop: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """First row and pixels of whole rows of chunks, `max_chunks` at most at a time."""
        height = self._array.chunks[-2]
        across = -(-self.shape[-1] // self._array.chunks[-1]) * math.prod(self.shape[:-2])
        step = height * max(1, self._limits.max_chunks // across)
        end = min(-(-stop // height) * height, self.shape[-2])
        for top in range(start // height * height, end if start < stop else 0, step):
            yield top, self._decoded(self._where(page, slice(top, min(top + step, end))))

    def _decoded(self, where: tuple[Any, ...]) -> npt.NDArray[Any]:
        try:
            found = np.asarray(self._array[where])
            # A stored bool may be any byte; numpy and torch count on 0 and 1.
            return found.view(np.uint8) != 0 if found.dtype == np.bool_ else found
        except (Fault, MemoryError):
            raise
        except Exception as error:
            chunk = narrowed(self._array, where)
            try:
                self._array[chunk]
            except (Fault, MemoryError):
                raise
            except Exception as reason:  # noqa: BLE001 - told with its chunk
                file = Path(self.path, self._store.asked)
                words = " ".join(f"{type(reason).__name__}: {reason}".split())[:200]
                raise InputError(
                    file, f"is damaged: its pixels cannot be read ({words}); "
                    "copy the folder again from where it came",
                ) from error  # fmt: skip
            raise

    def _where(self, page: int, rows: slice) -> tuple[Any, ...]:
        place = dict(zip(self._leading, np.unravel_index(page, self.page_shape), strict=True))
        channels = slice(0, self.shape[0])  # of three axes where there is a C
        leading = [channels if axis == "C" else int(place[axis]) for axis in self.axes[:-2]]
        return (*leading, rows, slice(0, self.shape[-1]))

    def check_unchanged(self) -> None:
        """Raise `InputChangedError` if a file of it was touched since the folder was opened."""
        with as_input_error(self.path):
            if folder_state(self.path, self._array.path) != self._stamp:
                raise InputChangedError(self.path, "was written to while it was read; run again")

    def close(self) -> None:
        """Forget the rows that are kept."""
        self._held = None


class _ZarrPage:
    """One page of an open Zarr array."""

    keeps_rows = True

    def __init__(self, whole: ZarrSource, number: int) -> None:
        self.shape, self.dtype = whole.shape, whole.dtype
        self._whole, self._number = whole, number

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        return self._whole.read(self._number, key)


Opened = tuple[Any, Meaning, dict[str, Any], tuple[str, ...]]


def _opened(path: str, store: StrictStore) -> Opened:
    """The array, what its pixels mean, what made it, and what is doubted."""
    old = [name for name in (".zarray", ".zgroup") if Path(path, name).is_file()]
    if old and Path(path, "zarr.json").is_file():
        raise InputError(
            path, f"holds zarr.json and {old[0]}, two Zarrs in one; remove one of them"
        )
    with _understood(path):
        try:
            # What a group has gathered from its arrays may be older than they are.
            node: Any = zarr.open(store, mode="r", use_consolidated=False)
        except FileNotFoundError as error:
            reason = "is no Zarr array or group (it has no zarr.json, .zarray or .zgroup)"
            raise InputError(path, f"{reason}; name the folder that has it") from error
        attributes = dict(node.attrs) if isinstance(node, zarr.Group) else {}
    if isinstance(node, zarr.Array):
        with _understood(path):
            names = dimension_names(node)
        return node, Meaning(axes=axis_letters(path, names, node.ndim)), {}, ()
    ome: Any = attributes.get("ome", attributes)
    images = ome.get("multiscales") if isinstance(ome, dict) else None
    if not images:
        raise InputError(path, "is a Zarr group without an OME image; name one of its arrays")
    with _understood(path):
        finest = images[0]["datasets"][0]
        array = node[finest["path"]]
        if not isinstance(array, zarr.Array):
            raise InputError(path, f"names the group {str(finest['path'])[:80]!r} as its pixels")
        check_finest_first(path, node, images[0]["datasets"])
        axes = images[0].get("axes") or (_FIVE if array.ndim == len(_FIVE) else "")
        names = [str(axis["name"] if isinstance(axis, dict) else axis) for axis in axes]
        kinds = [axis.get("type") if isinstance(axis, dict) else None for axis in axes]
        letters = axis_letters(path, names, array.ndim, kinds)
        told = [str(axis.get("unit", "")) if isinstance(axis, dict) else "" for axis in axes]
        units = [_UNITS.get(unit, unit) for unit in told]
        sizes = pixel_sizes((finest, images[0]), array.ndim)
        channels = channel_labels(ome, array.shape[letters.index("C")] if "C" in letters else 1)
    made_by = attributes.get("unet2015")
    meaning = _with_size(Meaning(axes=letters, channels=channels), sizes, units)
    provenance = made_by if isinstance(made_by, dict) else {}
    return array, meaning, provenance, other_images(images)


def _with_size(meaning: Meaning, sizes: list[float], units: list[str]) -> Meaning:
    """The meaning with the size of a pixel, where it is told for rows and columns in lengths."""
    if not sizes or not units or units[-1] not in _UNITS.values():
        return meaning
    unit, z = units[-1], meaning.axes.find("Z")
    y, x = in_unit(sizes[-2], units[-2] or unit, unit), sizes[-1]
    deep = in_unit(sizes[z], units[z], unit) if z >= 0 else 0.0
    if not (1e-9 < x < 1e9 and 1e-9 < y < 1e9):
        return meaning
    step = deep if 1e-9 < deep < 1e9 else 0.0
    return replace(meaning, resolution=(1 / x, 1 / y, unit), z_step=step)


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """What zarr warns of is refused in our words, or read as it is."""
    with warnings.catch_warnings():
        for kind in (UserWarning, FutureWarning):
            warnings.simplefilter("ignore", kind)
        yield


@contextlib.contextmanager
def _understood(path: str) -> Iterator[None]:
    """What zarr or we cannot make sense of in the metadata, told as such, with what to do."""
    try:
        yield
    except (Fault, MemoryError, OSError):
        raise
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            path, f"cannot be read: its metadata make no sense ({words}); copy the folder again "
            "from where it came, or save the image anew",
        ) from error  # fmt: skip
