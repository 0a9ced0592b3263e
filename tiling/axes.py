"""What the pages of a TIFF mean, from three small bounded parsers of its description.

Understood: the ImageJ text, the JSON of tifffile, and the first `Pixels` element of OME-XML (by
pattern, without an XML parser: no entities, no other files). Everything else: unknown page axis.
Sources: ImageJ `ij/io/TiffEncoder.java`; tifffile's "shaped" format; OME-TIFF specification 6.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tiling.imagej import IMAGEJ, PADDING, imagej_lines
from tiling.meaning import in_unit
from tiling.ome import (
    channel_names,
    first_pixels,
    is_ome,
    page_sizes,
    positive,
    spoken,
    unread_size,
)  # fmt: skip
from tiling.ome_planes import OmePlanes, ome_planes

__all__ = ["PageAxes", "chosen_description", "page_axes"]

_MAX_JSON = 1 << 20  # as much of a description as is read
_MOST_AXES = 64  # as many as an array of numpy has
_OLD_SHAPE = re.compile(r"shape=\(([0-9, ]{1,1000})\)")  # tifffile before it wrote JSON
_AXIS = re.compile(r"[A-Z]{2,26}\Z")
_UNITS = {
    "um": "um", "µm": "um", "μm": "um", "micron": "um", "microns": "um", "micrometer": "um",
    "\\u00b5m": "um", "nm": "nm", "mm": "mm", "cm": "cm", "m": "m", "inch": "inch", "in": "inch",
}  # fmt: skip
_OME_UNITS = {
    name: _UNITS[name] for name in ("µm", "μm", "um", "nm", "mm", "cm", "m", "in", "inch")
}  # as they are written: Mm is a megametre


@dataclass(frozen=True)
class PageAxes:
    """Meaning of the pages.

    Parameters
    ----------
    letters, shape
        Axes of the pages, slowest first, and their lengths: ("TZ", (5, 30)). "Q" is an axis whose
        letter is not believed, so that the user is asked for it.
    images
        Number of images the description promises; 0 when it promises none.
    unit
        Unit of length in the description, '' for none, '?' for one that is not known.
    y_factor
        What the tag's pixels per unit of y are to be multiplied by, where ImageJ gives y another
        unit than x; 0 where one of the two is not known.
    per_unit
        Pixels per unit in x and y, from the description; None where it does not say.
    z_step
        Distance of slices and its unit; 0 where it does not say.
    channels
        Names of the channels, () where they have none.
    planes
        What OME-XML says of the page of each plane; None in other descriptions.
    size
        Height and width that OME-XML gives the image, 0 where it does not say.
    fault
        Why the file is to be refused, a sentence: its planes cannot be told; "" where they can.
    """

    letters: str = ""
    shape: tuple[int, ...] = ()
    images: int = 0
    unit: str = ""
    y_factor: float = 1.0
    per_unit: tuple[float, float] | None = None
    z_step: tuple[float, str] = (0.0, "")
    channels: tuple[str, ...] = ()
    planes: OmePlanes | None = None
    size: tuple[int, int] = (0, 0)
    fault: str = ""


def page_axes(description: str, samples: int, size: tuple[int, int] = (0, 0)) -> PageAxes:
    r"""Meaning of the pages as told by the image description (its first megabyte).

    Parameters
    ----------
    description
        Text of the ImageDescription tag of the first page; not trusted.
    samples
        Samples per pixel: OME counts them as channels.
    size
        Height and width of the pages: tifffile's shape of another image promises no pages and
        tells no axes.

    Examples
    --------
    >>> found = page_axes("ImageJ=1.54f\nimages=60\nchannels=2\nslices=30\nunit=micron\n", 1)
    >>> found.letters, found.shape, found.images, found.unit
    ('ZC', (30, 2), 60, 'um')
    """
    head = description.lstrip(PADDING)
    if head.startswith(IMAGEJ):
        return _imagej(head)
    if head.startswith(("{", "shape=")):
        return _shaped(head, samples, size)
    if is_ome(head):
        return _ome(head, samples)
    return PageAxes()


def chosen_description(descriptions: Sequence[str]) -> str:
    r"""The first description that is OME-XML or ImageJ's, else tifffile's JSON, else the first.

    Micro-Manager writes two into one page; tifffile writes its JSON behind a text of the user.
    "" where there is none.

    Examples
    --------
    >>> chosen_description(["day 3", "ImageJ=1.48\nimages=2\n"])[:11]
    'ImageJ=1.48'
    """
    for known in (_is_imagej_or_ome, _told_shape):
        for text in descriptions:
            if known(text.lstrip(PADDING)):
                return text
    return descriptions[0] if descriptions else ""


def _is_imagej_or_ome(text: str) -> bool:
    return text.startswith(IMAGEJ) or is_ome(text)


def _imagej(text: str) -> PageAxes:
    found = imagej_lines(text)
    length = {name: positive(found.get(name, "")) or 1 for name in ("frames", "slices", "channels")}
    images = positive(found.get("images", ""), 18) or math.prod(length.values())
    axis_of = {"t": "frames", "z": "slices", "c": "channels"}
    order = found.get("order", "").strip().lower()  # fastest first
    order = order if sorted(order) == sorted(axis_of) else "czt"
    slow_first = order[::-1]
    letters, shape = _without_ones(
        slow_first.upper(), tuple(length[axis_of[axis]] for axis in slow_first)
    )
    if math.prod(shape) != images:
        letters, shape = _without_ones("I", (images,))
    told = found.get("unit", "").lower()
    y_told, z_told = (found.get(name, told).lower() for name in ("yunit", "zunit"))
    unit, y_unit, z_unit = (_UNITS.get(word, "") for word in (told, y_told, z_told))
    same = told == y_told or unit == y_unit != ""
    y_factor = 1.0 if same else in_unit(1.0, unit or "?", y_unit)
    return PageAxes(
        letters, shape, images, unit or "?" * bool(told), y_factor,
        z_step=(_length(found.get("spacing", "")), z_unit),
    )  # fmt: skip


def _told_shape(text: str) -> tuple[dict[str, Any], list[int]] | None:
    """JSON of tifffile and its shape; None where the text is anything else."""
    old = _OLD_SHAPE.match(text)
    if old:
        text = f'{{"shape": [{old[1].strip(", ")}]}}'
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text) if len(text) <= _MAX_JSON else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return None
    shape = found.get("shape")
    if not isinstance(shape, list) or not 2 <= len(shape) <= _MOST_AXES:
        return None
    if not all(type(side) is int and 0 < side < 1 << 40 for side in shape):
        return None
    return found, shape


def _without_trailing_ones(shape: list[int], size: tuple[int, int]) -> list[int]:
    """The shape up to its columns: behind them, tifffile counts a 1 as one sample of a pixel."""
    while len(shape) > 2 and shape[-1] == 1 and tuple(shape[-2:]) != size:
        shape = shape[:-1]
    return shape


def _shaped(text: str, samples: int, size: tuple[int, int]) -> PageAxes:
    """JSON of tifffile: {"shape": [30, 512, 512], "axes": "ZYX", "truncated": true}."""
    told = _told_shape(text)
    if told is None:
        return PageAxes()
    found, whole_shape = told
    shape = _without_trailing_ones(whole_shape, size) if samples == 1 else whole_shape
    axes = found.get("axes")
    if not isinstance(axes, str) or not _AXIS.match(axes) or len(axes) != len(whole_shape):
        axes = ""
    axes = axes[: len(shape)] if len(set(axes)) == len(axes) else ""  # a letter twice says nothing
    by_size = tuple(shape[-3:-1]) == size != tuple(shape[-2:])
    colour_last = not axes or axes.endswith("S") or by_size
    chunky = samples > 1 and shape[-1] == samples and colour_last
    planar = samples > 1 and not chunky and len(shape) > 2 and shape[-3] == samples
    pages = tuple(shape[: -3 if chunky or planar else -2])
    of_this_image = tuple(shape[-3:-1] if chunky else shape[-2:]) == size
    images = math.prod(pages)
    promised = images if of_this_image or found.get("truncated") is True else 0
    if not of_this_image:
        return PageAxes(*_without_ones("I", (images,)), promised)
    if axes and not (axes[:-1] if chunky else axes).endswith("YX"):
        return PageAxes(*_without_ones("Q" * len(pages), pages), promised)
    if axes and not set(axes[: len(pages)]) & set("SXY"):
        letters, pages = _without_ones(axes[: len(pages)], pages)
    else:
        letters, pages = _without_ones("I", (images,))
    depth = _length(str(found.get("PhysicalSizeZ", ""))[:20])
    return PageAxes(
        letters, pages, promised,
        z_step=(depth, _UNITS.get(str(found.get("PhysicalSizeZUnit", "um"))[:20].lower(), "")),
        channels=_named(found.get("Channel")),
    )  # fmt: skip


def _named(channel: object) -> tuple[str, ...]:
    """Names in the JSON of tifffile, {"Name": ["DAPI", "GFP"]}."""
    names = channel.get("Name") if isinstance(channel, dict) else None
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(name[:256] for name in names[:1000])


def _ome(text: str, samples: int) -> PageAxes:
    text = spoken(text)
    pixels, fault = first_pixels(text), unread_size(text)
    if pixels is None or fault:
        return PageAxes(fault=fault)
    found, content = pixels
    order = found.get("DimensionOrder", "").strip().upper()
    ordered = sorted(order) == sorted("XYZCT") and order[:2] == "XY"
    order = order if ordered else "XYZCT"
    length = page_sizes(found)
    whole_pixels = length["C"] % samples == 0
    if whole_pixels:
        length["C"] //= samples
    sizes = tuple(length[axis] for axis in order[2:])
    planes = ome_planes(text, content, order[2:], sizes, samples=samples)
    if not ordered:  # planes are counted, not told apart
        return PageAxes(planes=replace(planes, ordered=False) if whole_pixels else None)
    slow_first = order[:1:-1]
    letters, shape = _without_ones(slow_first, tuple(length[axis] for axis in slow_first))
    unit, y_unit, z_unit = (
        _OME_UNITS.get(found.get(f"PhysicalSize{axis}Unit", "µm"), "") for axis in "XYZ"
    )
    x, y = _length(found.get("PhysicalSizeX", "")), _length(found.get("PhysicalSizeY", ""))
    y = in_unit(y, y_unit, unit)
    per_unit = (1 / x, 1 / y) if x and y and unit else None
    unit = unit if per_unit else ""  # the tags have their own
    z_step = _length(found.get("PhysicalSizeZ", "")), z_unit
    return PageAxes(
        letters, shape, 0, unit, 1.0, per_unit, z_step, channel_names(text, content),
        planes if whole_pixels else None,
        (positive(found.get("SizeY", "")), positive(found.get("SizeX", ""))),
    )  # fmt: skip


def _without_ones(letters: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    kept = [(axis, side) for axis, side in zip(letters, shape, strict=True) if side != 1]
    return "".join(axis for axis, _ in kept), tuple(side for _, side in kept)


def _length(text: str) -> float:
    if not re.fullmatch(r"[0-9.]{1,20}(?:[eE][+-]?[0-9]{1,2})?", text.strip()):
        return 0.0
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 1e-9 < value < 1e9 else 0.0
