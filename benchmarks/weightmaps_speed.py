"""Speed of the whole weight map beside one plain distance transform and beside its rivals.

    python benchmarks/weightmaps_speed.py            # the table, and benchmarks/results/*.json
    python benchmarks/weightmaps_speed.py --quick    # small sizes only, nothing written

Figures are the best of several runs in one process: CPU seconds of all threads, and wall seconds.
The map includes distances, exponential, carving and class weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from rivals.weightmaps import rivals  # noqa: E402

from tests.label_maps import voronoi_cells  # noqa: E402
from weightmaps import border_term, compiled, instances_from_mask, weight_map  # noqa: E402

START = """
import time
t = time.perf_counter()
import numpy as np
from weightmaps import weight_map
labels = np.zeros((512, 512), np.uint16)
labels[:250] = 1
labels[260:] = 2
imported = time.perf_counter()
weight_map(labels)
print(imported - t, time.perf_counter() - imported)
"""


def scenes(quick: bool, largest: int) -> list[tuple[str, np.ndarray]]:
    """Return (name, labels): crowded (thin gaps), half empty, sparse; and ISBI where it is."""
    found = []
    stack = Path(os.environ.get("UNET2015_DATA", ROOT.parent / "shared" / "data"))
    stack = stack / "isbi2012" / "train-labels.tif"
    if stack.is_file():
        import tifffile

        with tifffile.TiffFile(stack) as file:
            found.append(("ISBI 2012 slice 0", instances_from_mask(file.pages[0].asarray())))
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


def measure(call, repeats: int) -> dict[str, float]:
    cpu, wall = [], []
    for _ in range(repeats):
        c, w = time.process_time(), time.perf_counter()
        call()
        cpu.append(time.process_time() - c)
        wall.append(time.perf_counter() - w)
        if sum(wall) > 20:
            break
    return {"cpu_s": min(cpu), "wall_s": min(wall)}


def peak_bytes(call) -> int:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def one_scene(name: str, labels: np.ndarray, budget_s: float, repeats: int) -> dict:
    cells = len(np.unique(labels)) - 1
    row = {
        "scene": name,
        "shape": list(labels.shape),
        "cells": cells,
        "background": round(float((labels == 0).mean()), 3),
        "ours": {},
        "rivals": {},
    }
    for threads in (1, 2):
        compiled.set_threads(threads)
        row["ours"][threads] = measure(lambda: weight_map(labels), repeats)
    compiled.set_threads(1)
    row["ours_peak_bytes"] = peak_bytes(lambda: weight_map(labels))
    exact = border_term(labels)
    for rival in rivals():
        if rival.run is None:
            row["rivals"][rival.name] = "not installed"
        elif rival.seconds_guess(labels.size, cells) > budget_s:
            row["rivals"][rival.name] = "left out: too slow"
        elif rival.bytes_guess(labels.size, cells) > 4e9:
            row["rivals"][rival.name] = "left out: too much memory"
        else:
            taken = measure(lambda r=rival: r.run(labels), repeats if "plain" in rival.name else 2)
            if "plain" not in rival.name:
                taken["largest_error"] = float(np.abs(rival.run(labels) - exact).max())
            row["rivals"][rival.name] = taken
    return row


def first_calls() -> dict[str, float]:
    """Seconds of the first map of a process: nothing compiled yet, then from the disk cache."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, compiled.ENVIRONMENT: folder, "PYTHONPATH": str(ROOT)}
        found = {}
        for name in ("compiling", "cached"):
            out = subprocess.run(
                [sys.executable, "-c", START], env=environment, capture_output=True, text=True,
                check=True,
            ).stdout  # fmt: skip
            found["import_s"], found[f"{name}_s"] = (float(v) for v in out.split())
        return found


def machine() -> dict:
    import llvmlite.binding as llvm
    import numba

    features = llvm.get_host_cpu_features()
    wide = [f for f in ("avx512f", "avx2", "neon", "sse4.2") if features.get(f)]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "cpu": llvm.get_host_cpu_name(),
        "instruction_sets": wide,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "commit": commit,
    }


def table(rows: list[dict]) -> str:
    head = "| scene | cells | ours ms/Mpx | 2 threads | plain edt | ratio | " + " | ".join(
        r.name for r in rivals()[1:]
    )
    lines = [head + " |", "|---" * (6 + len(rivals()) - 1) + "|"]
    for row in rows:
        mega = row["shape"][0] * row["shape"][1] / 1e6
        ours = row["ours"][1]["cpu_s"]
        plain = row["rivals"]["edt, one plain transform"]
        speed = row["ours"][1]["wall_s"] / row["ours"][2]["wall_s"]
        cells = [
            f"{row['scene']} {row['shape'][0]}²",
            str(row["cells"]),
            f"{1e3 * ours / mega:.1f}",
            f"{speed:.2f}x",
            f"{1e3 * plain['cpu_s'] / mega:.1f}" if isinstance(plain, dict) else plain,
            f"{ours / plain['cpu_s']:.2f}" if isinstance(plain, dict) else "",
        ]
        for rival in rivals()[1:]:
            taken = row["rivals"][rival.name]
            cells.append(
                f"{taken['cpu_s'] / ours:.0f}x slower, off by {taken['largest_error']:.2g}"
                if isinstance(taken, dict)
                else taken
            )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes only, write nothing")
    parser.add_argument("--largest", type=int, default=8192, help="longest side in pixels")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds a rival may take")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "weightmaps_speed.json"
    )
    options = parser.parse_args()
    weight_map(np.eye(70, dtype=np.int32))  # compiled before anything is timed
    rows = []
    for name, labels in scenes(options.quick, options.largest):
        print(f"{name} {labels.shape}", file=sys.stderr)
        rows.append(one_scene(name, labels, options.budget, options.repeats))
    result = {"machine": machine(), "first_call": first_calls(), "rows": rows}
    print(table(rows))
    print(json.dumps(result["first_call"]))
    if not options.quick:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
