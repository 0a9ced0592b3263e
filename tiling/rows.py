"""Pixel rows of a checked TIFF, each stored segment decoded once on the way down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.codec_threads import on_threads
from tiling.decode import DeflateStream, decompress, is_deflate, to_pixels
from tiling.faults import InputError
from tiling.ifd import Limits
from tiling.input_file import InputFile
from tiling.layout import Layout, Page
from tiling.pages import NONE
from tiling.runs import gathered, runs_of
from tiling.segment_groups import Group, groups_of
from tiling.segments import Segments, segments

__all__ = ["RowReader", "check_bytes"]

_STREAMED = 1 << 22  # a deflate strip above this is decoded row by row
_STREAM_INPUT = 1 << 18
_SKIP = 1 << 20  # decoded bytes that are passed over at a time
_SHARED = 1 << 20  # decoded bytes from which more than one thread is worth its start


def check_bytes(path: str, needed: int, limits: Limits) -> None:
    """Refuse what needs more than `limits.max_bytes` bytes of memory."""
    if needed > limits.max_bytes:
        raise InputError(
            path,
            f"needs {needed} bytes of memory, above max_bytes {limits.max_bytes}; "
            "save it in smaller tiles or strips, read less of it, or raise the limit",
        )


class RowReader:
    """Reads bands of pixel rows; holds the last band, or the stream of a giant strip.

    Three ways, by what is stored: uncompressed rows are read straight from their places; giant
    deflate strips run through a stream; everything else is decoded by whole rows of segments.

    Parameters
    ----------
    file, pages
        The open file and its checked pages, all of one size and type.
    limits
        `max_bytes` bounds what one call holds.
    """

    def __init__(self, file: InputFile, pages: list[Page], limits: Limits) -> None:
        self._file, self._pages, self._limits = file, pages, limits
        self._layout = pages[0].layout
        self._row_bytes = self._layout.samples * self._layout.width * self._layout.dtype.itemsize
        self._lock = threading.Lock()
        self._segments: tuple[int, Segments] | None = None
        self._streams: tuple[int, int, int, list[DeflateStream]] | None = None
        self._band: tuple[int, int, npt.NDArray[Any]] | None = None

    def read(self, page: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start` to `stop` of one page, a new array (samples, stop - start, W)."""
        with self._lock:
            if self._layout_of(page).compression == NONE:
                return self._uncompressed(page, start, stop)
            return self._from_band(page, start, stop)

    def _claim(self, needed: int) -> None:
        check_bytes(self._file.path, needed, self._limits)

    def _empty(self, rows: int) -> npt.NDArray[Any]:
        return np.empty((self._layout.samples, rows, self._layout.width), self._layout.dtype)

    def _layout_of(self, page: int) -> Layout:
        return self._pages[page].layout

    def _lists(self, page: int) -> Segments:
        if self._segments is None or self._segments[0] != page:
            self._segments = page, segments(self._file, self._pages[page])
        return self._segments[1]

    def _uncompressed(self, page: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows read straight from their places: nothing else is touched, nothing is kept."""
        self._claim((stop - start) * self._row_bytes)
        layout, lists = self._layout_of(page), self._lists(page)
        found = gathered(self._file, self._pages[page], lists, start, stop)
        if found is not None:
            return found
        out = self._empty(stop - start)
        for run in runs_of(layout, lists, start, stop):
            data = self._file.read(run.place, run.stored * layout.row_bytes)
            pixels = to_pixels(data, layout, self._pages[page].order, run.stored)
            _put(out[:, run.start - start : run.stop - start], pixels, layout, run.group)
        return out

    def _from_band(self, page: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows by way of the band kept from the last call: only what lies below it is decoded."""
        kept = self._empty(0)
        if self._band is not None:
            held, top, rows = self._band
            if held == page and top <= start < top + rows.shape[1]:
                kept = rows[:, start - top :]
        below = start + kept.shape[1]
        if below < stop:
            first, new = self._decode(page, below, stop)
            new = new[:, below - first :]
            kept = np.concatenate((kept, new), axis=1) if kept.shape[1] else new
        if stop - start == self._layout.height:
            self._band = None  # a whole page is read once: no second copy of it
            return kept
        self._band = page, start, kept
        return kept[:, : stop - start].copy()

    def _decode(self, page: int, start: int, stop: int) -> tuple[int, npt.NDArray[Any]]:
        """First row and pixels of the decoded band that covers rows `start` to `stop`."""
        layout = self._layout_of(page)
        giant = min(layout.rows, layout.height) * layout.row_bytes > _STREAMED
        if giant and is_deflate(layout.compression) and not layout.tiled:
            self._claim((stop - start) * self._row_bytes)
            return start, self._streamed(page, start, stop)
        first = start // layout.rows * layout.rows
        last = min(-(-stop // layout.rows) * layout.rows, layout.height)
        self._claim(
            layout.across * layout.rows * layout.row_bytes + (last - first) * self._row_bytes
        )
        lists, order = self._lists(page), self._pages[page].order
        out = self._empty(last - first)

        def place(group: Group) -> None:
            stored = (decompress(
                self._file.path, self._pages[page].ifd_page, layout.compression, data,
                layout.segment_rows(down) * layout.row_bytes,
            ) for (_, down, _), data in group.stored(self._file, lists))  # fmt: skip
            pixels = to_pixels(b"".join(stored), layout, order, group.rows(layout))
            _put(out[:, group.down * layout.rows - first :], pixels, layout, group)

        every = groups_of(layout, first // layout.rows, -(-last // layout.rows))
        if out.nbytes < _SHARED:
            for group in every:
                place(group)
        else:
            on_threads(place, every)
        return first, out

    def _streamed(self, page: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows of giant deflate strips, taken from their streams without a whole strip."""
        layout, order = self._layout_of(page), self._pages[page].order
        out = self._empty(stop - start)
        y = start
        while y < stop:
            down = y // layout.rows
            end = min(stop, down * layout.rows + layout.segment_rows(down))
            for plane, stream in enumerate(self._streams_at(page, down, y)):
                data = stream.read((end - y) * layout.row_bytes)
                pixels = to_pixels(data, layout, order, end - y)
                _put(out[:, y - start : end - start], pixels, layout, Group(plane, down, 0, 1, 1))
            assert self._streams is not None
            self._streams = page, down, end, self._streams[3]
            y = end
        return out

    def _streams_at(self, page: int, down: int, row: int) -> list[DeflateStream]:
        """One stream for each plane of strip `down`, each standing at pixel row `row`."""
        if self._streams is not None and self._streams[:3] == (page, down, row):
            return self._streams[3]
        layout, lists = self._layout_of(page), self._lists(page)
        streams = []
        for plane in range(layout.planes):
            blocks = self._blocks(
                int(lists.offsets[plane, down, 0]), int(lists.counts[plane, down, 0])
            )
            length = layout.segment_rows(down) * layout.row_bytes
            number = self._pages[page].ifd_page
            stream = DeflateStream(self._file.path, number, blocks, length)
            skip = (row - down * layout.rows) * layout.row_bytes
            while skip:
                skip -= len(stream.read(min(skip, _SKIP)))
            streams.append(stream)
        self._streams = page, down, row, streams
        return streams

    def _blocks(self, start: int, length: int) -> Iterator[bytes]:
        for place in range(start, start + length, _STREAM_INPUT):
            yield self._file.read(place, min(_STREAM_INPUT, start + length - place))


def _put(out: npt.NDArray[Any], pixels: npt.NDArray[Any], layout: Layout, group: Group) -> None:
    """Place pixels (channels, rows, columns) of a group in a band, cut at the page's edges.

    The group's first row is the band's first. Tiles that lie side by side come below one another.
    """
    channels = slice(group.plane, group.plane + 1) if layout.planar else slice(None)
    rows = min(out.shape[1], pixels.shape[1] // group.across)
    place, columns = out[channels, :rows, group.left * layout.columns :], layout.columns
    tiles = pixels.reshape(pixels.shape[0], group.across, -1, columns)[:, :, :rows].swapaxes(1, 2)
    whole = min(group.across, place.shape[2] // columns)
    inside = place[..., : whole * columns]
    inside.reshape(*place.shape[:2], whole, columns)[...] = tiles[:, :, :whole]  # a view
    if whole < group.across:
        place[..., whole * columns :] = tiles[:, :, whole, : place.shape[2] - whole * columns]
