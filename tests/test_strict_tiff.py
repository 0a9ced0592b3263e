"""What is written is what is read: every type, layout, byte order and compression."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tiling.codec_threads
import tiling.rows
from tests.faults.invariants import invariant
from tiling import open_source
from tiling.axes import chosen_description, page_axes
from tiling.decode import DeflateStream
from tiling.faults import InputError
from tiling.images import read_image
from tiling.strict_tiff import Limits, TiffImage, open_tiff, read_stack

DTYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
imagecodecs = pytest.importorskip("imagecodecs", reason="LZW, PackBits and zstd need imagecodecs")


def picture(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    """Values over the whole range of the type, smooth enough to compress."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(size=shape).astype(kind)
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max, shape, dtype=kind, endpoint=True)


def written(path: Path, pixels: np.ndarray[Any, Any], **options: Any) -> Path:
    options = {"photometric": "minisblack", "metadata": None, **options}
    tifffile.imwrite(path, pixels, **options)
    return path


def agrees(path: Path, expected: np.ndarray[Any, Any]) -> None:
    """The whole, and any band of rows in ascending order, equal `expected` (pages, S, H, W)."""
    pages, samples, height, _ = expected.shape
    stack = read_stack(path)
    np.testing.assert_array_equal(stack, expected[:, 0] if samples == 1 else expected)
    assert stack.dtype == expected.dtype.newbyteorder("=")
    assert stack.flags.c_contiguous
    with open_tiff(path) as image:
        assert (image.pages, image.samples, image.height, image.width) == expected.shape
        assert image.dtype == stack.dtype
        for page in range(pages):
            for start in range(0, height, 7):
                stop = min(height, start + 11)  # overlaps the next band
                np.testing.assert_array_equal(
                    image.read_rows(page, start, stop), expected[page, :, start:stop]
                )
            np.testing.assert_array_equal(image.read_rows(page, 0, 1), expected[page, :, :1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True], ids=["classic", "bigtiff"])
@pytest.mark.parametrize("tile", [None, (16, 32)], ids=["strips", "tiles"])
def test_every_type_order_and_container(
    tmp_path: Path, dtype: str, order: str, big: bool, tile: tuple[int, int] | None
) -> None:
    pixels = picture(dtype, (2, 37, 45))
    for compression in (None, "zlib"):
        path = written(
            tmp_path / "a.tif", pixels, byteorder=order, bigtiff=big, tile=tile,
            compression=compression, **({} if tile else {"rowsperstrip": 5}),
        )  # fmt: skip
        agrees(path, pixels[:, None])


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits", "adobe_deflate"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u8", "f2", "f4", "f8"])
def test_every_compression_and_predictor(tmp_path: Path, compression: str, dtype: str) -> None:
    predictor = None if compression == "packbits" else 3 if dtype[0] == "f" else 2
    for order, tile, predict, samples in itertools.product(
        "<>", (None, (16, 16)), {None, predictor}, (1, 3)
    ):
        pixels = picture(dtype, (20, 33) if samples == 1 else (20, 33, 3))
        path = written(
            tmp_path / "a.tif", pixels, byteorder=order, tile=tile, compression=compression,
            predictor=predict, photometric="rgb" if samples == 3 else "minisblack",
        )  # fmt: skip
        expected = pixels[None] if samples == 1 else np.moveaxis(pixels, 2, 0)
        agrees(path, expected[None])


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 16)], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colour_comes_channel_first_and_planar_is_told(
    tmp_path: Path, samples: int, planar: str, tile: Any, compression: str | None
) -> None:
    pixels = picture("u2", (2, samples, 21, 19))
    stored = pixels if planar == "separate" else np.moveaxis(pixels, 1, -1)
    extra = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    path = written(
        tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, tile=tile,
        compression=compression, **extra,
    )  # fmt: skip
    agrees(path, pixels)
    with open_tiff(path) as image:
        assert image.planar == (planar == "separate")
        assert image.axes == "IYXS"
        assert image.photometric == "rgb"


