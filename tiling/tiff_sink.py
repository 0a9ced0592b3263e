"""A tiled BigTIFF as a sink, written in one pass and resumable.

There is one directory per page and channel, so that any reader shows it; reduced levels hang
below it. The bytes depend on nothing but the content, so a run that was interrupted and taken up
again ends with the same file as one that was not.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from itertools import chain
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tiling.bigtiff import (
    COMPRESSIONS,
    HEADER_BYTES,
    Layout,
    Level,
    description,
    directories,
    header,
)
from tiling.codec import codec, deflate_by
from tiling.disk import StrPath
from tiling.faults import UsageFault
from tiling.journal import numbered_records
from tiling.meaning import Meaning
from tiling.ome import checked_for_ome, is_ome_name
from tiling.packing import Packing, cut
from tiling.paged_rows import Key
from tiling.paged_sink import PagedSink
from tiling.partial import Partial
from tiling.safe_write import check_output
from tiling.unfinished import discard_partial

__all__ = ["TiffSink", "tile_side"]

LARGE = 2048
"""Longer side in px above which the tiles of a file are larger."""
_MOST_BYTES = 1 << 32  # a stored tile has fewer


def tile_side(shape: tuple[int, ...]) -> int:
    """Side in px of a stored tile of an image (..., H, W).

    It divides the steps of the usual output tiles: 128 px that of 388, 256 px those of 516, 772 and
    1540. Each tile costs some calls of Python, for which a fast GPU waits where tiles are small.

    Parameters
    ----------
    shape
        (..., H, W) in px.

    Returns
    -------
    int
        In px.

    Examples
    --------
    >>> tile_side((512, 512)), tile_side((4, 300, 20_000))
    (128, 256)
    """
    return 256 if max(shape[-2:]) > LARGE else 128


class TiffSink(PagedSink):
    """A tiled BigTIFF that is written band by band and appears when it is complete.

    A context manager. Leaving its block in good order completes and publishes the file; leaving
    it with an error keeps what is finished for a run with `resume=True`.

    Parameters
    ----------
    path
        Final name; one that ends in `.ome.tif` or `.ome.tiff` makes an OME-TIFF.
    shape
        (H, W), (K, H, W) or (pages..., K, H, W).
    dtype
        Type of a pixel; bool is stored as uint8.
    meaning
        Axes (one letter per axis, ending in "YX" or "CYX"; default "YX", "CYX", "ICYX"), pixel size
        and names of the channels.
    provenance
        What made the file: JSON values, written into its description.
    pyramid
        How smaller levels are made for viewers, until one has 256 px or less: "mean" of 2 x 2
        pixels, or their "mode"; "" makes none.
    compression
        "deflate" (default), "zstd" (needs the package imagecodecs) or "none".
    overwrite
        Whether an existing file may be replaced at the end.
    resume
        Take up the unfinished output of an earlier run of the same settings, if there is one.

    Raises
    ------
    WriteError
        The file exists, or cannot be written.
    LockedError
        Another run is writing it.
    UsageFault
        An OME-TIFF cannot hold the type or an axis; zstd without the package imagecodecs.
    ValueError
        The shape, the axes or the compression make no file.
    """

    def __init__(
        self,
        path: StrPath,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        meaning: Meaning = Meaning(),  # noqa: B008 - frozen
        provenance: Mapping[str, Any] | None = None,
        pyramid: str = "",
        compression: str = "deflate",
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        kind = np.dtype(dtype)
        kind = np.dtype(np.uint8) if kind == np.bool_ else kind.newbyteorder("<")
        if kind.kind not in "uif":
            raise ValueError(f"a TIFF cannot hold {kind}; use an integer or float type")
        if compression not in COMPRESSIONS:
            raise ValueError(f"compression {compression!r} is unknown; use deflate, zstd or none")
        self.shape = tuple(int(side) for side in shape)
        self.dtype = kind
        self._tile = tile_side(self.shape)
        self._lay_out(
            self._write_tiles, self._tile, meaning=meaning, provenance=provenance, pyramid=pyramid
        )
        self._ome = kind if is_ome_name(os.fsdecode(path)) else None
        unfit = checked_for_ome(kind, self.axes) if self._ome is not None else ""
        if unfit:
            raise UsageFault(f"{os.fsdecode(path)}: {unfit}")
        self._levels = [
            Level.empty(Layout((*self.shape[:-2], *size), kind, compression, self._tile))
            for size in self._pyramid.sizes
        ]
        self.compression = compression
        self._encode, self._decode = codec(compression)
        self._text()  # too long a history is refused now, not when all is computed
        size = math.prod(self.shape) * kind.itemsize
        check_output(path, overwrite=overwrite, needed_bytes=size if compression == "none" else 0)
        packed_by = {"packed by": deflate_by()} if compression == "deflate" else {}
        identity = self._identity(compression=compression, tile=self._tile, **packed_by)
        self._path, self._resume = path, resume
        self._partial = Partial(path, identity=identity, overwrite=overwrite)
        self._end = HEADER_BYTES
        self._coming: tuple[int, list[Future[list[bytes]]]] | None = None

    def _begin_band(self, page: int, key: Key, block: npt.NDArray[Any]) -> None:
        for number, group in self._rows.coming(page, key, _stored(block)):
            self._packing.begin(number, group, ready=key[2].stop)
            self._pyramid.begin(number % self._rows.down, group, ready=key[2].stop)

    def _write_band(self, page: int, key: Key, block: npt.NDArray[Any]) -> None:
        super()._write_band(page, key, _stored(block))

    def _write_tiles(self, number: int, group: npt.NDArray[Any]) -> None:
        """Compress one row of tiles of each channel, and the smaller ones now due; append the last.

        A row is appended while the next one is compressed.
        """
        parts = self._packing.pack(number, group)
        for level, _, pixels in self._pyramid.add(number % self._rows.down, group):
            if level:
                parts += self._packing.submit(cut(pixels, self._tile, self.dtype))
        self._settle()
        self._coming = number, parts

    def _sync(self) -> None:
        self._settle()
        super()._sync()

    def _settle(self) -> None:
        """Append the row of tiles that is being compressed, if there is one."""
        if self._coming is None:
            return
        number, parts = self._coming
        self._coming = None
        stored = list(chain.from_iterable(part.result() for part in parts))
        data = b"".join(stored)  # one call of each for all: every call waits for Python's lock
        self._partial.file.seek(self._end)
        self._partial.file.write(data)
        record = {
            "n": number, "start": self._end, "counts": [len(tile) for tile in stored],
            "sha256": hashlib.sha256(data).hexdigest(),
        }  # fmt: skip
        self._partial.append(record)
        self._enter(record)

    def _places(self, number: int) -> Iterator[tuple[int, tuple[int, int]]]:
        """(level, (image, tile)) of each tile that is written with one row of tiles, in order."""
        page, row = divmod(number, self._rows.down)
        for level, down in self._pyramid.due(row):
            across = self._levels[level].layout.across
            for channel in range(self._rows.channels):
                for column in range(across):
                    yield level, (page * self._rows.channels + channel, down * across + column)

    def _enter(self, record: Mapping[str, Any]) -> None:
        """Note where the tiles of a finished row of tiles lie."""
        place = record["start"]
        for (level, where), count in zip(self._places(record["n"]), record["counts"], strict=True):
            self._levels[level].offsets[where], self._levels[level].counts[where] = place, count
            place += count
        self._end = place

    def _row_of_tiles(self, page: int, number: int, down: int) -> npt.NDArray[Any]:
        """Pixels (K, h, W) of a row of tiles that is written already."""
        level = self._levels[number]
        layout, channels, side = level.layout, self._rows.channels, self._tile
        height, width = layout.shape[-2:]
        found = np.empty((channels, side, layout.across * side), self.dtype)
        for channel in range(channels):
            for column in range(layout.across):
                where = page * channels + channel, down * layout.across + column
                self._partial.file.seek(int(level.offsets[where]))
                tile = self._decode(self._partial.file.read(int(level.counts[where])))
                found[channel, :, side * column : side * (column + 1)] = np.frombuffer(
                    tile, self.dtype
                ).reshape(side, side)
        return found[:, : min(side, height - down * side), :width]

    def __enter__(self) -> Self:
        if not self._resume:
            discard_partial(self._path)
        self._partial.__enter__()
        try:
            self._take_up()
        except BaseException as error:
            self._partial.__exit__(type(error), error, error.__traceback__)
            raise
        self._packing = Packing(self._encode, self._tile, self.dtype)
        return self

    def _take_up(self) -> None:
        """Enter the rows of tiles of an earlier run whose bytes are still what they were."""
        self._partial.file.seek(0)
        self._partial.file.write(header(0))  # also where somebody cut it off
        stored = self._partial.file.seek(0, os.SEEK_END)
        total = self._rows.pages * self._rows.down
        for record in numbered_records([r for r in self._partial.records if "n" in r], total):
            if not self._is_next(record):
                break
            length = sum(record["counts"])
            if self._end + length > stored:
                break
            if self._partial.digest(self._end, length) != record.get("sha256"):
                break
            self._enter(record)
            self._rows.done += 1
        page, row = divmod(self._rows.done, self._rows.down)
        self._pyramid.take_up(row, lambda level, down: self._row_of_tiles(page, level, down))

    def _is_next(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of the row of tiles that lies where this one must."""
        counts = record.get("counts")
        return (
            record.get("start") == self._end
            and isinstance(counts, list)
            and len(counts) == sum(1 for _ in self._places(record["n"]))
            and all(type(count) is int and 0 < count < _MOST_BYTES for count in counts)
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._packing.end()
        super().__exit__(kind, error, trace)

    def _text(self) -> str:
        """Description of the file."""
        return description(self.shape, self._meaning, self.provenance, ome_type=self._ome)

    def _finish(self) -> None:
        self._rows.check_complete()
        file = self._partial.file
        start = self._end + -self._end % 8
        # tifffile finds the levels by their own shape; OME-TIFF has one text for all of them.
        axes = Meaning(axes=self.axes)
        smaller = [
            "" if self._ome is not None else description(level.layout.shape, axes, {})
            for level in self._levels[1:]
        ]
        texts = [self._text(), *smaller]
        first, blob = directories(self._levels, texts, self._meaning.resolution, start)
        file.seek(self._end)
        file.write(b"\0" * (start - self._end) + blob)
        file.truncate(start + len(blob))
        file.seek(0)
        file.write(header(first))
        self._partial.publish()


def _stored(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Pixels as they are stored: those of bool as bytes."""
    return block.view(np.uint8) if block.dtype == np.bool_ else block
