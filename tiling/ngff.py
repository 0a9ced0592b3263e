"""What a Zarr says about the levels, axes and channels of its image: OME-NGFF 0.5, xarray."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tiling.disk import StrPath
from tiling.faults import InputError
from tiling.meaning import Meaning

__all__ = [
    "ORDER", "axis_letters", "channel_labels", "check_finest_first", "coded_numbers",
    "dimension_names", "ome_attributes", "other_images", "pixel_sizes",
]  # fmt: skip

ORDER = "ITCZYX"
"""Order of the axes that OME-NGFF asks for; pages of unknown meaning come first."""

_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
_UNITS = {"um": "micrometer", "nm": "nanometer", "mm": "millimeter", "cm": "centimeter",
          "m": "meter", "inch": "inch"}  # fmt: skip
_COLOURS = ("FFFFFF", "FF7F00", "0080FF", "00C060", "C000C0", "C0C000", "00C0C0")
_LONGEST = 256
_LEVELS = 64  # of an image that are looked at
_UNNAMED = re.compile(r"dim_[0-9]{1,9}")
_NOT_A_NUMBER = ("NaN", "AAAAAAAA+H8=", "AADAfw==")  # also as xarray packs it, in 8 or 4 bytes
_GIANT = 1e12  # a pixel of this many units has no meaning


def ome_attributes(axes: str, count: int, meaning: Meaning, top: float) -> dict[str, Any]:
    """The attribute "ome" of a group whose arrays "0", "1", ... are the levels of one image.

    Parameters
    ----------
    axes
        Axes as they are stored.
    count
        Number of levels, each of half the side of the one before.
    meaning
        Pixel size and names of the channels.
    top
        Value that a viewer is to show as white.

    Examples
    --------
    >>> found = ome_attributes("CYX", 2, Meaning(channels=("a", "b")), 255)
    >>> [level["path"] for level in found["multiscales"][0]["datasets"]]
    ['0', '1']
    >>> [channel["label"] for channel in found["omero"]["channels"]]
    ['a', 'b']
    """
    x, y, unit = meaning.resolution or (1.0, 1.0, "")
    named = []
    for letter in axes:
        axis = {"name": letter.lower()}
        if letter in _TYPES:
            axis["type"] = _TYPES[letter]
        if unit in _UNITS and (letter in "YX" or (letter == "Z" and meaning.z_step)):
            axis["unit"] = _UNITS[unit]
        named.append(axis)
    levels = []
    for number in range(count):
        pitch = 1 << number  # also where a side was odd: there the last pixel stands for fewer
        slices = [meaning.z_step or 1.0 if letter == "Z" else 1.0 for letter in axes[:-2]]
        step = {"type": "scale", "scale": [*slices, pitch / y, pitch / x]}
        # The middle of the first pixel lies further in than that of the finest level.
        shift = [*[0.0] * len(slices), (pitch - 1) / 2 / y, (pitch - 1) / 2 / x]
        moved = [{"type": "translation", "translation": shift}] if number else []
        levels.append({"path": str(number), "coordinateTransformations": [step, *moved]})
    found: dict[str, Any] = {
        "version": "0.5", "multiscales": [{"axes": named, "datasets": levels}],
    }  # fmt: skip
    if meaning.channels:
        window = {"min": 0.0, "start": 0.0, "end": top, "max": top}
        found["omero"] = {
            "channels": [
                {"label": name, "color": _COLOURS[i % len(_COLOURS)], "window": window,
                 "active": True}
                for i, name in enumerate(meaning.channels)
            ]
        }  # fmt: skip
    return found


def axis_letters(
    path: StrPath, names: Sequence[str], dimensions: int, kinds: Sequence[object] = ()
) -> str:
    """One capital letter per axis of a Zarr, ending in "YX".

    "I" stands for pages of unknown meaning, and so do names that begin with S ("slice", "sample"),
    which in a TIFF are the samples of a colour; a second such axis is "Q", so that the user is
    asked.

    Parameters
    ----------
    path
        The Zarr, for messages.
    names
        Names of the axes; none for an array that does not name them.
    dimensions
        Number of axes.
    kinds
        Type of each axis where it is told: of "channel" is "C", whatever its name.

    Raises
    ------
    InputError
        The axes do not end in y, x, two have the same letter, or more than three have no name.

    Examples
    --------
    >>> axis_letters("a", ["slice", "y", "x"], 3), axis_letters("a", ["s", "i", "y", "x"], 4)
    ('IYX', 'QIYX')
    >>> axis_letters("a", ["stain", "y", "x"], 3, ["channel", "space", "space"])
    'CYX'
    """
    if not names and dimensions not in (2, 3):
        raise InputError(
            path, f"has {dimensions} axes and no names for them, which is read of 2 (y, x) and 3 "
            "(pages, y, x); write their names into its metadata",
        )  # fmt: skip
    letters = [(name or "I")[0].upper()[0] for name in names] or list("IYX"[-dimensions:])
    if kinds:
        both = zip(letters, kinds, strict=True)
        letters = ["C" if kind == "channel" else letter for letter, kind in both]
    if len(letters) != dimensions or letters[-2:] != ["Y", "X"]:
        raise InputError(path, f"has axes {list(names)} that do not end in y, x; reorder the array")
    twice = [letter for letter in letters if letters.count(letter) > 1]
    if twice:
        raise InputError(
            path, f"has axes {list(names)}, two with the letter {twice[0]}; rename one of them"
        )
    unknown = "Q" if "I" in letters else "I"
    return "".join(unknown if letter == "S" else letter for letter in letters)


def channel_labels(ome: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Names of `count` channels as the attributes of a group tell them; () where they do not.

    Examples
    --------
    >>> channel_labels({"omero": {"channels": [{"label": "DAPI"}]}}, 1)
    ('DAPI',)
    """
    omero = ome.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(channels, list) or len(channels) != count:
        return ()
    names = [c.get("label") if isinstance(c, Mapping) else None for c in channels]
    if not all(isinstance(name, str) and name for name in names):
        return ()
    return tuple(str(name)[:_LONGEST] for name in names)


