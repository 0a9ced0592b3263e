"""Throughput of file-to-file prediction beside the network alone and MONAI, with peak memory.

    python benchmarks/tiling_throughput.py --json benchmarks/results/tiling_throughput.json
    python benchmarks/tiling_throughput.py --device cuda --base 64 --side 12292 \\
        --json benchmarks/results/tiling_throughput_gpu.json     # the one command for a GPU

One image (synthetic, uint8, deflate TIFF) and one set of weights for all; each row is a process of
its own, rows are run in turn `--repeat` times and the fastest of each is kept. `cpu_seconds` (all
threads) also compares on a machine that others use; the load before each row is in the JSON.

network     the network and its soft-max alone, as `predict_file` runs it, on tiles in memory
pipeline    file to file with a function that only cuts the margin off
ours        `predict_file`, TIFF to TIFF, uint8 probability of the foreground
MONAI       `sliding_window_inference`, array to array, around the same network channels-last (see
            `rivals/monai_tiles.py`): as it comes, with a Gaussian, with our tile and number format
            ("large"), and with our grid and mirrored context too ("grid")

Deviation is the largest difference in probability from one pass over the whole image in the same
number format (8-bit files: up to 0.002 is their rounding). `memory` compares the estimate of
`tile_bytes` with the measured peak of one tile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

ROWS = (
    "network", "pipeline", "ours",
    "monai defaults", "monai gaussian", "monai large", "monai grid",
)  # fmt: skip


def peak_bytes(device: Any) -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def finished(device: Any) -> float:
    """The time when the device has done what it was given."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def network_of(options: argparse.Namespace) -> Any:
    from unet2015.net import UNet, init_paper_weights

    net = UNet(base_channels=options.base, depth=options.depth).eval()
    init_paper_weights(net, 2015)
    return net


