"""Which page of an OME-TIFF holds which plane: its `TiffData` elements, read by pattern.

A set may be spread over many files; a file of such a set is read by itself, its pages in the order
in which they lie, and the other files are never opened.
Source: OME-TIFF specification 6, "The TiffData element".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tiling.ome import PIXELS_END
from tiling.ome_blocks import ELSEWHERE, Block, block_of, tiff_data
from tiling.ome_images import LaterImages, later_images

__all__ = ["OmePlanes", "ome_planes"]

_MOST_SHOWN = 3


@dataclass(frozen=True)
class OmePlanes:
    """What the first `Pixels` element says of its planes.

    Parameters
    ----------
    axes, sizes
        Letters and lengths of the page axes, the fastest first: ("CZT", (2, 5, 1)).
    blocks
        The `TiffData` elements, in their order.
    files
        Number of different files that they name.
    whole
        The element ends within the text that was read. Otherwise planes are told only where all
        that was read says: as the pages lie.
    later
        What the images behind the first need.
    elsewhere
        The pixels do not lie in TIFF pages.
    ordered
        `axes` is what the element says. Otherwise planes are counted and not told.
    """

    axes: str
    sizes: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    files: int = 0
    whole: bool = True
    later: LaterImages = field(default_factory=LaterImages)
    elsewhere: bool = False
    ordered: bool = True

    def order(self, pages: int, before: int | None = None) -> list[int] | None:
        """Page of each plane; None where the planes of this file cannot be told.

        None is the answer for a part of a set of files, and for a file with more pages than the
        first image has planes, where these are the first pages in their order.

        Parameters
        ----------
        pages
            Pages of the file.
        before
            How many of them lie before the first smaller copy, which OME numbers like a page;
            None where there is none.

        Raises
        ------
        ValueError
            With a sentence: pages are missing, or two planes are said to be one page.

        Examples
        --------
        >>> text = '<TiffData IFD="1" FirstC="0"/><TiffData IFD="0" FirstC="1"/></Pixels>'
        >>> ome_planes(text, 0, "CZT", (2, 1, 1)).order(2)
        [1, 0]
        """
        planes = math.prod(self.sizes)
        told = sum(pages if block.count is None else block.count for block in self.blocks)
        if self.files > 1 or (self.files == 1 and told < planes):
            return None
        if not self.ordered and planes <= pages:
            return None
        if planes < pages:
            self._check_first_of_several(planes, pages)
            return None
        unread = [block.unread for block in self.blocks if block.unread]
        if unread:
            raise _contradiction(unread[0])
        if self.elsewhere:
            return list(range(pages)) if planes == pages else None
        if planes > pages:
            sizes = " x ".join(f"{axis} {n}" for axis, n in zip(self.axes, self.sizes, strict=True))
            raise ValueError(
                f"is cut off: its OME-XML promises {planes} planes ({sizes}), the file has {pages} "
                "pages; export it again, or save the pages that are there as a plain TIFF"
            )
        if not self.whole:
            if not self._as_they_lie():
                raise _contradiction("give another order than the pages have, and are not all read")
            return list(range(pages))
        if told > pages:
            raise _contradiction(f"name {told} planes of {pages}")
        last = max((block.page + (block.count or 0) for block in self.blocks), default=0)
        if before is not None and last > before:
            raise _contradiction("number pages among which lie smaller copies")
        return self._mapped(pages) if self.blocks else list(range(pages))

    def _as_they_lie(self) -> bool:
        return all(block.page == self._number(block.first) for block in self.blocks)

    def _check_first_of_several(self, planes: int, pages: int) -> None:
        """Refuse more pages than the first image's planes where they are not planes in a row."""
        channels = self.sizes[self.axes.index("C")]
        why = f"{channels} of them channels" if channels > 1 else ""
        why = why or ("" if self._as_they_lie() else "in another order than the pages")
        if why:
            raise ValueError(
                f"has {pages} pages, but the first image of its OME-XML has {planes} planes, "
                f"{why}; save each image as a file of its own"
            )

    def _mapped(self, pages: int) -> list[int]:
        """Page of each plane, where each of the `pages` planes has one of its own."""
        found: dict[int, int] = {}
        for block in self.blocks:
            plane = self._number(block.first)
            count = pages if block.count is None else block.count
            if max(block.page, plane) + count > pages:
                raise _contradiction(f"name a plane or a page beyond the {pages} of this file")
            for k in range(count):
                found[plane + k] = block.page + k
        missing = [plane for plane in range(pages) if plane not in found]
        if missing:
            shown = ", ".join(map(str, missing[:_MOST_SHOWN]))
            more = ", ..." if len(missing) > _MOST_SHOWN else ""
            raise _contradiction(
                f"give no page to {len(missing)} of {pages} planes ({shown}{more})"
            )
        if len(set(found.values())) < pages:
            raise _contradiction("give one page to two planes")
        return [found[plane] for plane in range(pages)]

    def _number(self, first: tuple[int, ...]) -> int:
        """Number of a plane in the order of the dimensions."""
        number, step = 0, 1
        for axis, place, size in zip(self.axes, first, self.sizes, strict=True):
            if place >= size:
                raise _contradiction(f"name {axis} {place}, but Size{axis} is {size}")
            number, step = number + place * step, step * size
        return number


def _contradiction(what: str) -> ValueError:
    return ValueError(
        f"has OME-XML whose TiffData {what}; export it again, or save it as a plain TIFF"
    )


def ome_planes(
    text: str, start: int, axes: str, sizes: tuple[int, ...], *, samples: int = 1
) -> OmePlanes:
    """The planes of the `Pixels` element whose content begins at `start`.

    Parameters
    ----------
    text
        OME-XML, perhaps cut.
    start
        Where the content of the element begins.
    axes, sizes
        Page axes and their lengths, the fastest first.
    samples
        Samples per pixel: `FirstC` counts them.
    """
    empty = text[start - 2 : start] == "/>"
    end = PIXELS_END.search(text, start)
    stop = start if empty else end.start() if end else len(text)
    blocks, names = [], set()
    bare = True
    for element in tiff_data(text, start, stop):
        blocks.append(block_of(element.said, axes, samples))
        names.add(element.file or element.uuid)
        bare = bare and element.here and not element.said
    files = 0 if names == {""} else len(names)
    elsewhere = not blocks and ELSEWHERE.search(text, start, stop) is not None
    whole = empty or end is not None
    planes = math.prod(sizes)
    later = later_images(
        text, start, planes, samples, files=names, bare=bare and whole and not elsewhere
    )
    return OmePlanes(axes, sizes, tuple(blocks), files, whole, later, elsewhere)
