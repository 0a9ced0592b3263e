"""Convolution and ReLU in one pass over memory, on a CPU.

A ReLU of its own reads and writes every value of a layer once more. oneDNN can apply it while the
convolution's result is still in the processor. The values are the same to the last bit; the two
layers one after the other remain the reference.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

__all__ = ["fused"]


def fused(net: nn.Module) -> nn.Module:
    """A view of `net` for inference on a CPU; its parameters are those of `net`, not copies.

    Parameters
    ----------
    net
        On the CPU, float32, in evaluation mode. Each `Conv2d` followed by a `ReLU` in an
        `nn.Sequential` is joined with it; every other layer stays what it is, and `net` itself is
        left alone.

    Returns
    -------
    nn.Module
        `net` itself where torch was built without oneDNN.

    Examples
    --------
    >>> from unet2015.net import UNet
    >>> net, image = UNet(base_channels=2, depth=1).eval(), torch.rand(2, 1, 18, 18)
    >>> with torch.inference_mode():
    ...     bool((fused(net)(image) == net(image)).all())
    True
    """
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return net
    twin = _view(net)
    for block in twin.modules():
        if isinstance(block, nn.Sequential):
            _join(block)
    return twin


def _view(module: nn.Module) -> nn.Module:
    """The same tree of layers; replacing one here leaves `module` alone."""
    twin = copy.copy(module)
    twin._modules = {k: None if m is None else _view(m) for k, m in module._modules.items()}
    return twin


def _join(block: nn.Sequential) -> None:
    for number in range(len(block) - 1):
        conv, relu = block[number], block[number + 1]
        if type(conv) is nn.Conv2d and type(relu) is nn.ReLU and _has_code(conv):
            block[number], block[number + 1] = _ConvReLU(conv), nn.Identity()


def _has_code(conv: nn.Conv2d) -> bool:
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return plain and conv.weight.dtype is torch.float32


class _ConvReLU(nn.Module):
    """The two as one call of oneDNN, whatever the size (torch takes other code for small ones)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        steps = (conv.padding, conv.stride, conv.dilation)
        self._rest: tuple[Any, ...] = (*(list(step) for step in steps), conv.groups)

    def forward(self, image: Tensor) -> Tensor:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else image.dtype
        image, weight = image.to(kind), self.weight.to(kind)
        bias = None if self.bias is None else self.bias.to(kind)
        if not _computes(kind):
            padding, stride, dilation, groups = self._rest
            return conv2d(image, weight, bias, stride, padding, dilation, groups).relu_()
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(
            image, weight, bias, *self._rest, "relu", [], ""
        )
        return made


def _computes(kind: torch.dtype) -> bool:
    """Whether oneDNN computes with these numbers on this processor."""
    if kind is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if kind is torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return kind is torch.float32
