"""Faults C1 to C15, C17 to C20, C23 and C24: no broken image is read, and none costs anything."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from broken_tiff import deflated, first_page, tiff  # see conftest.py
from PIL import Image

import tiling.segments
from tiling.axes import chosen_description, page_axes
from tiling.faults import InputError
from tiling.images import read_image
from tiling.lzw import sound_stream, without_last_code
from tiling.strict_tiff import Limits, open_tiff, read_stack
from unet2015.augment import deform
from unet2015.deformation import Deformation
from unet2015.info import describe
from unet2015.intensity import blocks_of, measure_scale
from unet2015.stack_files import read_stack_pair

ROOT = Path(__file__).parents[2]
PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)


REMEDY = re.compile(
    r"[;:,(] ?(?:copy|save|convert|split|cut|fetch|export|unpack|take|name|run|pip install|choose|"
    r"close|raise|or \w+)"
)


@contextlib.contextmanager
def cheaply() -> Iterator[None]:
    """At most 5 s of processor time and 256 MB inside the block."""

    def too_long(_signum: int, _frame: object) -> None:
        raise AssertionError("more than 5 s")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, 5)
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert peak < 256e6


def refused(path: Path, content: bytes, match: str) -> None:
    path.write_bytes(content)
    with cheaply(), pytest.raises(InputError, match=match) as caught:
        read_image(path)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)
    assert "\n" not in caught.value.reason
    assert REMEDY.search(caught.value.reason), "a refusal says what to do"


def test_the_unbroken_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for big in (False, True):
        for order in "<>":
            path.write_bytes(tiff(big=big, order=order))
            np.testing.assert_array_equal(read_stack(path)[0], PIXELS)
            np.testing.assert_array_equal(tifffile.imread(path), PIXELS)


# C1 to C8: damage and bombs -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "deflate", "lzw", "tiles", "pages", "big", "png"])
def test_c1_cut_at_any_byte(tmp_path: Path, kind: str) -> None:
    whole, path = tmp_path / "whole", tmp_path / "cut"
    pixels = np.add.outer(np.arange(9), np.arange(7)).astype(np.uint8)
    options: dict[str, Any] = {
        "plain": {}, "deflate": {"compression": "zlib", "rowsperstrip": 4},
        "lzw": {"compression": "lzw"}, "tiles": {"tile": (16, 16)}, "big": {"bigtiff": True},
    }.get(kind, {})  # fmt: skip
    if kind == "lzw":
        pytest.importorskip("imagecodecs")
    if kind == "png":
        Image.fromarray(pixels).save(whole, format="png")
    else:
        stack = np.stack([pixels] * 2) if kind == "pages" else pixels
        tifffile.imwrite(
            whole, stack, photometric="minisblack", metadata=None, software=False, **options
        )
    content, expected = whole.read_bytes(), read_image(whole)
    refusals = 0
    for length in range(len(content)):
        path.write_bytes(content[:length])
        try:
            found = read_image(path)
        except InputError:
            refusals += 1
        else:  # only padding behind the last needed byte may be missing
            np.testing.assert_array_equal(found, expected)
    assert refusals >= len(content) - 16


C2 = {
    "no tags": (struct.pack("<2sHIHI", b"II", 42, 8, 0, 0), "a page with 0 tags"),
    "5000 tags": (struct.pack("<2sHIH", b"II", 42, 8, 5000) + bytes(70000), "5000 tags"),
    "ifd behind the end": (struct.pack("<2sHI", b"II", 42, 9999) + bytes(40), "at byte 9999"),
    "ifd in the header": (struct.pack("<2sHI", b"II", 42, 2) + bytes(40), "at byte 2"),
    "no page": (struct.pack("<2sHI", b"II", 42, 0) + bytes(40), "without a page"),
    "bad field type": (tiff({65000: (1, b"ab")}).replace(
        struct.pack("<HH", 65000, 1), struct.pack("<HH", 65000, 77)), "unknown field type 77"),
    "twice": (tiff({279: (4, 48), 280: (4, 48)}).replace(
        struct.pack("<HH", 280, 4), struct.pack("<HH", 279, 4)), "tag 279 twice"),
    "no width": (tiff({256: None}), "no ImageWidth"),
    "no offsets": (tiff({273: None}), "no StripOffsets"),
    "no sizes": (tiff({279: None}), "no StripByteCounts"),
    "no photometric": (tiff({262: None}), "no PhotometricInterpretation"),
    "zero height": (tiff({257: (4, 0)}), "0 high"),
    "rational width": (tiff({256: (5, 8)}), "ImageWidth has 1 values of field type 5"),
    "two widths": (tiff({256: (3, [8, 8])}), "ImageWidth has 2 values"),
    "two strips promised": (tiff({278: (4, 3)}), "expected 2 unsigned integers"),
    "strip too short": (tiff({279: (4, 47)}), "not as long as their pixels"),
    "strip too long": (tiff({279: (4, 49)}), "not as long as their pixels"),
    "strip in the header": (tiff({273: (4, 2)}), "missing pixel data"),
    "strip of nothing": (tiff({279: (4, 0), 259: (3, 8)}), "missing pixel data"),
    "sparse strip": (tiff({273: (4, 0), 279: (4, 0), 259: (3, 8)}), "missing pixel data"),
    "strip behind the end": (tiff({273: (4, 10**6)}), "cut off"),
    "offset near 2^64": (tiff({273: (16, 2**64 - 16)}, big=True), "cut off"),
    "rows per strip 0": (tiff({278: (4, 0)}), "segments of 8 x 0"),
    "tile of 0": (tiff({322: (4, 0), 323: (4, 16), 324: (4, 16), 325: (4, 48)}), "segments of 0"),
    "3 bits": (tiff({258: (3, 3)}), "3 bits"),
    "bits differ": (tiff({258: (3, [8, 16, 8]), 277: (3, 3), 262: (3, 2)}), "differs"),
    "void format": (tiff({339: (3, 4)}), "sample format 4"),
    "complex": (tiff({339: (3, 6), 258: (3, 64)}), "sample format 6"),
    "2 samples": (tiff({277: (3, 2)}), "2 samples per pixel"),
    "planar 3": (tiff({284: (3, 3)}), "planar configuration 3"),
    "predictor 2 on floats": (tiff({317: (3, 2), 339: (3, 3), 258: (3, 32), 259: (3, 8)}),
                              "predictor 2"),
    "predictor 3 on integers": (tiff({317: (3, 3), 259: (3, 8)}), "predictor 3"),
    "predictor without compression": (tiff({317: (3, 2)}), "predictor 2"),
    "predictor 9": (tiff({317: (3, 9), 259: (3, 8)}), "predictor 9"),
    "fill order 2": (tiff({266: (3, 2)}), "fill order 2"),
    "image depth": (tiff({32997: (4, 3)}), "image depth 3"),
    "deflate of too little": (tiff({259: (3, 8)}, data=zlib.compress(bytes(47))), "too early"),
    "deflate of too much": (tiff({259: (3, 8)}, data=zlib.compress(bytes(49))), "more than"),
    "deflate without its end": (tiff({259: (3, 8)}, data=zlib.compress(bytes(48))[:-3]), "no end"),
    "deflate with a wrong sum": (tiff({259: (3, 8)}, data=zlib.compress(bytes(48))[:-1] + b"\x07"),
                                 "cannot be decoded"),
    "no deflate at all": (tiff({259: (3, 8)}, data=b"\xfe" * 40), "cannot be decoded"),
    "bigtiff of 4-byte offsets": (struct.pack("<2sHHHQ", b"II", 43, 4, 0, 16), "have 4 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", C2)
def test_c2_corrupt_directory(tmp_path: Path, name: str) -> None:
    content, match = C2[name]
    refused(tmp_path / "a.tif", content, match)


@pytest.mark.parametrize("codec", ["lzw", "packbits", "zstd"])
def test_c2_garbage_in_other_codecs(tmp_path: Path, codec: str) -> None:
    pytest.importorskip("imagecodecs")
    number = {"lzw": 5, "packbits": 32773, "zstd": 50000}[codec]
    for junk in (b"\xfe" * 40, b"\0" * 9, b"\x80", bytes(range(200, 256))):
        refused(tmp_path / "a.tif", tiff({259: (3, number)}, data=junk), "damaged")


@pytest.mark.parametrize(
    "stream",
    [
        "805b20503824",  # Clear 364: crashes the process inside imagecodecs 2026.3.6
        "8048", "80", "8000", "0001", "ffff", "80402010080402", "804060", "80203fffffff",
    ],
)  # fmt: skip
def test_c2_lzw_codes_outside_the_table_never_reach_the_decoder(
    tmp_path: Path, stream: str
) -> None:
    pytest.importorskip("imagecodecs")
    for tail in (b"", b"\x50\x38\x24" * 40):
        content = tiff({259: (3, 5)}, data=bytes.fromhex(stream) + tail)
        refused(tmp_path / "a.tif", content, "LZW")


def test_c2_lzw_mutants_never_crash_the_decoder() -> None:
    """imagecodecs 2026.3.6 by itself crashes within some ten thousand of these."""
    imagecodecs = pytest.importorskip("imagecodecs")
    rng = np.random.default_rng(5)
    plain = [bytes(5000), rng.integers(0, 255, 9000, dtype=np.uint8).tobytes()]
    for content in plain:
        stream = imagecodecs.lzw_encode(content)
        assert sound_stream(stream, len(content)) == stream
        for _ in range(3000):
            mutant = bytearray(stream)
            for place in rng.integers(0, len(stream), 2):
                mutant[place] = rng.integers(256)
            sound = sound_stream(bytes(mutant), len(content))
            assert len(imagecodecs.lzw_decode(sound, out=len(content))) <= len(content)


def test_c2_lzw_that_only_clears_ends_soon() -> None:
    clear = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0], np.uint8)
    stream = np.packbits(np.tile(clear, 500_000))
    assert len(sound_stream(stream.tobytes(), 1000)) < 100


@pytest.mark.parametrize("codes", [1, 40, 253, 254, 255, 300, 900])
def test_c2_lzw_that_clears_its_table_early_is_read(tmp_path: Path, codes: int) -> None:
    """Codes 0 to 255 alone, with a Clear after every so many of them."""
    pixels = np.random.default_rng(codes).integers(0, 256, (64, 64), np.uint8)
    bits, number = ["100000000"], 0
    for value in pixels.ravel().tolist():
        if number == codes:
            bits.append(f"{256:0{lzw_width(number)}b}")
            number = 0
        bits.append(f"{value:0{lzw_width(number)}b}")
        number += 1
    bits.append(f"{257:0{lzw_width(number)}b}")
    stream = np.packbits(np.array(list("".join(bits)), np.uint8)).tobytes()
    assert sound_stream(stream, pixels.size) == stream
    if codes == 40:
        pytest.importorskip("imagecodecs")
        size = {256: (4, 64), 257: (4, 64), 278: (4, 64), 259: (3, 5)}
        (tmp_path / "a.tif").write_bytes(tiff(size, data=stream))
        np.testing.assert_array_equal(read_stack(tmp_path / "a.tif")[0], pixels)
        at = 2000  # a wild code among short tables: nothing behind it is sound
        while "".join(bits[: at + 1]).endswith("100000000"):
            at += 1
        bits[at] = "1" * 9
        wild = np.packbits(np.array(list("".join(bits)), np.uint8)).tobytes()
        sound = "".join([*bits[:at], f"{257:0{len(bits[at])}b}"])
        assert sound_stream(wild, pixels.size)[: len(sound) + 7 >> 3] == packed(sound)


def test_c2_lzw_in_the_bit_order_of_long_ago_is_named(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    codes = [256, *range(64), 257]
    bits = "".join(f"{code:09b}"[::-1] for code in codes)  # the least significant bit first
    stream = np.packbits(np.array(list(bits), np.uint8), bitorder="little").tobytes()
    size = {256: (4, 8), 257: (4, 8), 278: (4, 8), 259: (3, 5)}
    assert stream[0] == 0
    refused(tmp_path / "a.tif", tiff(size, data=stream), "bit order of before TIFF 6.*save it anew")


def test_c1_lzw_without_its_end_code_is_read_whole_or_refused(tmp_path: Path) -> None:
    """imagecodecs by itself loses bits of the last pixel, wherever the last byte ends."""
    pytest.importorskip("imagecodecs")
    rng = np.random.default_rng(3)
    for count in [*range(1, 40), *range(248, 262), *range(760, 772)]:
        pixels = rng.integers(0, 256, count, np.uint8)
        codes = [256, *pixels.tolist()]
        bits = "".join(f"{c:0{lzw_width(max(k - 1, 0))}b}" for k, c in enumerate(codes))
        size = {256: (4, count), 257: (4, 1), 278: (4, 1), 259: (3, 5)}
        (tmp_path / "a.tif").write_bytes(tiff(size, data=packed(bits)))
        np.testing.assert_array_equal(read_stack(tmp_path / "a.tif")[0, 0], pixels)
        refused(tmp_path / "b.tif", tiff(size, data=packed(bits)[:-1]), "LZW")


def test_c1_lzw_with_more_than_its_pixels_is_refused(tmp_path: Path) -> None:
    """A damaged width shears the image; only the last code may hold bytes beyond the pixels."""
    imagecodecs = pytest.importorskip("imagecodecs")
    stream = imagecodecs.lzw_encode(bytes([7]) * 10)  # codes of 1, 2, 3 and 4 bytes
    for width in range(1, 13):
        size = {256: (4, width), 257: (4, 1), 278: (4, 1), 259: (3, 5)}
        (tmp_path / "a.tif").write_bytes(tiff(size, data=stream))
        if 6 <= width <= 10:
            np.testing.assert_array_equal(read_stack(tmp_path / "a.tif"), np.full((1, 1, width), 7))
        else:
            count = f"more than {width}" if width < 6 else "10"
            reason = f"a LZW segment has {count} bytes, its pixels need {width}"
            refused(tmp_path / "a.tif", tiff(size, data=stream), reason)


@pytest.mark.parametrize("codes", [1, 40, 253, 254, 300, 900])
def test_c1_the_last_code_of_lzw_is_found_behind_any_tables(codes: int) -> None:
    for count in (1, 2, 39, 40, 41, 254, 255, 600, 1801, 5000):
        bits, number = ["100000000"], 0
        for value in np.random.default_rng(count).integers(0, 256, count).tolist():
            if number == codes:
                bits.append(f"{256:0{lzw_width(number)}b}")
                number = 0
            bits.append(f"{value:0{lzw_width(number)}b}")
            number += 1
        whole = packed("".join([*bits, f"{257:0{lzw_width(number)}b}"]))
        shorter = packed("".join([*bits[:-1], f"{257:0{lzw_width(number - 1)}b}"]))
        assert without_last_code(whole, count)[: len(shorter)] == shorter, count


def packed(bits: str) -> bytes:
    return np.packbits(np.array(list(bits), np.uint8)).tobytes()


def lzw_width(number: int) -> int:
    """Bits of code `number` after a Clear."""
    return 9 if number < 254 else 10 if number < 766 else 11


def test_c3_cycle_of_one_page(tmp_path: Path) -> None:
    start = first_page(tiff())
    refused(tmp_path / "a.tif", tiff(next_page=start), "page 1: is damaged: its pages form a cycle")


def test_c3_cycle_of_several_pages(tmp_path: Path) -> None:
    start = first_page(tiff())
    refused(tmp_path / "a.tif", tiff({}, {}, {}, next_page=start), "page 3: .* cycle")


def test_c3_cycle_by_a_sub_directory_is_never_entered(tmp_path: Path) -> None:
    start = first_page(tiff())
    (tmp_path / "a.tif").write_bytes(tiff({330: (4, start), 34665: (13, start)}))
    with cheaply():
        np.testing.assert_array_equal(read_stack(tmp_path / "a.tif")[0], PIXELS)


def test_c3_too_many_pages(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((12, 4, 4), np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match=r"more than 11 pages \(max_pages\)"):
        open_tiff(tmp_path / "a.tif", limits=Limits(max_pages=11))
    read_stack(tmp_path / "a.tif", limits=Limits(max_pages=12))


@pytest.mark.parametrize("number", [270, 273, 279, 258, 305, 65000])
@pytest.mark.parametrize("count", [2**32 - 1, 2**31, 10**6])
def test_c4_tag_bomb(tmp_path: Path, number: int, count: int) -> None:
    content = bytearray(tiff({270: (2, b"hello wide world"), 305: (2, b"x" * 9), 65000: (1, b"y")}))
    entry = content.index(struct.pack("<H", number), first_page(bytes(content)))
    struct.pack_into("<I", content, entry + 4, count)
    refused(tmp_path / "a.tif", bytes(content), f"tag {number} has")


@pytest.mark.parametrize(
    ("width", "height"), [(10**9, 10**9), (2**32 - 1, 2**32 - 1), (10**6, 10**5), (60000, 60000)]
)
@pytest.mark.parametrize("compression", [1, 8, 5])
def test_c5_claimed_size(tmp_path: Path, width: int, height: int, compression: int) -> None:
    tags: dict[int, Any] = {256: (4, width), 257: (4, height), 278: (4, height),
                            259: (3, compression)}  # fmt: skip
    refused(tmp_path / "a.tif", tiff(tags), "max_pixels|not as long|max_ratio")


def test_c6_ratio_bomb(tmp_path: Path) -> None:
    side = 8000
    data = zlib.compress(zlib.compress(bytes(side * side), 9), 9)  # far smaller than any honest one
    tags: dict[int, Any] = {256: (4, side), 257: (4, side), 278: (4, side), 259: (3, 8)}
    refused(tmp_path / "a.tif", tiff(tags, data=data), "times its size, above max_ratio 1100")


def test_c6_the_limit_can_be_lowered_and_raised(tmp_path: Path) -> None:
    side = 5000
    tags: dict[int, Any] = {256: (4, side), 257: (4, side), 278: (4, side), 259: (3, 8)}
    (tmp_path / "a.tif").write_bytes(tiff(tags, data=deflated(side * side)))
    with cheaply(), open_tiff(tmp_path / "a.tif") as image:
        assert not image.read_rows(0, 4990, 5000).any()
    with pytest.raises(InputError, match="max_ratio 500"):
        open_tiff(tmp_path / "a.tif", limits=Limits(max_ratio=500))


def test_c7_small_image_with_a_giant_tile(tmp_path: Path) -> None:
    tags: dict[int, Any] = {322: (4, 16384), 323: (4, 16384), 324: (4, 16), 259: (3, 8)}
    data = deflated(1 << 28)
    content = tiff({**tags, 325: (4, len(data))}, data=data)
    refused(tmp_path / "a.tif", content, "segments of 268435456 bytes in a page of 48 bytes")


def test_c7_many_pixels_each_in_a_large_tile(tmp_path: Path) -> None:
    tile = deflated(1 << 24)
    one: dict[int, Any] = {256: (4, 1), 257: (4, 1), 322: (4, 4096), 323: (4, 4096), 259: (3, 8)}
    pages = [
        {**one, 324: (4, 16 + k * len(tile)), 325: (4, len(tile))} for k in range(17)
    ]  # fmt: skip
    (tmp_path / "a.tif").write_bytes(tiff(*pages[:16], data=tile * 16))
    with open_tiff(tmp_path / "a.tif") as image:
        assert image.pages == 16
    content = tiff(*pages, data=tile * 17)
    refused(tmp_path / "a.tif", content, "285212672 bytes in its tiles but 17 bytes of pixels")


def test_c3_pixels_cannot_lie_in_the_header_of_a_bigtiff(tmp_path: Path) -> None:
    refused(tmp_path / "a.tif", tiff({273: (4, 8)}, big=True), "missing pixel data")
    (tmp_path / "a.tif").write_bytes(tiff({273: (4, 8)}))  # where it is padding in a classic one
    with open_tiff(tmp_path / "a.tif") as image:
        assert image.pages == 1


def test_c7_many_pages_none_of_which_is_a_bomb_by_itself(tmp_path: Path) -> None:
    side = 4096
    page = pytest.importorskip("imagecodecs").zstd_encode(bytes(side * side))
    one: dict[int, Any] = {256: (4, side), 257: (4, side), 278: (4, side), 259: (3, 50000)}
    pages = [{**one, 273: (4, 16 + k * len(page)), 279: (4, len(page))} for k in range(17)]
    (tmp_path / "a.tif").write_bytes(tiff(*pages[:16], data=page * 16))
    with open_tiff(tmp_path / "a.tif") as image:
        assert image.pages == 16
    refused(tmp_path / "a.tif", tiff(*pages, data=page * 17), "above max_ratio 1100")


def test_c7_small_strip_that_inflates_to_gigabytes(tmp_path: Path) -> None:
    refused(tmp_path / "a.tif", tiff({259: (3, 8)}, data=deflated(1 << 28)), "more than its pixels")


def test_c7_small_image_with_a_giant_plain_tile(tmp_path: Path) -> None:
    side = 1 << 26
    tags: dict[int, Any] = {256: (4, 1), 257: (4, 1), 322: (4, side), 323: (4, 1),
                            324: (4, 4096), 325: (4, side)}  # fmt: skip
    (tmp_path / "a.tif").write_bytes(tiff(tags))
    os.truncate(tmp_path / "a.tif", side + 4096)
    with cheaply(), pytest.raises(InputError, match=f"segments of {side} bytes in a page of 1 "):
        open_tiff(tmp_path / "a.tif")


def test_c8_shared_segments(tmp_path: Path) -> None:
    rows: dict[int, Any] = {278: (4, 3), 279: (4, [24, 24])}
    path = tmp_path / "a.tif"
    refused(path, tiff({**rows, 273: (4, [16, 16])}), "share the same bytes")
    refused(path, tiff({**rows, 273: (4, [16, 20])}), "share the same bytes")
    refused(path, tiff({}, {}), "pages share their pixel data")
    partly: dict[int, Any] = {273: (4, 40), 279: (4, 48)}
    refused(path, tiff({279: (4, 48)}, partly, data=bytes(96)), "page 1: is damaged: pages share")
    path.write_bytes(tiff({**rows, 273: (4, [40, 16])}))  # any order is fine
    np.testing.assert_array_equal(read_stack(path)[0], np.roll(PIXELS, 3, axis=0))


def test_c8_pixels_over_a_directory(tmp_path: Path) -> None:
    for start in (first_page(tiff()) - 40, first_page(tiff()) + 8):
        content = tiff({273: (4, start)})
        refused(tmp_path / "a.tif", content, "pixels lie over the directory of page 0")
    promise = {270: (2, b"ImageJ=1.54f\nimages=2\nslices=2\n\0")}
    refused(tmp_path / "a.tif", tiff(promise), "promises 2 images .* bytes for 1: it is cut off")


# C9 to C14: what is converted and what is refused -------------------------------------------


@pytest.mark.parametrize(
    ("number", "name"), [(2, "CCITT"), (6, "old JPEG"), (7, "JPEG"), (33005, "JPEG 2000"),
                         (34887, "LERC"), (50001, "WebP"), (50002, "JPEG XL"), (99, "number 99")]
)  # fmt: skip
def test_c9_other_compressions_are_named(tmp_path: Path, number: int, name: str) -> None:
    refused(tmp_path / "a.tif", tiff({259: (3, number)}), f"compressed with {name}; save it with")


WITHOUT_IMAGECODECS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "imagecodecs":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from tiling.images import read_image
from tiling.faults import InputError
for path in sys.argv[1:]:
    try:
        print(read_image(path).sum())
    except InputError as error:
        print(error.reason)
"""


