"""Rows of `tiling_throughput.py`, each run in a process of its own.

A row prepares what it needs and warms the device up, and returns the call that is timed. That call
returns the pixels the network was given, what else is worth telling, and the probabilities.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.record import peak_bytes
from benchmarks.rivals.monai_tiles import blended, on_our_grid
from tiling import Geometry, SeamRule, open_sink, open_source, plan, stitch
from unet2015.fused import fused
from unet2015.host_memory import keep_freed_memory
from unet2015.logits import ieee
from unet2015.net import UNet, init_paper_weights
from unet2015.predict import covering_output, default_output, predict_array
from unet2015.predict_file import Model, Settings, predict_file
from unet2015.predict_job import prepare

COMPARED = 3076  # px: corner of the image in which rows are compared with one pass
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
Timed = Callable[[], tuple[dict[str, Any], Any]]


@dataclass(frozen=True)
class Given:
    """What every row gets: the image in `folder`, one set of weights, the tile."""

    folder: Path
    net: nn.Module
    geometry: Geometry
    shape: tuple[int, int]
    device: torch.device
    precision: str
    memory_bytes: int
    compression: str

    @property
    def file(self) -> Path:
        return self.folder / "in.tif"

    @property
    def tiles(self) -> int:
        return len(plan(self.shape, self.geometry))

    @property
    def pixels(self) -> int:
        """Pixels that the network is given in all."""
        return self.tiles * self.geometry.input**2

    def network(self) -> nn.Module:
        return self.net.to(self.device, memory_format=torch.channels_last)


def given(options: argparse.Namespace) -> Given:
    """From the options of the command line."""
    net = UNet(base_channels=options.base, depth=options.depth).eval()
    init_paper_weights(net, 2015)
    shape, memory = (options.side, options.side), options.memory << 20
    return Given(
        options.folder, net,
        default_output(net, shape, memory, precision=options.precision),
        shape, torch.device(options.device), options.precision, memory,
        "none" if options.no_compression else "deflate",
    )  # fmt: skip


def on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


class Meter:
    """Wall time, CPU time of all threads and peak memory, from when the device is idle."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = on_gpu(device)
        self._device = device
        self._wait()
        self._host = peak_bytes()
        if self._gpu:
            torch.cuda.reset_peak_memory_stats(device)
            self._held = torch.cuda.memory_allocated(device)
        self._start, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> dict[str, float]:
        """Figures since it was made, when the device has done what it was given."""
        self._wait()
        seconds, cpu = time.perf_counter() - self._start, time.process_time() - self._cpu
        found = {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak_bytes() - self._host}
        if self._gpu:
            found["host_peak_bytes"] = found["peak_bytes"]
            found["peak_bytes"] = torch.cuda.max_memory_allocated(self._device) - self._held
        return found

    def _wait(self) -> None:
        if self._gpu:
            torch.cuda.synchronize(self._device)


def probabilities(net: nn.Module, precision: str, device: torch.device) -> Any:
    """The network and its soft-max: float32 of (N, 1, H, W), in the format that is fast."""
    half = HALF.get(precision)

    def run(image: Tensor) -> Tensor:
        autocast = torch.autocast(device.type, half, enabled=half is not None)
        with torch.inference_mode(), autocast, ieee(device):
            image = image.to(device)
            return net(image.contiguous(memory_format=torch.channels_last)).float().softmax(1)

    return run


def warm(run: Any, given: Given, geometry: Geometry) -> None:
    """Load kernels, handles and threads, at the size that is timed where only time counts.

    On a CPU a small tile will do, and the peak of the process must not be that of the warming up.
    """
    small = geometry.resized(min(geometry.nearest(80)[1], geometry.output))
    side = geometry.input if on_gpu(given.device) else small.input
    run(torch.rand((1, 1, side, side)))


def network(given: Given) -> Timed:
    """The network alone, as `predict_file` runs it, on a tile that is already there."""
    net = given.network()
    net = net if on_gpu(given.device) else fused(net)
    run = probabilities(net, given.precision, given.device)
    tile = torch.rand((1, 1, given.geometry.input, given.geometry.input)).to(given.device)
    warm(run, given, given.geometry)

    def timed() -> tuple[dict[str, Any], Any]:
        for _ in range(given.tiles):
            run(tile)
        return {"pixels_given": given.pixels}, None

    return timed


def pipeline(given: Given) -> Timed:
    """File to file, with a function that only cuts the margin off; no device takes part."""
    edge = given.geometry.margin

    def cut(pixels: Any) -> Any:
        return pixels[..., edge:-edge, edge:-edge]

    def timed() -> tuple[dict[str, Any], Any]:
        target = given.folder / "cut.tif"
        with (
            open_source(given.file) as source,
            open_sink(target, given.shape, "uint8", overwrite=True) as sink,
        ):
            stitch(source, cut, sink, given.geometry, seams=SeamRule(probe=False))
        return {"pixels_given": given.pixels}, None

    return timed