@pytest.mark.parametrize("width", [1, 7, 8, 9, 31])
@pytest.mark.parametrize("white", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_one_bit_masks_are_bool(
    tmp_path: Path, width: int, white: str, compression: str | None
) -> None:
    mask = picture("u1", (2, 13, width)) > 127
    path = written(tmp_path / "a.tif", mask, photometric=white, compression=compression)
    agrees(path, (mask if white == "minisblack" else ~mask)[:, None])
    Image.fromarray(mask[0]).save(tmp_path / "b.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), mask[:1])


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_min_is_white_is_inverted(tmp_path: Path, dtype: str) -> None:
    pixels = picture(dtype, (9, 8))
    path = written(tmp_path / "a.tif", pixels, photometric="miniswhite")
    agrees(path, (np.iinfo(dtype).max - pixels)[None, None])


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (5, 4)])
@pytest.mark.parametrize("tile", [None, (16, 16)], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_smallest_and_thinnest_images(
    tmp_path: Path, shape: tuple[int, int], tile: Any, compression: str | None
) -> None:
    pixels = picture("u2", shape)
    agrees(
        written(tmp_path / "a.tif", pixels, tile=tile, compression=compression), pixels[None, None]
    )


@invariant("loader", "lazily read rows are the crop of the full read")
@given(
    height=st.integers(1, 70), width=st.integers(1, 70), rows=st.integers(1, 80),
    cuts=st.lists(st.tuples(st.integers(0, 69), st.integers(1, 70)), min_size=1, max_size=6),
    compression=st.sampled_from([None, "zlib", "lzw"]),
    tile=st.sampled_from([None, (16, 16), (32, 16)]),
)  # fmt: skip
def test_any_rows_in_any_order_are_the_crop_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, rows: int,
    cuts: list[tuple[int, int]], compression: str | None, tile: tuple[int, int] | None,
) -> None:  # fmt: skip
    pixels = picture("u1", (height, width), seed=rows)
    options = {"tile": tile} if tile else {"rowsperstrip": rows}
    path = written(
        tmp_path_factory.getbasetemp() / "rows.tif", pixels, compression=compression, **options
    )
    with open_tiff(path) as image:
        for start, length in cuts:
            start %= height
            stop = min(height, start + length)
            np.testing.assert_array_equal(image.read_rows(0, start, stop)[0], pixels[start:stop])


@pytest.mark.parametrize("compression", ["zlib", "lzw", None])
@pytest.mark.parametrize("tile", [None, (32, 32)], ids=["strips", "tiles"])
def test_each_segment_is_decoded_once_on_the_way_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None, tile: Any
) -> None:
    pixels = picture("u1", (200, 90))
    options = {"tile": tile} if tile else {"rowsperstrip": 30}
    path = written(tmp_path / "a.tif", pixels, compression=compression, **options)
    calls = []
    decompress = tiling.rows.decompress

    def counted(*args: Any) -> bytes:
        calls.append(args[1])
        return decompress(*args)

    monkeypatch.setattr(tiling.rows, "decompress", counted)
    with open_tiff(path) as image:
        for start in range(0, 190, 10):  # windows of 50 rows that overlap by 40
            image.read_rows(0, start, min(200, start + 50))
    segments = 7 * 3 if tile else 7
    assert len(calls) == (segments if compression else 0)


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_many_segments_are_decoded_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str, planar: str
) -> None:
    monkeypatch.setattr(tiling.codec_threads, "codec_threads", lambda: 4)
    shape = (700, 500, 3) if planar == "contig" else (3, 700, 500)
    pixels = picture("u2", shape)
    path = written(
        tmp_path / "a.tif", pixels, compression=compression, tile=(32, 48), predictor=2,
        photometric="rgb", planarconfig=planar,
    )  # fmt: skip
    shared = []
    on_threads = tiling.rows.on_threads

    def counted(work: Any, items: Any) -> None:
        shared.extend(items := list(items))
        on_threads(work, items)

    monkeypatch.setattr(tiling.rows, "on_threads", counted)
    with open_tiff(path) as image:
        found = image.read_rows(0, 11, 699)
    whole = pixels.transpose(2, 0, 1) if planar == "contig" else pixels
    np.testing.assert_array_equal(found, whole[:, 11:699])
    assert len(shared) > 4
    assert sum(group.across for group in shared) == 22 * 11 * (1 if planar == "contig" else 3)


