"""What is fuzzed: readers, files they know, and the errors they may end in."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tiling.faults import Fault
from tiling.journal import journal_lines, read_journal
from tiling.strict_tiff import open_tiff

Repair = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes
    ----------
    name
        Shown, and first part of the names of its regression files.
    seeds
        Makes the good files that mutation starts from.
    read
        Takes bytes and a scratch folder; anything but `allowed` is a find.
    repair
        Makes checksums right again after a mutation, so that what they guard is reached too.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], object]
    repair: Repair | None = None
    allowed: tuple[type[Exception], ...] = (Fault,)


# -- images -------------------------------------------------------------------------------------


def _written(save: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "seed.bin")
        save(path)
        return path.read_bytes()


def tiff_seeds() -> list[bytes]:
    """Strips, tiles, pages, both sizes and byte orders, codecs, predictors, axes of all kinds."""
    import tifffile

    from tests.faults.broken_tiff import tiff

    draw = np.random.default_rng(1)
    grey = draw.integers(0, 255, (20, 18), dtype=np.uint8)
    real = draw.normal(size=(9, 16)).astype(np.float32)
    stack = np.stack([grey] * 3)
    options: list[tuple[Any, dict[str, Any]]] = [
        (grey, {}),
        (grey, {"compression": "zlib", "rowsperstrip": 7}),
        (grey, {"tile": (16, 16), "bigtiff": True}),
        (grey, {"byteorder": ">", "compression": "zlib", "predictor": 2}),
        (real, {"compression": "zlib", "predictor": 3}),
        (grey > 99, {"compression": None}),
        (stack, {"imagej": True}),
        (stack, {"metadata": {"axes": "ZYX"}, "ome": True}),
        (np.stack([grey] * 3, -1), {"photometric": "rgb"}),
        (stack, {"photometric": "rgb", "planarconfig": "separate"}),
        *((grey, {"compression": codec}) for codec in _codecs()),
    ]
    files = [
        _written(
            lambda path, pixels=pixels, words=words: tifffile.imwrite(
                path, pixels, **{"photometric": "minisblack", **words}
            )
        )
        for pixels, words in options
    ]
    return [*files, tiff(), tiff(order=">"), tiff(big=True), _weight_map()]


def _codecs() -> list[str]:
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        return []
    return ["lzw", "packbits", "zstd"]


def _weight_map() -> bytes:
    """A file of our own, with its history."""
    from weightmaps.cli import main

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        import tifffile

        labels = np.kron(np.arange(9).reshape(3, 3), np.ones((5, 5))).astype(np.uint8)
        tifffile.imwrite(Path(folder, "l.tif"), labels, photometric="minisblack", metadata=None)
        assert main([f"{folder}/l.tif", "--out", folder]) == 0
        return Path(folder, "l.weights.tif").read_bytes()


def read_tiff(data: bytes, scratch: Path) -> None:
    """All pages; what comes must be what the header said."""
    path = scratch / "a.tif"
    path.write_bytes(data)
    with open_tiff(path) as image:
        for page in range(image.pages):
            pixels = image.read_page(page)
            assert pixels.shape == (image.samples, image.height, image.width)
            assert pixels.dtype == image.dtype
            assert pixels.size


def read_about(data: bytes, scratch: Path) -> None:
    """What a file says about itself: axes, provenance, history."""
    from unet2015.info import describe, print_description
    from weightmaps.history import read_history

    path = scratch / "b.tif"
    path.write_bytes(data)
    with contextlib.redirect_stdout(io.StringIO()):
        print_description(describe(path), as_json=True)
    read_history(path)


def zarr_seeds() -> list[bytes]:
    """Metadata and the first chunk of small arrays of both versions, a zero byte between."""
    import zarr

    pixels = np.arange(400, dtype=np.uint16).reshape(20, 20)
    found = []
    for version, compressor in ((3, "auto"), (3, None), (2, "auto"), (2, None)):
        with tempfile.TemporaryDirectory() as folder:
            array = zarr.create_array(
                Path(folder, "a.zarr"), shape=(20, 20), chunks=(20, 20), dtype="u2",
                zarr_format=version, compressors=compressor,
                dimension_names=["y", "x"] if version == 3 else None,
            )  # fmt: skip
            array[:] = pixels
            meta, chunk = _ZARR_FILES[version]
            parts = [Path(folder, "a.zarr", name).read_bytes() for name in (meta, chunk)]
            found.append(b"\0".join(parts))
    return found


_ZARR_FILES = {2: (".zarray", "0.0"), 3: ("zarr.json", "c/0/0")}


def read_zarr(data: bytes, scratch: Path) -> None:
    """The pixels; what comes must be what the metadata said."""
    from tiling.strict_tiff import Limits
    from tiling.zarr import ZarrSource

    head, _, chunk = data.partition(b"\0")
    meta, name = _ZARR_FILES[2 if b'"zarr_format": 2' in head else 3]
    folder = scratch / "a.zarr"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / name).parent.mkdir(parents=True)
    (folder / meta).write_bytes(head)
    (folder / name).write_bytes(chunk)
    with ZarrSource(folder, limits=Limits(max_bytes=1 << 24)) as image:
        found = image[..., 0 : min(image.shape[-2], 64), 0 : min(image.shape[-1], 64)]
        assert found.dtype == image.dtype


def png_seeds() -> list[bytes]:
    """Grey, two grey depths, colour, one bit."""
    from PIL import Image

    draw = np.random.default_rng(2)
    grey = draw.integers(0, 255, (20, 18), dtype=np.uint8)
    pictures = [
        Image.fromarray(grey),
        Image.fromarray(grey.astype(np.uint16) * 257),
        Image.fromarray(np.stack([grey] * 3, -1)),
        Image.fromarray(grey > 99),
    ]
    return [
        _written(lambda path, picture=picture: picture.save(path, "png")) for picture in pictures
    ]


def read_png(data: bytes, scratch: Path) -> None:
    """The picture."""
    from tiling.images import read_image

    path = scratch / "a.png"
    path.write_bytes(data)
    assert read_image(path).size


def repaired_png(data: bytes) -> bytes:
    """The checksum of each chunk put right."""
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        length = int.from_bytes(fixed[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(fixed)


# -- models -------------------------------------------------------------------------------------


def checkpoint_seeds() -> list[bytes]:
    """A network alone, and one with everything that training adds."""
    import torch

    from unet2015.checkpoint import Checkpoint, describe_network, save
    from unet2015.net import UNet
    from unet2015.recipe import quick

    net = UNet(base_channels=1, depth=1)
    bare = Checkpoint(network=describe_network(net), weights=net.state_dict())
    full = Checkpoint(
        network=bare.network, weights=bare.weights, recipe=quick().to_dict(), step=7,
        averaged=bare.weights, measures={"v_info": 0.9}, provenance={"data": "ab"},
        optimiser={"momentum.score.weight": torch.zeros(2, 1), "step": torch.tensor(7)},
    )  # fmt: skip
    return [_written(lambda path, state=state: save(path, state)) for state in (bare, full)]


def repaired_checkpoint(data: bytes) -> bytes:
    """The header's length and SHA-256 put right, so that the checks behind them are reached."""
    end = data.rfind(b"}", 0, 1 << 20)
    length = int.from_bytes(data[:8], "little")
    if not 8 < length <= len(data) - 8:
        length = max(end - 7, 2)
    head = bytearray(length.to_bytes(8, "little") + data[8 : 8 + length])
    at = head.find(b'"header_sha256":"') + 17
    if at < 17 or at + 64 > len(head):
        return data
    head[at : at + 64] = b"0" * 64
    head[at : at + 64] = hashlib.sha256(head).hexdigest().encode()
    return bytes(head) + data[8 + length :]


