"""Speed of the whole weight map beside one plain distance transform and beside its rivals.

    python benchmarks/weightmaps_speed.py --json benchmarks/results/weightmaps_speed.json
    python benchmarks/weightmaps_speed.py --quick    # small sizes only

All in one process, in turn, the best of several rounds: CPU seconds of all threads (they also
compare on a machine that others use) and wall seconds. Ours is the whole map, with distances,
exponential, carving and class weights; the rivals make the border term only. The plain transform
(package `edt`, one thread) is no map at all, but the least that anybody pays for one distance; its
`ratio` is ours divided by it. `off by` is a rival's largest error of the border term.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import DATA, machine, write  # noqa: E402
from benchmarks.rivals.weightmaps import biapy_version, rivals  # noqa: E402
from benchmarks.weightmaps_page import notes, tables  # noqa: E402
from tests.label_maps import voronoi_cells  # noqa: E402
from tiling.strict_tiff import read_stack  # noqa: E402
from weightmaps import border_term, compiled, instances_from_mask, weight_map  # noqa: E402
from weightmaps.threads import set_threads  # noqa: E402

START = """
import time
t = time.perf_counter()
import numpy as np
from weightmaps import weight_map
labels = np.zeros((512, 512), np.uint16)
labels[:250] = 1
labels[260:] = 2
imported, cpu = time.perf_counter(), time.process_time()
weight_map(labels)
print(imported - t, time.perf_counter() - imported, time.process_time() - cpu)
"""
TOGETHER_S = 20.0  # ours on 1 and 2 threads and the plain transform are timed in turn so long
VARIANTS: dict[str, dict[str, Any]] = {
    "as the paper": {},
    'where="everywhere"': {"where": "everywhere"},
    'separate="before"': {"separate": "before"},
    'separate="watershed"': {"separate": "watershed"},
    'class_weights="falk2019"': {"class_weights": "falk2019"},
    "float64": {"dtype": np.float64},
    "float16": {"dtype": np.float16},
    "ignore_label": {"ignore_label": 3},
    "sigma_px=20": {"sigma_px": 20.0},
    "spacing=(2, 0.5)": {"spacing": (2.0, 0.5)},
    "spacing=(0.2901, 0.1625)": {"spacing": (0.2901, 0.1625), "sigma_px": 1.0},
}


def scenes(quick: bool, largest: int) -> list[tuple[str, np.ndarray]]:
    """Return (name, labels): crowded (thin gaps), half empty, sparse; ISBI and VNC if there."""
    found = []
    for name, path, inside in (
        ("ISBI 2012, slice 0", "isbi2012/train-labels.tif", 255),
        ("VNC, slice 0", "vnc/stack1-membranes.tif", 0),
    ):
        if (DATA / path).is_file():
            found.append((name, instances_from_mask(read_stack(DATA / path)[0] == inside)))
    sizes = [(128, 12), (512, 100), (512, 500)]
    if not quick:
        sizes += [(2048, 1000), (2048, 5000), (8192, 20_000), (8192, 80_000)]
    for side, cells in sizes:
        if side <= largest:
            found.append(("crowded", voronoi_cells(side, cells, 1.0)))
    for side, cells, gap in ((512, 60, 11.0), (2048, 1000, 11.0), (2048, 1000, 20.0)):
        if side == 512 or (not quick and side <= largest):
            found.append(("sparse", voronoi_cells(side, cells, gap)))
    return found


def measure(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """CPU and wall seconds, each the best of `repeats` runs or of 20 seconds."""
    return measure_in_turn({"it": call}, repeats, 0.0)["it"]


def measure_in_turn(
    calls: dict[str, Callable[[], object]], repeats: int, least_s: float
) -> dict[str, dict[str, float]]:
    """CPU and wall seconds of each call, the best of at least `repeats` rounds and `least_s`.

    Each round makes every call once, so that a slow moment of the machine meets all of them.
    """
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    wall: dict[str, list[float]] = {name: [] for name in calls}
    begun, rounds = time.perf_counter(), 0
    while rounds < repeats or time.perf_counter() - begun < least_s:
        for name, call in calls.items():
            c, w = time.process_time(), time.perf_counter()
            call()
            cpu[name].append(time.process_time() - c)
            wall[name].append(time.perf_counter() - w)
        rounds += 1
        if time.perf_counter() - begun > 20 * len(calls):
            break
    return {name: {"cpu_s": min(cpu[name]), "wall_s": min(wall[name])} for name in calls}


def peak_of_arrays(call: Callable[[], object]) -> int:
    """Most bytes of arrays at any time."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def one_scene(name: str, labels: np.ndarray, budget_s: float, repeats: int) -> dict[str, Any]:
    """All measurements on one image."""
    cells = len(np.unique(labels)) - 1
    plain, *others = rivals()
    calls: dict[str, Callable[[], object]] = {
        "1": lambda: map_on(1, labels),
        "2": lambda: map_on(2, labels),
    }
    if plain.run is not None:
        calls[plain.name] = functools.partial(plain.run, labels)
    taken = measure_in_turn(calls, repeats, TOGETHER_S)
    set_threads(1)
    row: dict[str, Any] = {
        "scene": name,
        "shape": list(labels.shape),
        "cells": cells,
        "background": round(float((labels == 0).mean()), 3),
        "ours": {threads: taken[threads] for threads in ("1", "2")},
        "scratch_bytes": peak_of_arrays(lambda: weight_map(labels)) - 4 * labels.size,
        "rivals": {plain.name: taken.get(plain.name, "not installed")},
    }
    exact = border_term(labels)
    for rival in others:
        if rival.run is None:
            row["rivals"][rival.name] = "not installed"
        elif rival.seconds_guess(labels.size, cells) > budget_s:
            row["rivals"][rival.name] = "too slow"
        elif rival.bytes_guess(labels.size, cells) > 4e9:
            row["rivals"][rival.name] = "too large"
        else:
            found = measure(functools.partial(rival.run, labels), 1 if labels.size > 1e6 else 2)
            found["largest_error"] = float(np.abs(rival.run(labels) - exact).max())
            row["rivals"][rival.name] = found
    return row


