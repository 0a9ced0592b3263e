"""Pages that the images of an OME-TIFF behind its first one need, so that a cut is noticed.

Only the first image is read. That the file once had more is no fault; that it is too short for
them is: then it was cut off, and nothing says that the pages before the cut are the right ones.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from tiling.ome import INSIDE, PIXELS, PIXELS_END, attributes, page_sizes, root_attributes
from tiling.ome_blocks import ELSEWHERE, block_of, tiff_data

__all__ = ["LaterImages", "later_images"]

_AXES = "CZT"


@dataclass(frozen=True)
class LaterImages:
    """What the images behind the first need.

    Parameters
    ----------
    here
        Pages of this file that they name or, where no image names any, that all of them have.
    named
        Name of a file, whether its UUID is that of this file, and the pages of it that they name.
    files
        Names of all files.
    """

    here: int = 0
    named: tuple[tuple[str, bool, int], ...] = ()
    files: Set[str] = frozenset()

    def check(self, pages: int, name: str) -> None:
        """Refuse a file that ends before the pages of its later images.

        Parameters
        ----------
        pages
            Directories of the file.
        name
            Its name, without folder. Where no image names it, it was renamed, and its UUID counts.

        Raises
        ------
        ValueError
            With a sentence.

        Examples
        --------
        >>> two = '<Pixels></Pixels><Pixels><TiffData IFD="3"/></Pixels>'
        >>> later_images(two, 8, 3, 1, files=set(), bare=True).check(4, "a.tif")
        >>> later_images(two, 8, 3, 1, files=set(), bare=True).check(3, "a.tif")
        Traceback (most recent call last):
        ValueError: is cut off: its OME-XML promises 4 pages for all of its images, ...
        """
        needed = self.here
        for file, same_uuid, count in self.named:
            ours = file == name if file and name in self.files else same_uuid
            if ours:
                needed = max(needed, count)
        if needed > pages:
            raise ValueError(
                f"is cut off: its OME-XML promises {needed} pages for all of its images, the file "
                f"has {pages} pages; export it again, or save the pages that are there as a plain "
                "TIFF"
            )


def later_images(
    text: str, start: int, planes: int, samples: int, *, files: Set[str], bare: bool
) -> LaterImages:
    """What the `Pixels` elements behind the first need, as far as the text goes.

    Parameters
    ----------
    text
        OME-XML without comments and prefixes, perhaps cut.
    start
        Where the content of the first element begins.
    planes
        Planes of the first image.
    samples
        Samples per pixel: OME counts them as channels.
    files
        Names of the files that the first image names.
    bare
        The first image does not say where its pages lie: then they are counted.
    """
    own = root_attributes(text).get("UUID", "").strip()
    here, total, names = 0, planes, set(files)
    named: dict[tuple[str, bool], int] = {}
    elements = list(PIXELS.finditer(text, start))
    for element, following in zip(elements, [*elements[1:], None], strict=False):
        limit = following.start() if following else len(text)
        inside = INSIDE.match(text, element.end(), limit)
        if inside is None:
            continue
        size = page_sizes(attributes(inside[1]))
        most = max(size["C"] // samples, 1) * size["Z"] * size["T"]
        end = PIXELS_END.search(text, inside.end(), limit)
        closed = inside[1].endswith("/") or end is not None
        blocks = list(tiff_data(text, inside.end(), end.start() if end else limit))
        elsewhere = not blocks and ELSEWHERE.search(text, inside.end(), limit) is not None
        bare = bare and closed and not elsewhere and all(b.said == {} and b.here for b in blocks)
        total += most
        for said in blocks:
            block = block_of(said.said, _AXES, samples)
            needed = block.page + min(block.count or 0, most)
            if not said.sure or block.unread or not block.count:
                continue
            if said.here:
                here = max(here, needed)
                continue
            key = said.file, said.uuid == own != ""
            names.add(said.file)
            named[key] = max(named.get(key, 0), needed)
    if bare and elements:
        here = max(here, total)
    return LaterImages(here, tuple((*key, n) for key, n in named.items()), frozenset(names))
