"""Fault C1 again: a file says that it holds, or means, more than lies in its pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_c_images import described, images, order_of_pages, refused  # see conftest.py

from tiling.strict_tiff import open_tiff

OME = '<OME><Image><Pixels DimensionOrder="XYCZT" {}></Pixels></Image></OME>'


# numbers of OME-XML ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["5.0", " 5.", "+005.000"])
def test_c1_a_whole_number_of_planes_with_a_point_is_one(tmp_path: Path, size: str) -> None:
    text = OME.format(f'SizeZ="{size}" SizeC="1" SizeT="1"')
    refused(tmp_path / "a.tif", described(text, 3), "cut off.* promises 5 planes")
    (tmp_path / "b.tif").write_bytes(described(text, 5))
    assert order_of_pages(tmp_path / "b.tif") == ("ZYX", [0, 1, 2, 3, 4])


@pytest.mark.parametrize("axis", "ZCT")
@pytest.mark.parametrize("size", ["5.5", "-5", "5e0", "five", "5,0", "0x5", "9" * 19, "."])
def test_c1_a_number_of_planes_that_is_none_is_refused(
    tmp_path: Path, axis: str, size: str
) -> None:
    for pages in (1, 3, 5):
        content = described(OME.format(f'Size{axis}="{size}"'), pages)
        refused(tmp_path / "a.tif", content, f"whose Size{axis} is '{size}', .* number; export it")


def test_c1_a_number_of_planes_of_a_later_image_that_is_none_is_refused(tmp_path: Path) -> None:
    text = images("<TiffData/>", "<TiffData/>")
    first, last = text.rsplit('SizeZ="3"', 1)
    refused(tmp_path / "a.tif", described(f'{first}SizeZ="many"{last}', 6), "SizeZ is 'many'")


@pytest.mark.parametrize("size", ["", "0", " "])
def test_a_number_of_planes_that_says_nothing_is_one(tmp_path: Path, size: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(described(OME.format(f'SizeZ="{size}" SizeT="3"'), 3))
    assert order_of_pages(path) == ("TYX", [0, 1, 2])


# descriptions of ImageJ and of old versions of tifffile ---------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "ImageJ=1.54f\rimages=5\rslices=5\r",
        "ImageJ=1.54f\r\nimages=5\r\nslices=5\r\n",
        "ImageJ=1.54f\n\0images=5\nslices=5\n",
        "\0ImageJ=1.54f\nimages=5\0slices=5\0",
        "ImageJ=1.54f\n  images=5\n\tslices=5\n",
        "ImageJ=1.54f\nimages = 5 \nslices =\t5\n",
        " \n ImageJ=1.54f\nimages=5.0\nslices=5.0\n",
    ],
)
def test_c1_imagej_written_in_another_manner_keeps_its_promise(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.tif"
    refused(path, described(text, 3), "promises 5 images but there are 3 pages")
    path.write_bytes(described(text, 5))
    assert order_of_pages(path) == ("ZYX", [0, 1, 2, 3, 4])


def test_what_an_earlier_text_left_behind_a_nul_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(described("ImageJ=1.54f\nimages=3\nslices=3\n\0images=5\nslices=5\n", 3))
    assert order_of_pages(path) == ("ZYX", [0, 1, 2])
    path.write_bytes(described("day 3\0ImageJ=1.54f\nimages=5\n", 3))
    with open_tiff(path) as image:
        assert (image.axes, image.description) == ("IYX", "day 3")


@pytest.mark.parametrize(
    "text", ["shape=(5, 6, 8)", "shape=(5,6,8)", "shape=(5, 1, 6, 8, 1)", "shape=(5, 6, 8)\n"]
)
def test_c1_the_shape_that_tifffile_once_wrote_keeps_its_promise(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.tif"
    refused(path, described(text, 3), "promises 5 images but there are 3 pages")
    path.write_bytes(described(text, 5))
    assert order_of_pages(path) == ("IYX", [0, 1, 2, 3, 4])


@pytest.mark.parametrize("text", ["shape=(5, 9, 8)", "shape=(5, a)", "shape=()", "shape=round"])
def test_a_shape_that_is_none_or_of_another_image_promises_nothing(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "a.tif").write_bytes(described(text, 3))
    assert order_of_pages(tmp_path / "a.tif") == ("IYX", [0, 1, 2])
