"""C5 to C7, C9, C23, C24 for Zarr folders: no bomb inflates, no pipe hangs, no link leads out."""

from __future__ import annotations

import gzip
import json
import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tiling.faults import InputError
from tiling.strict_tiff import Limits
from tiling.zarr import ZarrSource

PIXELS = np.arange(4096, dtype=np.uint8).reshape(64, 64)
ALL = (..., slice(0, 64), slice(0, 64))
BOMB = 1 << 26  # bytes that a few kilobytes inflate to
GZIP = {"name": "gzip", "configuration": {"level": 9}}
ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
BLOSC = {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle",
                                            "typesize": 1, "blocksize": 0}}  # fmt: skip
LYING_BLOSC = struct.pack("<BBBBIII", 2, 1, 0x13, 1, 2**31 - 20, 2**31 - 20, 64) + bytes(48)


def version_3(folder: Path, chunk: bytes, **changes: Any) -> Path:
    """An array of 64 x 64 bytes in one chunk, its metadata changed."""
    meta = {
        "zarr_format": 3, "node_type": "array", "shape": [64, 64], "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [64, 64]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0, "codecs": [{"name": "bytes"}], "attributes": {},
        "dimension_names": ["y", "x"], **changes,
    }  # fmt: skip
    (folder / "a.zarr" / "c" / "0").mkdir(parents=True)
    (folder / "a.zarr" / "zarr.json").write_text(json.dumps(meta))
    (folder / "a.zarr" / "c" / "0" / "0").write_bytes(chunk)
    return folder / "a.zarr"


def version_2(folder: Path, chunk: bytes, **changes: Any) -> Path:
    meta = {
        "zarr_format": 2, "shape": [64, 64], "chunks": [64, 64], "dtype": "|u1", "order": "C",
        "compressor": None, "fill_value": 0, "filters": None, **changes,
    }  # fmt: skip
    (folder / "a.zarr").mkdir()
    (folder / "a.zarr" / ".zarray").write_text(json.dumps(meta))
    (folder / "a.zarr" / "0.0").write_bytes(chunk)
    return folder / "a.zarr"


def refused(path: Path, match: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=match), ZarrSource(path) as image:
            image[ALL]
        assert tracemalloc.get_traced_memory()[1] < BOMB // 2
    finally:
        tracemalloc.stop()


def shape_of_chunk(*sides: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(sides)}}


def test_honest_folders_are_read(tmp_path: Path) -> None:
    for n, codec in enumerate(({}, GZIP, ZSTD, BLOSC)):
        (tmp_path / str(n)).mkdir()
        path = tmp_path / str(n) / "a.zarr"
        array = zarr.create_array(
            path, shape=(64, 64), chunks=(16, 16), shards=(32, 32) if n % 2 else None, dtype="u1",
            dimension_names=["y", "x"], compressors=[codec] if codec else None,
        )  # fmt: skip
        array[:] = PIXELS
        with ZarrSource(path) as image:
            np.testing.assert_array_equal(image[ALL], PIXELS)
            np.testing.assert_array_equal(image[..., 3:9, 2:7], PIXELS[3:9, 2:7])


@pytest.mark.parametrize("kind", ["gzip", "zlib", "zstd", "zstd without its size", "blosc", "lz4"])
def test_c6_c7_a_chunk_that_inflates_far_beyond_its_pixels(tmp_path: Path, kind: str) -> None:
    zeros = bytes(BOMB)
    if kind == "gzip":
        path = version_3(tmp_path, gzip.compress(zeros), codecs=[{"name": "bytes"}, GZIP])
    elif kind == "zlib":
        path = version_2(tmp_path, zlib.compress(zeros, 9), compressor={"id": "zlib", "level": 9})
    elif kind == "blosc":
        path = version_3(tmp_path, LYING_BLOSC, codecs=[{"name": "bytes"}, BLOSC])
    elif kind == "lz4":
        lying = struct.pack("<I", 2**31 - 1) + bytes(40)
        path = version_2(tmp_path, lying, compressor={"id": "lz4", "acceleration": 1})
    else:
        imagecodecs = pytest.importorskip("imagecodecs")
        data = imagecodecs.zstd_encode(zeros)
        if kind != "zstd":  # the same frame, its header without the size: a window instead
            width = (data[4] >> 5 & 1, 2, 4, 8)[data[4] >> 6]
            data = data[:4] + b"\x00\x88" + data[5 + width :]
        path = version_3(tmp_path, data, codecs=[{"name": "bytes"}, ZSTD])
    refused(path, "inflates to more than|cannot be read")


