"""A network as a function from tiles to tiles: numpy in, numpy out, all else on the device.

Scaling, the views of test-time averaging, soft-max, arg-max and quantisation run where the network
runs. Beside the CPU nothing is waited for until the result is asked for, so that a device computes
a tile while the one before is placed. When the device runs out of memory, the same window is
computed in smaller legal pieces on the same grid (`unet2015.fitting`), and the result is the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tiling.faults import NumericsError, UsageFault
from unet2015.fitting import Fitting
from unet2015.intensity import Scale
from unet2015.logits import Logits, ieee
from unet2015.transfer import fetched, sent
from unet2015.value_check import LARGEST

__all__ = ["AVERAGES", "SAVES", "Wanted", "as_tile_function"]

TileFunction = Callable[[NDArray[Any]], Any]

# Views of test-time averaging as (quarter turns, mirrored). "flips" are the four of the authors'
# release; "all" is the whole dihedral group, the only choice that is rotation-equivariant.
AVERAGES: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "rotations": ((0, False), (1, False), (2, False), (3, False)),
    "all": tuple(itertools.product(range(4), (False, True))),
}
SAVES = ("probability", "label", "logits")
_LANES = 32  # a multiple of the float32 values in a vector of any processor torch has code for
_QUANTA: dict[str, tuple[torch.dtype, int]] = {
    "uint8": (torch.uint8, 255),
    "uint16": (torch.uint16, 65535),
}
_NOT_FINITE = (
    "the network's input or output holds NaN or Inf, or values beyond 1e30; check its weights, the "
    "image's values and how they are normalised"
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a tile function returns.

    Parameters
    ----------
    save
        `probability`, `label` (one channel, uint8) or `logits`.
    dtype
        `float32`, `float16`, `uint16` or `uint8`; the integers hold round(p * full range).
    only
        Class whose map comes back, or that a threshold is for; None: all classes.
    threshold
        A label is 1 where the probability of class `only` is larger than this, else 0; None labels
        by the most probable class.

    Raises
    ------
    UsageFault
        If a name is unknown or the choices do not fit each other.
    """

    save: str = "probability"
    dtype: str = "float32"
    only: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.save not in SAVES:
            raise UsageFault(f"save={self.save!r}: choose from {', '.join(SAVES)}")
        holds = ("uint8",) if self.save == "label" else ("float32", "float16", *_QUANTA)
        holds = ("float32", "float16") if self.save == "logits" else holds
        if self.dtype not in holds:
            raise UsageFault(f"--dtype {self.dtype} cannot hold {self.save}; use {holds[0]}")
        if self.threshold is None:
            return
        if self.save != "label" or self.only is None:
            raise UsageFault("--threshold makes labels of one class: add --save label --class N")
        if not 0 <= self.threshold <= 1:
            raise UsageFault(f"--threshold {self.threshold}: a probability is 0 to 1")


def as_tile_function(
    net: nn.Module,
    wanted: Wanted = Wanted(),
    *,
    scale: Scale,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    average: str = "none",
    mean_of: Literal["probabilities", "logits"] = "probabilities",
) -> TileFunction:
    """Function from image tiles (N, C, H, W) to result tiles (N, K, h, w).

    On a CPU the function returns an array; on another device something that `numpy.asarray` waits
    for, so that the next tile can be sent meanwhile (`tiling.stitch` does so).

    Parameters
    ----------
    net
        Network with `.margin` and `.period`; put into evaluation mode and onto `device` here.
    wanted
        What comes back.
    scale
        Global scaling of the image's values.
    device, precision
        Where and with which number format the convolutions run (`fp32`, `bf16`, `fp16`). fp32 on
        a GPU is IEEE fp32, not TF32; a tile that overflows fp16 is computed again in fp32.
    average
        Views averaged per tile: `none`, `flips`, `rotations` or `all`.
    mean_of
        Whether the views' probabilities or their logits are averaged; logits where they come back.

    Raises
    ------
    UsageFault
        If a name is unknown, or the network's output depends on how the image is cut into tiles.
    MemoryFault
        Raised by the function when even the smallest tile does not fit.
    NumericsError
        Raised by the function when the network's output is NaN or Inf.

    Examples
    --------
    >>> import numpy as np
    >>> from unet2015.net import UNet
    >>> function = as_tile_function(UNet(base_channels=1, depth=1), scale=Scale(gain=1 / 255))
    >>> function(np.zeros((2, 1, 18, 18), np.uint8)).shape
    (2, 2, 2, 2)
    """
    if average not in AVERAGES or mean_of not in ("probabilities", "logits"):
        raise UsageFault(
            f"average={average!r}, mean_of={mean_of!r}: choose average from"
            f" {', '.join(AVERAGES)}; mean_of probabilities or logits"
        )
    device = torch.device(device)
    as_logits = mean_of == "logits" or wanted.save == "logits"

    def fitting(precision: str) -> TileFunction:
        logits_of = Logits(net, device, precision)
        in_full = fitting("fp32") if precision == "fp16" else None

        def compute(tiles: NDArray[Any]) -> Any:
            @torch.inference_mode()
            def check(result: Tensor, finite: Tensor) -> Tensor:
                if bool(finite.all()):
                    return result
                if in_full is None:
                    raise NumericsError(_NOT_FINITE)
                overflown = ~finite.numpy()
                # In numpy: torch cannot assign single values of 16 unsigned bits.
                result.numpy()[overflown] = np.asarray(in_full(tiles[overflown]))
                return result

            with torch.inference_mode(), ieee(device):
                image = sent(tiles, scale, device)
                mean, finite = _mean(image, logits_of, AVERAGES[average], as_logits=as_logits)
                if as_logits and wanted.save != "logits":
                    mean = _probabilities(mean)
                return fetched(_picked(mean, wanted), finite, check)

        return Fitting(int(net.margin), int(net.period), device, compute)  # type: ignore[arg-type]

    return fitting(precision)


