"""A network as a function from tiles to tiles: numpy in, numpy out, all else on the device.

Scaling, the views of test-time averaging, soft-max, arg-max and quantisation run where the network
runs. When the device runs out of memory, the same window is computed in smaller legal pieces on the
same grid, so that the result does not change.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tiling.faults import MemoryFault, UsageFault

__all__ = [
    "AVERAGES", "SAVES", "Scale", "as_tile_function", "is_out_of_memory", "scale_for_dtype",
]  # fmt: skip

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


@dataclass(frozen=True)
class Scale:
    """Global scaling of image values: (value - offset) * gain, one for a whole image.

    Examples
    --------
    >>> Scale(offset=0.0, gain=1 / 255)(np.array([0, 255], np.uint8))
    array([0., 1.], dtype=float32)
    """

    offset: float = 0.0
    gain: float = 1.0

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Scaled copy as float32, computed in float32."""
        return (values.astype(np.float32) - np.float32(self.offset)) * np.float32(self.gain)


def scale_for_dtype(dtype: np.dtype[Any] | type, scale: str = "dtype-range") -> Scale:
    """The authors' release scaling: uint8 / 255, uint16 / 65535, other kinds as they are.

    Parameters
    ----------
    dtype
        Type of the image as stored.
    scale
        `dtype-range` or `none`, as recorded in the checkpoint.
    """
    kind = np.dtype(dtype)
    if scale == "none" or kind.kind == "f":
        return Scale()
    if kind.kind == "b":
        return Scale()
    return Scale(gain=1.0 / np.iinfo(kind).max)


def as_tile_function(
    net: nn.Module,
    *,
    scale: Scale,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    average: str = "none",
    mean_of: Literal["probabilities", "logits"] = "probabilities",
    save: str = "probability",
    dtype: str = "float32",
    only: slice | None = None,
) -> TileFunction:
    """Function from image tiles (N, C, H, W) to result tiles (N, K, h, w).

    Parameters
    ----------
    net
        Network with `.margin` and `.period`; put into evaluation mode and onto `device` here.
    scale
        Global scaling of the image's values.
    device, precision
        Where and with which number format the convolutions run (`fp32`, `bf16`, `fp16`).
    average
        Views averaged per tile: `none`, `flips`, `rotations` or `all`.
    mean_of
        Whether the views' probabilities or their logits are averaged.
    save
        `probability` (all classes), `label` (arg-max, one channel, uint8) or `logits`.
    dtype
        `float32`, `float16`, `uint16` or `uint8`; the integers hold round(p * full range).
    only
        Classes that come back; by default all.

    Raises
    ------
    UsageFault
        If a name is unknown or the dtype cannot hold what is saved.
    MemoryFault
        Raised by the function when even the smallest tile does not fit.
    """
    if average not in AVERAGES or save not in SAVES or mean_of not in ("probabilities", "logits"):
        raise UsageFault(
            f"average={average!r}, save={save!r}, mean_of={mean_of!r}: choose average from"
            f" {', '.join(AVERAGES)}; save from {', '.join(SAVES)}; mean_of probabilities or logits"
        )
    if dtype not in ("float32", "float16", *_QUANTA) or (save == "logits" and dtype in _QUANTA):
        raise UsageFault(f"--dtype {dtype} cannot hold {save}; use float32 or float16")
    device = torch.device(device)
    net.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def logits_of(image: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            logits = net(image.contiguous(memory_format=torch.channels_last))
        if precision == "fp16" and not bool(torch.isfinite(logits).all()):
            logits = net(image)  # this tile overflowed half precision: once more in full
        result: Tensor = logits.float()
        return result

    def result_of(image: Tensor) -> Tensor:
        total: Tensor | None = None
        as_logits = mean_of == "logits" or save == "logits"
        for view in AVERAGES[average]:
            logits = _unturned(logits_of(_turned(image, view)), view)
            part = logits if as_logits else logits.softmax(dim=1)
            total = part if total is None else total + part
        assert total is not None
        mean = total / len(AVERAGES[average]) if len(AVERAGES[average]) > 1 else total
        if save == "label":
            return mean.argmax(dim=1, keepdim=True).to(torch.uint8)
        if save == "probability" and as_logits:
            mean = mean.softmax(dim=1)
        return _quantised(mean if only is None else mean[:, only], dtype)

    def function(tiles: NDArray[Any]) -> NDArray[Any]:
        image = torch.from_numpy(np.ascontiguousarray(scale(tiles)))
        with torch.inference_mode():
            return _within_memory(net, result_of, image, device).numpy()

    return function


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


def _quantised(values: Tensor, dtype: str) -> Tensor:
    """Values as float32, float16, or integers that hold round(p * full range)."""
    if dtype in _QUANTA:
        kind, full = _QUANTA[dtype]
        return (values * full).round_().clamp_(0, full).to(torch.int32).to(kind)
    return values.to(torch.float16 if dtype == "float16" else torch.float32)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, and nothing else."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't alloc" in str(error)


def _within_memory(
    net: nn.Module, compute: Callable[[Tensor], Tensor], image: Tensor, device: torch.device
) -> Tensor:
    """`compute(image)` on the CPU, in as many pieces as the device's memory asks for."""
    try:
        return compute(image.to(device, non_blocking=True)).cpu()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the except block, so that the failed attempt's tensors are free.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if image.shape[0] > 1:
        halves = torch.chunk(image, 2)
        return torch.cat([_within_memory(net, compute, part, device) for part in halves])
    return _in_quarters(net, compute, image, device)


def _in_quarters(
    net: nn.Module, compute: Callable[[Tensor], Tensor], image: Tensor, device: torch.device
) -> Tensor:
    """One window from smaller legal windows whose origins are multiples of the period."""
    margin, period = int(net.margin), int(net.period)  # type: ignore[arg-type]
    result: Tensor | None = None
    for top, left, height, width in _pieces(image.shape[-2:], margin, period):
        part = image[..., top : top + height + 2 * margin, left : left + width + 2 * margin]
        piece = _within_memory(net, compute, part, device)
        if result is None:
            sides = [side - 2 * margin for side in image.shape[-2:]]
            result = piece.new_empty((1, piece.shape[1], *sides))
        result[..., top : top + height, left : left + width] = piece
    assert result is not None
    return result


def _pieces(
    shape: tuple[int, ...] | torch.Size, margin: int, period: int
) -> Iterator[tuple[int, int, int, int]]:
    """Overlapping output windows (top, left, height, width) that halve each side."""
    spans: list[list[tuple[int, int]]] = []
    for side in shape:
        output = side - 2 * margin
        smaller = -(-(output // 2) // period) * period + output % period
        if smaller >= output:
            raise MemoryFault(
                f"the device has too little memory even for an input of {shape[-2]} x {shape[-1]};"
                " free some, or use --device cpu"
            )
        spans.append([(0, smaller), (output - smaller, smaller)])
    for (top, height), (left, width) in itertools.product(*spans):
        yield top, left, height, width
