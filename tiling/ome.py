"""OME-XML for the description of an OME-TIFF: axes, pixel size, channel names, history.

Written as text and read back by patterns; no XML parser, so no entities and no other files.
Source: OME data model 2016-06, OME-TIFF specification 6.
"""

from __future__ import annotations

import html
import re
from typing import Any

import numpy as np

from tiling.meaning import Meaning

__all__ = [
    "INSIDE", "PIXELS", "PIXELS_END", "attributes", "channel_names", "checked_for_ome",
    "ends_early", "first_pixels", "history", "is_ome", "is_ome_name", "ome_xml", "page_sizes",
    "positive", "root_attributes", "spoken", "unread_size",
]  # fmt: skip

_TYPES = {
    "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "int8": "int8", "int16": "int16",
    "int32": "int32", "float32": "float", "float64": "double",
}  # fmt: skip
_UNITS = {"um": "", "nm": "nm", "mm": "mm", "cm": "cm", "m": "m", "inch": "in"}  # "": the default
_MOST_CHANNELS = 1000
_NO_CHARACTER = re.compile(r"&#[0-9]{20}")  # html would make a number of thousands of digits
_NAME_CHAR = r"[^\s<>:/=!?\"'&;]"
_PREFIX = re.compile(rf"(</?){_NAME_CHAR}++:(?=\w)")
_ROOT_END = re.compile(r"</OME\s*+(?:>|\Z)")
_ROOT = re.compile(r"\s*+<OME(?![\w:.-])")
_CHANNEL = re.compile(r"<Channel\s([^<>]{0,4096})>")
_NAME = re.compile(r"""\bName\s{0,8}=\s{0,8}(?:"([^"<>]{0,256})"|'([^'<>]{0,256})')""")
_HISTORY = re.compile(r'Namespace="unet2015"[^<>]{0,80}>\s{0,8}<Value>([^<>]{0,100000})</Value>')
PIXELS_END = re.compile(r"</Pixels\s*+>")
PIXELS = re.compile(r"<Pixels(?![\w:.-])")
# No attribute holds "<", so that each element is looked at once, however long it is.
INSIDE = re.compile(r"""((?:[^<>"']++|"[^"<]*+"|'[^'<]*+')*+)>""")
_ATTRIBUTE = re.compile(r"""(?<![\w:.-])([\w:.-]++)\s*+=\s*+(?:"([^"<]*+)"|'([^'<]*+)')""")
_SILENT = re.compile(
    r"<!--.*?(?:-->|\Z)|<!\[CDATA\[.*?(?:\]\]>|\Z)|<\?.*?(?:\?>|\Z)"
    r"|<!DOCTYPE[^<>\[]*+(?:\[.*?(?:\]\s*+>|\Z))?"
    r"|<StructuredAnnotations(?![\w:.-])[^<>]*+(?<!/)>.*?"
    r"(?:</StructuredAnnotations\s*+>|\Z)",
    re.DOTALL,
)


def is_ome_name(name: str) -> bool:
    """Whether a file of this name is to be an OME-TIFF."""
    return name.lower().endswith((".ome.tif", ".ome.tiff"))


def checked_for_ome(dtype: np.dtype[Any], axes: str) -> str:
    """Why an OME-TIFF cannot hold such an image, and what to do; "" where it can.

    Examples
    --------
    >>> checked_for_ome(np.dtype("uint8"), "ZYX")
    ''
    >>> checked_for_ome(np.dtype("uint8"), "IYX")
    "an OME-TIFF has no axis 'I'; say what it is with --axes, or use a name without .ome"
    """
    odd = [axis for axis in axes if axis not in "TZCYX"]
    if odd:
        return (
            f"an OME-TIFF has no axis {odd[0]!r}; say what it is with --axes, or use a name "
            "without .ome"
        )
    if dtype.name not in _TYPES:
        return f"an OME-TIFF cannot hold {dtype}; use float32, or a name without .ome"
    return ""


