"""A picture to look at: the image in grey with what was predicted on it, shrunk to a screen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling import open_source
from tiling.disk import holds
from tiling.mirror import Source
from tiling.safe_write import write_bytes
from unet2015.planes import OneChannel
from unet2015.predict_job import Job
from unet2015.report_canvas import pixel_png
from unet2015.report_colours import ORANGE, grey_rgb, instances_rgb

__all__ = ["sampled", "write_overlay"]

SIDE = 1600  # px of the longer side of the picture


def sampled(source: Source, region: tuple[int, int, int, int], side: int = SIDE) -> NDArray[Any]:
    """Every k-th pixel of a region of (H, W) or (C, H, W), k the smallest that fits `side`.

    One row is held at a time, so any size will do.

    Examples
    --------
    >>> sampled(np.arange(20).reshape(4, 5), (0, 4, 0, 5), side=3)
    array([[ 0,  2,  4],
           [10, 12, 14]])
    """
    y0, y1, x0, x1 = region
    every = max(1, -(-max(y1 - y0, x1 - x0) // side))
    rows = []
    for y in range(y0, y1, every):
        row = np.asarray(source[..., y : y + 1, x0:x1])[..., ::every]
        rows.append(row.reshape(-1, row.shape[-1])[0] if row.ndim == 3 else row[0])
    return np.stack(rows)


def write_overlay(
    job: Job, result: str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool
) -> None:
    """PNG of the first plane: its first channel in grey, tinted by what `result` holds there.

    Instances and labels get a colour each; a probability is orange, the more the surer, above one
    half. Of several classes' maps the last is shown. A `path` that holds this very picture stays.

    Raises
    ------
    WriteError
        If `path` holds something else and `overwrite` is false, or cannot be written.
    """
    grey = sampled(job.planes[0], job.region)
    with open_source(result) as written:
        height, width = written.shape[-2:]
        maps = written.axes[-3:-2] == "C"
        last = job.shape[-3] - 1 if maps else 0
        zarr = len(written.shape) == 3
        plane: Any = written.page(0 if zarr else last)
        region = (0, height, 0, width)
        found = sampled(OneChannel(plane, -1) if zarr else plane, region)
    if job.settings.save in ("label", "instances"):
        picture = instances_rgb(grey, found)
    else:
        picture = _tinted(grey, found, np.dtype(job.dtype))
    data, place = pixel_png(picture), Path(path)
    if not holds(place, data):
        write_bytes(place, data, overwrite=overwrite)


def _tinted(grey: NDArray[Any], found: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    """Orange where the value is large; logits are squeezed into 0 to 1 first."""
    value = found.astype(np.float32)
    if dtype.kind == "u":
        value /= np.iinfo(dtype).max
    elif value.min() < 0 or value.max() > 1:
        value = ((1 + np.tanh(value / 2)) / 2).astype(np.float32)
    share = (np.clip(2 * value - 1, 0, 1) * 0.6)[..., None]
    mixed = (1 - share) * grey_rgb(grey) + share * np.asarray(ORANGE, np.float32)
    return mixed.astype(np.uint8)
