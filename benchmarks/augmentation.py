"""Deformed training tiles per second: ours next to scipy, elasticdeform and albumentations.

    python benchmarks/augmentation.py --json benchmarks/results/augmentation.json

A tile is what one training step needs: image 572 x 572 float32, labels and weights 388 x 388,
from a slice of 512 x 512 uint8, with mirrored context. Each contender is handed its work as it
likes it best: the rivals get a tile that was cut out and mirrored for them beforehand (not timed)
and deform it in place; ours reads from the slice. elasticdeform makes the paper's 3 x 3 grid and
a rotation, but no grey values; albumentations makes a dense Gaussian field, an affine map and
grey values: it is the usual tool, not the paper's deformation.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.record import machine, write
from unet2015.augment import deform, deform_reference, draw_deformation
from unet2015.recipe import isbi2012

SLICE, TILE, OUTPUT = 512, 572, 388
MARGIN = (TILE - OUTPUT) // 2
PACKAGES = ("numpy", "numba", "scipy", "torch", "elasticdeform", "albumentations")
Draw = Callable[[int], object]


def contenders(recipe) -> dict[str, Draw | None]:
    """Name -> function that makes tile number `step`; None: not installed."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (1, SLICE, SLICE), dtype=np.uint8)
    labels = random.integers(0, 2, (SLICE, SLICE))
    weights = random.random((SLICE, SLICE), dtype=np.float32)
    size = {"centre": (255.5, 255.5), "input_px": TILE, "output_px": OUTPUT}

    def ours(step, **device):
        found = draw_deformation(recipe, 0, step, 0)
        return deform(image, labels, weights, found, **size, **device)

    def scipy(step):
        return deform_reference(
            image, labels, weights, draw_deformation(recipe, 0, step, 0), **size
        )

    found = {"ours": ours, "ours, torch": lambda step: ours(step, device="cpu-torch"),
             "scipy map_coordinates": scipy}  # fmt: skip
    pad = (TILE - SLICE) // 2
    cut = [np.pad(a, pad, mode="reflect") for a in (image[0], labels.astype(np.uint8), weights)]
    for name, make in (("elasticdeform", _elasticdeform), ("albumentations", _albumentations)):
        try:
            importlib.import_module(name)
            found[name] = make(cut)
        except ImportError:
            found[name] = None
    return found


def _elasticdeform(cut) -> Draw:
    import elasticdeform

    tile = [cut[0].astype(np.float32) / 255, cut[1], cut[2]]

    def draw(step):
        random = np.random.default_rng(step)
        image, labels, weights = elasticdeform.deform_grid(
            tile, random.normal(0, 10, (2, 3, 3)), order=[1, 0, 1], mode="mirror",
            rotate=float(random.uniform(-180, 180)),
        )  # fmt: skip
        window = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
        return image, labels[window].astype(np.int64), weights[window]

    return draw


def _albumentations(cut) -> Draw:
    import albumentations

    tile = cut[0].astype(np.float32) / 255
    both = np.dstack([cut[1].astype(np.float32), cut[2]])
    pipeline = albumentations.Compose([
        albumentations.ElasticTransform(alpha=300, sigma=30, p=1),
        albumentations.Affine(rotate=(-180, 180), translate_px=(-16, 16), p=1),
        albumentations.HorizontalFlip(p=0.5),
        albumentations.RandomBrightnessContrast(0.1, 0.2, p=1),
        albumentations.RandomGamma(p=1),
    ])  # fmt: skip

    def draw(step):
        pipeline.set_random_seed(step)
        made = pipeline(image=tile, mask=both[..., 0], mask2=both[..., 1])
        window = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
        return made["image"], made["mask"][window].astype(np.int64), made["mask2"][window]

    pipeline.add_targets({"mask2": "mask"})
    return draw


def measure(draw: Draw, threads: int, seconds: float) -> dict[str, float]:
    """Tiles per second of `threads` threads, CPU time of one tile, and peak of one tile."""
    draw(0)
    tracemalloc.start()
    draw(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    start, cpu = time.perf_counter(), time.process_time()
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        while time.perf_counter() - start < seconds:
            done += sum(1 for _ in pool.map(draw, range(done, done + 2 * threads)))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "threads": threads,
        "tiles": done,
        "tiles_per_second": round(done / wall, 2),
        "cpu_ms_per_tile": round(1e3 * cpu / done, 3),
        "peak_mb": round(peak / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    import torch

    torch.set_num_threads(1)
    try:
        import cv2

        cv2.setNumThreads(1)
    except ImportError:
        pass
    rows = []
    for name, draw in contenders(isbi2012()).items():
        if draw is None:
            rows.append({"name": name, "tiles_per_second": "not installed"})
            print(f"{name:24} not installed")
            continue
        for threads in map(int, arguments.threads.split(",")):
            row = {"name": name} | measure(draw, threads, arguments.seconds)
            rows.append(row)
            print(f"{name:24} {threads} threads {row['tiles_per_second']:8.1f} tiles/s"
                  f" {row['cpu_ms_per_tile']:8.2f} CPU ms {row['peak_mb']:7.1f} MB")  # fmt: skip
    result = {
        "benchmark": "augmentation", "tile_px": TILE, "output_px": OUTPUT,
        "machine": machine(packages=PACKAGES), "rows": rows,
    }  # fmt: skip
    if arguments.json:
        write(arguments.json, result)


if __name__ == "__main__":
    main()
