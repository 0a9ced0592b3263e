"""Whether a network, which computes in float32, can be shown the values of an image at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet2015.order_statistics import Block

__all__ = ["LARGEST", "check_values"]

LARGEST = 1e30
"""Of a value that a network is shown; room for what its layers make of it."""

_BEYOND = float(np.finfo(np.float32).max)
_EXACT = 1 << 24  # whole numbers up to here are float32
_LEVELS = 64  # float32 numbers that there must be between the smallest value and the largest


def check_values(blocks: Iterable[Block], dtype: np.dtype[Any], *, finite: bool = True) -> float:
    """Refuse NaN and Inf, and what becomes one value, or none, as float32.

    8- and 16-bit integers are not looked at: float32 holds them all.

    Parameters
    ----------
    blocks
        The pixels, in one pass.
    dtype
        Type of the image as stored.
    finite
        Whether NaN and infinite values are refused; otherwise they are passed over.

    Returns
    -------
    float
        Largest size of a floating-point value that was looked at, else 0.

    Raises
    ------
    ValueError
        With a sentence: which value, and what to do.

    Examples
    --------
    >>> check_values([(0, 0, np.array([[[2.0**40, 2.0**40 + 1]]]))], np.dtype("float64"))
    Traceback (most recent call last):
        ...
    ValueError: holds values from 1099511627776.0 to 1099511627777.0, so close for their size that
    float32, in which the network computes, cannot tell them apart; subtract an offset first, for
    instance the smallest value, or scale them
    """
    dtype = np.dtype(dtype)
    wide = dtype.itemsize == 8 or (dtype.kind in "iu" and dtype.itemsize == 4)
    if not wide and not (dtype.kind == "f" and finite):
        return 0.0
    count, first, size = 0, "", 0.0
    low: list[Any] = []
    high: list[Any] = []
    for plane, y, band in blocks:
        if dtype.kind == "f":
            bad = ~np.isfinite(band)
            size = max(size, float(np.abs(_finite(band)).max(initial=0)))
            if bad.any():
                if not count:
                    channel, row, column = (int(i) for i in np.argwhere(bad)[0])
                    first = f"plane {plane}, channel {channel}, row {y + row}, column {column}"
                count += int(np.count_nonzero(bad))
        if wide:
            low = _met(min, low, [_finite(values).min(initial=_most(dtype)) for values in band])
            high = _met(max, high, [_finite(values).max(initial=_least(dtype)) for values in band])
    if count and finite:
        raise ValueError(
            f"holds {count} NaN or infinite value(s), the first at {first}; "
            "give a value to put there (--nan-to X)"
        )
    for smallest, largest in zip(low, high, strict=True):
        _check_span(smallest, largest)
    return size


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def _most(dtype: np.dtype[Any]) -> Any:
    return np.inf if dtype.kind == "f" else np.iinfo(dtype).max


def _least(dtype: np.dtype[Any]) -> Any:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _met(choose: Any, before: list[Any], found: list[Any]) -> list[Any]:
    """Bounds of each channel, as numbers of Python: they do not overflow."""
    new = [value.item() for value in found]
    return [choose(pair) for pair in zip(before or new, new, strict=True)]


def _check_span(smallest: Any, largest: Any) -> None:
    """Refuse values beyond float32, or fewer than `_LEVELS` of its numbers apart."""
    size = max(abs(smallest), abs(largest))
    if smallest >= largest and not _BEYOND < size < np.inf:
        return  # one value, or none at all
    if size > _BEYOND:
        raise ValueError(
            f"holds the value {smallest if -smallest == size else largest}, which float32, in "
            "which the network computes, cannot hold; divide the image by a constant first"
        )
    whole = isinstance(smallest, int) and size <= _EXACT
    if not whole and largest - smallest < _LEVELS * float(np.spacing(np.float32(size))):
        raise ValueError(
            f"holds values from {smallest} to {largest}, so close for their size that float32, in "
            "which the network computes, cannot tell them apart; subtract an offset first, for "
            "instance the smallest value, or scale them"
        )
