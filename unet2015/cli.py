"""The verbs of the command line. Help appears before torch is imported."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from tiling.command import deferred, run_app, tell, tidy
from tiling.signals import leave
from unet2015.cli_predict import predict
from unet2015.cli_train import train
from unet2015.score_cli import score
from weightmaps.cli import LEAST_MIB, weights

__all__ = ["app", "main", "run"]

app = typer.Typer(
    help="The 2015 U-Net: border weight maps, training on cell stacks, seamless segmentation"
    " of large TIFFs.",
    epilog="Exit codes: 0 done, 1 a fault of the program (doctor: of this machine), 2 usage, 3 bad"
    " input, 4 bad model file, 5 cannot write, 6 out of memory or a worker killed, 7 locked or"
    " input changed, 8 NaN in training or prediction or tiles that differ, 130 Ctrl-C, 143 SIGTERM."
    " Add --traceback to any command to see where an error came from.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Address space that the smallest task of a verb takes with two threads, in MiB, measured.
_SAMPLE, _SCORE, _TORCH, _TRAINING = 370, 580, 1050, 1600

# The lines of `unet2015 --help`: typer would cut a docstring in the middle of a word.
app.command("weights", short_help="Border weight maps of label images (Eq. 2).")(
    deferred(weights, LEAST_MIB)
)
app.command("train", short_help="Train the U-Net on a labelled stack.")(deferred(train, _TRAINING))
app.command("predict", short_help="Segment images of any size without seams.")(
    deferred(predict, _TORCH)
)
app.command("score", short_help="Measure a segmentation against its truth.")(
    deferred(score, _SCORE)
)


@app.command("info")
@deferred
def info(
    file: Annotated[Path, typer.Argument(help="checkpoint, TIFF or Zarr", metavar="FILE")],
    json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Say what a checkpoint, TIFF or Zarr holds."""
    from unet2015.info import describe, print_description

    print_description(describe(file), as_json=json)


@app.command("doctor", short_help="Is this machine ready, and what is wrong?")
@functools.partial(deferred, least_mib=_TRAINING)
def doctor() -> int:
    """Versions, device, codecs, free memory, one-tile timing, and what is wrong."""
    from unet2015.doctor import examine

    return examine()


@app.command("export", short_help="Write a checkpoint as ONNX, bioimageio or pt2.")
@functools.partial(deferred, least_mib=_TORCH)
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    to: Annotated[Literal["onnx", "bioimageio", "pt2"], typer.Option("--to", help="format")],
    out: Annotated[Path, typer.Option("--out", help="file to write")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT")] = False,
    input_dtype: Annotated[
        Literal["uint8", "uint16", "float32"] | None,
        typer.Option("--input-dtype", help="bioimageio: type of the images (default uint8)"),
    ] = None,
) -> None:
    """Write a checkpoint as ONNX, BioImage Model Zoo package or torch export.

    Where training averaged the weights, these are exported, as `predict` uses them.
    """
    from tiling.faults import UsageFault
    from tiling.safe_write import check_output
    from unet2015 import export as exports
    from unet2015.checkpoint import load

    if input_dtype is not None and to != "bioimageio":
        raise UsageFault(
            f"--input-dtype {input_dtype}: {to} files take float32 values scaled as in training;"
            " it goes with --to bioimageio only"
        )
    tidy("unet2015", out)
    check_output(out, overwrite=overwrite, inputs=[checkpoint])
    state = load(checkpoint)
    if to == "onnx":
        exports.export_onnx(state, out, overwrite=overwrite)
    elif to == "pt2":
        exports.export_pt2(state, out, overwrite=overwrite)
    else:
        exports.export_bioimageio(
            state, out, input_dtype=input_dtype or "uint8", overwrite=overwrite
        )
    tell(str(out))


@app.command("import-caffe", short_help="Checkpoint of the authors' .caffemodel.")
@functools.partial(deferred, least_mib=_TORCH)
def import_caffe(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the authors' .caffemodel")],
    out: Annotated[Path, typer.Option("--out", help="checkpoint to write")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT")] = False,
) -> None:
    """Turn the authors' .caffemodel (2015 release form) into a checkpoint."""
    from tiling.safe_write import check_output
    from unet2015.caffe import load_caffemodel
    from unet2015.checkpoint import save

    tidy("unet2015", out)
    check_output(out, overwrite=overwrite, inputs=[file])
    save(out, load_caffemodel(file), overwrite=overwrite)
    tell(str(out))


@app.command("sample", short_help="Write the embedded, labelled sample.")
@functools.partial(deferred, least_mib=_SAMPLE)
def sample(
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files")] = False,
) -> None:
    """Write the embedded sample: a synthetic EM stack, nuclei and axons with labels."""
    from unet2015.sample import SAMPLE_FILES, write_sample

    tidy("unet2015", *(directory / name for name in SAMPLE_FILES))
    tell(*map(str, write_sample(directory, overwrite=overwrite)))


@app.command("demo", short_help="Weights, training, prediction, report on the sample.")
@functools.partial(deferred, least_mib=_TRAINING)
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder of the demo")] = Path("demo"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a demo, file by file")
    ] = False,
    steps: Annotated[int | None, typer.Option("--steps", help="training steps")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, mps")] = "auto",
) -> None:
    """The three stories on the sample: weights, training, seamless prediction, report.html."""
    from unet2015.demo import run_demo
    from unet2015.host_memory import keep_freed_memory

    keep_freed_memory()
    run_demo(out, overwrite=overwrite, steps=steps, device=device)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (by default this process's)."""
    # Before torch is imported: OpenMP threads that spin while they wait cost a busy machine dearly.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run_app("unet2015", app, argv)


def run() -> None:
    """Console script: `main`, then leave with its exit code."""
    leave(main)
