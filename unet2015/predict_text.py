"""What `unet2015 predict` says: the plan, the tile in use, the summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tiling import Summary, plan
from tiling.command import visible
from tiling.pyramid import levels_for
from unet2015.device import has_fast_bf16
from unet2015.fitting import halved
from unet2015.intensity import Scale
from unet2015.predict_history import seam_rule
from unet2015.predict_job import Job
from unet2015.tile_function import AVERAGES

__all__ = ["peak_bytes", "plan_text", "seconds_per_tile", "summary_text", "tile_text"]

_PROBE_PX = 260  # input side of the tile that is timed for `--plan`


def tile_text(job: Job) -> str:
    """One line: image, device, tile."""
    side, exact = job.geometry, job.settings.step == "exact"
    return (
        f"{visible(job.image)}: {job.planes.height} x {job.planes.width} px, "
        f"{len(job.planes)} plane(s), on {job.device} in {job.precision}; "
        f"tile {side.input} -> {side.output}, step {side.step if exact else side.output} px"
        f"{'' if exact else ' (inexact)'}; values {job.normalise}"
    )


def seconds_per_tile(job: Job) -> float:
    """Estimate of the time of one tile: a small one is measured and scaled by its pixels."""
    geometry = job.geometry
    below, above = geometry.nearest(_PROBE_PX - 2 * geometry.margin)
    small = geometry.resized(min(max(below, above), geometry.output))
    function = job.function(Scale(gain=1 / 255))
    channels = int(getattr(job.model.net, "in_channels", 1))
    tile = np.random.default_rng(0).integers(0, 256, (1, channels, small.input, small.input))
    seconds = []
    for _ in range(3):  # the first call warms up
        start = time.perf_counter()
        function(tile.astype(np.uint8))
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) * geometry.input**2 / small.input**2


def plan_text(job: Job) -> str:
    """What a run would do, in a few lines."""
    settings, geometry = job.settings, job.geometry
    tiles = plan(
        (job.planes.height, job.planes.width), geometry, step=settings.step, region=job.region
    )
    ladder, side = [], geometry.output
    while (half := halved(side, geometry.period)) < side:
        ladder.append(str(half))
        side = half
    number = len(tiles) * len(job.planes)
    below, above = (
        geometry.nearest(geometry.output - 1)[0],
        geometry.nearest(geometry.output + 1)[1],
    )
    computed = len(tiles) * geometry.input**2 / 1e6 * len(AVERAGES[settings.average])
    whole = job.region == (0, job.planes.height, 0, job.planes.width)
    shared = geometry.overlap if settings.step == "exact" and len(tiles) > 1 else 0
    compared = f"{shared} px along every seam" if shared else "none"
    return (
        f"{tile_text(job)}\n"
        f"  tiles       {tiles.rows} x {tiles.columns} = {len(tiles)} per plane, {number} in all\n"
        f"  legal sizes output {geometry.smallest} + {geometry.period}k px; next to this one"
        f" {below} and {above}\n"
        f"  work        the network sees {computed / job.megapixels:.2f} x the pixels of the"
        f" {'image' if whole else 'region'}; computed twice and compared: {compared}\n"
        f"  memory      about {job.network_bytes / 2**30:.2f} GiB in the network and"
        f" {job.pipeline_bytes / 2**30:.2f} GiB around it; smaller tiles if the device runs out:"
        f" {', '.join(ladder) or 'none'}\n"
        f"  time        {_time(job, number)}\n"
        f"  output      {' x '.join(map(str, job.shape))} {job.dtype}, axes {job.axes}"
        f"{_levels(job)}\n"
    )


def _time(job: Job, tiles: int) -> str:
    """How long so many tiles take, and in bf16 where the device multiplies it in hardware."""
    told = f"about {_duration(tiles * seconds_per_tile(job))}"
    if job.precision == "fp32" and has_fast_bf16(job.device):
        half = tiles * seconds_per_tile(replace(job, precision="bf16"))
        told += f"; with --precision bf16 about {_duration(half)}"
    return f"{told} (one small tile measured now)"


def summary_text(target: Path, job: Job, summaries: Sequence[Summary]) -> str:
    """What a finished run did: time, throughput, waiting, memory, seam certificate."""
    seconds = sum(s.seconds for s in summaries)
    pixels = sum(s.pixels for s in summaries)
    compared = sum(s.seam_compared for s in summaries)
    differing = sum(s.seam_differing for s in summaries)
    largest = max((s.seam_max_difference or 0.0 for s in summaries), default=0.0)
    probes = [s.probe_difference for s in summaries if s.probe_difference is not None]
    read = sum(s.seconds_waiting_input for s in summaries)
    written = sum(s.seconds_waiting_output for s in summaries)
    computed = sum(s.pixels_computed for s in summaries)
    kept = sum(s.rows_kept for s in summaries)
    single = max(s.tiles for s in summaries) < 2
    seams = f"seams: {'none, nothing to compare' if single else 'no strip is shared'}"
    if compared:
        seams = (
            f"seams: {compared} values computed twice, {differing} differ, by {largest:.3g} at most"
        )
    probe = f"; probe tile {max(probes):.3g}" if probes else ""
    inexact = "; step paper: not seamless" if job.settings.step == "paper" else ""
    accepted = _accepted(job) if compared or probes else ""
    return (
        f"{visible(str(target))}: {pixels / 1e6:.2f} Mpx in {seconds:.1f} s"
        f" ({pixels / 1e6 / max(seconds, 1e-9):.2f} Mpx/s), {sum(s.tiles for s in summaries)} tiles"
        f"{f', {kept} rows kept from before' if kept else ''}\n"
        f"  {100 * (computed / max(pixels, 1) - 1):.0f} % computed twice or outside; waited"
        f" {read:.1f} s for reading, {written:.1f} s for writing; peak memory"
        f" {peak_bytes(job.device) / 2**30:.2f} GiB\n"
        f"  {seams}{probe}{accepted}{inexact}\n"
    )


def _levels(job: Job) -> str:
    """The pyramid in words."""
    number = levels_for(job.shape) if job.pyramid else 0
    return f", {number} smaller level(s) by {job.pyramid}" if number else ""


def _accepted(job: Job) -> str:
    """The tolerance in words."""
    rule = seam_rule(job)
    if rule.share is not None:
        return f"; accepted: {100 * rule.share:g} % of the pixels"
    full = {"uint8": " of 255", "uint16": " of 65535"}.get(job.dtype, "")
    return "" if rule.tolerance is None else f"; accepted: {rule.tolerance:g}{full}"


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process so far, or of the GPU where the network runs there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