def test_c9_without_imagecodecs_the_codec_and_the_remedy_are_named(tmp_path: Path) -> None:
    paths = []
    for number in (5, 50000, 8):
        paths.append(tmp_path / f"{number}.tif")
        paths[-1].write_bytes(tiff({259: (3, number)}, data=zlib.compress(PIXELS.tobytes())))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_IMAGECODECS, *paths],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lzw, zstd, deflate = done.stdout.splitlines()
    assert lzw == (
        "is compressed with LZW, which needs the package imagecodecs: pip install imagecodecs"
    )
    assert zstd == lzw.replace("LZW", "zstd")
    assert deflate == str(PIXELS.sum())


def test_c10_planar_and_chunky_colour_are_the_same_pixels(tmp_path: Path) -> None:
    pixels = np.arange(3 * 20, dtype=np.uint8).reshape(3, 4, 5)
    tifffile.imwrite(tmp_path / "p.tif", pixels, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "c.tif", np.moveaxis(pixels, 0, 2), photometric="rgb")
    for name, planar in (("p.tif", True), ("c.tif", False)):
        np.testing.assert_array_equal(read_stack(tmp_path / name), pixels[None])
        with open_tiff(tmp_path / name) as image:
            assert image.planar is planar


def test_c11_palette(tmp_path: Path) -> None:
    tags: dict[int, Any] = {262: (3, 3), 320: (3, list(range(768)))}
    refused(tmp_path / "a.tif", tiff(tags), "stores palette colours; convert it")
    Image.fromarray(PIXELS).convert("P").save(tmp_path / "a.png")
    refused(tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), "8-bit palette")


