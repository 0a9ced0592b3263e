"""The signed border term by the compiled kernels, block by block, on several threads.

A block reads its window (itself and the reach around it), so blocks are independent, scratch
memory is bounded by the block, and the result does not depend on the number of threads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightmaps import kernels, windows
from weightmaps.labels import extreme
from weightmaps.spec import WeightMapSpec
from weightmaps.threads import THREAD_PIXELS, at_once, in_turn, threads

__all__ = ["Plan", "TooManyCellsError", "fast_signed_term", "plan_for"]

Labels: TypeAlias = npt.NDArray[Any]
_Block: TypeAlias = tuple[int, int, int, int, int]

_BLOCKS = ((256, 512), (96, 512), (128, 256), (64, 256), (64, 128), (32, 64))
_SCRATCH_BYTES = 1_000_000
_WIDE_REACH_PX = 130  # from a sigma of 20 px on a block must be larger than that, or be all margin
_WIDE_SCRATCH_BYTES = 8_000_000
_MOST_SIDE = 16
_MOST_WIDE_SIDE = 9999
_WIDE_BITS = 20  # more cells than a window has pixels


class TooManyCellsError(Exception):
    """One window holds more cells than its keys can tell apart (sigma above about 20 px only)."""


@dataclass(frozen=True)
class Plan:
    """Sizes and tables shared by all blocks: see `kernels.block_term`."""

    rows: int
    columns: int
    margins: tuple[int, int]
    bits: int
    separate: int
    numbers: npt.NDArray[np.int64]
    scales: npt.NDArray[np.float64]
    limits: npt.NDArray[np.int64]
    roots: npt.NDArray[np.float64]

    @property
    def key(self) -> type[np.signedinteger[Any]]:
        """Type of the keys: wide ones have no tables."""
        return np.int32 if self.roots.size else np.int64


@dataclass(frozen=True)
class _Sides:
    """Squared height and width of a pixel as whole numbers of `unit` squared."""

    high2: int
    wide2: int
    unit: float


@functools.lru_cache(maxsize=16)
def plan_for(spec: WeightMapSpec) -> Plan | None:
    """Return the plan of a weight map, or None where cells are carved by watershed.

    Keys are int32 where the sides of a pixel have a ratio of small whole numbers and sigma is below
    about 100 px, else int64. With int64 squared distances are exact for sides whose ratio has up
    to four digits; otherwise they are rounded to 40 bits, and terms are within 1e-8 of Eq. 2.
    """
    if spec.line == "watershed":
        return None
    height, width = spec.spacing or (1.0, 1.0)
    for sides, key_bits, least in (
        (_whole_sides(height, width, _MOST_SIDE), 31, 12),
        (_whole_sides(height, width, _MOST_WIDE_SIDE), 62, _WIDE_BITS),
        (_rounded_sides(height, width, spec.reach_px), 62, _WIDE_BITS),
    ):
        if sides is None:
            continue
        reach = spec.reach_px / sides.unit
        most = math.isqrt(max(sides.high2, sides.wide2)) + 1
        cap = math.floor(reach**2) + 1
        largest = 2 * cap + 2 * math.floor(reach + 1) * most + most**2 + 4
        bits = key_bits - largest.bit_length()
        if bits >= least:
            return _planned(spec, (height, width), sides, bits, largest)
    return None


def _planned(
    spec: WeightMapSpec, size: tuple[float, float], sides: _Sides, bits: int, largest: int
) -> Plan:
    height, width = size
    narrow = bits + largest.bit_length() <= 31
    reach = spec.reach_px / sides.unit
    steps = math.floor(spec.reach_px / width)
    margins = math.floor(spec.reach_px / height) + 1, steps + 1
    memory = _SCRATCH_BYTES if max(margins) <= _WIDE_REACH_PX + 1 else _WIDE_SCRATCH_BYTES
    for rows, columns in _BLOCKS:
        if _scratch_bytes(rows, columns, margins, 4 if narrow else 8) < memory:
            break
    half = math.floor(spec.reach_px / 2 / width) + 1
    roots, limits = np.zeros(0), np.zeros(0, np.int64)
    if narrow:
        roots = np.sqrt(np.arange(largest, dtype=np.float64))
        limits = np.floor(np.square(reach - roots[: half**2 * sides.wide2])).astype(np.int64) + 1
    last_class = 0 if spec.where == "background" else 1
    separate = {"none": 0, "after": 1, "before": 2}[spec.separate]
    cap = math.floor(reach**2) + 1
    fixed = [bits, steps, half, cap, last_class, kernels.GROUP, sides.high2, sides.wide2]
    numbers = np.array(fixed + [0] * 5, np.int64)
    scales = np.array([spec.w0, 2 * (spec.sigma_px / sides.unit) ** 2, reach])
    return Plan(rows, columns, margins, bits, separate, numbers, scales, limits, roots)


def _whole_sides(height: float, width: float, most: int) -> _Sides | None:
    """Return the sides of a pixel as whole numbers up to `most`, or None if there are none.

    Examples
    --------
    >>> _whole_sides(0.75, 0.5, 16)
    _Sides(high2=9, wide2=4, unit=0.25)
    >>> _whole_sides(3.1416, 1.0, 16) is None
    True
    """
    ratio = Fraction(height / width).limit_denominator(most)
    high, wide = ratio.numerator, ratio.denominator
    if not 0 < high <= most or abs(height * wide - width * high) > 1e-15 * width * high:
        return None
    return _Sides(high**2, wide**2, width / wide)


def _rounded_sides(height: float, width: float, reach_px: float) -> _Sides:
    """Return squared sides in whole numbers of such a unit that the reach squared has 40 bits."""
    unit = max(reach_px, height, width) / 2.0**20
    return _Sides(round((height / unit) ** 2), round((width / unit) ** 2), unit)


def _scratch_bytes(rows: int, columns: int, margins: tuple[int, int], key_bytes: int = 4) -> int:
    """Bytes that a thread needs for blocks of this size."""
    wide = columns + 2 * margins[1]
    window = 4 * wide * (rows + 2 * margins[0])
    return window + key_bytes * wide * (2 * rows + 6) + rows * columns


def fast_signed_term(
    slices: Labels,
    spec: WeightMapSpec,
    plan: Plan,
    dtype: np.dtype[Any],
    inner: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return what `signed_border_term` does, for slices ``(S, H, W)``."""
    (top, bottom), (left, right) = inner or ((0, slices.shape[1]), (0, slices.shape[2]))
    term = np.empty((len(slices), bottom - top, right - left), dtype)
    counts = np.zeros((len(slices), 2), np.int64)
    highest = extreme(slices, np.max)
    job = _Job(slices, (top, left), term, spec.ignore_label, highest, plan)
    workers = min(threads(), max(1, term.size // THREAD_PIXELS))
    take = in_turn(_blocks(term.shape, plan))
    for some in at_once(lambda: _work(job, take), workers):
        counts += some
    return term, counts


@dataclass(frozen=True)
class _Job:
    """What all threads share; `origin` is where the term begins in the slices."""

    slices: Labels
    origin: tuple[int, int]
    term: npt.NDArray[Any]
    ignore_label: int | None
    highest: int
    plan: Plan


def _blocks(shape: tuple[int, ...], plan: Plan) -> Iterator[_Block]:
    """Yield (slice, y, x, rows, columns), blocks of about equal size."""
    rows = math.ceil(shape[1] / math.ceil(shape[1] / plan.rows))
    columns = math.ceil(shape[2] / math.ceil(shape[2] / plan.columns))
    columns = math.ceil(columns / kernels.GROUP) * kernels.GROUP
    for k in range(shape[0]):
        for y in range(0, shape[1], rows):
            for x in range(0, shape[2], columns):
                yield k, y, x, min(rows, shape[1] - y), min(columns, shape[2] - x)


def _work(job: _Job, take: Callable[[], _Block | None]) -> npt.NDArray[np.int64]:
    """Take blocks until there are none; return the pixel counts of the two classes, per slice.

    Scratch memory is allocated once per thread.
    """
    plan, (above, beside) = job.plan, job.plan.margins
    wide = plan.columns + 2 * beside
    window_memory = np.empty((plan.rows + 2 * above) * wide, np.int32)
    work_memory = np.empty((2 * plan.rows + 6) * wide, plan.key)
    class_memory = np.empty(plan.rows * plan.columns, np.uint8)
    counts = np.zeros((len(job.slices), 2), np.int64)
    numbers = plan.numbers.copy()
    height, width = job.slices.shape[1:]
    for k, out_y, out_x, rows, columns in iter(take, None):
        y, x = out_y + job.origin[0], out_x + job.origin[1]
        whole = math.ceil(columns / kernels.GROUP) * kernels.GROUP
        wide = whole + 2 * beside
        top, bottom = max(0, y - above), min(height, y + rows + above)
        left, right = max(0, x - beside), min(width, x + whole + beside)
        window = _shaped(window_memory, bottom - top, wide)
        work = _shaped(work_memory, 2 * rows + 6, wide)
        classes = _shaped(class_memory, rows, whole)
        _fill(window, job.slices[k, top:bottom, left:right], left - (x - beside), job)
        inner = (y - top, beside, columns)
        spare = _shaped(work_memory.view(np.int32), 2, wide)
        meet = windows.prepare(window, plan.separate, *inner, spare, classes, counts[k])
        numbers[kernels.PLACE :] = (*inner, out_y, out_x)
        if meet:
            kernels.block_term(
                window, numbers, plan.scales, plan.limits, plan.roots, work, classes, job.term[k]
            )
        else:
            kernels.blank_block(classes, numbers, job.term[k])
    return counts


def _shaped(memory: npt.NDArray[Any], rows: int, columns: int) -> npt.NDArray[Any]:
    return memory[: rows * columns].reshape(rows, columns)


def _fill(window: npt.NDArray[np.int32], labels: Labels, left: int, job: _Job) -> None:
    """Copy labels into an int32 window, zero beside them, -1 for ignored, ids below 2**bits."""
    inner = window[:, left : left + labels.shape[1]]
    window[:, :left] = 0
    window[:, left + labels.shape[1] :] = 0
    if job.highest < 2**31:
        np.copyto(inner, labels, casting="unsafe")
    else:
        ids, number = np.unique(labels, return_inverse=True)
        first = int(np.searchsorted(ids, 1))  # the first cell; before it 0 and the ignored
        np.copyto(inner, number.reshape(labels.shape) + (1 - first), casting="unsafe")
    copied = job.ignore_label == -1 and job.highest < 2**31
    if job.ignore_label is not None and not copied:
        inner[labels == job.ignore_label] = -1
    if job.highest >= 2**job.plan.bits:
        size = 1 << (2 * window.size).bit_length()
        ids, numbers = np.empty(size, np.int32), np.empty(size, np.int32)
        if windows.compact(window, ids, numbers) >= 2**job.plan.bits:
            raise TooManyCellsError
