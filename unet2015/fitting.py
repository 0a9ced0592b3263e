"""One window from smaller ones where the device's memory does not hold it, with the same result.

The smaller windows are legal inputs of the network and begin at multiples of its period, so they
are on the same grid as the large one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tiling.faults import MemoryFault

__all__ = ["Fitting", "is_out_of_memory"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, and nothing else.

    Examples
    --------
    >>> is_out_of_memory(torch.OutOfMemoryError()), is_out_of_memory(RuntimeError("size mismatch"))
    (True, False)
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    says = ("DefaultCPUAllocator: can't allocate", "MPS backend out of memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in says)


class Fitting:
    """`compute` on windows of any size, in as many pieces as the device's memory asks for.

    Parameters
    ----------
    margin, period
        Of the network, in pixels.
    device
        Where `compute` runs.
    compute
        (N, C, H, W) on the device to (N, K, h, w).

    Attributes
    ----------
    failed : int
        Values of the smallest window that did not fit; such windows are not tried again.
    """

    def __init__(
        self,
        margin: int,
        period: int,
        device: torch.device,
        compute: Callable[[Tensor], Tensor],
    ) -> None:
        self._margin, self._period, self._device = margin, period, device
        self._compute = compute
        self.failed = 0

    def __call__(self, image: Tensor) -> Tensor:
        """Result on the CPU for an image on the CPU, (N, C, H, W).

        Raises
        ------
        MemoryFault
            If even the smallest legal window does not fit.
        """
        if not self.failed or image.numel() < self.failed:
            try:
                return self._compute(image.to(self._device, non_blocking=True)).cpu()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the except block, so that the failed attempt's tensors are free.
            self.failed = image.numel()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        if image.shape[0] > 1:
            return torch.cat([self(part) for part in torch.chunk(image, 2)])
        return self._in_quarters(image)

    def _in_quarters(self, image: Tensor) -> Tensor:
        margin = self._margin
        result: Tensor | None = None
        for top, left, height, width in self._pieces(image.shape[-2:]):
            piece = self(
                image[..., top : top + height + 2 * margin, left : left + width + 2 * margin]
            )
            if result is None:
                sides = [side - 2 * margin for side in image.shape[-2:]]
                result = piece.new_empty((1, piece.shape[1], *sides))
            result[..., top : top + height, left : left + width] = piece
        assert result is not None
        return result

    def _pieces(self, shape: torch.Size) -> Iterator[tuple[int, int, int, int]]:
        """Overlapping output windows (top, left, height, width) that halve each side."""
        spans: list[list[tuple[int, int]]] = []
        for side in shape:
            output = side - 2 * self._margin
            rest = output % self._period
            # The smallest legal output that covers half and holds a whole period.
            periods = max(1, -(-(-(-output // 2) - rest) // self._period))
            half = periods * self._period + rest
            if half >= output:
                raise MemoryFault(
                    f"the device has too little memory even for an input of {shape[-2]} x "
                    f"{shape[-1]} px; free some, or use --device cpu or --memory"
                )
            spans.append([(0, half), (output - half, half)])
        for (top, height), (left, width) in itertools.product(*spans):
            yield top, left, height, width
