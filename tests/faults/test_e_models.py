"""docs/reliability.md, section E: model files that are broken, foreign or hostile."""

from __future__ import annotations

import ast
import dataclasses
import gzip
import io
import json
import os
import pickle
import random
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

import tiling
import unet2015
import weightmaps
from tiling.faults import Fault, ModelFileError
from unet2015 import tensor_file
from unet2015.caffe import load_caffemodel
from unet2015.checkpoint import Checkpoint, describe_network, load, save
from unet2015.net import UNet, init_paper_weights

READERS = [load, load_caffemodel]


def tiny() -> Checkpoint:
    net = UNet(base_channels=1, depth=1)
    init_paper_weights(net, seed=0)
    return Checkpoint(network=describe_network(net), weights=net.state_dict(), step=3)


def stored(path: Path, **changes: object) -> bytes:
    """Bytes of a small checkpoint; `changes` bypass all checks of `save`."""
    checkpoint = dataclasses.replace(tiny(), **changes)
    tensors = {f"weights/{name}": tensor for name, tensor in checkpoint.weights.items()}
    fields = ("network", "recipe", "preprocessing", "step", "measures", "provenance")
    with path.open("wb") as stream:
        tensor_file.write(stream, tensors, {name: getattr(checkpoint, name) for name in fields})
    return path.read_bytes()


def rebuilt(entries: dict[str, object], data: bytes, metadata: dict[str, str]) -> bytes:
    """A file with our prefix and a right header hash around any header and data."""
    import hashlib

    first = {"format": tensor_file.FORMAT, "header_sha256": "0" * 64, **metadata}
    text = json.dumps({"__metadata__": first, **entries}, separators=(",", ":")).encode()
    header = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(header).hexdigest().encode()
    return header.replace(b"0" * 64, digest, 1) + data


