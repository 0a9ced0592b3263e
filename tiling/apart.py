"""No output of a command is one of its inputs, whatever either is called."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path

from tiling.disk import StrPath, real_target
from tiling.faults import WriteError

__all__ = ["check_apart"]


def check_apart(outputs: Iterable[StrPath], inputs: Iterable[StrPath]) -> None:
    """Refuse a command that would write over something it reads, before anything is written.

    Files are told apart by what they are on the disk: links and other spellings do not hide them.

    Parameters
    ----------
    outputs
        Everything the command writes; a name that ends in `.zarr` is a folder that is replaced.
    inputs
        Everything it reads.

    Raises
    ------
    WriteError
        If an output is an input, holds one (a Zarr folder) or lies in one, is written twice, or if
        an input bears the hidden name of its unfinished file.

    Examples
    --------
    >>> check_apart(["a.prob.tif", "b.prob.tif"], ["a.tif", "b.tif"])
    >>> check_apart(["a.prob.tif", "b.prob.tif"], ["a.tif", "./a.prob.tif"])
    Traceback (most recent call last):
        ...
    tiling.faults.WriteError: a.prob.tif: is also the input ./a.prob.tif; choose another
    output name
    """
    read: dict[Hashable, str] = {}
    folders: dict[Path, str] = {}
    arrays: dict[Path, str] = {}
    hidden: dict[Path, str] = {}
    for source in inputs:
        name = os.fsdecode(source)
        with contextlib.suppress(WriteError):  # no name of a file: its reader says so
            for mark in _marks(name):
                read.setdefault(mark, name)
            real, given = real_target(name), Path(name).absolute()
            for folder in real.parents:
                folders.setdefault(folder, name)
            if real.is_dir():
                arrays[real] = name
            for path in (real, *real.parents, given, *given.parents):
                if path.name.startswith("."):
                    hidden.setdefault(path, name)
    written: dict[Path, str] = {}
    for output in outputs:
        name, target = os.fsdecode(output), real_target(output)
        found = next((f"input {read[mark]}" for mark in _marks(name) if mark in read), "")
        if target in written:
            found = f"output {written[target]}"
        if found:
            raise WriteError(name, f"is also the {found}; choose another output name")
        if target.suffix.lower() == ".zarr" and target in folders:
            raise WriteError(name, f"holds the input {folders[target]}; choose another output name")
        for folder in target.parents:
            if folder in arrays:
                raise WriteError(name, f"lies in the input {arrays[folder]}; choose another place")
        for path, source_name in hidden.items():
            if path.parent == target.parent and path.name.startswith(f".{target.name}."):
                raise WriteError(
                    name,
                    f"its unfinished file would take the name of the input {source_name}; rename"
                    " the input, or choose another output name",
                )
        written[target] = name


def _marks(name: str) -> Iterator[Hashable]:
    """What a file is known by: its real path and, where it exists, its place on the disk."""
    yield real_target(name)
    try:
        found = os.stat(name)  # noqa: PTH116 - any bytes
    except (OSError, ValueError):
        return
    if found.st_ino:  # 0 where the system does not number files
        yield found.st_dev, found.st_ino