def map_on(threads: int, labels: np.ndarray) -> np.ndarray:
    """The whole map on so many threads."""
    set_threads(threads)
    return weight_map(labels)


def variants(side: int, repeats: int) -> list[dict[str, Any]]:
    """CPU milliseconds per megapixel of each choice, crowded and sparse."""
    found = []
    images = {
        "crowded": voronoi_cells(side, max(2, side * side * 5 // 4200), 1.0),
        "sparse": voronoi_cells(side, max(2, side * side // 4200), 11.0),
    }
    for name, options in VARIANTS.items():
        row: dict[str, Any] = {"choice": name}
        for image, labels in images.items():
            taken = measure(lambda la=labels, o=options: weight_map(la, **o), repeats)
            row[f"{image}, ms/Mpx"] = round(1e9 * taken["cpu_s"] / labels.size, 1)
        found.append(row)
    return found


def first_calls() -> dict[str, float]:
    """Seconds of the first map of a process: nothing compiled yet, then from the disk cache.

    Best of some runs; `_cpu_s` counts processor time.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, compiled.ENVIRONMENT: folder, "PYTHONPATH": str(ROOT)}
        found: dict[str, float] = {}
        for name in ("compiling", "cached", "cached", "cached"):
            out = subprocess.run(
                [sys.executable, "-c", START], env=environment, capture_output=True, text=True,
                check=True,
            ).stdout  # fmt: skip
            keys = "import_s", f"{name}_s", f"{name}_cpu_s"
            for key, text in zip(keys, out.split(), strict=True):
                found[key] = min(float(text), found.get(key, float(text)))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    parser.add_argument("--largest", type=int, default=8192, help="longest side in pixels")
    parser.add_argument("--budget", type=float, default=100.0, help="seconds a rival may take")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    weight_map(np.eye(70, dtype=np.int32))  # compiled before anything is timed
    rows = []
    for name, labels in scenes(options.quick, options.largest):
        print(f"{name} {labels.shape}", file=sys.stderr)
        rows.append(one_scene(name, labels, options.budget, options.repeats))
    choices = variants(256 if options.quick else 2048, 2 if options.quick else options.repeats)
    first = first_calls()
    about = machine(packages=("numpy", "scipy", "numba", "edt"))
    about["versions"]["biapy"] = biapy_version()
    result = {
        "title": "Weight maps: speed",
        "machine": about,
        "first_call": first,
        "tables": tables(rows, choices),
        "notes": notes(rows, first),
        "rows": rows,
    }
    for table in result["tables"]:
        print(f"\n{table['caption']}")
        for line in (table["columns"], *table["rows"]):
            print(" | ".join(str(cell) for cell in line))
    print(*result["notes"], sep="\n")
    if options.json:
        write(options.json, result)


if __name__ == "__main__":
    main()
