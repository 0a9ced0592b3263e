"""Exact percentiles of an image that is too large to hold, by radix selection.

Values are turned into unsigned integers of the same order. Each pass over the pixels counts the
next 16 bits of those that begin like a value that is looked for: one pass for 8 and 16 bits, two
for 32, four for 64, in the memory of a few histograms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "order_statistics"]

Block = tuple[int, int, NDArray[Any]]
"""Number of the plane, first row, pixels (C, h, W)."""

_DIGIT = 16  # bits that one pass decides


def order_statistics(
    blocks: Callable[[], Iterable[Block]], dtype: np.dtype[Any], percents: Sequence[float]
) -> NDArray[np.float64]:
    """Exact percentiles of each channel, (C, len(percents)), in constant memory.

    Values are turned into unsigned integers of the same order; each pass counts the next 16 bits of
    those that begin like a value that is looked for. NaN and infinite values are left out.

    Examples
    --------
    >>> image = np.array([[1.5, -2.0, 4.0, np.nan]])
    >>> order_statistics(lambda: [(0, 0, image[None])], image.dtype, (0, 50, 100))
    array([[-2. ,  1.5,  4. ]])
    """
    bits = np.dtype(dtype).itemsize * 8
    found: list[_Selection] = []
    for shift in range(max(bits - _DIGIT, 0), -1, -_DIGIT):
        for _, _, band in blocks():
            found = found or [_Selection(percents, bits) for _ in range(band.shape[0])]
            for selection, values in zip(found, band, strict=True):
                selection.count(_keys(values), shift)
        for selection in found:
            selection.narrow(shift)
    return np.array([selection.values(np.dtype(dtype)) for selection in found])


class _Selection:
    """The keys at certain ranks of one channel, found from their highest bits downwards."""

    def __init__(self, percents: Sequence[float], bits: int) -> None:
        self._percents = percents
        self._size = 1 << min(bits, _DIGIT)
        self._total = -1
        self._prefixes: list[int] = []  # of each rank, what is known of its key
        self._ranks: list[int] = []  # of each rank, its place among the keys with that prefix
        self._counts: dict[int, NDArray[np.int64]] = {0: np.zeros(self._size, np.int64)}

    def count(self, keys: NDArray[np.unsignedinteger[Any]], shift: int) -> None:
        keys = keys >> keys.dtype.type(shift)
        for prefix, counts in self._counts.items():
            digits = keys
            if self._total >= 0:
                digits = keys[keys >> keys.dtype.type(_DIGIT) == keys.dtype.type(prefix)]
                digits = digits & digits.dtype.type(self._size - 1)
            counts += np.bincount(digits.astype(np.intp), minlength=self._size)

    def narrow(self, shift: int) -> None:
        if self._total < 0:
            self._total = int(self._counts[0].sum())
            if self._total == 0:
                raise ValueError("holds no finite value to measure; use --normalise none")
            exact = [p / 100 * (self._total - 1) for p in self._percents]
            self._ranks = [min(r, self._total - 1) for x in exact for r in (int(x), int(x) + 1)]
            self._prefixes = [0] * len(self._ranks)
        sums = {prefix: np.cumsum(counts) for prefix, counts in self._counts.items()}
        for i, (prefix, rank) in enumerate(zip(self._prefixes, self._ranks, strict=True)):
            digit = int(np.searchsorted(sums[prefix], rank, side="right"))
            self._ranks[i] = rank - (int(sums[prefix][digit - 1]) if digit else 0)
            self._prefixes[i] = prefix << (self._size.bit_length() - 1) | digit
        if shift:
            self._counts = {p: np.zeros(self._size, np.int64) for p in set(self._prefixes)}

    def values(self, dtype: np.dtype[Any]) -> list[float]:
        """Interpolated percentiles from the keys that are now complete."""
        keys = np.array(self._prefixes, _unsigned(dtype))
        pairs = _from_keys(keys, dtype).astype(np.float64).reshape(-1, 2).tolist()
        parts = [p / 100 * (self._total - 1) % 1 for p in self._percents]
        return [float(a + (b - a) * part) for (a, b), part in zip(pairs, parts, strict=True)]


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"u{dtype.itemsize}")


def _keys(values: NDArray[Any]) -> NDArray[np.unsignedinteger[Any]]:
    """Unsigned integers in the order of the finite values."""
    values = np.ascontiguousarray(values)
    kind = values.dtype.newbyteorder("=")
    values = values.astype(kind, copy=False)
    if kind.kind == "f":
        values = values[np.isfinite(values)]
    raw: NDArray[np.unsignedinteger[Any]] = values.reshape(-1).view(_unsigned(kind))
    top = raw.dtype.type(1 << (8 * kind.itemsize - 1))
    if kind.kind == "i":
        return raw ^ top
    if kind.kind == "f":
        raw = np.where(raw & top, ~raw, raw | top)
    return raw


def _from_keys(keys: NDArray[np.unsignedinteger[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values that `_keys` made unsigned."""
    kind = dtype.newbyteorder("=")
    top = keys.dtype.type(1 << (8 * kind.itemsize - 1))
    if kind.kind == "i":
        keys = keys ^ top
    elif kind.kind == "f":
        keys = np.where(keys & top, keys ^ top, ~keys)
    return keys.view(kind)
