"""Where a TIFF's pixels lie: lists of segments that add up, overlap nowhere and stay inside."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tiling.faults import InputError
from tiling.ifd import Ifd, Limits, integer, integers
from tiling.input_file import ANEW, InputFile
from tiling.layout import Layout, Page
from tiling.pages import NONE
from tiling.segment_lists import FEW_BYTES, too_many

__all__ = ["Segments", "check_pages", "promised_pages", "segments"]

_SMALL = 1 << 24  # a compressed segment or page below this is no bomb, whatever its ratio
_TINY = 1 << 19  # the largest tile of our own sink; zstd packs one of zeros 10,000 times
_MUCH = 1 << 28  # so many decoded bytes cost a second; above it they must be mostly pixels
_HEADER_BYTES, _BIG_HEADER_BYTES = 8, 16


@dataclass(frozen=True)
class Segments:
    """Place and stored size of each segment, uint64, shape (planes, down, across)."""

    offsets: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.uint64]


def promised_pages(
    file: InputFile, first: Ifd, pages: list[Page], images: int, limits: Limits, *, alone: bool
) -> list[Page]:
    """The pages, and those that the description promises behind a single directory.

    ImageJ (above 4 GB) and tifffile ("truncated", or killed before it wrote the others) write one
    directory, and the pixels of all images in one piece behind it. `alone` says that the file has
    no other directory.

    Raises
    ------
    InputError
        The description promises more images than the file holds.
    """
    if images <= len(pages):
        return pages
    reason = f"its description promises {images} images but there are {len(pages)} pages"
    if not alone or images > limits.max_pages:
        raise InputError(file.path, f"{reason}; save it again")
    page = pages[0]
    found = segments(file, page)
    offsets, counts = found.offsets.ravel(), found.counts.ravel()
    step = int(counts.sum())
    in_one_piece = bool((offsets[:-1] + counts[:-1] == offsets[1:]).all())
    if page.layout.compression != NONE or page.layout.tiled or not in_one_piece:
        raise InputError(file.path, f"{reason} and its pixels are not in one piece; save it again")
    start = int(offsets[0])
    places = (first.extent[0], *(tag.start for tag in first.tags.values()))
    stop = min((place for place in places if place > start), default=file.size)
    if start + images * step > stop:
        whole = max(stop - start, 0) // max(step, 1)
        raise InputError(
            file.path, f"{reason} and bytes for {whole}: it is cut off or re-saved; {ANEW}"
        )
    return [replace(page, shift=index * step, ifd_page=index) for index in range(images)]


def segments(file: InputFile, page: Page) -> Segments:
    """Segment lists of `page`, read from the file."""
    layout = page.layout
    shape = (layout.planes, layout.down, layout.across)
    ifd = Ifd(page.order, {1: page.offsets, 2: page.counts}, page.ifd_page)
    offsets = integers(file, ifd, 1, "the list of segment offsets", math.prod(shape))
    counts = integers(file, ifd, 2, "the list of segment sizes", math.prod(shape))
    return Segments((offsets + np.uint64(page.shift)).reshape(shape), counts.reshape(shape))


def check_pages(file: InputFile, pages: list[Page], limits: Limits) -> None:
    """Refuse pages that differ, and segments that overlap, leave the file or cannot be true."""
    first = pages[0].layout
    one_piece = bool(pages[-1].shift)
    if one_piece:  # one directory for all: the first and the last speak for the others
        pages = [pages[0], pages[-1]]
    header = _header_bytes(file)
    sound = None if one_piece else _sound_strips(file, pages, header)
    stored, decoded, pieces = 0, 0, []
    if sound is not None:
        decoded, pieces = len(pages) * _decoded(first), [sound]
        stored = int((sound[:, 1] - sound[:, 0]).sum())
    for page in () if sound is not None else pages:
        _check_equal(file, first, page)
        found = segments(file, page)
        _check_segments(file, page, found, limits, header)
        stored += int(found.counts.sum())
        if stored > file.size:
            raise _shared(file, page.ifd_page)
        decoded += _decoded(page.layout)
        pieces.append(_pieces(found, page.ifd_page))
    pixels = len(pages) * first.page_bytes
    if decoded > _MUCH and decoded > 64 * pixels:
        raise InputError(
            file.path,
            f"has {decoded} bytes in its tiles but {pixels} bytes of pixels; save it in smaller "
            "tiles",
        )
    _check_ratio(file, pages, stored, limits)
    if one_piece:
        pieces = [np.array([[pieces[0][0, 0], pieces[1][-1, 1], 0]], np.uint64)]
    _check_apart(file, pages, np.concatenate(pieces))


def _check_ratio(file: InputFile, pages: list[Page], stored: int, limits: Limits) -> None:
    """Refuse many pages, none of them a bomb by itself, that decode to far more than is stored."""
    large = (
        page.layout.page_bytes
        for page in pages
        if page.layout.compression != NONE and page.layout.rows * page.layout.row_bytes > _TINY
    )
    decoded = sum(large)
    if decoded > _MUCH and decoded > limits.max_ratio * stored:
        raise InputError(file.path, _too_packed(decoded / stored, limits))


def _too_packed(ratio: float, limits: Limits) -> str:
    return (
        f"decodes to {ratio:.0f} times its size, above max_ratio {limits.max_ratio:g}; "
        "save it with deflate"
    )


def _sound_strips(file: InputFile, pages: list[Page], header: int) -> npt.NDArray[np.uint64] | None:
    """`_pieces` of all pages where each is one small segment without fault; None where not.

    It tells of no fault: page by page the checks then find it again, and say which it is.
    """
    first = pages[0].layout
    rows = first.segment_rows(0)
    expected = rows * first.row_bytes
    if first.planes * first.down * first.across != 1 or expected > _SMALL:
        return None
    found = []
    for page in pages:
        ifd = Ifd(page.order, {1: page.offsets, 2: page.counts}, page.ifd_page)
        if page.layout != first or page.offsets.count != 1 or page.counts.count != 1:
            return None
        start = integer(file, ifd, 1, "the list of segment offsets") + page.shift
        found.append((start, integer(file, ifd, 2, "the list of segment sizes"), page.ifd_page))
    if max(start + length for start, length, _ in found) > file.size:
        return None
    places = np.array(found, np.uint64)
    starts, lengths = places[:, 0], places[:, 1]
    if starts.min() < header or lengths.min() < 1 or int(lengths.sum()) > file.size:
        return None
    if first.compression == NONE and (lengths != expected).any():
        return None
    places[:, 1] += starts
    return places


def _decoded(layout: Layout) -> int:
    """Bytes that the compressed tiles of a page decode to, also beyond its edges."""
    if layout.compression == NONE or not layout.tiled:
        return 0
    return layout.planes * layout.down * layout.across * layout.rows * layout.row_bytes


def _pieces(found: Segments, page: int) -> npt.NDArray[np.uint64]:
    """First byte, end and page of each unbroken run of segments, uint64 (runs, 3), in order."""
    order = np.argsort(found.offsets, axis=None, kind="stable")
    start = found.offsets.ravel()[order]
    stop = start + found.counts.ravel()[order]
    gap = np.flatnonzero(start[1:] != stop[:-1])
    first, last = np.append(0, gap + 1), np.append(gap, start.size - 1)
    return np.stack([start[first], stop[last], np.full(first.size, page, np.uint64)], axis=1)


def _check_apart(file: InputFile, pages: list[Page], pieces: npt.NDArray[np.uint64]) -> None:
    """No two pages share a byte; uncompressed pixels are no bytes of a directory."""
    pieces = pieces[np.argsort(pieces[:, 0], kind="stable")]
    shared = np.flatnonzero(pieces[1:, 0] < pieces[:-1, 1])
    if shared.size:
        raise _shared(file, int(pieces[shared[0] : shared[0] + 2, 2].max()))
    compressions = {page.ifd_page: page.layout.compression for page in pages}
    start, stop = np.array([page.directory for page in pages], np.uint64).T
    behind = np.searchsorted(pieces[:, 0], stop)  # runs that begin before it
    over = (behind > 0) & (pieces[behind - 1, 1] > start)
    for number in np.flatnonzero(over).tolist():
        page, owner = pages[number], int(pieces[behind[number] - 1, 2])
        if compressions[owner] == NONE:
            raise InputError(
                file.path,
                f"is damaged: pixels lie over the directory of page {page.ifd_page}; {ANEW}",
                page=owner,
            )


def _shared(file: InputFile, page: int) -> InputError:
    return InputError(file.path, f"is damaged: pages share their pixel data; {ANEW}", page=page)


def _header_bytes(file: InputFile) -> int:
    """Bytes of the file's header, in which no pixel can lie."""
    return _BIG_HEADER_BYTES if b"+" in file.read(2, 2) else _HEADER_BYTES


