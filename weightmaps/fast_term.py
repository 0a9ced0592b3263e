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

from weightmaps import kernels
from weightmaps.compiled import threads
from weightmaps.spec import WeightMapSpec

__all__ = ["Plan", "fast_signed_term", "plan_for"]

Labels: TypeAlias = npt.NDArray[Any]

_BLOCKS = ((128, 256), (64, 256), (64, 128), (32, 64))
_SCRATCH_BYTES = 1_000_000
_THREAD_PIXELS = 1 << 19  # below that, starting a second thread costs more than it saves


@dataclass(frozen=True)
class Plan:
    """Sizes and tables shared by all blocks: see `kernels.block_term`."""

    rows: int
    columns: int
    margin: int
    bits: int
    numbers: npt.NDArray[np.int64]
    scales: npt.NDArray[np.float64]
    limits: npt.NDArray[np.int64]
    roots: npt.NDArray[np.float64]


def plan_for(spec: WeightMapSpec) -> Plan | None:
    """Return the plan of a weight map, or None where int32 keys cannot hold it.

    That is so for anisotropic pixels, and for a sigma of more than about 100 px.
    """
    if spec.spacing is not None:
        return None
    reach = math.floor(spec.reach_px)
    cap = math.floor(spec.reach_px**2) + 1
    bits = 31 - (2 * cap + 2 * reach + 4).bit_length()
    if bits < 12:
        return None
    margin = reach + 1
    for rows, columns in _BLOCKS:
        wide = columns + 2 * margin
        if 4 * wide * (rows + 2 * margin + 2 * rows + 6) + rows * columns < _SCRATCH_BYTES:
            break
    half = math.floor(spec.reach_px / 2) + 1
    d1 = np.sqrt(np.arange(half * half))
    limits = np.floor(np.square(spec.reach_px - d1)).astype(np.int64) + 1
    last_class = 0 if spec.where == "background" else 1
    separate = {"none": 0, "after": 1, "before": 2}[spec.separate]
    numbers = np.array(
        [bits, reach, half, cap, last_class, separate, kernels.GROUP, 0, 0, 0, 0, 0], np.int64
    )
    scales = np.array([spec.w0, 2 * spec.sigma_px**2, spec.reach_px])
    roots = np.sqrt(np.arange(2 * cap + 2 * reach + 4, dtype=np.float64))
    return Plan(rows, columns, margin, bits, numbers, scales, limits, roots)


def fast_signed_term(
    slices: Labels, spec: WeightMapSpec, plan: Plan, dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return what `signed_border_term` does, for slices ``(S, H, W)``."""
    term = np.empty(slices.shape, dtype)
    counts = np.zeros((len(slices), 2), np.int64)
    highest = int(slices.max())
    workers = min(threads(), max(1, slices.size // _THREAD_PIXELS))
    blocks = _blocks(slices.shape, plan)
    if workers == 1:
        _work(slices, term, counts, blocks, plan, spec.ignore_label, highest, threading.Lock())
        return term, counts
    lock = threading.Lock()
    with ThreadPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(_work, slices, term, counts, blocks, plan, spec.ignore_label, highest, lock)
            for _ in range(workers)
        ]
    for job in jobs:
        job.result()
    return term, counts


def _blocks(shape: tuple[int, ...], plan: Plan) -> Iterator[tuple[int, int, int]]:
    for k in range(shape[0]):
        for y in range(0, shape[1], plan.rows):
            for x in range(0, shape[2], plan.columns):
                yield k, y, x


def _work(
    slices: Labels,
    term: npt.NDArray[Any],
    counts: npt.NDArray[np.int64],
    blocks: Iterator[tuple[int, int, int]],
    plan: Plan,
    ignore_label: int | None,
    highest: int,
    lock: threading.Lock,
) -> None:
    """Take blocks until there are none; scratch memory is allocated once per thread."""
    rows, columns, margin = plan.rows, plan.columns, plan.margin
    wide = columns + 2 * margin
    window = np.empty((rows + 2 * margin, wide), np.int32)
    work = np.empty((2 * rows + 6, wide), np.int32)
    classes = np.empty((rows, columns), np.uint8)
    mine = np.zeros_like(counts)
    numbers = plan.numbers.copy()
    height, width = slices.shape[1:]
    while True:
        with lock:
            block = next(blocks, None)
        if block is None:
            break
        k, y, x = block
        top, bottom = max(0, y - margin), min(height, y + rows + margin)
        left, right = max(0, x - margin), min(width, x + columns + margin)
        view = window[: bottom - top]
        here = min(rows, height - y)
        _fill(
            view,
            slices[k, top:bottom, left:right],
            left - (x - margin),
            ignore_label,
            highest,
            plan.bits,
        )
        numbers[7:] = (y - top, margin, min(columns, width - x), y, x)
        kernels.block_term(
            view, numbers, plan.scales, plan.limits, plan.roots,
            work[: 2 * here + 6], classes[:here], term[k], mine[k],
        )  # fmt: skip
    with lock:
        counts += mine


def _fill(
    window: npt.NDArray[np.int32],
    labels: Labels,
    left: int,
    ignore_label: int | None,
    highest: int,
    bits: int,
) -> None:
    """Copy labels into an int32 window, zero beside them, -1 for ignored, ids below 2**bits."""
    inner = window[:, left : left + labels.shape[1]]
    window[:, :left] = 0
    window[:, left + labels.shape[1] :] = 0
    if highest < 2**31:
        np.copyto(inner, labels, casting="unsafe")
    else:
        ids, number = np.unique(labels, return_inverse=True)
        np.copyto(inner, number.reshape(labels.shape) + (ids[0] != 0), casting="unsafe")
    if ignore_label is not None:
        inner[labels == ignore_label] = -1
    if highest >= 2**bits:
        size = 1 << (2 * window.size).bit_length()
        kernels.compact(window, np.empty(size, np.int32), np.empty(size, np.int32))
