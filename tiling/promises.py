"""What tags of other programs promise or say of the pixels, beyond the tags that are read.

A table from tag to rule. A rule refuses the file where its pages would be taken for what they are
not. It gives a sentence, a doubt that the user is told, where files in good order say the same.
Sources: TIFF 6.0; MetaMorph Stack (STK) Image File Format; Zeiss LSM 5/7 file format (CZ_LSMINFO);
Micro-Manager Image File Stack; MD GEL of Molecular Dynamics; GDAL's driver GTiff; ImageJ
`ij/io/TiffDecoder.java` (NIH Image).
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tiling.faults import InputError
from tiling.ifd import TYPE_BYTES, Ifd, Tag, below, integer, integers, texts
from tiling.imagej import SIGNED, calibration
from tiling.input_file import InputFile
from tiling.layout import Layout
from tiling.ome import attributes, ends_early, number_type
from tiling.pages import MASK, REDUCED, subfile

__all__ = ["Held", "doubts"]

_TEXT = 1 << 20  # bytes of a text that are looked at
_END = 1 << 16  # of a longer one
_LETTERS = (1, 2, 7)  # field types of texts
_STK = (33629, 33630, 33631)  # UIC2 to UIC4: one value for each plane
_LSM_MAGIC = (0x00300494C, 0x00400494C)
_LSM_BYTES = 28
_NIH_MARK, _NIH_COUNT = b"IPICTIMG", 260  # and where its header counts the slices
_ROOTS = 2  # MD FileTag of values that are square roots
_SUMMARY, _SUMMARY_AT = 2355492, 32  # of Micro-Manager, behind the header of the file
_IMAGES = (0, 2)  # NewSubfileType of an image that is neither copy, mask nor map of depths
_PLANNED = ("Channels", "Slices", "Frames")
_ITEM = re.compile(r"<Item\s([^<>]{1,400})>([^<>]{1,40})</Item>")


@dataclass(frozen=True)
class Held:
    """What the file holds: pages that are images, directories of all kinds, how a page is stored.

    `places` are the first bytes of the pages' directories.
    """

    pages: int
    directories: int
    layout: Layout
    places: frozenset[int]


Rule = Callable[[InputFile, Ifd, Held], str]


def doubts(file: InputFile, first: Ifd, held: Held) -> tuple[str, ...]:
    """What the user is to know of an image that is read, one sentence each; mostly none.

    Parameters
    ----------
    file, first
        The open file and its first directory.
    held
        What was found in it.

    Raises
    ------
    InputError
        The file promises more than it holds, or its numbers are not what they seem.
    """
    found = [rule(file, first, held) for tag, rule in _RULES.items() if tag in first.tags]
    return tuple(dict.fromkeys(doubt for doubt in found if doubt))


def _copy(file: InputFile, first: Ifd, _held: Held) -> str:
    """A file that begins with a smaller copy: in raw camera files its image lies in a SubIFD."""
    kind = subfile(file, first)
    if kind & REDUCED and 330 in first.tags:
        raise InputError(
            file.path,
            "begins with a smaller copy; its image lies in a SubIFD, which is not read: save the "
            "image itself as a TIFF",
        )
    if kind & MASK:
        return "calls its first page a mask of another image (NewSubfileType 4); it is read"
    if kind & REDUCED:
        return (
            "calls its first page a smaller copy (NewSubfileType 1) and holds no larger one; it is "
            "read: make sure that it is no thumbnail"
        )
    return ""


def _description(file: InputFile, first: Ifd, held: Held) -> str:
    tags = [tag for tag in (first.tags[270], first.second) if tag and tag.kind in _LETTERS]
    for tag, text in zip(tags, texts(file, first), strict=True):
        if _is_cut(file, tag, text):
            raise InputError(
                file.path,
                "has OME-XML that is cut off; export it again, or save its pages as a plain TIFF",
            )
        found = (
            _planned(text, held)
            or _calibrated(text, held.layout)
            or _of_another_type(text, held.layout)
        )
        if found:
            return found
    return ""


def _calibrated(text: str, layout: Layout) -> str:
    """The doubt of numbers that ImageJ shows as others; floats and colours it leaves alone."""
    told = calibration(text)
    undone = told == SIGNED and layout.dtype == np.int16  # it adds and takes off the same number
    if told is None or undone or layout.kind == "f" or layout.samples > 1:
        return ""
    words = ", ".join([f"cf {told[0]}", *(f"c{n} {c:g}" for n, c in enumerate(told[1]))])
    return f"is calibrated by ImageJ ({words}); its numbers are read as stored"


def _of_another_type(text: str, layout: Layout) -> str:
    """The doubt of OME-XML that names another type of numbers than the page's own tags."""
    told, stored = number_type(text), layout.dtype.name
    if told in ("", stored) or stored == "bool":
        return ""
    return (
        f"has OME-XML that calls its numbers {told} where its tags say {stored}; they are read as "
        "the tags say: compare with another program"
    )