def _check_segments(
    file: InputFile, page: Page, found: Segments, limits: Limits, header: int
) -> None:
    layout = page.layout
    offsets, counts = found.offsets.ravel(), found.counts.ravel()
    order = np.argsort(offsets, kind="stable")
    start, length = offsets[order], counts[order]

    def refuse(reason: str) -> InputError:
        return InputError(file.path, reason, page=page.ifd_page)

    if start[0] < header or length.min() < 1:
        raise refuse(f"has missing pixel data (a segment without place or size); {ANEW}")
    # Both are compared to the file's size before they are added: no overflow of uint64.
    size = np.uint64(file.size)
    if start[-1] > size or length.max() > size or (start + length).max() > size:
        raise refuse(f"is cut off: pixel data lie behind the end of the file; {ANEW}")
    if (start[:-1] + length[:-1] > start[1:]).any():
        raise refuse(f"is damaged: two segments share the same bytes; {ANEW}")
    rows = np.array([layout.segment_rows(d) for d in range(layout.down)], dtype=np.uint64)
    expected = (rows * np.uint64(layout.row_bytes))[None, :, None]
    largest = int(expected.max())
    if largest > _SMALL and largest > 4 * layout.page_bytes:
        raise refuse(
            f"has segments of {largest} bytes in a page of {layout.page_bytes} bytes; "
            "save it in smaller tiles"
        )
    if layout.compression == NONE and (found.counts != expected).any():
        raise refuse(f"is damaged: uncompressed segments are not as long as their pixels; {ANEW}")
    if layout.compression == NONE:
        if largest < FEW_BYTES and found.offsets.size > limits.max_segments:
            pieces = _reads(found)
            if pieces > limits.max_segments:
                raise too_many(file, page, pieces, limits)
        return
    ratio = float(np.where(expected > _SMALL, expected / found.counts, 0.0).max())
    counted = expected > _TINY
    whole = float(expected[counted].sum()) * layout.across * layout.planes
    if whole > _SMALL:
        ratio = max(ratio, whole / float(np.where(counted, found.counts, 0).sum()))
    if ratio > limits.max_ratio:
        raise refuse(_too_packed(ratio, limits))


def _reads(found: Segments) -> int:
    """Calls that read uncompressed segments: one for those below or beside one another in a row."""
    planes, down, across = found.offsets.shape
    axis, rows = (1, planes) if across == 1 else (2, planes * down)
    starts, ends = found.offsets.swapaxes(axis, 2), (found.offsets + found.counts).swapaxes(axis, 2)
    return int(rows + np.count_nonzero(starts[..., 1:] != ends[..., :-1]))


def _check_equal(file: InputFile, first: Layout, page: Page) -> None:
    for name in ("width", "height", "samples", "bits", "kind", "photometric", "planar"):
        here, there = getattr(page.layout, name), getattr(first, name)
        if here != there:
            raise InputError(
                file.path,
                f"has {name} {here} but the first page has {there}; split it into equal pages",
                page=page.ifd_page,
            )
