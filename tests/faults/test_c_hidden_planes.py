"""Fault C1 once more: planes that lie, or are promised, where nobody looks for them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from broken_tiff import tiff
from test_c_images import described, order_of_pages, refused  # see conftest.py

from tiling.ifd import Limits, walk
from tiling.input_file import InputFile
from tiling.strict_tiff import open_tiff

IMAGE = np.arange(48, dtype=np.uint8).reshape(6, 8)


# images in SubIFDs ----------------------------------------------------------------------------


def with_below(
    path: Path, *below: dict[int, Any], big: bool = False, order: str = "<", paged: bool = False
) -> None:
    """Write a TIFF whose first page has images below it, pages too where it is `paged`."""
    count = max(2, len(below))
    strips = [{273: (4, 16 + 48 * n), 279: (4, 48)} for n in range(count + 1)]
    first_page = {330: (4, [0] * count), **strips[0]}
    later = [strip | tags for strip, tags in zip(strips[1:], below, strict=False)]
    data = bytes(range(48)) * (count + 1)
    path.write_bytes(tiff(first_page, *later, data=data, big=big, order=order))
    with InputFile(path) as file:
        first, *others = walk(file, Limits())
    content = bytearray(path.read_bytes())
    places = [ifd.extent[0] for ifd in others]
    struct.pack_into(f"{order}{len(below)}I", content, first.tags[330].start, *places)
    if not paged:
        length = 8 if big else 4
        content[first.extent[1] - length : first.extent[1]] = bytes(length)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", [0, 2, None])
@pytest.mark.parametrize("size", [(8, 6), (9, 6), (8, 7), (16, 3)])
def test_c1_an_image_below_the_page_that_is_not_smaller_is_refused(
    tmp_path: Path, size: tuple[int, int], kind: int | None
) -> None:
    place = {256: (4, size[0]), 257: (4, size[1]), 254: None if kind is None else (4, kind)}
    match = f"{size[0]} x {size[1]} pixels in a SubIFD .* save its images as plain pages"
    for big, order in ((False, "<"), (True, "<"), (False, ">")):
        with_below(tmp_path / "b.tif", {257: (4, 3)}, place, big=big, order=order)
        refused(tmp_path / "a.tif", (tmp_path / "b.tif").read_bytes(), match)


def test_c1_planes_that_tifffile_wrote_as_subifds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(IMAGE, subifds=3, metadata=None)
        for plane in range(3):
            file.write(IMAGE + np.uint8(plane), metadata=None)
    refused(path, path.read_bytes(), "8 x 6 pixels in a SubIFD .* save its images as plain pages")


@pytest.mark.parametrize(
    "below",
    [
        {254: (4, 1)},
        {254: (4, 4)},
        {254: (4, 5)},
        {254: (4, 65537)},
        {255: (3, 2)},
        {256: (4, 4), 257: (4, 3)},
        {257: (4, 3)},
        {256: None},
        {256: (2, b"8\0")},
        {254: (4, [0, 0])},
    ],
)
def test_smaller_copies_masks_and_odd_directories_below_a_page_are_left_alone(
    tmp_path: Path, below: dict[int, Any]
) -> None:
    path = tmp_path / "a.tif"
    with_below(path, {257: (4, 3)}, below)
    with open_tiff(path) as image:
        assert (image.axes, image.doubts) == ("YX", ())
        np.testing.assert_array_equal(image.read_page(0)[0], IMAGE)


@pytest.mark.parametrize(
    "said", [(4, [1 << 31, 3]), (13, [0, 16]), (3, 9), (2, b"none\0"), (4, [16] * 9000), (16, 17)]
)
def test_places_of_no_directory_below_a_page_are_left_alone(tmp_path: Path, said: Any) -> None:
    (tmp_path / "a.tif").write_bytes(tiff({330: said}))
    assert order_of_pages(tmp_path / "a.tif") == ("YX", [47])


def test_pages_that_are_also_said_to_lie_below_the_first_are_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with_below(path, {}, {}, paged=True)
    with open_tiff(path) as image:
        assert (image.axes, image.pages, image.doubts) == ("IYX", 3, ())


def test_another_kind_of_image_below_a_page_is_a_doubt(tmp_path: Path) -> None:
    rgb = {277: (3, 3), 262: (3, 2), 258: (3, [8, 8, 8])}
    with_below(tmp_path / "a.tif", {257: (4, 3)}, rgb)
    with open_tiff(tmp_path / "a.tif") as image:
        assert image.doubts == (
            "has another image of its size in a SubIFD of its first page, which is not read",
        )


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("ome", [True, False])
def test_pyramids_are_read_as_before(tmp_path: Path, marked: bool, ome: bool) -> None:
    path = tmp_path / ("a.ome.tif" if ome else "a.tif")
    stack = np.random.default_rng(0).integers(0, 256, (3, 64, 96), dtype=np.uint8)
    with tifffile.TiffWriter(path, ome=ome, bigtiff=ome) as file:
        told: dict[str, Any] = {"photometric": "minisblack", "tile": (16, 16)}
        file.write(stack, subifds=2, metadata={"axes": "ZYX"} if ome else None, **told)
        for step in (2, 4):
            small = stack[:, ::step, ::step]
            file.write(small, subfiletype=int(marked), metadata=None, **told)
    with open_tiff(path) as image:
        assert (image.pages, image.doubts) == (3, ())
        np.testing.assert_array_equal([image.read_page(page)[0] for page in range(3)], stack)


# OME-XML that does not say the order of its planes --------------------------------------------

NO_ORDER = ["", 'DimensionOrder=""', 'DimensionOrder="YXZCT"', 'DimensionOrder="XYZC"']
SAID = "<OME><Image><Pixels {} {}>{}</Pixels></Image></OME>"


@pytest.mark.parametrize("order", NO_ORDER)
@pytest.mark.parametrize("sizes", ['SizeZ="4"', 'SizeC="2" SizeT="2"', 'SizeT="4"'])
@pytest.mark.parametrize("planes", ["", "<TiffData/>", '<TiffData IFD="0" PlaneCount="4"/>'])
def test_c1_ome_without_an_order_keeps_its_promise(
    tmp_path: Path, order: str, sizes: str, planes: str
) -> None:
    path, text = tmp_path / "a.tif", SAID.format(order, sizes, planes)
    for pages in (1, 3):
        refused(path, described(text, pages), "cut off.* promises 4 planes .*; export it again")
    for pages in (4, 5):
        path.write_bytes(described(text, pages))
        assert order_of_pages(path) == ("IYX", list(range(pages)))


@pytest.mark.parametrize("order", NO_ORDER)
def test_ome_without_an_order_and_with_one_file_of_many_is_read(tmp_path: Path, order: str) -> None:
    files = "".join(
        f'<TiffData IFD="0" FirstZ="{z}"><UUID FileName="{z}.tif">{z}</UUID></TiffData>'
        for z in range(4)
    )
    (tmp_path / "a.tif").write_bytes(described(SAID.format(order, 'SizeZ="4"', files), 1))
    assert order_of_pages(tmp_path / "a.tif") == ("YX", [0])


def test_channels_of_ome_without_an_order_may_be_samples(tmp_path: Path) -> None:
    path, colours = tmp_path / "a.tif", np.zeros((6, 8, 3), np.uint8)
    for z in (1, 2):
        text = SAID.format("", f'SizeZ="{z}" SizeC="3"', "<TiffData/>")
        tifffile.imwrite(path, colours, photometric="rgb", description=text, metadata=None)
        if z == 1:
            with open_tiff(path) as image:
                assert image.axes == "YXS"
        else:
            refused(path, path.read_bytes(), "promises 2 planes")


def test_the_order_of_ome_may_be_in_small_letters(tmp_path: Path) -> None:
    text = SAID.format('DimensionOrder="xyzct"', 'SizeZ="2" SizeC="2"', "<TiffData/>")
    (tmp_path / "a.tif").write_bytes(described(text, 4))
    assert order_of_pages(tmp_path / "a.tif") == ("CZYX", [0, 1, 2, 3])
    refused(tmp_path / "b.tif", described(text, 3), "promises 4 planes")
