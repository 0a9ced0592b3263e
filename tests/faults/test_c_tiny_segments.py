"""Fault C5: pixels in very many, very small segments are read quickly, or refused at once."""

from __future__ import annotations

import itertools
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from broken_tiff import tiff
from hypothesis import given
from hypothesis import strategies as st
from test_c_images import refused  # see conftest.py

from tiling.faults import InputError
from tiling.ifd import Limits
from tiling.input_file import InputFile
from tiling.strict_tiff import open_tiff, read_stack

SMALLER = "lies in {} strips or tiles of {} bytes .* max_segments {}; save it in larger strips"


def segmented(
    pixels: npt.NDArray[Any], rows: int, columns: int, places: npt.NDArray[Any], data: bytes
) -> bytes:
    """Grey pixels in uncompressed tiles, or in strips where `columns` is 0, at these places."""
    height, width = pixels.shape
    long = (4, (places + 16).tolist())
    size = (4, [rows * (columns or width) * pixels.itemsize] * len(places))
    tags: dict[int, Any] = {256: (4, width), 257: (4, height), 258: (3, 8 * pixels.itemsize)}
    if columns:
        tags |= {278: None, 322: (4, columns), 323: (4, rows), 324: long, 325: size}
    else:
        tags |= {278: (4, rows), 273: long, 279: size}
    return tiff(tags, data=data)


def tiled(pixels: npt.NDArray[Any], rows: int, columns: int, order: Any, gap: int = 0) -> bytes:
    """The pixels in tiles, stored in an order, each with some bytes behind it."""
    height, width = pixels.shape
    down, across = -(-height // rows), -(-width // columns)
    padded = np.zeros((down * rows, across * columns), pixels.dtype)
    padded[:height, :width] = pixels
    tiles = padded.reshape(down, rows, across, columns).swapaxes(1, 2).reshape(down * across, -1)
    order = np.asarray(order(down * across))
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order)) * (tiles[0].nbytes + gap)
    data = b"".join(tiles[index].tobytes() + bytes(gap) for index in order)
    return segmented(pixels, rows, columns, places, data)


def test_c5_pixels_that_are_tiles_are_read_by_few_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512), np.uint8)
    strips = np.random.default_rng(1).integers(0, 256, (100_000, 1), np.uint8)
    (tmp_path / "a.tif").write_bytes(tiled(pixels, 1, 1, np.arange))
    places = np.arange(strips.size)
    (tmp_path / "b.tif").write_bytes(segmented(strips, 1, 0, places, strips.tobytes()))
    scattered = np.random.default_rng(2).permutation
    (tmp_path / "c.tif").write_bytes(tiled(pixels[:, :120], 1, 1, scattered, gap=1))
    calls = itertools.count()
    read = InputFile.read
    monkeypatch.setattr(
        InputFile, "read", lambda file, *place: (next(calls), read(file, *place))[1]
    )
    np.testing.assert_array_equal(read_stack(tmp_path / "a.tif")[0], pixels)
    np.testing.assert_array_equal(read_stack(tmp_path / "b.tif")[0], strips)
    np.testing.assert_array_equal(read_stack(tmp_path / "c.tif")[0], pixels[:, :120])
    assert next(calls) < 600


@pytest.mark.parametrize("columns", [1, 0])
def test_c5_tiny_segments_that_lie_scattered_are_refused(tmp_path: Path, columns: int) -> None:
    pixels = np.zeros((300, 300) if columns else (70_000, 1), np.uint8)
    places = np.arange(pixels.size)[::-1]
    content = segmented(pixels, 1, columns, places, bytes(pixels.size))
    refused(tmp_path / "a.tif", content, SMALLER.format(pixels.size, 1, 65536))
    limits = Limits(max_segments=pixels.size)
    assert read_stack(tmp_path / "a.tif", limits=limits).shape == (1, *pixels.shape)


def test_c5_tiny_compressed_segments_are_refused(tmp_path: Path) -> None:
    pixels, path = np.arange(66_000, dtype=np.uint8).reshape(-1, 1), tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, compression="packbits", rowsperstrip=1, metadata=None)
    refused(path, path.read_bytes(), SMALLER.format(66_000, 1, 65536))
    np.testing.assert_array_equal(read_stack(path, limits=Limits(max_segments=66_000))[0], pixels)


