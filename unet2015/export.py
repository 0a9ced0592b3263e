"""Checkpoints for other programs: ONNX, torch.export (pt2), BioImage Model Zoo.

ONNX and pt2 files hold the network itself: float32 image values, scaled as in training, of any
legal size in, logits out, 2 x margin pixels smaller. The Model Zoo package holds a wrapper with
equal sizes in and out, which the zoo's programs can tile without seams. Each file is compared
with torch before it gets its name.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from tiling.faults import UsageFault
from tiling.safe_write import check_output, write_bytes
from unet2015.checkpoint import Checkpoint, build_network
from unet2015.traced import (
    SizeLaw,
    Subject,
    compare_onnx,
    difference,
    onnx_bytes,
    probes,
    program,
    quiet,
    require,
)
from unet2015.zoo_package import halo_px, readme, zoo_package

__all__ = ["export_bioimageio", "export_onnx", "export_pt2"]

_Path = str | os.PathLike[str]
_RANGES = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


def export_onnx(
    checkpoint: Checkpoint,
    path: _Path,
    *,
    use_averaged: bool | None = None,
    overwrite: bool = False,
) -> float:
    """Write an ONNX file; returns its largest difference from torch, checked on the spot.

    The input "image" is (n, in_channels, 16k + 12, 16m + 12) float32, the output "logits"
    (n, classes, 16k - 172, 16m - 172): for depth 4, the file states this law itself.

    Parameters
    ----------
    checkpoint
        What to export.
    path
        File to write, e.g. "unet.onnx".
    use_averaged
        Which weights are exported; None takes the averaged ones where there are any.
    overwrite
        Replace an existing file.

    Raises
    ------
    UsageFault
        If the packages of the extra "onnx" are not installed.
    ModelFileError
        If onnxruntime computes something else than torch.
    WriteError
        If `path` exists or cannot be written.
    """
    require("onnx", "onnx", "onnxscript", "onnxruntime")
    check_output(path, overwrite=overwrite)
    subject = _network(checkpoint, use_averaged=use_averaged)
    data = onnx_bytes(subject)
    worst = compare_onnx(path, subject, data)
    write_bytes(path, data, overwrite=overwrite)
    return worst


def export_pt2(
    checkpoint: Checkpoint,
    path: _Path,
    *,
    use_averaged: bool | None = None,
    overwrite: bool = False,
) -> float:
    """Write a `torch.export` program; returns its largest difference from the network.

    Parameters and errors are those of `export_onnx`, but no further package is needed.
    """
    check_output(path, overwrite=overwrite)
    subject = _network(checkpoint, use_averaged=use_averaged)
    file = io.BytesIO()
    with quiet():
        torch.export.save(program(subject), file)
        again = torch.export.load(io.BytesIO(file.getvalue())).module()
    worst = 0.0
    for image in probes(subject):
        with torch.inference_mode():
            worst = max(worst, difference(path, again(image).numpy(), subject.net(image).numpy()))
    write_bytes(path, file.getvalue(), overwrite=overwrite)
    return worst


class SameSize(nn.Module):
    """Class probabilities in a frame of zeros, as large as the image: what the zoo can tile.

    The frame is 6 periods wide (96 px): the margin of 92 and the 4 by which a legal output is
    more than whole periods. The first 4 px are cut so that, inside the frame, the pooling grid
    starts where it does in our own tiles.
    """

    def __init__(self, net: nn.Module, frame_px: int) -> None:
        super().__init__()
        self.net, self.frame_px = net, frame_px

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (N, classes, H, W) of images (N, in_channels, H, W)."""
        logits = self.net(image[..., 4:, 4:])[..., :-4, :-4]
        return pad(logits.softmax(dim=1), (self.frame_px,) * 4)


