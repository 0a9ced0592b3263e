"""What file sinks have in common: pages, notes, and how a `with` block ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy.typing as npt

from tiling.certificate import SeamError
from tiling.journal import notes_of
from tiling.paged_rows import Key, PagedRows
from tiling.partial import Partial

__all__ = ["PageSink", "PagedSink"]


class PageSink:
    """One page of a file that is being written; a sink for `stitch`.

    Parameters
    ----------
    rows, number
        The file's account, and which page this is.
    write, note
        Called with the page and a band; with a name and a JSON value to keep with the rows.

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
    ) -> None:
        if not 0 <= number < rows.pages:
            raise ValueError(f"page {number} of an output of {rows.pages}")
        self.shape = rows.size
        self._rows, self._number, self._write, self._note = rows, number, write, note

    @property
    def rows_done(self) -> int:
        """Rows that are there already."""
        return self._rows.rows_done(self._number)

    def __setitem__(self, key: Key, block: npt.NDArray[Any]) -> None:
        """Write the next full-width band."""
        self._write(self._number, key, block)

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON value with the rows that are written next, see `notes` of the file."""
        self._note(f"{self._number} {name}", value)


class PagedSink(ABC):
    """A file written band by band, page after page, that an interrupted run takes up again.

    A sink sets `_rows` and `_partial`, and says how it is finished.
    """

    _rows: PagedRows
    _partial: Partial

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
        return PageSink(self._rows, number, self._write_band, self._partial.note)

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

    def _write_band(self, page: int, key: Key, block: npt.NDArray[Any]) -> None:
        self._rows.write(page, key, block)
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
