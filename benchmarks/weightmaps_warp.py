"""A training tile whose weight map is warped with the image, against one where it is made anew.

    python benchmarks/weightmaps_warp.py --json benchmarks/results/weightmaps_warp.json

`warped` deforms the precomputed float map by the field of image and labels. `recomputed` deforms
the cells (with a halo as wide as the border term reaches), carves touching ones apart again and
applies Eq. 2. Times are CPU milliseconds per tile, one thread, best of several rounds over the same
tiles; the two ways take turns. Beside them: the tile without weights, and one float map of the same
tiles warped by scipy's `map_coordinates`, source points given. Then how far the two maps differ.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.ndimage import map_coordinates

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import machine, write  # noqa: E402
from tests.label_maps import voronoi_cells  # noqa: E402
from unet2015.data import Stack, _draw, draw_tile, output_px  # noqa: E402
from unet2015.recipe import Recipe, isbi2012  # noqa: E402
from unet2015.weighing import weigh  # noqa: E402


def stacks(slices: int, side: int) -> dict[str, Stack]:
    """Crowded membranes as on ISBI, and cells that touch without a gap."""
    found = {}
    for name, gap in (("gaps of 3 px", 1.0), ("touching", -1.0)):
        ids = [voronoi_cells(side, side * side // 2000, gap, seed) for seed in range(slices)]
        images = np.random.default_rng(0).integers(0, 256, (slices, 1, side, side), dtype=np.uint8)
        labels = [(i > 0).astype(np.int64) for i in ids]
        found[name] = Stack(images, labels, instances=[i.astype(np.int64) for i in ids])
    return found


def per_tile(calls: list[Callable[[int], object]], tiles: int, rounds: int) -> list[float]:
    """CPU milliseconds per tile of each call, its best round; the calls take turns."""
    best = [float("inf")] * len(calls)
    for turn in range(rounds + 1):
        for k, call in enumerate(calls):
            start = time.process_time()
            for step in range(tiles):
                call(step)
            if turn:  # the first compiles and warms up
                best[k] = min(best[k], (time.process_time() - start) / tiles)
    return [round(1e3 * seconds, 2) for seconds in best]


def by_scipy(stack: Stack, recipe: Recipe) -> Callable[[int], object]:
    """One float map of a tile, warped by `map_coordinates` at given source points."""
    side = output_px(recipe)
    rng = np.random.default_rng(0)
    margin = (stack.labels[0].shape[0] - side) / 2
    points = np.mgrid[:side, :side] + margin + rng.normal(0, 3, (2, 1, 1)) + 0.25
    return lambda step: map_coordinates(
        stack.weights[step % len(stack)], points, order=1, mode="mirror"
    )


def difference(warped: Stack, anew: Stack, recipes: tuple[Recipe, Recipe], tiles: int) -> Any:
    """Largest difference, share of background where they differ, weight put on cells."""
    largest, differ, background, on_cells = 0.0, 0, 0, 0.0
    for step in range(tiles):
        _, labels, a = draw_tile(warped, recipes[0], step, 0)
        _, _, b = draw_tile(anew, recipes[1], step, 0)
        outside = labels == 0
        gap = np.abs(a - b)
        largest = max(largest, float(gap[outside].max(initial=0)))
        differ += int(np.count_nonzero(gap[outside] > 0.1))
        background += int(np.count_nonzero(outside))
        cell = float(b[~outside].min(initial=1))
        on_cells = max(on_cells, float((a[~outside] - cell).max(initial=0)))
    return largest, differ / max(1, background), on_cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    paper = isbi2012()
    recipes = paper, replace(paper, weights_after_warp="recomputed")
    rows = []
    for name, stack in stacks(3, options.side).items():
        warped, anew = (weigh(stack, recipe) for recipe in recipes)
        largest, share, on_cells = difference(warped, anew, recipes, options.tiles)
        bare = replace(warped, weights=None)
        calls = [
            lambda step, s=warped: draw_tile(s, recipes[0], step, 0),
            lambda step, s=anew: draw_tile(s, recipes[1], step, 0),
            lambda step, s=bare: _draw(s, recipes[0], step, 0),
            by_scipy(warped, recipes[0]),
        ]
        times = per_tile(calls, options.tiles, options.rounds)
        row = {
            "cells": name,
            "warped, ms": times[0],
            "recomputed, ms": times[1],
            "without weights, ms": times[2],
            "one float map by scipy, ms": times[3],
            "largest difference": round(largest, 2),
            "background that differs by more than 0.1": f"{100 * share:.0f} %",
            "weight put on cells by warping": round(on_cells, 2),
        }
        rows.append(row)
        print(json.dumps(row))
    if options.json:
        about = machine(packages=("numpy", "scipy", "numba"))
        title = "Weight maps: warped or recomputed"
        write(options.json, {"title": title, "machine": about, "rows": rows})


if __name__ == "__main__":
    main()