@pytest.mark.parametrize("predictor", [None, 2])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_giant_deflate_strip_streams_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predictor: int | None, samples: int
) -> None:
    shape = (3000, 1500) if samples == 1 else (1000, 1500, 3)
    pixels = (np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 251).astype(np.uint8)
    if samples == 3:
        pixels = np.stack([pixels, pixels + 1, pixels ^ 85], axis=2)
    path = written(
        tmp_path / "a.tif", pixels, compression="zlib", rowsperstrip=shape[0],
        predictor=predictor, photometric="rgb" if samples == 3 else "minisblack",
    )  # fmt: skip
    monkeypatch.setattr(tiling.rows, "_STREAMED", 1 << 20)
    made = []
    stream = DeflateStream

    def counted(*args: Any) -> DeflateStream:
        made.append(args)
        return stream(*args)

    monkeypatch.setattr(tiling.rows, "DeflateStream", counted)
    expected = pixels[None] if samples == 1 else np.moveaxis(pixels, 2, 0)
    with open_tiff(path) as image:
        tracemalloc.start()
        for start in range(0, shape[0], 80):
            stop = min(shape[0], start + 100)
            assert (image.read_rows(0, start, stop) == expected[:, start:stop]).all()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(made) == 1
        assert (image.read_page(0) == expected).all()
    assert peak < 3_500_000  # the strip has 4.5 MB; 100 rows and one block of input are less


def test_a_giant_plain_strip_is_read_by_rows(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    pixels = picture("u2", (64, 500))
    written(path, pixels, rowsperstrip=64)
    with open_tiff(path) as image:
        tracemalloc.start()
        for start in range(64):
            assert (image.read_rows(0, start, start + 1)[0] == pixels[start]).all()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20_000  # the strip has 64 kB


@pytest.mark.parametrize("compression", ["lzw", "zstd"])
def test_a_giant_strip_that_cannot_stream_is_refused_with_its_size(
    tmp_path: Path, compression: str
) -> None:
    pixels = picture("u1", (400, 500))
    path = written(tmp_path / "a.tif", pixels, compression=compression, rowsperstrip=400)
    with (
        open_tiff(path, limits=Limits(max_bytes=100_000)) as image,
        pytest.raises(InputError, match=r"above max_bytes 100000; save it in smaller tiles"),
    ):
        image.read_rows(0, 0, 1)
    with pytest.raises(InputError, match="max_bytes"):
        read_stack(path, limits=Limits(max_bytes=100_000))


# Meaning of the pages -----------------------------------------------------------------------


def test_imagej_hyperstack_axes_unit_and_resolution(tmp_path: Path) -> None:
    pixels = picture("u2", (3, 2, 2, 9, 8))
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, imagej=True, resolution=(4.0, 2.0),
        metadata={"axes": "TZCYX", "unit": "um"},
    )  # fmt: skip
    with open_tiff(tmp_path / "a.tif") as image:
        assert (image.axes, image.page_shape) == ("TZCYX", (3, 2, 2))
        assert image.resolution == (4.0, 2.0, "um")
    agrees(tmp_path / "a.tif", pixels.reshape(12, 1, 9, 8))


def one_directory(path: Path, pixels: np.ndarray[Any, Any], description: str, order: str) -> None:
    """A file as ImageJ writes it above 4 GB: one directory, all images in one piece behind."""
    _, height, width = pixels.shape
    text = description.encode() + b"\0"
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8 * pixels.itemsize), (259, 3, 1, 1),
        (262, 3, 1, 1), (270, 2, len(text), 300), (273, 4, 1, 1024), (277, 3, 1, 1),
        (278, 4, 1, height), (279, 4, 1, height * width * pixels.itemsize),
    ]  # fmt: skip
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    for number, kind, count, value in entries:
        head += struct.pack(order + "HHI", number, kind, count)
        head += struct.pack(
            order + ("HH" if kind == 3 else "I"), *((value, 0) if kind == 3 else (value,))
        )
    head = (head + bytes(4)).ljust(300, b"\0") + text
    path.write_bytes(
        head.ljust(1024, b"\0") + pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_imagej_images_behind_one_directory(tmp_path: Path, order: str) -> None:
    pixels = picture("u2", (6, 7, 5))
    path = tmp_path / "a.tif"
    one_directory(path, pixels, "ImageJ=1.54f\nimages=6\nslices=3\nframes=2\n", order)
    agrees(path, pixels[:, None])
    with open_tiff(path) as image:
        assert (image.axes, image.page_shape) == ("TZYX", (2, 3))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="promises 6 images but there are 1 pages and bytes for 5"):
        open_tiff(path)


