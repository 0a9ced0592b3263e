"""Names of channels as ImageJ keeps them: the labels of its slices, in two private tags.

Source: ImageJ `ij/io/TiffEncoder.java` and `TiffDecoder.java`, metadata tags 50838 and 50839.
"""

from __future__ import annotations

import re

import numpy as np

from tiling.ifd import Ifd, integers
from tiling.input_file import InputFile

__all__ = ["slice_labels"]

_COUNTS, _DATA = 50838, 50839
_MOST_BYTES = 1 << 20
_MOST_LABELS = 1 << 16
_LONGEST = 256
_PLACE = re.compile(r"^(?:[a-z]:\d{1,9}/\d{1,9}\s){1,3}-\s")  # "c:1/2 z:3/30 - DAPI"


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
