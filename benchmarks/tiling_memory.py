"""Peak memory of the tile pipeline against the size of the image, file to file.

    python benchmarks/tiling_memory.py --json benchmarks/results/tiling_memory.json

Each size runs in a process of its own: a TIFF (deflate, strips) goes through a function that only
cuts the margin off, into a tiled BigTIFF. Counted is the peak resident memory above what the
imports alone take. The claim: at output tile 772 and uint8, no more than 25 kB per column plus
64 MB, whatever the height. Beside it: what one would hold who reads the image whole and keeps a
float32 result of two classes (rival `whole`, computed, not run).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import machine, peak_bytes, write  # noqa: E402
from tiling import Geometry, SeamRule, open_sink, open_source, stitch  # noqa: E402
from tiling.bigtiff import Layout, Level, directories, header  # noqa: E402

SIZES = [
    (4_000, 4_000, ""), (20_000, 20_000, ""), (20_000, 20_000, "mean"), (100_000, 4_000, ""),
    (4_000, 100_000, ""),
]  # fmt: skip
SMALL = [(1_000, 1_000, ""), (4_000, 1_000, "mean")]


def centre(tiles):
    """A network of margin 92 that costs nothing."""
    return tiles[..., 92:-92, 92:-92]


def write_image(path: Path, height: int, width: int) -> None:
    """A deflated TIFF of 256-pixel tiles with some texture, written without holding it."""
    layout = Layout((height, width), np.dtype(np.uint8), "deflate", 256)
    texture = np.random.default_rng(0).integers(0, 40, (256, 256), dtype=np.uint8)
    tile = zlib.compress(texture.tobytes(), 1)
    count = layout.down * layout.across
    counts = np.full((1, count), len(tile), np.uint32)
    offsets = 16 + np.arange(count, dtype=np.uint64)[None] * len(tile)
    end = 16 + count * len(tile)
    level = Level(layout, offsets, counts)
    first, blob = directories([level], [""], None, end + -end % 8)
    with path.open("wb") as file:
        file.write(header(first))
        for _ in range(count):
            file.write(tile)
        file.write(b"\0" * (-end % 8) + blob)


def one(path: Path, output: int, batch: int, pyramid: str) -> dict:
    """Run in a process of its own: imports, then the pipeline."""
    before = peak_bytes()
    start = time.perf_counter()
    target = path.with_name("out.tif")
    with (
        open_source(path) as source,
        open_sink(target, source.shape, "uint8", pyramid=pyramid, overwrite=True) as sink,
    ):
        summary = stitch(
            source, centre, sink, Geometry.for_unet(output=output), batch=batch,
            seams=SeamRule(tolerance=0.0),
        )  # fmt: skip
    return {
        "bytes": peak_bytes() - before,
        "imports_bytes": before,
        "buffer_bytes": summary.buffer_bytes,
        "seconds": time.perf_counter() - start,
        "tiles": summary.tiles,
        "seconds_reading": summary.seconds_reading,
        "seconds_writing": summary.seconds_writing,
        "seam_max_difference": summary.seam_max_difference,
        "probe_difference": summary.probe_difference,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--output", type=int, default=772)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pyramid", choices=["", "mean", "mode"], default="")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(one(options.run, options.output, options.batch, options.pyramid)))
        return 0
    rows = []
    sizes = SMALL if options.small else SIZES
    sizes = [(*options.size, options.pyramid)] if options.size else sizes
    for height, width, pyramid in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "in.tif"
            write_image(path, height, width)
            command = [
                sys.executable, __file__, "--run", str(path), "--output", str(options.output),
                "--batch", str(options.batch), "--pyramid", pyramid,
            ]  # fmt: skip
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        limit = 25_000 * width + 64e6
        whole = height * width * (1 + 2 * 4)
        size = {"height": height, "width": width, "limit_bytes": limit, "whole_image_bytes": whole}
        rows.append({**size, "pyramid": pyramid, "holds": found["bytes"] <= limit, **found})
        print(
            f"{height:7} x {width:7}: {found['bytes'] / 1e6:8.1f} MB (limit {limit / 1e6:8.1f}, "
            f"whole image {whole / 1e6:9.1f}), {found['seconds']:.1f} s"
            f"{', with a pyramid' if pyramid else ''}"
        )
    if options.json:
        result = {
            "claim": "peak memory <= 25 kB per column + 64 MB at output 772, uint8",
            "machine": machine(packages=("numpy", "tifffile")),
            "output": options.output, "batch": options.batch, "rows": rows,
        }  # fmt: skip
        write(options.json, result)
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