@pytest.mark.parametrize(
    ("number", "name"), [(4, "mask"), (5, "CMYK"), (6, "YCbCr"), (8, "CIELab")]
)
def test_c11_other_colours(tmp_path: Path, number: int, name: str) -> None:
    refused(tmp_path / "a.tif", tiff({262: (3, number)}), f"stores .*{name}")


def test_c12_min_is_white_is_inverted_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff({262: (3, 0)}))
    np.testing.assert_array_equal(read_stack(path)[0], 255 - PIXELS)
    refused(path, tiff({262: (3, 0), 339: (3, 2)}), "MinIsWhite with signed")


@pytest.mark.parametrize("orientation", [0, 2, 3, 6, 8])
def test_c13_orientation(tmp_path: Path, orientation: int) -> None:
    refused(tmp_path / "a.tif", tiff({274: (3, orientation)}), f"has orientation {orientation}")


@pytest.mark.parametrize(
    ("change", "name"), [({256: (4, 6), 257: (4, 8), 278: (4, 8)}, "width"),
                         ({258: (3, 16), 256: (4, 4)}, "width"), ({339: (3, 2)}, "kind"),
                         ({262: (3, 0)}, "photometric")]
)  # fmt: skip
def test_c14_mixed_pages(tmp_path: Path, change: dict[int, Any], name: str) -> None:
    content = bytes(48) + bytes(48)
    pages = ({279: (4, 48)}, {273: (4, 64), 279: (4, 48)})
    (tmp_path / "a.tif").write_bytes(tiff(*pages, data=content))
    assert read_stack(tmp_path / "a.tif").shape == (2, 6, 8)
    mixed = tiff(pages[0], {**pages[1], **change}, data=content)
    refused(tmp_path / "a.tif", mixed, f"page 1: has {name} .* but the first page has")


