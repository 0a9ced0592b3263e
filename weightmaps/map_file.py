"""Weight maps on the disk: one TIFF page per slice, deflate in strips, published whole.

Any TIFF reader opens them. The bytes do not depend on jobs, blocks or threads: strips have a
fixed height, each is compressed on its own, and the history is filled in at the end.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tiling.safe_write import publish
from tiling.strict_tiff import open_tiff
from weightmaps.history import LENGTH, history_text, told_by

__all__ = ["Outcome", "Shape", "intact", "packed_strips", "pixels_hash", "write_map", "write_maps"]

_STRIP_BYTES = 1 << 18
_LEVEL = 1  # of deflate: twice as fast as level 6 and 10 % larger on weight maps
_CLASSIC_LIMIT = 4_000_000_000
_PENDING = "weight map without history: the run that wrote it did not finish"
_UNITS = {"um": 3, "nm": 3, "mm": 3, "m": 3, "cm": 3, "inch": 2}
_PER_CM = {"um": 1e4, "nm": 1e7, "mm": 10.0, "m": 0.01, "cm": 1.0, "inch": 1.0}


@dataclass(frozen=True)
class Shape:
    """Size and type of a map: pages of ``(height, width)`` pixels of `dtype`."""

    pages: int
    height: int
    width: int
    dtype: str

    @property
    def strip_rows(self) -> int:
        """Rows of a strip: about a quarter of a megabyte."""
        row = max(1, self.width * np.dtype(self.dtype).itemsize)
        return max(1, min(self.height, _STRIP_BYTES // row))

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels, uncompressed."""
        return self.pages * self.height * self.width * np.dtype(self.dtype).itemsize


@dataclass
class Outcome:
    """What is known of a page, or of a map, after its last row.

    Parameters
    ----------
    digest
        SHA-256 of the pixels as little-endian rows (one page).
    largest
        Largest weight.
    """

    digest: Any = field(default_factory=hashlib.sha256)
    largest: float = 0.0

    def saw(self, rows: npt.NDArray[Any]) -> None:
        """Take some more rows into account."""
        self.digest.update(np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")))
        self.largest = max(self.largest, float(rows.max(initial=0)))


def packed_strips(
    blocks: Iterable[npt.NDArray[Any]], shape: Shape, outcome: Outcome
) -> Iterator[bytes]:
    """Yield the compressed strips of one page, given its rows in blocks of any height."""
    kept: list[npt.NDArray[Any]] = []
    have = 0
    for block in blocks:
        rows = np.ascontiguousarray(block, np.dtype(shape.dtype).newbyteorder("<"))
        outcome.saw(rows)
        kept.append(rows)
        have += len(rows)
        if have >= shape.strip_rows:
            joined = np.concatenate(kept) if len(kept) > 1 else rows
            whole = have - have % shape.strip_rows
            for top in range(0, whole, shape.strip_rows):
                yield _packed(joined[top : top + shape.strip_rows])
            kept, have = [joined[whole:].copy()], have - whole
            del joined
        del block, rows  # before the next block is made
    if have:
        yield _packed(np.concatenate(kept))


def _packed(rows: npt.NDArray[Any]) -> bytes:
    return zlib.compress(rows.data, _LEVEL)


def pixels_hash(digests: Iterable[bytes]) -> str:
    """SHA-256 over the pages' digests, as hex digits.

    Examples
    --------
    >>> pixels_hash([])[:8]
    'e3b0c442'
    """
    total = hashlib.sha256()
    for digest in digests:
        total.update(digest)
    return total.hexdigest()


def write_map(
    path: str | Path, stack: npt.NDArray[Any], *, history: dict[str, Any], overwrite: bool = False
) -> None:
    """Write a weight map that is in memory.

    Parameters
    ----------
    path
        A TIFF to write.
    stack
        float16, float32 or float64, shape ``(S, H, W)`` or ``(H, W)``.
    history
        What the file says about itself (see `weightmaps.history`).
    overwrite
        Replace an existing file.

    Raises
    ------
    WriteError
        As `tiling.safe_write.publish`.
    """
    pages = stack[None] if stack.ndim == 2 else stack
    count, height, width = pages.shape
    shape = Shape(count, height, width, pages.dtype.name)
    outcomes = [Outcome() for _ in pages]
    strips = (packed_strips([p], shape, o) for p, o in zip(pages, outcomes, strict=True))

    def finished() -> dict[str, Any]:
        return history | {"pixels_sha256": pixels_hash(o.digest.digest() for o in outcomes)}

    write_maps(path, shape, strips, finished, overwrite=overwrite)


def write_maps(
    path: str | Path,
    shape: Shape,
    pages: Iterable[Iterable[bytes]],
    finished: Callable[[], dict[str, Any]],
    *,
    resolution: tuple[float, float, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a weight map whose pages arrive one after the other as compressed strips.

    Parameters
    ----------
    path
        A TIFF to write.
    shape
        Its size and type.
    pages
        For each page its strips.
    finished
        Function without arguments that gives the history; called after the last strip.
    resolution
        Pixels per unit along x and y, and the unit.
    overwrite
        Replace an existing file.
    """
    import tifffile

    with publish(path, overwrite=overwrite) as file:
        with tifffile.TiffWriter(file, bigtiff=shape.nbytes > _CLASSIC_LIMIT) as writer:
            for number, strips in enumerate(pages):
                writer.write(
                    iter(strips),
                    shape=(shape.height, shape.width),
                    dtype=np.dtype(shape.dtype),
                    compression="zlib",
                    rowsperstrip=shape.strip_rows,
                    photometric="minisblack",
                    description=_PENDING.ljust(LENGTH) if number == 0 else None,
                    metadata=None,
                    software=False,
                    **_resolution_tags(resolution),
                )
        _fill_in(file, history_text(finished()))


def _resolution_tags(resolution: tuple[float, float, str] | None) -> dict[str, Any]:
    if resolution is None:
        return {}
    x, y, unit = resolution
    scale = _PER_CM.get(unit, 1.0)
    if max(x, y) * scale >= 1 << 32:  # a TIFF cannot say it
        return {}
    return {"resolution": (x * scale, y * scale), "resolutionunit": _UNITS.get(unit, 1)}


def _fill_in(file: BinaryIO, text: str) -> None:
    """Replace the pending description, near the start of the file, by `text` of equal length."""
    marker = _PENDING.ljust(LENGTH).encode("ascii")
    file.seek(0)
    head = file.read(1 << 16)
    place = head.find(marker)
    if place < 0:
        raise RuntimeError("the description was not found where it was written")
    file.seek(place)
    file.write(text.encode("ascii"))


def intact(path: Path) -> tuple[dict[str, Any], bool] | None:
    """Return the history of a weight map and whether its pixels still have their hash.

    None for a file that is no weight map of ours.
    """
    with open_tiff(path) as image:
        history = told_by(image.description)
        if history is None:
            return None
        digests = []
        step = max(1, (1 << 24) // max(1, image.width * image.dtype.itemsize))
        for page in range(image.pages):
            outcome = Outcome()
            for top in range(0, image.height, step):
                outcome.saw(image.read_rows(page, top, min(image.height, top + step))[0])
            digests.append(outcome.digest.digest())
    return history, history.get("pixels_sha256") == pixels_hash(digests)