def check_finest_first(path: StrPath, group: Any, levels: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an image of which a later level is larger than the first, which is read.

    Parameters
    ----------
    path
        The Zarr, for messages.
    group
        Group of the package zarr.
    levels
        The "datasets" of the image, the first of them an array of the group.

    Raises
    ------
    InputError
        As said.
    """
    first = group[levels[0]["path"]].shape[-2:]
    for level in levels[1:_LEVELS]:
        try:
            size = group[level["path"]].shape[-2:]
        except Exception:  # noqa: BLE001, S112 - a level that nobody reads may be missing or damaged
            continue
        if any(later > sooner for later, sooner in zip(size, first, strict=False)):
            finer, coarser = (str(one["path"])[:80] for one in (level, levels[0]))
            sides = [" x ".join(map(str, sides)) for sides in (size, first)]
            raise InputError(
                path, "does not list its finest level first but "
                f"{finer!r} of {sides[0]} pixels after {coarser!r} of {sides[1]}; name its array "
                f"{finer} instead, or put that first in \"datasets\"",
            )  # fmt: skip


def other_images(images: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What to tell the user of the images of a Zarr of which the first is read.

    Examples
    --------
    >>> other_images([{"datasets": [{"path": "0"}]}])
    ()
    >>> other_images([{"datasets": [{"path": "0"}]}, {"datasets": [{"path": "b/0"}]}])[0][:30]
    'holds 2 images (multiscales); '
    """
    if all(image == images[0] for image in images):
        return ()
    return (
        f"holds {len(images)} images (multiscales); the first of them is read, name an array for "
        "another",
    )


def coded_numbers(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """What the attributes of an array say of its numbers in the words of CF, for the user.

    Examples
    --------
    >>> coded_numbers({"scale_factor": 0.5, "add_offset": 0.0, "_FillValue": float("nan")})
    ('says how its numbers are to be scaled (CF: scale_factor 0.5); they are read as stored',)
    >>> coded_numbers({"_FillValue": -1})
    ('calls -1 the number of missing pixels (_FillValue); it is read as any other',)
    """
    found = []
    plain = {"scale_factor": 1, "add_offset": 0}
    told = {name: attributes[name] for name in plain if name in attributes}
    if any(value != plain[name] for name, value in told.items()):
        words = ", ".join(f"{n} {str(v)[:40]}" for n, v in told.items() if v != plain[n])
        found.append(
            f"says how its numbers are to be scaled (CF: {words}); they are read as stored"
        )
    for name in ("_FillValue", "missing_value"):
        value = attributes.get(name)
        if value is not None and value == value and value not in _NOT_A_NUMBER:
            found.append(
                f"calls {str(value)[:40]} the number of missing pixels ({name}); it is read as any "
                "other"
            )
    return tuple(found)


def dimension_names(array: Any) -> list[str]:
    """Names of the axes of a Zarr array, "I" for one without; [] where none has a name.

    In Zarr v3 they are part of the metadata; xarray writes them into an attribute of v2, and calls
    axes without a name dim_0, dim_1, ...

    Parameters
    ----------
    array
        Array of the package zarr.

    Raises
    ------
    TypeError, ValueError
        The attribute of xarray is not a list of a name for each axis.
    """
    names = getattr(array.metadata, "dimension_names", None)
    if not names:
        names = array.attrs.get("_ARRAY_DIMENSIONS") or ()
        if (not isinstance(names, list) and names) or any(not isinstance(n, str) for n in names):
            raise TypeError(f"_ARRAY_DIMENSIONS {str(names)[:80]} is not a list of names")
        if names and len(names) != array.ndim:
            raise ValueError(f"_ARRAY_DIMENSIONS names {len(names)} of {array.ndim} axes")
    named = [None if name is None or _UNNAMED.fullmatch(name) else name for name in names]
    return [name or "I" for name in named] if any(named) else []


def pixel_sizes(levels: Iterable[Mapping[str, Any]], dimensions: int) -> list[float]:
    """Size of a pixel along each axis, from the scales of a level and of the whole image.

    [] where there is no scale, or one is not a list of a finite number for each axis.

    Examples
    --------
    >>> level = {"coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.25]}]}
    >>> image = {"coordinateTransformations": [{"type": "scale", "scale": [10, 10]}]}
    >>> pixel_sizes([level], 2), pixel_sizes([level, image], 2), pixel_sizes([{}, {}], 2)
    ([0.5, 0.25], [5.0, 2.5], [])
    """
    found: list[float] = []
    for level in levels:
        steps = level.get("coordinateTransformations")
        for step in steps if isinstance(steps, list) else ():
            if not isinstance(step, Mapping) or step.get("type") != "scale":
                continue
            scale = step.get("scale")
            if not isinstance(scale, list) or len(scale) != dimensions:
                return []
            if not all(type(side) in (int, float) and abs(side) < _GIANT for side in scale):
                return []
            found = [a * b for a, b in zip(found or [1.0] * dimensions, scale, strict=True)]
    return found
