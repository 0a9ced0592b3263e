"""Which image belongs to which labels: folders paired by stem, and one-mask-per-cell folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tiling.faults import InputError
from tiling.input_file import as_input_error
from weightmaps.annotations import named_as_map

__all__ = ["cell_mask_folders", "image_files", "pairs"]

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".png")
FOREIGN = (".jpg", ".jpeg", ".bmp", ".gif")
SHOWN = 5  # files listed in a message


def image_files(folder: Path) -> dict[str, Path]:
    """TIFF and PNG files of a folder by stem, in the order of their names (numbers by value).

    Hidden files, files of other kinds and what `unet2015 weights` wrote beside its labels are left
    out; JPEG, BMP and GIF are refused, so that no image is left out silently.

    Raises
    ------
    InputError
        If there is no image, two have the same stem, or the folder cannot be listed.
    """
    found: dict[str, Path] = {}
    with as_input_error(folder):
        listed = sorted(folder.iterdir(), key=lambda path: _natural(path.name))
    for path in listed:
        suffix = path.suffix.lower()
        if path.name.startswith(".") or suffix not in SUFFIXES + FOREIGN or named_as_map(path):
            continue
        if suffix in FOREIGN:
            raise InputError(path, "images are read from TIFF or PNG; convert it without loss")
        if path.stem in found:
            raise InputError(
                folder, f"holds both {found[path.stem].name} and {path.name}; keep one of the two"
            )
        found[path.stem] = path
    if not found:
        maps = " besides weight maps" if any(named_as_map(path) for path in listed) else ""
        raise InputError(folder, f"holds no TIFF or PNG file{maps}")
    return found


def pairs(
    images: Path, labels: Path, *, alone: Literal["refused", "left out"] = "refused"
) -> list[tuple[str, Path, Path]]:
    """(name, image file, label file) for two folders whose files have the same stems.

    Where no stem is the same in both, files are paired by the number their stems end in
    (t012.tif with man_seg012.tif), if these numbers are unique. `alone` says what happens to
    images without labels; labels without their image are always refused.

    Raises
    ------
    InputError
        If a file has no partner; the first few are named. If no image has one.
    """
    ours, theirs = image_files(images), image_files(labels)
    if not ours.keys() & theirs.keys():
        by_number = _by_number(ours), _by_number(theirs)
        if by_number[0] and by_number[1]:
            ours, theirs = by_number
    if alone == "left out" and ours.keys() & theirs.keys():
        ours = {key: path for key, path in ours.items() if key in theirs}
    for folder, here, there, other, remedy in (
        (labels, ours, theirs, "image", "; --only-labelled leaves images without labels out"),
        (images, theirs, ours, "label file", ""),
    ):
        lonely = [here[key].name for key in here if key not in there]
        if lonely:
            listed = ", ".join(lonely[:SHOWN]) + (", ..." if len(lonely) > SHOWN else "")
            raise InputError(
                folder,
                f"has no partner for {len(lonely)} {other}{'s' if len(lonely) > 1 else ''}"
                f" ({listed}); partners have the same name up to the ending{remedy}",
            )
    return [(ours[key].stem, ours[key], theirs[key]) for key in ours]


def cell_mask_folders(root: Path) -> dict[str, tuple[Path, list[Path]]] | None:
    """Image and cell masks of each sample of a folder <id>/images/*.png + <id>/masks/*.png.

    Returns
    -------
    dict or None
        id -> (image, masks), or None if the folder is not of this kind.

    Raises
    ------
    InputError
        If a sample lacks its image or its masks, has several images, or cannot be listed.
    """
    with as_input_error(root):
        if not root.is_dir():
            return None
        samples = sorted(path for path in root.iterdir() if (path / "images").is_dir())
    if not samples:
        return None
    found = {}
    for sample in samples:
        images = list(image_files(sample / "images").values())
        if len(images) != 1:
            raise InputError(sample, f"has {len(images)} files in images/; one was expected")
        if not (sample / "masks").is_dir():
            raise InputError(sample, "has no folder masks/ beside images/")
        found[sample.name] = (images[0], list(image_files(sample / "masks").values()))
    return found


def _by_number(files: Mapping[str, Path]) -> dict[str, Path]:
    """The files by the number their stem ends in; empty if one has none or two share it."""
    found: dict[str, Path] = {}
    for stem, path in files.items():
        match = re.search(r"[0-9]+$", stem)
        number = match[0].lstrip("0") or "0" if match else ""
        if not number or number in found:
            return {}
        found[number] = path
    return found


def _natural(name: str) -> tuple[list[tuple[int, str]], bytes]:
    """Sort key that counts: slice2 before slice10."""
    words = re.split(r"([0-9]+)", name)
    return [(int(w), "") if w.isdecimal() and w.isascii() else (-1, w) for w in words], os.fsencode(
        name
    )
