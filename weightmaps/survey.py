"""The first pass over an annotation: what it holds, and whether its map already exists.

Class weights that balance a whole data set need the counts of all files before the first map.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiling.disk import real_target
from tiling.faults import InputError, WriteError
from weightmaps.annotations import MAP_ENDING, PREVIEW_ENDING, LabelFile
from weightmaps.blocks import Census, added_counts, census
from weightmaps.history import FORMAT, complete
from weightmaps.instance_source import InstanceSource
from weightmaps.label_reader import LabelReader, band_rows, changes_ns, identity
from weightmaps.label_rule import LabelRule
from weightmaps.map_file import Shape, intact
from weightmaps.spec import LINES, WeightMapSpec
from weightmaps.volumes import check_memory, volume_census, volume_of

__all__ = ["Request", "Survey", "survey"]

LARGE_PX = 1 << 26  # pages above 8192 x 8192 pixels are not held in memory as a whole


@dataclass(frozen=True)
class Request:
    """Everything that decides the bytes of the maps, save the labels.

    Parameters
    ----------
    spec
        Parameters of the map.
    rule
        How label values are taken.
    dtype
        ``"float32"`` or ``"float16"``.
    volume
        Stacks are true volumes.
    block_rows
        Rows of a block, or None: whole pages up to `LARGE_PX` pixels. Changes no byte.
    out
        Folder of the maps; None: each beside its labels.
    """

    spec: WeightMapSpec
    rule: LabelRule
    dtype: str
    volume: bool
    block_rows: int | None
    out: Path | None

    def parameters(self) -> dict[str, Any]:
        """Return what a map of ours must have been made with to be up to date."""
        rule = self.rule
        return self.spec.to_dict() | {
            "dtype": self.dtype,
            "volume": self.volume,
            "labels": rule.kind,
            "connectivity": rule.connectivity,
            "inside": rule.inside,
            "threshold": rule.threshold,
        }

    def output(self, file: LabelFile) -> Path:
        """Path of the map of `file`."""
        return self.folder(file) / f"{file.stem}{MAP_ENDING}"

    def picture(self, file: LabelFile) -> Path:
        """Path of the preview of the map of `file`."""
        return self.folder(file) / f"{file.stem}{PREVIEW_ENDING}"

    def folder(self, file: LabelFile) -> Path:
        """Folder of the map of `file`."""
        return file.path.parent if self.out is None else self.out

    def rows_of(self, reader: LabelReader) -> int:
        """Rows of a block of this file: all of them where a page fits into memory."""
        if self.block_rows is not None:
            return self.block_rows
        large = reader.height * reader.width > LARGE_PX
        return band_rows(reader.width) if large else reader.height


@dataclass(frozen=True)
class Survey:
    """What is known of an annotation after the first pass.

    Parameters
    ----------
    file, shape, rows
        The annotation, size and type of its map, rows of a block.
    identity, changes_ns, sha256
        What tells that the labels are still the same.
    kind
        ``"mask"``, ``"instances"`` or ``"classes"``.
    counts
        Background and cell pixels after carving, or pixels of each class.
    cells, pairs, overlap_px
        Instances and touching pairs (of all pages), pixels claimed by several masks.
    resolution
        Pixels per unit of the label file.
    inverted
        The file is a mask stored as MinIsWhite, zero being white and hence inside.
    found
        History of the map that is already there, or None.
    doubts
        What the label file says that was not followed, one sentence each.
    damaged
        That map's pixels no longer have their hash.
    seconds
        Time spent.
    """

    file: LabelFile
    shape: Shape
    rows: int
    identity: tuple[tuple[int, ...], ...]
    changes_ns: tuple[int, ...]
    sha256: str
    kind: str
    counts: tuple[int, ...]
    cells: int
    pairs: int
    overlap_px: int = 0
    resolution: tuple[float, float, str] | None = None
    inverted: bool = False
    found: dict[str, Any] | None = field(default=None, compare=False)
    damaged: bool = False
    doubts: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def labels_history(self) -> dict[str, Any]:
        """Return what a map says about its labels."""
        name = self.file.stem if self.file.container == "masks" else self.file.path.name
        return {
            "name": name.encode("ascii", "backslashreplace").decode()[:256],
            "sha256": self.sha256,
            "taken_as": self.kind,
            "counts": list(self.counts),
            "overlap_px": self.overlap_px,
        }


def survey(task: tuple[LabelFile, Request]) -> Survey:
    """Return the survey of one annotation; its counts come from an existing map where they can.

    Raises
    ------
    InputError
        The labels cannot be used.
    WriteError
        Something that is no weight map of ours has the name of the output.
    """
    file, request = task
    start = time.perf_counter()
    found, damaged = _existing(request.output(file))
    before, changes = identity(file), changes_ns(file)
    with LabelReader(file, request.rule) as reader:
        digest = reader.sha256()
        shape = Shape(reader.pages, reader.height, reader.width, request.dtype)
        known = _counts_in(found, digest, request)
        if known is None:
            known = _counted(reader, request)
        reader.check_unchanged()
        return Survey(
            file, shape, request.rows_of(reader), before, changes, digest, *known,
            resolution=reader.resolution, inverted=reader.inverted and known[0] == "mask",
            found=found, damaged=damaged, doubts=reader.doubts, seconds=time.perf_counter() - start,
        )  # fmt: skip


Known = tuple[str, tuple[int, ...], int, int, int]


def _existing(output: Path) -> tuple[dict[str, Any] | None, bool]:
    """History of the map that is already there, and whether it is damaged."""
    target = real_target(output)
    if not target.exists():
        return None, False
    if not target.is_file():
        raise WriteError(output, "is a folder, pipe or device, not a file; choose another --out")
    try:
        read = intact(target)
    except InputError:
        return {}, True
    return ({}, False) if read is None or not complete(read[0]) else (read[0], not read[1])


def _counts_in(found: dict[str, Any] | None, digest: str, request: Request) -> Known | None:
    """What an earlier run counted in the same labels, taken in the same way."""
    if not found or found.get("format") != FORMAT:
        return None
    labels, old = found.get("labels"), found.get("parameters")
    if not isinstance(labels, dict) or not isinstance(old, dict) or labels.get("sha256") != digest:
        return None
    new = request.parameters()
    decisive = ("labels", "connectivity", "inside", "threshold", "ignore_label", "volume")
    same_carving = LINES.get(str(old.get("separate")), "") == request.spec.line
    if not same_carving or any(old.get(name) != new[name] for name in decisive):
        return None
    try:
        counts = tuple(int(n) for n in labels["counts"])
        numbers = int(found["cells"]), int(found["touching_pairs"]), int(labels["overlap_px"])
        return str(labels["taken_as"]), counts, *numbers
    except (KeyError, TypeError, ValueError):
        return None


def _counted(reader: LabelReader, request: Request) -> Known:
    kind = reader.kind()
    rows = request.rows_of(reader)
    if request.volume:
        check_memory(reader.file.path, (reader.pages, reader.height, reader.width), request.spec)
        found = [volume_census(*volume_of(reader, kind), request.spec)]
    else:
        sources = (InstanceSource(reader, page, kind, rows) for page in range(reader.pages))
        found = [_page_census(source, request, rows) for source in sources]
    counts = functools.reduce(added_counts, (one.counts for one in found))
    cells, pairs = sum(len(one.ids) for one in found), sum(len(one.pairs) for one in found)
    return kind, tuple(counts.tolist()), cells, pairs, reader.overlap_px


def _page_census(source: InstanceSource, request: Request, rows: int) -> Census:
    return census(source, request.spec, classes=source.classes, block_rows=rows)
