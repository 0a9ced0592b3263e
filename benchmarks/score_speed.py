"""Seconds to score a 30 x 512 x 512 stack with every ISBI measure, next to scikit-image.

    python benchmarks/score_speed.py --json benchmarks/results/score_speed.json

The stack is synthetic: 110 cells a slice, membranes of 3 px, a blurred and noisy 8-bit map. Each of
ours sweeps its 11 (warping: 10) thresholds over all slices. scikit-image has no warping error and
its Rand and information measures have other conventions (background pixels as one segment, other
watershed lines); its rows do the same work for the same thresholds: labels, watershed line, scores.
The reference rows are this package's own slow version, on one small crop, scaled to the stack.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.record import machine, write
from unet2015 import score
from unet2015.score_reference import mismatches_reference, thin_reference
from unet2015.segments import cells

FIRST_CALL = (
    "import time, numpy as np; start = time.perf_counter(); from unet2015 import score; "
    "score.isbi_scores(np.eye(64, dtype=bool), np.ones((64, 64), np.uint8)); "
    "print(time.perf_counter() - start)"
)


def stack(slices: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth (bool) and uint8 map."""
    rng = np.random.default_rng(2015)
    truths, maps = [], []
    for _ in range(slices):
        seeds = np.ones((side, side), bool)
        count = max(2, 110 * side * side // 512**2)
        seeds[tuple(rng.integers(0, side, (2, count)))] = False
        _, (rows, columns) = ndimage.distance_transform_edt(seeds, return_indices=True)
        label = rows * side + columns
        border = np.zeros_like(seeds)
        border[:-1] |= label[:-1] != label[1:]
        border[:, :-1] |= label[:, :-1] != label[:, 1:]
        truth = ~ndimage.binary_dilation(border)
        noise = ndimage.gaussian_filter(rng.normal(0, 1, truth.shape), 1.5) * 0.4
        grey = ndimage.gaussian_filter(truth.astype(float), 1.5) + noise
        truths.append(truth)
        maps.append((np.clip(grey, 0, 1) * 255).astype(np.uint8))
    return np.array(truths), np.array(maps)


def rivals(maps: np.ndarray, truth: np.ndarray) -> dict[str, object]:
    """Name -> function that does a rival's share of the work on the whole stack."""
    from skimage import measure, metrics, segmentation

    true = [measure.label(mask, connectivity=1) for mask in truth]
    probability = maps / 255

    def unthinned():
        for threshold in score.SWEEP:
            for image, labels in zip(probability, true, strict=True):
                found = measure.label(image > threshold, connectivity=1)
                metrics.adapted_rand_error(labels, found)

    def thinned():
        for threshold in score.SWEEP:
            for image, labels in zip(probability, true, strict=True):
                mask = image > threshold
                found = measure.label(mask, connectivity=1)
                if found.any():
                    found = segmentation.watershed(
                        ~mask, found, connectivity=1, watershed_line=True
                    )
                metrics.adapted_rand_error(labels, found)
                metrics.variation_of_information(labels, found, ignore_labels=[0])

    return {"scikit-image, Rand": unthinned, "scikit-image, thinned Rand + VI": thinned}


def reference(maps: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Seconds of the slow reference for the stack, from one crop and one threshold."""
    crop = (slice(0, 1), slice(0, 64), slice(0, 64))
    scale = maps.size / maps[crop].size
    image, mask = score.as_probability(maps[crop])[0], truth[crop][0]
    start = time.perf_counter()
    mismatches_reference(image, mask, 0.5)
    middle = time.perf_counter()
    thin_reference(cells(image > 0.5))
    end = time.perf_counter()
    return {
        "reference, warping (scaled)": (middle - start) * scale * 10,
        "reference, thinning (scaled)": (end - middle) * scale * 11,
    }


def first_call() -> dict[str, float]:
    """Seconds of import and first score, with an empty and with a filled compile cache."""
    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(__file__).parents[1])
        environment = {**os.environ, "UNET2015_CACHE_DIR": folder, "PYTHONPATH": root}
        runs = [
            subprocess.run(
                [sys.executable, "-c", FIRST_CALL],
                env=environment, capture_output=True, text=True, check=True,
            )
            for _ in range(2)
        ]  # fmt: skip
    return dict(
        zip(
            ("import + first call, empty cache", "import + first call, filled cache"),
            (float(run.stdout) for run in runs),
            strict=True,
        )
    )


def seconds(function, repeats: int) -> float:
    """Best of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=30)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    truth, maps = stack(options.slices, options.side)
    ours = {
        "all eight at once": lambda: score.isbi_scores(maps, truth),
        "pixel_error": lambda: score.pixel_error(maps, truth),
        "rand_error": lambda: score.rand_error(maps, truth),
        "v_rand": lambda: score.v_rand(maps, truth),
        "v_info": lambda: score.v_info(maps, truth),
        "warping_error": lambda: score.warping_error(maps, truth),
    }
    score.isbi_scores(maps[:1], truth[:1])
    rows = {name: seconds(call, options.repeats) for name, call in ours.items()}
    rows |= {name: seconds(call, 1) for name, call in rivals(maps, truth).items()}
    rows |= reference(maps, truth) | first_call()
    tracemalloc.start()
    score.isbi_scores(maps, truth)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    for name, value in rows.items():
        print(f"{name:36s} {value:10.3f} s")
    print(f"{'peak memory of all eight':36s} {peak:10.1f} MiB")
    if options.json:
        about = machine(packages=("numpy", "scipy", "numba", "scikit-image"))
        write(
            options.json,
            {"machine": about, "shape": list(maps.shape), "seconds": rows, "peak_mib": peak},
        )


if __name__ == "__main__":
    main()