def test_tifffile_truncated_series(tmp_path: Path) -> None:
    pixels = picture("u1", (2, 3, 7, 5))
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="minisblack",
        metadata={"axes": "TZYX", "truncate": True},
    )  # fmt: skip
    agrees(tmp_path / "a.tif", pixels.reshape(6, 1, 7, 5))
    with open_tiff(tmp_path / "a.tif") as image:
        assert (image.axes, image.page_shape) == ("TZYX", (2, 3))


def test_tifffile_shaped_axes(tmp_path: Path) -> None:
    pixels = picture("u1", (4, 7, 5))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", metadata={"axes": "ZYX"})
    with open_tiff(tmp_path / "a.tif") as image:
        assert image.axes == "ZYX"
    tifffile.imwrite(tmp_path / "b.tif", pixels, photometric="minisblack")
    with open_tiff(tmp_path / "b.tif") as image:
        assert image.axes == "IYX"
    tifffile.imwrite(tmp_path / "c.tif", pixels[0])
    with open_tiff(tmp_path / "c.tif") as image:
        assert (image.axes, image.page_shape) == ("YX", ())


@pytest.mark.parametrize(
    "said", [{"subfiletype": 1}, {"extratags": [(255, 3, 1, 2, False)]}], ids=["TIFF 6", "TIFF 5"]
)
def test_a_thumbnail_is_not_taken_for_the_image_below_it(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    path = tmp_path / "raw.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(picture("u1", (4, 5)), **said, subifds=1, metadata=None)
        tif.write(picture("u1", (40, 50)), metadata=None)
    with pytest.raises(InputError, match="its image lies in a SubIFD"):
        open_tiff(path)


def test_more_images_than_can_be_counted_are_no_single_page(tmp_path: Path) -> None:
    text = "ImageJ=1.54f\nimages=1000000000\n"
    path = written(tmp_path / "a.tif", picture("u1", (4, 5)), description=text)
    with pytest.raises(InputError, match="promises 1000000000 images"):
        open_tiff(path)


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ("ZXY", (4, 7, 5), "QYX"),
        ("XYZ", (4, 7, 5), "QYX"),
        ("TZXY", (2, 3, 7, 5), "QQYX"),
        ("XY", (7, 5), "YX"),
    ],
)
def test_axes_of_tifffile_that_do_not_end_in_rows_and_columns_are_not_believed(
    tmp_path: Path, axes: str, shape: tuple[int, ...], expected: str
) -> None:
    told = {"axes": axes, "PhysicalSizeZ": 2.0}
    options = {"resolution": (10000, 10000), "resolutionunit": "CENTIMETER", "metadata": told}
    path = written(tmp_path / "a.tif", picture("u1", shape), **options)
    with open_tiff(path) as image:
        assert (image.axes, image.page_shape) == (expected, shape[:-2])
        assert image.meaning.z_step == 0


def test_axes_and_slice_distance_of_an_image_of_another_size_are_not_believed(
    tmp_path: Path,
) -> None:
    told = '{"shape": [4, 14, 10], "axes": "ZYX", "PhysicalSizeZ": 2.0, "Channel": {"Name": ["a"]}}'
    options = {"resolution": (10000, 10000), "resolutionunit": "CENTIMETER"}
    path = written(tmp_path / "a.tif", picture("u1", (4, 7, 5)), description=told, **options)
    with open_tiff(path) as image:
        assert (image.axes, image.page_shape) == ("IYX", (4,))
        assert (image.meaning.z_step, image.meaning.channels) == (0, ())


def test_ome_axes_and_pixel_size(tmp_path: Path) -> None:
    pixels = picture("u2", (2, 3, 5, 6))
    tifffile.imwrite(
        tmp_path / "a.ome.tif", pixels, ome=True, photometric="minisblack",
        metadata={"axes": "CZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5,
                  "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"},
    )  # fmt: skip
    with open_tiff(tmp_path / "a.ome.tif") as image:
        assert (image.axes, image.page_shape) == ("CZYX", (2, 3))
        assert image.resolution == (4.0, 2.0, "um")
    agrees(tmp_path / "a.ome.tif", pixels.reshape(6, 1, 5, 6))


@pytest.mark.parametrize(
    ("told", "unit"),
    [
        ("NONE", ""),
        ("INCH", "inch"),
        ("CENTIMETER", "cm"),
        ("MILLIMETER", "mm"),
        ("MICROMETER", "um"),
    ],
)
def test_resolution_of_the_tags(tmp_path: Path, told: str, unit: str) -> None:
    """The last two are tifffile's own, beyond TIFF 6.0."""
    written(tmp_path / "a.tif", picture("u1", (4, 4)), resolution=(300, 150), resolutionunit=told)
    with open_tiff(tmp_path / "a.tif") as image:
        assert image.resolution == (300.0, 150.0, unit)


