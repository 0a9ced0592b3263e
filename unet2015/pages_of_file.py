"""The pages of one image or label file, and what the file says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiling.faults import InputError
from tiling.strict_tiff import TiffImage, open_tiff, read_stack

__all__ = ["Pages", "note_white_zeros", "pages_of"]


class Pages(NamedTuple):
    """Pixels (S, C, H, W) of a file.

    Attributes
    ----------
    pixels
        As stored; of MinIsWhite inverted.
    planar
        Channels lie in planes: possibly slices that a writer called colours.
    white_zeros
        They were stored as MinIsWhite.
    """

    pixels: NDArray[Any]
    planar: bool
    white_zeros: bool


def pages_of(path: Path, notes: list[str]) -> Pages:
    """Pages of a TIFF or PNG; what is to be said of the file is added to `notes`.

    Raises
    ------
    InputError
        The file cannot be read, or its pages are channels.
    """
    planar = white = False
    if path.suffix.lower() == ".png":
        from tiling.images import read_image

        stack = read_image(path)
    else:
        with open_tiff(path) as image:
            _refuse_channels(path, image)
            planar = image.planar and image.samples in (3, 4)
            white = image.photometric == "miniswhite"
            notes.extend(f"{path}: {doubt}" for doubt in image.doubts)
        stack = read_stack(path)
    return Pages(stack if stack.ndim == 4 else stack[:, None], planar, white)


def note_white_zeros(path: Path, labels: Pages, notes: list[str]) -> None:
    """Say that a mask was stored as MinIsWhite, and how to read it the other way round.

    Raises
    ------
    InputError
        There are more than two values: of ids, which value would be background?
    """
    if not labels.white_zeros:
        return
    first, *others = (int(value) for value in np.unique(labels.pixels))
    if len(others) > 1:
        raise InputError(path, "stores ids as MinIsWhite, inverted; save it as MinIsBlack")
    note = f"{path}: stored as MinIsWhite: its zeros are read as {[first, *others][-1]}"
    if others:
        note += f" (--label-values {others[0]},{first} takes the others as class 1)"
    notes.append(note)


def _refuse_channels(path: Path, image: TiffImage) -> None:
    """Refuse pages that are channels: a page would be trained on as a slice of its own."""
    place = image.axes.find("C")
    if 0 <= place < len(image.page_shape):
        count, names = image.page_shape[place], image.meaning.channels
        named = f" ({', '.join(names[:8])})" if len(names) == count else ""
        raise InputError(
            path, f"has {count} channels{named} as pages, and a page is read as a slice; save one "
            "channel as a file of its own, or, if they are slices, save them with the axes ZYX",
        )  # fmt: skip
