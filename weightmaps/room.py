"""Whether the maps will fit on the disk, asked before the first of them is made.

Maps are compressed, ten to a hundred times where cells are far apart and hardly where they are
crowded. So where their uncompressed size would not fit, some rows of each are made and compressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tiling.disk import free_bytes
from tiling.faults import WriteError
from weightmaps.formula import map_of_slices
from weightmaps.instance_source import InstanceSource
from weightmaps.label_reader import LabelReader
from weightmaps.labels import instances_from_mask
from weightmaps.map_file import Outcome, Shape, packed_strips
from weightmaps.orders import Order

__all__ = ["check_room"]

_SAMPLES = 4
_SAMPLE_ROWS = 64


def check_room(todo: Sequence[Order]) -> None:
    """Raise `WriteError` if the maps still to be made will not fit on the disks they go to.

    Examples
    --------
    >>> check_room([])
    """
    disks: dict[int, list[Order]] = {}
    for order in todo:
        if not order.current:
            disks.setdefault(order.output.parent.stat().st_dev, []).append(order)
    for missing in disks.values():
        _check_disk(missing, missing[0].output.parent)


def _check_disk(missing: list[Order], folder: Path) -> None:
    free = free_bytes(folder)
    if free is None or sum(order.survey.shape.nbytes for order in missing) <= free:
        return
    needed = sum(_estimate(order) for order in missing)
    if needed > free:
        raise WriteError(
            folder,
            f"{len(missing)} weight maps need about {needed} bytes, {free} bytes are free; "
            "free some space or choose another --out",
        )


def _estimate(order: Order) -> int:
    """Compressed size of one map, from a few of its rows."""
    shape = order.survey.shape
    rows = min(shape.height, max(_SAMPLE_ROWS, shape.strip_rows))
    packed = 0
    with LabelReader(order.survey.file, order.rule) as reader:
        for k in range(_SAMPLES):
            place = int((k + 0.5) / _SAMPLES * shape.pages * shape.height)
            page, y = divmod(place, shape.height)
            packed += _packed_bytes(order, reader, page, min(y, shape.height - rows), rows)
    return packed * shape.pages * shape.height // (_SAMPLES * rows)


def _packed_bytes(order: Order, reader: LabelReader, page: int, top: int, rows: int) -> int:
    """Compressed size of some rows; a volume is taken for slices here."""
    spec, shape = order.spec, order.survey.shape
    y0, y1 = max(0, top - spec.halo_px), min(shape.height, top + rows + spec.halo_px)
    if order.survey.kind == "mask":
        labels = instances_from_mask(reader.inside(page, y0, y1))
        spec = replace(spec, ignore_label=None)
    else:
        source = InstanceSource(reader, page, order.survey.kind)
        labels = source[..., y0:y1, 0 : shape.width]
    spec = spec if spec.spacing is None else replace(spec, spacing=spec.spacing[-2:])
    if order.survey.kind == "classes":
        spec = replace(spec, class_weights="none")
    weights = map_of_slices(labels, spec, shape.dtype)[top - y0 : top - y0 + rows]
    band = Shape(1, rows, shape.width, shape.dtype)
    return sum(map(len, packed_strips([weights], band, Outcome())))
