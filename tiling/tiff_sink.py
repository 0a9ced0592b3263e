"""A tiled BigTIFF as a sink, written in one pass and resumable.

There is one directory per page and channel, so that any reader shows it. The bytes depend on
nothing but the content, so a run that was interrupted and taken up again ends with the same file
as one that was not.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tiling.bigtiff import COMPRESSIONS, HEADER_BYTES, Layout, description, directories, header
from tiling.certificate import SeamError
from tiling.disk import StrPath
from tiling.faults import UsageFault
from tiling.journal import numbered_records
from tiling.paged_rows import PagedRows, PageSink, checked_axes
from tiling.partial import Partial, discard_partial
from tiling.safe_write import check_output

__all__ = ["TILE", "TiffSink"]

TILE = 128
"""Side of a stored tile: it divides the steps of the usual output tiles (388, 516, 772, 1540)."""

_DEFLATE_LEVEL = 1


class TiffSink:
    """A tiled BigTIFF that is written band by band and appears when it is complete.

    A context manager. Leaving its block in good order completes and publishes the file; leaving
    it with an error keeps what is finished for a run with `resume=True`.

    Parameters
    ----------
    path
        Final name.
    shape
        (H, W), (K, H, W) or (pages..., K, H, W).
    dtype
        Type of a pixel; bool is stored as uint8.
    axes
        One letter per axis, ending in "YX" or "CYX"; default "YX", "CYX", "ICYX".
    resolution
        Pixels per unit in x and y, and the unit, as a source gives them.
    provenance
        What made the file: JSON values, written into its description.
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
    ValueError
        The shape, the axes or the compression make no file.
    """

    def __init__(
        self,
        path: StrPath,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        axes: str = "",
        resolution: tuple[float, float, str] | None = None,
        provenance: Mapping[str, Any] | None = None,
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
        self.axes = checked_axes(self.shape, axes)
        self.provenance = dict(provenance or {})
        self._layout = Layout(self.shape, kind, compression, TILE)
        self._rows = PagedRows(self.shape, self.axes, kind, TILE, self._write_tiles)
        self._resolution = resolution
        self._encode = _encoder(compression)
        size = int(np.prod(self.shape, dtype=object)) * kind.itemsize
        description(self.shape, self.axes, self.provenance)
        check_output(path, overwrite=overwrite, needed_bytes=size if compression == "none" else 0)
        identity = {
            "shape": self.shape, "dtype": kind.str, "axes": self.axes, "resolution": resolution,
            "provenance": self.provenance, "compression": compression, "tile": TILE,
        }  # fmt: skip
        self._path, self._resume = path, resume
        self._partial = Partial(path, identity=identity, overwrite=overwrite)
        self._end = HEADER_BYTES
        tiles = (self._layout.images, self._layout.down * self._layout.across)
        self._counts = np.zeros(tiles, np.uint32)
        self._offsets = np.zeros(tiles, np.uint64)

    @property
    def pages(self) -> int:
        """Number of pages, each of all channels."""
        return self._rows.pages

    def page(self, number: int) -> PageSink:
        """The sink of one page; pages are written one after the other."""
        return PageSink(self._rows, number, self._write_band)

    @property
    def rows_done(self) -> int:
        """Rows of the first page that are there already."""
        return self._rows.rows_done(0)

    def __setitem__(self, key: tuple[Any, slice, slice], block: npt.NDArray[Any]) -> None:
        """Write the next full-width band of the first page."""
        self._write_band(0, key, block)

    def _write_band(
        self, page: int, key: tuple[Any, slice, slice], block: npt.NDArray[Any]
    ) -> None:
        block = block.view(np.uint8) if block.dtype == np.bool_ else block
        self._rows.write(page, key, block)
        self._partial.sync()

    def _write_tiles(self, number: int, group: npt.NDArray[Any]) -> None:
        """Compress and append one row of tiles of each channel."""
        across = self._layout.across
        padded = np.zeros((self._rows.channels, TILE, across * TILE), self.dtype)
        padded[:, : group.shape[1], : group.shape[2]] = group
        tiles = [
            padded[channel, :, TILE * column : TILE * (column + 1)]
            for channel in range(self._rows.channels)
            for column in range(across)
        ]
        digest, counts = hashlib.sha256(), []
        self._partial.file.seek(self._end)
        for data in self._pool.map(self._encode, tiles):
            self._partial.file.write(data)
            digest.update(data)
            counts.append(len(data))
        record = {
            "n": number, "start": self._end, "counts": counts, "sha256": digest.hexdigest(),
        }  # fmt: skip
        self._partial.append(record)
        self._enter(record)

    def _enter(self, record: Mapping[str, Any]) -> None:
        """Note where the tiles of a finished row of tiles lie."""
        page, row = divmod(record["n"], self._layout.down)
        across, place = self._layout.across, record["start"]
        for number, count in enumerate(record["counts"]):
            channel, column = divmod(number, across)
            where = page * self._rows.channels + channel, row * across + column
            self._offsets[where], self._counts[where] = place, count
            place += count
        self._end = place

    def __enter__(self) -> Self:
        if not self._resume:
            discard_partial(self._path)
        self._partial.__enter__()
        try:
            self._take_up()
        except BaseException as error:
            self._partial.__exit__(type(error), error, error.__traceback__)
            raise
        workers = min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="tiling compress")
        return self

    def _take_up(self) -> None:
        """Enter the rows of tiles of an earlier run whose bytes are still what they were."""
        if not self._partial.records:
            self._partial.file.seek(0)
            self._partial.file.write(header(0))
        total = self._rows.pages * self._layout.down
        for record in numbered_records(self._partial.records, total):
            if not self._is_next(record):
                break
            length = sum(record["counts"])
            if self._partial.digest(self._end, length) != record.get("sha256"):
                break
            self._enter(record)
            self._rows.done += 1

    def _is_next(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of the row of tiles that lies where this one must."""
        counts = record.get("counts")
        return (
            record.get("start") == self._end
            and isinstance(counts, list)
            and len(counts) == self._rows.channels * self._layout.across
            and all(type(count) is int and count > 0 for count in counts)
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            self._partial.__exit__(type(failure), failure, failure.__traceback__)
            raise
        # Rows that disagree with their neighbours must not be taken up again.
        if error is not None and (self._rows.done == 0 or isinstance(error, SeamError)):
            self._partial.discard()
        else:
            self._partial.__exit__(kind, error, trace)

    def _finish(self) -> None:
        self._rows.check_complete()
        file = self._partial.file
        start = self._end + -self._end % 8
        text = description(self.shape, self.axes, self.provenance)
        first, blob = directories(
            self._layout, self._offsets, self._counts, text, self._resolution, start
        )
        file.seek(self._end)
        file.write(b"\0" * (start - self._end) + blob)
        file.truncate(start + len(blob))
        file.seek(0)
        file.write(header(first))
        self._partial.publish()


def _encoder(compression: str) -> Callable[[npt.NDArray[Any]], bytes]:
    """Function from one tile to its stored bytes."""
    if compression == "zstd":
        try:
            from imagecodecs import zstd_encode
        except ImportError as error:
            raise UsageFault(
                "zstd needs the package imagecodecs; install it or use deflate"
            ) from error
        return lambda tile: bytes(zstd_encode(tile.tobytes(), level=1))
    if compression == "deflate":
        return lambda tile: zlib.compress(tile.tobytes(), _DEFLATE_LEVEL)
    return lambda tile: tile.tobytes()
