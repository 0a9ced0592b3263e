"""Proof, for this run, that no seam is there: pixels computed twice are compared.

At the exact step, neighbouring tiles both compute a strip of `output - step` pixels (4 for the
U-Net). Strips agree whenever the tiles are in phase with each other, even if the whole grid is
out of phase; therefore one probe tile is run across a corner of four tiles, at a multiple of the
period away from image pixel (0, 0), and compared with what was written there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from tiling.difference import Difference
from tiling.faults import Fault
from tiling.plan import Plan, Tile, Window

__all__ = ["SeamError", "SeamRule", "SeamWatch"]


class SeamError(Fault):
    """Tiles disagree where they were computed twice, by more than the tolerance."""

    exit_code = 8


@dataclass(frozen=True)
class SeamRule:
    """How seams are checked.

    Parameters
    ----------
    tolerance
        Largest accepted absolute difference, in units of what the function returns; None accepts
        any.
    share
        Largest accepted share of values that differ at all, for labels, of which one is as far from
        the next as any other; a single value is always accepted. None accepts any share.
    probe
        Whether to run the probe tile (one more tile per run; never for a single tile).
    probe_output
        Output side of the probe tile: a legal size, at most the tile's; None: the tile's own. A
        smaller one costs less, for functions that take more than one size.
    """

    tolerance: float | None = None
    share: float | None = None
    probe: bool = True
    probe_output: int | None = None


class SeamWatch:
    """Compares results of neighbouring tiles as they pass, row by row; memory of two strips.

    Parameters
    ----------
    plan
        The tiles, which must be shown in its order.
    rule
        Tolerance, and whether a probe is wanted.
    first_row
        Grid row of the first tile that will be shown.
    """

    def __init__(self, plan: Plan, rule: SeamRule, first_row: int = 0) -> None:
        self._plan = plan
        self._rule = rule
        self._overlap = plan.geometry.output - plan.step
        self._bottom: npt.NDArray[Any] | None = None
        self._right: npt.NDArray[Any] | None = None
        self.seams = Difference()
        self.band = Difference()
        self.probe = Difference()
        self.probe_row = first_row
        self.probe_geometry = plan.geometry.resized(
            min(rule.probe_output or plan.geometry.output, plan.geometry.output)
        )
        self.probe_window = self._choose_probe() if rule.probe else None
        self._patch: npt.NDArray[Any] | None = None
        self._probed: npt.NDArray[Any] | None = None

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        held = (self._bottom, self._right, self._patch, self._probed)
        return sum(block.nbytes for block in held if block is not None)

    def _choose_probe(self) -> Window | None:
        """Output window (y0, y1, x0, x1) of the probe: a middle corner of the first two bands."""
        plan, geometry = self._plan, self.probe_geometry
        down = self.probe_row + 1 < plan.rows
        across = plan.columns > 1
        if not (down or across):
            return None
        back = max(geometry.period, geometry.output // 2 // geometry.period * geometry.period)
        y, x = plan.origin
        y += (self.probe_row + down) * plan.step
        x += plan.columns // 2 * plan.step
        # Anchored at image pixel (0, 0), whatever the plan believes its origin to be.
        y = (y - back * down) // geometry.period * geometry.period
        x = (x - back * across) // geometry.period * geometry.period
        return y, y + geometry.output, x, x + geometry.output

    @property
    def probe_read(self) -> Window | None:
        """What the probe reads: its window and the margin around it; None for no probe."""
        if self.probe_window is None:
            return None
        (y0, y1, x0, x1), margin = self.probe_window, self.probe_geometry.margin
        return y0 - margin, y1 + margin, x0 - margin, x1 + margin

    def see(self, row: int, column: int, tile: Tile, result: npt.NDArray[Any]) -> None:
        """Compare one tile's result (K, output, output) with those of its neighbours so far.

        Raises
        ------
        SeamError
            If they differ by more than the tolerance.
        """
        if self.probe_window is not None:
            self._remember(tile, result)
        if self._overlap == 0:
            return
        plan, overlap = self._plan, self._overlap
        margin = plan.geometry.margin
        y, x = tile.read[0] + margin, tile.read[2] + margin
        rows = min(plan.geometry.output, plan.region[1] - y)
        last = column == plan.columns - 1
        columns = min(plan.geometry.output if last else plan.step, plan.region[3] - x)
        left = x - plan.origin[1]
        if column > 0 and self._right is not None:
            width = min(overlap, plan.region[3] - x)
            self.band.add(self._right[:, :rows, :width], result[:, :rows, :width])
        if row > self.probe_row and self._bottom is not None:
            height = min(overlap, plan.region[1] - y)
            above = self._bottom[:, :height, left : left + columns]
            self.band.add(above, result[:, :height, :columns])
        if not last:
            self._right = result[:, :, plan.step :].copy()
        if row + 1 < plan.rows:
            if self._bottom is None:
                width = plan.region[3] - plan.origin[1]
                self._bottom = np.empty((result.shape[0], overlap, width), result.dtype)
            self._bottom[:, :, left : left + columns] = result[:, plan.step :, :columns]
        self._judge(self.band, "neighbouring tiles", at_end=False)

    def see_probe(self, result: npt.NDArray[Any]) -> None:
        """Keep the probe tile's own result (K, output, output)."""
        self._probed = result.copy()

    def finish_band(self, row: int) -> tuple[Difference, Difference | None]:
        """What this band's seams showed, that to the band above included; and the probe tile.

        The probe is compared once all that it crosses has passed; None with every other band.

        Raises
        ------
        SeamError
            If they differ by more than the tolerance.
        """
        found, self.band = self.band, Difference()
        self.seams.include(found)
        self._judge(self.seams, "neighbouring tiles")
        return found, self.probe if self._finish_probe(row) else None

    def _finish_probe(self, row: int) -> bool:
        due = min(self.probe_row + 1, self._plan.rows - 1)
        if self._probed is None or self._patch is None or row < due:
            return False
        y0, x0 = self._probe_origin()
        first = self._plan.band(self.probe_row)[0]  # of what this run has computed
        top, left = max(0, first - y0), max(0, self._plan.region[2] - x0)
        end, right = self._patch_end()
        rows, columns = slice(top, end - y0), slice(left, right - x0)
        self.probe.add(self._patch[:, rows, columns], self._probed[:, rows, columns])
        self._patch = self._probed = self.probe_window = None
        self._judge(self.probe, "the probe tile and the tiles it crosses")
        return True

    def _probe_origin(self) -> tuple[int, int]:
        assert self.probe_window is not None
        return self.probe_window[0], self.probe_window[2]

    def _patch_end(self) -> tuple[int, int]:
        """Bottom and right end of what the probe covers and the two bands have written."""
        assert self.probe_window is not None
        written = self._plan.band(min(self.probe_row + 1, self._plan.rows - 1))[1]
        return min(self.probe_window[1], written), min(self.probe_window[3], self._plan.region[3])

    def _remember(self, tile: Tile, result: npt.NDArray[Any]) -> None:
        """Copy the part of a written tile that the probe will cover."""
        assert self.probe_window is not None
        y0, y1, x0, x1 = self.probe_window
        top, bottom = max(y0, tile.write[0]), min(y1, tile.write[1])
        left, right = max(x0, tile.write[2]), min(x1, tile.write[3])
        if top >= bottom or left >= right:
            return
        if self._patch is None:
            side = self.probe_geometry.output
            self._patch = np.empty((result.shape[0], side, side), result.dtype)
        y, x = (tile.read[i] + self._plan.geometry.margin for i in (0, 2))
        self._patch[:, top - y0 : bottom - y0, left - x0 : right - x0] = result[
            :, top - y : bottom - y, left - x : right - x
        ]

    def _judge(self, found: Difference, who: str, *, at_end: bool = True) -> None:
        """Raise if a difference is above the tolerance, or too many differ at a band's end."""
        limit, share = self._rule.tolerance, self._rule.share
        apart = f"{found.differing} of {found.compared} values"
        if limit is not None and found.maximum is not None and not found.maximum <= limit:
            what = f"by up to {found.maximum:.4g} where they were computed twice"
            self._refuse(f"{who} differ {what} (tolerance {limit:g}; {apart})")
        if at_end and share is not None and found.differing > max(1, share * found.compared):
            percent = 100 * found.differing / found.compared
            what = f"in {percent:.3g} % of the pixels that were computed twice"
            self._refuse(f"{who} differ {what} (accepted {100 * share:g} %; {apart})")

    def _refuse(self, text: str) -> NoReturn:
        geometry = self._plan.geometry
        raise SeamError(
            f"{text}: the function does not commute with shifts by {geometry.period} px or needs "
            f"more than {geometry.margin} px of margin; check both, and that nothing in it depends "
            "on the tile (batch statistics, per-tile normalisation)"
        )
