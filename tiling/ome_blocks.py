"""The `TiffData` elements of OME-XML, read by pattern: pages of which file hold which planes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tiling.ome import INSIDE, attributes

__all__ = ["ELSEWHERE", "Block", "TiffData", "block_of", "tiff_data"]

_BLOCK = re.compile(r"<TiffData(?![\w:.-])")
_UUID = re.compile(r"\s*+<UUID(?![\w:.-])")
_TEXT = re.compile(r"([^<]{0,200})(</)?")
_CLOSED = re.compile(r"\s*+</")
ELSEWHERE = re.compile(r"<(?:MetadataOnly|BinData)\b")
_NUMBER = re.compile(r"\s{0,8}[0-9]{1,9}\s{0,8}")
_NUMBERS = ("IFD", "PlaneCount", "NumPlanes")  # beside FirstC, FirstZ, FirstT
_UNREADABLE = 1 << 40  # beyond all pages and planes, so that it is refused


@dataclass(frozen=True, slots=True)
class Block:
    """One `TiffData`: its first page, the place of its first plane, how many (None: all pages).

    `unread` is what cannot be understood of it, for a sentence; "" for nothing.
    """

    page: int
    first: tuple[int, ...]
    count: int | None
    unread: str = ""


@dataclass(frozen=True, slots=True)
class TiffData:
    """Attributes of a `TiffData` as they are written, and the file that its UUID names.

    `said` is None where the element has no end; `sure` that all of it lies in the text.
    """

    said: dict[str, str] | None
    file: str = ""
    uuid: str = ""
    sure: bool = False

    @property
    def here(self) -> bool:
        """It names no file, and so means this one."""
        return not self.file and not self.uuid


def tiff_data(text: str, start: int, stop: int) -> Iterator[TiffData]:
    """The elements between two places of a text.

    Examples
    --------
    >>> [element.said for element in tiff_data('<TiffData IFD="1"/><TiffData/>', 0, 30)]
    [{'IFD': '1'}, {}]
    """
    for element in _BLOCK.finditer(text, start, stop):
        inside = INSIDE.match(text, element.end(), stop)
        if inside is None:
            yield TiffData(None)
            continue
        said = attributes(inside[1])
        if inside[1].endswith("/"):
            yield TiffData(said, sure=True)
            continue
        child = _UUID.match(text, inside.end(), stop)
        named = child and INSIDE.match(text, child.end(), stop)
        told = named and _TEXT.match(text, named.end(), stop)
        if named and told:
            file = attributes(named[1]).get("FileName", "")
            yield TiffData(said, file, told[1].strip(), told[2] is not None)
        else:
            yield TiffData(said, sure=_CLOSED.match(text, inside.end()) is not None)


def block_of(said: dict[str, str] | None, axes: str, samples: int) -> Block:
    """A `TiffData` of such attributes.

    Parameters
    ----------
    said
        The attributes; None for an element without an end.
    axes
        Page axes, the fastest first.
    samples
        Samples per pixel: `FirstC` counts them.
    """
    if said is None:
        return Block(0, (0,) * len(axes), 0, "cannot be read to its end")
    if not said:
        return Block(0, (0,) * len(axes), None)
    told, unread = {}, ""
    for name in (*_NUMBERS, *(f"First{axis}" for axis in axes)):
        if name in said:
            told[name] = int(said[name]) if _NUMBER.fullmatch(said[name]) else _UNREADABLE
            if told[name] == _UNREADABLE and not unread:
                value = said[name][:40]
                unread = f"say {name}={value!r}, which is no number of up to nine digits"
    places = {axis: told.get(f"First{axis}", 0) for axis in axes}
    places["C"] = places.get("C", 0) // samples
    count = told.get("PlaneCount", told.get("NumPlanes"))
    if count is None and "IFD" in told:
        count = 1
    first = tuple(places[axis] for axis in axes)
    return Block(told.get("IFD", 0), first, count, unread)