# C15, C17 to C20 ----------------------------------------------------------------------------


SMALLER = {256: (4, 4), 257: (4, 3), 278: (4, 3), 273: (4, 112), 279: (4, 12)}
SECOND = {273: (4, 64), 279: (4, 48)}
TWO_AND_A_COPY = {"data": bytes(range(48)) * 2 + bytes(12)}


def outcome(path: Path) -> Any:
    try:
        return read_stack(path).tolist()
    except InputError as error:
        return str(error)


def test_c8_many_small_pages_are_checked_at_once_as_they_are_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rng = tmp_path / "a.tif", np.random.default_rng(0)
    packed, seen = zlib.compress(bytes(48), 0), set()
    places = [0, 8, 16, 64, 112, 113, 500, 2**31, 2**32 - 1]
    for compression in (1, 8):
        data = bytes(144) if compression == 1 else packed * 3
        size = len(data) // 3
        for number in range(120):
            pages: list[dict[int, Any]] = [
                {259: (3, compression), 273: (4, 16 + size * k), 279: (4, size)} for k in range(3)
            ]
            for _ in range(number % 3):
                tag = int(rng.choice([273, 279]))
                value = int(rng.choice([*places, 1, size, size + 1]))
                pages[int(rng.integers(3))][tag] = (4, value)
            path.write_bytes(tiff(*pages, data=data))
            found = outcome(path)
            with monkeypatch.context() as patch:
                patch.setattr(tiling.segments, "_sound_strips", lambda *_: None)
                assert outcome(path) == found
            seen.add(found.partition(": ")[2][:30] if isinstance(found, str) else "read")
    assert len(seen) > 4


@pytest.mark.parametrize(
    "tag", [{254: (4, 1)}, {254: (3, 1)}, {254: (4, 3)}, {254: (4, 9)}, {255: (3, 2)}]
)
def test_c14_smaller_copies_among_the_pages_are_no_slices(
    tmp_path: Path, tag: dict[int, Any]
) -> None:
    first = {273: (4, 16), 279: (4, 48)}
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(first, SMALLER | tag, SECOND | {254: (4, 2)}, **TWO_AND_A_COPY))
    np.testing.assert_array_equal(read_stack(path), [PIXELS, PIXELS])
    damaged = tiff(first, SMALLER | tag, SECOND | {279: (4, 47)}, **TWO_AND_A_COPY)
    refused(path, damaged, "page 2: is damaged")
    refused(path, tiff(first, SMALLER, **TWO_AND_A_COPY), "page 1: has width 4")


@pytest.mark.parametrize(
    ("tags", "match"),
    [
        ({254: (4, 1)}, r"page 1: is said to be a smaller copy .* 8 x 6 .*; save"),
        ({255: (3, 2)}, r"page 1: is said to be a smaller copy .*; save"),
        ({254: (4, 1), 256: (4, 9)}, r"page 1: is said to be a smaller copy .* 9 x 6 "),
        ({254: (4, 4)}, r"page 1: is the transparency mask of another page .*; save"),
        ({254: (4, 8)}, r"page 1: is the depth map of another page .*; save"),
        ({254: (4, 5)}, r"page 1: is the transparency mask of another page .*; save"),
        ({254: (4, [1, 1])}, r"page 1: NewSubfileType has 2 values"),
    ],
)
def test_c14_a_mask_or_a_copy_of_equal_size_is_not_taken_for_a_slice(
    tmp_path: Path, tags: dict[int, Any], match: str
) -> None:
    first = {273: (4, 16), 279: (4, 48)}
    refused(tmp_path / "a.tif", tiff(first, SECOND | tags, **TWO_AND_A_COPY), match)


def test_c1_images_behind_a_directory_are_not_looked_for_among_copies(tmp_path: Path) -> None:
    first = {273: (4, 16), 279: (4, 48), 270: (2, b"ImageJ=1.54f\nimages=2\nslices=2\n\0")}
    content = tiff(first, SMALLER | {254: (4, 1)}, **TWO_AND_A_COPY)
    refused(tmp_path / "a.tif", content, "promises 2 images but there are 1 pages; save it again")


def test_c14_a_level_of_a_pyramid_that_stands_alone_is_read(tmp_path: Path) -> None:
    path, first = tmp_path / "a.tif", {273: (4, 16), 279: (4, 48), 254: (4, 1)}
    path.write_bytes(tiff(first, SECOND | {254: (4, 1)}, **TWO_AND_A_COPY))
    np.testing.assert_array_equal(read_stack(path), [PIXELS, PIXELS])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_c15_nan_and_inf_are_counted_and_placed(bad: float, dtype: type) -> None:
    pixels = np.zeros((5, 6), dtype)
    pixels[2, 3] = pixels[4, 0] = bad
    with pytest.raises(ValueError, match=r"2 NaN .* row 2, column 3; .*\(--nan-to X\)"):
        measure_scale("none", pixels.dtype, lambda: blocks_of([pixels]))
    scale = measure_scale("none", pixels.dtype, lambda: blocks_of([pixels]), nan_to=0.5)
    assert (scale(pixels[None]) == 0.5).sum() == 2
    assert not np.isfinite(pixels).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (99, 101), (1, 50_000), (50_000, 1)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_c17_to_c20_odd_shapes_come_out_right(
    tmp_path: Path, shape: tuple[int, int], compression: str | None
) -> None:
    pixels = (np.arange(shape[0] * shape[1]) % 65521).astype(np.uint16).reshape(shape)
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression)
    with cheaply(), open_tiff(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(image.read_page(0)[0], pixels)


# C23, C24: no files at all ------------------------------------------------------------------


def test_c23_no_ordinary_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "folder.tif").mkdir()
    for path, match in (
        (tmp_path / "pipe.tif", "pipe or device"),
        (tmp_path / "folder.tif", "is a folder"),
        (Path("/dev/zero"), "pipe or device"),
        (Path("/dev/null"), "pipe or device"),
        (tmp_path / "none.tif", "No such file"),
        (tmp_path / "folder.tif" / "none.tif", "No such file"),
    ):
        for reader in (read_image, read_stack, open_tiff):
            with cheaply(), pytest.raises(InputError, match=match):
                reader(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"), (b"I", "not a TIFF"), (b"II*\0", "cut off in its h"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"), (b"\x1f\x8b\x08\0", "gzip"),
        (b"PK\x03\x04\0\0", "zip"), (b"\x89PNG\r\n\x1a\n", "cut off"), (b"\x89PNG", "PNG"),
        (b"GIF89a", "GIF"), (b"II*\0" + bytes(4), "without a page"),
    ],
)  # fmt: skip
def test_c23_other_content_named_tif(tmp_path: Path, content: bytes, match: str) -> None:
    refused(tmp_path / "a.tif", content, match)


