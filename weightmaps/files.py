"""Label files in, weight map files out: the table of contents of everything about files."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.faults import InputError
from weightmaps.annotations import LabelFile, find_label_files
from weightmaps.history import read_history
from weightmaps.instance_source import InstanceSource
from weightmaps.label_reader import LabelReader
from weightmaps.label_rule import LabelRule
from weightmaps.map_file import write_map

__all__ = ["LabelFile", "LabelRule", "find_label_files", "read_history", "read_labels", "write_map"]

_AUTO = LabelRule()


def read_labels(path: str | os.PathLike[str], rule: LabelRule = _AUTO) -> npt.NDArray[Any]:
    """Return the instance labels of one annotation, all pages in memory.

    Parameters
    ----------
    path
        A TIFF or PNG file, or a folder with one mask per cell.
    rule
        How its values are taken. By default a file whose only values are 0 and one of 1, 255 or
        the largest of its type is a mask: its cells are the 4-connected components of each page.

    Returns
    -------
    ndarray
        Integers, shape ``(pages, H, W)``: 0 background, ids >= 1, and the ignore label. Ids are
        those of the file, or 1, 2, ... on each page of a mask.

    Raises
    ------
    InputError
        There is no such file, it is several annotations, damaged, or no label file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "cells.png")
    ...     Image.fromarray(np.array([[255, 0, 255]], np.uint8)).save(path)
    ...     read_labels(path)
    array([[[1, 0, 2]]], dtype=int32)
    """
    files = find_label_files([os.fspath(path)])
    if len(files) != 1:
        raise InputError(os.fspath(path), f"is {len(files)} annotations; name one of them")
    with LabelReader(files[0], rule) as reader:
        kind = reader.kind()
        pages = [
            InstanceSource(reader, page, kind)[..., 0 : reader.height, 0 : reader.width]
            for page in range(reader.pages)
        ]
        reader.check_unchanged()
    return np.stack(pages)
