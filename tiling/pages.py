"""The pages of a TIFF as we accept them: an allowed list of what the tags may say.

Source of the tag numbers and their defaults: TIFF 6.0 (Adobe, 1992), sections 8, 14 and 15.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from tiling.faults import InputError
from tiling.ifd import Ifd, Limits, integer, integers
from tiling.input_file import ANEW, InputFile
from tiling.layout import Layout, Page

__all__ = ["CODECS", "MASK", "REDUCED", "read_page_layout", "read_pages", "subfile"]

NONE, LZW, DEFLATE, DEFLATE_OLD, PACKBITS, ZSTD = 1, 5, 8, 32946, 32773, 50000
CODECS = {
    NONE: "no compression", LZW: "LZW", DEFLATE: "deflate", DEFLATE_OLD: "deflate",
    PACKBITS: "PackBits", ZSTD: "zstd",
}  # fmt: skip
_REFUSED_CODECS = {
    2: "CCITT", 3: "CCITT fax 3", 4: "CCITT fax 4", 6: "old JPEG", 7: "JPEG", 33003: "JPEG 2000",
    33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 34926: "old zstd",
    34927: "WebP", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_PHOTOMETRIC: dict[int, Literal["miniswhite", "minisblack", "rgb"]]
_PHOTOMETRIC = {0: "miniswhite", 1: "minisblack", 2: "rgb"}
_REFUSED_PHOTOMETRIC = {3: "palette colours", 4: "a transparency mask", 5: "CMYK", 6: "YCbCr",
                        8: "CIELab", 32803: "a colour filter array"}  # fmt: skip
_FORMATS: dict[int, Literal["u", "i", "f"]] = {1: "u", 2: "i", 3: "f"}
REDUCED, MASK, _DEPTH = 1, 4, 8  # bits of NewSubfileType
_BITS = {"u": (1, 8, 16, 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64)}


def read_page_layout(file: InputFile, ifd: Ifd, limits: Limits) -> Page:
    """The page behind `ifd`, or why it is refused."""

    def refuse(reason: str) -> InputError:
        return InputError(file.path, reason, page=ifd.page)

    def one(number: int, name: str, default: int | None = None) -> int:
        return integer(file, ifd, number, name, default)

    width, height = one(256, "ImageWidth"), one(257, "ImageLength")
    samples = one(277, "SamplesPerPixel", 1)
    if samples not in (1, 3, 4):
        raise refuse(
            f"has {samples} samples per pixel; 1, 3 and 4 can be read: save its channels as pages"
        )
    if not width or not height:
        raise refuse(f"is damaged: it is {width} pixels wide and {height} high; {ANEW}")
    if width * height > limits.max_pixels:
        raise refuse(
            f"has {width} x {height} pixels, above max_pixels {limits.max_pixels}; "
            "cut it into smaller images"
        )
    bits = _shared(file, ifd, 258, "BitsPerSample", samples, 1)
    sample_format = _shared(file, ifd, 339, "SampleFormat", samples, 1)
    kind = _FORMATS.get(sample_format)
    if kind is None or bits not in _BITS[kind] or (bits == 1 and samples != 1):
        raise refuse(
            f"has {samples} samples of {bits} bits in sample format {sample_format}; readable are "
            "1-bit masks, 8 to 64-bit integers and 16 to 64-bit floats: convert it to one of them"
        )
    photometric = _photometric(file, ifd, kind, samples)
    _check_plain(file, ifd)
    compression, predictor = _coding(file, ifd, kind, bits)
    tiled = 322 in ifd.tags or 323 in ifd.tags or 324 in ifd.tags
    if tiled:
        columns, rows = one(322, "TileWidth"), one(323, "TileLength")
    else:
        columns, rows = width, min(one(278, "RowsPerStrip", height), height)
    if not columns or not rows or columns * rows > limits.max_pixels:
        raise refuse(f"is damaged: segments of {columns} x {rows} pixels; {ANEW}")
    planar = one(284, "PlanarConfiguration", 1)
    if planar not in (1, 2):
        raise refuse(f"is damaged: planar configuration {planar} (1 or 2); {ANEW}")
    layout = Layout(
        width, height, samples, bits, "b" if bits == 1 else kind, photometric,
        planar == 2 and samples > 1, compression, predictor, tiled, rows, columns,
    )  # fmt: skip
    names = ((324, "TileOffsets"), (325, "TileByteCounts")) if tiled else (
        (273, "StripOffsets"), (279, "StripByteCounts"))  # fmt: skip
    for number, name in names:
        if number not in ifd.tags:
            raise refuse(f"has no {name} tag; {ANEW}")
    offsets, counts = (ifd.tags[number] for number, _ in names)
    return Page(layout, ifd.page, ifd.order, offsets, counts, ifd.extent)


def read_pages(
    file: InputFile, first: Ifd, others: Iterator[Ifd], limits: Limits
) -> tuple[list[Page], int]:
    """The pages that are images of their own, and the number of all directories.

    Smaller copies (levels of a pyramid, thumbnails) are left out where their tag and their size say
    so. Where the first page itself is said to be a copy or a mask, the tags tell nothing.

    Parameters
    ----------
    file
        The open file.
    first, others
        Its directories.
    limits
        What it may ask of us.

    Raises
    ------
    InputError
        A page is refused, is a mask or depth map of another, or a "smaller" copy that is none.
    """
    pages, count = [read_page_layout(file, first, limits)], 1
    told = not subfile(file, first) & (REDUCED | MASK | _DEPTH)
    for ifd in others:
        count += 1
        if not (told and _is_smaller_copy(file, ifd, pages[0].layout)):
            pages.append(read_page_layout(file, ifd, limits))
    return pages, count


def _is_smaller_copy(file: InputFile, ifd: Ifd, first: Layout) -> bool:
    kind = subfile(file, ifd)
    if kind & MASK:
        raise InputError(
            file.path,
            "is the transparency mask of another page (NewSubfileType 4), which is not read; "
            "save the image without it",
            page=ifd.page,
        )
    if kind & _DEPTH and not kind & REDUCED:  # 9 is Aperio's picture of the whole slide
        raise InputError(
            file.path,
            "is the depth map of another page (NewSubfileType 8), which is not read; save the "
            "image without it",
            page=ifd.page,
        )
    if not kind & REDUCED:
        return False
    size = integer(file, ifd, 256, "ImageWidth"), integer(file, ifd, 257, "ImageLength")
    whole = (first.width, first.height)
    if size == whole or size[0] > whole[0] or size[1] > whole[1]:
        raise InputError(
            file.path,
            f"is said to be a smaller copy (NewSubfileType 1) but has {size[0]} x {size[1]} pixels "
            f"where the first page has {whole[0]} x {whole[1]}; save the images again as plain "
            "pages",
            page=ifd.page,
        )
    return True


def subfile(file: InputFile, ifd: Ifd) -> int:
    """NewSubfileType, or what its predecessor of TIFF 5 says in its words."""
    if 254 in ifd.tags:
        return integer(file, ifd, 254, "NewSubfileType")
    return REDUCED if integer(file, ifd, 255, "SubfileType", 1) == 2 else 0


def _photometric(
    file: InputFile, ifd: Ifd, kind: str, samples: int
) -> Literal["miniswhite", "minisblack", "rgb"]:
    """What the values mean, where it is grey or RGB and fits the samples."""
    number, reason = integer(file, ifd, 262, "PhotometricInterpretation"), ""
    if number not in _PHOTOMETRIC:
        what = _REFUSED_PHOTOMETRIC.get(number, f"photometric interpretation {number}")
        reason = f"stores {what}; convert it to grey or RGB"
    elif number == 2 and samples == 1:
        reason = "says RGB but has one sample per pixel; save it again as grey or RGB"
    elif number == 0 and (kind != "u" or samples != 1):
        reason = (
            "is MinIsWhite with signed, floating-point or colour pixels; convert it to MinIsBlack"
        )
    if reason:
        raise InputError(file.path, reason, page=ifd.page)
    return _PHOTOMETRIC[number]


def _check_plain(file: InputFile, ifd: Ifd) -> None:
    """Refuse the rare tags that change what the pixels mean, or which they are."""
    if 273 in ifd.tags and 324 in ifd.tags:
        raise InputError(
            file.path,
            "says where its strips lie and where its tiles lie, and programs read the one or the "
            "other; save it again in tiles or strips",
            page=ifd.page,
        )
    for number, name, allowed in (
        (274, "orientation", (1,)),
        (266, "fill order", (1,)),
        (32997, "image depth", (1,)),
        (32998, "tile depth", (1,)),
    ):
        value = integer(file, ifd, number, name, 1)
        if value not in allowed:
            raise InputError(file.path, f"has {name} {value}; save it with {name} 1", page=ifd.page)


def _coding(file: InputFile, ifd: Ifd, kind: str, bits: int) -> tuple[int, int]:
    compression = integer(file, ifd, 259, "Compression", 1)
    predictor = integer(file, ifd, 317, "Predictor", 1)
    if compression not in CODECS:
        name = _REFUSED_CODECS.get(compression, f"number {compression}")
        raise InputError(
            file.path,
            f"is compressed with {name}; save it with deflate, LZW or no compression",
            page=ifd.page,
        )
    fits = {1: True, 2: kind in "ui" and bits >= 8, 3: kind == "f"}.get(predictor, False)
    if not fits or (predictor != 1 and compression in (NONE, PACKBITS)):
        raise InputError(
            file.path,
            f"has predictor {predictor}, which does not fit {bits}-bit {kind!r} pixels with "
            f"{CODECS[compression]}; save it again without a predictor",
            page=ifd.page,
        )
    return compression, predictor


def _shared(file: InputFile, ifd: Ifd, number: int, name: str, samples: int, default: int) -> int:
    """Value of a tag with one number for each sample, which must all be equal."""
    tag = ifd.tags.get(number)
    if tag is None:
        return default
    if tag.count not in (1, samples):
        raise InputError(
            file.path, f"{name} has {tag.count} values, not 1 or {samples}; {ANEW}", page=ifd.page
        )
    if tag.count == 1:
        return integer(file, ifd, number, name)
    values = integers(file, ifd, number, name, tag.count)
    if (values != values[0]).any():
        raise InputError(
            file.path,
            f"{name} differs between the samples; save it with one type for all",
            page=ifd.page,
        )
    return int(values[0])
