"""One window from smaller ones where the device's memory does not hold it, with the same result.

The smaller windows are legal inputs of the network and begin at multiples of its period, so they
are on the same grid as the large one.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tiling.faults import MemoryFault

__all__ = ["Fitting", "as_memory_fault", "halved", "is_out_of_memory"]


def halved(output: int, period: int) -> int:
    """The smallest legal output that covers half of `output` px and holds a whole period.

    Where nothing smaller does, it is `output` itself or more.

    Examples
    --------
    >>> halved(388, 16), halved(20, 16)
    (196, 20)
    """
    rest = output % period
    return max(1, -(-(-(-output // 2) - rest) // period)) * period + rest


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, and nothing else.

    Examples
    --------
    >>> is_out_of_memory(torch.OutOfMemoryError()), is_out_of_memory(RuntimeError("size mismatch"))
    (True, False)
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    says = (
        "DefaultCPUAllocator: can't allocate",
        "MPS backend out of memory",
        "CUDA error: out of memory",  # of the driver: pinned host memory, kernels, handles
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
    )
    if not isinstance(error, RuntimeError):
        return False
    # The whole of what oneDNN says where its working memory or code finds no room (ulimit -v). Of
    # sizes that it does not know it says "could not create a primitive descriptor for a ...".
    return str(error) == "could not create a primitive" or any(w in str(error) for w in says)


@contextlib.contextmanager
def as_memory_fault(remedy: str) -> Iterator[None]:
    """Turn every error that says that memory ran out into a `MemoryFault` with this remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryFault(f"out of memory; {remedy}") from error


class Fitting:
    """`compute` on windows of any size, in as many pieces as the device's memory asks for.

    Parameters
    ----------
    margin, period
        Of the network, in pixels.
    device
        Where `compute` runs.
    compute
        Tiles (N, C, H, W) to anything that `numpy.asarray` makes (N, K, h, w) of.

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
        compute: Callable[[NDArray[Any]], Any],
    ) -> None:
        self._margin, self._period, self._device = margin, period, device
        self._compute = compute
        self.failed = 0

    def __call__(self, image: NDArray[Any]) -> Any:
        """What `compute` returns, or the same as an array from smaller windows.

        Raises
        ------
        MemoryFault
            If even the smallest legal window does not fit.
        """
        if not self.failed or image.size < self.failed:
            try:
                return self._compute(image)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the except block, so that the failed attempt's tensors are free.
            self.failed = image.size
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        if image.shape[0] > 1:
            return np.concatenate([np.asarray(self(part)) for part in np.array_split(image, 2)])
        return self._in_quarters(image)

    def _in_quarters(self, image: NDArray[Any]) -> NDArray[Any]:
        margin = self._margin
        result: NDArray[Any] | None = None
        for top, left, height, width in self._pieces(image.shape[-2:]):
            window = image[..., top : top + height + 2 * margin, left : left + width + 2 * margin]
            piece = np.asarray(self(window))
            if result is None:
                sides = [side - 2 * margin for side in image.shape[-2:]]
                result = np.empty((1, piece.shape[1], *sides), piece.dtype)
            result[..., top : top + height, left : left + width] = piece
        assert result is not None
        return result

    def _pieces(self, shape: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
        """Overlapping output windows (top, left, height, width) that halve each side."""
        spans: list[list[tuple[int, int]]] = []
        for side in shape:
            output = side - 2 * self._margin
            half = halved(output, self._period)
            if half >= output:
                other = "" if self._device.type == "cpu" else ", or use --device cpu"
                raise MemoryFault(
                    f"there is too little memory even for an input of {shape[-2]} x {shape[-1]} px;"
                    f" free some{other}"
                )
            spans.append([(0, half), (output - half, half)])
        for (top, height), (left, width) in itertools.product(*spans):
            yield top, left, height, width
