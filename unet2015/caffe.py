"""The authors' `.caffemodel`, read without Caffe and without a protobuf package.

A `.caffemodel` is one protobuf message. Only its wire format is needed: a sequence of tags, each
`field number * 8 + wire type`, followed by a varint (0), eight bytes (1), a length and so many
bytes (2) or four bytes (5). The few fields that matter, for both generations of the format:

======================  =====  =====================================================
NetParameter            1      name
NetParameter            2      layers, older (V1): name 4, type 5, blobs 6
NetParameter            100    layer, newer: name 1, type 2, blobs 7
BlobProto               1-4    num, channels, height, width (older)
BlobProto               7      shape {dim 1} (newer)
BlobProto               5, 8   data (float), double_data
======================  =====  =====================================================
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tiling.faults import ModelFileError
from unet2015.checkpoint import Checkpoint
from unet2015.networks import check_network, empty_network
from unet2015.tensor_file import foreign, open_regular

__all__ = ["load_caffemodel"]

MAX_BYTES = 2**30
MAX_FIELDS = 200_000
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_LAYER_FIELDS = {2: (4, 5, 6), 100: (1, 2, 7)}  # name, type, blobs
_CONVOLUTION = (4, "Convolution")  # V1 enumeration, newer name
_DECONVOLUTION = (39, "Deconvolution")

_Payload = int | memoryview


def load_caffemodel(path: str | os.PathLike[str]) -> Checkpoint:
    """Checkpoint of the release's network with the weights of a `.caffemodel`.

    Parameters
    ----------
    path
        File of the older (V1) or newer format, as Caffe writes it, of the network `phseg_v5` in
        any width. Caffe's weight layouts are torch's: (out, in, kh, kw) for convolutions,
        (in, out, kh, kw) for up-convolutions.

    Raises
    ------
    ModelFileError
        If the file is not a caffemodel, is truncated or too large, or its layers are not exactly
        those of the release's network in name, type and shape, or a value is NaN or Inf.

    Examples
    --------
    >>> from unet2015.checkpoint import save
    >>> checkpoint = load_caffemodel("phseg_v5.caffemodel")  # doctest: +SKIP
    >>> save("phseg_v5.safetensors", checkpoint)  # doctest: +SKIP
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_BYTES:
            raise ModelFileError(path, f"{size} bytes exceed the limit of {MAX_BYTES}")
        data = stream.read(size)
    try:
        net = _net(_Reader(), memoryview(data))
        network, weights = _release_weights(net)
    except (ValueError, MemoryError, OverflowError) as error:
        kind = foreign(data[:512])
        reason = kind or f"not a usable caffemodel: {str(error)[:300] or 'out of memory'}"
        raise ModelFileError(path, reason) from error
    return Checkpoint(
        network=network,
        weights=weights,
        preprocessing={"scale": "dtype-range"},
        provenance={
            "imported_from": "caffemodel",
            "net_name": net.name,
            "sha256": hashlib.sha256(data).hexdigest(),
        },
    )


@dataclass
class _Layer:
    name: str = ""
    kind: int | str | None = None
    blobs: list[NDArray[np.float32]] = field(default_factory=list)


@dataclass
class _Net:
    name: str = ""
    layers: list[_Layer] = field(default_factory=list)


