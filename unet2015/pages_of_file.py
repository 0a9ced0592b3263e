"""The pages of one image or label file, and what the file says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from tiling.faults import InputError
from tiling.strict_tiff import TiffImage, open_tiff, read_stack

__all__ = ["Pages", "about_white_zeros", "pages_of"]


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


def about_white_zeros(values: Mapping[Path, Sequence[int]]) -> str:
    """Note on masks stored as MinIsWhite, and how to read them the other way round.

    Parameters
    ----------
    values
        Files that are stored so, one at least, each with the values that it is read as.

    Raises
    ------
    InputError
        They hold others than two values, one of them 0: which would be background?

    Examples
    --------
    >>> about_white_zeros({Path("a.tif"): [0, 255], Path("b.tif"): [0, 255]})
    'a.tif and 1 more: stored as MinIsWhite: zeros are read as 255 (--label-values 255,0 takes the
    others as class 1)'
    """
    path = next(iter(values))
    first, *others = sorted({value for found in values.values() for value in found})
    if len(others) > 1:
        raise InputError(path, "stores ids as MinIsWhite, inverted; save it as MinIsBlack")
    last = others[0] if others else first
    opposite = f"--label-values {last},{first} takes the others as class 1"
    if others and first:
        raise InputError(
            path,
            f"is stored as MinIsWhite: it is read as {first} and {last}; name the values of "
            f"background and cells ({opposite}), or save it as MinIsBlack",
        )
    several = f" and {len(values) - 1} more" if len(values) > 1 else ""
    note = f"{path}{several}: stored as MinIsWhite: zeros are read as {last}"
    return f"{note} ({opposite})" if others else note


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
