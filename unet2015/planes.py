"""The planes of an image file that a network sees one after the other.

Which axis is what is never guessed: the file's metadata says it, or the user does (`--axes`).
Slices (Z), times (T), samples (P) and unnamed pages (I) are planes; channels (C, S) are what the
network takes together.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from tiling.faults import InputError, UsageFault
from tiling.mirror import Source

__all__ = ["ALPHA", "Colours", "OneChannel", "Planes", "planes_of"]

ALPHA: Final = "colours"
"""Picked of a plane of red, green, blue and alpha: all but the last, if that says nothing."""

_PAGE_AXES = "ITZPR"
_SHOWN = 8  # names of channels in a message


@dataclass(frozen=True)
class Planes:
    """What a file holds, as the network will see it.

    Attributes
    ----------
    axes : str
        Letters of the page axes, slowest first, "" for a single image.
    shape : tuple of int
        Their lengths.
    groups : tuple of tuple of int
        Pages of the file that make one plane together.
    picked : tuple of int, "colours" or None
        The one channel that is used of each plane's pages; `ALPHA` uses all but an alpha channel,
        None all of them.
    path : str
        Name of the file, for messages.
    alpha : list
        The value of the alpha channel that is left out, once it has been seen.
    height, width : int
        Pixels of every plane.
    """

    source: Any
    axes: str
    shape: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    picked: tuple[int | Literal["colours"] | None, ...]
    path: str = ""
    alpha: list[Any] = field(default_factory=list, compare=False)

    @property
    def height(self) -> int:
        """Rows of a plane."""
        return int(self.source.shape[-2])

    @property
    def width(self) -> int:
        """Columns of a plane."""
        return int(self.source.shape[-1])

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Source]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Source:
        """Plane `number` as a source (H, W) or (C, H, W)."""
        pages, picked = self.groups[number], self.picked[number]
        alone = len(pages) == 1
        plane: Source = self.source.page(pages[0]) if alone else self.source.stack(list(pages))
        if picked is None:
            return plane
        if picked == ALPHA:
            return Colours(plane, self.path, self.alpha)
        return OneChannel(plane, picked)


class Colours:
    """Red, green and blue of a source (4, H, W) whose alpha channel is one value on all pages.

    Reading raises `InputError` where alpha varies: it may hide what a network would be shown.
    """

    def __init__(self, source: Source, path: str, alpha: list[Any]) -> None:
        self._source, self._path, self._alpha = source, path, alpha
        self.shape, self.dtype = (3, *source.shape[-2:]), source.dtype
        self.keeps_rows = getattr(source, "keeps_rows", False)

    def __getitem__(self, key: tuple[Any, slice, slice]) -> Any:
        *colours, alpha = np.asarray(self._source[key])
        if not self._alpha:
            self._alpha.append(alpha.flat[0])
        if not np.array_equal(alpha, np.full_like(alpha, self._alpha[0]), equal_nan=True):
            raise InputError(
                self._path, "has a fourth channel, by rights alpha, that varies; remove it first"
            )
        return np.stack(colours)


class OneChannel:
    """One channel of a source (C, H, W); -1 is the last."""

    def __init__(self, source: Source, channel: int) -> None:
        self._source, self._channel = source, channel
        self.shape, self.dtype = source.shape[-2:], source.dtype
        self.keeps_rows = getattr(source, "keeps_rows", False)

    def __getitem__(self, key: tuple[Any, slice, slice]) -> Any:
        return np.asarray(self._source[key])[self._channel]


def planes_of(
    source: Any, path: str, channels: int, *, axes: str = "", channel: int | str | None = None
) -> Planes:
    """Planes of an open file for a network with `channels` input channels.

    Parameters
    ----------
    source
        A `TiffSource` or `ZarrSource`.
    path
        Its name, for messages.
    channels
        Channels the network takes.
    axes
        Meaning of the axes as the user gives it, e.g. "ZYX" or "CYX"; "" takes the file's word.
        Slices that a writer stored as planar colours are told by their letter ("ZYX").
    channel
        The one channel to use of an image with several: its number, or its name in the file.

    Raises
    ------
    InputError
        If the channels do not fit the network, or the file does not say what its pages are and
        it matters.
    UsageFault
        If the axes given do not fit the file.
    """
    letters, lengths = _leading(source, path, axes.upper())
    if math.prod(lengths) > source.pages:  # the colours are slices
        if channel is not None:
            raise UsageFault(
                f"--channel {channel}: by --axes {axes} each page of {path} has one channel; leave "
                "one of the two out"
            )
        if "C" in letters:
            raise UsageFault(
                f"--axes {axes}: {path} keeps the axis before YX inside its pages, and only C can "
                "be that where another axis is C"
            )
        return _colours_as_planes(source, path, channels, letters, lengths)
    inside = source.shape[0] if len(source.shape) == 3 else 1  # colour samples, Zarr channels
    numbers = np.arange(math.prod(lengths), dtype=np.int64).reshape(lengths)
    if "C" in letters:
        at = letters.index("C")
        numbers = np.moveaxis(numbers, at, -1)
        lengths = tuple(n for i, n in enumerate(lengths) if i != at)
        letters = letters.replace("C", "")
    else:
        numbers = numbers[..., None]
    across = numbers.shape[-1]
    if inside > 1 and across > 1:
        raise InputError(path, f"has both colours and channels ({source.axes}); save one of them")
    found = across * inside
    picked: int | Literal["colours"] | None = None
    names = source.meaning.channels if len(source.meaning.channels) == found else ()
    if isinstance(channel, str):
        if channel not in names:
            more = ", ..." * (len(names) > _SHOWN)
            known = f"channels {', '.join(names[:_SHOWN])}{more}" if names else "no channel names"
            raise UsageFault(f"--channel {channel}: {path} has {known}; give a name or a number")
        channel = _only(names, channel, path)
    if channel is not None:
        if not 0 <= channel < found:
            raise UsageFault(
                f"--channel {channel}: {path} has channels 0 to {found - 1}; give one of them"
            )
        if across > 1:
            numbers = numbers[..., channel : channel + 1]
        elif inside > 1:
            picked = channel
        found = 1
    if inside == 4 and channels == 3 and found == 4 and "S" in source.axes:
        found, picked = 3, ALPHA
    if found != channels:
        raise InputError(path, _misfit(source, found, channels, letters))
    groups = tuple(tuple(int(i) for i in row) for row in numbers.reshape(-1, numbers.shape[-1]))
    return Planes(source, letters, lengths, groups, (picked,) * len(groups), path)


def _only(names: tuple[str, ...], name: str, path: str) -> int:
    """Number of the one channel of this name."""
    numbers = [number for number, other in enumerate(names) if other == name]
    if len(numbers) > 1:
        *most, last = map(str, numbers)
        raise UsageFault(
            f"--channel {name}: {path} has {len(numbers)} channels of this name; give the number of"
            f" one: {', '.join(most)} or {last}"
        )
    return numbers[0]


def _colours_as_planes(
    source: Any, path: str, channels: int, letters: str, lengths: tuple[int, ...]
) -> Planes:
    """Slices that were stored as the planar colours of fewer pages: a plane each."""
    if channels != 1:
        raise InputError(path, f"has 1 channel per slice, the network takes {channels}")
    inside = source.shape[0]
    every = range(math.prod(lengths))
    return Planes(
        source, letters, lengths, tuple((i // inside,) for i in every),
        tuple(i % inside for i in every),
    )  # fmt: skip


def _leading(source: Any, path: str, axes: str) -> tuple[str, tuple[int, ...]]:
    """Letters and lengths of the page axes, by the user's word or the file's."""
    said = source.axes
    letters = said.replace("S", "")[:-2]
    if hasattr(source, "image"):
        lengths, planar = tuple(source.image.page_shape), source.image.planar
    else:  # a Zarr source keeps its channels inside a plane
        planar = letters.endswith("C")
        letters, lengths = letters.replace("C", ""), tuple(source.page_shape)
    if axes:
        wanted = axes.replace("S", "")
        tiff = hasattr(source, "image")
        if not tiff and "C" in said and not planar and wanted.find("C") == said.find("C"):
            wanted = wanted.replace("C", "")
        elif planar and len(wanted) - 2 == len(letters) + 1:  # a letter for the colours, too
            colours = wanted[-3:-2]
            wanted = wanted if colours != "C" else wanted[:-3] + wanted[-2:]
            lengths = (*lengths, source.shape[0]) if colours != "C" else lengths
            letters += "S" if colours != "C" else ""
        if not wanted.endswith("YX") or len(set(axes)) != len(axes):
            raise UsageFault(f"--axes {axes}: give each axis once, ending in YX (or YXS)")
        if len(wanted) - 2 != len(letters) or not set(wanted[:-2]) <= set(_PAGE_AXES + "C"):
            pages = f" with {' x '.join(map(str, lengths))} pages" if lengths else ""
            stays = "" if tiff or "C" not in said else ", C where it is"
            raise UsageFault(
                f"--axes {axes} does not fit {path}, whose axes are {said}{pages}; give one letter"
                f" of {_PAGE_AXES}C for each axis before YX{stays}"
            )
        letters = wanted[:-2]
    unknown = set(letters) - set(_PAGE_AXES + "C")
    if unknown:
        odd = f" {said}"
        if "Q" in letters:
            tiff = hasattr(source, "image")
            odd = " that cannot be right (they do not end in YX)" if tiff else " of unknown meaning"
        shown = " x ".join(map(str, lengths))
        raise InputError(path, f"has axes{odd}, {shown} pages; say what they are with --axes")
    return letters, lengths


def _word(name: str) -> str:
    """What to type for the first channel: its name as a shell takes it, or its number."""
    odd = not name.isprintable() or name.startswith("-") or name.lstrip("+").isdigit()
    return "0" if odd or not name else shlex.quote(name)


def _misfit(source: Any, found: int, channels: int, letters: str) -> str:
    """Why the channels of the file are not those of the network, and what to do."""
    if found == 1 and letters == "I":
        return (
            f"has {source.pages} pages of unknown meaning and the network takes {channels}"
            " channels; add --axes CYX if the pages are channels"
        )
    if channels == 1:
        names = source.meaning.channels
        first = _word(names[0]) if len(set(names)) == len(names) == found else "0"
        named = f" ({', '.join(names[:_SHOWN])})" if len(names) == found else ""
        planar = hasattr(source, "image") and source.image.planar
        slices = f", or add --axes {letters}ZYX if they are slices" if planar else ""
        return (
            f"has {found} channels{named}, the network takes 1; choose one with "
            f"--channel {first}{slices}"
        )
    return f"has {found} channel(s), the network takes {channels}; use an image with {channels}"
