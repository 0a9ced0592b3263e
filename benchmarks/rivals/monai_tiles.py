"""MONAI's `sliding_window_inference` around an unpadded U-Net: four ways to use it.

An unpadded network returns less than it is given, which MONAI takes for another resolution: the
result has the wrong shape and every pixel lies elsewhere. So each way needs a wrapper:

defaults, gaussian   each window is mirrored by the margin inside the predictor, so that it returns
                     as much as it is given; windows are blended (overlap 0.25, plain mean: MONAI's
                     defaults; overlap 0.5, Gaussian: what its tutorials use)
large                the defaults with windows as large as our tiles
on our grid          the whole image is mirrored beforehand, to a size that our grid covers; the
                     predictor surrounds its result with zeros that a weight map takes out again;
                     the overlap makes the windows step by a multiple of 16. MONAI then has our
                     tile, our memory format and our number format.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tiling import Geometry, plan

Predictor = Callable[[Tensor], Tensor]


def blended(
    network: Predictor, image: Tensor, geometry: Geometry, *, overlap: float, mode: str
) -> tuple[Tensor, int]:
    """Probabilities (1, K, H, W) of `image` (1, 1, H, W), and pixels the network was given."""
    from monai.inferers import sliding_window_inference

    given = 0

    def same_size(window: Tensor) -> Tensor:
        nonlocal given
        mirrored = F.pad(window, (geometry.margin,) * 4, mode="reflect")
        given += mirrored.shape[0] * mirrored.shape[-1] * mirrored.shape[-2]
        return network(mirrored)

    roi = (geometry.output, geometry.output)
    found = sliding_window_inference(image, roi, 1, same_size, overlap=overlap, mode=mode)
    return found, given  # type: ignore[return-value]


def with_context(image: Tensor, pads: list[tuple[int, int]]) -> Tensor:
    """`image` (1, 1, H, W) with mirrored context; torch itself mirrors once, not twice."""
    if all(max(pad) < side for pad, side in zip(pads, image.shape[-2:], strict=True)):
        return F.pad(image, [*pads[1], *pads[0]], mode="reflect")
    found = np.pad(image[0, 0].cpu().numpy(), pads, mode="reflect")
    return torch.from_numpy(found)[None, None].to(image.device)


def on_our_grid(network: Predictor, image: Tensor, geometry: Geometry) -> tuple[Tensor, int]:
    """The same with our grid, made exact by mirroring everything beforehand and a weight map."""
    from monai.inferers import sliding_window_inference

    height, width = image.shape[-2:]
    tiles = plan((height, width), geometry)
    sides = [(n - 1) * geometry.step + geometry.input for n in (tiles.rows, tiles.columns)]
    edge, given = geometry.margin, 0
    pads = [
        (edge, side - edge - length) for side, length in zip(sides, (height, width), strict=True)
    ]
    canvas = with_context(image, pads)

    def surrounded(window: Tensor) -> Tensor:
        nonlocal given
        given += window.shape[0] * window.shape[-1] * window.shape[-2]
        return F.pad(network(window), (edge,) * 4)

    weight = F.pad(torch.ones((1, 1, geometry.output, geometry.output)), (edge,) * 4)
    found = sliding_window_inference(
        canvas, (geometry.input, geometry.input), 1, surrounded,
        overlap=1 - (geometry.step + 0.5) / geometry.input, roi_weight_map=weight,
    )  # fmt: skip
    return found[..., edge : edge + height, edge : edge + width], given  # type: ignore[index]
