"""What ImageJ keeps in a TIFF: lines of `name=value`, and labels of slices in two private tags.

Source: ImageJ `ij/io/FileSaver.java` (`getDescriptionString`), `ij/measure/Calibration.java`,
`ij/io/TiffEncoder.java` and `TiffDecoder.java`, metadata tags 50838 and 50839.
"""

from __future__ import annotations

import re

import numpy as np

from tiling.ifd import Ifd, integers
from tiling.input_file import InputFile

__all__ = ["IMAGEJ", "PADDING", "SIGNED", "calibration", "imagej_lines", "slice_labels"]

IMAGEJ = "ImageJ="
PADDING = "\ufeff \t\r\n"
SIGNED = 0, (-32768.0, 1.0)
"""Calibration of 16 bits without a sign that stand for signed numbers."""
_LINE = re.compile(r"^[ \t]{0,80}(\w{1,20})[ \t]{0,80}=(.{0,80})$", re.MULTILINE)
_DENSITY, _MOST_COEFFICIENTS = 21, 5  # "uncalibrated OD", the one function without coefficients
_FUNCTIONS = range(14)  # straight line to exponential recovery; 20 is none, 22 cannot be stored
_AS_STORED = 0, (0.0, 1.0)

_COUNTS, _DATA = 50838, 50839
_MOST_BYTES = 1 << 20
_MOST_LABELS = 1 << 16
_LONGEST = 256
_PLACE = re.compile(r"^(?:[a-z]:\d{1,9}/\d{1,9}\s){1,3}-\s")  # "c:1/2 z:3/30 - DAPI"


def imagej_lines(text: str) -> dict[str, str]:
    r"""Names and values in the description of ImageJ; {} in any other.

    Examples
    --------
    >>> imagej_lines("ImageJ=1.54f\nimages = 3\nunit=um\n")
    {'unit': 'um', 'images': ' 3', 'ImageJ': '1.54f'}
    """
    text = text.lstrip(PADDING)
    if not text.startswith(IMAGEJ):
        return {}
    lines = text[:8192].replace("\r\n", "\n").replace("\r", "\n")
    # The first of a name counts: behind a NUL the remains of a longer text may lie.
    return dict(reversed(_LINE.findall(lines)))


def calibration(text: str) -> tuple[int, tuple[float, ...]] | None:
    r"""Function and coefficients by which ImageJ shows other numbers than it stores; None for none.

    Function 0 is a straight line: `c0 + c1 * stored`.

    Examples
    --------
    >>> calibration("ImageJ=1.54f\ncf=0\nc0=-32768.0\nc1=1.0\n") == SIGNED
    True
    """
    found = imagej_lines(text)
    function, coefficients = _number(found.get("cf", "0")), []
    for name in (f"c{index}" for index in range(_MOST_COEFFICIENTS)):
        value = _number(found.get(name, ""))
        if value is None:
            break
        coefficients.append(value)
    known = function in _FUNCTIONS and len(coefficients) > 1
    if function is None or not (known or function == _DENSITY):
        return None
    told = int(function), tuple(coefficients)
    return None if told == _AS_STORED else told


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def slice_labels(file: InputFile, ifd: Ifd) -> tuple[str, ...]:
    """Labels of the slices, () where there are none or they cannot be read.

    Parameters
    ----------
    file, ifd
        The open file and its first directory.
    """
    counts_tag, data_tag = ifd.tags.get(_COUNTS), ifd.tags.get(_DATA)
    if counts_tag is None or data_tag is None:
        return ()
    if counts_tag.kind != 4 or data_tag.kind not in (1, 7):
        return ()
    if counts_tag.count > _MOST_LABELS or not 12 <= data_tag.count <= _MOST_BYTES:
        return ()
    sizes = integers(file, ifd, _COUNTS, "IJMetadataByteCounts", counts_tag.count).tolist()
    data = file.read(data_tag.start, data_tag.count)
    if not sizes or sum(sizes) > len(data) or sizes[0] % 8 != 4:
        return ()
    order = "<" if data[:4] == b"JIJI" else ">" if data[:4] == b"IJIJ" else ""
    if not order:
        return ()
    kinds = np.frombuffer(data[4 : sizes[0]], f"{order}u4").reshape(-1, 2).tolist()
    place, number, found = sizes[0], 1, []
    for kind, count in kinds:
        for size in sizes[number : number + count]:
            if kind == int.from_bytes(b"labl", "big"):
                text = data[place : place + min(size, 2 * _LONGEST)]
                decoded = text.decode("utf-16-le" if order == "<" else "utf-16-be", "replace")
                found.append(_PLACE.sub("", decoded.strip("\0 ")))
            place += size
        number += count
    return tuple(found)