def one(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row, in a process of its own: imports and weights, then the clock starts."""
    import torch

    from tiling import SeamRule, open_sink, open_source, plan, stitch
    from unet2015.fused import fused
    from unet2015.host_memory import keep_freed_memory
    from unet2015.predict import default_output, predict_array
    from unet2015.predict_file import Model, Settings, predict_file

    torch.set_num_threads(options.threads)
    if row != "pipeline":  # as the command line does; it is kind to the rivals too
        keep_freed_memory()
    folder, net, device = options.folder, network_of(options), torch.device(options.device)
    shape = (options.side, options.side)
    geometry = default_output(net, shape, options.memory << 20, precision=options.precision)
    tiles = len(plan(shape, geometry))
    settings = Settings(
        output_tile=geometry.output, device=options.device, precision=options.precision,
        compression="none" if options.no_compression else "deflate",
        memory_bytes=options.memory << 20,
    )  # fmt: skip
    result: dict[str, Any] = {"row": row}
    if row == "one pass":
        from unet2015.predict import covering_output

        image = _pixels(folder)
        output = covering_output(net, shape) if device.type == "cpu" else 0
        whole = predict_array(net, image, output=output, precision=options.precision,
                              device=device)  # fmt: skip
        np.save(folder / "one pass.npy", whole[1])
        return result
    net.to(device, memory_format=torch.channels_last)
    on_cpu = device.type == "cpu"
    run = _network(fused(net) if row == "network" and on_cpu else net, options.precision, device)
    ready = torch.rand((1, 1, geometry.input, geometry.input)).to(device)
    if row.startswith("monai"):
        from monai.inferers import sliding_window_inference  # noqa: F401

        image_01 = torch.from_numpy(_pixels(folder))[None, None].to(device).float() / 255
    size = (256, 252 + geometry.period) if on_cpu else (geometry.input, geometry.input)
    size = (size[0] + geometry.input % geometry.period * on_cpu, size[1])
    run(torch.rand((1, 1, *size)))
    before, given = peak_bytes(device), tiles * geometry.input**2
    start, cpu = finished(device), time.process_time()
    if row == "network":
        for _ in range(tiles):
            run(ready)
    elif row == "pipeline":
        edge = geometry.margin

        def cut(pixels: Any) -> Any:
            return pixels[..., edge:-edge, edge:-edge]

        with open_source(folder / "in.tif") as source, open_sink(
            folder / "cut.tif", shape, "uint8", overwrite=True) as sink:  # fmt: skip
            stitch(source, cut, sink, geometry, seams=SeamRule(probe=False))
    elif row == "ours":
        (summary,) = predict_file(Model(net, "dtype-range", "benchmark"), folder / "in.tif",
                                  folder / "out.tif", settings, overwrite=True)  # fmt: skip
        result |= {
            "waited_for_reading": summary.seconds_waiting_input,
            "waited_for_writing": summary.seconds_waiting_output,
            "seam_max_difference": summary.seam_max_difference,
            "probe_difference": summary.probe_difference,
        }
        given = summary.pixels_computed / geometry.output**2 * geometry.input**2
    else:
        found, given = _monai(row, run, image_01, geometry)
    result["seconds"] = finished(device) - start
    result["cpu_seconds"] = time.process_time() - cpu
    result["peak_bytes"] = peak_bytes(device) - before
    result |= {"pixels_given": given, "tile": geometry.output, "tiles": tiles}
    if row == "ours":
        np.save(folder / "ours.npy", _read(folder / "out.tif").astype(np.float32) / 255)
    elif row.startswith("monai"):
        np.save(folder / f"{row}.npy", found[0, 1].cpu().numpy())
    return result


def _monai(row: str, run: Any, image: Any, geometry: Any) -> tuple[Any, int]:
    import torch

    from benchmarks.rivals.monai_tiles import blended, on_our_grid

    paper = geometry.resized(geometry.nearest(388)[0])
    with torch.inference_mode():
        if row == "monai defaults":
            return blended(run, image, paper, overlap=0.25, mode="constant")
        if row == "monai gaussian":
            return blended(run, image, paper, overlap=0.5, mode="gaussian")
        if row == "monai large":
            return blended(run, image, geometry, overlap=0.25, mode="constant")
        return on_our_grid(run, image, geometry)


def _network(net: Any, precision: str, device: Any) -> Any:
    """Probabilities float32 of (N, 1, H, W), in the format that is fast."""
    import torch

    from unet2015.logits import ieee

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def run(image: Any) -> Any:
        autocast = torch.autocast(device.type, half, enabled=half is not None)
        with torch.inference_mode(), autocast, ieee(device):
            image = image.to(device)
            return net(image.contiguous(memory_format=torch.channels_last)).float().softmax(1)

    return run


def _pixels(folder: Path) -> np.ndarray:
    return _read(folder / "in.tif")


def _read(path: Path) -> np.ndarray:
    from tiling import open_source

    with open_source(path) as source:
        return source[..., 0 : source.shape[0], 0 : source.shape[1]]


def tile_memory(output: int, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of one tile beside the estimate, in a process of its own."""
    import torch

    from unet2015.host_memory import keep_freed_memory
    from unet2015.predict import geometry_of, tile_bytes

    keep_freed_memory()
    device = torch.device(options.device)
    net = network_of(options).to(device, memory_format=torch.channels_last)
    run = _network(net, options.precision, device)
    geometry = geometry_of(
        net, geometry_of(net, geometry_of(net, output).smallest).nearest(output)[0]
    )
    run(torch.rand((1, 1, 188, 188)))
    before = peak_bytes(device)
    run(torch.rand((1, 1, geometry.input, geometry.input)))
    return {"output": geometry.output, "peak_bytes": peak_bytes(device) - before,
            "estimate_bytes": tile_bytes(net, geometry, precision=options.precision)}  # fmt: skip


def write_image(path: Path, side: int) -> None:
    from scipy import ndimage

    from tiling import open_sink

    noise = np.random.default_rng(0).random((side // 2 + 1, side // 2 + 1), np.float32)
    smooth = ndimage.zoom(ndimage.gaussian_filter(noise, 2), 2, order=1)[:side, :side]
    smooth = 255 * (smooth - smooth.min()) / np.ptp(smooth)
    with open_sink(path, (side, side), "uint8") as sink:
        sink[..., 0:side, 0:side] = smooth.astype(np.uint8)


def child(options: argparse.Namespace, folder: Path, *words: str) -> dict[str, Any]:
    command = [
        sys.executable, __file__, "--folder", str(folder), "--side", str(options.side),
        "--base", str(options.base), "--depth", str(options.depth), "--memory",
        str(options.memory), "--threads", str(options.threads), "--precision", options.precision,
        "--device", options.device, *words,
    ]  # fmt: skip
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(found.stdout.splitlines()[-1]))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All rows in one number format."""
    child(options, folder, "--run", "one pass")
    whole = np.load(folder / "one pass.npy")
    best: dict[str, dict[str, Any]] = {}
    loads = []
    for _ in range(options.repeat):
        for row in options.rows:
            loads.append(os.getloadavg()[0])
            try:
                found = child(options, folder, "--run", row)
            except subprocess.CalledProcessError:
                print(f"{row}: failed (is monai installed?)", file=sys.stderr)
                continue
            if row not in best or found["seconds"] < best[row]["seconds"]:
                best[row] = found
    mega = options.side**2 / 1e6
    for row, found in best.items():
        found["mpx_per_second"] = mega / found["seconds"]
        found["pixels_given_per_pixel"] = found.pop("pixels_given") / options.side**2
        file = folder / f"{row}.npy"
        if file.is_file():
            found["deviation_from_one_pass"] = float(np.abs(np.load(file) - whole).max())
        deviation = found.get("deviation_from_one_pass")
        print(
            f"{options.precision} {row:16} {found['seconds']:7.2f} s"
            f" {found['cpu_seconds']:7.2f} CPU s"
            f" {found['mpx_per_second']:7.3f} Mpx/s"
            f" {found['pixels_given_per_pixel']:5.2f} x pixels {found['peak_bytes'] / 1e6:7.0f} MB"
            f"{'' if deviation is None else f'  deviation {deviation:.2g}'}"
        )
    ratios = {}
    for unit in ("seconds", "cpu_seconds"):
        ours = best["ours"][unit] if "ours" in best else float("nan")
        ratios[unit] = {row: found[unit] / ours for row, found in best.items() if row != "ours"}
        words = "  ".join(f"{row} {value:.2f}" for row, value in ratios[unit].items())
        print(f"{options.precision} {unit} relative to ours: {words}")
    return {
        "rows": list(best.values()),
        "relative_to_ours": ratios,
        "load_before_each_row": loads,
    }


def main() -> int:
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
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], help="default: all fast")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="only these")
    parser.add_argument("--no-compression", action="store_true")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        kind, _, number = options.run.partition(":")
        found = tile_memory(int(number), options) if kind == "memory" else one(kind, options)
        print(json.dumps(found))
        return 0
    if options.small:
        options.side, options.base, options.repeat = 600, 4, 1
    from unet2015.device import choose_device, describe_device, has_fast_bf16

    device = choose_device(options.device)
    formats = [options.precision] if options.precision else ["fp32"]
    if not options.precision:
        formats += ["bf16"] * has_fast_bf16(device) + ["fp16"] * (device.type == "cuda")
    versions = {name: metadata.version(name) for name in ("torch", "monai", "numpy", "tifffile")}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True,
                            text=True, check=False).stdout.strip()  # fmt: skip
    report: dict[str, Any] = {
        "claim": "as fast as the network alone; MONAI on the same weights and image in one run",
        "commit": commit, "machine": platform.processor() or platform.machine(),
        "device": describe_device(device),
        "threads": options.threads, "python": platform.python_version(), "versions": versions,
        "side": options.side, "base_channels": options.base, "depth": options.depth,
        "repeat": options.repeat, "formats": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_image(folder / "in.tif", options.side)
        for options.precision in formats:
            found = measure(options, folder)
            outputs = (100, 388) if options.small else (388, 772, 1540)
            found["memory"] = [child(options, folder, "--run", f"memory:{n}") for n in outputs]
            report["formats"][options.precision] = found
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