def test_c7_a_bomb_inside_a_shard(tmp_path: Path) -> None:
    data = gzip.compress(bytes(BOMB))
    shard = {"name": "sharding_indexed", "configuration": {
        "chunk_shape": [64, 64], "codecs": [{"name": "bytes"}, GZIP],
        "index_codecs": [{"name": "bytes"}], "index_location": "end"}}  # fmt: skip
    index = struct.pack("<QQ", 0, len(data))
    refused(version_3(tmp_path, data + index, codecs=[shard]), "inflates to more than")


@pytest.mark.parametrize("sides", [(32768, 32768), (1 << 20, 64)])
def test_c7_a_giant_chunk_in_a_small_array(tmp_path: Path, sides: tuple[int, int]) -> None:
    path = version_3(tmp_path, gzip.compress(bytes(BOMB)), chunk_grid=shape_of_chunk(*sides),
                     codecs=[{"name": "bytes"}, GZIP])  # fmt: skip
    refused(path, "chunks of .* bytes in an array of 4096 bytes")


def test_c5_c7_chunks_beyond_the_limit_or_of_no_size(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    refused(version_3(tmp_path / "0", b"", chunk_grid=shape_of_chunk(0, 64)), "chunks|cannot be")
    path = version_3(tmp_path, bytes(4096))
    with pytest.raises(InputError, match="max_bytes"):
        ZarrSource(path, limits=Limits(max_bytes=4000))


@pytest.mark.parametrize("codec", [{"id": "bz2", "level": 1}, {"id": "lzma"}])
def test_c9_other_codecs_are_named(tmp_path: Path, codec: dict[str, Any]) -> None:
    refused(version_2(tmp_path, b"", compressor=codec), f"compressed with '{codec['id']}'")


def test_e1_a_pickle_among_the_codecs_is_never_loaded(tmp_path: Path) -> None:
    import pickle

    marker = tmp_path / "marker"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    for n, where in enumerate(("compressor", "filters")):
        (tmp_path / str(n)).mkdir()
        codec: Any = {"id": "pickle", "protocol": 2}
        changes = {where: [codec] if where == "filters" else codec}
        refused(version_2(tmp_path / str(n), pickle.dumps(Bomb()), **changes), "pickle")
        assert not marker.exists()


@pytest.mark.parametrize("name", ["zarr.json", ".zarray", "0.0"])
def test_c23_a_pipe_or_device_in_the_folder_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = version_2(tmp_path, bytes(4096))
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    refused(path, "pipe or device")
    (path / name).unlink()
    (path / name).symlink_to("/dev/zero")
    refused(path, "pipe or device")


def test_c24_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4096))
    path = version_2(tmp_path, b"")
    (path / "0.0").unlink()
    (path / "0.0").symlink_to(tmp_path / "secret")
    refused(path, "link out of its Zarr folder")
    (path / "0.0").unlink()
    (path / "there").write_bytes(PIXELS.tobytes())
    (path / "0.0").symlink_to("there")  # inside it is fine
    (tmp_path / "elsewhere.zarr").symlink_to(path)  # and so is a link to the whole
    with ZarrSource(tmp_path / "elsewhere.zarr") as image:
        np.testing.assert_array_equal(image[ALL], PIXELS)


@pytest.mark.parametrize("there", ["../other.zarr", "..", "", "/", 5, None, "a" * 10_000, "\0"])
def test_c24_an_image_cannot_name_an_array_outside(tmp_path: Path, there: object) -> None:
    outside = zarr.create_array(tmp_path / "other.zarr", shape=(64, 64), dtype="u1")
    outside[:] = 77
    image = {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": there}]}
    zarr.create_group(tmp_path / "a.zarr", attributes={"ome": {"multiscales": [image]}})
    refused(tmp_path / "a.zarr", r"cannot be read|names the group")


def test_e12_metadata_is_bounded(tmp_path: Path) -> None:
    path = version_3(tmp_path, bytes(4096))
    (path / "zarr.json").write_bytes(b" " * ((1 << 24) + 1))
    refused(path, "metadata of 16777217 bytes")
    (path / "zarr.json").write_text('{"zarr_format":3,"attributes":' + '{"a":' * 50_000)
    refused(path, "cannot be read")
