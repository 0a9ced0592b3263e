"""docs/fidelity.md, check 11: `.caffemodel` files, written here byte by byte, load strictly."""

from __future__ import annotations

import hashlib
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tiling.faults import ModelFileError
from unet2015.caffe import load_caffemodel
from unet2015.checkpoint import build_network, load, save
from unet2015.net import init_paper_weights
from unet2015.variants.release import ReleaseUNet

LAYERS = [
    "conv_d0a-b",
    "conv_d0b-c",
    "conv_d1a-b",
    "conv_d1b-c",
    "conv_d2a-b",
    "conv_d2b-c",
    "conv_d3a-b",
    "conv_d3b-c",
    "conv_d4a-b",
    "conv_d4b-c",
    "upconv_d4c_u3a",
    "conv_u3b-c",
    "conv_u3c-d",
    "upconv_u3d_u2a",
    "conv_u2b-c",
    "conv_u2c-d",
    "upconv_u2d_u1a",
    "conv_u1b-c",
    "conv_u1c-d",
    "upconv_u1d_u0a",
    "conv_u0b-c",
    "conv_u0c-d",
    "conv_u0d-score",
]
RELEASE_SHA256 = "260c51948e9e0f3fe1f1282dbedaf2ca69bea38b8392ef8df6d751e58b234740"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same images in each test, whatever ran before."""
    torch.manual_seed(0)


def varint(value: int) -> bytes:
    out = b""
    while True:
        value, low = value >> 7, value & 127
        out += bytes([low | (128 if value else 0)])
        if not value:
            return out


def field(number: int, payload: bytes | int | str) -> bytes:
    """One protobuf field: a varint for an int, else length and bytes."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    if isinstance(payload, str):
        payload = payload.encode()
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def legacy_shape(shape: tuple[int, ...]) -> bytes:
    four = (1,) * (4 - len(shape)) + shape
    return b"".join(field(n + 1, side) for n, side in enumerate(four))


def new_shape(shape: tuple[int, ...]) -> bytes:
    return field(7, field(1, b"".join(varint(side) for side in shape)))


def unpacked_shape(shape: tuple[int, ...]) -> bytes:
    return field(7, b"".join(field(1, side) for side in shape))


def packed(values: np.ndarray) -> bytes:
    return field(5, values.astype("<f4").tobytes())


def chunked(values: np.ndarray) -> bytes:
    flat = values.reshape(-1)
    return b"".join(packed(part) for part in np.array_split(flat, min(3, flat.size)))


def unpacked(values: np.ndarray) -> bytes:
    tag = varint(5 << 3 | 5)
    return b"".join(tag + struct.pack("<f", value) for value in values.reshape(-1))


def mixed(values: np.ndarray) -> bytes:
    flat = values.reshape(-1)
    return unpacked(flat[:1]) + packed(flat[1:]) + field(6, b"diff")


def double(values: np.ndarray) -> bytes:
    return field(8, values.astype("<f8").tobytes())


def unpacked_double(values: np.ndarray) -> bytes:
    tag = varint(8 << 3 | 1)
    return b"".join(tag + struct.pack("<d", value) for value in values.reshape(-1))


def caffe_layers(net: ReleaseUNet) -> dict[str, list[np.ndarray]]:
    """Weights and bias by the release's layer names."""
    modules = dict(net.named_children())
    return {
        name: [p.detach().numpy() for p in modules[name.replace("-", "_")].parameters()]
        for name in LAYERS
    }


def v1_file(layers, shape=legacy_shape, data=packed) -> bytes:
    out = field(1, "phseg_v5")
    for name, blobs in layers.items():
        kind = 39 if name.startswith("upconv") else 4
        message = field(4, name) + field(5, kind) + field(2, "bottom") + field(3, "top")
        message += b"".join(field(6, shape(b.shape) + data(b)) for b in blobs)
        out += field(2, message)
        out += field(2, field(4, f"relu_{name}") + field(5, 18))
    return out


def new_file(layers, shape=new_shape, data=packed) -> bytes:
    out = field(1, "phseg_v5")
    for name, blobs in layers.items():
        kind = "Deconvolution" if name.startswith("upconv") else "Convolution"
        message = field(1, name) + field(2, kind) + field(3, "bottom") + field(4, "top")
        message += b"".join(field(7, shape(b.shape) + data(b)) for b in blobs)
        out += field(100, message)
        out += field(100, field(1, f"relu_{name}") + field(2, "ReLU"))
    return out