def _is_cut(file: InputFile, tag: Tag, text: str) -> bool:
    """Whether a text is OME-XML that ends early: at its own end, which may not have been read."""
    if tag.count <= _TEXT or len(text.encode()) < _TEXT - 8:  # a NUL ended it
        return ends_early(text)
    start = max(_TEXT, tag.count - _END) - _END
    rest = file.read(tag.start + start, tag.count - start).partition(b"\0")[0]
    # Where a NUL comes first, it ended before: nobody knows how.
    return bool(rest) and ends_early(text, rest.decode("utf-8", "replace"))


def _micro_manager(file: InputFile, first: Ifd, held: Held) -> str:
    """Planes that were planned, by the page's own notes or by those behind the file's header."""
    found = _planned(_text(file, first, 51123), held)
    head = file.read(0, min(file.size, _SUMMARY_AT + 8))
    if found or len(head) < _SUMMARY_AT + 8:
        return found
    mark, size = struct.unpack(f"{first.order}II", head[_SUMMARY_AT:])
    if mark != _SUMMARY or not size <= min(_TEXT, file.size - len(head)):
        return ""
    return _planned(file.read(len(head), size).decode("utf-8", "replace"), held)


def _planned(text: str, held: Held) -> str:
    """The doubt of notes of Micro-Manager that name more planes than there are."""
    text = text.strip(" \t\r\n\0")
    try:
        found: Any = json.loads(text) if text.startswith("{") else {}
    except (ValueError, RecursionError):
        return ""
    found = found.get("Summary", found)
    if not isinstance(found, dict) or not {"Slices", "Frames"} & set(found):
        return ""
    counts = {name: found.get(name) for name in _PLANNED}
    told = {name: n for name, n in counts.items() if type(n) is int and 0 < n < 1 << 31}
    planes = math.prod(told.values())
    if planes <= held.pages:
        return ""
    sizes = " x ".join(f"{name} {n}" for name, n in told.items())
    return (
        f"was planned by Micro-Manager with {planes} planes ({sizes}) and holds {held.pages}: the "
        "others lie in other files, or the acquisition was stopped"
    )


def _page_number(file: InputFile, first: Ifd, held: Held) -> str:
    tag = first.tags[297]
    if (tag.kind, tag.count) != (3, 2):
        return ""
    total = int(integers(file, first, 297, "PageNumber", 2)[1])
    pages = max(held.pages, held.directories)
    if total <= pages:
        return ""
    return f"calls itself page 1 of {total} (PageNumber) but has {pages}: it may be cut off"


def _gel(file: InputFile, first: Ifd, _held: Held) -> str:
    if _number(file, first, 33445) == _ROOTS:
        raise InputError(
            file.path,
            "is a scan of a gel (GEL of Molecular Dynamics) whose numbers are square roots of what "
            "was measured; convert it with Bio-Formats in ImageJ, which squares them, and save "
            "that as TIFF",
        )
    return ""


def _images_below(file: InputFile, first: Ifd, held: Held) -> str:
    """Images in SubIFDs that are no smaller copies: planes of a stack that nobody would see."""
    width, height, samples = held.layout.width, held.layout.height, held.layout.samples
    doubt = ""
    for ifd in below(file, first):
        try:
            plain = subfile(file, ifd) in _IMAGES and ifd.extent[0] not in held.places
            x, y = integer(file, ifd, 256, "ImageWidth"), integer(file, ifd, 257, "ImageLength")
            alike = integer(file, ifd, 277, "SamplesPerPixel", 1) == samples
        except InputError:
            continue
        if not plain or ((x, y) != (width, height) and x <= width and y <= height):
            continue
        if alike or (x, y) != (width, height):
            raise InputError(
                file.path,
                f"has an image of {x} x {y} pixels in a SubIFD of its first page, not marked as a "
                f"smaller copy (NewSubfileType 1), where the page has {width} x {height}; SubIFDs "
                "are not read: save its images as plain pages",
            )
        doubt = "has another image of its size in a SubIFD of its first page, which is not read"
    return doubt


