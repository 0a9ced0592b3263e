"""The package of the BioImage Model Zoo: the zoo's own classes, its test, a zip of fixed bytes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiling.faults import ModelFileError
from unet2015.checkpoint import Checkpoint
from unet2015.traced import OPSET, SizeLaw

__all__ = ["halo_px", "readme", "zoo_package"]

_Path = str | os.PathLike[str]
_PAPER = "Ronneberger, Fischer, Brox: U-Net, MICCAI 2015"
_PAPER_DOI = "10.1007/978-3-319-24574-4_28"


def halo_px(law: SizeLaw) -> int:
    """Pixels of zeros around each output tile, six periods."""
    return (law.smallest - law.period) // 2


def readme(checkpoint: Checkpoint, description: str) -> str:
    """Text of the package's README: what the network is, and how its tiles are to be laid."""
    law = SizeLaw.of_same_size(checkpoint.network["depth"])
    facts = {
        "Network": checkpoint.network,
        "Preprocessing": checkpoint.preprocessing,
        "Training steps": checkpoint.step,
        "Measures": checkpoint.measures,
        "Provenance": checkpoint.provenance,
    }
    lines = [f"- {key}: `{json.dumps(value, sort_keys=True)}`" for key, value in facts.items()]
    return (
        f"# U-Net 2015\n\n{description}\n\n{_PAPER} (doi:{_PAPER_DOI}).\n\n"
        f"The outer {halo_px(law)} pixels of each output tile are zeros (the network uses unpadded "
        f"convolutions); use a halo of {halo_px(law)} pixels, and tile and image sides that are "
        f"multiples of {law.period}, mirrored (`reflect`) beyond the border.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def zoo_package(
    path: _Path, files: Path, checkpoint: Checkpoint, card: dict[str, Any], gain: float
) -> bytes:
    """Bytes of the package of `files`, built from the zoo's own classes and tested by it.

    Parameters
    ----------
    path
        Name to come, for the error text.
    files
        Folder of weights.onnx, test_input.npy, test_output.npy and README.md, which may be filled
        further and is removed by the caller.
    checkpoint
        What is exported.
    card
        Name, description, authors, license.
    gain
        Factor from image values to what the network takes.

    Raises
    ------
    ModelFileError
        If the package fails the test of `bioimageio.core`.
    ValueError
        If the zoo's classes refuse it.
    """
    with _temporary_files_in(files):
        return _zipped(path, files, _described(files, checkpoint, card, gain))


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let what others leave in the folder for temporary files lie where it will be removed."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _described(files: Path, checkpoint: Checkpoint, card: dict[str, Any], gain: float) -> Any:
    """The zoo's description of the model; making it draws cover pictures in temporary folders."""
    from bioimageio.spec.common import FileDescr
    from bioimageio.spec.model import v0_5 as zoo

    law = SizeLaw.of_same_size(checkpoint.network["depth"])
    channels = [f"channel{n}" for n in range(checkpoint.network["in_channels"])]
    classes = [f"class{n}" for n in range(checkpoint.network["classes"])]
    halo = halo_px(law)
    image_id, output_id = zoo.TensorId("image"), zoo.TensorId("probability")
    space = [zoo.AxisId("y"), zoo.AxisId("x")]
    size = zoo.ParameterizedSize(min=law.smallest, step=law.period)
    gain_step = zoo.ScaleLinearDescr(kwargs=zoo.ScaleLinearKwargs(gain=gain))
    to_float = zoo.EnsureDtypeDescr(kwargs=zoo.EnsureDtypeKwargs(dtype="float32"))
    inputs = zoo.InputTensorDescr(
        id=image_id,
        axes=[
            zoo.BatchAxis(),
            zoo.ChannelAxis(channel_names=[zoo.Identifier(c) for c in channels]),
            *(zoo.SpaceInputAxis(id=axis, size=size) for axis in space),
        ],
        test_tensor=FileDescr(source=files / "test_input.npy"),
        pad=zoo.ReflectPadding(mode="reflect"),  # else it is written as {}
        preprocessing=[to_float, gain_step, to_float] if gain != 1 else [to_float],
    )
    same = {axis: zoo.SizeReference(tensor_id=image_id, axis_id=axis) for axis in space}
    outputs = zoo.OutputTensorDescr(
        id=output_id,
        axes=[
            zoo.BatchAxis(),
            zoo.ChannelAxis(channel_names=[zoo.Identifier(c) for c in classes]),
            *(zoo.SpaceOutputAxisWithHalo(id=axis, size=same[axis], halo=halo) for axis in space),
        ],
        test_tensor=FileDescr(source=files / "test_output.npy"),
    )
    weights = zoo.OnnxWeightsDescr(source=files / "weights.onnx", opset_version=OPSET)
    return zoo.ModelDescr(
        name=card["name"],
        description=card["description"],
        authors=[zoo.Author(name=author) for author in card["authors"]],
        cite=[zoo.CiteEntry(text=_PAPER, doi=zoo.Doi(_PAPER_DOI))],
        license=card["license"],
        documentation=FileDescr(source=files / "README.md"),
        inputs=[inputs],
        outputs=[outputs],
        weights=zoo.WeightsDescr(onnx=weights),
    )


def _zipped(path: _Path, files: Path, model: Any) -> bytes:
    """The tested model as a zip, whose files bear no date: equal checkpoints give equal bytes."""
    import bioimageio.core
    from bioimageio.spec import save_bioimageio_package

    summary = bioimageio.core.test_model(model)
    if summary.status != "passed":
        raise ModelFileError(path, f"the zoo's test says {summary.status}; nothing was written")
    package = save_bioimageio_package(model, output_path=files / "package.zip")
    dateless = io.BytesIO()
    with zipfile.ZipFile(package) as found, zipfile.ZipFile(dateless, "w") as made:
        for name in found.namelist():
            data = found.read(name)
            made.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return dateless.getvalue()