def test_c24_a_foreign_file_named_in_the_metadata_is_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret.tif"
    tifffile.imwrite(secret, PIXELS)
    ome = (
        '<?xml version="1.0"?><!DOCTYPE x SYSTEM "secret.tif"><OME><Image><Pixels '
        'DimensionOrder="XYZCT" SizeX="8" SizeY="6" SizeZ="2" SizeC="1" SizeT="1" Type="uint8">'
        '<TiffData IFD="0"/><TiffData FirstZ="1"><UUID FileName="secret.tif">urn:uuid:1</UUID>'
        "</TiffData></Pixels></Image></OME>"
    )
    path = tmp_path / "a.ome.tif"
    path.write_bytes(tiff({270: (2, ome.encode() + b"\0")}))
    opened: list[str] = []
    real = os.open

    def watched(name: Any, *args: Any, **options: Any) -> int:
        opened.append(os.fsdecode(name))
        return real(name, *args, **options)

    monkeypatch.setattr(os, "open", watched)
    with open_tiff(path) as image:
        assert (image.pages, image.axes) == (1, "YX")
        image.read_page(0)
    assert opened == [str(path)]


# Planes that the directories alone do not tell ----------------------------------------------


def ome(tiff_data: str, *, pages: int = 2, sizes: str = 'SizeC="2" SizeZ="1"') -> bytes:
    """An OME-TIFF whose page k has the value k everywhere."""
    return described(
        '<?xml version="1.0"?><!-- <Pixels DimensionOrder="XYZCT" SizeZ="9"> --><OME><Image><Pixels'
        f' DimensionOrder="XYCZT" {sizes} SizeT="1"><Channel Name="DAPI"/><Channel Name="GFP"/>'
        f"{tiff_data}</Pixels></Image></OME>",
        pages,
    )


def described(text: str, pages: int) -> bytes:
    """A TIFF whose page k has the value k everywhere."""
    data = b"".join(bytes([page]) * 48 for page in range(pages))
    places = [{273: (4, 16 + 48 * page), 279: (4, 48)} for page in range(pages)]
    first = places[0] | {270: (2, text.encode() + b"\0")}
    return tiff(first, *places[1:], data=data)


def order_of_pages(path: Path) -> tuple[str, list[int]]:
    with open_tiff(path) as image:
        return image.axes, [int(image.read_page(page).max()) for page in range(image.pages)]


NAMED = '<UUID FileName="{}">urn:uuid:{}</UUID>'
SWAPPED = '<TiffData IFD="1" FirstC="0">{}</TiffData><TiffData IFD="0" FirstC="1">{}</TiffData>'


@pytest.mark.parametrize(
    ("tiff_data", "sizes", "axes", "order"),
    [
        ("", "CZ 21", "CYX", [0, 1]),
        ("<TiffData/>", "CZ 21", "CYX", [0, 1]),
        ('<TiffData IFD="0" PlaneCount="2"/>', "CZ 21", "CYX", [0, 1]),
        (SWAPPED.format("", ""), "CZ 21", "CYX", [1, 0]),
        (SWAPPED.format(*[NAMED.format("renamed.tif", 1)] * 2), "CZ 21", "CYX", [1, 0]),
        ('<TiffData IFD="2" FirstZ="0" PlaneCount="2"/><TiffData IFD="0" FirstZ="1" '
         'PlaneCount="2"/>', "CZ 22", "ZCYX", [2, 3, 0, 1]),
        # parts of a set of files: nothing is known of these pages
        (SWAPPED.format(NAMED.format("a", 1), NAMED.format("b", 2)), "CZ 21", "IYX", [0, 1]),
        ('<TiffData FirstC="1" PlaneCount="2">' + NAMED.format("a.tif", 1) + "</TiffData>", "CZ 23",
         "IYX", [0, 1]),
        ("<TiffData/>", "CZ 11", "IYX", [0, 1]),  # more pages than the first image has
    ],
)  # fmt: skip
def test_c24_ome_says_which_page_is_which_plane(
    tmp_path: Path, tiff_data: str, sizes: str, axes: str, order: list[int]
) -> None:
    c, z = sizes[-2:]
    content = ome(tiff_data, pages=len(order), sizes=f'SizeC="{c}" SizeZ="{z}"')
    (tmp_path / "a.ome.tif").write_bytes(content)
    assert order_of_pages(tmp_path / "a.ome.tif") == (axes, order)


@pytest.mark.parametrize(
    ("tiff_data", "match"),
    [
        ('<TiffData IFD="0"/>', "give no page to 1 of 2 planes"),
        ('<TiffData IFD="0"/><TiffData IFD="0" FirstC="1"/>', "one page to two planes"),
        ('<TiffData IFD="0"/><TiffData IFD="1"/>', "give no page to 1 of 2"),
        ('<TiffData IFD="0"/><TiffData IFD="2" FirstC="1"/>', "beyond the 2"),
        ('<TiffData IFD="0" FirstC="2"/>', "name C 2, but SizeC is 2"),
        ('<TiffData IFD="-1" PlaneCount="2"/>', "say IFD='-1', which is no number"),
        ('<TiffData IFD="4294967296" PlaneCount="2"/>', "say IFD='4294967296', which is no number"),
        ('<TiffData IFD="0" PlaneCount="+2"/>', r"say PlaneCount='\+2', which is no number"),
        ('<TiffData IFD="0" FirstC="one"/>', "say FirstC='one', which is no number"),
        ("<TiffData/>" * 30_000, "name 60000 planes of 2"),
    ],
)
def test_c24_ome_that_contradicts_itself(tmp_path: Path, tiff_data: str, match: str) -> None:
    refused(tmp_path / "a.ome.tif", ome(tiff_data), match)


def reversed_ome(prefix: str = "", size: str = "3", attribute: str = "", declared: str = "") -> str:
    """OME-XML of three planes that lie in the pages in reversed order."""
    blocks = "".join(
        f'<{prefix}TiffData IFD="{2 - z}" FirstZ="{z}" PlaneCount="1" {attribute}/>'
        for z in range(3)
    )
    return (
        f"{declared}<{prefix}OME><{prefix}Image><{prefix}Pixels {attribute} "
        f'DimensionOrder="XYZCT" SizeZ="{size}" SizeC="1" SizeT="1">{blocks}'
        f"</{prefix}Pixels ></{prefix}Image></{prefix}OME>"
    )


@pytest.mark.parametrize("declared", ['<?xml version="1.0"?>\n', "", "<!-- by hand -->\n"])
@pytest.mark.parametrize(
    "prefix", ["", "ome:", "o-me:", "o.me:", "ome-xml:", "a" * 21 + ":", "b" * 300 + ":", "é:"]
)
def test_c24_ome_of_any_namespace_prefix_is_understood(
    tmp_path: Path, prefix: str, declared: str
) -> None:
    path = tmp_path / "a.ome.tif"
    path.write_bytes(described(reversed_ome(prefix, declared=declared), pages=3))
    assert order_of_pages(path) == ("ZYX", [2, 1, 0])


@pytest.mark.parametrize("size", ["3", "+3", " +3 ", "003", "0" * 30 + "3"])
@pytest.mark.parametrize(
    "attribute",
    ["", f'Note="{"x" * 1100}"', f"{'n' * 100}='{'x' * 3000}'", "Note=' SizeZ=\"1\" a>b '",
     f"Note='{'x' * 1100} IFD=\"0\" SizeZ=\"1\" '", " " * 5000],
    ids=["plain", "long value", "long name", "quoted", "long quoted", "blanks"],
)  # fmt: skip
def test_c24_ome_of_any_length_and_legal_size_is_understood(
    tmp_path: Path, size: str, attribute: str
) -> None:
    path = tmp_path / "a.ome.tif"
    path.write_bytes(described(reversed_ome(size=size, attribute=attribute), pages=3))
    assert order_of_pages(path) == ("ZYX", [2, 1, 0])
    only_blocks = reversed_ome().replace("<TiffData", "<o.me-xml:TiffData")
    path.write_bytes(described(only_blocks, pages=3))
    assert order_of_pages(path) == ("ZYX", [2, 1, 0])


def test_c24_tiff_data_without_an_end_is_refused(tmp_path: Path) -> None:
    text = reversed_ome().replace('IFD="1"', 'IFD="1')
    refused(tmp_path / "a.tif", described(text, pages=3), "TiffData cannot be read .*export it")