@invariant("loader", "any image description is understood or ignored")
@given(
    text=st.one_of(st.text(max_size=99), st.binary(max_size=99).map(lambda b: b.decode("latin1"))),
    head=st.sampled_from(["", "ImageJ=1\nimages=", '{"shape": [', "<?xml?><OME><Pixels "]),
)
def test_any_description_is_understood_or_ignored(text: str, head: str) -> None:
    found = page_axes(head + text, 1)
    assert len(found.letters) == len(found.shape)
    assert found.images >= 0


def test_entities_in_ome_are_never_expanded() -> None:
    bomb = (
        '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "3">]><OME>'
        '<Pixels DimensionOrder="XYZCT" SizeZ="&a;" SizeC="2"/></OME>'
    )
    found = page_axes(bomb, 1)
    assert (found.shape, "SizeZ is '&a;', no whole number" in found.fault) == ((), True)


PIXELS = '<Pixels DimensionOrder="XYCZT" SizeX="4" SizeY="3" SizeC="2" SizeZ="3" SizeT="1" {}>'
OTHER = '<Pixels DimensionOrder="XYZTC" SizeC="1" SizeZ="6" SizeT="1" PhysicalSizeX="9"></Pixels>'


@pytest.mark.parametrize(
    "before",
    [
        f"<![CDATA[{OTHER}]]>",
        f"<!-- {OTHER} -->",
        f"<?hint {OTHER}?>",
        f"<!DOCTYPE OME [<!ENTITY a '{OTHER}'>]>",
        f"<StructuredAnnotations><Value>{OTHER}</Value></StructuredAnnotations>",
    ],
)
def test_ome_is_the_first_element_and_no_mention_of_it(before: str) -> None:
    told = f"{PIXELS.format('')}<TiffData/></Pixels>"
    found = page_axes(f'<?xml version="1.0"?>{before}<OME><Image>{told}</Image></OME>', 1)
    assert (found.letters, found.shape) == ("ZC", (3, 2))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('Name="a>b"', (2.0, 2.0)),
        ('x:SizeZ="1" x:PhysicalSizeX="7"', (2.0, 2.0)),
        ("Name=\"&amp; SizeZ='1' PhysicalSizeX='7' \"", (2.0, 2.0)),
        ('PhysicalSizeXUnit="&#181;m"', (2.0, 2.0)),
        ('PhysicalSizeYUnit="n&#109;"', (2.0, 2000.0)),  # rows and columns in two units
        ('PhysicalSizeYUnit="px"', None),
        ('PhysicalSizeXUnit="Mm" PhysicalSizeYUnit="Mm"', None),  # megametres
    ],
)
def test_ome_attributes_are_read_as_xml_means_them(
    attributes: str, expected: tuple[float, float] | None
) -> None:
    told = PIXELS.format(f'PhysicalSizeX="0.5" PhysicalSizeY="0.5" {attributes}')
    found = page_axes(f"<OME><Image>{told}</Pixels></Image></OME>", 1)
    assert (found.letters, found.shape, found.per_unit) == ("ZC", (3, 2), expected)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ('SizeX="4" SizeY="3"', (2.0, 2.0, "um")),
        ("", (2.0, 2.0, "um")),
        ('SizeX="8" SizeY="6"', None),
        ('SizeX="4" SizeY="6"', None),
    ],
)
def test_the_pixel_size_of_another_image_is_not_believed(
    tmp_path: Path, sides: str, expected: tuple[float, float, str] | None
) -> None:
    text = (
        f'<OME><Image><Pixels DimensionOrder="XYCZT" {sides} PhysicalSizeX="0.5" '
        'PhysicalSizeY="0.5" PhysicalSizeZ="2"></Pixels></Image></OME>'
    )
    options = {"resolution": (300, 300), "resolutionunit": "INCH"}
    path = written(tmp_path / "a.tif", picture("u1", (3, 4)), description=text, **options)
    with open_tiff(path) as image:
        assert image.resolution == expected
        assert image.meaning.z_step == (2.0 if expected else 0.0)