@pytest.fixture(scope="module")
def release() -> ReleaseUNet:
    net = ReleaseUNet(base_channels=1, dropout=0.5)
    init_paper_weights(net, seed=0)
    for parameter in net.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    return net.requires_grad_(False)


@pytest.fixture(scope="module")
def layers(release):
    return caffe_layers(release)


def loaded(tmp_path: Path, data: bytes):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(data)
    return load_caffemodel(path)


def test_check_11_layer_names_map_one_to_one(release):
    names = {name.rpartition(".")[0] for name in release.state_dict()}
    assert {name.replace("-", "_") for name in LAYERS} == names
    assert len(LAYERS) == len(names) == 23


@pytest.mark.parametrize("shape", [legacy_shape, new_shape, unpacked_shape])
@pytest.mark.parametrize("data", [packed, chunked, unpacked, mixed, double, unpacked_double])
@pytest.mark.parametrize("writer", [v1_file, new_file])
def test_check_11_every_spelling_of_the_format_gives_the_same_weights(
    tmp_path, release, layers, writer, data, shape
):
    checkpoint = loaded(tmp_path, writer(layers, shape, data))
    wanted = release.state_dict()
    assert set(checkpoint.weights) == set(wanted)
    assert all(torch.equal(checkpoint.weights[name], wanted[name]) for name in wanted)
    assert checkpoint.network["kind"] == "release2015"
    assert checkpoint.network["base_channels"] == 1
    assert checkpoint.provenance["net_name"] == "phseg_v5"


def test_check_11_the_imported_network_computes_what_the_original_does(tmp_path, release, layers):
    save(tmp_path / "a", loaded(tmp_path, new_file(layers)))
    net = build_network(load(tmp_path / "a"))
    image = torch.rand(1, 1, 188, 204)
    assert torch.equal(net.eval()(image), release.eval()(image))


def test_wider_networks_with_more_channels_and_classes_are_recognised(tmp_path):
    net = ReleaseUNet(3, 4, base_channels=2)
    checkpoint = loaded(tmp_path, v1_file(caffe_layers(net)))
    network = checkpoint.network
    assert (network["in_channels"], network["classes"], network["base_channels"]) == (3, 4, 2)


def test_order_of_layers_and_unknown_fields_do_not_matter(tmp_path, release, layers):
    data = new_file(dict(reversed(layers.items())))
    data = field(77, 5) + field(78, b"\0" * 9) + data + varint(79 << 3 | 1) + b"\0" * 8
    checkpoint = loaded(tmp_path, data)
    assert torch.equal(checkpoint.weights["conv_d0a_b.weight"], release.conv_d0a_b.weight)


def test_wrong_layers_shapes_and_values_are_refused(tmp_path, layers):
    def changed(name, blobs):
        return new_file({**layers, name: blobs})

    weight, bias = layers["conv_d1a-b"]
    renamed = {name.replace("conv_d2a-b", "conv_d2a"): blobs for name, blobs in layers.items()}
    without = {name: blobs for name, blobs in layers.items() if name != "upconv_u3d_u2a"}
    other_kind = new_file(layers).replace(b"Deconvolution", b"Deconvolutio_")
    cases = {
        "conv_d1a-b: weight is .* but": changed("conv_d1a-b", [weight.reshape(-1), bias]),
        "conv_d1a-b: weight is": changed("conv_d1a-b", [weight[:, :, :2], bias]),
        "conv_d1a-b: bias is": changed("conv_d1a-b", [weight, bias[:1]]),
        "conv_d1a-b has 1 blobs": changed("conv_d1a-b", [weight]),
        "conv_d1a-b has 3 blobs": changed("conv_d1a-b", [weight, bias, bias]),
        "NaN or Inf": changed("conv_d1a-b", [weight * np.float32(np.nan), bias]),
        "conv_d2a-b' .* missing": new_file(renamed),
        "upconv_u3d_u2a' .* missing": new_file(without),
        "'extra' is not in the release": new_file({**layers, "extra": [bias]}),
        "stands twice": new_file(layers) + v1_file(layers),
        "is of type 'Deconvolutio_'": other_kind,
        "conv_d0a-b and conv_u0d-score": new_file({"conv1": [weight, bias]}),
        "base_channels = ": new_file({**layers, "conv_d0a-b": [np.zeros((2000, 1, 3, 3)), bias]}),
        "oldest .V0. format": field(2, field(1, field(1, "conv1")) + field(50, b"")),
    }
    for words, data in cases.items():
        with pytest.raises(ModelFileError, match=words) as caught:
            loaded(tmp_path, data)
        assert caught.value.exit_code == 4