HOSTILE = [
    "<", "<a:", "<Pixels ", '<TiffData a="', "<TiffData>", '<TiffData IFD="9"/>', "<UUID a='", "a ",
    "<TiffData><UUID ", "<TiffData>" + " " * 40, "<StructuredAnnotations ", '"', "a=", 'a="', " ",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_c24_no_ome_takes_long_to_understand(piece: str) -> None:
    many = piece * ((1 << 18) // len(piece))
    for start in ("<OME ", '<OME><Pixels DimensionOrder="XYZCT">', "<OME><Pixels><TiffData "):
        with cheaply():
            chosen_description([start + many, "ImageJ="])
            page_axes(start + many, 1)


@pytest.mark.parametrize("tiff_data", ["", "<TiffData/>", '<TiffData IFD="0" PlaneCount="10"/>'])
def test_c1_ome_that_promises_more_planes_than_pages(tmp_path: Path, tiff_data: str) -> None:
    content = ome(tiff_data, pages=7, sizes='SizeC="2" SizeZ="5"')
    refused(tmp_path / "a.ome.tif", content, r"cut off.*10 planes \(C 2 x Z 5 x T 1\).*7 pages")
    content = ome(tiff_data, pages=7, sizes='SizeC="2" SizeZ="1000000000000"')
    refused(tmp_path / "a.ome.tif", content, "cut off.*2000000000000 planes")


def images(*tiff_data: str, root: str = "", end: str = "</OME>") -> str:
    """OME-XML of images of three planes each."""
    pixels = '<Image><Pixels DimensionOrder="XYCZT" SizeZ="3" SizeC="1" SizeT="1">'
    return f"<OME {root}>" + "".join(f"{pixels}{t}</Pixels></Image>" for t in tiff_data) + end


BLOCK = '<TiffData IFD="{}" PlaneCount="3"/>'
IN_FILE = '<TiffData IFD="{}" PlaneCount="3"><UUID FileName="{}">{}</UUID></TiffData>'
OWN = 'UUID="urn:uuid:own"'


def read_up_to(text: str) -> str:
    """OME-XML of which the part before the bar is read: as much as is read of any text."""
    filler = "x" * ((1 << 20) - text.index("|") - len("<!---->"))
    return f"<!--{filler}-->{text.replace('|', '')}"


CUT_BEHIND_THE_FIRST = {
    "two": images(BLOCK.format(0), BLOCK.format(3)),
    "named in reverse": images(BLOCK.format(3), BLOCK.format(0)),
    "page by page": images(BLOCK.format(0), "".join(
        f'<TiffData IFD="{3 + z}" FirstZ="{z}"/>' for z in range(3))),
    "without attributes": images("<TiffData/>", "<TiffData/>"),
    "without elements": images("", ""),
    "own uuid": images(*(IN_FILE.format(3 * i, "old.tif", "urn:uuid:own") for i in range(2)),
                       root=OWN),
    "own name": images(*(IN_FILE.format(3 * i, "a.tif", "urn:uuid:x") for i in range(2))),
    "text is cut": images(BLOCK.format(0), BLOCK.format(3), end="")[:-12],
    "prefixed": images(BLOCK.format(0), BLOCK.format(3).replace("<", "<o-me:")),
}  # fmt: skip


@pytest.mark.parametrize("name", CUT_BEHIND_THE_FIRST)
def test_c1_ome_cut_off_behind_its_first_image(tmp_path: Path, name: str) -> None:
    content = described(CUT_BEHIND_THE_FIRST[name], pages=3)
    refused(tmp_path / "a.tif", content, "cut off|beyond the 3 of this file")


def test_c1_ome_cut_off_behind_its_second_image(tmp_path: Path) -> None:
    content = described(images(*(BLOCK.format(3 * i) for i in range(3))), pages=6)
    refused(
        tmp_path / "a.tif", content, r"cut off.* promises 9 pages for all .*has 6 pages; export"
    )


@pytest.mark.parametrize(
    ("text", "pages", "axes"),
    [
        (images(BLOCK.format(0), BLOCK.format(3)), 6, "IYX"),  # complete: as ever
        (images("<TiffData/>", "<TiffData/>"), 6, "IYX"),
        (images(BLOCK.format(0), BLOCK.format(0)), 3, "ZYX"),  # two images of the same pages
        (images(BLOCK.format(0), IN_FILE.format(3, "b.tif", "urn:uuid:b")), 3, "ZYX"),
        (images(BLOCK.format(0), IN_FILE.format(3, "b.tif", "urn:uuid:b"), root=OWN), 3, "ZYX"),
        (images(BLOCK.format(0), IN_FILE.format(3, "", "urn:uuid:b"), root=OWN), 3, "ZYX"),
        (images(BLOCK.format(0), "<MetadataOnly/>"), 3, "ZYX"),
        (images("", "<MetadataOnly/>"), 3, "ZYX"),
        # what is read of it ends within an element that names another file
        (read_up_to(images(BLOCK.format(0), IN_FILE.format(3, "b|.tif", "urn:b"))), 3, "ZYX"),
        (read_up_to(images(BLOCK.format(0), IN_FILE.format(3, "b", "c").replace("><", ">|<", 1))),
         3, "ZYX"),
        # the description of a set lies in each of its files, with the UUID of one of them
        (images(IN_FILE.format(0, "a.tif", "urn:uuid:a"),
                *(IN_FILE.format(3 * i, "b.tif", "urn:uuid:own") for i in range(2)), root=OWN),
         3, "ZYX"),
    ],
)  # fmt: skip
def test_c24_later_images_that_are_not_missing_change_nothing(
    tmp_path: Path, text: str, pages: int, axes: str
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(described(text, pages))
    assert order_of_pages(path) == (axes, list(range(pages)))


def test_c24_a_later_image_may_name_a_smaller_copy(tmp_path: Path) -> None:
    """The directories are counted, also those that are no page of ours."""
    text = images(BLOCK.format(0), '<TiffData IFD="3" PlaneCount="1"/>').encode() + b"\0"
    pages = [{273: (4, 16 + 48 * i), 279: (4, 48)} for i in range(3)]
    small = {254: (4, 1), 256: (4, 4), 257: (4, 3), 278: (4, 3), 273: (4, 160), 279: (4, 12)}
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(pages[0] | {270: (2, text)}, *pages[1:], small, data=bytes(172)))
    assert order_of_pages(path) == ("ZYX", [0, 0, 0])


def test_c2_damage_is_told_with_the_page_of_the_file_not_of_the_plane(tmp_path: Path) -> None:
    xml = '<OME><Pixels DimensionOrder="XYCZT" SizeC="2">{}</Pixels></OME>'
    text = xml.format(SWAPPED.format("", "")).encode() + b"\0"
    good, bad = zlib.compress(bytes(48)), zlib.compress(bytes(48))[:-1] + b"x"
    places = [{259: (3, 8), 273: (4, 16 + len(good) * i), 279: (4, len(good))} for i in range(2)]
    content = tiff(places[0] | {270: (2, text)}, places[1], data=good + bad)
    refused(tmp_path / "a.tif", content, "page 1: is damaged")


def test_c2_strips_and_tiles_in_one_page(tmp_path: Path) -> None:
    """libtiff reads the strips of such a file, tifffile its tiles."""
    tiles = {322: (4, 16), 323: (4, 16), 324: (4, 64), 325: (4, 256), 273: (4, 16), 279: (4, 48)}
    refused(tmp_path / "a.tif", tiff(tiles, data=bytes(range(48)) + bytes(256)), "strips lie and")


def test_c24_the_planes_of_a_metamorph_stack_are_not_overlooked(tmp_path: Path) -> None:
    def stk(planes: int) -> dict[int, Any]:
        return {
            33628: (4, [1] * planes),
            33629: (5, bytes(24 * planes)),
            273: (4, 16),
            279: (4, 48),
        }

    refused(tmp_path / "a.stk", tiff(stk(3), data=bytes(144)), r"\(STK\) of 9 planes .* multi-page")
    (tmp_path / "b.tif").write_bytes(tiff({33628: (4, 1), 33629: (5, [1])}))
    assert order_of_pages(tmp_path / "b.tif") == ("YX", [47])


def twice(number: int, texts: list[bytes]) -> bytes:
    """A TIFF of two pages whose first has a tag of text several times."""
    spare = {60000 + i: (2, text + b"\0") for i, text in enumerate(texts)}
    pages = [{273: (4, 16 + 24 * i), 279: (4, 24), 257: (4, 3)} for i in range(2)]
    content = bytearray(tiff(pages[0] | spare, pages[1]))
    place = first_page(bytes(content)) + 2
    (count,) = struct.unpack_from("<H", content, place - 2)
    for entry in range(place, place + 12 * count, 12):
        if struct.unpack_from("<H", content, entry)[0] >= 60000:
            struct.pack_into("<H", content, entry, number)
    return bytes(content)


def test_c2_two_descriptions_are_no_damage(tmp_path: Path) -> None:
    """Micro-Manager writes OME-XML and ImageJ's text into one page."""
    path, imagej = tmp_path / "a.tif", b"ImageJ=1.48\nimages=2\nslices=2\n"
    xml = b'<?xml version="1.0"?><OME><Pixels DimensionOrder="XYZCT" SizeC="2"></Pixels></OME>'
    for texts, axes in (
        ([xml, imagej], "CYX"), ([imagej, xml], "ZYX"), ([b"a comment", imagej], "ZYX"),
        ([b"a comment", b"another one"], "IYX"),
    ):  # fmt: skip
        path.write_bytes(twice(270, texts))
        with open_tiff(path) as image:
            assert image.axes == axes
    assert image.description == "a comment"
    refused(path, twice(270, [xml, imagej, imagej]), "tag 270 twice")
    refused(path, twice(305, [b"one program", b"another"]), "tag 305 twice")


# PNG ----------------------------------------------------------------------------------------


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        parts.append(struct.pack(">I", len(data)) + kind + data)
        parts.append(struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def header(width: int = 4, height: int = 3, bits: int = 8, colour: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)


ROWS, END = (b"IDAT", zlib.compress(bytes(3 * 5))), (b"IEND", b"")
PNG = {
    "no end": (png(header(), ROWS), "no end"),
    "no pixels": (png(header(), END), "no header or no pixels"),
    "parted pixels": (
        png(header(), (b"IDAT", ROWS[1][:5]), (b"tEXt", b"a\0b"), (b"IDAT", ROWS[1][5:]), END),
        "parts its pixels"),
    "no header": (png(ROWS, END), "header is not the first"),
    "two headers": (png(header(), header(), ROWS, END), "header is not the first"),
    "too little": (png(header(height=4), ROWS, END), "too early"),
    "too much": (png(header(height=2), ROWS, END), "more than its pixels"),
    "wrong sum": (png(header(), ROWS, END)[:-14] + b"\0\0" + png(header(), ROWS, END)[-12:],
                  "checksum"),
    "animation": (png(header(), (b"acTL", bytes(8)), ROWS, END), "animation"),
    "transparency": (png(header(), (b"tRNS", b"\0\0"), ROWS, END), "transparency"),
    "unknown critical": (png(header(), (b"ABCD", b""), ROWS, END), "chunk b'ABCD'"),
    "zero width": (png(header(width=0), ROWS, END), "no sense"),
    "2 bits": (png(header(bits=2), ROWS, END), "2-bit grey"),
    "16-bit colour": (png(header(bits=16, colour=2), ROWS, END), "16-bit RGB"),
    "claimed size": (png(header(2**31 - 1, 2**31 - 1), ROWS, END), "max_pixels"),
    "ratio": (png(header(10_000, 10_000), ROWS, END), "max_ratio"),
    "inner bomb": (png(header(), (b"IDAT", deflated(1 << 28)), END), "more than its pixels"),
    "unknown filter": (png(header(), (b"IDAT", zlib.compress(b"\x09" * 15)), END), "read|damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", PNG)
def test_png_faults(tmp_path: Path, name: str) -> None:
    content, match = PNG[name]
    refused(tmp_path / "a.png", content, match)


def exif(orientation: int, order: str = ">", start: int = 8) -> tuple[bytes, bytes]:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "HHIHH", 270, 2, 1, 0, 0)
    entries += struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0)
    return b"eXIf", mark + struct.pack(order + "IH", start, 2) + entries + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_c13_orientation_of_a_png(tmp_path: Path, order: str) -> None:
    path, turned = tmp_path / "a.png", exif(6, order)
    for chunks in ((header(), turned, ROWS, END), (header(), ROWS, turned, END)):
        refused(path, png(*chunks), "has orientation 6 .*; save it with orientation 1")
    for said in (exif(1, order), exif(6, order, start=999), (b"eXIf", turned[1][:20]),
                 (b"eXIf", turned[1][:9]), (b"eXIf", b"")):  # fmt: skip
        path.write_bytes(png(header(), said, ROWS, END))
        assert read_image(path).shape == (1, 3, 4)
    image = Image.new("L", (4, 3))
    image.getexif()[274] = 3
    image.save(path, exif=image.getexif())
    refused(path, path.read_bytes(), "has orientation 3")


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (b"II+\0\x04\0\0\0", "a damaged BigTIFF: it says that its offsets have 4 bytes"),
        (b"II+\0\x08\0\1\0", "a damaged BigTIFF: it says .* and 1 after it"),
    ],
)
def test_c2_bigtiff_with_other_offsets_is_told_as_such(
    tmp_path: Path, head: bytes, match: str
) -> None:
    refused(tmp_path / "a.tif", head + tiff(big=True)[8:], match)
    refused(tmp_path / "a.tif", tiff(big=True)[:15], "a TIFF that is cut off in its header")


