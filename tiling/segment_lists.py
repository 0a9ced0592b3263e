"""Lists of a TIFF's strips and tiles that are refused before they are read.

A file of some megabytes can name lists of any length: in a hole of the file, or one list for
thousands of pages. What they would cost is known from the directories alone.
"""

from __future__ import annotations

from tiling.faults import InputError
from tiling.ifd import TYPE_BYTES, Limits
from tiling.input_file import ANEW, InputFile
from tiling.layout import Layout, Page
from tiling.pages import NONE

__all__ = ["FEW_BYTES", "check_lists", "too_many"]

FEW_BYTES = 256  # of a segment: more than so many take longer to read than their pixels need
_LONG = 4096  # bytes of a list that costs more than its page's directory
_IN_A_ROW = 32  # times max_segments: uncompressed ones that may turn out to lie in a row


def check_lists(file: InputFile, pages: list[Page], limits: Limits) -> None:
    """Refuse lists that are too long, and pages that share theirs.

    Parameters
    ----------
    file, pages
        The open file, and its pages as their directories tell of them.
    limits
        What it may ask of us.

    Raises
    ------
    InputError
        With the page, and what to do.
    """
    segments, list_bytes = 0, 0
    places: set[int] = set()
    for page in pages:
        layout = page.layout
        count = layout.planes * layout.down * layout.across
        most = limits.max_segments * (_IN_A_ROW if layout.compression == NONE else 1)
        if _is_tiny(layout) and count > most:
            raise too_many(file, page, count, limits)
        segments += count
        if segments > limits.max_all_segments:
            raise InputError(
                file.path,
                f"lies in more strips or tiles than max_all_segments {limits.max_all_segments}; "
                "save it in larger ones, or raise the limit",
                page=page.ifd_page,
            )
        size = page.offsets.count * TYPE_BYTES.get(page.offsets.kind, 1)
        if size < _LONG:
            continue
        list_bytes += size
        if page.offsets.start in places or list_bytes > file.size:
            raise InputError(
                file.path,
                f"is damaged: pages share their lists of strips or tiles; {ANEW}",
                page=page.ifd_page,
            )
        places.add(page.offsets.start)


def too_many(file: InputFile, page: Page, count: int, limits: Limits) -> InputError:
    """The refusal of a page in so many tiny segments."""
    largest = page.layout.segment_rows(0) * page.layout.row_bytes
    return InputError(
        file.path,
        f"lies in {count} strips or tiles of {largest} bytes at most, above max_segments "
        f"{limits.max_segments}; save it in larger strips or tiles, or raise the limit",
        page=page.ifd_page,
    )


def _is_tiny(layout: Layout) -> bool:
    return layout.segment_rows(0) * layout.row_bytes < FEW_BYTES
