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


class TooManyCellsError(Exception):
    """One window holds more cells than its keys can tell apart (sigma above about 20 px only)."""


@dataclass(frozen=True)
class Plan:
    """Sizes and tables shared by all blocks: see `kernels.block_term`."""

    rows: int
    columns: int
    margin: int
    bits: int
    separate: int
    numbers: npt.NDArray[np.int64]
    scales: npt.NDArray[np.float64]
    limits: npt.NDArray[np.int64]
    roots: npt.NDArray[np.float64]


def plan_for(spec: WeightMapSpec) -> Plan | None:
    """Return the plan of a weight map, or None where int32 keys cannot hold it.

    That is so for anisotropic pixels, for a sigma of more than about 100 px, and where cells are
    carved by watershed.
    """
    if spec.spacing is not None or spec.line == "watershed":
        return None
    reach = math.floor(spec.reach_px)
    cap = math.floor(spec.reach_px**2) + 1
    bits = 31 - (2 * cap + 2 * reach + 4).bit_length()
    if bits < 12:
        return None
    margin = reach + 1
    memory = _SCRATCH_BYTES if reach <= _WIDE_REACH_PX else _WIDE_SCRATCH_BYTES
    for rows, columns in _BLOCKS:
        wide = columns + 2 * margin
        if 4 * wide * (rows + 2 * margin + 2 * rows + 6) + rows * columns < memory:
            break
    half = math.floor(spec.reach_px / 2) + 1
    d1 = np.sqrt(np.arange(half * half))
    limits = np.floor(np.square(spec.reach_px - d1)).astype(np.int64) + 1
    last_class = 0 if spec.where == "background" else 1
    separate = {"none": 0, "after": 1, "before": 2}[spec.separate]
    numbers = np.array([bits, reach, half, cap, last_class, kernels.GROUP, 0, 0, 0, 0, 0], np.int64)
    scales = np.array([spec.w0, 2 * spec.sigma_px**2, spec.reach_px])
    roots = np.sqrt(np.arange(2 * cap + 2 * reach + 4, dtype=np.float64))
    return Plan(rows, columns, margin, bits, separate, numbers, scales, limits, roots)


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
    plan, margin = job.plan, job.plan.margin
    wide = plan.columns + 2 * margin
    window_memory = np.empty((plan.rows + 2 * margin) * wide, np.int32)
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
        wide = whole + 2 * margin
        top, bottom = max(0, y - margin), min(height, y + rows + margin)
        left, right = max(0, x - margin), min(width, x + whole + margin)
        window = _shaped(window_memory, bottom - top, wide)
        work = _shaped(work_memory, 2 * rows + 6, wide)
        classes = _shaped(class_memory, rows, whole)
        _fill(window, job.slices[k, top:bottom, left:right], left - (x - margin), job)
        inner = (y - top, margin, columns)
        meet = windows.prepare(window, plan.separate, *inner, work, classes, counts[k])
        numbers[6:] = (*inner, y, x)
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