@pytest.mark.parametrize(
    "mangled", [b"\x89PNG\n\x1a\n", b"\x89PNG\r\r\n\x1a\r\n", b"\tPNG\r\n\x1a\n"]
)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_c23_png_damaged_by_a_transfer_in_text_mode(
    tmp_path: Path, mangled: bytes, name: str
) -> None:
    content = mangled + png(header(), ROWS, END)[8:]
    refused(tmp_path / name, content, "PNG image that a transfer in text mode has damaged")
    with pytest.raises(InputError, match="text mode"):
        describe(tmp_path / name)


def test_c6_info_of_a_large_png_decodes_no_pixel(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.png", zlib.compress(b"no rows at all")
    path.write_bytes(png(header(3000, 2000), (b"IDAT", rows), END))
    with cheaply():
        assert describe(path) == {"kind": "PNG", "shape": (1, 2000, 3000), "dtype": "uint8"}
    path.write_bytes(png(header(30, 20, colour=2), (b"IDAT", rows), END)[:-5])
    with pytest.raises(InputError, match="cut off"):
        describe(path)


# Values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", ["dtype-range", "min-max", "fixed:0:255", "none"])
@pytest.mark.parametrize(
    ("dtype", "offset", "match"),
    [
        ("i8", -(2**62), "so close for their size"), ("u8", 2**63, "so close"),
        ("i4", 2**30, "so close"), ("u4", 2**31, "so close"), ("f8", 1e10, "so close"),
        ("i8", 0, ""), ("i4", 2**24 - 255, ""), ("i4", 2**20, ""), ("f8", 1000.0, ""),
        ("u2", 65_000, ""), ("f4", 2.0**30, ""),
    ],
)  # fmt: skip
def test_c15_values_that_float32_cannot_tell_apart_are_refused(
    dtype: str, offset: float, match: str, normalise: str
) -> None:
    image = (np.arange(256).reshape(16, 16).astype(dtype) + np.dtype(dtype).type(offset))[None]

    def measured(image: np.ndarray[Any, Any]) -> None:
        measure_scale(normalise, image.dtype, lambda: blocks_of([image]))

    if normalise == "dtype-range" and dtype in ("i4", "u4", "i8", "u8"):
        with pytest.raises(ValueError, match="no agreed grey range"):
            measured(image)
    elif match:
        with pytest.raises(ValueError, match=match):
            measured(image)
        measured(np.full_like(image, offset))  # one value is no loss
        measured(image - image.min())
        measured(np.concatenate([image * 0, np.full_like(image, offset)]))  # of two channels
    else:
        measured(image)


@pytest.mark.parametrize("value", [1e300, -1e300])
def test_c15_values_beyond_float32_are_refused(value: float) -> None:
    image = np.zeros((1, 4, 4))
    for image[0, 0, 0] in (value, 1.0):
        image[0, 1:] = value
        for nan_to in (None, 0.0):
            with pytest.raises(ValueError, match=r"e\+300, which float32"):
                measure_scale("min-max", image.dtype, lambda: blocks_of([image]), nan_to=nan_to)


def test_c15_the_smallest_numbers_are_scaled_without_a_warning() -> None:
    image = np.full((1, 4, 4), 1e-45, np.float32)
    image[0, 0] = 0
    scale = measure_scale("min-max", image.dtype, lambda: blocks_of([image]))
    assert scale.gain == (1.0,)
    image = np.array([[[-1e308, 1e308]]])
    with pytest.raises(ValueError, match="cannot hold"):
        measure_scale("percentile", image.dtype, lambda: blocks_of([image]))


@pytest.mark.parametrize(
    ("dtype", "value", "match"),
    [
        ("f8", 1e300, r"slice 0 holds 1e\+300"), ("f8", -1e300, r"slice 0 holds -1e\+300"),
        ("f4", 3e38, r"slice 0 holds 3e\+38"), ("f4", -1e30, r"holds -1e\+30"),
        ("f8", 1e12, "so close for their size"), ("f8", 1e29, ""), ("f2", 6e4, ""),
    ],
)  # fmt: skip
def test_c15_training_refuses_values_beyond_what_predict_takes(
    tmp_path: Path, dtype: str, value: float, match: str
) -> None:
    image = np.zeros((16, 16), dtype)
    image[0, 0] = value
    if "close" in match:
        image = np.arange(256.0).reshape(16, 16) + value
    labels = (np.arange(256).reshape(16, 16) % 3 > 0).astype(np.float16)  # no warning either
    tifffile.imwrite(tmp_path / "image.tif", image)
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    if not match:
        stack = read_stack_pair(tmp_path / "image.tif", tmp_path / "labels.tif")
        assert stack.labels[0].max() == 1
        return
    with pytest.raises(InputError, match=match) as caught:
        read_stack_pair(tmp_path / "image.tif", tmp_path / "labels.tif")
    assert caught.value.exit_code == 3
    assert "image.tif" in str(caught.value)


def test_c15_grey_values_that_overflow_when_varied_warn_nobody() -> None:
    image, labels = np.full((1, 8, 8), 3e38, np.float32), np.zeros((8, 8), np.int64)
    deformation = Deformation(gain=1.3, grey_shift=-0.1)
    tile = deform(image, labels, None, deformation, centre=(4, 4), input_px=4, output_px=4)[0]
    assert np.isinf(tile).all()


# Mutations ----------------------------------------------------------------------------------


def seeds(folder: Path) -> Iterator[bytes]:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (20, 18), dtype=np.uint8)
    for index, options in enumerate(
        (
            {}, {"compression": "zlib", "rowsperstrip": 7}, {"tile": (16, 16)}, {"bigtiff": True},
            {"compression": "lzw"}, {"byteorder": ">", "compression": "zlib", "predictor": 2},
            {"imagej": True},
        )
    ):  # fmt: skip
        path = folder / f"{index}.tif"
        pixels = np.stack([noise] * 3) if index in (0, 6) else noise
        tifffile.imwrite(path, pixels, photometric="minisblack", **options)
        yield path.read_bytes()
    Image.fromarray(noise).save(folder / "a.png")
    yield (folder / "a.png").read_bytes()


