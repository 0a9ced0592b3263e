"""The signed border term by the compiled kernels, block by block, on several threads.

A block reads its window (itself and the reach around it), so blocks are independent, scratch
memory is bounded by the block, and the result does not depend on the number of threads.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightmaps import kernels, windows
from weightmaps.compiled import THREAD_PIXELS, threads
from weightmaps.spec import WeightMapSpec

__all__ = ["Plan", "TooManyCellsError", "fast_signed_term", "plan_for"]

Labels: TypeAlias = npt.NDArray[Any]

_BLOCKS = ((256, 512), (128, 256), (64, 256), (64, 128), (32, 64))
_SCRATCH_BYTES = 1_000_000
_WIDE_REACH_PX = 130  # from a sigma of 20 px on a block must be larger than that, or be all margin
_WIDE_SCRATCH_BYTES = 8_000_000
_MOST_SIDE = 16


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


def plan_for(spec: WeightMapSpec) -> Plan | None:
    """Return the plan of a weight map, or None where int32 keys cannot hold it.

    That is so for a sigma of more than about 100 px, for pixels whose sides have no ratio of small
    whole numbers, and where cells are carved by watershed.
    """
    sides = _whole_sides(spec.spacing)
    if sides is None or spec.line == "watershed":
        return None
    high, wide, unit = sides  # of a pixel, in units
    reach = spec.reach_px / unit
    cap = math.floor(reach**2) + 1
    largest = 2 * cap + 2 * math.floor(reach) * max(high, wide) + max(high, wide) ** 2 + 4
    bits = 31 - largest.bit_length()
    if bits < 12:
        return None
    steps = math.floor(reach / wide)
    margins = math.floor(reach / high) + 1, steps + 1
    memory = _SCRATCH_BYTES if max(margins) <= _WIDE_REACH_PX + 1 else _WIDE_SCRATCH_BYTES
    for rows, columns in _BLOCKS:
        if _scratch_bytes(rows, columns, margins) < memory:
            break
    half = math.floor(reach / 2 / wide) + 1
    d1 = np.sqrt(np.arange((half * wide) ** 2))
    limits = np.floor(np.square(reach - d1)).astype(np.int64) + 1
    last_class = 0 if spec.where == "background" else 1
    separate = {"none": 0, "after": 1, "before": 2}[spec.separate]
    fixed = [bits, steps, half, cap, last_class, kernels.GROUP, high**2, wide**2]
    numbers = np.array(fixed + [0] * 5, np.int64)
    scales = np.array([spec.w0, 2 * (spec.sigma_px / unit) ** 2, reach])
    roots = np.sqrt(np.arange(largest, dtype=np.float64))
    return Plan(rows, columns, margins, bits, separate, numbers, scales, limits, roots)


def _whole_sides(spacing: tuple[float, ...] | None) -> tuple[int, int, float] | None:
    """Return height and width of a pixel as small whole numbers, and their unit.

    Examples
    --------
    >>> _whole_sides((0.75, 0.5)), _whole_sides((3.1416, 1.0))
    ((3, 2, 0.25), None)
    """
    if spacing is None:
        return 1, 1, 1.0
    height, width = spacing
    ratio = Fraction(height / width).limit_denominator(_MOST_SIDE)
    high, wide = ratio.numerator, ratio.denominator
    if not 0 < high <= _MOST_SIDE or abs(height * wide - width * high) > 1e-12 * width * high:
        return None
    return high, wide, width / wide


def _scratch_bytes(rows: int, columns: int, margins: tuple[int, int]) -> int:
    """Bytes that a thread needs for blocks of this size."""
    wide = columns + 2 * margins[1]
    return 4 * wide * (rows + 2 * margins[0] + 2 * rows + 6) + rows * columns


def fast_signed_term(
    slices: Labels, spec: WeightMapSpec, plan: Plan, dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return what `signed_border_term` does, for slices ``(S, H, W)``."""
    term = np.empty(slices.shape, dtype)
    counts = np.zeros((len(slices), 2), np.int64)
    highest = int(slices.max())
    job = _Job(slices, term, counts, spec.ignore_label, highest, plan)
    workers = min(threads(), max(1, slices.size // THREAD_PIXELS))
    blocks = _blocks(slices.shape, plan)
    lock = threading.Lock()
    if workers == 1:
        _work(job, blocks, lock)
        return term, counts
    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(_work, job, blocks, lock) for _ in range(workers)]
    for one in running:
        one.result()
    return term, counts


@dataclass(frozen=True)
class _Job:
    """What all threads share."""

    slices: Labels
    term: npt.NDArray[Any]
    counts: npt.NDArray[np.int64]
    ignore_label: int | None
    highest: int
    plan: Plan


def _blocks(shape: tuple[int, ...], plan: Plan) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (slice, y, x, rows, columns), blocks of about equal size."""
    rows = math.ceil(shape[1] / math.ceil(shape[1] / plan.rows))
    columns = math.ceil(shape[2] / math.ceil(shape[2] / plan.columns))
    columns = math.ceil(columns / kernels.GROUP) * kernels.GROUP
    for k in range(shape[0]):
        for y in range(0, shape[1], rows):
            for x in range(0, shape[2], columns):
                yield k, y, x, min(rows, shape[1] - y), min(columns, shape[2] - x)


def _work(job: _Job, blocks: Iterator[tuple[int, int, int, int, int]], lock: Any) -> None:
    """Take blocks until there are none; scratch memory is allocated once per thread."""
    plan, (above, beside) = job.plan, job.plan.margins
    wide = plan.columns + 2 * beside
    window_memory = np.empty((plan.rows + 2 * above) * wide, np.int32)
    work_memory = np.empty((2 * plan.rows + 6) * wide, np.int32)
    class_memory = np.empty(plan.rows * plan.columns, np.uint8)
    counts = np.zeros_like(job.counts)
    numbers = plan.numbers.copy()
    height, width = job.slices.shape[1:]
    while True:
        with lock:
            block = next(blocks, None)
        if block is None:
            break
        k, y, x, rows, columns = block
        whole = math.ceil(columns / kernels.GROUP) * kernels.GROUP
        wide = whole + 2 * beside
        top, bottom = max(0, y - above), min(height, y + rows + above)
        left, right = max(0, x - beside), min(width, x + whole + beside)
        window = _shaped(window_memory, bottom - top, wide)
        work = _shaped(work_memory, 2 * rows + 6, wide)
        classes = _shaped(class_memory, rows, whole)
        _fill(window, job.slices[k, top:bottom, left:right], left - (x - beside), job)
        inner = (y - top, beside, columns)
        meet = windows.prepare(window, plan.separate, *inner, work, classes, counts[k])
        numbers[kernels.PLACE :] = (*inner, y, x)
        if meet:
            kernels.block_term(
                window, numbers, plan.scales, plan.limits, plan.roots, work, classes, job.term[k]
            )
        else:
            kernels.blank_block(classes, numbers, job.term[k])
    with lock:
        job.counts[...] += counts


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
    if job.ignore_label is not None:
        inner[labels == job.ignore_label] = -1
    if job.highest >= 2**job.plan.bits:
        size = 1 << (2 * window.size).bit_length()
        ids, numbers = np.empty(size, np.int32), np.empty(size, np.int32)
        if windows.compact(window, ids, numbers) >= 2**job.plan.bits:
            raise TooManyCellsError
