"""Image values to network input: one scaling for a whole image, never one per tile.

How values are scaled is written as text, the same in checkpoints, in `--normalise` and in the
provenance of an output:

    dtype-range           uint8 / 255, uint16 / 65535, floats as they are (the 2015 release)
    none                  values as they are
    fixed:LOW:HIGH        LOW becomes 0, HIGH becomes 1
    min-max               smallest value becomes 0, largest 1
    percentile:LOW:HIGH   those percentiles become 0 and 1 (`percentile` alone: 1 and 99.8)
    median                median becomes 0; unit is (75th - 25th percentile) / 1.349, the standard
                          deviation of a normal distribution with those quartiles

The last three are measured per channel over all planes of the file, exactly, by radix selection:
one pass for 8 and 16 bits, two for 32, four for 64; memory of a few histograms. Percentiles between
two values are interpolated as numpy does. Nothing is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.mirror import Source
from unet2015.order_statistics import Block, order_statistics
from unet2015.value_check import check_values

__all__ = [
    "FAR_FROM_1", "Scale", "blocks_of", "check_normalisation", "measure_scale", "note_on_floats",
    "scale_for_dtype", "without_range",
]  # fmt: skip

FAR_FROM_1 = 2.0
"""Images of floating point beyond this are hardly in the range 0 .. 1."""

_BAND_BYTES = 4 << 20
_RULE = "dtype-range, none, fixed:LOW:HIGH, min-max, percentile[:LOW:HIGH] or median"
_NORMAL_QUARTILES = 1.3489795003921634  # 75th - 25th percentile of the standard normal


@dataclass(frozen=True)
class Scale:
    """Global scaling of image values: (value - offset) * gain, one for a whole image.

    Parameters
    ----------
    offset, gain
        One number, or one for each channel.
    nan_to
        What NaN and infinite values become before the scaling; None leaves them.
    largest
        Largest size of a floating-point value where `measure_scale` looked at all of them, else 0.

    Examples
    --------
    >>> Scale(offset=0.0, gain=1 / 255)(np.array([0, 255], np.uint8))
    array([0., 1.], dtype=float32)
    """

    offset: float | tuple[float, ...] = 0.0
    gain: float | tuple[float, ...] = 1.0
    nan_to: float | None = None
    largest: float = field(default=0.0, repr=False, compare=False)

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Scaled copy of (..., C, H, W) as float32, computed in float32."""
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found further on
            scaled = values.astype(np.float32)
            if self.nan_to is not None:
                scaled[~np.isfinite(scaled)] = self.nan_to
            scaled -= _column(self.offset)
            scaled *= _column(self.gain)
        return scaled


def _column(value: float | tuple[float, ...]) -> NDArray[np.float32]:
    """A number, or numbers that stand along the channel axis."""
    array = np.asarray(value, np.float32)
    return array.reshape(-1, 1, 1) if array.ndim else array


def scale_for_dtype(dtype: np.dtype[Any] | type, scale: str = "dtype-range") -> Scale:
    """The authors' release scaling: uint8 / 255, uint16 / 65535, other kinds as they are.

    Parameters
    ----------
    dtype
        Type of the image as stored.
    scale
        `dtype-range` or `none`, as recorded in the checkpoint.

    Examples
    --------
    >>> scale_for_dtype(np.uint8).gain == 1 / 255, scale_for_dtype(np.float32).gain
    (True, 1.0)
    """
    kind = np.dtype(dtype)
    if scale == "none" or kind.kind in "fb":
        return Scale()
    return Scale(gain=1.0 / np.iinfo(kind).max)


def note_on_floats(largest: float, remedy: str) -> str:
    """Sentence about floating-point values that a scaling by the type leaves as they are.

    Examples
    --------
    >>> note_on_floats(255.0, "--set scale=percentile")
    'images of floating point reach 255 and are taken as they are; --set scale=percentile (or
    fixed:LOW:HIGH) brings them to 0 .. 1'
    """
    return (
        f"images of floating point reach {largest:g} and are taken as they are; {remedy} (or"
        " fixed:LOW:HIGH) brings them to 0 .. 1"
    )


def without_range(dtype: np.dtype[Any]) -> str:
    """Why `dtype-range` cannot scale images of this type; "" where it can.

    Examples
    --------
    >>> without_range(np.dtype("int16")), without_range(np.dtype("uint16"))
    ('images of dtype int16 have no agreed grey range', '')
    """
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype.kind in "fb" or dtype in (np.uint8, np.uint16):
        return ""
    return f"images of dtype {dtype} have no agreed grey range"