def peak_bytes() -> int:
    """Largest memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_mutated_files_give_an_image_or_an_input_error(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    rng = np.random.default_rng(2015)
    limits = Limits(max_bytes=1 << 26)
    path = tmp_path / "mutant"
    read = refusals = 0
    before = peak_bytes()
    for seed in seeds(tmp_path):
        for _ in range(400):
            mutant = bytearray(seed)
            for _ in range(rng.integers(1, 4)):
                # Directories are near the ends.
                near = rng.integers(0, min(400, len(mutant)))
                place = int(near if rng.random() < 0.5 else len(mutant) - 1 - near)
                mutant[place] = rng.choice([0, 1, 255, 127, 128, int(rng.integers(256))])
            path.write_bytes(mutant)
            try:
                found = read_image(path, limits=limits)
            except InputError:
                refusals += 1
            else:
                assert found.size
                read += 1
    assert read > 30
    assert refusals > 300
    assert peak_bytes() - before < 256e6


@pytest.mark.parametrize("kind", [b"tEXt", b"IDAT", b"IHDR"])
def test_c7_png_with_a_giant_chunk_is_refused_before_it_is_read(
    tmp_path: Path, kind: bytes
) -> None:
    """Two sparse gigabytes: to hold them, and to sum them, would cost memory and time."""
    path, length = tmp_path / "a.png", 2**31 - 1
    whole = png(header(), ROWS, END) if kind != b"IHDR" else png(END)
    before = whole[: len(whole) - 12]
    with path.open("wb") as file:
        file.write((before if kind != b"IHDR" else before[:8]) + struct.pack(">I4s", length, kind))
        file.truncate(len(before) + length + 24)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"save it as a plain PNG|no sense"):
        read_image(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


LONG = "<Plane TheZ='0'/>" * 70_000  # more than is read of a description


@pytest.mark.parametrize("behind", [LONG, LONG + "<TiffData/>"])
def test_c1_ome_longer_than_what_is_read_keeps_its_promise(tmp_path: Path, behind: str) -> None:
    content = ome(behind, pages=3, sizes='SizeC="1" SizeZ="12000"')
    refused(tmp_path / "a.ome.tif", content, r"cut off.*promises 12000 planes.*3 pages")
    content = ome(behind, pages=3, sizes='SizeC="1" SizeZ="3"')
    (tmp_path / "b.ome.tif").write_bytes(content)
    assert order_of_pages(tmp_path / "b.ome.tif") == ("ZYX", [0, 1, 2])


def test_c1_ome_that_is_cut_off_itself_keeps_its_promise(tmp_path: Path) -> None:
    text = '<?xml version="1.0"?><OME><Image><Pixels DimensionOrder="XYZCT" SizeZ="5"><Ti'
    refused(tmp_path / "a.tif", described(text, 3), "promises 5 planes")


def test_c24_an_order_that_is_not_read_to_its_end_is_refused(tmp_path: Path) -> None:
    told = '<TiffData IFD="2" FirstZ="0"/><TiffData IFD="0" FirstZ="1"/>'
    content = ome(told + LONG, pages=3, sizes='SizeC="1" SizeZ="3"')
    refused(tmp_path / "a.ome.tif", content, "another order than the pages .* not all read; export")


@pytest.mark.parametrize(
    ("tiff_data", "sizes", "why"),
    [
        ('<TiffData IFD="1"/><TiffData IFD="0" FirstZ="1"/>', "CZ 12", "in another order"),
        ("<TiffData/>", "CZ 21", "2 of them channels"),
    ],
)
def test_c24_several_images_of_which_the_first_is_no_plain_row_of_pages(
    tmp_path: Path, tiff_data: str, sizes: str, why: str
) -> None:
    c, z = sizes[-2:]
    content = ome(tiff_data, pages=3, sizes=f'SizeC="{c}" SizeZ="{z}"')
    refused(tmp_path / "a.ome.tif", content, rf"has 3 pages.* 2 planes, {why}.*; save each image")


@pytest.mark.parametrize(
    ("order", "axes", "shape"),
    [
        ("", "ZCYX", (3, 2)),
        ("zct", "CZYX", (2, 3)),
        ("CZT", "ZCYX", (3, 2)),
        ("zzt", "ZCYX", (3, 2)),
    ],
)
def test_c24_imagej_says_in_which_order_its_pages_come(
    tmp_path: Path, order: str, axes: str, shape: tuple[int, ...]
) -> None:
    told = f"order={order}\n" if order else ""
    text = f"ImageJ=1.54f\nimages=6\nchannels=2\nslices=3\n{told}"
    (tmp_path / "a.tif").write_bytes(described(text, 6))
    with open_tiff(tmp_path / "a.tif") as image:
        assert (image.axes, image.page_shape) == (axes, shape)


def test_c24_ome_that_numbers_smaller_copies_too_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    blocks = '<TiffData IFD="0"/><TiffData IFD="2" FirstZ="1"/>'
    text = f'<OME><Image><Pixels DimensionOrder="XYZCT" SizeZ="2">{blocks}</Pixels></Image></OME>'
    with tifffile.TiffWriter(path) as tif:
        tif.write(np.zeros((8, 8), np.uint8), description=text, metadata=None)
        tif.write(np.zeros((4, 4), np.uint8), subfiletype=1, metadata=None)
        tif.write(np.ones((8, 8), np.uint8), metadata=None)
    with pytest.raises(InputError, match="number pages among which lie smaller copies; export"):
        read_image(path)
