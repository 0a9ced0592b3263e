"""True volumes: instance labels in memory, weights slab by slab, a slab being some pages.

A page depends on the pages within the reach of the border term above and below it, so the map of
a slab with that context equals the map of the whole volume bit for bit, at a tenth of its memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.faults import MemoryFault
from tiling.memory import free_memory
from weightmaps.blocks import Census, added_counts, class_pixels
from weightmaps.carving import separate_touching_volume
from weightmaps.formula import map_of_volume
from weightmaps.instance_source import InstanceSource
from weightmaps.label_reader import LabelReader
from weightmaps.label_rule import ids_of
from weightmaps.multiclass import map_of_classes
from weightmaps.spec import WeightMapSpec
from weightmaps.touching import touching_pairs

__all__ = ["check_memory", "slab_pages", "volume_census", "volume_of", "volume_pages"]

_CENSUS_VOXELS = 1 << 24
_WORK_BYTES = 64  # of a voxel of a slab while its distances are measured
_HELD_BYTES = 24  # of a voxel of the volume: its values, ids, and copies while they are numbered

Volume = npt.NDArray[Any]


def volume_of(reader: LabelReader, kind: str) -> tuple[Volume, Volume | None]:
    """Return the instance labels of a true volume ``(Z, Y, X)``, and its classes if it has any.

    Masks and classes are labelled in 3-D: 6 neighbours for connectivity 4, 26 for 8.
    """
    from scipy import ndimage

    if kind == "instances":
        pages = [InstanceSource(reader, z, kind) for z in range(reader.pages)]
        return np.stack([p[..., 0 : reader.height, 0 : reader.width] for p in pages]), None
    values = np.stack([reader.rows(z, 0, reader.height) for z in range(reader.pages)])
    structure = ndimage.generate_binary_structure(3, 1 if reader.rule.connectivity == 4 else 3)
    if kind == "mask":
        components = np.empty(values.shape, np.int32)
        inside = np.stack([reader.inside(z, 0, reader.height) for z in range(reader.pages)])
        ndimage.label(inside, structure=structure, output=components)
        return ids_of(components, values, reader.rule), None
    components = np.zeros(values.shape, np.int32)
    found = 0
    for value in np.unique(values).tolist():
        if value not in (0, reader.rule.ignore_label):
            part, more = ndimage.label(values == value, structure=structure)
            components[part > 0] = part[part > 0] + found
            found += more
    return ids_of(components, values, reader.rule), values


def volume_pages(
    labels: Volume, classes: Volume | None, spec: WeightMapSpec, dtype: npt.DTypeLike, pages: int
) -> Iterator[Volume]:
    """Yield the weight map of a volume page by page, computed in slabs of some pages.

    Parameters
    ----------
    labels, classes
        From `volume_of`.
    spec
        Parameters; class weights as numbers, or a form that needs no counts.
    dtype
        Type of the map.
    pages
        Pages of a slab. Changes memory and time, no bit.

    Raises
    ------
    ValueError
        As `map_of_volume`.
    """
    halo = _halo_pages(spec)
    for first in range(0, len(labels), pages):
        last = min(len(labels), first + pages)
        begin, end = max(0, first - halo), min(len(labels), last + halo)
        begin -= begin % 2 if spec.line == "watershed" else 0  # the flooding goes by parity
        slab = labels[begin:end]
        if classes is None:
            weights = map_of_volume(slab, spec, dtype)
        else:
            weights = map_of_classes(slab[None], classes[None, begin:end], spec, dtype)[0]
        yield from weights[first - begin : last - begin]


def _halo_pages(spec: WeightMapSpec) -> int:
    """Pages above and below a page that its weights depend on."""
    height = 1.0 if spec.spacing is None else spec.spacing[0]
    return math.floor(max(spec.reach_px, spec.class_reach_px) / height) + spec.line_reach_px


def slab_pages(shape: tuple[int, int, int], spec: WeightMapSpec) -> int:
    """Return how many pages of a volume a slab has: all, or what half of the free memory holds.

    Its context is measured anew for each slab, so slabs are as thick as they can be.
    """
    fit = free_memory() // 2 // (_WORK_BYTES * shape[1] * shape[2])
    return shape[0] if fit >= shape[0] else max(1, fit - 2 * _halo_pages(spec))


def check_memory(name: object, shape: tuple[int, int, int], spec: WeightMapSpec) -> None:
    """Raise `MemoryFault` if the map of a volume will not fit into the memory that is free.

    Parameters
    ----------
    name
        What the message calls it.
    shape
        Pages, height, width.
    spec
        Its sigma decides how many pages a page depends on.
    """
    count, height, width = shape
    slab = min(count, 1 + 2 * _halo_pages(spec))
    needed = height * width * (_HELD_BYTES * count + _WORK_BYTES * slab)
    free = free_memory()
    if needed > free:
        raise MemoryFault(
            f"{name}: a volume of {count} x {height} x {width} needs about"
            f" {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free; cut it into"
            " smaller volumes, or leave out --3d: slices need no more memory than one page"
        )


def volume_census(labels: Volume, classes: Volume | None, spec: WeightMapSpec) -> Census:
    """Return counts after carving, cells and touching pairs (26 neighbours) of a volume."""
    counts, pairs = np.zeros(2, np.int64), np.zeros((0, 2), np.int64)
    step = max(1, _CENSUS_VOXELS // max(1, labels[0].size))
    reach = max(1, spec.line_reach_px)
    ids = np.unique(labels)
    for first in range(0, len(labels), step):
        last = min(len(labels), first + step)
        begin = max(0, first - reach)
        begin -= begin % 2
        cells = labels[begin : min(len(labels), last + reach)]
        ignored = np.zeros(cells.shape, np.bool_)
        if spec.ignore_label is not None:
            ignored = cells == spec.ignore_label
            cells = np.where(ignored, cells.dtype.type(0), cells)
        inside = cells
        if spec.line is not None:
            inside = separate_touching_volume(cells, method=spec.line)
        inner = slice(first - begin, last - begin)
        kinds: Volume = inside[inner] != 0
        if classes is not None:
            kinds = np.where((cells[inner] != 0) & ~kinds, 0, classes[first:last])
        counts = added_counts(counts, class_pixels(kinds, ignored[inner]))
        met = touching_pairs(cells[: inner.stop]).astype(np.int64)
        pairs = np.unique(np.concatenate([pairs, met]), axis=0)
    return Census(counts, ids[(ids != 0) & (ids != (spec.ignore_label or 0))], pairs)