@pytest.mark.parametrize("compression", [1, 5])
def test_c5_lists_of_segments_in_a_hole_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: int
) -> None:
    count = 3_000_000
    content = tiff({256: (4, 1), 257: (4, count), 259: (3, compression), 278: (4, 1)}, data=b"")
    lists = b"".join(
        struct.pack("<HHII", number, 4, count, 4096 + 4 * count * (number == 279))
        for number in (273, 279)
    )
    short = [struct.pack("<HHII", number, 4, 1, place) for number, place in ((273, 16), (279, 0))]
    at = [content.index(entry) for entry in short]
    holed = bytearray(content)
    holed[at[0] : at[0] + 12], holed[at[1] : at[1] + 12] = lists[:12], lists[12:]
    (tmp_path / "a.tif").write_bytes(holed)
    os.truncate(tmp_path / "a.tif", 4096 + 8 * count)
    read, asked = InputFile.read, []
    monkeypatch.setattr(InputFile, "read", lambda f, p, n: (asked.append(n), read(f, p, n))[1])
    with pytest.raises(InputError, match=SMALLER.format(count, 1, 65536)):
        open_tiff(tmp_path / "a.tif")
    assert sum(asked) < 10_000


def test_c5_pages_that_share_a_list_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pixels = tmp_path / "a.tif", np.zeros((40, 5000), np.uint8)
    tifffile.imwrite(path, pixels.reshape(-1, 5), rowsperstrip=1, metadata=None, software=False)
    with tifffile.TiffFile(path) as file:
        start, size = file.pages[0].offset, 2 + 12 * len(file.pages[0].tags)
    content = bytearray(path.read_bytes())
    link = start + size
    for _ in range(3):  # the same directory again
        struct.pack_into("<I", content, link, len(content))
        link = len(content) + size
        content += content[start : start + size] + bytes(4)
    monkeypatch.setattr("tiling.segments.segments", lambda *_: 1 / 0)
    refused(path, bytes(content), "page 1: is damaged: pages share their lists of strips or tiles")


def test_c5_segments_of_all_pages_have_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((3, 8, 600), np.uint8), rowsperstrip=2, metadata=None,
                     photometric="minisblack")  # fmt: skip
    with open_tiff(path, limits=Limits(max_all_segments=12)) as image:
        assert image.pages == 3
    with pytest.raises(InputError, match=r"page 2: lies in more strips .* max_all_segments 11"):
        open_tiff(path, limits=Limits(max_all_segments=11))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_many_segments_of_a_usual_size_are_read(tmp_path: Path, compression: str | None) -> None:
    path, pixels = tmp_path / "a.tif", np.zeros((70_000, 256), np.uint8)
    tifffile.imwrite(path, pixels, compression=compression, rowsperstrip=1, metadata=None)
    with open_tiff(path) as image:
        assert not image.read_rows(0, 69_000, 70_000).any()


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.booleans(),
    st.integers(0, 2), st.randoms(use_true_random=False), st.sampled_from(["u1", "u2", "u8"]),
)  # fmt: skip
def test_segments_in_any_places_give_the_same_pixels(
    tmp_path_factory: pytest.TempPathFactory,
    height: int, width: int, rows: int, columns: int, shuffled: bool, gap: int, random: Any,
    kind: str,
) -> None:  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (height, width)).astype(kind)

    def order(count: int) -> list[int]:
        found = list(range(count))
        for _ in range(2 * shuffled):  # a few out of their place, the others in a row
            one, other = random.randrange(count), random.randrange(count)
            found[one], found[other] = found[other], found[one]
        return found

    path = tmp_path_factory.mktemp("tiles") / "a.tif"
    path.write_bytes(tiled(pixels, rows, columns, order, gap))
    start = random.randrange(height)
    stop = random.randrange(start, height) + 1
    with open_tiff(path) as image:
        np.testing.assert_array_equal(image.read_rows(0, start, stop)[0], pixels[start:stop])
        np.testing.assert_array_equal(image.read_page(0)[0], pixels)
