"""C1, C2, C6 to C8 for what lies compressed in Zarr chunks and shards, attacked at its seams."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numcodecs import Blosc

from tests.faults.test_c_zarr import (
    ALL,
    BLOSC,
    BOMB,
    GZIP,
    PIXELS,
    ZSTD,
    refused,
    shape_of_chunk,
    version_2,
    version_3,
)
from tiling.faults import InputError
from tiling.zarr import ZarrSource

BYTES = {"name": "bytes"}
CRC = {"name": "crc32c"}
PACKED = bytes(Blosc(cname="lz4", shuffle=0).encode(PIXELS.tobytes()))


def shard_of(chunk: int, codecs: list[dict[str, Any]], *, index: list[Any], where: str) -> Any:
    return [
        {"name": "sharding_indexed", "configuration": {
            "chunk_shape": [chunk, chunk], "codecs": codecs, "index_codecs": index,
            "index_location": where}}
    ]  # fmt: skip


@pytest.mark.parametrize("lies", [False, True])
def test_c1_a_blosc_chunk_that_is_cut_off_is_never_decoded(tmp_path: Path, lies: bool) -> None:
    cut = PACKED[: len(PACKED) // 2]  # its decoder is told no length and would read on behind it
    if lies:
        cut = cut[:12] + struct.pack("<I", len(PACKED)) + cut[16:]
    refused(version_3(tmp_path, cut, codecs=[BYTES, BLOSC]), "bytes of blosc are there of")


def test_c1_a_blosc_chunk_of_version_2_that_is_cut_off(tmp_path: Path) -> None:
    blosc = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 0, "blocksize": 0}
    path = version_2(tmp_path, PACKED[:100], compressor=blosc)
    refused(path, r"0\.0: is damaged: 100 bytes of blosc .* copy the folder again")


@pytest.mark.parametrize("index", [[BYTES], [BYTES, CRC]])
@pytest.mark.parametrize("where", ["start", "end"])
def test_honest_shards_of_blosc_are_read(tmp_path: Path, index: list[Any], where: str) -> None:
    zarr = pytest.importorskip("zarr")
    crc32c = pytest.importorskip("google_crc32c")
    quarters = [PIXELS[y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32)]
    chunks = [bytes(Blosc(cname="lz4").encode(part.tobytes())) for part in quarters]
    start, places = (64 + 4 * (len(index) - 1)) * (where == "start"), b""
    for chunk in chunks:
        places += struct.pack("<QQ", start, len(chunk))
        start += len(chunk)
    if len(index) > 1:
        places += struct.pack("<I", crc32c.value(places))
    data = b"".join(chunks)
    path = version_3(
        tmp_path, places + data if where == "start" else data + places,
        codecs=shard_of(32, [BYTES, BLOSC], index=index, where=where),
    )  # fmt: skip
    with ZarrSource(path) as image:
        np.testing.assert_array_equal(image[ALL], PIXELS)
        np.testing.assert_array_equal(image[..., 40:50, 3:9], PIXELS[40:50, 3:9])
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], PIXELS)


@pytest.mark.parametrize("kind", ["a frame that is skipped", "an honest frame"])
def test_c6_a_bomb_behind_another_frame_of_zstd(tmp_path: Path, kind: str) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    first = struct.pack("<II", 0x184D2A53, 5) + b"hello"
    if kind == "an honest frame":
        first = imagecodecs.zstd_encode(PIXELS.tobytes())
    bomb = first + imagecodecs.zstd_encode(bytes(BOMB))
    refused(version_3(tmp_path, bomb, codecs=[BYTES, ZSTD]), "inflates to more than")


def test_pixels_in_two_frames_of_zstd_are_read(tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    halves = [imagecodecs.zstd_encode(PIXELS[y : y + 32].tobytes()) for y in (0, 32)]
    path = version_3(tmp_path, b"".join(halves), codecs=[BYTES, ZSTD])
    with ZarrSource(path) as image:
        np.testing.assert_array_equal(image[ALL], PIXELS)


def test_c6_a_bomb_in_a_bomb(tmp_path: Path) -> None:
    twice = gzip.compress(gzip.compress(bytes(BOMB)))
    path = version_3(tmp_path, twice, codecs=[BYTES, GZIP, GZIP])
    refused(path, "coded again after it was compressed")


def test_c6_a_bomb_among_the_filters(tmp_path: Path) -> None:
    data = gzip.compress(zlib.compress(bytes(BOMB)))
    gzipped, filters = {"id": "gzip", "level": 1}, [{"id": "zlib", "level": 1}]
    path = version_2(tmp_path, data, compressor=gzipped, filters=filters)
    refused(path, "coded again after it was compressed")


def test_c7_a_bomb_as_long_as_the_index_of_its_shard(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(BOMB))
    side, inner = 1 << 13, 64  # an index of 16,384 places: longer than the bomb
    index = 16 * (side // inner) ** 2
    bomb += bytes(index - len(bomb))
    places = struct.pack("<QQ", 0, len(bomb)) + b"\xff" * (index - 16)
    path = version_3(
        tmp_path, bomb + places, chunk_grid=shape_of_chunk(side, side),
        shape=[side, side], codecs=shard_of(inner, [BYTES, GZIP], index=[BYTES], where="end"),
    )  # fmt: skip
    with ZarrSource(path) as image, pytest.raises(InputError, match="inflates to more than"):
        image[..., 0:64, 0:side]


@pytest.mark.parametrize("place", [(0, 0), (3100, 1024), (2**64 - 1, 1024), (2**64 - 1024, 1024)])
@pytest.mark.parametrize("rows", [64, 32])
def test_c2_places_in_a_shard_that_hold_no_chunk(
    tmp_path: Path, place: tuple[int, int], rows: int
) -> None:
    index = struct.pack("<QQ", *place) + b"".join(
        struct.pack("<QQ", 1024 * n, 1024) for n in range(1, 4)
    )
    codecs = shard_of(32, [BYTES], index=[BYTES], where="end")
    path = version_3(tmp_path, PIXELS.tobytes() + index, codecs=codecs)
    with ZarrSource(path) as image, pytest.raises(InputError, match="is damaged: it names a chunk"):
        image[..., 0:rows, 0:64]


@pytest.mark.parametrize("where", ["start", "end"])
@pytest.mark.parametrize("second", [(0, 1024), (1000, 1024), (8, 16)])
@pytest.mark.parametrize("rows", [64, 32])
def test_c8_chunks_of_a_shard_that_share_their_bytes(
    tmp_path: Path, where: str, second: tuple[int, int], rows: int
) -> None:
    crc32c = pytest.importorskip("google_crc32c")
    first = 68 * (where == "start")
    places = [(0, 1024), (1024, 1024), (2048, 1024), second]
    index = b"".join(struct.pack("<QQ", first + start, length) for start, length in places)
    index += struct.pack("<I", crc32c.value(index))
    data = PIXELS.tobytes()
    path = version_3(
        tmp_path, index + data if where == "start" else data + index,
        codecs=shard_of(32, [BYTES], index=[BYTES, CRC], where=where),
    )  # fmt: skip
    with ZarrSource(path) as image, pytest.raises(InputError, match=r"share bytes .*; copy the f"):
        image[..., 0:rows, 0:64]


def test_chunks_of_a_shard_lie_in_any_order_with_gaps(tmp_path: Path) -> None:
    places = [(3000, 1024), (1100, 1024), (0, 1024), (2**64 - 1, 2**64 - 1)]
    index = b"".join(struct.pack("<QQ", *place) for place in places)
    data = bytes(1100) + b"\1" * 1024 + bytes(3000 - 2124) + b"\2" * 1024 + bytes(72)
    path = version_3(
        tmp_path, data + index, codecs=shard_of(32, [BYTES], index=[BYTES], where="end")
    )
    with ZarrSource(path) as image:
        assert image[..., 0:64, 0:64][::32, ::32].tolist() == [[2, 1], [0, 0]]


def test_c1_a_shard_that_lost_its_first_bytes(tmp_path: Path) -> None:
    index = b"".join(struct.pack("<QQ", 1024 * n, 1024) for n in range(4))
    codecs = shard_of(32, [BYTES], index=[BYTES], where="end")
    path = version_3(tmp_path, PIXELS.tobytes()[8:] + index, codecs=codecs)
    with ZarrSource(path) as image, pytest.raises(InputError, match="is damaged: it names a chunk"):
        image[..., 0:32, 0:64]