def test_a_stack_of_tifffile_whose_last_pages_are_missing(tmp_path: Path) -> None:
    """A writer that was killed leaves one directory; the pixels may lie behind it, or not all."""
    pixels = picture("u1", (5, 16, 16))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(pixels, metadata={"axes": "ZYX"})
        writer.filehandle.flush()
        half = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(half)
    np.testing.assert_array_equal(read_stack(tmp_path / "a.tif"), pixels)
    (tmp_path / "a.tif").write_bytes(half[:-300])
    with pytest.raises(InputError, match="promises 5 images but there are 1 pages and bytes for 3"):
        read_stack(tmp_path / "a.tif")


def cut_after_first_page(path: Path) -> None:
    """The link from the first directory to the next is gone, as if the writer had been killed."""
    content = bytearray(path.read_bytes())
    (place,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, place)
    struct.pack_into("<I", content, place + 2 + 12 * count, 0)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("shape", "axes", "expected", "lengths"),
    [
        ((6, 9, 7, 1), None, "IYX", (6,)),
        ((6, 9, 7, 1), "ZYXC", "ZYX", (6,)),
        ((6, 9, 7, 1), "ZYXS", "ZYX", (6,)),
        ((2, 3, 9, 7, 1), "TZYXS", "TZYX", (2, 3)),
        ((6, 1, 9, 7, 1), None, "IYX", (6,)),
        ((6, 9, 7, 1, 1), None, "IYX", (6,)),
        ((1, 1, 1, 1, 1, 1, 1, 6, 9, 7), None, "IYX", (6,)),
        ((1, 1, 1, 1, 1, 1, 1, 6, 9, 7), "ABDEFGHZYX", "ZYX", (6,)),
    ],
)
def test_c1_trailing_ones_and_many_axes_of_tifffile_promise_their_pages(
    tmp_path: Path, shape: tuple[int, ...], axes: str | None, expected: str,
    lengths: tuple[int, ...],
) -> None:  # fmt: skip
    """They are one sample; a file with one directory then holds all pixels, or is refused."""
    path, told = tmp_path / "a.tif", {"axes": axes} if axes else {}
    pixels = picture("u1", shape)
    pages = pixels.reshape(6, 9, -1)
    for cut, extra in ((False, {}), (True, {}), (False, {"truncate": True})):
        written(path, pixels, metadata={**told, **extra})
        if cut:
            cut_after_first_page(path)
        agrees(path, pages[:, None])
        with open_tiff(path) as image:
            assert (image.axes, image.page_shape) == (expected, lengths)
    written(path, pixels, metadata=told, compression="zlib")
    cut_after_first_page(path)
    with pytest.raises(InputError, match=r"promises 6 images but there are 1 pages.*save it again"):
        open_tiff(path)


@pytest.mark.parametrize("axes", ["ZYXS", "ZYXC", "ZYXR"])
def test_c1_colour_by_another_letter_promises_its_pages(tmp_path: Path, axes: str) -> None:
    path, pixels = tmp_path / "a.tif", picture("u1", (6, 9, 7, 3))
    written(path, pixels, photometric="rgb", metadata={"axes": axes})
    cut_after_first_page(path)
    agrees(path, np.moveaxis(pixels, -1, 1))
    with open_tiff(path) as image:
        assert image.axes == "ZYXS"


