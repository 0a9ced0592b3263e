"""The first pass over an annotation: what it holds, and whether its map already exists.

Class weights that balance a whole data set need the counts of all files before the first map.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.disk import real_target
from tiling.faults import InputError, WriteError
from weightmaps.annotations import MAP_ENDING, LabelFile
from weightmaps.blocks import Census, census
from weightmaps.history import FORMAT
from weightmaps.instance_source import InstanceSource, instance_source
from weightmaps.label_reader import LabelReader, band_rows, identity
from weightmaps.label_rule import LabelRule
from weightmaps.map_file import Shape, intact
from weightmaps.spec import LINES, WeightMapSpec

__all__ = ["Request", "Survey", "survey", "volume_of"]

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
        Folder of the maps.
    """

    spec: WeightMapSpec
    rule: LabelRule
    dtype: str
    volume: bool
    block_rows: int | None
    out: Path

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
        return self.out / f"{file.stem}{MAP_ENDING}"

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
    identity, sha256
        What tells that the labels are still the same.
    kind
        ``"mask"`` or ``"instances"``.
    counts
        Background and cell pixels after carving.
    cells, pairs, overlap_px
        Instances and touching pairs (of all pages), pixels claimed by several masks.
    resolution
        Pixels per unit of the label file.
    found
        History of the map that is already there, or None.
    damaged
        That map's pixels no longer have their hash.
    seconds
        Time spent.
    """

    file: LabelFile
    shape: Shape
    rows: int
    identity: tuple[tuple[int, ...], ...]
    sha256: str
    kind: str
    counts: tuple[int, int]
    cells: int
    pairs: int
    overlap_px: int = 0
    resolution: tuple[float, float, str] | None = None
    found: dict[str, Any] | None = field(default=None, compare=False)
    damaged: bool = False
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
    found, damaged = _existing(request.output(file), file)
    before = identity(file)
    with LabelReader(file, request.rule) as reader:
        digest = reader.sha256()
        shape = Shape(reader.pages, reader.height, reader.width, request.dtype)
        known = _counts_in(found, digest, request)
        if known is None:
            known = _counted(reader, request)
        reader.check_unchanged()
        return Survey(
            file, shape, request.rows_of(reader), before, digest, *known,
            resolution=reader.resolution, found=found, damaged=damaged,
            seconds=time.perf_counter() - start,
        )  # fmt: skip


Known = tuple[str, tuple[int, int], int, int, int]


def _existing(output: Path, file: LabelFile) -> tuple[dict[str, Any] | None, bool]:
    """History of the map that is already there, and whether it is damaged."""
    target = real_target(output)
    if not target.exists():
        return None, False
    if any(part.exists() and target.samefile(part) for part in file.parts):
        raise WriteError(output, f"is also the input {file.path}; choose another --out")
    if not target.is_file():
        raise WriteError(output, "is a folder, pipe or device, not a file; choose another --out")
    try:
        read = intact(target)
    except InputError:
        return {}, True
    return ({}, False) if read is None else (read[0], not read[1])


def _counts_in(found: dict[str, Any] | None, digest: str, request: Request) -> Known | None:
    """What an earlier run counted in the same labels, taken in the same way."""
    if not found or found.get("format") != FORMAT:
        return None
    labels, old = found.get("labels"), found.get("parameters")
    if not isinstance(labels, dict) or not isinstance(old, dict) or labels["sha256"] != digest:
        return None
    new = request.parameters()
    decisive = ("labels", "connectivity", "inside", "threshold", "ignore_label", "volume")
    same_carving = LINES.get(str(old.get("separate")), "") == request.spec.line
    if not same_carving or any(old.get(name) != new[name] for name in decisive):
        return None
    try:
        background, cell = (int(n) for n in labels["counts"])
        numbers = int(found["cells"]), int(found["touching_pairs"]), int(labels["overlap_px"])
        return str(labels["taken_as"]), (background, cell), *numbers
    except (KeyError, TypeError, ValueError):
        return None


def _counted(reader: LabelReader, request: Request) -> Known:
    kind = reader.kind()
    if request.volume:
        return kind, *_volume_counts(volume_of(reader, kind), request.spec), reader.overlap_px
    rows = request.rows_of(reader)
    counts, cells, pairs = np.zeros(2, np.int64), 0, 0
    for page in range(reader.pages):
        source = instance_source(reader, page, kind, rows)
        seen = _page_census(source, request, rows)
        counts += seen.counts
        cells += len(seen.ids)
        pairs += len(seen.pairs)
    return kind, (int(counts[0]), int(counts[1])), cells, pairs, reader.overlap_px


def _page_census(source: InstanceSource, request: Request, rows: int) -> Census:
    return census(source, request.spec, block_rows=rows)


def volume_of(reader: LabelReader, kind: str) -> npt.NDArray[Any]:
    """Return the instance labels of a true volume ``(Z, Y, X)``; its masks are labelled in 3-D."""
    from scipy import ndimage

    from weightmaps.label_rule import ids_of

    if kind == "instances":
        pages = [instance_source(reader, z, kind) for z in range(reader.pages)]
        return np.stack([p[..., 0 : reader.height, 0 : reader.width] for p in pages])
    values = np.stack([reader.rows(z, 0, reader.height) for z in range(reader.pages)])
    reach = 1 if reader.rule.connectivity == 4 else 3
    structure = ndimage.generate_binary_structure(3, reach)
    components = np.empty(values.shape, np.int32)
    inside = np.stack([reader.inside(z, 0, reader.height) for z in range(reader.pages)])
    ndimage.label(inside, structure=structure, output=components)
    return ids_of(components, values, reader.rule)


def _volume_counts(
    labels: npt.NDArray[Any], spec: WeightMapSpec
) -> tuple[tuple[int, int], int, int]:
    """Counts, cells and touching pairs (26 neighbours) of a volume."""
    from weightmaps.labels import SCANNED_3D, separate_touching_volume

    ignored = np.zeros(labels.shape, np.bool_)
    if spec.ignore_label is not None:
        ignored = labels == spec.ignore_label
    cells = np.where(ignored, labels.dtype.type(0), labels)
    carved = cells if spec.line is None else separate_touching_volume(cells, method=spec.line)
    inner = int(np.count_nonzero(carved))
    pairs = set()
    for offset in SCANNED_3D:
        here, there = (
            tuple(
                slice(max(0, s * d), n - max(0, -s * d))
                for d, n in zip(offset, cells.shape, strict=True)
            )
            for s in (-1, 1)
        )
        a, b = cells[here], cells[there]
        meet = (a != b) & (a != 0) & (b != 0)
        low, high = np.minimum(a[meet], b[meet]), np.maximum(a[meet], b[meet])
        pairs |= set(zip(low.tolist(), high.tolist(), strict=True))
    background = cells.size - int(np.count_nonzero(ignored)) - inner
    return (background, inner), int(np.count_nonzero(np.unique(cells))), len(pairs)
