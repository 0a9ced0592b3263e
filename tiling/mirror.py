"""Read a window that overhangs the image, by reflection, without padding the image.

"To predict the pixels in the border region of the image, the missing context is extrapolated
by mirroring the input image" (section 2). The edge pixel is not repeated (numpy's `reflect`);
where the window reaches further than the image is wide, the reflection is repeated.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Source", "read_mirrored", "reflected"]


class Source(Protocol):
    """Anything to read pixels from: a numpy or zarr array, `tiling.open_source`, ...

    A source that has an attribute `keeps_rows`, which is true, keeps what it had to decode below
    the rows it was asked for. It is asked for a few rows at a time, in order, ahead of the tiles.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (C, H, W)."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of a pixel."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """`source[..., y0:y1, x0:x1]` as an array."""
        ...


def reflected(start: int, stop: int, length: int) -> npt.NDArray[np.intp]:
    """Positions inside an axis of `length` that positions `start` ... `stop - 1` mirror to.

    Examples
    --------
    >>> reflected(-3, 6, 4)
    array([3, 2, 1, 0, 1, 2, 3, 2, 1])
    >>> reflected(-2, 3, 1)
    array([0, 0, 0, 0, 0])
    """
    if length == 1:
        return np.zeros(stop - start, dtype=np.intp)
    turn = 2 * (length - 1)
    along = np.arange(start, stop, dtype=np.intp) % turn
    return np.minimum(along, turn - along)


def read_mirrored(source: Source, y0: int, y1: int, x0: int, x1: int) -> npt.NDArray[Any]:
    """Pixels [y0, y1) x [x0, x1) of the image's endless mirrored continuation.

    Only pixels inside the image are read, in one slice no larger than the window.

    Parameters
    ----------
    source
        (H, W) or (C, H, W), anything that slices like numpy on its last two axes.
    y0, y1, x0, x1
        The window, half open; negative and beyond the image is fine.

    Returns
    -------
    ndarray
        (C, y1 - y0, x1 - x0), the source's dtype; it may be a view of the source's memory.

    Examples
    --------
    >>> read_mirrored(np.arange(6).reshape(2, 3), -1, 3, -1, 4)
    array([[[4, 3, 4, 5, 4],
            [1, 0, 1, 2, 1],
            [4, 3, 4, 5, 4],
            [1, 0, 1, 2, 1]]])
    """
    height, width = source.shape[-2:]
    inside = 0 <= y0 <= y1 <= height and 0 <= x0 <= x1 <= width
    if inside:
        block = np.asarray(source[..., y0:y1, x0:x1])
        return block if block.ndim == 3 else block[None]
    rows, columns = reflected(y0, y1, height), reflected(x0, x1, width)
    top, bottom = (int(rows.min()), int(rows.max()) + 1) if rows.size else (0, 0)
    left, right = (int(columns.min()), int(columns.max()) + 1) if columns.size else (0, 0)
    block = np.asarray(source[..., top:bottom, left:right])
    block = block if block.ndim == 3 else block[None]
    # One axis after the other: both at once by numpy's indexing takes ten times as long.
    return block.take(rows - top, axis=1).take(columns - left, axis=2)
