"""What file sinks have in common: rows, levels, pages, notes, and how a `with` block ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.certificate import SeamError
from tiling.journal import notes_of
from tiling.meaning import Meaning
from tiling.paged_rows import Key, PagedRows, checked_axes
from tiling.partial import Partial
from tiling.pyramid import Pyramid, levels_for

__all__ = ["PageSink", "PagedSink"]


class PageSink:
    """One page of a file that is being written; a sink for `stitch`.

    Parameters
    ----------
    rows, number
        The file's account, and which page this is.
    write, note, begin
        Called with the page and a band; with a name and a JSON value to keep with the rows; with
        the page and a band of which some columns are there.

    Attributes
    ----------
    shape
        (H, W) or (K, H, W).
    """

    def __init__(
        self,
        rows: PagedRows,
        number: int,
        write: Callable[[int, Key, npt.NDArray[Any]], None],
        note: Callable[[str, Any], None],
        begin: Callable[[int, Key, npt.NDArray[Any]], None],
    ) -> None:
        if not 0 <= number < rows.pages:
            raise ValueError(f"page {number} of an output of {rows.pages}")
        self.shape = rows.size
        self._rows, self._number = rows, number
        self._write, self._note, self._begin = write, note, begin

    @property
    def rows_done(self) -> int:
        """Rows that are there already."""
        return self._rows.rows_done(self._number)

    def __setitem__(self, key: Key, block: npt.NDArray[Any]) -> None:
        """Write the next full-width band."""
        self._write(self._number, key, block)

    def begin_band(self, key: Key, block: npt.NDArray[Any]) -> None:
        """Begin with the next band, of which the columns left of the key's end are final by now.

        `block` is the whole band; the key's columns are those that have come since the last time.
        """
        self._begin(self._number, key, block)

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON value with the rows that are written next, see `notes` of the file."""
        self._note(f"{self._number} {name}", value)


class PagedSink(ABC):
    """A file written band by band, page after page, that an interrupted run takes up again.

    A sink sets `shape`, `dtype` and `_partial`, lays its rows out and says how it is finished.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    provenance: dict[str, Any]
    _meaning: Meaning
    _rows: PagedRows
    _pyramid: Pyramid
    _method: str
    _partial: Partial

    def _lay_out(
        self,
        write: Callable[[int, npt.NDArray[Any]], None],
        side: int,
        *,
        meaning: Meaning,
        provenance: Mapping[str, Any] | None,
        pyramid: str,
    ) -> None:
        """Set the axes, the history, the rows and the smaller levels of a file of this shape.

        `write` gets rows of stored tiles of `side` px, see `PagedRows`.
        """
        self.axes = checked_axes(self.shape, meaning.axes)
        self._meaning = replace(meaning, axes=self.axes)
        self.provenance = dict(provenance or {})
        self._rows = PagedRows(self.shape, self.axes, self.dtype, side, write)
        levels = levels_for(self.shape) if pyramid else 0
        size = self._rows.size[-2:]
        self._pyramid = Pyramid(size, side, levels=levels, method=pyramid or "mean")
        self._method = pyramid

    def _identity(self, **own: Any) -> dict[str, Any]:
        """What a run must have in common with the one that it takes up; `own` is of one format."""
        told = self._meaning
        return {
            "provenance": self.provenance, "shape": self.shape, "dtype": self.dtype.str,
            "axes": self.axes, "pixel size": told.resolution, "step in z": told.z_step,
            "names of the channels": told.channels, "smaller levels": self._pyramid.levels,
            "pyramid": self._method, **own,
        }  # fmt: skip

    @abstractmethod
    def _finish(self) -> None:
        """Complete the file and give it its name."""

    def _forget(self) -> None:
        """Remove what was written so far."""
        self._partial.discard()

    @property
    def pages(self) -> int:
        """Number of pages, each of all channels."""
        return self._rows.pages

    def page(self, number: int) -> PageSink:
        """The sink of one page; pages are written one after the other."""
        return PageSink(self._rows, number, self._write_band, self._partial.note, self._begin_band)

    @property
    def rows_done(self) -> int:
        """Rows of the first page that are there already."""
        return self._rows.rows_done(0)

    @property
    def notes(self) -> dict[str, Any]:
        """What was noted of the pages, under their number and a name."""
        return notes_of(self._partial.records)

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON value with the rows of the first page that are written next."""
        self.page(0).note(name, value)

    def __setitem__(self, key: Key, block: npt.NDArray[Any]) -> None:
        """Write the next full-width band of the first page."""
        self._write_band(0, key, block)

    def begin_band(self, key: Key, block: npt.NDArray[Any]) -> None:
        """`PageSink.begin_band` of the first page."""
        self._begin_band(0, key, block)

    @abstractmethod
    def _begin_band(self, page: int, key: Key, block: npt.NDArray[Any]) -> None:
        """Begin what can be done with a band that is not complete."""

    def _write_band(self, page: int, key: Key, block: npt.NDArray[Any]) -> None:
        self._rows.write(page, key, block)
        self._sync()

    def _sync(self) -> None:
        """Wait until the rows that came are on the disk."""
        self._partial.sync()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            self._partial.__exit__(type(failure), failure, failure.__traceback__)
            raise
        # Rows that disagree with their neighbours must not be taken up again.
        if error is not None and (self._rows.done == 0 or isinstance(error, SeamError)):
            self._forget()
        else:
            self._partial.__exit__(kind, error, trace)
