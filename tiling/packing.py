"""Rows of pixels, cut into stored tiles and packed by several threads.

A row of tiles may begin to be packed before it is complete: its left part is final while a network
still computes what lies to the right. So little is left to do when the last tile arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.codec_threads import codec_threads

__all__ = ["Packing", "cut"]

Array = npt.NDArray[Any]
Parts = list[Future[list[bytes]]]

_TOGETHER = 4  # tiles handed to a thread at a time


class Packing:
    r"""Threads that pack stored tiles.

    Parameters
    ----------
    encode
        From one tile, C-contiguous, to its stored bytes.
    side
        Of a tile, in px.
    dtype
        Stored type of a pixel.

    Examples
    --------
    >>> packing = Packing(lambda tile: tile.tobytes(), 2, np.dtype("u1"))
    >>> row = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    >>> packing.begin(0, row, ready=2)
    >>> [part.result() for part in packing.pack(0, row)]
    [[b'\x01\x02\x04\x05'], [b'\x03\x00\x06\x00']]
    >>> packing.end()
    """

    def __init__(self, encode: Callable[[Array], bytes], side: int, dtype: np.dtype[Any]) -> None:
        self._encode, self._side, self._dtype = encode, side, dtype
        self._pool = ThreadPoolExecutor(codec_threads(), thread_name_prefix="tiling compress")
        self._begun: dict[int, tuple[int, list[Parts]]] = {}

    def begin(self, number: int, row: Array, *, ready: int) -> None:
        """Begin to pack those tiles of row `number`, (K, h, W), that end left of column `ready`."""
        width = row.shape[2]
        done, channels = self._begun.get(number, (0, [[] for _ in row]))
        end = ready // self._side if ready < width else -(-width // self._side)
        if end > done:
            tiles = cut(row[..., done * self._side : end * self._side], self._side, self._dtype)
            for parts, of_channel in zip(channels, np.split(tiles, len(channels)), strict=True):
                parts += self.submit(of_channel)
            self._begun[number] = end, channels

    def pack(self, number: int, row: Array) -> Parts:
        """What will be the bytes of all tiles of row `number`, now complete, in order."""
        self.begin(number, row, ready=row.shape[2])
        _, channels = self._begun.pop(number)
        return [part for parts in channels for part in parts]

    def submit(self, tiles: Array) -> Parts:
        """What will be the bytes of some tiles (N, side, side), in order."""
        groups = (tiles[i : i + _TOGETHER] for i in range(0, len(tiles), _TOGETHER))
        return [self._pool.submit(self._packed, group) for group in groups]

    def _packed(self, tiles: Array) -> list[bytes]:
        return [self._encode(tile) for tile in tiles]

    def end(self) -> None:
        """Wait for the threads; what was begun and is not wanted any more is dropped."""
        self._pool.shutdown(cancel_futures=True)


def cut(pixels: Array, side: int, dtype: np.dtype[Any]) -> Array:
    """A row of tiles (K, h, W) as tiles (K * across, side, side), each contiguous, zeros beyond.

    Examples
    --------
    >>> cut(np.array([[[1, 2, 3], [4, 5, 6]]]), 2, np.dtype("u1")).tolist()
    [[[1, 2], [4, 5]], [[3, 0], [6, 0]]]
    """
    width = pixels.shape[2]
    tiles = np.zeros((pixels.shape[0], -(-width // side), side, side), dtype)
    rows = tiles.swapaxes(1, 2)[:, : pixels.shape[1]]
    full = width // side
    inside = pixels[..., : full * side]
    rows[:, :, :full] = inside.reshape(*inside.shape[:2], full, side)
    rows[:, :, full:, : width - full * side] = pixels[..., None, full * side :]
    return tiles.reshape(-1, side, side)