def test_c1_json_of_tifffile_behind_a_description_of_the_user(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", picture("u1", (6, 9, 7))
    told = {"axes": "CYX", "Channel": {"Name": list("abcdef")}}
    for text in ("sample 7, day 3", "{day 3}", '{"shape": "round"}', '{"shape": [1, "a"]}'):
        written(path, pixels, description=text, metadata=told)
        with tifffile.TiffFile(path) as file:
            assert (file.pages[0].description, file.pages[0].description1[:1]) == (text, "{")
        with open_tiff(path) as image:
            assert (image.axes, image.meaning.channels) == ("CYX", tuple("abcdef"))
        cut_after_first_page(path)
        agrees(path, pixels[:, None])
    written(path, pixels, description="day 3", metadata=told, compression="zlib")
    cut_after_first_page(path)
    with pytest.raises(InputError, match="promises 6 images"):
        open_tiff(path)


def test_c1_long_notes_in_the_json_of_tifffile_hide_no_pages(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", picture("u1", (6, 9, 7))
    written(path, pixels, metadata={"axes": "ZYX", "notes": "x" * 200_000})
    cut_after_first_page(path)
    agrees(path, pixels[:, None])


def test_a_text_of_imagej_or_ome_goes_before_the_json_of_tifffile(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", picture("u1", (6, 9, 7))
    written(path, pixels, description="ImageJ=1.54f\nimages=6\nslices=6\n", metadata={})
    with open_tiff(path) as image:
        assert image.axes == "ZYX"
    shaped = '{"shape": [6, 9, 7], "axes": "TYX"}'
    assert chosen_description([shaped, "ImageJ=1.54f\n"]) == "ImageJ=1.54f\n"
    assert chosen_description(["day 3", shaped]) == shaped
    assert chosen_description([shaped, shaped.replace("T", "Z")]) == shaped


def test_the_shape_of_another_image_promises_no_pages(tmp_path: Path) -> None:
    told = '{"shape": [5, 16, 8], "axes": "ZYX"}'
    written(tmp_path / "a.tif", picture("u1", (16, 16)), description=told)
    assert read_stack(tmp_path / "a.tif").shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("said", "unit", "z_step"),
    [
        ("yunit=um\nzunit=\\u00B5m\n", "um", (2.0, "um")),
        ("zunit=nm\n", "um", (2.0, "nm")),
        ("yunit=nm\n", "um", (2.0, "um")),
    ],
)
def test_imagej_units_of_rows_and_slices(said: str, unit: str, z_step: tuple[float, str]) -> None:
    found = page_axes(f"ImageJ=1.54f\nimages=3\nslices=3\nunit=micron\n{said}spacing=2\n", 1)
    assert (found.unit, found.z_step) == (unit, z_step)


@pytest.mark.parametrize(
    ("said", "tag", "expected"),
    [
        ("unit=cm\nyunit=cm\n", "CENTIMETER", (4.0, 2.0, "cm")),
        ("unit=cm\nyunit=mm\n", "CENTIMETER", (4.0, 20.0, "cm")),
        ("unit=inch\nyunit=mm\n", "INCH", (4.0, 50.8, "inch")),
        ("unit=micron\nyunit=nm\n", "NONE", (4.0, 2000.0, "um")),
        ("unit=cm\nyunit=furlong\n", "CENTIMETER", None),
        ("unit=furlong\nyunit=cm\n", "NONE", None),
        ("yunit=cm\n", "NONE", None),
        ("unit=furlong\n", "NONE", (4.0, 2.0, "")),
        ("unit=pixel\n", "CENTIMETER", None),
    ],
)
def test_imagej_gives_rows_and_columns_a_unit_each(
    tmp_path: Path, said: str, tag: str, expected: tuple[float, float, str] | None
) -> None:
    options = {"resolution": (4, 2), "resolutionunit": tag}
    text = f"ImageJ=1.54f\n{said}"
    path = written(tmp_path / "a.tif", picture("u1", (3, 4)), description=text, **options)
    with open_tiff(path) as image:
        assert image.resolution == pytest.approx(expected)


@pytest.mark.parametrize(
    "said",
    [
        "",
        'PhysicalSizeX="0.5"',
        'PhysicalSizeX="0" PhysicalSizeY="0"',
        'PhysicalSizeXUnit="nm" PhysicalSizeYUnit="nm"',
    ],
)
def test_the_tags_keep_their_unit_where_ome_says_no_pixel_size(tmp_path: Path, said: str) -> None:
    text = PIXELS.format(f'{said} PhysicalSizeZ="2"').replace('SizeC="2"', 'SizeC="1"')
    options = {"resolution": (10000, 10000), "resolutionunit": "CENTIMETER"}
    path = tmp_path / "a.tif"
    written(path, picture("u1", (3, 3, 4)), description=f"<OME>{text}</Pixels></OME>", **options)
    with open_tiff(path) as image:
        assert image.resolution == (10000, 10000, "cm")
        assert image.meaning.z_step == pytest.approx(2e-4)


def test_the_planes_of_a_hyperstack_share_one_open_file_for_each_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.arange(6 * 2 * 4 * 5, dtype=np.uint8).reshape(6, 2, 4, 5)
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, metadata={"axes": "ZCYX"})
    opened: list[TiffImage] = []

    def counted(path: Path, *, limits: Limits) -> TiffImage:
        opened.append(open_tiff(path, limits=limits))
        return opened[-1]

    monkeypatch.setattr("tiling.tiff.open_tiff", counted)
    with open_source(tmp_path / "a.tif") as source:
        planes = [source.stack([2 * z, 2 * z + 1]) for z in range(6)]
        for rows in (slice(0, 3), slice(3, 4)):
            for plane, expected in zip(planes, array, strict=True):
                np.testing.assert_array_equal(plane[..., rows, 0:5], expected[:, rows])
    assert len(opened) == 3


def test_rows_outside_the_image_are_a_value_error(tmp_path: Path) -> None:
    written(tmp_path / "a.tif", picture("u1", (4, 4)))
    with open_tiff(tmp_path / "a.tif") as image:
        for wrong in ((1, 0, 1), (0, 3, 5), (0, 2, 2), (0, -1, 2)):
            with pytest.raises(ValueError, match="outside"):
                image.read_rows(*wrong)


def test_sha256_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = written(tmp_path / "a.tif", picture("u1", (40, 40)))
    with open_tiff(path) as image:
        assert image.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


# PNG ----------------------------------------------------------------------------------------

PNGS: list[tuple[str, Callable[[], np.ndarray[Any, Any]]]] = [
    ("1", lambda: picture("u1", (11, 13)) > 127),
    ("L", lambda: picture("u1", (11, 13))),
    ("I;16", lambda: picture("u2", (11, 13))),
    ("RGB", lambda: picture("u1", (11, 13, 3))),
    ("RGBA", lambda: picture("u1", (11, 13, 4))),
]


@pytest.mark.parametrize(("mode", "make"), PNGS, ids=[mode for mode, _ in PNGS])
def test_png_pixels_are_read_as_stored(
    tmp_path: Path, mode: str, make: Callable[[], np.ndarray[Any, Any]]
) -> None:
    pixels = make()
    image = Image.fromarray(pixels)
    assert image.mode == mode
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.dtype == pixels.dtype
    expected = pixels if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
    np.testing.assert_array_equal(read, expected[None])


def test_interlaced_png(tmp_path: Path) -> None:
    """Five by five grey pixels, written by hand in the seven passes of Adam7."""
    pixels = picture("u1", (5, 5))
    raw = b""
    for x, y, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                         (1, 0, 2, 2), (0, 1, 1, 2)):  # fmt: skip
        for row in pixels[y::dy, x::dx]:
            raw += b"\0" + row.tobytes()
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 5, 5, 8, 0, 0, 0, 1)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels[None])


