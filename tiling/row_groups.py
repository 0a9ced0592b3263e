"""Rows that come in pieces of any height, handed on in groups of one height."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RowGroups"]


class RowGroups:
    """Gathers full-width rows of a (K, H, W) image into groups of `height` rows.

    Parameters
    ----------
    shape
        (K, H, W) of the image.
    height
        Rows of a group; the last group of the image may have fewer.
    start
        First row to come, a multiple of `height` or the image's end.

    Examples
    --------
    >>> rows = RowGroups((1, 5, 1), 2)
    >>> [group[0, :, 0].tolist() for group in rows.add(0, np.array([[[1], [2], [3]]]))]
    [[1, 2]]
    >>> [group[0, :, 0].tolist() for group in rows.add(3, np.array([[[4], [5]]]))]
    [[3, 4], [5]]
    """

    def __init__(self, shape: tuple[int, int, int], height: int, start: int = 0) -> None:
        self._shape = shape
        self._height = height
        self._next = start
        self._held: npt.NDArray[Any] | None = None
        self._filled = 0

    def add(self, start: int, block: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Groups that `block` (K, h, W), whose first row is `start`, completes.

        A group may share memory with the block or with the next group; use it at once.
        """
        self._check(start, block)
        self._next += block.shape[1]
        at_end = self._next == self._shape[1]
        done = 0
        while done < block.shape[1]:
            take = min(self._height - self._filled, block.shape[1] - done)
            part = block[:, done : done + take]
            done += take
            complete = self._filled + take == self._height or (at_end and done == block.shape[1])
            if complete and self._filled == 0:
                yield part
                continue
            if self._held is None:
                self._held = np.empty(
                    (self._shape[0], self._height, self._shape[2]), dtype=block.dtype
                )
            self._held[:, self._filled : self._filled + take] = part
            self._filled += take
            if complete:
                group, self._filled = self._held[:, : self._filled], 0
                yield group

    def coming(
        self, start: int, block: npt.NDArray[Any], columns: slice
    ) -> Iterator[npt.NDArray[Any]]:
        """Groups that `block` will complete, while only its columns up to `columns.stop` are there.

        It may be asked again and again as they become more, with those that are new since the last
        time; then the block comes by `add`.
        """
        self._check(start, block)
        done, height = 0, block.shape[1]
        if self._filled and self._held is not None:
            done = min(self._height - self._filled, height)
            end = self._filled + done
            self._held[:, self._filled : end, columns] = block[:, :done, columns]
            if end == self._height or start + height == self._shape[1]:
                yield self._held[:, :end]
        while done + self._height <= height or (done < height and start + height == self._shape[1]):
            yield block[:, done : done + self._height]
            done += self._height

    def _check(self, start: int, block: npt.NDArray[Any]) -> None:
        if start != self._next or block.shape[1] > self._shape[1] - start:
            raise ValueError(
                f"rows {start} to {start + block.shape[1]} came, row {self._next} of "
                f"{self._shape[1]} was due; write full-width bands in order"
            )