def test_blobs_that_contradict_themselves_are_refused(tmp_path, layers):
    weight, bias = layers["conv_d0a-b"]
    good = new_shape(weight.shape)

    def with_blob(blob):
        return field(100, field(1, "conv_d0a-b") + field(7, blob)) + new_file(layers)

    cases = {
        "holds 32 bytes": good + packed(weight.reshape(-1)[:8]),
        "in two ways": good + packed(weight) + double(weight),
        "its shape in two ways": good + legacy_shape(weight.shape) + packed(weight),
        "holds 35 bytes": good + field(5, weight.tobytes()[:-1]),
        "blob data of wire type 0": good + field(5, 7),
        "holds 36 bytes": new_shape((2**40, 2**40)) + packed(weight),
        "a blob of shape": new_shape((1,) * 40) + packed(bias),
        "NaN or Inf": good + double(np.full(weight.shape, 1e300)),
    }
    for words, blob in cases.items():
        with pytest.raises(ModelFileError, match=words):
            loaded(tmp_path, with_blob(blob))


def test_truncated_at_any_byte_is_refused(tmp_path, layers):
    whole = v1_file(layers)
    for length in [*range(300), *range(300, len(whole) - 60, 101)]:
        with pytest.raises(ModelFileError):
            loaded(tmp_path, whole[:length])


def test_wire_level_garbage_is_refused(tmp_path):
    cases = {
        "more than ten bytes": b"\x08" + b"\xff" * 11,
        "field number 0": b"\x00\x01",
        "wire type 3": b"\x0b",
        "wire type 7": b"\x0f",
        "truncated: 100 bytes announced": b"\x0a\x64abc",
        "truncated inside a number": b"\x0d\x00\x00",
        "a message was expected": b"\x10\x01",
        "a name of 2000 bytes": field(100, field(1, "x" * 2000)),
        "codec can't decode": field(1, b"\xff\xfe"),
    }
    for words, data in cases.items():
        with pytest.raises(ModelFileError, match=words):
            loaded(tmp_path, data)


@pytest.mark.parametrize(
    "data",
    [
        field(77, 1) * 250_000,
        field(100, b"") * 250_000,
        field(100, field(7, field(7, field(1, 1) * 250_000))),
        (varint(77 << 3 | 5) + b"abcd" + varint(78 << 3 | 5) + b"abcd") * 120_000,
    ],
    ids=["varints", "empty layers", "dims", "interleaved numbers"],
)
def test_a_file_of_tags_only_is_given_up(tmp_path, data):
    with pytest.raises(ModelFileError, match="more than 200000 fields"):
        loaded(tmp_path, data)


def test_huge_files_are_refused_before_they_are_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        os.truncate(file.fileno(), 2**31)
    with pytest.raises(ModelFileError, match="exceed the limit"):
        load_caffemodel(tmp_path / "sparse")


def test_random_damage_ends_in_one_clear_line_or_in_finite_weights(tmp_path, layers):
    whole = new_file(layers)
    chance = random.Random(0)
    for _ in range(150):
        said = ""
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            checkpoint = loaded(tmp_path, bytes(data))
        except ModelFileError as error:
            said = str(error)
        else:
            assert all(torch.isfinite(t).all() for t in checkpoint.weights.values())
        assert "\n" not in said


@pytest.mark.data
def test_parity_with_the_release_itself(real_data):
    """The tarball has no licence and is not at hand; where someone has it, its model must load."""
    found = sorted((real_data / "release").glob("*.caffemodel"))
    if not found:
        pytest.skip(f"no .caffemodel in the data folder release (tarball sha256 {RELEASE_SHA256})")
    checkpoint = load_caffemodel(found[0])
    assert sum(t.numel() for t in checkpoint.weights.values()) == 31_100_354
    assert hashlib.sha256(found[0].read_bytes()).hexdigest() == checkpoint.provenance["sha256"]