def _mean(
    image: Tensor, logits_of: Logits, views: tuple[tuple[int, bool], ...], *, as_logits: bool
) -> tuple[Tensor, Tensor]:
    """Mean probabilities or logits over the views, and whether each tile's are all finite."""
    total: Tensor | None = None
    # Told from the input too: a fused ReLU makes 0 of a NaN, which no logit then shows.
    finite = _all_within(image, LARGEST)
    for view in views:
        logits = _unturned(logits_of(_turned(image, view)), view)
        finite &= _all_within(logits, math.inf)
        part = logits if as_logits else _probabilities(logits)
        total = part if total is None else total + part
    assert total is not None
    return total / len(views) if len(views) > 1 else total, finite


def _all_within(values: Tensor, bound: float) -> Tensor:
    """Whether all of each tile of (N, ...) is nearer to 0 than `bound` and no NaN, bool (N,)."""
    # One pass without copies; a NaN is both extremes of what holds it.
    ends = torch.stack([torch.stack(tile.aminmax()) for tile in values])
    return (ends.abs() < bound).all(dim=1)


def _probabilities(logits: Tensor) -> Tensor:
    """Soft-max over the classes of (N, K, h, w), for each pixel the same bits in every tile.

    On a CPU torch computes the pixels that are left over when the processor's vectors are full by
    another exponential, which may round otherwise; therefore no pixel is left over.
    """
    height, width = logits.shape[-2:]
    spare = -(height * width) % _LANES
    if not spare or logits.device.type != "cpu":
        return logits.softmax(dim=1)
    padded = logits.new_empty((*logits.shape[:2], height * width + spare))
    padded[..., height * width :] = 0
    padded[..., : height * width].view(logits.shape).copy_(logits)
    return padded.softmax(dim=1)[..., : height * width].view(logits.shape)


def _turned(image: Tensor, view: tuple[int, bool]) -> Tensor:
    """One of the eight dihedral views of (N, C, H, W)."""
    turns, mirrored = view
    image = image.flip(-1) if mirrored else image
    return torch.rot90(image, turns, (-2, -1)) if turns else image


def _unturned(result: Tensor, view: tuple[int, bool]) -> Tensor:
    """The view undone."""
    turns, mirrored = view
    result = torch.rot90(result, -turns, (-2, -1)) if turns else result
    return result.flip(-1) if mirrored else result


def _picked(mean: Tensor, wanted: Wanted) -> Tensor:
    """What is wanted of the mean probabilities (or logits) (N, K, h, w)."""
    if wanted.threshold is not None and wanted.only is not None:
        above = mean[:, wanted.only : wanted.only + 1].double() > wanted.threshold
        return above.to(torch.uint8)
    if wanted.save == "label":
        return mean.argmax(dim=1, keepdim=True).to(torch.uint8)
    values = mean if wanted.only is None else mean[:, wanted.only : wanted.only + 1]
    if wanted.dtype in _QUANTA:
        kind, full = _QUANTA[wanted.dtype]
        levels = (values * full).round_()  # a mean above 1 by its rounding comes back to `full`
        return (levels if full < 256 else levels.to(torch.int32)).to(kind)
    return values.to(torch.float16 if wanted.dtype == "float16" else torch.float32)
