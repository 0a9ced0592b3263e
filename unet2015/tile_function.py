"""A network as a function from tiles to tiles: numpy in, numpy out, all else on the device.

The views of test-time averaging, soft-max, arg-max and quantisation run where the network runs.
When the device runs out of memory, the same window is computed in smaller legal pieces on the same
grid (`unet2015.fitting`), so that the result does not change.

On a CPU in fp32 the result of a tile is the same to the last bit whatever the tile size, the batch
and its neighbours, as long as torch takes the same convolution for all of them. It takes another
one for a lone tile of which some layer sees 20,480 values or fewer; such a tile is therefore run
beside a copy of itself.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tiling.faults import NumericsError, UsageFault
from unet2015.fitting import Fitting
from unet2015.fused import fused
from unet2015.intensity import Scale
from unet2015.tile_checks import refuse_tile_dependence

__all__ = ["AVERAGES", "SAVES", "Wanted", "as_tile_function"]

TileFunction = Callable[[NDArray[Any]], NDArray[Any]]

# Views of test-time averaging as (quarter turns, mirrored). "flips" are the four of the authors'
# release; "all" is the whole dihedral group, the only choice that is rotation-equivariant.
AVERAGES: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "rotations": ((0, False), (1, False), (2, False), (3, False)),
    "all": tuple(itertools.product(range(4), (False, True))),
}
SAVES = ("probability", "label", "logits")
_QUANTA: dict[str, tuple[torch.dtype, int]] = {
    "uint8": (torch.uint8, 255),
    "uint16": (torch.uint16, 65535),
}
_SMALL = 20_480  # torch, aten/src/ATen/native/Convolution.cpp, ConvParams::use_mkldnn


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
        Whether the views' probabilities or their logits are averaged.

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
    net.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    refuse_tile_dependence(net)
    logits_of = _Logits(fused(net) if device.type == "cpu" else net, device, precision)

    def result_of(image: Tensor) -> Tensor:
        total: Tensor | None = None
        as_logits = mean_of == "logits" or wanted.save == "logits"
        for view in AVERAGES[average]:
            logits = _unturned(logits_of(_turned(image, view)), view)
            part = logits if as_logits else logits.softmax(dim=1)
            total = part if total is None else total + part
        assert total is not None
        mean = total / len(AVERAGES[average]) if len(AVERAGES[average]) > 1 else total
        if as_logits and wanted.save != "logits":
            mean = mean.softmax(dim=1)
        return _picked(mean, wanted)

    fitting = Fitting(int(net.margin), int(net.period), device, result_of)  # type: ignore[arg-type]

    def function(tiles: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode(), _ieee(device):
            return fitting(torch.from_numpy(scale(tiles))).numpy()

    return function


class _Logits:
    """The network in one number format, in the memory format that is fast."""

    def __init__(self, net: nn.Module, device: torch.device, precision: str) -> None:
        self._net, self._device = net, device
        self._half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self._lone: dict[torch.Size, bool] = {}

    def __call__(self, image: Tensor) -> Tensor:
        """Logits float32 (N, K, h, w), finite."""
        image = image.contiguous(memory_format=torch.channels_last)
        logits = self._run(image)
        finite = torch.isfinite(logits.flatten(1)).all(dim=1)
        if bool(finite.all()):
            return logits
        if self._half is torch.float16:  # these tiles overflowed: once more, in full
            logits[~finite] = self._net(image[~finite]).float()
        if not bool(torch.isfinite(logits).all()):
            raise NumericsError(
                "the network's output holds NaN or Inf; check its weights, the image's values "
                "and how they are normalised"
            )
        return logits

    def _run(self, image: Tensor) -> Tensor:
        small = self._lone.get(image.shape)
        if image.shape[0] == 1 and self._device.type == "cpu" and small is None:
            with _smallest_input(self._net) as sizes:
                logits = self._in_format(image)
            small = self._lone[image.shape] = min(sizes, default=_SMALL + 1) <= _SMALL
            if not small:
                return logits
        return self._in_format(image.expand(2, -1, -1, -1))[:1] if small else self._in_format(image)

    def _in_format(self, image: Tensor) -> Tensor:
        enabled = self._half is not None
        with torch.autocast(self._device.type, dtype=self._half, enabled=enabled):
            logits: Tensor = self._net(image)
        return logits.float()


@contextlib.contextmanager
def _smallest_input(net: nn.Module) -> Iterator[list[int]]:
    """Number of values that each convolution is given while the block runs."""
    sizes: list[int] = []
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: sizes.append(given[0].numel()))
        for layer in net.modules()
        if isinstance(layer, kinds)
    ]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _ieee(device: torch.device) -> Iterator[None]:
    """CuDNN without TF32 and without algorithms that differ from run to run."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.conv.fp32_precision
    cudnn.deterministic, cudnn.conv.fp32_precision = True, "ieee"
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.conv.fp32_precision = before


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
        return (values * full).round_().clamp_(0, full).to(torch.int32).to(kind)
    return values.to(torch.float16 if wanted.dtype == "float16" else torch.float32)
