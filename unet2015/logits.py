"""A network in one number format, in the memory format that is fast.

On a CPU in fp32 the result of a tile is the same to the last bit whatever the tile size, the batch
and its neighbours, as long as torch takes the same convolution for all of them. It takes another
one for a lone tile of which some layer sees 20,480 values or fewer; such a tile is therefore run
beside a copy of itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tiling.faults import NumericsError
from unet2015.fused import fused
from unet2015.tile_checks import refuse_tile_dependence

__all__ = ["Logits", "ieee"]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SMALL = 20_480  # torch, aten/src/ATen/native/Convolution.cpp, ConvParams::use_mkldnn


class Logits:
    """Logits float32 (N, K, h, w) of images float32 (N, C, H, W), both on the device.

    Parameters
    ----------
    net
        Put into evaluation mode and onto `device` here.
    device
        Where it runs.
    precision
        `fp32`, `bf16` or `fp16`: the number format of the convolutions.

    Raises
    ------
    UsageFault
        If the network's output depends on how the image is cut into tiles.
    NumericsError
        If a weight is NaN or Inf.

    Examples
    --------
    >>> from unet2015.net import UNet
    >>> net = UNet(base_channels=1, depth=1)
    >>> Logits(net, torch.device("cpu"), "fp32")(torch.zeros(1, 1, 18, 18)).shape
    torch.Size([1, 2, 2, 2])
    """

    def __init__(self, net: nn.Module, device: torch.device, precision: str) -> None:
        net.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        refuse_tile_dependence(net)
        _check_weights(net)
        self._net = fused(net) if device.type == "cpu" else net
        self._device, self._half = device, _HALF.get(precision)
        self._lone: dict[torch.Size, bool] = {}

    def __call__(self, image: Tensor) -> Tensor:
        """Logits float32 of `image`, not waited for."""
        image = image.contiguous(memory_format=torch.channels_last)
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


def _check_weights(net: nn.Module) -> None:
    """A fused ReLU makes 0 of a NaN, so that the output would not show it."""
    for name, values in net.named_parameters():
        if not bool(torch.isfinite(values).all()):
            raise NumericsError(
                f"the network's weights {name} hold NaN or Inf; use an earlier checkpoint, or "
                "train again with a smaller learning rate"
            )


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
def ieee(device: torch.device) -> Iterator[None]:
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
