"""Tiles to the device, and results back from it while it computes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unet2015.intensity import Scale

__all__ = ["OnItsWay", "fetched", "sent"]

Check = Callable[[Tensor, Tensor], Tensor]


def sent(tiles: NDArray[Any], scale: Scale, device: torch.device) -> Tensor:
    """Scaled tiles on the device, float32, contiguous.

    Values of 8 and 16 bits travel as they are, a quarter or half of the bytes, and are scaled
    there by the same two float32 operations as `scale` does here; the values are the same.

    Parameters
    ----------
    tiles
        (N, C, H, W), any type.
    scale
        What makes them float32.
    device
        Where they go; not waited for on CUDA.

    Examples
    --------
    >>> sent(np.full((1, 1, 1, 1), 255, np.uint8), Scale(gain=1 / 255), torch.device("cpu")).item()
    1.0
    """
    if device.type == "cpu" or tiles.dtype not in (np.uint8, np.uint16):
        return _moved(torch.from_numpy(scale(tiles)), device)
    raw = tiles.view(np.int16) if tiles.dtype == np.uint16 else tiles
    return _scaled(_moved(torch.from_numpy(raw), device), scale)


def _scaled(raw: Tensor, scale: Scale) -> Tensor:
    """Unsigned values where they lie; 16 bits come as int16, for few operations know uint16."""
    if raw.dtype is torch.int16:
        raw = raw.to(torch.int32).bitwise_and_(0xFFFF)
    image = raw.to(torch.float32)
    image -= _column(scale.offset, raw.device)
    image *= _column(scale.gain, raw.device)
    return image


def _moved(host: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return host.to(device)
    pinned = torch.empty(host.shape, dtype=host.dtype, pin_memory=True)
    # By numpy: torch would wake a thread of every processor for this copy, beside the codecs'.
    np.copyto(pinned.numpy(), host.numpy())
    return pinned.to(device, non_blocking=True)


def _column(value: float | tuple[float, ...], device: torch.device) -> Tensor:
    """A number, or numbers that stand along the channel axis; the device is not waited for."""
    column = torch.tensor(value, dtype=torch.float32)
    # A number goes along with the call; to make it on the device waits for all it has to do.
    return _moved(column.reshape(-1, 1, 1), device) if column.ndim else column


def fetched(result: Tensor, finite: Tensor, check: Check) -> Any:
    """`check(result, finite)` as an array: at once on a CPU, when `numpy.asarray` asks elsewhere.

    Parameters
    ----------
    result
        (N, K, h, w) on the device.
    finite
        bool (N), on the device.
    check
        Called with both on the CPU; returns the result, or raises.

    Returns
    -------
    numpy.ndarray or OnItsWay
        (N, K, h, w).
    """
    if result.device.type == "cpu":
        return check(result, finite).numpy()
    return OnItsWay(result, finite, check)


class OnItsWay:
    """A result that the device may still be computing; `numpy.asarray` waits for it.

    Parameters
    ----------
    result, finite, check
        As for `fetched`.
    """

    def __init__(self, result: Tensor, finite: Tensor, check: Check) -> None:
        self._check = check
        self._result, self._finite = _to_host(result), _to_host(finite)
        self._arrived: Any = None
        if result.device.type == "cuda":
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Wait for the result, check it, and return it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        made = self._check(self._result, self._finite).numpy()
        return np.array(made, dtype, copy=copy) if dtype is not None or copy else made


def _to_host(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