def ome_xml(shape: tuple[int, ...], dtype: np.dtype[Any], meaning: Meaning, note: str) -> str:
    """OME-XML of one image, whose pages lie in the order of its axes.

    Parameters
    ----------
    shape, dtype
        Of the finest level.
    meaning
        Axes of T, Z, C, Y, X, with C right before Y; pixel size; names of the channels.
    note
        What made the file, as text.

    Examples
    --------
    >>> text = ome_xml((4, 5), np.dtype("uint8"), Meaning(axes="YX"), "{}")
    >>> 'DimensionOrder="XYCZT"' in text, 'SizeY="4"' in text
    (True, True)
    """
    size = {"T": 1, "Z": 1, "C": 1, **dict(zip(meaning.axes, shape, strict=True))}
    pages = [axis for axis in meaning.axes[:-2] if axis != "C"]  # the slowest first
    order = "XYC" + "".join(reversed(pages)) + "".join(a for a in "ZT" if a not in pages)
    names = meaning.channels if len(meaning.channels) == size["C"] else ("",) * size["C"]
    channels = "".join(
        f'<Channel ID="Channel:0:{number}" SamplesPerPixel="1"'
        + (f' Name="{_escaped(name)}"' if name else "")
        + "/>"
        for number, name in enumerate(names)
    )
    planes = size["C"] * size["Z"] * size["T"]
    sizes = "".join(f' Size{axis}="{size[axis]}"' for axis in "XYZCT")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
        ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        ' xsi:schemaLocation="http://www.openmicroscopy.org/Schemas/OME/2016-06'
        ' http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd" Creator="unet2015">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="{order}"'
        f' Type="{_TYPES[dtype.name]}"{sizes}{_physical_size(meaning)} BigEndian="false">'
        f'{channels}<TiffData IFD="0" PlaneCount="{planes}"/></Pixels></Image>'
        '<StructuredAnnotations><CommentAnnotation ID="Annotation:0" Namespace="unet2015">'
        f"<Value>{html.escape(note, quote=False)}</Value></CommentAnnotation>"
        "</StructuredAnnotations></OME>"
    )


def _physical_size(meaning: Meaning) -> str:
    """Attributes of the pixel size, "" where its unit is not known."""
    if meaning.resolution is None or meaning.resolution[2] not in _UNITS:
        return ""
    x, y, unit = meaning.resolution
    lengths = {"X": 1 / x, "Y": 1 / y, "Z": meaning.z_step}
    return "".join(
        f' PhysicalSize{axis}="{length!r}"'
        + (f' PhysicalSize{axis}Unit="{_UNITS[unit]}"' if _UNITS[unit] else "")
        for axis, length in lengths.items()
        if length
    )


def spoken(text: str) -> str:
    """OME-XML without what says nothing about its image: comments, CDATA, annotations, prefixes.

    A namespace may have any prefix, and none is told from another.

    Examples
    --------
    >>> spoken("<?xml?><OME><!-- <Pixels> --><Image><![CDATA[<Pixels>]]></Image></OME>")
    '<OME><Image></Image></OME>'
    """
    return _SILENT.sub("", _PREFIX.sub(r"\1", text))


def is_ome(text: str) -> bool:
    """Whether the text, which begins without blanks, may be OME-XML: any XML that declares itself.

    Examples
    --------
    >>> is_ome("<o-me:OME>"), is_ome("<!-- by hand --><OME>"), is_ome("<html>")
    (True, True, False)
    """
    if text.startswith("<?xml"):
        return True
    return text.startswith("<") and _ROOT.match(spoken(text)) is not None


def ends_early(text: str, rest: str = "") -> bool:
    """Whether OME-XML ends before its outermost element does.

    Parameters
    ----------
    text
        All of it, or its beginning.
    rest
        In the latter case its end.

    Examples
    --------
    >>> text = "<OME><Image><Pixels/></Image></OME>"
    >>> ends_early(text), ends_early(text[:-7]), ends_early(text[:9], text[-9:]), ends_early("<a>")
    (False, True, False, False)
    """
    text = text.lstrip("\ufeff \t\r\n")
    if not is_ome(text):
        return False
    said = spoken(text)
    element = _ROOT.match(said)
    if rest:
        return element is not None and _ROOT_END.search(_PREFIX.sub(r"\1", rest)) is None
    if element is None:  # cut before it, or XML of something else
        return ">" not in said and "OME" in text
    inside = INSIDE.match(said, element.end())
    return inside is None or not (inside[1].endswith("/") or _ROOT_END.search(said))


def first_pixels(text: str) -> tuple[dict[str, str], int] | None:
    """Attributes of the first `Pixels` element, and where its content begins; None without one.

    Examples
    --------
    >>> first_pixels('<Pixels Name="a>b" SizeZ="3"><TiffData/></Pixels>')
    ({'Name': 'a>b', 'SizeZ': '3'}, 29)
    """
    element = PIXELS.search(text)
    inside = element and INSIDE.match(text, element.end())
    return (attributes(inside[1]), inside.end()) if inside else None


