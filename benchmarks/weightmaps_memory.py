"""Peak memory and time of `weightmaps` on label images that do not fit into memory.

    python benchmarks/weightmaps_memory.py --json benchmarks/results/weightmaps_memory.json

Each size runs in a process of its own: the command line, file to file, one job, one thread. The
labels are written as a stream of deflate strips (uint16 ids, cells of about 40 pixels with gaps
of 1 to 12), counted in a first pass and weighed in a second. Peak memory is the largest resident
size minus that of a process which has only imported everything and made a map of 64 x 64. Beside
it, computed: what one holds who has labels, d1, d2 (float64) and map in memory at once, and the
stack of one distance transform per cell.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import machine, write  # noqa: E402

PITCH = 48  # pixels from cell to cell
STRIP_ROWS = 16
CHILD = """
import json, sys, time
from benchmarks.record import peak_bytes
from weightmaps.cli import main
c = time.process_time()
code = main(sys.argv[1:])
cpu_s = time.process_time() - c
print(json.dumps({"code": code, "cpu_s": cpu_s, "peak_bytes": peak_bytes()}))
"""


def strips(side: int) -> Iterator[bytes]:
    """Yield the compressed strips of a label image: rectangles with uneven gaps."""
    x = np.arange(side)
    for top in range(0, side, STRIP_ROWS):
        y = np.arange(top, min(side, top + STRIP_ROWS))[:, None]
        row, column = y // PITCH, x // PITCH
        gap = 1 + (5 * row + 3 * column) % 12
        cell = (y % PITCH >= gap) & (x % PITCH >= gap)
        ids = (row * 7919 + column) % 65_521 + 1
        yield zlib.compress(np.where(cell, ids, 0).astype("<u2").tobytes(), 1)


def write_labels(path: Path, side: int) -> None:
    """Write them as a BigTIFF without holding them."""
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            strips(side), shape=(side, side), dtype=np.uint16, compression="zlib",
            rowsperstrip=STRIP_ROWS, photometric="minisblack", metadata=None,
        )  # fmt: skip


def child(labels: Path, out: Path) -> dict[str, Any]:
    """Run the verb on one file in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(labels), "--out", str(out)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["code"] != 0:
        raise SystemExit(done.stderr)
    return found | {"wall_s": time.perf_counter() - start}


def one(side: int, folder: Path, base: int) -> dict[str, Any]:
    """Measure one size."""
    labels, out = folder / f"labels{side}.tif", folder / "maps"
    write_labels(labels, side)
    found = child(labels, out)
    made = out / f"labels{side}.weights.tif"
    cells = (-(-side // PITCH)) ** 2
    row = {
        "image": f"{side:,} x {side:,}",
        "label file, MB": round(labels.stat().st_size / 1e6, 1),
        "map file, MB": round(made.stat().st_size / 1e6, 1),
        "peak over imports, MB": round((found["peak_bytes"] - base) / 1e6),
        "CPU seconds": round(found["cpu_s"], 1),
        "CPU ms/Mpx": round(1e9 * found["cpu_s"] / side**2, 1),
        "whole arrays, MB": round(side**2 * (2 + 8 + 8 + 4) / 1e6),
        "one transform per cell, GB": round(side**2 * cells * 8 / 1e9),
    }
    labels.unlink()
    made.unlink()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 16_384, 40_000])
    parser.add_argument("--folder", type=Path, help="where the files go for a while (3 GB free)")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_labels(folder / "base.tif", 64)
        child(folder / "base.tif", folder / "maps")  # compiled
        base = child_base(folder)
        rows = []
        for side in options.sizes:
            rows.append(one(side, folder, base))
            print(json.dumps(rows[-1]))
    result = {
        "title": "Weight maps: memory",
        "machine": machine(packages=("numpy", "scipy", "numba", "tifffile")),
        "imports_bytes": base,
        "rows": rows,
        "notes": [f"The imports themselves take {base / 1e6:.0f} MB."],
    }
    if options.json:
        write(options.json, result)


def child_base(folder: Path) -> int:
    """Resident bytes of a process that made a small map."""
    (folder / "maps" / "base.weights.tif").unlink()
    return int(child(folder / "base.tif", folder / "maps")["peak_bytes"])


if __name__ == "__main__":
    main()
