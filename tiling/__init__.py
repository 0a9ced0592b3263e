"""Seam-free tiles for images of any size. Knows numpy and files, never torch.

geometry    integers: margin, period, legal sizes, the seam-exact step   `Geometry`
plan        cover an image with tiles                                    `plan`, `Plan`, `Tile`
mirror      read a window that overhangs the image, by reflection        `read_mirrored`
stitch      read ahead, run a function, write behind                     `stitch`, `Summary`
certificate pixels computed twice are compared                           `SeamRule`, `SeamError`
formats     files as sources and sinks                                   `open_source`, `open_sink`
tiff, zarr  the sources, and png_source; tiff_sink, zarr_sink the sinks
meaning     axes, pixel size and names of the channels, kept from file to file
pyramid     smaller levels for viewers, made while the rows pass by
instances   connected components labelled across bands                  `label_bands`
safe_write  files that appear whole or not at all; partial for resuming
strict_tiff the reader that refuses broken files
faults      what can go wrong, with exit codes; command turns it into one line

    from tiling import Geometry, open_sink, open_source, stitch

    with open_source("big.tif") as image, open_sink("out.tif", image.shape[-2:], "uint8") as out:
        print(stitch(image, function, out, Geometry.for_unet(output=388)))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiling.certificate import SeamError, SeamRule
from tiling.geometry import Geometry
from tiling.instances import label_bands
from tiling.mirror import read_mirrored
from tiling.plan import Plan, Tile, plan
from tiling.stitch import Summary, stitch

if TYPE_CHECKING:
    from tiling.formats import open_sink, open_source

__all__ = [
    "Geometry",
    "Plan",
    "SeamError",
    "SeamRule",
    "Summary",
    "Tile",
    "label_bands",
    "open_sink",
    "open_source",
    "plan",
    "read_mirrored",
    "stitch",
]


def __getattr__(name: str) -> Any:
    """Load the file formats (tifffile, zarr) only when they are asked for."""
    if name in ("open_sink", "open_source"):
        from tiling import formats

        return getattr(formats, name)
    raise AttributeError(f"module 'tiling' has no attribute {name!r}")
