"""A network traced for other programs, with the law of its legal sizes, and compared with torch."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tiling.faults import ModelFileError, UsageFault
from unet2015.net import margin

__all__ = [
    "OPSET",
    "SizeLaw",
    "Subject",
    "compare_onnx",
    "difference",
    "onnx_bytes",
    "probes",
    "program",
    "quiet",
    "require",
]

OPSET = 18  # of ONNX; the oldest torch writes, read by the oldest programs
_TOLERANCE = 1e-4  # of the standard deviation of the output
_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class SizeLaw:
    """Legal input sides are period k + rest, from `smallest`; outputs are `shrink` px smaller.

    >>> SizeLaw.of_network(depth=4)
    SizeLaw(period=16, rest=12, smallest=188, shrink=184)
    >>> SizeLaw.of_same_size(depth=4)
    SizeLaw(period=16, rest=0, smallest=208, shrink=0)
    """

    period: int
    rest: int
    smallest: int
    shrink: int

    @staticmethod
    def of_network(depth: int) -> SizeLaw:
        """Law of a U-Net; for depth 1 it starts two steps above the smallest side."""
        period, shrink = int(2**depth), 2 * margin(depth)
        return SizeLaw(period, -4 % period, -4 % period + 11 * period, shrink)

    @staticmethod
    def of_same_size(depth: int) -> SizeLaw:
        """Law of `unet2015.export.SameSize`: at least one period inside a halo of 6 periods."""
        period = int(2**depth)
        return SizeLaw(period, 0, 13 * period, 0)


@dataclass(frozen=True)
class Subject:
    """What is traced: a network in eval mode, its channels, size law, and a note for the file."""

    net: nn.Module
    channels: int
    law: SizeLaw
    output: str
    about: dict[str, Any]


def require(extra: str, *packages: str) -> None:
    """`UsageFault` with the remedy unless all `packages` can be imported."""
    for package in packages:
        try:
            found = importlib.util.find_spec(package) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            raise UsageFault(
                f"this export needs the package {package}, which is not installed; "
                f"pip install 'unet2015[{extra}]' brings it"
            )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what exporters warn about themselves; errors still come through."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning, UserWarning, ResourceWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        log.setLevel(level)


def probes(subject: Subject) -> Iterator[Tensor]:
    """Two images of different legal sizes and batches, values in 0 .. 1."""
    law = subject.law
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in ((1, 1, 3), (2, 4, 1)):
        sides = (law.smallest + height * law.period, law.smallest + width * law.period)
        yield torch.rand((batch, subject.channels, *sides), generator=generator)


def program(subject: Subject) -> ExportedProgram:
    """The traced network, whose sides are symbols k and m of the size law."""
    law = subject.law
    sides: list[Any] = []
    for symbol in ("k", "m"):
        count = Dim(symbol, min=law.smallest // law.period)
        sides.append(law.period * count + law.rest if law.rest else law.period * count)
    example = list(probes(subject))[1]
    shapes = ({0: Dim("n", min=1), 2: sides[0], 3: sides[1]},)
    with quiet():
        traced = torch.export.export(subject.net, (example,), dynamic_shapes=shapes)
    for node in traced.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of source, and in whose folder they lie
    ranges = traced.range_constraints  # filled from a set: the hash seed would order the file
    ordered = sorted(ranges.items(), key=lambda item: str(item[0]))
    ranges.clear()
    ranges.update(ordered)
    return traced


def onnx_bytes(subject: Subject) -> bytes:
    """ONNX file with our metadata, and the size law in the names of its sides."""
    law = subject.law
    with quiet():
        exported = torch.onnx.export(
            program(subject),
            dynamo=True,
            input_names=["image"],
            output_names=[subject.output],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]  # names of torch, of no use to readers
    named = ((model.graph.input[0], law.rest), (model.graph.output[0], law.rest - law.shrink))
    for value, offset in named:
        sides = value.type.tensor_type.shape.dim
        sides[0].dim_param = "n"
        sign = f" {'-' if offset < 0 else '+'} {abs(offset)}" if offset else ""
        for side, symbol in ((sides[2], "k"), (sides[3], "m")):
            side.dim_param = f"{law.period}*{symbol}{sign}"
    entry = model.metadata_props.add()
    entry.key, entry.value = "unet2015", json.dumps(subject.about, sort_keys=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def compare_onnx(path: _Path, subject: Subject, data: bytes) -> float:
    """Largest difference of an ONNX file from torch; `ModelFileError` if it is too large."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    worst = 0.0
    for image in probes(subject):
        (found,) = session.run(None, {"image": image.numpy()})
        with torch.inference_mode():
            worst = max(worst, difference(path, found, subject.net(image).numpy()))
    return worst


def difference(path: _Path, found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest absolute difference; `ModelFileError` above 1e-4 of the standard deviation."""
    if found.shape != wanted.shape:
        raise ModelFileError(path, f"export gives {found.shape} where torch gives {wanted.shape}")
    worst = float(np.abs(found - wanted).max())
    if not worst <= _TOLERANCE * float(wanted.std() + 1e-6):
        raise ModelFileError(path, f"export differs from torch by {worst}; nothing was written")
    return worst