def number_type(text: str) -> str:
    """The type of numbers that OME-XML names for its first image, as numpy calls it; or nothing.

    Examples
    --------
    >>> number_type('<OME><Image><Pixels Type="float"/></Image></OME>'), number_type("<a/>")
    ('float32', '')
    """
    found = first_pixels(spoken(text)) if is_ome(text) else None
    told = found[0].get("Type") if found else None
    return next((numpy for numpy, ome in _TYPES.items() if ome == told), "")


def root_attributes(text: str) -> dict[str, str]:
    """Attributes of the `OME` element that a text begins with; {} where it begins otherwise.

    Examples
    --------
    >>> root_attributes('<OME UUID="urn:uuid:1"><Image/></OME>')
    {'UUID': 'urn:uuid:1'}
    """
    element = _ROOT.match(text)
    inside = element and INSIDE.match(text, element.end())
    return attributes(inside[1]) if inside else {}


def positive(text: str, digits: int = 9) -> int:
    """A whole number, perhaps written 6.0 or +06; 0 where it is no positive number.

    Examples
    --------
    >>> positive(" +06 "), positive("6.0"), positive("6.5"), positive("1234567890")
    (6, 6, 0, 0)
    """
    found = re.fullmatch(rf"\+?0*+([0-9]{{0,{digits}}}+)(?:\.0*+)?", text.strip())
    return int(found[1] or "0") if found else 0


def page_sizes(found: dict[str, str]) -> dict[str, int]:
    """Lengths of the page axes by the attributes of a `Pixels` element, 1 where it does not say.

    Examples
    --------
    >>> page_sizes({"SizeZ": "30", "SizeX": "512"})
    {'Z': 30, 'C': 1, 'T': 1}
    """
    return {axis: positive(found.get(f"Size{axis}", ""), 18) or 1 for axis in "ZCT"}


def unread_size(text: str) -> str:
    """Why the lengths of the page axes cannot be told, for a sentence; "" where they can.

    Examples
    --------
    >>> unread_size('<Pixels SizeZ="5.5">')
    "has OME-XML whose SizeZ is '5.5', no whole number; export it again, or save it as a plain TIFF"
    """
    for element in PIXELS.finditer(text):
        inside = INSIDE.match(text, element.end())
        found = attributes(inside[1]) if inside else {}
        for axis in "ZCT":
            size = found.get(f"Size{axis}", "").strip()
            if size.strip("0") and not positive(size, 18):
                return (
                    f"has OME-XML whose Size{axis} is {size[:40]!r}, no whole number; export it "
                    "again, or save it as a plain TIFF"
                )
    return ""


def attributes(text: str) -> dict[str, str]:
    """Attributes of an element, their character references resolved but no entities of its own.

    Examples
    --------
    >>> attributes("SizeZ='3' x:SizeZ='4' Unit='n&#109;' Name='&mine;'")
    {'SizeZ': '3', 'x:SizeZ': '4', 'Unit': 'nm', 'Name': '&mine;'}
    """
    return {name: _resolved(a or b) for name, a, b in _ATTRIBUTE.findall(text)}


def _resolved(text: str) -> str:
    """Its character references resolved, but for numbers that no character can have."""
    return html.unescape(text) if _NO_CHARACTER.search(text) is None else text


def _escaped(text: str) -> str:
    return html.escape("".join(c if c.isprintable() else " " for c in text[:256]))


def channel_names(text: str, start: int) -> tuple[str, ...]:
    """Names of the channels of the `Pixels` element that begins at `start`; () if one has none.

    Examples
    --------
    >>> channel_names('<Pixels ><Channel Name="DAPI"/><Channel Name="&#945;-tubulin"/></Pixels>', 0)
    ('DAPI', 'α-tubulin')
    """
    end = PIXELS_END.search(text, start)
    found: list[str] = []
    for element in _CHANNEL.finditer(text, start, end.start() if end else len(text)):
        name = _NAME.search(element[1])
        if name is None or len(found) == _MOST_CHANNELS:
            return ()
        found.append(_resolved(name[1] or name[2] or ""))
    return tuple(found)


def history(text: str) -> str:
    """What made the file, as this module wrote it into OME-XML; "" where it did not."""
    found = _HISTORY.search(text)
    return _resolved(found[1]) if found else ""
