"""Other ways to compute the border term of Eq. 2: thin adapters, each optional.

Every rival takes int32 labels (H, W) and returns the border term on the background for w0 = 10,
sigma = 5 (no class term, no carving), or something of equal cost. `None`: not installed.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.record import version

W0, SIGMA = 10.0, 5.0
PLAIN = "edt, one plain transform"  # the yardstick


@dataclass(frozen=True)
class Rival:
    name: str
    run: Callable[[np.ndarray], Any] | None
    seconds_guess: Callable[[int, int], float]  # (pixels, cells); longer than the budget: left out
    bytes_guess: Callable[[int, int], float] = lambda pixels, _cells: 40.0 * pixels


def exponential(d1: np.ndarray, d2: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return W0 * np.exp(-((d1 + d2) ** 2) / (2 * SIGMA**2)) * (labels == 0)


def stack_and_sort(labels: np.ndarray) -> np.ndarray:
    """One distance transform per cell, all kept, sorted per pixel (the most copied recipe)."""
    ids = np.unique(labels[labels > 0])
    stack = np.stack([ndimage.distance_transform_edt(labels != i) for i in ids], axis=-1)
    stack.sort(axis=-1)
    return exponential(stack[..., 0], stack[..., 1], labels)


def running_two_minima(labels: np.ndarray) -> np.ndarray:
    """One distance transform per cell, only the two smallest kept."""
    d1 = np.full(labels.shape, np.inf)
    d2 = np.full(labels.shape, np.inf)
    for i in np.unique(labels[labels > 0]):
        d = ndimage.distance_transform_edt(labels != i)
        d2 = np.minimum(d2, np.maximum(d1, d))
        d1 = np.minimum(d1, d)
    return exponential(d1, d2, labels)


def all_pairs(labels: np.ndarray) -> np.ndarray:
    """Each background pixel against each outline pixel of each cell, by broadcasting."""
    background = np.argwhere(labels == 0)
    nearest = []
    for i in np.unique(labels[labels > 0]):
        cell = labels == i
        outline = np.argwhere(cell & ~ndimage.binary_erosion(cell))
        gaps = background[:, None, :] - outline[None, :, :]
        nearest.append(np.sqrt((gaps**2).sum(-1).min(1)))
    two = np.sort(np.stack(nearest), axis=0)[:2]
    term = np.zeros(labels.shape)
    term[labels == 0] = W0 * np.exp(-(two.sum(0) ** 2) / (2 * SIGMA**2))
    return term


def plain_edt() -> Callable[[np.ndarray], Any] | None:
    """One plain Euclidean transform of the package `edt`: the yardstick, not a map."""
    if importlib.util.find_spec("edt") is None:
        return None
    import edt

    return lambda labels: edt.edt(labels == 0, parallel=1)


def per_cell_crops() -> Callable[[np.ndarray], Any] | None:
    """One `edt` per cell in a crop of 3 sigma around it, the two smallest kept (BiaPy's method)."""
    if importlib.util.find_spec("edt") is None:
        return None
    import edt

    margin = int(np.ceil(3 * SIGMA)) + 1

    def run(labels: np.ndarray) -> np.ndarray:
        d1 = np.full(labels.shape, np.inf, np.float32)
        d2 = np.full(labels.shape, np.inf, np.float32)
        for i in np.unique(labels[labels > 0]):
            y, x = np.nonzero(labels == i)
            crop = (
                slice(max(0, y.min() - margin), y.max() + margin + 1),
                slice(max(0, x.min() - margin), x.max() + margin + 1),
            )
            d = edt.edt(labels[crop] != i, parallel=1)
            d2[crop] = np.minimum(d2[crop], np.maximum(d1[crop], d))
            d1[crop] = np.minimum(d1[crop], d)
        return exponential(d1, d2, labels)

    return run


def biapy() -> Callable[[np.ndarray], Any] | None:
    """BiaPy's own function, which does the same.

    Taken alone out of an installed BiaPy (or $BIAPY_PRE_PROCESSING, the path of its
    `data/pre_processing.py`), so that its many other dependencies need not be there.
    """
    source = os.environ.get("BIAPY_PRE_PROCESSING")
    if source is None:
        found = importlib.util.find_spec("biapy")
        if found is None or found.origin is None:
            return None
        source = str(Path(found.origin).parent / "data" / "pre_processing.py")
    if importlib.util.find_spec("edt") is None or not Path(source).is_file():
        return None
    import edt

    tree = ast.parse(Path(source).read_text(encoding="utf-8"))
    wanted = "unet_border_weight_map"
    body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == wanted]
    names: dict[str, Any] = {"np": np, "edt": edt, "List": list, "tqdm": lambda x, **_: x}
    exec(compile(ast.Module(body, []), source, "exec"), names)  # the rival's code, on request
    return lambda labels: names[wanted](labels, w0=W0, sigma=SIGMA)


def biapy_version() -> str:
    """Version of the BiaPy whose function `biapy` takes, or "not installed"."""
    source = os.environ.get("BIAPY_PRE_PROCESSING")
    if source is None:
        return version("biapy")
    for found in Path(source).resolve().parents[2].glob("biapy-*.dist-info"):
        return found.name.split("-")[1].removesuffix(".dist")
    return "unknown"


def rivals() -> list[Rival]:
    return [
        Rival(PLAIN, plain_edt(), lambda p, _c: p * 3e-8),
        Rival("edt per cell in crops (BiaPy's method)", per_cell_crops(), crop_seconds),
        Rival("BiaPy's own function", biapy(), crop_seconds),
        Rival("running two minima", running_two_minima, lambda p, c: c * p * 1.5e-7),
        Rival("stack and sort", stack_and_sort, lambda p, c: c * p * 2e-7, stack_bytes),
        Rival("all pairs", all_pairs, lambda p, c: c * p * 2e-6, pairs_bytes),
    ]


def crop_seconds(pixels: int, cells: int) -> float:
    return 3e-9 * pixels * cells


def stack_bytes(pixels: int, cells: int) -> float:
    return 16.0 * pixels * cells


def pairs_bytes(pixels: int, cells: int) -> float:
    return 60.0 * pixels * (pixels / cells) ** 0.5