def check_normalisation(text: str) -> tuple[str, float, float]:
    """Kind and the two numbers of a normalisation given as text.

    Raises
    ------
    ValueError
        If the text is none of those at the top of this module.

    Examples
    --------
    >>> check_normalisation("percentile")
    ('percentile', 1.0, 99.8)
    """
    kind, *rest = text.split(":")
    if text == "percentile":
        rest = ["1", "99.8"]
    try:
        numbers = [float(word) for word in rest]
    except ValueError:
        numbers = [math.nan]
    wanted = {"dtype-range": 0, "none": 0, "min-max": 0, "median": 0, "fixed": 2, "percentile": 2}
    good = kind in wanted and len(numbers) == wanted[kind] and all(map(math.isfinite, numbers))
    if good and numbers:
        good = numbers[0] < numbers[1]
        if kind == "fixed":
            # The numbers, and 1 / their distance, are to be float32 with room for the image's.
            good &= max(map(abs, numbers)) < 1e30 and numbers[1] - numbers[0] > 1e-30
        else:
            good &= numbers[0] >= 0 and numbers[1] <= 100
    if not good:
        limits = {"fixed": "-1e30 to 1e30, more than 1e-30 apart", "percentile": "0 to 100"}.get(
            kind
        )
        if limits and len(numbers) == 2:
            raise ValueError(f"normalisation {text[:80]!r}: give LOW < HIGH of {limits}")
        raise ValueError(f"normalisation {text[:80]!r} is unknown; use {_RULE}")
    low, high = numbers or (0.0, 0.0)
    return kind, low, high


def measure_scale(
    text: str,
    dtype: np.dtype[Any],
    blocks: Callable[[], Iterable[Block]],
    *,
    nan_to: float | None = None,
) -> Scale:
    """Scaling of one image, after as many passes over its pixels as the normalisation needs.

    Floating-point images and integers of 32 or 64 bits are always read once, to find before they
    do harm NaN, Inf and values that float32 cannot tell apart (`value_check`).

    Parameters
    ----------
    text
        The normalisation.
    dtype
        Type of the image as stored.
    blocks
        Gives the pixels anew each time it is called, see `blocks_of`.
    nan_to
        Value for NaN and infinite pixels, which are then left out of the statistics; None refuses
        them.

    Raises
    ------
    ValueError
        For an unknown normalisation or one that does not suit the type, NaN or Inf in the image
        (with count and first position), or values that float32 cannot hold or tell apart.

    Examples
    --------
    >>> image = np.array([[3, 7], [5, 3]], np.uint8)
    >>> measure_scale("min-max", image.dtype, lambda: blocks_of([image]))
    Scale(offset=(3.0,), gain=(0.25,), nan_to=None)
    """
    kind, low, high = check_normalisation(text)
    reason = without_range(dtype) if kind == "dtype-range" else ""
    if reason:
        raise ValueError(f"{reason}; scale them by {_RULE.replace('dtype-range, ', '')}")
    size = check_values(blocks(), np.dtype(dtype), finite=nan_to is None)
    if kind in ("dtype-range", "none"):
        plain = scale_for_dtype(dtype, kind)
        return Scale(plain.offset, plain.gain, nan_to, size)
    if kind == "fixed":
        return Scale(low, 1.0 / (high - low), nan_to, size)
    percents = {"median": (25.0, 50.0, 75.0), "min-max": (0.0, 100.0)}.get(kind, (low, high))
    offsets, gains = [], []
    for smallest, *found, largest in order_statistics(
        blocks, dtype, (0.0, *percents, 100.0)
    ).tolist():
        offset, width = found[0], found[-1] - found[0]
        if kind == "median":
            offset, width = found[1], width / _NORMAL_QUARTILES
        offsets.append(offset)
        gains.append(_gain(width) or _gain(largest - smallest) or 1.0)
    return Scale(tuple(offsets), tuple(gains), nan_to, size)


def _gain(width: float) -> float:
    """1 / width, or 0 where that is no usable number."""
    gain = 1.0 / width if width > 0 else 0.0
    return gain if gain <= float(np.finfo(np.float32).max) else 0.0


def blocks_of(planes: Iterable[Source]) -> Iterator[Block]:
    """Pixels of planes (H, W) or (C, H, W) in full-width bands of a few megabytes."""
    for number, plane in enumerate(planes):
        height, width = plane.shape[-2:]
        row_bytes = int(np.prod(plane.shape[:-2], dtype=np.int64)) * width
        rows = max(1, _BAND_BYTES // (row_bytes * np.dtype(plane.dtype).itemsize))
        for y in range(0, height, rows):
            band = np.asarray(plane[..., y : min(y + rows, height), 0:width])
            yield number, y, band if band.ndim == 3 else band[None]