def ours(given: Given, save: str = "probability") -> Timed:
    """`predict_file`, TIFF to TIFF."""
    run = probabilities(given.network(), given.precision, given.device)
    warm(run, given, given.geometry)
    model, target = Model(given.net, "dtype-range", "benchmark"), given.folder / "out.tif"
    settings = Settings(
        output_tile=given.geometry.output, device=str(given.device), precision=given.precision,
        compression=given.compression, memory_bytes=given.memory_bytes, save=save,
    )  # fmt: skip

    def timed() -> tuple[dict[str, Any], Any]:
        (told,) = predict_file(model, given.file, target, settings, overwrite=True)
        return {
            "pixels_given": told.pixels_computed / given.geometry.output**2
            * given.geometry.input**2,
            "waited_for_reading": told.seconds_waiting_input,
            "waited_for_writing": told.seconds_waiting_output,
            "seam_max_difference": told.seam_max_difference,
            "probe_difference": told.probe_difference,
        }, target  # fmt: skip

    return timed


def monai(way: Callable[..., Any], *, paper: bool = False, **words: Any) -> Any:
    """A row of MONAI, array to array; `paper`: with tiles of 388 px, not ours."""

    def row(given: Given) -> Timed:
        from monai.inferers import sliding_window_inference  # noqa: F401 - not timed

        geometry = given.geometry
        if paper:
            geometry = geometry.resized(geometry.nearest(388)[0])
        run = probabilities(given.network(), given.precision, given.device)
        image = torch.from_numpy(read(given.file))[None, None].to(given.device).float() / 255
        warm(run, given, geometry)

        def timed() -> tuple[dict[str, Any], Any]:
            with torch.inference_mode():
                found, pixels = way(run, image, geometry, **words)
            return {"pixels_given": pixels}, found

        return timed

    return row


ROWS: dict[str, Callable[[Given], Timed]] = {
    "network": network,
    "pipeline": pipeline,
    "ours": ours,
    "monai defaults": monai(blended, paper=True, overlap=0.25, mode="constant"),
    "monai gaussian": monai(blended, paper=True, overlap=0.5, mode="gaussian"),
    "monai large": monai(blended, overlap=0.25, mode="constant"),
    "monai grid": monai(on_our_grid),
}


def one(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of a row; its probabilities in the compared corner go to NAME.npy."""
    torch.set_num_threads(options.threads)
    if name != "pipeline":  # as the command line does; it is kind to the rivals too
        keep_freed_memory()
    setting = given(options)
    if name == "one pass":
        np.save(setting.folder / f"{name}.npy", one_pass(setting))
        return {"row": name}
    timed = ROWS[name](setting)
    meter = Meter(torch.device("cpu") if name == "pipeline" else setting.device)
    told, result = timed()
    figures = meter.stop()
    if result is not None:
        np.save(setting.folder / f"{name}.npy", corner(result))
    tile = {"tile": setting.geometry.output, "tiles": setting.tiles}
    return {"row": name, **told, **figures, **tile}


def one_pass(given: Given) -> NDArray[np.float32]:
    """The compared corner from a single tile that covers it, with its true context."""
    seen = COMPARED + given.geometry.margin if max(given.shape) > COMPARED else COMPARED
    image = read(given.file, seen)
    net = given.network()
    found = predict_array(
        net, image, output=covering_output(net, image.shape), precision=given.precision
    )
    return found[1][:COMPARED, :COMPARED]


def corner(result: Any) -> NDArray[np.float32]:
    """Probabilities of the foreground in the compared corner, of a file or of a tensor."""
    if isinstance(result, Path):
        return read(result, COMPARED).astype(np.float32) / 255
    return result[0, 1, :COMPARED, :COMPARED].cpu().numpy()


def tile_memory(output: int, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of `predict_file` on the image's first two tiles beside the estimate of it."""
    keep_freed_memory()
    setting = given(options)
    tile = setting.geometry.resized(setting.geometry.nearest(output)[0])
    height, width = (
        min(n, tile.output + more) for n, more in zip(setting.shape, (1, 0), strict=True)
    )
    settings = Settings(
        output_tile=tile.output, device=str(setting.device), precision=setting.precision,
        region=(0, height, 0, width), memory_bytes=1 << 50,
    )  # fmt: skip
    model = Model(setting.network(), "dtype-range", "benchmark")
    with open_source(setting.file) as source:
        job = prepare(model, source, str(setting.file), settings)
    beside = 0 if on_gpu(setting.device) else job.pipeline_bytes
    meter = Meter(setting.device)
    predict_file(model, setting.file, setting.folder / "two tiles.tif", settings, overwrite=True)
    return {
        "output": tile.output, "peak_bytes": meter.stop()["peak_bytes"],
        "estimate_bytes": job.network_bytes + beside,
    }  # fmt: skip


def read(path: Path, most: int | None = None) -> NDArray[Any]:
    """An image file, or its first corner of `most` pixels."""
    with open_source(path) as source:
        height, width = (min(n, most or n) for n in source.shape)
        return source[..., 0:height, 0:width]
