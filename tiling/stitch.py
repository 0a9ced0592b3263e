"""Run a function over an image tile by tile, and put the tiles together without seams.

A thread reads ahead, the caller's thread runs the function, a thread writes behind; what waits
between them is bounded, so memory depends on the width of the image, never on its height.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tiling.certificate import SeamRule
from tiling.geometry import Geometry
from tiling.mirror import Source
from tiling.pipeline import Pipeline
from tiling.plan import Step, Window, plan

__all__ = ["Sink", "Summary", "stitch"]

Array = npt.NDArray[Any]


class Sink(Protocol):
    """Anything to write pixels to: a numpy or zarr array, `tiling.open_sink`, ...

    Bands of full width arrive in order from the top, each row once. A sink with an attribute
    `rows_done` already holds that many rows; what comes before is not computed again. One with a
    method `begin_band(key, block)` is told of each new part of the band that comes next: `block` is
    that band, final in the columns of the key and left of them.
    """

    def __setitem__(self, key: Any, block: Any, /) -> None:
        """`sink[..., y0:y1, x0:x1] = block`, block (K, h, w), or (h, w) if the sink is 2-D."""
        ...


@dataclass(frozen=True)
class Summary:
    """What a run of `stitch` did, and its seam certificate.

    Attributes
    ----------
    tiles, pixels
        Tiles run (the probe not counted) and pixels written.
    pixels_computed
        Output pixels that came out of the function, the probe's included.
    rows_kept
        Rows that the sink held already.
    output, step
        Side and distance of the tiles in pixels.
    seam_max_difference, seam_compared, seam_differing
        Largest absolute difference between neighbouring tiles in the strips both computed, how
        many values were compared, how many differ. None: no two tiles share a strip.
    probe_difference, probe_differing
        The same for the probe tile across a corner of four tiles. None: there was no seam to probe.
    seconds, seconds_reading, seconds_computing, seconds_writing
        Wall time in all, and time each stage was busy (they overlap).
    seconds_waiting_input, seconds_waiting_output
        How long the function stood still for the reader or for the writer.
    buffer_bytes
        Memory held by rows, batches and bands at its largest.
    """

    tiles: int
    pixels: int
    pixels_computed: int
    rows_kept: int
    output: int
    step: int
    seam_max_difference: float | None
    seam_compared: int
    seam_differing: int
    probe_difference: float | None
    probe_differing: int
    seconds: float
    seconds_reading: float
    seconds_computing: float
    seconds_writing: float
    seconds_waiting_input: float
    seconds_waiting_output: float
    buffer_bytes: int


def stitch(
    source: Source,
    function: Callable[[Array], Any],
    sink: Sink,
    geometry: Geometry,
    *,
    batch: int = 1,
    step: Step = "exact",
    region: Window | None = None,
    progress: Callable[[int, int], None] | None = None,
    seams: SeamRule = SeamRule(),  # noqa: B008 - frozen
) -> Summary:
    """Apply `function` to `source` tile by tile and write the result to `sink`.

    The result does not depend on `batch`, on the tile size or on the kind of source, as long as
    the function's output depends only on `geometry.margin` pixels of context and commutes with
    shifts by `geometry.period`.

    Parameters
    ----------
    source
        (H, W) or (C, H, W), anything that slices like numpy on its last two axes; what has no
        numpy dtype (a list, a tensor) is made an array first.
    function
        (N, C, input, input) of the source's dtype to (N, K, output, output), or to anything that
        `numpy.asarray` makes that of; N is at most `batch`. Called in the caller's thread. What is
        no array yet (work on a device, say) is waited for two calls later.
    sink
        (K, h, w) or (h, w), as large as the region.
    geometry
        Sizes of a tile.
    batch
        Largest number of tiles in one call. Tiles of one batch are of one row of tiles, so an
        interrupted run takes up with the same batches.
    step
        "exact" or "paper", see `plan`.
    region
        (y0, y1, x0, x1) of the image to compute instead of all of it.
    progress
        Called as `progress(tiles_done, tiles_in_all)` after each batch.
    seams
        How seams are checked, see `SeamRule`.

    Raises
    ------
    ValueError
        If the source is no image, the function returns another shape or type than before or than
        announced, or the sink has another size or number of channels.
    SeamError
        If neighbouring tiles disagree by more than the tolerance.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(30.0).reshape(5, 6)
    >>> mean_of_three = lambda x: (x[..., :-2] + x[..., 1:-1] + x[..., 2:])[..., 1:-1, :] / 3
    >>> result = np.empty_like(image)
    >>> summary = stitch(image, mean_of_three, result, Geometry(margin=1, period=1, output=2))
    >>> result[0]
    array([0.66666667, 1. , 2. , 3. , 4. , 4.33333333])
    >>> summary.tiles, summary.probe_difference
    (9, 0.0)
    """
    if batch < 1:
        raise ValueError(f"batch {batch} is not a number of tiles; use 1 or more")
    source = _as_source(source)
    tiles = plan(source.shape, geometry, step=step, region=region)
    y0, y1, x0, x1 = tiles.region
    shape = getattr(sink, "shape", None)
    if shape is not None and tuple(shape[-2:]) != (y1 - y0, x1 - x0):
        raise ValueError(
            f"the sink is {shape[-2]} x {shape[-1]} pixels, the result {y1 - y0} x {x1 - x0}"
        )
    run = Pipeline(source, function, sink, tiles, batch, progress, seams)
    if run.rows_kept < y1 - y0:
        run.go()
    return _summary(run)


def _as_source(source: Any) -> Source:
    """The source as it is where it has a shape and a type of numpy's, else as an array."""
    try:
        np.dtype(source.dtype)
    except (AttributeError, TypeError):
        source = np.asarray(source)
    if len(source.shape) not in (2, 3):
        raise ValueError(
            f"the source has shape {tuple(source.shape)}; give one image, (H, W) or (C, H, W)"
        )
    found: Source = source
    return found


def _summary(run: Pipeline) -> Summary:
    """The numbers of a run that has ended."""
    y0, y1, x0, x1 = run.plan.region
    tally, seams, probe = run.tally, run.watch.seams, run.watch.probe
    return Summary(
        tiles=tally.tiles,
        pixels=(y1 - y0 - run.rows_kept) * (x1 - x0),
        pixels_computed=tally.computed,
        rows_kept=run.rows_kept,
        output=run.plan.geometry.output,
        step=run.plan.step,
        seam_max_difference=seams.maximum,
        seam_compared=seams.compared,
        seam_differing=seams.differing,
        probe_difference=probe.maximum,
        probe_differing=probe.differing,
        seconds=tally.seconds,
        seconds_reading=tally.reading,
        seconds_computing=tally.computing,
        seconds_writing=tally.writing,
        seconds_waiting_input=tally.waiting_input,
        seconds_waiting_output=tally.waiting_output,
        buffer_bytes=tally.buffer_bytes,
    )
