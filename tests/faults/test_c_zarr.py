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

from tiling.faults import InputChangedError, InputError
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


# --- metadata that asks for too much --------------------------------------------------------


def shards_of(side: int, *, last: list[Any] | None = None) -> list[dict[str, Any]]:
    index = [{"name": "bytes", "configuration": {"endian": "little"}}]
    inner = last or [{"name": "bytes"}]
    options = {"chunk_shape": [side, side], "codecs": inner, "index_codecs": index}
    return [{"name": "sharding_indexed", "configuration": options}]


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed`")
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shape": [10**6, 10**6], "chunk_grid": shape_of_chunk(64, 64)}, "max_pixels"),
        ({"shape": [70_000, 64, 64], "chunk_grid": shape_of_chunk(1, 64, 64)}, "max_pages"),
        ({"shape": [64, 70_000], "chunk_grid": shape_of_chunk(64, 1)}, "70000 chunks in a row"),
        ({"shape": [9000, 64], "chunk_grid": shape_of_chunk(1, 8)}, "72000 chunks of less than"),
        ({"shape": [1 << 20] * 2, "chunk_grid": shape_of_chunk(1 << 20, 1 << 20),
          "codecs": shards_of(1)}, "in a shard .1 x 1 each., above max_chunks 65536"),
        ({"codecs": shards_of(16, last=shards_of(1))}, "shards within shards"),
        ({"codecs": [*shards_of(1), GZIP]}, "shards within shards or within another codec"),
    ],
)  # fmt: skip
def test_c5_metadata_that_asks_for_too_much(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    names = ["z", "y", "x"][-len(changes.get("shape", [64, 64])) :]
    refused(version_3(tmp_path, b"x" * 100, dimension_names=names, **changes), match)


def test_c5_ordinary_sizes_are_within_the_limits(tmp_path: Path) -> None:
    for n, (shape, codecs) in enumerate((([2**18, 2**18], None), ([2**15] * 2, shards_of(64)))):
        (tmp_path / str(n)).mkdir()
        sides = (64, 64) if codecs is None else (4096, 4096)
        path = version_3(tmp_path / str(n), b"", shape=shape, chunk_grid=shape_of_chunk(*sides),
                         codecs=codecs or [{"name": "bytes"}])  # fmt: skip
        ZarrSource(path).close()


def test_c5_more_pixels_than_may_be_held(tmp_path: Path) -> None:
    path = version_2(tmp_path, bytes(4096), shape=[4096, 4096])
    with ZarrSource(path, limits=Limits(max_bytes=1 << 20)) as image:
        with pytest.raises(InputError, match=r"a\.zarr: needs 16777216 bytes.*max_bytes 1048576"):
            image.whole()
        with pytest.raises(InputError, match="max_bytes"):
            image[..., slice(0, 4096), slice(0, 1)]
        assert image[..., slice(0, 100), slice(0, 4096)].shape == (100, 4096)


def test_c5_rows_of_tiny_chunks_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    path = version_2(tmp_path, bytes(4), shape=[64, 8], chunks=[2, 2])
    for y in range(32):
        for x in range(4):
            block = PIXELS[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            (path / f"{y}.{x}").write_bytes(block.tobytes())
    with ZarrSource(path, limits=Limits(max_chunks=128)) as image:
        image._limits = Limits(max_chunks=9)
        np.testing.assert_array_equal(image[..., slice(3, 61), slice(0, 8)], PIXELS[3:61, :8])
        np.testing.assert_array_equal(image[..., slice(60, 64), slice(0, 8)], PIXELS[60:, :8])


# --- damaged chunks: named, never taken for empty ones ----------------------------------------

INDEX = b"".join(struct.pack("<QQ", 1024 * n, 1024) for n in range(4))


@pytest.mark.parametrize(
    "kind", ["short", "empty", "long", "gzip", "crc", "folder", "link", "file"]
)
def test_a_damaged_chunk_is_named(tmp_path: Path, kind: str) -> None:
    chunks = {"short": bytes(4000), "empty": b"", "long": bytes(4098), "gzip": b"\x1f\x8b\x08ab"}
    codecs = [{"name": "bytes"}]
    codecs += {"gzip": [GZIP], "crc": [{"name": "crc32c"}]}.get(kind, [])
    path = version_3(tmp_path, chunks.get(kind, bytes(4100)), codecs=codecs)
    chunk = path / "c" / "0" / "0"
    if kind in ("folder", "link", "file"):
        chunk.unlink()
    if kind == "folder":
        chunk.mkdir()
    elif kind == "link":  # the content of which was never fetched
        chunk.symlink_to("nowhere")
    elif kind == "file":
        chunk.parent.rmdir()
        chunk.parent.write_bytes(b"")
    refused(path, r"a\.zarr.c.0.0: .*copy the folder again")


@pytest.mark.parametrize("kind", ["cut", "short", "outside", "length", "start"])
def test_a_damaged_shard_is_named(tmp_path: Path, kind: str) -> None:
    pixels, codecs = PIXELS.tobytes(), shards_of(32)
    shard = {
        "cut": (pixels + INDEX)[:-3], "short": b"ab", "length": pixels + INDEX.replace(
            struct.pack("<Q", 1024), struct.pack("<Q", 1000)),
        "outside": pixels + struct.pack("<QQ", 1 << 62, 1024) * 4,
        "start": b"".join(struct.pack("<QQ", 64 + 1024 * n, 1024) for n in range(4))
        + pixels[:3072],
    }[kind]  # fmt: skip
    if kind == "start":
        codecs[0]["configuration"]["index_location"] = "start"
    path = version_3(tmp_path, shard, codecs=codecs)
    refused(path, r"a\.zarr.c.0.0: is damaged.*copy the folder again")
    if kind != "length":
        with ZarrSource(path) as image, pytest.raises(InputError, match="is damaged"):
            image[..., slice(32, 64), slice(0, 64)]  # a part of the shard only


def test_the_one_damaged_chunk_among_many_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(path, shape=(3, 90, 130), chunks=(1, 16, 16), dtype="u1",
                              compressors=[GZIP], dimension_names=["c", "y", "x"])  # fmt: skip
    array[:] = 7
    (path / "c" / "2" / "3" / "5").write_bytes(b"\x1f\x8b\x08abc")
    with ZarrSource(path) as image, pytest.raises(InputError, match=r"c.2.3.5: is damaged"):
        image[..., slice(0, 90), slice(0, 130)]


def test_c12_any_byte_but_zero_is_true(tmp_path: Path) -> None:
    stored = bytes(range(64)) * 64
    path = version_3(tmp_path, stored, data_type="bool", fill_value=False)
    with ZarrSource(path) as source:
        pixels = source.whole()
    assert pixels.tobytes() == bytes(byte != 0 for byte in stored)


def test_a_missing_chunk_is_the_fill_value(tmp_path: Path) -> None:
    path = version_2(tmp_path, bytes(4096), fill_value=9)
    (path / "0.0").unlink()
    with ZarrSource(path) as image:
        assert (image[ALL] == 9).all()


# --- a folder that changes while it is read ----------------------------------------------------


@pytest.mark.parametrize("touched", ["0.0", ".zarray", "0.1"])
@pytest.mark.parametrize("early", [True, False])
def test_a_change_is_noticed(tmp_path: Path, touched: str, early: bool) -> None:
    path = version_2(tmp_path, PIXELS.tobytes())
    with ZarrSource(path) as image:
        if not early:
            image[ALL]
        image.check_unchanged()
        new = path / "new"
        new.write_bytes(bytes(4096))
        new.replace(path / touched)  # another inode, whatever the clock says
        if early:
            image[ALL]
        with pytest.raises(InputChangedError, match="while it was read"):
            image.check_unchanged()


def test_a_chunk_of_an_image_in_a_group(tmp_path: Path) -> None:
    image = {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "s/0"}]}
    group = zarr.create_group(tmp_path / "a.zarr", attributes={"ome": {"multiscales": [image]}})
    group.create_array("s/0", shape=(64, 64), chunks=(64, 64), dtype="u1")[:] = PIXELS
    folder = tmp_path / "a.zarr"
    with ZarrSource(folder) as source:
        (folder / "labels").mkdir()  # what is written beside the pixels does not matter
        (folder / "labels" / "new.tif").write_bytes(b"x")
        (folder / "labels.txt").write_bytes(b"x")
        source.check_unchanged()
        chunk = folder / "s" / "0" / "c" / "0" / "0"
        chunk.write_bytes(chunk.read_bytes() + b"x")
        with pytest.raises(InputChangedError):
            source.check_unchanged()


def test_too_little_memory_names_the_folder_and_a_remedy(tmp_path: Path) -> None:
    class Full:
        chunks = (64, 64)

        def __getitem__(self, key: object) -> None:
            raise MemoryError

    with ZarrSource(version_2(tmp_path, PIXELS.tobytes())) as image:
        image._array = Full()
        for read in (image.whole, lambda: image[ALL]):
            with pytest.raises(InputError, match=r"a\.zarr.* more memory than there is; .*cut it"):
                read()
