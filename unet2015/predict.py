"""Segmenting images of any size by the overlap-tile strategy (Figure 2 of the paper)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tiling import Geometry, SeamRule, plan, stitch
from unet2015.device import choose_precision, memory_at_hand
from unet2015.tile_function import as_tile_function, scale_for_dtype

__all__ = [
    "as_tile_function",
    "covering_output",
    "default_output",
    "geometry_of",
    "predict_array",
    "tile_bytes",
]

PAPER_OUTPUT = 388
LARGE_OUTPUT = 1540  # the least recomputed border that still fits most machines


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


def tile_bytes(net: nn.Module, geometry: Geometry) -> int:
    """Estimate of the memory one tile needs in the network, in bytes.

    At its widest, the last level, the network holds the concatenation of skip and up-sampled map
    (2 C), the result of the first convolution (C), and the convolution's working copies (2 C), at
    4 bytes: 20 C bytes per input pixel, C the channels of the first level; the skips add C (1 +
    1/2 + 1/4 + ...).
    """
    channels = int(getattr(net, "base_channels", 64))
    return 4 * 7 * channels * geometry.input**2


def default_output(net: nn.Module, shape: tuple[int, ...], memory_bytes: int) -> Geometry:
    """Tile that covers the image with the least work, at most `LARGE_OUTPUT`, within the memory.

    Parameters
    ----------
    net
        Network with `.margin` and `.period`.
    shape
        (..., H, W) of the image.
    memory_bytes
        Memory the network may use.
    """
    largest = geometry_of(net, _legal(net, LARGE_OUTPUT)).shrink_to(shape)
    ladder = [largest.resized(n) for n in range(largest.smallest, largest.output + 1, net.period)]  # type: ignore[arg-type]
    fitting = [g for g in ladder if tile_bytes(net, g) <= memory_bytes] or ladder[:1]
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


def predict_array(
    net: nn.Module,
    image: NDArray[Any],
    *,
    output: int | None = None,
    scale: str = "dtype-range",
    device: torch.device | str | None = None,
    precision: str = "fp32",
    average: str = "none",
    save: str = "probability",
    batch: int = 1,
) -> NDArray[Any]:
    """Probabilities, labels or logits (K, H, W) of a whole image held in memory.

    Parameters
    ----------
    net
        The network.
    image
        (H, W) or (C, H, W), uint8, uint16 or float32; scaled by `scale` (see `scale_for_dtype`).
    output
        Side of the output tile in pixels; by default the one `default_output` chooses for the
        memory at hand.
    device
        Where the network runs; by default where its weights are.
    precision, average, save
        See `as_tile_function`.
    batch
        Tiles per call of the network.

    Returns
    -------
    ndarray
        float32 (K, H, W); uint8 (1, H, W) for labels.

    Examples
    --------
    >>> from unet2015.net import UNet
    >>> predict_array(UNet(base_channels=1), np.zeros((30, 50), np.uint8)).shape
    (2, 30, 50)
    """
    home = next(net.parameters()).device if device is None else torch.device(device)
    pixels = image[None] if image.ndim == 2 else image
    geometry = geometry_of(net, output or _legal(net, LARGE_OUTPUT))
    if output is None:
        geometry = default_output(net, pixels.shape, memory_at_hand(home))
    function = as_tile_function(
        net,
        scale=scale_for_dtype(image.dtype, scale),
        device=home,
        precision=choose_precision(precision, home),
        average=average,
        save=save,
    )
    channels = 1 if save == "label" else int(getattr(net, "classes", 2))
    result = np.empty((channels, *pixels.shape[-2:]), np.uint8 if save == "label" else np.float32)
    stitch(pixels, function, result, geometry, batch=batch, seams=SeamRule(probe=False))
    return result