class Bomb:
    """Runs code when unpickled: it makes the marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def bombs(marker: Path) -> dict[str, bytes]:
    plain = {f"protocol {n}": pickle.dumps(Bomb(marker), protocol=n) for n in range(6)}
    zipped = io.BytesIO()
    torch.save(Bomb(marker), zipped)
    legacy = io.BytesIO()
    torch.save(Bomb(marker), legacy, _use_new_zipfile_serialization=False)
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        entry = tarfile.TarInfo("pickle")
        entry.size = len(plain["protocol 2"])
        archive.addfile(entry, io.BytesIO(plain["protocol 2"]))
    return {
        **plain,
        "torch zip": zipped.getvalue(),
        "torch legacy": legacy.getvalue(),
        "tar": tarred.getvalue(),
    }


@pytest.mark.parametrize("reader", READERS)
def test_e1_a_pickle_bomb_does_not_run(tmp_path, reader):
    marker = tmp_path / "marker"
    for name, data in bombs(marker).items():
        path = tmp_path / "bomb.pt"
        path.write_bytes(data)
        with pytest.raises(ModelFileError) as caught:
            reader(path)
        assert not marker.exists()
        if name.startswith("torch") or name == "tar":
            assert "was not opened" in str(caught.value)
            assert "state_dict" in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"\0" * 1000, "zeros where its header should be"),
        (b"\n <!DOCTYPE html><html></html>", "HTML"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 600, "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"II*\0\x08\0\0\0" + b"\1" * 600, "a TIFF image, not a checkpoint"),
        (b"MM\0*\0\0\0\x08" + b"\1" * 600, "a TIFF image, not a checkpoint"),
        (b"II+\0\x08\0\0\0" + b"\1" * 600, "a TIFF image, not a checkpoint"),
        (b"MM\0+\0\x08\0\0" + b"\1" * 600, "a TIFF image, not a checkpoint"),
        (b"\x89PNG\r\n\x1a\n" + b"\1" * 600, "a PNG image, not a checkpoint"),
        (bytes(range(256)) * 20, "not a"),
        (b"\xff" * 5000, "not a"),
    ],
)
def test_e2_empty_html_and_garbage_are_named(tmp_path, reader, data, words):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ModelFileError, match=words):
        reader(tmp_path / "a")


def test_e2_truncated_at_every_byte(tmp_path):
    whole = stored(tmp_path / "whole")
    path = tmp_path / "cut"
    for length in [*range(400), *range(400, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ModelFileError):
        load(path)


@pytest.mark.parametrize("reader", READERS)
def test_e2_folders_pipes_and_missing_files_are_refused_at_once(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing"):
        with pytest.raises(ModelFileError):
            reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_e3_a_deflate_bomb_is_not_inflated(tmp_path, reader):
    squeezed = zlib.compress(b"\0" * 10**7, 9)
    containers = {"gz": gzip.compress(b"\0" * 10**7), "zlib": squeezed}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**7)
    containers["zip"] = buffer.getvalue()
    for name, data in containers.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelFileError):
            reader(tmp_path / name)


def test_e4_a_claimed_shape_is_checked_before_memory_is_asked_for(tmp_path):
    content = {"content": json.dumps({"sha256": {"weights/x": "0" * 64}})}
    cases = {
        "huge": ([2**40, 2**20], [0, 2**62]),
        "stride 0": ([10**12], [0, 4]),
        "overlap": ([1], [-4, 0]),
        "negative": ([-1, -1], [0, 4]),
        "bool": ([True], [0, 4]),
        "float": ([1.0], [0, 4]),
        "deep": ([1] * 100, [0, 4]),
        "beyond": ([2], [0, 8]),
    }
    for shape, offsets in cases.values():
        entry = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        (tmp_path / "a").write_bytes(rebuilt({"weights/x": entry}, b"\0" * 4, content))
        with pytest.raises(ModelFileError, match=r"header breaks the format: .*(tensor|file)"):
            load(tmp_path / "a")


def test_e5_another_architecture_is_told_by_layer_shapes_and_likely_arguments(tmp_path):
    other = UNet(base_channels=4, depth=2).state_dict()
    stored(tmp_path / "a", weights=other)
    with pytest.raises(ModelFileError) as caught:
        load(tmp_path / "a")
    text = str(caught.value)
    assert "contracting.0.conv1.weight is (4, 1, 3, 3) in the weights" in text
    assert "(1, 1, 3, 3) in the network" in text
    assert "base_channels=4, depth=2" in text
    assert caught.value.exit_code == 4


def test_e6_missing_and_extra_keys(tmp_path):
    weights = tiny().weights
    missing = {name: t for name, t in weights.items() if name != "score.bias"}
    stored(tmp_path / "a", weights=missing)
    with pytest.raises(ModelFileError, match=r"score.bias .* is missing"):
        load(tmp_path / "a")
    stored(tmp_path / "a", weights={**weights, "surprise": torch.ones(1)})
    with pytest.raises(ModelFileError, match="surprise is in the weights but not in the network"):
        load(tmp_path / "a")
    tensor_path = tmp_path / "b"
    with tensor_path.open("wb") as stream:
        tensor_file.write(stream, {"other/x": torch.ones(1)}, {})
    with pytest.raises(ModelFileError, match="belongs to none of"):
        load(tensor_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_e7_weights_that_are_not_finite(tmp_path, value):
    weights = {name: tensor.clone() for name, tensor in tiny().weights.items()}
    weights["score.weight"][0] = value
    stored(tmp_path / "a", weights=weights)
    with pytest.raises(ModelFileError, match=r"score.weight has 1 values of NaN or Inf"):
        load(tmp_path / "a")


def test_e8_a_newer_format_is_an_error_not_a_guess(tmp_path):
    whole = stored(tmp_path / "a")
    (tmp_path / "a").write_bytes(whole.replace(b"unet2015/1", b"unet2015/2", 1))
    with pytest.raises(ModelFileError, match=r"'unet2015/2' is not 'unet2015/1'.*another version"):
        load(tmp_path / "a")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    safetensors_torch.save_file({"x": torch.ones(2)}, tmp_path / "plain")
    with pytest.raises(ModelFileError, match="a safetensors file, but not a checkpoint"):
        load(tmp_path / "plain")


def test_e9_every_flipped_bit_is_refused(tmp_path):
    """All bits of the first 400 bytes, and 400 at random places of the rest."""
    whole = stored(tmp_path / "whole")
    load(tmp_path / "whole")
    places = [*range(8 * 400)]
    places += random.Random(0).sample(range(8 * 400, 8 * len(whole)), 400)
    path = tmp_path / "flipped"
    survived = 0
    for bit in places:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            load(path)
        except ModelFileError:
            survived += 1
    assert survived == len(places)


def test_e10_the_scaling_of_image_values_is_recorded_and_required(tmp_path):
    save(tmp_path / "a", tiny())
    assert load(tmp_path / "a").preprocessing == {"scale": "dtype-range"}
    stored(tmp_path / "b", preprocessing={})
    with pytest.raises(ModelFileError, match="preprocessing: 'scale' is missing"):
        load(tmp_path / "b")


FORBIDDEN_CALLS = {
    "eval", "exec", "__import__", "yaml.load", "yaml.unsafe_load", "torch.load", "torch.hub.load",
    "numpy.load", "np.load", "os.system", "os.popen", "shutil.unpack_archive", "joblib.load",
    "marshal.loads", "marshal.load", "pandas.read_pickle", "socket.socket", "urlopen",
    "extractall", "extract",
}  # fmt: skip
FORBIDDEN_MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve",
    "urllib.request", "http.client", "http.server", "requests", "httpx", "aiohttp", "ftplib",
    "socketserver", "smtplib", "telnetlib", "xmlrpc", "tarfile", "torch.hub", "yaml", "pooch",
}  # fmt: skip


def sources() -> list[Path]:
    packages = (tiling, weightmaps, unet2015)
    return sorted(path for package in packages for path in Path(package.__path__[0]).rglob("*.py"))


def offences(tree: ast.AST) -> list[str]:
    """What in a module could run code from a file, or talk to a network."""
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [
            f"import {name}" for name in names
            if any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN_MODULES)
        ]  # fmt: skip
        found += [f"import {name}" for name in names if name in FORBIDDEN_CALLS]
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            last = call.rpartition(".")[2]
            method = isinstance(node.func, ast.Attribute) and last in ("extractall", "extract")
            if call in FORBIDDEN_CALLS or method:
                found.append(call)
            for keyword in node.keywords:
                value = ast.unparse(keyword.value)
                if (keyword.arg, value) in (
                    ("shell", "True"), ("allow_pickle", "True"), ("weights_only", "False"),
                    ("trust_remote_code", "True"),
                ):  # fmt: skip
                    found.append(f"{call}({keyword.arg}={value})")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_e11_no_module_runs_code_from_a_file_or_talks_to_a_network(path):
    assert not offences(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "eval('1')", "exec(text)", "import yaml",
        "torch.load(p)", "from torch import load, hub\nfrom torch import hub", "np.load(p)",
        "subprocess.run(x, shell=True)", "archive.extractall(p)", "import urllib.request",
        "from urllib import request", "import requests", "np.load(p, allow_pickle=True)",
        "from torch.hub import load", "__import__('os')",
    ],
)  # fmt: skip
def test_e11_the_watchman_sees(line):
    assert offences(ast.parse(line))


def test_e12_json_of_a_model_file_is_bounded_and_schema_checked(tmp_path):
    bad_json = {
        "deep": "[" * 100_000,
        "deep object": '{"a":' * 50_000,
        "repeated key": '{"step": 1, "step": 2}',
        "NaN": '{"step": NaN}',
        "huge number": '{"step": ' + "9" * 6000 + "}",
        "a list": "[]",
        "a number": "7",
        "not JSON": "{",
        "no hashes": "{}",
        "hashes of another type": '{"sha256": [1, "a"]}',
    }
    for text in bad_json.values():
        (tmp_path / "a").write_bytes(rebuilt({}, b"", {"content": text}))
        with pytest.raises(ModelFileError):
            load(tmp_path / "a")
    network = tiny().network
    changes = {
        "base_channels = 1000000": {"network": {**network, "base_channels": 1_000_000}},
        "depth = True": {"network": {**network, "depth": True}},
        "depth = '4'": {"network": {**network, "depth": "4"}},
        "dropout = ": {"network": {**network, "dropout": 10**400}},
        r"network: \[": {"network": {**network, "shell": "rm"}},
        "kind": {"network": {**network, "kind": ["unet2015"]}},
        "step is a": {"step": 1.5},
        "recipe: unknown field": {"recipe": {"a": 1}},
        "measures is a": {"measures": None},
    }
    for words, change in changes.items():
        stored(tmp_path / "a", **change)
        with pytest.raises(ModelFileError, match=words):
            load(tmp_path / "a")
    (tmp_path / "a").write_bytes((5 * 2**20).to_bytes(8, "little") + b"{" * (6 * 2**20))
    with pytest.raises(ModelFileError):
        load(tmp_path / "a")


def test_e12_random_damage_ends_in_one_clear_line(tmp_path):
    whole = stored(tmp_path / "whole")
    path = tmp_path / "damaged"
    chance = random.Random(1)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            piece = chance.randbytes(chance.randint(0, 9))
            data[at : at + chance.randint(0, 9)] = piece
        if bytes(data) == whole:
            continue
        path.write_bytes(data)
        with pytest.raises(Fault) as caught:
            load(path)
        assert "\n" not in str(caught.value)
