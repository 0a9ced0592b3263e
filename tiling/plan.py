"""Cover an image with tiles: where each one reads (it may stick out) and where it writes.

The grid of output tiles starts at image pixel (0, 0), also for a region of the image: a region
starts at the multiple of the period at or below its corner, so that what is computed for it
equals the same pixels of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

from tiling.geometry import Geometry

__all__ = ["Plan", "Step", "Tile", "Window", "plan"]

Window = tuple[int, int, int, int]
"""(y0, y1, x0, x1), half open, in pixels of the whole image."""

Step = Literal["exact", "paper"]


@dataclass(frozen=True)
class Tile:
    """One tile: `read` (may reach outside the image), `write` (never does).

    Both are (y0, y1, x0, x1), half open, in pixels of the whole image.
    """

    read: Window
    write: Window


@dataclass(frozen=True)
class _Axis:
    """Tiles along one axis: origins `start + i * step`, writing within [low, high)."""

    start: int
    step: int
    low: int
    high: int
    output: int

    @property
    def count(self) -> int:
        # The last tile writes its whole output, so the strip it shares with nobody is not lost.
        beyond = self.high - self.start - self.output
        return 1 + max(0, -(-beyond // self.step))

    def origin(self, index: int) -> int:
        return self.start + index * self.step

    def write(self, index: int) -> tuple[int, int]:
        origin = self.origin(index)
        end = self.high if index == self.count - 1 else min(self.high, origin + self.step)
        return max(self.low, origin), end


class Plan(Sequence[Tile]):
    """Tiles of an image, row by row, made when asked for. See `plan`.

    Attributes
    ----------
    shape
        (H, W) of the whole image.
    region
        (y0, y1, x0, x1) that the tiles cover.
    geometry
        Sizes of a tile.
    step
        Distance of two tile origins.
    start
        (y, x) of the first tile's output.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        geometry: Geometry,
        step: int,
        start: tuple[int, int],
        region: Window,
    ) -> None:
        y0, y1, x0, x1 = region
        self.shape = shape
        self.region = region
        self.geometry = geometry
        self.step = step
        self._y = _Axis(start[0], step, y0, y1, geometry.output)
        self._x = _Axis(start[1], step, x0, x1, geometry.output)

    @property
    def rows(self) -> int:
        """Number of rows of tiles (bands)."""
        return self._y.count

    @property
    def columns(self) -> int:
        """Number of tiles in a row."""
        return self._x.count

    @property
    def origin(self) -> tuple[int, int]:
        """Pixel (y, x) of the whole image where the output of tile 0 begins."""
        return self._y.start, self._x.start

    def __len__(self) -> int:
        return self.rows * self.columns

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tile]: ...
    def __getitem__(self, index: int | slice) -> Tile | list[Tile]:
        if isinstance(index, slice):
            return [self.tile(*divmod(i, self.columns)) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"tile {index} of a plan of {len(self)}")
        return self.tile(*divmod(index % len(self), self.columns))

    def tile(self, row: int, column: int) -> Tile:
        """The tile in that row and column of the grid."""
        return Tile(
            read=self.read_window(self._y.origin(row), self._x.origin(column)),
            write=(*self._y.write(row), *self._x.write(column)),
        )

    def read_window(self, y: int, x: int) -> Window:
        """What a tile whose output begins at pixel (y, x) reads."""
        margin, side = self.geometry.margin, self.geometry.input
        return y - margin, y - margin + side, x - margin, x - margin + side

    def band(self, row: int) -> tuple[int, int]:
        """Image rows [y0, y1) that the tiles of grid row `row` write."""
        return self._y.write(row)

    def band_of(self, y: int) -> int:
        """Grid row whose tiles write image row `y`."""
        return min((y - self._y.start) // self.step, self.rows - 1)


def plan(
    shape: tuple[int, ...],
    geometry: Geometry,
    *,
    step: Step = "exact",
    region: Window | None = None,
) -> Plan:
    """Tiles that write each pixel of an image, or of a region of it, exactly once.

    Parameters
    ----------
    shape
        (..., H, W) of the whole image.
    geometry
        Sizes of a tile.
    step
        "exact": tiles are a multiple of the period apart, so they agree with each other and
        with one pass over the whole image. "paper": they are `output` apart as in Figure 2 of
        the paper; with the U-Net's legal sizes neighbours are then out of phase, and the
        result is not that of one pass.
    region
        (y0, y1, x0, x1) to cover instead of the whole image.

    Returns
    -------
    Plan
        A sequence of `Tile`, row by row, made when indexed.

    Raises
    ------
    ValueError
        For an empty image, a region outside the image, or an unknown step.

    Examples
    --------
    >>> tiles = plan((512, 700), Geometry.for_unet(output=388))
    >>> len(tiles), tiles.rows, tiles.columns
    (4, 2, 2)
    >>> tiles[3]
    Tile(read=(292, 864, 292, 864), write=(384, 512, 384, 700))
    """
    height, width = shape[-2:]
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height} x {width} pixels has nothing to tile")
    y0, y1, x0, x1 = region or (0, height, 0, width)
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise ValueError(
            f"region rows {y0}:{y1}, columns {x0}:{x1} is not inside an image of "
            f"{height} x {width} pixels; give y0 < y1 and x0 < x1 within it"
        )
    if step == "exact":
        distance, grid = geometry.step, geometry.period
    elif step == "paper":
        distance = grid = geometry.output
    else:
        raise ValueError(f"step {step!r} is unknown; use 'exact' or 'paper'")
    start = (y0 // grid * grid, x0 // grid * grid)
    return Plan((height, width), geometry, distance, start, (y0, y1, x0, x1))
