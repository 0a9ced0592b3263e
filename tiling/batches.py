"""What the function is given, call by call: tiles with their mirrored context."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.band import RowBand
from tiling.certificate import SeamWatch
from tiling.mirror import Source, read_mirrored, reflected
from tiling.plan import Plan, Tile, Window
from tiling.tally import Tally

__all__ = ["Batch", "batches"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Input of one call of the function; `tiles` is empty for the probe."""

    row: int
    column: int
    tiles: list[Tile]
    array: Array


def batches(
    source: Source, tiles: Plan, batch: int, watch: SeamWatch, tally: Tally
) -> Iterator[Batch]:
    """Inputs of the function in the order of the plan, the probe's beside the first band."""
    geometry = tiles.geometry
    probe_row, probe = watch.probe_row, watch.probe_read
    reads = [tiles.tile(0, column).read for column in (0, tiles.columns - 1)]
    reads += [] if probe is None else [probe]  # at the paper's step it may begin left of all tiles
    left, right = min(read[2] for read in reads), max(read[3] for read in reads)
    across = reflected(left, right, tiles.shape[1])
    band = RowBand(source, geometry.input + tiles.step, (int(across.min()), int(across.max()) + 1))
    tally.row_bytes = band.nbytes

    def filled(windows: list[Window]) -> Array:
        channels = band.shape[0] if len(band.shape) == 3 else 1
        side = windows[0][1] - windows[0][0]
        array = np.empty((len(windows), channels, side, side), band.dtype.newbyteorder("="))
        for one, window in zip(array, windows, strict=True):
            one[...] = read_mirrored(band, *window)
        tally.batch_bytes = max(tally.batch_bytes, array.nbytes)
        return array

    def probing() -> Iterator[Batch]:
        if probe is not None:
            yield Batch(probe_row, 0, [], filled([probe]))

    if tiles.rows == probe_row + 1:  # what it is compared with ends with this band
        yield from probing()
    little_by_little = getattr(source, "keeps_rows", False)
    for row in range(probe_row, tiles.rows):
        goal = tiles.tile(row + 1, 0).read[1] if row + 1 < tiles.rows else 0
        for column in range(0, tiles.columns, batch):
            end = min(column + batch, tiles.columns)
            group = [tiles.tile(row, i) for i in range(column, end)]
            yield Batch(row, column, group, filled([tile.read for tile in group]))
            if little_by_little:  # else the first tile of the next row would wait for all its rows
                rest = max(0, goal - band.bottom)
                band.read_on(goal - rest * (tiles.columns - end) // (tiles.columns - column), goal)
        if row == probe_row and tiles.rows > row + 1:
            yield from probing()
