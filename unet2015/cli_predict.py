"""`unet2015 predict`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tiling.command import answer, note, tell, tidy

if TYPE_CHECKING:
    from unet2015.model import Model
    from unet2015.predict_file import Job, Settings

__all__ = ["predict"]


def predict(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="TIFF, PNG or Zarr")],
    out: Annotated[
        str,
        typer.Option("--out", help="TIFF or .zarr to write; a folder for several images"),
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
        Literal["probabilities", "logits"] | None,
        typer.Option("--mean-of", help="what is averaged; default probabilities"),
    ] = None,
    save: Annotated[
        Literal["probability", "label", "logits", "instances"],
        typer.Option("--save", help="what is written"),
    ] = "probability",
    dtype: Annotated[
        Literal["uint8", "uint16", "float16", "float32"] | None,
        typer.Option("--dtype", help="number type written; default uint8, logits float32"),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--class", help="class to write, or all; default: foreground of two"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", help="labels: probability of the class above this", min=0, max=1
        ),
    ] = None,
    connectivity: Annotated[
        int | None,
        typer.Option("--connectivity", help="instances: 4 or 8 neighbours touch; default 4"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, mps")] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], typer.Option("--precision", help="number format")
    ] = "fp32",
    normalise: Annotated[
        str,
        typer.Option(
            "--normalise",
            help="dtype-range, none, fixed:LOW:HIGH, min-max, percentile[:LOW:HIGH] or median; "
            "default: as the checkpoint says",
        ),
    ] = "",
    nan_to: Annotated[
        float | None, typer.Option("--nan-to", help="value for NaN and Inf, else refused")
    ] = None,
    axes: Annotated[str, typer.Option("--axes", help="meaning of the axes, e.g. ZYX, CYX")] = "",
    channel: Annotated[
        str | None, typer.Option("--channel", help="channel to use: its number or name")
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", help="Y0:Y1,X0:X1 instead of the whole image")
    ] = None,
    memory: Annotated[
        float, typer.Option("--memory", min=0, help="GiB the network may use; 0 measures")
    ] = 0.0,
    compression: Annotated[
        Literal["deflate", "zstd", "none"] | None,
        typer.Option("--compression", help="of the TIFF; default deflate"),
    ] = None,
    pyramid: Annotated[
        bool | None,
        typer.Option(
            "--pyramid/--no-pyramid", help="smaller levels for viewers; default: above 4096 px"
        ),
    ] = None,
    seam_tolerance: Annotated[
        float | None,
        typer.Option(
            "--seam-tolerance",
            min=0,
            help="largest difference between tiles; of labels the share of pixels, 0.001 = 0.1 %",
        ),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option("--overlay", help="PNG to look at, of the first plane")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="take up an interrupted run; keep a complete one")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the output")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="show what would happen, and stop")] = False,
) -> None:
    """Segment images of any size, tile by tile, without seams."""
    from tiling.apart import check_apart
    from tiling.faults import UsageFault
    from unet2015.host_memory import keep_freed_memory
    from unet2015.model import load_model
    from unet2015.predict_file import Settings
    from unet2015.predict_targets import check_targets, make_folder, refuse_idle, targets_of

    keep_freed_memory()
    if connectivity not in (None, 4, 8):
        raise UsageFault(f"--connectivity {connectivity}: 4 (sides touch) or 8 (corners too)")
    if memory > 2**20:
        raise UsageFault(f"--memory {memory}: give GiB, e.g. 8; 0 measures what is free")
    settings = Settings(
        output_tile=output_tile, step=step, batch=batch, average=average,
        mean_of=mean_of or "probabilities", save=save, dtype=dtype or "", classes=_class(classes),
        threshold=threshold,
        connectivity=connectivity or 4, device=device, precision=precision, normalise=normalise,
        nan_to=nan_to, axes=axes, channel=_channel(channel), region=_region(region),
        memory_bytes=int(memory * 2**30), compression=compression or "deflate", pyramid=pyramid,
        seam_tolerance=seam_tolerance,
    )  # fmt: skip
    targets = targets_of(images, out, save)
    given = {"--connectivity": connectivity, "--mean-of": mean_of, "--compression": compression}
    refuse_idle(settings, targets, given | {"--seam-tolerance": seam_tolerance})
    if overlay is not None and len(targets) > 1:
        raise UsageFault("--overlay makes one picture; give one image")
    if overlay is not None and overlay.suffix.lower() != ".png":
        raise UsageFault(f"--overlay {overlay}: is a PNG; choose a name that ends in .png")
    outputs = [target for _, target in targets] + ([] if overlay is None else [overlay])
    if not plan:
        check_apart(outputs, [checkpoint, *images])
    if overlay is not None and not plan:
        from tiling.safe_write import check_output
        from unet2015.predict_history import finished

        # Beside a complete output lies the picture of it; any other is refused when it is due.
        drawn = resume and finished(targets[0][1]) is not None
        check_output(overlay, overwrite=overwrite or drawn)
    model = load_model(checkpoint)
    if not plan:
        tidy("unet2015", *outputs)
        check_targets(targets, checkpoint, overwrite=overwrite, resume=resume)
        if targets[0][1] != Path(out):
            make_folder(Path(out))
    for image, target in targets:
        if plan:
            _show_plan(model, image, settings)
            continue
        _predict_one(model, image, target, settings, overwrite=overwrite, resume=resume)
        if overlay is not None:
            _overlay(model, image, target, settings, overlay, overwrite=overwrite)


def _class(text: str | None) -> int | None:
    from tiling.faults import UsageFault

    if text is None:
        return None
    if text == "all":
        return -1
    if not text.isdecimal():
        raise UsageFault(f"--class {text}: give a class number or all")
    return int(text)


def _channel(text: str | None) -> int | str | None:
    """A number where it looks like one, else a name."""
    return int(text) if text is not None and text.isdecimal() else text


def _region(text: str | None) -> tuple[int, int, int, int] | None:
    from tiling.faults import UsageFault

    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,12}):(\d{1,12}),(\d{1,12}):(\d{1,12})", text.replace(" ", ""))
    if found is None:
        raise UsageFault(f"--region {text}: give Y0:Y1,X0:X1 in pixels, e.g. 0:512,1000:2000")
    y0, y1, x0, x1 = (int(part) for part in found.groups())
    return y0, y1, x0, x1


def _predict_one(
    model: Model, image: Path, target: Path, settings: Settings, *, overwrite: bool, resume: bool
) -> None:
    """One image, with a progress bar on standard error and a summary on standard output."""
    from unet2015.predict_file import predict_file
    from unet2015.predict_text import summary_text, tile_text
    from unet2015.progress import bar

    begun: list[Job] = []
    with bar("Mpx") as show:

        def progress(job: Job, plane: int, done: int, tiles: int) -> None:
            if not begun:
                begun.append(job)
                show.say(tile_text(job))
            area = job.megapixels
            show.update(area * (plane + done / tiles), area * len(job.planes), image.name)

        try:
            summaries = predict_file(
                model, image, target, settings, overwrite=overwrite, resume=resume,
                progress=progress, say=show.say,
            )  # fmt: skip
        except BaseException as stop:
            if not isinstance(stop, Exception):
                stop.add_note(f"to go on: {_resume_command()}")
            raise
    if begun:
        tell(*summary_text(target, begun[0], summaries).splitlines())


def _resume_command() -> str:
    """The command line of this process with `--resume`, as far as it is ours to know."""
    import shlex

    program = Path(sys.argv[0]).name
    if program not in ("unet2015", "__main__.py"):
        return "repeat the command with --resume"
    words = ["unet2015"] if program == "unet2015" else ["python", "-m", "unet2015"]
    words += [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
    over = ["--overwrite"] if "--overwrite" in sys.argv else []
    return shlex.join([*words, *over, "--resume"])


def _overlay(
    model: Model, image: Path, target: Path, settings: Settings, picture: Path, *, overwrite: bool
) -> None:
    """The preview of a finished output."""
    import os

    from tiling import open_source
    from tiling.faults import WriteError
    from unet2015.overlay import write_overlay
    from unet2015.predict_file import prepare

    with open_source(image) as source:
        job = prepare(model, source, os.fsdecode(image), settings)
        try:
            write_overlay(job, target, picture, overwrite=overwrite)
        except WriteError as error:
            raise WriteError(
                error.path,
                f"{error.reason}; the result {target} is written and whole, only this picture of "
                "it is missing: the same command with --resume draws it",
            ) from error
    tell(f"{picture}: preview")


def _show_plan(model: Model, image: Path, settings: Settings) -> None:
    """What a run would do, on standard output."""
    import os

    from tiling import open_source
    from unet2015.predict_file import prepare
    from unet2015.predict_text import plan_text

    with open_source(image) as source:
        for doubt in source.doubts:
            note(f"{image}: {doubt}")
        answer(*plan_text(prepare(model, source, os.fsdecode(image), settings)).splitlines())
