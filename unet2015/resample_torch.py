"""The twin of `resample` in torch operations, for slices and tiles that live on a GPU.

The same formulas, one tensor operation each; plain gathers rather than `grid_sample`, whose
normalised float32 coordinates lose a thousandth of a pixel on large slices. Tested to agree
with the compiled kernel within 1e-4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unet2015.counter import generator

if TYPE_CHECKING:
    from unet2015.augment import Deformation
    from unet2015.resample import Map

__all__ = ["grey", "warp_tile"]


def warp_tile(
    image: Any,
    labels: Any,
    weights: Any | None,
    where: Map,
    *,
    output_px: int,
    mirrored_weight: float,
    device: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Image (C, P, P), labels and weights of the centred window, as `resample.warp_tile`.

    Parameters
    ----------
    image, labels, weights
        Arrays, or tensors (best already on the device), shapes (C, H, W), (H, W), (H, W).
    where, output_px, mirrored_weight
        As for `resample.warp_tile`.
    device
        Torch device to work on.
    """
    planes, label_plane = _tensor(image, device), _tensor(labels, device)
    height, width = label_plane.shape
    # Apple's GPUs have no float64: there, coordinates carry float32's rounding.
    real = torch.float32 if device.startswith("mps") else torch.float64
    affine, basis, vectors, offsets = (torch.as_tensor(a, dtype=real, device=device) for a in where)
    u = basis.T @ vectors @ basis
    y, x = u[0] + offsets[:, None], u[1] + offsets[None, :]
    sources = affine[:, :2] @ torch.stack([y.reshape(-1), x.reshape(-1)])
    source_y, source_x = (sources + affine[:, 2:]).reshape(2, *y.shape)
    y, x = _fold(source_y, height - 1), _fold(source_x, width - 1)
    tile = _linear(planes, y, x)

    margin = (offsets.numel() - output_px) // 2
    window = (slice(margin, margin + output_px), slice(margin, margin + output_px))
    y, x, source_y, source_x = y[window], x[window], source_y[window], source_x[window]
    label_tile = label_plane[(y + 0.5).long(), (x + 0.5).long()].long()
    if weights is None:
        weight_tile = torch.ones(label_tile.shape, dtype=torch.float32, device=device)
    else:
        weight_tile = _linear(_tensor(weights, device)[None], y, x)[0]
    inside = (source_y >= -0.5) & (source_y < height - 0.5)
    inside &= (source_x >= -0.5) & (source_x < width - 0.5)
    factor = torch.where(inside, 1.0, mirrored_weight)
    return tile, label_tile, weight_tile * factor.to(weight_tile.dtype)


def grey(tile: Tensor, divisor: float, deformation: Deformation) -> Tensor:
    """Grey-value variation of a fresh tile, as `augment.deform` does it on the CPU."""
    tile = tile / divisor
    if deformation.gamma != 1.0:
        tile = tile.sign() * tile.abs() ** deformation.gamma
    tile = tile * deformation.gain + deformation.grey_shift
    if deformation.noise_std != 0.0:
        noise = generator(*deformation.noise_key).standard_normal(tuple(tile.shape), np.float32)
        tile = tile + deformation.noise_std * torch.from_numpy(noise).to(tile.device)
    return tile


def _tensor(array: Any, device: str) -> Tensor:
    """Tensor of an array on the device; big-endian and unaligned arrays are copied."""
    if isinstance(array, Tensor):
        return array.to(device)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array).to(device)


def _fold(position: Tensor, last: int) -> Tensor:
    """Positions mirrored into 0 .. last, the edge not repeated."""
    if last == 0:
        return torch.zeros_like(position)
    return last - (last - position.abs() % (2 * last)).abs()


def _linear(planes: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear values (C, P, P) float32 of planes (C, H, W) at points inside them."""
    y0, x0 = y.long(), x.long()
    y1 = (y0 + 1).clamp(max=planes.shape[1] - 1)
    x1 = (x0 + 1).clamp(max=planes.shape[2] - 1)
    fy, fx = (y - y0).float(), (x - x0).float()
    flat = planes.reshape(planes.shape[0], -1)
    width = planes.shape[2]
    if flat.dtype == torch.uint16:  # few operations know uint16
        flat = flat.to(torch.int32)
    at = [flat[:, (r * width + c).reshape(-1)].float().reshape(-1, *y.shape)
          for r in (y0, y1) for c in (x0, x1)]  # fmt: skip
    top = at[0] * (1 - fx) + at[1] * fx
    low = at[2] * (1 - fx) + at[3] * fx
    return top * (1 - fy) + low * fy
