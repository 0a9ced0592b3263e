"""Segmenting images of any size by the overlap-tile strategy (Figure 2 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tiling import Geometry, SeamRule, plan, stitch
from tiling.faults import MemoryFault
from unet2015.device import choose_precision, memory_at_hand
from unet2015.intensity import blocks_of, measure_scale
from unet2015.tile_function import Wanted, as_tile_function

__all__ = [
    "accepted",
    "as_tile_function",
    "covering_output",
    "default_output",
    "geometry_of",
    "predict_array",
    "tile_bytes",
]

PAPER_OUTPUT = 388
PROBE_OUTPUT = 132  # px
LARGE_OUTPUT = 1540  # the least recomputed border that still fits most machines
_HOLES = 2.5  # peak of a program by what its maps need: above all that was measured


def geometry_of(net: nn.Module, output: int = PAPER_OUTPUT) -> Geometry:
    """Tile sizes of `net` with an output tile of `output` pixels.

    Raises
    ------
    ValueError
        If `output` is not legal for the network; the message names the nearest legal ones.

    Examples
    --------
    >>> from unet2015.net import UNet
    >>> geometry_of(UNet(base_channels=1)).input
    572
    """
    return Geometry(int(net.margin), int(net.period), output)  # type: ignore[arg-type]


def tile_bytes(net: nn.Module, geometry: Geometry, *, precision: str = "fp32") -> int:
    """Upper estimate of the memory that one tile adds to a run, in bytes.

    With C channels at the first level, the network holds most of these at once:

    - on the way down, at the second level: the skip of the first (C at the input's size), the
      pooled map and both results of the convolutions, together 2.25 C;
    - where the last level is concatenated: that skip, the up-convolution's result, and the
      concatenation (2 C at the output's size, 3 C in the authors' release);
    - in the last two convolutions: the concatenation and both results.

    The largest is taken 2.5 times: a program keeps what is freed (`unet2015.host_memory`), and
    between blocks of unequal sizes holes remain that no later block fits into. (Where nothing is
    kept, as in a library, 1.3 to 1.5 times was measured.) The logits with their soft-max, in four
    copies of 4 bytes per class and holes as large, come when the maps are gone, and count where
    they are more. To this come the weights of the largest layer in the order that the convolution
    wants, and 48 MiB that the libraries take whatever the tile.

    Measured peaks of whole runs, all included, were 1.5 to 2.5 times the largest sum above (8 to 64
    channels, tiles of 772 to 1540 px, fp32 and bf16, batches of 1 and 2), and none above the
    estimate; see also docs/large-images.md and `benchmarks/tiling_throughput.py`.

    Parameters
    ----------
    net
        The network; C is its `base_channels`.
    geometry
        The tile.
    precision
        `fp32`; the half formats take half.

    Examples
    --------
    >>> from unet2015.net import UNet
    >>> net = UNet(base_channels=1)
    >>> tile_bytes(net, geometry_of(net, 772)) > tile_bytes(net, geometry_of(net, 388))
    True
    """
    channels = int(getattr(net, "base_channels", 64))
    classes = int(getattr(net, "classes", 2))
    item = 4 if precision == "fp32" else 2
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    ends = [layer.in_channels for layer in convolutions if layer.out_channels == channels]
    joined = max([2 * channels, *ends]) / channels
    skip, out = geometry.input**2, geometry.output
    maps = max(
        2.25 * skip,
        skip + (2 * joined - 1) * (out + 4) ** 2,
        joined * (out + 4) ** 2 + (out + 2) ** 2 + out**2,
    )
    weights = max((layer.weight.numel() for layer in convolutions), default=0)
    tail = 2 * 16 * classes * out**2
    return int(max(_HOLES * item * channels * maps, tail)) + item * weights + (48 << 20)


def default_output(
    net: nn.Module,
    shape: tuple[int, ...],
    memory_bytes: int,
    *,
    precision: str = "fp32",
    batch: int = 1,
    beside: Callable[[Geometry], int] | None = None,
) -> Geometry:
    """Tile that covers the image with the least work, at most `LARGE_OUTPUT`, within the memory.

    Parameters
    ----------
    net
        Network with `.margin` and `.period`.
    shape
        (..., H, W) of the image.
    memory_bytes
        Memory the network may use.
    precision, batch
        Number format, and tiles per call.
    beside
        Bytes that a tile costs outside of the network; none by default.

    Raises
    ------
    MemoryFault
        If not even the smallest tile fits.

    Examples
    --------
    >>> from unet2015.net import UNet
    >>> default_output(UNet(base_channels=8), (512, 512), 1 << 30).output
    516
    """
    largest = geometry_of(net, _legal(net, LARGE_OUTPUT)).shrink_to(shape)
    ladder = [largest.resized(n) for n in range(largest.smallest, largest.output + 1, net.period)]  # type: ignore[arg-type]
    needs = [
        tile_bytes(net, rung, precision=precision) * batch + (beside(rung) if beside else 0)
        for rung in ladder
    ]
    fitting = [rung for rung, need in zip(ladder, needs, strict=True) if need <= memory_bytes]
    if not fitting:
        raise MemoryFault(
            f"even the smallest tile needs about {needs[0] / 2**30:.2f} GiB and "
            f"{memory_bytes / 2**30:.2f} GiB may be used; free some, use a smaller --batch, or "
            "allow more with --memory"
        )
    # Of equal costs the largest: fewer calls.
    return min(fitting, key=lambda g: (len(plan(shape, g)) * g.input**2, -g.output))


def covering_output(net: nn.Module, shape: tuple[int, ...]) -> int:
    """The smallest legal output tile that covers an image of `shape` (..., H, W) in one pass.

    Examples
    --------
    >>> from unet2015.net import UNet
    >>> covering_output(UNet(base_channels=1), (512, 512))
    516
    """
    return geometry_of(net, _legal(net, 0)).nearest(max(shape[-2:]))[1]


def _legal(net: nn.Module, output: int) -> int:
    """The legal output at or below `output`."""
    margin, period = int(net.margin), int(net.period)  # type: ignore[arg-type]
    smallest = Geometry(margin, period, period + -margin % period)
    return smallest.nearest(output)[0]


def accepted(
    wanted: Wanted, geometry: Geometry, precision: str, given: float | None = None
) -> SeamRule:
    """What tiles may differ by, and a small probe tile: it costs a few percent of a large one.

    Maps have a largest difference: 1e-4 in probability (0.05 in half precision, one grey level of 8
    bits at least), 1e-2 in logits. Labels have a largest share of pixels that differ: 0.1 % (5 %).

    Parameters
    ----------
    wanted, geometry, precision
        What the tiles hold, their sizes, the number format of the network.
    given
        Another limit, from 0 to 1 for probabilities and for the share of labels.

    Examples
    --------
    >>> accepted(Wanted(dtype="uint8"), Geometry.for_unet(output=388), "fp32")
    SeamRule(tolerance=1.0, share=None, probe=True, probe_output=132)
    """
    probe = geometry.nearest(min(PROBE_OUTPUT, geometry.output))[0]
    full_precision = precision == "fp32"
    if wanted.save == "label":
        share = given if given is not None else 1e-3 if full_precision else 0.05
        return SeamRule(share=share, probe_output=probe)
    if wanted.save == "logits":
        limit = given if given is not None else 1e-2 if full_precision else None
        return SeamRule(tolerance=limit, probe_output=probe)
    loose = given if given is not None else 1e-4 if full_precision else 0.05
    full = {"uint8": 255, "uint16": 65535}.get(wanted.dtype)
    limit = loose if full is None else float(math.ceil(loose * full))
    return SeamRule(tolerance=limit, probe_output=probe)


def predict_array(
    net: nn.Module,
    image: NDArray[Any],
    *,
    output: int | None = None,
    scale: str | None = None,
    precision: str = "fp32",
    average: str = "none",
    save: str = "probability",
    batch: int = 1,
    seams: SeamRule | None = None,
) -> NDArray[Any]:
    """Probabilities, labels or logits (K, H, W) of a whole image held in memory.

    Parameters
    ----------
    net
        The network; it runs where its weights are.
    image
        (H, W) or (C, H, W), bool, integers or floats; integers other than uint8 and uint16 have no
        agreed range and need a `scale` that measures or names one.
    output
        Side of the output tile in pixels; by default the one `default_output` chooses for the
        memory at hand.
    scale
        Normalisation of the image's values, see `unet2015.intensity`; by default that of the
        checkpoint which `build_network` made the network from, else `dtype-range`.
    precision, average
        See `as_tile_function`.
    save
        `probability`, `label` or `logits`.
    batch
        Tiles per call of the network.
    seams
        How seams are checked; by default as `unet2015 predict` does, see `accepted`.

    Returns
    -------
    ndarray
        float32 (K, H, W); uint8 (1, H, W) for labels.

    Raises
    ------
    ValueError
        If the image has another shape or holds NaN or Inf, `scale` is unknown, or `output` is not
        legal.
    UsageFault
        If `average` or `precision` is unknown or impossible on the device, or the network's output
        depends on how the image is cut into tiles.
    MemoryFault
        If not even the smallest tile fits into the memory.
    NumericsError
        If a weight of the network or what it answers is NaN or Inf.
    SeamError
        If tiles differ by more than is accepted where they were computed twice.

    Examples
    --------
    >>> from unet2015.net import UNet
    >>> predict_array(UNet(base_channels=1), np.zeros((30, 50), np.uint8)).shape
    (2, 30, 50)
    """
    home = next(net.parameters()).device
    image = np.asarray(image)
    if image.ndim not in (2, 3):
        raise ValueError(f"image of shape {image.shape}: give (H, W) or (C, H, W)")
    pixels = image[None] if image.ndim == 2 else image
    number_format = choose_precision(precision, home)
    if output is None:
        memory = memory_at_hand(home)
        geometry = default_output(net, pixels.shape, memory, precision=number_format, batch=batch)
    else:
        geometry = geometry_of(net, output)
    labels = save == "label"
    wanted = Wanted(save=save, dtype="uint8" if labels else "float32")
    normalise = str(getattr(net, "scale", "dtype-range")) if scale is None else scale
    function = as_tile_function(
        net,
        wanted,
        scale=measure_scale(normalise, pixels.dtype, lambda: blocks_of([pixels])),
        device=home,
        precision=number_format,
        average=average,
    )
    channels = 1 if labels else int(getattr(net, "classes", 2))
    result = np.empty((channels, *pixels.shape[-2:]), np.uint8 if labels else np.float32)
    rule = seams or accepted(wanted, geometry, number_format)
    stitch(pixels, function, result, geometry, batch=batch, seams=rule)
    return result