def read_checkpoint(data: bytes, scratch: Path) -> None:
    """The checkpoint and its network."""
    from unet2015.checkpoint import build_network, load

    path = scratch / "a.safetensors"
    path.write_bytes(data)
    build_network(load(path))


def caffe_seeds() -> list[bytes]:
    """The release's network in both generations of the format."""
    from tests.test_caffe import caffe_layers, new_file, v1_file
    from unet2015.variants.release import ReleaseUNet

    layers = caffe_layers(ReleaseUNet(base_channels=1))
    return [v1_file(layers), new_file(layers)]


def read_caffe(data: bytes, scratch: Path) -> None:
    """The authors' weights."""
    from unet2015.caffe import load_caffemodel

    path = scratch / "a.caffemodel"
    path.write_bytes(data)
    load_caffemodel(path)


# -- journals and JSON --------------------------------------------------------------------------


def journal_seeds() -> list[bytes]:
    """Journals of short records and of those that prediction writes."""
    tiles = [{"n": n, "start": 16, "counts": [5, 9], "sha256": "ab" * 32} for n in range(5)]
    return [journal_lines(records)[0] for records in ([{"tile": 1}], tiles, [{"text": "ä\u2028"}])]


def repaired_journal(data: bytes) -> bytes:
    """The checksum of each line put right."""
    lines, previous = [], ""
    for line in data.split(b"\n")[:-1]:
        body = previous.encode() + line[16:]
        previous = hashlib.sha256(body).hexdigest()[:16]
        lines.append(previous.encode() + line[16:])
    return b"".join(line + b"\n" for line in lines)