def _stk(file: InputFile, first: Ifd, held: Held) -> str:
    """A stack of MetaMorph: planes behind one another that only private tags tell of."""
    planes = max((first.tags[tag].count for tag in _STK if tag in first.tags), default=0)
    if planes > held.pages:
        raise InputError(
            file.path,
            f"is a MetaMorph stack (STK) of {planes} planes with {held.pages} page(s), which is "
            "not read; save it as a multi-page TIFF, for instance with ImageJ",
        )
    return ""


def _nih(file: InputFile, first: Ifd, held: Held) -> str:
    """A stack of NIH Image: slices behind one another that its own header counts, big-endian."""
    tag = first.tags[43314]
    start, size = tag.start, tag.count * TYPE_BYTES.get(tag.kind, 0)
    if size < _NIH_COUNT + 2:
        return ""
    header = file.read(start, _NIH_COUNT + 2)
    slices = int.from_bytes(header[_NIH_COUNT:], "big", signed=True)
    if header[: len(_NIH_MARK)] == _NIH_MARK and slices > held.pages:
        raise InputError(
            file.path,
            f"is a stack of NIH Image of {slices} slices with {held.pages} page(s), which is not "
            "read; save it as a multi-page TIFF, for instance with ImageJ",
        )
    return ""


def _lsm(file: InputFile, first: Ifd, held: Held) -> str:
    """A stack of Zeiss of planes x, y: its channels are samples, its thumbnails are not counted."""
    tag = first.tags[34412]
    if tag.kind not in (1, 7) or tag.count < _LSM_BYTES:
        return ""
    data = file.read(tag.start, _LSM_BYTES)
    magic, _, x, y, z, _, t = struct.unpack(f"{first.order}I6i", data)
    planes = max(z, 1) * max(t, 1)
    if (
        magic in _LSM_MAGIC
        and (x, y) == (held.layout.width, held.layout.height)
        and planes > held.pages
    ):
        raise InputError(
            file.path,
            f"is cut off: it is an LSM of {planes} planes (Z {z} x T {t}) with {held.pages} "
            "page(s); export it again, or save the pages that are there as a plain TIFF",
        )
    return ""


def _scale(file: InputFile, first: Ifd, _held: Held) -> str:
    told = {}
    for said, value in _ITEM.findall(_text(file, first, 42112)):
        role = attributes(said).get("role", "").lower()
        if role in ("scale", "offset"):
            told[role] = value.strip()
    plain = {"scale": "1", "offset": "0"}
    if all(re.sub(r"\.0*\Z", "", value) == plain[role] for role, value in told.items()):
        return ""
    words = ", ".join(f"{role} {value}" for role, value in told.items())
    return f"says how its numbers are to be scaled (GDAL: {words}); they are read as stored"


def _no_data(file: InputFile, first: Ifd, _held: Held) -> str:
    value = _text(file, first, 42113).strip()[:40]
    if not value:
        return ""
    return f"calls {value} the number of missing pixels (GDAL_NODATA); it is read as any other"


def _number(file: InputFile, ifd: Ifd, number: int) -> int:
    """Value of an integer tag of others; -1 where it is none."""
    tag = ifd.tags[number]
    known = tag.kind in (1, 3, 4) and tag.count == 1
    return int(integers(file, ifd, number, "a tag", 1)[0]) if known else -1


def _text(file: InputFile, ifd: Ifd, number: int) -> str:
    """First megabyte of a text tag of others; "" where it is none."""
    tag = ifd.tags.get(number)
    if tag is None or tag.kind not in _LETTERS:
        return ""
    data = file.read(tag.start, min(tag.count, _TEXT))
    return data.partition(b"\0")[0].decode("utf-8", "replace")


_RULES: dict[int, Rule] = {
    254: _copy, 255: _copy, 270: _description, 297: _page_number, 330: _images_below, 33445: _gel,
    **dict.fromkeys(_STK, _stk), 34412: _lsm, 43314: _nih, 42112: _scale, 42113: _no_data,
    51123: _micro_manager,
}  # fmt: skip
