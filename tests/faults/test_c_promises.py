"""Fault C1 again: a file says that it holds, or means, more than lies in its pages."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from broken_tiff import tiff
from test_c_images import described, images, order_of_pages, refused  # see conftest.py

from tiling.ome import attributes
from tiling.strict_tiff import open_tiff
from unet2015.info import describe
from unet2015.stack_files import read_stack_pair

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


# OME-XML that ends early ----------------------------------------------------------------------

WHOLE = (
    '<?xml version="1.0"?><!-- Warning: OME-XML --><{0}OME a="1"><{0}Image><{0}Pixels '
    'DimensionOrder="XYCZT" SizeZ="3"><{0}TiffData/></{0}Pixels></{0}Image>'
    "<{0}StructuredAnnotations><{0}A>x</{0}A></{0}StructuredAnnotations></{0}OME>"
)


@pytest.mark.parametrize("prefix", ["", "ome:"])
def test_c1_ome_cut_off_anywhere_is_refused(tmp_path: Path, prefix: str) -> None:
    path, text = tmp_path / "a.tif", WHOLE.format(prefix)
    for behind in ("", "\n", " \0\0\0", "<!-- end -->", "\nSI.x = 1"):
        path.write_bytes(described(text + behind, 3))
        assert order_of_pages(path) == ("ZYX", [0, 1, 2])
    path.write_bytes(described(text[:-1], 3))  # by a writer that counts one too few
    assert order_of_pages(path) == ("ZYX", [0, 1, 2])
    for length in range(text.index("OME-XML") + 3, len(text) - 1):
        refused(path, described(text[:length], 3), "OME-XML .* (cut off|to its end); export it")
    refused(path, described(text.replace("<?xml", "\0<?xml").replace("a=", "\0="), 3), "cut off")


def test_c1_ome_longer_than_what_is_read_is_cut_off_at_its_own_end(tmp_path: Path) -> None:
    path, long = tmp_path / "a.tif", WHOLE.format("").replace("<A>", "<A>" + "x" * (1 << 20))
    for behind in ("", "\0" * 9000, "\0" + "old " * 9000):
        path.write_bytes(described(long + behind, 3))
        assert order_of_pages(path) == ("ZYX", [0, 1, 2])
        if behind[-1:] in ("", "\0"):
            refused(path, described(long[:-4] + behind, 3), "has OME-XML that is cut off")
    short = WHOLE.format("")
    for text, filler in ((long, "\0" * (1 << 18)), (short, "\0" * (1 << 21)), (short, "\0" + long)):
        path.write_bytes(described(text + filler, 3))
        assert order_of_pages(path) == ("ZYX", [0, 1, 2])
    refused(path, described(short[:-4] + "\0" * (1 << 21), 3), "has OME-XML that is cut off")


@pytest.mark.parametrize("text", ["<OME/>", "<?xml version='1.0'?><MetaData><prop/>", "<html>"])
def test_ome_without_content_and_other_xml_are_not_cut_off(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.tif").write_bytes(described(text, 3))
    assert order_of_pages(tmp_path / "a.tif") == ("IYX", [0, 1, 2])


# tags of other programs -----------------------------------------------------------------------


def pages(count: int, first: dict[int, Any] | None = None, **told: Any) -> bytes:
    """A TIFF of 8 x 6 pixels a page, whose page k has the value k everywhere."""
    places = [{273: (4, 16 + 48 * page), 279: (4, 48)} for page in range(count)]
    data = b"".join(bytes([page]) * 48 for page in range(count))
    return tiff(places[0] | (first or {}), *places[1:], data=data, **told)


def doubts_of(path: Path, content: bytes) -> tuple[str, ...]:
    path.write_bytes(content)
    with open_tiff(path) as image:
        assert [int(image.read_page(page).max()) for page in range(image.pages)] == list(
            range(image.pages)
        )
        return image.doubts


def lsm(z: int, t: int, size: tuple[int, int] = (8, 6), magic: int = 0x00400494C) -> Any:
    return lambda order: {
        34412: (1, struct.pack(f"{order}I6i", magic, 500, *size, z, 2, t) + bytes(400))
    }


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("magic", [0x00300494C, 0x00400494C])
def test_c1_lsm_with_fewer_pages_than_planes(tmp_path: Path, order: str, magic: int) -> None:
    path = tmp_path / "a.lsm"
    for z, t in ((5, 1), (1, 5), (5, 0), (2, 2)):
        told = lsm(z, t, magic=magic)(order)
        content = pages(3, told, order=order)
        refused(path, content, rf"cut off.* LSM of {z * (t or 1)} planes .* with 3 page\(s\); expo")
        assert doubts_of(path, pages(z * (t or 1), told, order=order)) == ()


@pytest.mark.parametrize(
    "tags",
    [
        lsm(6, 1, size=(8, 1))("<"),  # a scan of x and z: its planes are rows of one page
        lsm(9, 9, magic=7)("<"),
        lsm(-1, -1)("<"),
        {34412: (1, b"\x4c\x49\x40\0" + bytes(9))},
        {34412: (4, [0x00400494C] * 9)},
    ],
)
def test_other_scans_of_zeiss_are_read(tmp_path: Path, tags: dict[int, Any]) -> None:
    assert doubts_of(tmp_path / "a.lsm", pages(2, tags)) == ()


PLAN = b'{"Slices": 5, "Frames": 2, "Channels": 1}'


@pytest.mark.parametrize(
    "tags",
    [
        {51123: (2, PLAN + b"\0")},
        {51123: (1, b'{"Summary": ' + PLAN + b"}")},
        {270: (2, PLAN + b"\0")},
        {270: (2, b'{"Frames": 10, "Slices": true, "Channels": -1}\0')},
    ],
)
def test_c1_planes_planned_by_micro_manager_are_a_doubt(
    tmp_path: Path, tags: dict[int, Any]
) -> None:
    path = tmp_path / "a.tif"
    (doubt,) = doubts_of(path, pages(3, tags))
    assert re.search(r"planned by Micro-Manager with 10 planes \(.*\) and holds 3: ", doubt)
    assert doubts_of(path, pages(10, tags)) == ()


def test_c1_planes_planned_behind_the_header_of_micro_manager(tmp_path: Path) -> None:
    path, tags = tmp_path / "a.tif", {51123: (2, b"{}\0")}
    plain = pages(3, tags)
    for order, size in (("<", len(PLAN)), ("<", 1 << 31)):
        head = bytes(16) + struct.pack(f"{order}II", 2355492, size) + PLAN
        data = head + b"".join(bytes([page]) * 48 for page in range(3))
        places = [{273: (4, 16 + len(head) + 48 * n), 279: (4, 48)} for n in range(3)]
        told = doubts_of(path, tiff(places[0] | tags, *places[1:], data=data))
        assert len(told) == (size == len(PLAN))
    assert doubts_of(path, plain) == ()


@pytest.mark.parametrize(
    "text", [b"{", b'{"Slices": "5"}', b'{"Channels": 9}', b"[" * 9000, b'{"Summary": [5]}', b""]
)
def test_notes_that_plan_nothing_are_no_doubt(tmp_path: Path, text: bytes) -> None:
    assert doubts_of(tmp_path / "a.tif", pages(3, {51123: (2, text + b"\0")})) == ()


def test_c1_a_page_number_beyond_the_pages_is_a_doubt(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    (doubt,) = doubts_of(path, pages(3, {297: (3, [0, 5])}))
    assert "page 1 of 5 (PageNumber) but has 3" in doubt
    for said in ((3, [0, 3]), (3, [2, 0]), (3, [0, 2]), (4, [0, 9]), (3, 9)):
        assert doubts_of(path, pages(3, {297: said})) == ()


@pytest.mark.parametrize(
    ("tags", "doubt"),
    [
        ({254: (4, 1)}, "smaller copy .* no thumbnail"),
        ({255: (3, 2)}, "smaller copy .* no thumbnail"),
        ({254: (4, 1), 255: (3, 2)}, "smaller copy .* no thumbnail"),
        ({254: (4, 4)}, "a mask of another image"),
        ({254: (4, 2)}, ""),
        ({254: (4, 0)}, ""),
    ],
)
def test_c14_a_file_of_copies_or_masks_alone_is_read_with_a_doubt(
    tmp_path: Path, tags: dict[int, Any], doubt: str
) -> None:
    found = doubts_of(tmp_path / "a.tif", pages(1, tags))
    assert len(found) == bool(doubt)
    assert re.search(doubt, "".join(found))


@pytest.mark.parametrize("order", "<>")
def test_c11_square_roots_of_a_gel_are_refused(tmp_path: Path, order: str) -> None:
    content = pages(1, {33445: (4, 2)}, order=order)
    refused(tmp_path / "a.gel", content, "square roots .*; convert it .* save that")
    for said in ((4, 128), (4, [2, 2]), (2, b"2\0")):
        assert doubts_of(tmp_path / "b.gel", pages(1, {33445: said}, order=order)) == ()


GDAL = '<GDALMetadata><Item name="{0}" sample="0" role="{0}">{1}</Item></GDALMetadata>'


@pytest.mark.parametrize(
    ("tags", "doubt"),
    [
        ({42113: (2, b"-9999\0")}, r"-9999 the number of missing pixels \(GDAL_NODATA\)"),
        ({42113: (2, b"\0")}, ""),
        ({42112: (2, GDAL.format("scale", "0.01").encode())}, r"GDAL: scale 0.01\); .* as stored"),
        ({42112: (2, GDAL.format("offset", "5").encode())}, r"GDAL: offset 5\)"),
        ({42112: (2, GDAL.format("offset", "0").encode())}, ""),
        ({42112: (2, GDAL.format("scale", "1.0").encode())}, ""),
        ({42112: (2, GDAL.format("description", "5").encode())}, ""),
        ({42112: (2, b"<Item " * 90_000)}, ""),
    ],
)
def test_numbers_that_gdal_would_change_are_a_doubt(
    tmp_path: Path, tags: dict[int, Any], doubt: str
) -> None:
    found = doubts_of(tmp_path / "a.tif", pages(1, tags))
    assert len(found) == bool(doubt)
    assert re.search(doubt, "".join(found))


def test_doubts_are_told_by_info_and_by_the_reader_of_stacks(tmp_path: Path) -> None:
    image, labels = tmp_path / "a.tif", tmp_path / "b.tif"
    image.write_bytes(pages(1, {297: (3, [0, 5]), 42113: (2, b"7\0")}))
    labels.write_bytes(pages(1, {297: (3, [0, 9])}))
    assert re.fullmatch("it calls itself page 1 of 5 .*; it calls 7 .*", describe(image)["doubts"])
    notes = read_stack_pair(image, labels).notes
    assert [note.partition(" (")[0] for note in notes[:3]] == [
        f"{image}: calls itself page 1 of 5",
        f"{image}: calls 7 the number of missing pixels",
        f"{labels}: calls itself page 1 of 9",
    ]


@pytest.mark.parametrize(
    ("told", "kind", "doubted"),
    [
        ("float", "u4", "float32 where its tags say uint32"),
        ("int16", "u2", "int16 where its tags say uint16"),
        ("uint16", "u2", ""),
        ("double", "f8", ""),
        ("bit", "u1", ""),
        ("no type", "u1", ""),
    ],
)
@pytest.mark.parametrize("order", "<>")
def test_c1_ome_xml_that_names_another_type_of_numbers(
    tmp_path: Path, told: str, kind: str, doubted: str, order: Literal["<", ">"]
) -> None:
    text = f'<OME><Image><Pixels SizeX="8" SizeY="6" Type="{told}"/></Image></OME>'
    tifffile.imwrite(
        tmp_path / "a.tif", np.ones((6, 8), order + kind), byteorder=order, metadata=None,
        photometric="minisblack", description=text,
    )  # fmt: skip
    with open_tiff(tmp_path / "a.tif") as image:
        if doubted:
            (doubt,) = image.doubts
            assert f"has OME-XML that calls its numbers {doubted}; they are read as" in doubt
        else:
            assert image.doubts == ()


def test_c1_a_character_reference_of_thousands_of_digits_is_no_character(tmp_path: Path) -> None:
    many = "9" * 5000
    (tmp_path / "a.tif").write_bytes(described(OME.format(f'Name="&#{many};" SizeZ="3"'), 3))
    assert order_of_pages(tmp_path / "a.tif") == ("ZYX", [0, 1, 2])
    assert attributes(f"A='&#{many};' B='&#65;'") == {"A": f"&#{many};", "B": "A"}


# NIH Image ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [1, 3, 7])
@pytest.mark.parametrize("order", "<>")
def test_c24_the_slices_of_nih_image_are_not_overlooked(
    tmp_path: Path, kind: int, order: Literal["<", ">"]
) -> None:
    def nih(slices: int, mark: bytes = b"IPICTIMG") -> dict[int, Any]:
        header = bytearray(512)
        header[: len(mark)] = mark
        struct.pack_into(">h", header, 260, slices)
        return {43314: (kind, bytes(header))}

    path = tmp_path / "a.tif"
    refused(path, tiff(nih(4), order=order), "stack of NIH Image of 4 slices with 1 page.*ImageJ")
    for tags in (nih(1), nih(0), nih(-3), nih(4, b"other"), {43314: (kind, bytes(20))}):
        path.write_bytes(tiff(tags, order=order))
        with open_tiff(path) as image:
            assert (image.pages, image.doubts) == (1, ())


# texts in other encodings ---------------------------------------------------------------------


@pytest.mark.parametrize("head", ["", "\ufeff", '<?xml version="1.0"?>'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_c1_ome_in_utf_16_is_read(tmp_path: Path, encoding: str, head: str) -> None:
    size = 'PhysicalSizeX="0.5" PhysicalSizeXUnit="µm" PhysicalSizeY="0.25"'
    text = (head + OME.format(f'SizeZ="3" {size}')).encode(encoding)
    path = tmp_path / "a.tif"
    pages = [{273: (4, 16 + 48 * i), 279: (4, 48)} for i in range(3)]
    path.write_bytes(tiff(pages[0] | {270: (2, text + b"\0\0")}, *pages[1:], data=bytes(144)))
    with open_tiff(path) as image:
        assert (image.axes, image.resolution) == ("ZYX", (2.0, 4.0, "um"))
    refused(path, tiff(pages[0] | {270: (2, text)}, data=bytes(144)), "promises 3 planes")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_c1_a_micrometre_in_latin_1_is_one(tmp_path: Path, encoding: str) -> None:
    ome = OME.format('PhysicalSizeX="0.5" PhysicalSizeXUnit="µm" PhysicalSizeY="0.25"')
    for text in (ome, "ImageJ=1.54f\nunit=µm\n"):
        tags = {270: (2, text.encode(encoding) + b"\0"), 282: (5, struct.pack("<2I", 2, 1))}
        path = tmp_path / "a.tif"
        path.write_bytes(tiff(tags | {283: (5, struct.pack("<2I", 4, 1)), 296: (3, 1)}))
        with open_tiff(path) as image:
            assert image.resolution == (2.0, 4.0, "um")


def test_bytes_that_are_no_text_are_shown_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(
        tiff({270: (2, "é µ ".encode() + b"\xe9 \x80\xff" + "µ".encode()[:1] + b"\0")})
    )
    with open_tiff(path) as image:
        assert image.description == "é µ é \ufffdÿÂ"