def read_back_journal(data: bytes, _scratch: Path) -> None:
    """The undamaged head: reading it again gives the same."""
    records, end, _ = read_journal(data)
    assert end <= len(data)
    assert read_journal(data[:end])[0] == records


SHAPE = (140, 40)


@functools.cache
def _unfinished(ending: str) -> tuple[bytes, bytes]:
    """Data and journal of an interrupted output."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"o.{ending}")
        with contextlib.suppress(KeyboardInterrupt), _sink(path, resume=False) as sink:
            sink[..., 0:130, 0:40] = np.full((130, 40), 7, np.uint8)
            raise KeyboardInterrupt
        parts = (Path(folder, f".o.{ending}.part{end}") for end in ("", ".journal"))
        data, journal = (part.read_bytes() for part in parts)
        return data, journal


def _sink(path: Path, *, resume: bool) -> Any:
    from tiling.tiff_sink import TiffSink

    return TiffSink(path, SHAPE, np.uint8, resume=resume, overwrite=True)


def resume_seeds() -> list[bytes]:
    """The journal of an interrupted TIFF."""
    return [_unfinished("tif")[1]]


def read_resumed(data: bytes, scratch: Path) -> None:
    """An output taken up with this journal: refused, or finished with the right pixels."""
    (scratch / ".o.tif.part").write_bytes(_unfinished("tif")[0])
    (scratch / ".o.tif.part.journal").write_bytes(data)
    with _sink(scratch / "o.tif", resume=True) as sink:
        done = sink.rows_done
        assert done in (0, 128, 140)
        if done < SHAPE[0]:
            sink[..., done : SHAPE[0], 0:40] = np.full((SHAPE[0] - done, 40), 7, np.uint8)
    with open_tiff(scratch / "o.tif") as image:
        assert (image.read_page(0) == 7).all()


def json_seeds() -> list[bytes]:
    """Descriptions that tell of provenance, axes, recipes, logs."""
    from unet2015.recipe import isbi2012

    texts = [
        json.dumps({"unet2015": {"format": "weight-map/1", "cells": 3, "spec": {"w0": 10.0}}}),
        json.dumps({"unet2015": {"made_by": "unet2015 predict", "shape": [3, 4]}, "axes": "ZYX"}),
        json.dumps({"shape": [2, 3, 4], "axes": "TYX"}),
        "ImageJ=1.54f\nimages=6\nslices=2\nframes=3\nhyperstack=true\nunit=\\u00b5m\n",
        '<OME><Image><Pixels SizeX="4" SizeY="3" SizeZ="2" SizeT="3" SizeC="1" Type="uint8" '
        'DimensionOrder="XYZCT" PhysicalSizeX="0.5" PhysicalSizeXUnit="µm"/></Image></OME>',
        isbi2012().to_json(),
        "step,loss,learning_rate\n10,0.5,0.01\n20,0.25,0.01\n",
    ]
    return [text.encode() for text in texts]


def read_json(data: bytes, _scratch: Path) -> None:
    """Every reader of text that lies in a file."""
    from tiling.axes import page_axes
    from unet2015.recipe import Recipe
    from unet2015.training_log import Log
    from weightmaps.history import told_by

    text = data.decode("utf-8", "replace")
    told_by(text)
    for samples in (1, 3):
        page_axes(text, samples)
    Log.from_csv(text, up_to=100)
    with contextlib.suppress(ValueError):
        Recipe.from_json(text)


TARGETS = {
    target.name: target
    for target in (
        Target("tiff", tiff_seeds, read_tiff),
        Target("png", png_seeds, read_png, repaired_png),
        Target("zarr", zarr_seeds, read_zarr),
        Target("provenance", tiff_seeds, read_about),
        Target("text", json_seeds, read_json),
        Target("checkpoint", checkpoint_seeds, read_checkpoint, repaired_checkpoint),
        Target("caffemodel", caffe_seeds, read_caffe),
        Target("journal", journal_seeds, read_back_journal, repaired_journal),
        Target("resume", resume_seeds, read_resumed, repaired_journal),
    )
}


def regression_files() -> Iterator[tuple[Target, Path]]:
    """Finds of the past, and the reader each is for."""
    for path in sorted((Path(__file__).parent / "regressions").glob("*.bin")):
        yield TARGETS[path.name.partition("-")[0]], path
