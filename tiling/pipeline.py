"""The three threads of a run: one reads ahead, the caller's computes, one writes behind.

What waits between them is bounded: one batch read ahead, two whose results are on their way, and
two bands, of which one is filled while the other is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.batches import Batch, batches
from tiling.certificate import SeamRule, SeamWatch
from tiling.channel import Channel, ClosedError
from tiling.mirror import Source
from tiling.plan import Plan
from tiling.tally import Tally
from tiling.worker import Worker

__all__ = ["Pipeline"]

_AHEAD = 2  # calls whose results may be on their way, so that a device never runs out of work

Array = npt.NDArray[Any]
Notes = dict[str, Any]


@dataclass(frozen=True)
class _Filled:
    """A band as far as it is filled: columns (x0, x1) of the image are new; notes when whole."""

    row: int
    band: Array
    columns: tuple[int, int]
    notes: Notes | None


@dataclass
class Pipeline:
    """One run of `tiling.stitch`: what its three threads share.

    Parameters
    ----------
    source, function, sink, batch, progress, seams
        As in `tiling.stitch`.
    plan
        The tiles.
    """

    source: Source
    function: Callable[[Array], Any]
    sink: Any
    plan: Plan
    batch: int
    progress: Callable[[int, int], None] | None
    seams: SeamRule
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.rows_kept = int(getattr(self.sink, "rows_done", 0))
        # The last band that is kept runs once more, for the seam to the first new one.
        self.first_row = max(0, self.plan.band_of(self.plan.region[0] + self.rows_kept) - 1)
        self._note: Callable[[str, Any], None] | None = getattr(self.sink, "note", None)
        self.watch = SeamWatch(self.plan, self.seams, self.first_row)
        self.batches: Channel[Batch] = Channel(1)
        self._begin: Callable[[Any, Array], None] | None = getattr(self.sink, "begin_band", None)
        self.bands: Channel[_Filled] = Channel(2 * self.plan.columns)  # of two bands, see `free`
        self.free: Channel[Array] = Channel(2)
        self.bands_made = 0
        self.band: Array | None = None
        self.kind: tuple[int, np.dtype[Any]] | None = None

    def go(self) -> None:
        """Start the threads, run the function, join the threads whatever happens."""
        start = perf_counter()
        reader, writer = Worker(self._read, "tiling read"), Worker(self._write, "tiling write")
        try:
            reader.start()
            writer.start()
            self._compute()
            self.bands.finish()
            writer.join()
            self.bands.check()
        finally:
            self.batches.close()
            self.bands.finish()  # what is complete is still written, also after Ctrl-C
            reader.join()
            writer.join()
        self.tally.seconds = perf_counter() - start

    def _read(self) -> None:
        try:
            for batch in self._timed_batches():
                self.batches.put(batch)
            self.batches.finish()
        except ClosedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self.batches.fail(error)

    def _timed_batches(self) -> Iterator[Batch]:
        made = batches(self.source, self.plan, self.batch, self.watch, self.tally)
        while True:
            start = perf_counter()
            batch = next(made, None)
            self.tally.reading += perf_counter() - start
            if batch is None:
                return
            yield batch

    def _compute(self) -> None:
        """Call the function, and place what it made while it makes the next, where it can."""
        coming: deque[tuple[Batch, Any]] = deque()
        while True:
            start = perf_counter()
            try:
                item = self.batches.get()
            except ClosedError:
                break
            now = perf_counter()
            self.tally.waiting_input += now - start
            coming.append((item, self.function(item.array)))
            self.tally.computing += perf_counter() - now
            # What is an array already is not on its way: no need to wait for the next call.
            self.tally.on_their_way = max(self.tally.on_their_way, len(coming) - 1)
            while len(coming) > _AHEAD or (coming and isinstance(coming[-1][1], np.ndarray)):
                self._take(*coming.popleft())
        while coming:
            self._take(*coming.popleft())

    def _take(self, item: Batch, made: Any) -> None:
        start = perf_counter()
        result = self._checked(made, item)
        self.tally.computing += perf_counter() - start
        self.tally.computed += result.shape[0] * result.shape[-1] ** 2
        self.bands.check()
        if not item.tiles:
            self.watch.see_probe(result[0])
            return
        self.band = self._empty_band(result) if self.band is None else self.band
        self._place(item, result, self.band)
        whole = item.column + len(item.tiles) == self.plan.columns
        if whole or self._begin is not None:
            columns = item.tiles[0].write[2], item.tiles[-1].write[3]
            notes = self._noted(item.row) if whole else None
            self._hand_over(_Filled(item.row, self.band, columns, notes))
        self.band = None if whole else self.band
        if self.progress is not None:
            self.progress(self.tally.tiles, (self.plan.rows - self.first_row) * self.plan.columns)

    def _checked(self, result: Any, item: Batch) -> Array:
        made: Array = np.asarray(result)
        array = item.array
        side = array.shape[-1] - 2 * self.plan.geometry.margin
        expected = (array.shape[0], side, side)
        if made.ndim != 4 or (made.shape[0], *made.shape[2:]) != expected:
            raise ValueError(
                f"the function made {made.shape} of {array.shape}; it must return "
                f"(N, K, {side}, {side}): check the geometry's margin"
            )
        kind = made.shape[1], made.dtype
        if self.kind is None:
            self._check_sink(made.shape[1])
            self.kind = kind
        if kind != self.kind:
            raise ValueError(
                f"the function returned {kind[0]} channels of {kind[1]} after {self.kind[0]} of "
                f"{self.kind[1]}; it must return the same kind each time"
            )
        return made

    def _check_sink(self, channels: int) -> None:
        """Refuse a sink of another number of channels: numpy would repeat one for all of it."""
        shape = getattr(self.sink, "shape", None)
        if shape is None:
            return
        holds = 1 if len(shape) == 2 else int(shape[-3])
        if holds != channels:
            raise ValueError(
                f"the function returns {channels} channel(s), the sink holds {holds}; "
                f"give a sink of shape ({channels}, H, W)"
            )

    def _empty_band(self, result: Array) -> Array:
        """A band to fill; there are two, one is filled while the other is written."""
        start = perf_counter()
        if self.bands_made < 2:
            heights = [b - a for a, b in map(self.plan.band, range(self.first_row, self.plan.rows))]
            shape = (result.shape[1], max(heights), self.plan.region[3] - self.plan.region[2])
            band: Array = np.empty(shape, result.dtype)
            self.bands_made += 1
            self.tally.band_bytes += band.nbytes
        else:
            band = self.free.get()
        self.tally.waiting_output += perf_counter() - start
        return band

    def _place(self, item: Batch, result: Array, band: Array) -> None:
        margin = self.plan.geometry.margin
        top, left = self.plan.band(item.row)[0], self.plan.region[2]
        for number, (tile, one) in enumerate(zip(item.tiles, result, strict=True)):
            self.watch.see(item.row, item.column + number, tile, one)
            y0, y1, x0, x1 = tile.write
            y, x = tile.read[0] + margin, tile.read[2] + margin
            part = one[:, y0 - y : y1 - y, x0 - x : x1 - x]
            band[:, y0 - top : y1 - top, x0 - left : x1 - left] = part
            self.tally.tiles += 1
            self.tally.seam_bytes = max(self.tally.seam_bytes, self.watch.nbytes)

    def _noted(self, row: int) -> Notes:
        """What the comparisons that end with this band have shown, for the sink to keep."""
        seams, probe = self.watch.finish_band(row)
        notes: Notes = {}
        if row > self.first_row or row == 0:  # else its seam was compared by the run before
            notes[f"seams {row}"] = seams.to_json()
        if probe is not None and self.first_row == 0:
            notes[f"probe {row}"] = probe.to_json()
        return notes

    def _hand_over(self, filled: _Filled) -> None:
        start = perf_counter()
        self.bands.put(filled)
        self.tally.waiting_output += perf_counter() - start

    def _write(self) -> None:
        try:
            for filled in self.bands:
                start = perf_counter()
                self._write_band(filled)
                self.tally.writing += perf_counter() - start
                if filled.notes is not None:
                    self.free.put(filled.band)  # never waits: there are only two
        except ClosedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self.free.fail(error)
            self.bands.fail(error)

    def _write_band(self, filled: _Filled) -> None:
        """Give the sink a band, or tell it of new columns of one."""
        top, _, left, right = self.plan.region
        y0, y1 = self.plan.band(filled.row)
        kept = max(0, top + self.rows_kept - y0)
        block = filled.band[:, kept : y1 - y0]
        rows = slice(y0 + kept - top, y1 - top)
        for name, value in (filled.notes or {}).items():
            if self._note is not None:
                self._note(name, value)  # with the band, not after it
        if not block.shape[1]:
            return
        if filled.notes is None and self._begin is not None:
            self._begin((..., rows, slice(*(x - left for x in filled.columns))), block)
        else:
            flat = len(getattr(self.sink, "shape", (0, 0, 0))) == 2
            self.sink[..., rows, 0 : right - left] = block[0] if flat else block