def test_grey_with_opaque_alpha_is_grey(tmp_path: Path) -> None:
    pixels = np.full((4, 5, 2), 255, np.uint8)
    pixels[..., 0] = picture("u1", (4, 5))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels[None, ..., 0])
    pixels[2, 2, 1] = 254
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="transparent"):
        read_image(tmp_path / "a.png")


@pytest.mark.data
def test_real_files_equal_other_readers(real_data: Path) -> None:
    """Every readable kind of file in the real data sets, against tifffile and Pillow."""
    paths = [*sorted((real_data / "cells" / "ctc").rglob("*.tif"))[::7]]
    paths += [p for p in sorted((real_data / "large").glob("*.tif")) if p.stat().st_size < 2e7]
    paths += sorted((real_data / "isbi2012").glob("train-*.tif"))
    assert len(paths) > 10
    for path in paths:
        expected = tifffile.imread(path)
        np.testing.assert_array_equal(read_image(path).squeeze(), expected.squeeze())


def test_values_of_tags_behind_the_pixels_are_no_image_of_a_cut_stack(tmp_path: Path) -> None:
    size = 16
    text = b"ImageJ=1.54f\nimages=3\nslices=3\n\0"
    tags = [(256, 3, 1, size), (257, 3, 1, size), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
            (270, 2, len(text), 0), (273, 4, 1, 0), (278, 3, 1, size), (279, 4, 1, size * size),
            (65000, 7, size * size, 0)]  # fmt: skip
    place = 8 + 2 + 12 * len(tags) + 4
    starts = {270: place, 273: place + len(text), 65000: place + len(text) + 2 * size * size}
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, starts.get(tag, value))
        for tag, kind, count, value in tags
    )
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + text
    path = tmp_path / "a.tif"
    path.write_bytes(content + bytes(2 * size * size) + b"T" * size * size)
    with pytest.raises(InputError, match="promises 3 images but there are 1 pages and bytes for 2"):
        open_tiff(path)