def export_bioimageio(
    checkpoint: Checkpoint,
    path: _Path,
    *,
    name: str = "U-Net 2015",
    description: str = "The U-Net of 2015, exported by unet2015.",
    authors: Sequence[str] = (),
    licence: str | None = None,
    input_dtype: Literal["uint8", "uint16", "float32"] = "uint8",
    use_averaged: bool | None = None,
    overwrite: bool = False,
) -> None:
    """Write a BioImage Model Zoo package (zip) that has passed the zoo's own test.

    Tiles of 208 + 16k pixels with a halo of 96 (depth 4) step by multiples of 16 from the image's
    first pixel, so that the zoo's programs compute what our seam-exact tiles do on images whose
    sides are multiples of 16 (their last tile starts elsewhere on others).

    Parameters
    ----------
    checkpoint
        What to export. Its preprocessing must be "dtype-range" or "none".
    path
        File to write, e.g. "unet.zip".
    name, description, authors, licence
        What the zoo shows; the licence is an SPDX name such as "CC-BY-4.0".
    input_dtype
        Type of the images it will be used on; sets the factor to the range 0 .. 1.
    use_averaged, overwrite
        As in `export_onnx`.

    Raises
    ------
    UsageFault
        If the packages of the extra "bioimageio" are not installed, or the preprocessing cannot
        be told to the zoo.
    ModelFileError
        If the package fails the test of `bioimageio.core`.
    WriteError
        If `path` exists or cannot be written.
    """
    needed = "bioimageio.spec", "bioimageio.core", "onnx", "onnxscript", "onnxruntime"
    require("bioimageio", *needed)
    scale = checkpoint.preprocessing["scale"]
    if scale not in ("dtype-range", "none") or input_dtype not in _RANGES:
        raise UsageFault(
            f"scaling {scale!r} of {input_dtype} images cannot be told to the Model Zoo; only "
            "'dtype-range' and 'none' of uint8, uint16 and float32 can"
        )
    check_output(path, overwrite=overwrite)
    subject = _same_size(_network(checkpoint, use_averaged=use_averaged), checkpoint)
    gain = 1 / _RANGES[input_dtype] if scale == "dtype-range" else 1.0
    with tempfile.TemporaryDirectory() as folder, quiet():
        files = Path(folder)
        weights = onnx_bytes(subject)
        compare_onnx(path, subject, weights)
        (files / "weights.onnx").write_bytes(weights)
        image = next(probes(subject)).numpy()
        image = (image * _RANGES[input_dtype]).astype(input_dtype)
        with torch.inference_mode():
            wanted = subject.net(torch.from_numpy(image.astype(np.float32) * np.float32(gain)))
        _write_npy(files / "test_input.npy", image)
        _write_npy(files / "test_output.npy", wanted.numpy())
        (files / "README.md").write_text(readme(checkpoint, description), encoding="utf-8")
        card = {"name": name, "description": description, "license": licence}
        try:
            data = zoo_package(path, files, checkpoint, {**card, "authors": authors}, gain)
        except ValueError as error:
            raise UsageFault(
                "the classes of bioimageio.spec refuse this package (with pydantic 2.14 its "
                f"release 0.5.12 refuses all: install pydantic<2.14): {str(error)[:300]}"
            ) from error
    write_bytes(path, data, overwrite=overwrite)


def _network(checkpoint: Checkpoint, *, use_averaged: bool | None) -> Subject:
    net = build_network(checkpoint, use_averaged=use_averaged).eval()
    law = SizeLaw.of_network(checkpoint.network["depth"])
    about = {"network": checkpoint.network, "preprocessing": checkpoint.preprocessing}
    return Subject(net, checkpoint.network["in_channels"], law, "logits", about)


def _same_size(subject: Subject, checkpoint: Checkpoint) -> Subject:
    law = SizeLaw.of_same_size(checkpoint.network["depth"])
    net = SameSize(subject.net, halo_px(law)).eval()
    return replace(subject, net=net, law=law, output="probability")


def _write_npy(path: Path, array: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