class _Reader:
    """Fields of protobuf messages; counts them, so that a file of tags only cannot last."""

    def __init__(self) -> None:
        self.left = MAX_FIELDS

    def fields(self, data: memoryview) -> Iterator[tuple[int, int, _Payload]]:
        """(number, wire type, value) of each field; repeated fixed-size ones come joined."""
        at = 0
        while at < len(data):
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            start = at
            tag, at = _varint(data, at)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise ValueError(f"field number 0 at byte {start}")
            if wire == _VARINT:
                value, at = _varint(data, at)
                yield number, wire, value
            elif wire == _LENGTH:
                length, at = _varint(data, at)
                if length > len(data) - at:
                    raise ValueError(f"truncated: {length} bytes announced, {len(data) - at} left")
                yield number, wire, data[at : at + length]
                at += length
            elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
                width = 8 if wire == _EIGHT_BYTES else 4
                if width > len(data) - at:
                    raise ValueError("truncated inside a number")
                joined, at = _run(data, start, at - start, width)
                yield number, wire, joined
            else:
                raise ValueError(f"wire type {wire} at byte {start}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("truncated inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
    raise ValueError("a number of more than ten bytes")


def _run(data: memoryview, start: int, tag_bytes: int, width: int) -> tuple[memoryview, int]:
    """Values of all records with the tag at `start` that follow each other, and where they end.

    Unpacked floats are tens of millions of records (tag, value). The run is compared with the
    first tag in windows that double, so its cost is linear whatever comes after it.
    """
    record = tag_bytes + width
    rows = np.frombuffer(data[start:], np.uint8, ((len(data) - start) // record) * record)
    rows = rows.reshape(-1, record)
    count, window = 1, 16
    while count < len(rows):
        same = (rows[count : count + window, :tag_bytes] == rows[0, :tag_bytes]).all(axis=1)
        length = len(same) if same.all() else int(same.argmin())
        count += length
        if length < len(same):
            break
        window *= 2
    return memoryview(rows[:count, tag_bytes:].tobytes()), start + count * record


def _net(reader: _Reader, data: memoryview) -> _Net:
    net = _Net()
    for number, wire, value in reader.fields(data):
        if number == 1 and isinstance(value, memoryview) and wire == _LENGTH:
            net.name = _text(value)
        elif number in _LAYER_FIELDS:
            net.layers.append(_layer(reader, _message(wire, value), _LAYER_FIELDS[number]))
    return net


def _layer(reader: _Reader, data: memoryview, numbers: tuple[int, int, int]) -> _Layer:
    name_field, kind_field, blobs_field = numbers
    layer = _Layer()
    for number, wire, value in reader.fields(data):
        if number == name_field:
            layer.name = _text(_message(wire, value))
        elif number == kind_field:
            layer.kind = value if isinstance(value, int) else _text(value)
        elif number == blobs_field:
            layer.blobs.append(_blob(reader, _message(wire, value)))
        elif number == 1:
            raise ValueError("the oldest (V0) format; convert it with Caffe's upgrade tool first")
    return layer


def _blob(reader: _Reader, data: memoryview) -> NDArray[np.float32]:
    older: dict[int, int] = {}
    newer: list[int] | None = None
    chunks: dict[int, list[memoryview]] = {5: [], 8: []}
    for number, wire, value in reader.fields(data):
        if number in (1, 2, 3, 4) and isinstance(value, int):
            older[number] = value
        elif number == 7:
            newer = (newer or []) + _dims(reader, _message(wire, value))
        elif number in chunks:
            expected = _FOUR_BYTES if number == 5 else _EIGHT_BYTES
            if wire not in (_LENGTH, expected) or isinstance(value, int):
                raise ValueError(f"blob data of wire type {wire}")
            chunks[number].append(value)
    if (chunks[5] and chunks[8]) or (older and newer is not None):
        raise ValueError("a blob gives its values or its shape in two ways")
    shape = newer if newer is not None else [older.get(n, 0) for n in (1, 2, 3, 4)]
    item = 8 if chunks[8] else 4
    raw = b"".join(chunks[8] or chunks[5])
    if len(shape) > 8 or math.prod(shape) * item != len(raw):
        raise ValueError(f"a blob of shape {shape[:8]} holds {len(raw)} bytes of values")
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = np.frombuffer(raw, f"<f{item}").astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("a blob holds NaN or Inf")
    return values.reshape(shape)


def _dims(reader: _Reader, data: memoryview) -> list[int]:
    dims: list[int] = []
    for number, _, value in reader.fields(data):
        if number != 1:
            continue
        if isinstance(value, int):
            dims.append(value)
            continue
        at = 0
        while at < len(value) and len(dims) <= 8:
            one, at = _varint(value, at)
            dims.append(one)
    return dims


def _message(wire: int, value: _Payload) -> memoryview:
    if wire != _LENGTH or isinstance(value, int):
        raise ValueError(f"a message was expected, not wire type {wire}")
    return value


def _text(value: memoryview) -> str:
    if len(value) > 1000:
        raise ValueError(f"a name of {len(value)} bytes")
    return bytes(value).decode("utf-8")


def _release_weights(net: _Net) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Description and weights of the release's network, or `ValueError` naming the layer."""
    layers: dict[str, _Layer] = {}
    for layer in net.layers:
        if layer.blobs and layer.name in layers:
            raise ValueError(f"layer {layer.name!r} stands twice")
        if layer.blobs:
            layers[layer.name] = layer
    network = _describe(layers)
    weights: dict[str, Tensor] = {}
    for name, wanted in empty_network(network).state_dict().items():
        attribute, _, part = name.rpartition(".")
        caffe_name = _caffe_name(attribute)
        if caffe_name not in layers:
            raise ValueError(f"layer {caffe_name!r} of the release's network is missing")
        weights[name] = _tensor(layers[caffe_name], part, tuple(wanted.shape))
        if part == "bias":
            del layers[caffe_name]
    if layers:
        raise ValueError(f"layer {next(iter(layers))!r} is not in the release's network")
    return network, weights


def _caffe_name(attribute: str) -> str:
    """The release's name of a layer: conv_d0a_b is conv_d0a-b, upconv_d4c_u3a is itself."""
    head, _, blobs = attribute.partition("_")
    return attribute if head == "upconv" else f"{head}_{blobs.replace('_', '-')}"


def _describe(layers: dict[str, _Layer]) -> dict[str, object]:
    first, last = layers.get("conv_d0a-b"), layers.get("conv_u0d-score")
    if first is None or last is None or first.blobs[0].ndim != 4 or last.blobs[0].ndim != 4:
        raise ValueError(
            "conv_d0a-b and conv_u0d-score, the first and last layer of the release's "
            f"network (phseg_v5), are not among its {len(layers)} layers with weights"
        )
    network: dict[str, object] = {
        "kind": "release2015",
        "in_channels": int(first.blobs[0].shape[1]),
        "classes": int(last.blobs[0].shape[0]),
        "base_channels": int(first.blobs[0].shape[0]),
        "depth": 4,
        "dropout": 0.5,
    }
    check_network(network)
    return network


def _tensor(layer: _Layer, part: str, wanted: tuple[int, ...]) -> Tensor:
    kinds = _DECONVOLUTION if layer.name.startswith("upconv") else _CONVOLUTION
    if layer.kind is not None and layer.kind not in kinds:
        raise ValueError(f"layer {layer.name} is of type {layer.kind!r}, not {kinds[1]}")
    if len(layer.blobs) != 2:
        raise ValueError(f"layer {layer.name} has {len(layer.blobs)} blobs, not weights and bias")
    blob = layer.blobs[part == "bias"]
    older_bias = (1, 1, 1, *wanted)
    if blob.shape != wanted and not (part == "bias" and blob.shape == older_bias):
        raise ValueError(
            f"layer {layer.name}: {part} is {blob.shape} in the file but {wanted} in the "
            "release's network"
        )
    return torch.from_numpy(blob.reshape(wanted))
