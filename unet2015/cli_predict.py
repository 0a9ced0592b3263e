"""`unet2015 predict`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tiling import Summary
    from unet2015.predict_file import Job, Model, Settings

__all__ = ["load_model", "predict"]


def predict(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="TIFF or Zarr")],
    out: Annotated[
        Path, typer.Option("--out", help="file to write; a folder where there are several images")
    ],
    output_tile: Annotated[
        int, typer.Option("--output-tile", min=0, help="output tile in px; 0 chooses", metavar="N")
    ] = 0,
    step: Annotated[
        Literal["exact", "paper"],
        typer.Option("--step", help="exact: seamless; paper: tiles side by side, inexact"),
    ] = "exact",
    batch: Annotated[int, typer.Option("--batch", min=1, help="tiles per call")] = 1,
    average: Annotated[
        Literal["none", "flips", "rotations", "all"],
        typer.Option("--average", help="views averaged; all = 8 flips and rotations"),
    ] = "none",
    mean_of: Annotated[
        Literal["probabilities", "logits"], typer.Option("--mean-of", help="what is averaged")
    ] = "probabilities",
    save: Annotated[
        Literal["probability", "label", "logits"], typer.Option("--save", help="what is written")
    ] = "probability",
    dtype: Annotated[
        Literal["uint8", "uint16", "float16", "float32"] | None,
        typer.Option("--dtype", help="number type written; default uint8, logits float32"),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--class", help="class to write, or all; default: foreground of two"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, mps")] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], typer.Option("--precision", help="number format")
    ] = "fp32",
    axes: Annotated[str, typer.Option("--axes", help="meaning of the axes, e.g. ZYX, CYX")] = "",
    channel: Annotated[int | None, typer.Option("--channel", help="channel to use")] = None,
    region: Annotated[
        str | None, typer.Option("--region", help="Y0:Y1,X0:X1 instead of the whole image")
    ] = None,
    memory: Annotated[
        float, typer.Option("--memory", min=0, help="GiB the network may use; 0 measures")
    ] = 0.0,
    compression: Annotated[
        Literal["deflate", "zstd", "none"], typer.Option("--compression", help="of the TIFF")
    ] = "deflate",
    resume: Annotated[bool, typer.Option("--resume", help="take up an interrupted run")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the output")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="show what would happen, and stop")] = False,
) -> None:
    """Segment images of any size, tile by tile, without seams."""
    from unet2015.predict_file import Settings

    settings = Settings(
        output_tile=output_tile, step=step, batch=batch, average=average, mean_of=mean_of,
        save=save, dtype=dtype or "", classes=_class(classes), device=device, precision=precision,
        axes=axes, channel=channel, region=_region(region), memory_bytes=int(memory * 2**30),
        compression=compression,
    )  # fmt: skip
    targets = _targets(images, out)
    model = load_model(checkpoint)
    for image, target in targets:
        if plan:
            _show_plan(model, image, settings)
        else:
            _predict_one(model, image, target, settings, overwrite=overwrite, resume=resume)


def load_model(checkpoint: Path) -> Model:
    """Network of a checkpoint, with its averaged weights where it has them.

    Raises
    ------
    ModelFileError
        If the file is no checkpoint of this project, or damaged.
    """
    import hashlib

    from unet2015.checkpoint import build_network, load
    from unet2015.predict_file import Model

    state = load(checkpoint)
    net = build_network(state, use_averaged=bool(state.averaged))
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return Model(net, str(state.preprocessing.get("scale", "dtype-range")), digest, str(checkpoint))


def _class(text: str | None) -> int | None:
    from tiling.faults import UsageFault

    if text is None:
        return None
    if text == "all":
        return -1
    if not text.isdecimal():
        raise UsageFault(f"--class {text}: give a class number or all")
    return int(text)


def _region(text: str | None) -> tuple[int, int, int, int] | None:
    from tiling.faults import UsageFault

    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,12}):(\d{1,12}),(\d{1,12}):(\d{1,12})", text.replace(" ", ""))
    if found is None:
        raise UsageFault(f"--region {text}: give Y0:Y1,X0:X1 in pixels, e.g. 0:512,1000:2000")
    y0, y1, x0, x1 = (int(part) for part in found.groups())
    return y0, y1, x0, x1


def _targets(images: list[Path], out: Path) -> list[tuple[Path, Path]]:
    """Input and output of every image; several go into a folder under their own names."""
    from tiling.faults import UsageFault

    as_folder = len(images) > 1 or (out.is_dir() and out.suffix.lower() != ".zarr")
    if not as_folder:
        return [(images[0], out)]
    targets = [(image, out / f"{image.stem.removesuffix('.ome')}.prob.tif") for image in images]
    names = [target for _, target in targets]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageFault(f"two images would both be written to {min(twice)}; predict them apart")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        from tiling.faults import WriteError

        raise WriteError(out, f"cannot be made a folder ({error.strerror})") from error
    return targets


def _predict_one(
    model: Model, image: Path, target: Path, settings: Settings, *, overwrite: bool, resume: bool
) -> None:
    """One image, with a progress bar on standard error and a summary on standard output."""
    from unet2015.predict_file import predict_file
    from unet2015.progress import bar

    with bar("Mpx") as show:
        first = True

        def progress(job: Job, plane: int, done: int, tiles: int) -> None:
            nonlocal first
            if first:
                show.say(_tile_line(job))
                first = False
            area = (job.region[1] - job.region[0]) * (job.region[3] - job.region[2]) / 1e6
            show.update(area * (plane + done / tiles), area * len(job.planes), image.name)

        try:
            summaries = predict_file(
                model, image, target, settings, overwrite=overwrite, resume=resume,
                progress=progress,
            )  # fmt: skip
        except BaseException as stop:
            if not isinstance(stop, Exception):
                stop.add_note("repeat the command with --resume to go on")
            raise
    sys.stdout.write(_summary_line(target, summaries))


def _tile_line(job: Job) -> str:
    side = job.geometry
    return (
        f"{job.image}: {job.planes.height} x {job.planes.width} px, {len(job.planes)} plane(s), "
        f"on {job.device} in {job.precision}; tile {side.input} -> {side.output}, "
        f"step {side.step if job.settings.step == 'exact' else side.output} px"
    )


def _summary_line(target: Path, summaries: list[Summary]) -> str:
    """What a finished run did: time, throughput, waiting, seam certificate."""
    seconds = sum(s.seconds for s in summaries)
    pixels = sum(s.pixels for s in summaries)
    compared = sum(s.seam_compared for s in summaries)
    differing = sum(s.seam_differing for s in summaries)
    largest = max((s.seam_max_difference or 0.0 for s in summaries), default=0.0)
    probes = [s.probe_difference for s in summaries if s.probe_difference is not None]
    waiting = sum(s.seconds_waiting_input + s.seconds_waiting_output for s in summaries)
    recomputed = sum(s.pixels_computed for s in summaries) / max(pixels, 1) - 1
    seams = (
        f"largest difference {largest:.3g} in {compared} values computed twice ({differing} differ)"
        if compared
        else "one tile, none"
    )
    probe = f"; probe tile {max(probes):.3g}" if probes else ""
    return (
        f"{target}: {pixels / 1e6:.2f} Mpx in {seconds:.1f} s"
        f" ({pixels / 1e6 / max(seconds, 1e-9):.2f} Mpx/s),"
        f" {sum(s.tiles for s in summaries)} tiles,"
        f" {100 * recomputed:.0f} % computed beyond the image, {waiting:.1f} s waiting"
        f" for files; seams: {seams}{probe}\n"
    )


def _show_plan(model: Model, image: Path, settings: Settings) -> None:
    """What a run would do, on standard output."""
    import os

    from tiling import open_source, plan
    from unet2015.predict_file import prepare

    with open_source(image) as source:
        job = prepare(model, source, os.fsdecode(image), settings)
    tiles = plan(
        (job.planes.height, job.planes.width), job.geometry, step=settings.step, region=job.region
    )
    y0, y1, x0, x1 = job.region
    computed = len(tiles) * job.geometry.input**2
    ladder, rung = [], job.geometry.smaller()
    while rung is not None:
        ladder.append(str(rung.output))
        rung = rung.smaller()
    sys.stdout.write(
        f"{_tile_line(job)}\n"
        f"  tiles       {tiles.rows} x {tiles.columns} = {len(tiles)} per plane,"
        f" {len(tiles) * len(job.planes)} in all\n"
        f"  network in  {computed / ((y1 - y0) * (x1 - x0)):.2f} x the pixels of the image\n"
        f"  memory      about {job.tile_bytes * settings.batch / 2**30:.2f} GiB in the network;"
        f" smaller tiles if it does not fit: {', '.join(ladder) or 'none'}\n"
        f"  output      {'x'.join(map(str, job.shape))} {job.dtype}, axes {job.axes}\n"
    )
