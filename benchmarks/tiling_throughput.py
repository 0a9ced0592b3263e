"""Throughput of file-to-file prediction beside the network alone and MONAI, with peak memory.

    python benchmarks/tiling_throughput.py --json benchmarks/results/tiling_throughput.json
    python benchmarks/tiling_throughput.py --device cuda --base 64 --side 12292 \\
        --json benchmarks/results/tiling_throughput_gpu.json     # the one command for a GPU

One image (synthetic, uint8, deflate TIFF) and one set of weights for all; each row is a process of
its own. All rows in all number formats are run in turn, `--repeat` times, so that a slow moment of
the machine meets all of them; the fastest of each is kept, and the JSON is written after each
run. `cpu_seconds` (all threads) also compares on a machine that others use; the load before each
row is in the JSON. A row that fails, or whose package is absent, says so there.

network     the network and its soft-max alone, as `predict_file` runs it, on tiles in memory
pipeline    file to file with a function that only cuts the margin off
ours        `predict_file`, TIFF to TIFF, uint8 probability of the foreground
MONAI       `sliding_window_inference`, array to array, around the same network channels-last (see
            `rivals/monai_tiles.py`): as it comes, with a Gaussian, with our tile and number format
            ("large"), and with our grid and mirrored context too ("grid")

Deviation is the largest difference in probability from one pass over the first 3076 x 3076 px in
the same number format (8-bit files: up to 0.002 is their rounding). `memory` compares the estimate
before a run with the measured peak of `predict_file` on two tiles: on a CPU of the process, all
included; on a GPU of tensors, by the network's part.
Formats: fp32, and what `--precision auto` takes where that is another; `--precision` names one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.record import machine, write
from benchmarks.throughput_page import at_auto, measured, notes, relative_to_ours

ROWS = (
    "network", "pipeline", "ours",
    "monai defaults", "monai gaussian", "monai large", "monai grid",
)  # fmt: skip
PACKAGES = ("torch", "monai", "numpy", "tifffile", "numba")


def write_image(path: Path, side: int) -> None:
    """Smooth noise, repeated where it is large: cheap to make, and not compressed to nothing."""
    from scipy import ndimage

    from tiling import open_sink

    patch = min(side, 3076)
    noise = np.random.default_rng(0).random((patch // 2 + 1, patch // 2 + 1), np.float32)
    smooth = ndimage.zoom(ndimage.gaussian_filter(noise, 2), 2, order=1)[:patch, :patch]
    smooth = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    wide = np.tile(smooth, (1, -(-side // patch)))[:, :side]
    with open_sink(path, (side, side), "uint8") as sink:
        for top in range(0, side, patch):
            rows = min(patch, side - top)
            sink[..., top : top + rows, 0:side] = wide[:rows]


def child_words(options: argparse.Namespace, folder: Path, precision: str, run: str) -> list[str]:
    """Command line of one row."""
    return [
        sys.executable, __file__, "--folder", str(folder), "--side", str(options.side),
        "--base", str(options.base), "--depth", str(options.depth), "--memory",
        str(options.memory), "--threads", str(options.threads), "--precision", precision,
        "--device", options.device, "--run", run,
        *(["--no-compression"] if options.no_compression else []),
    ]  # fmt: skip


def child(options: argparse.Namespace, folder: Path, precision: str, run: str) -> dict[str, Any]:
    """Figures of a row in a process of its own, or {"row", "failed"}."""
    if run.startswith("monai") and importlib.util.find_spec("monai") is None:
        return {"row": run, "failed": "not installed"}
    words = child_words(options, folder, precision, run)
    found = subprocess.run(words, check=False, capture_output=True, text=True)
    if found.returncode != 0:
        sys.stderr.write(found.stderr)
        said = found.stderr.strip().splitlines() or [f"exit code {found.returncode}"]
        print(f"{precision} {run}: failed", file=sys.stderr)
        return {"row": run, "failed": said[-1][:200]}
    return dict(json.loads(found.stdout.splitlines()[-1]))


def compared(found: dict[str, Any], folder: Path, side: int) -> dict[str, Any]:
    """The figures of a row with those that are made from them."""
    if "failed" in found:
        return found
    found["mpx_per_second"] = side**2 / 1e6 / found["seconds"]
    found["pixels_given_per_pixel"] = found.pop("pixels_given") / side**2
    whole, ours = folder / "one pass.npy", folder / f"{found['row']}.npy"
    if whole.is_file() and ours.is_file():
        found["deviation_from_one_pass"] = float(np.abs(np.load(ours) - np.load(whole)).max())
    return found


def fastest(known: dict[str, Any] | None, found: dict[str, Any]) -> dict[str, Any]:
    """The faster of two runs of a row; a run that gave figures before one that failed."""
    if known is None or "failed" in known:
        return found
    return found if found.get("seconds", float("inf")) < known["seconds"] else known


def line(precision: str, found: dict[str, Any]) -> str:
    """A row in words."""
    if "failed" in found:
        return f"{precision} {found['row']:16} {found['failed']}"
    deviation = found.get("deviation_from_one_pass")
    return (
        f"{precision} {found['row']:16} {found['seconds']:7.2f} s {found['cpu_seconds']:7.2f} CPU s"
        f" {found['mpx_per_second']:7.3f} Mpx/s {found['pixels_given_per_pixel']:5.2f} x pixels"
        f" {found['peak_bytes'] / 1e6:7.0f} MB"
        f"{'' if deviation is None else f'  deviation {deviation:.2g}'}"
    )


def measure(options: argparse.Namespace, report: dict[str, Any], folder: Path) -> None:
    """Fill in all formats, all rows in turn; the file grows with each run."""
    formats = report["formats"]
    for precision, found in formats.items():
        (folder / precision).mkdir()
        (folder / precision / "in.tif").hardlink_to(folder / "in.tif")
        if "failed" in (told := child(options, folder / precision, precision, "one pass")):
            found["one_pass"] = told["failed"]
    for _ in range(options.repeat):
        for precision, found in formats.items():
            best = {row["row"]: row for row in found["rows"]}
            for row in options.rows:
                found["load_before_each_row"].append(os.getloadavg()[0])
                new = child(options, folder / precision, precision, row)
                new = compared(new, folder / precision, options.side)
                best[row] = fastest(best.get(row), new)
                found["rows"] = list(best.values())
                found["relative_to_ours"] = relative_to_ours(measured(found))
                keep(options, report)
    for precision, found in formats.items():
        outputs = (100, 388) if options.small else (388, 772, 1540)
        found["memory"] = [
            child(options, folder / precision, precision, f"memory:{output}") for output in outputs
        ]
        keep(options, report)


def keep(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Write what is measured so far."""
    report["at_auto"], report["notes"] = at_auto(report), notes(report)
    if options.json:
        write(options.json, report)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--side", type=int, default=3076)
    parser.add_argument("--base", type=int, default=32)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--memory", type=int, default=8192, help="MiB")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16", "fp16"], help="only this; default: fp32 and auto"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="only these")
    parser.add_argument("--no-compression", action="store_true")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parsed()
    if options.run:
        from benchmarks.throughput_rows import one, tile_memory

        kind, _, number = options.run.partition(":")
        found = tile_memory(int(number), options) if kind == "memory" else one(kind, options)
        print(json.dumps(found))
        return 0
    if options.small:
        options.side, options.base, options.repeat = 600, 4, 1
    import torch

    from unet2015.device import choose_device, choose_precision, describe_device

    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    auto = choose_precision("auto", device)
    formats = [options.precision] if options.precision else list(dict.fromkeys(["fp32", auto]))
    report: dict[str, Any] = {
        "claim": "as fast as the network alone; MONAI on the same weights and image in one run",
        "machine": machine(device, PACKAGES), "device": describe_device(device),
        "side": options.side, "base_channels": options.base, "depth": options.depth,
        "repeat": options.repeat, "auto": auto,
        "formats": {name: {"rows": [], "load_before_each_row": []} for name in formats},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        write_image(Path(name) / "in.tif", options.side)
        measure(options, report, Path(name))
    for precision, found in report["formats"].items():
        print(*(line(precision, row) for row in found["rows"]), sep="\n")
    print(*report["notes"], sep="\n")
    told = [row.get("failed") for found in report["formats"].values() for row in found["rows"]]
    return int(any(reason not in (None, "not installed") for reason in told))


if __name__ == "__main__":
    sys.exit(main())
