"""Which label files a command line means: stacks, images, folders of masks, folders, globs.

A folder that holds a folder `masks`, or is one, is a single image with one mask file per cell
(Data Science Bowl 2018). Any other folder stands for the label files in it and for the folders of
masks and Zarr arrays one level below. A name with `*`, `?` or `[` that is no file is a pattern.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiling.faults import InputError
from tiling.input_file import as_input_error
from tiling.zarr_checks import is_zarr_folder

__all__ = ["MAP_ENDING", "LabelFile", "find_label_files", "named_as_map", "refuse_same_names"]

MAP_ENDING = ".weights.tif"
PREVIEW_ENDING = ".weights.png"
_TIFF = (".tif", ".tiff", ".btf", ".tf8")
_IMAGE = (".png",)


@dataclass(frozen=True)
class LabelFile:
    """One annotation: a TIFF, a PNG, or a folder with one mask per cell.

    Parameters
    ----------
    path
        The file, or the folder of the masks.
    stem
        Name of the annotation, without folder and ending.
    container
        ``"tiff"``, ``"image"``, ``"masks"`` or ``"zarr"``.
    """

    path: Path
    stem: str
    container: str

    @property
    def parts(self) -> tuple[Path, ...]:
        """The files it is read from, sorted by name."""
        if self.container == "zarr":
            return tuple(sorted(p for p in self.path.rglob("*") if p.is_file()))
        if self.container != "masks":
            return (self.path,)
        return tuple(p for p in _inside(self.path) if p.suffix.lower() in _TIFF + _IMAGE)

    @property
    def files(self) -> tuple[Path, ...]:
        """The same, a Zarr folder taken as one."""
        return (self.path,) if self.container == "zarr" else self.parts


def find_label_files(names: Iterable[str | Path]) -> list[LabelFile]:
    """Return the label files behind the words of a command line, in their order, each once.

    Parameters
    ----------
    names
        Files, folders and patterns.

    Raises
    ------
    InputError
        For a name or pattern behind which there is nothing.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.tif", "a.png", "a.weights.tif", "notes.txt"):
    ...         _ = (Path(folder) / name).write_bytes(b"x")
    ...     [file.stem for file in find_label_files([folder])]
    ['a', 'b']
    """
    found: dict[Path, LabelFile] = {}
    for name in names:
        with as_input_error(name):
            files = _behind(os.fspath(name))
        for file in files:
            found.setdefault(file.path.absolute(), file)
    return list(found.values())


def refuse_same_names(files: Sequence[LabelFile], out: Path | None = None) -> None:
    """Raise `InputError` if two annotations would be written to one output, naming both.

    Parameters
    ----------
    files
        The annotations.
    out
        Folder of the outputs; None: each beside its annotation.

    Raises
    ------
    InputError
        Two have one name.

    Examples
    --------
    >>> refuse_same_names([LabelFile(Path("a/x.tif"), "x", "tiff")])
    """
    seen: dict[tuple[Path, str], LabelFile] = {}
    for file in files:
        folder = file.path.absolute().parent if out is None else out
        # Upper and lower case are one name on some disks.
        other = seen.setdefault((folder, file.stem.casefold()), file)
        if other is not file:
            raise InputError(
                file.path,
                f"would be written to the same output as {other.path} ({file.stem}{MAP_ENDING}); "
                "use another --out for one of them, or rename it",
            )


def named_as_map(path: Path) -> bool:
    """Whether a file has the name of a weight map or its picture, which may lie beside labels.

    Examples
    --------
    >>> [named_as_map(Path(name)) for name in ("1.tif", "1.weights.tif", "1.weights.png")]
    [False, True, True]
    """
    return path.name.lower().endswith((MAP_ENDING, PREVIEW_ENDING))


def _behind(name: str) -> list[LabelFile]:
    if not name:
        raise InputError("''", "is an empty name; name a file or folder ('.' is this one)")
    path = Path(name)
    if path.is_dir():
        found = _of_folder(path)
        if not found:
            raise InputError(
                name, "holds no label files (.tif, .tiff, .png or folders of masks); check its name"
            )
        return found
    if os.path.lexists(name):
        return [_of_file(path)]
    if glob.has_magic(name):
        matches = [Path(m) for m in sorted(glob.glob(name))]  # noqa: PTH207 - absolute ones too
        files = [f for m in matches for f in (_of_folder(m) if m.is_dir() else _if_label(m))]
        if not files:
            raise InputError(name, "no label file matches this pattern")
        return files
    raise InputError(name, "no such file or folder; check the name")


def _of_folder(folder: Path) -> list[LabelFile]:
    if is_zarr_folder(folder):
        stem = folder.absolute().name.removesuffix(".zarr")
        return [LabelFile(folder, stem.removesuffix(".ome"), "zarr")]
    if folder.absolute().name == "masks":
        return [LabelFile(folder, folder.absolute().parent.name, "masks")]
    if (folder / "masks").is_dir():
        return [LabelFile(folder / "masks", folder.absolute().name, "masks")]
    found = []
    for path in _inside(folder):
        if path.is_dir():
            one_image = (path / "masks").is_dir() or is_zarr_folder(path)
            found += _of_folder(path) if one_image else []
        else:
            found += _if_label(path)
    return found


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise InputError(folder, f"cannot be listed: {error.strerror}") from error


def _if_label(path: Path) -> list[LabelFile]:
    """The file as a label file, if its ending says so and it is no output of ours."""
    taken = path.name.lower().endswith(_TIFF + _IMAGE) and not named_as_map(path)
    return [_of_file(path)] if taken else []


def _of_file(path: Path) -> LabelFile:
    stem, container = path.stem, "image" if path.suffix.lower() in _IMAGE else "tiff"
    if stem.lower().endswith(".ome"):
        stem = stem[: -len(".ome")]
    return LabelFile(path, stem, container)
