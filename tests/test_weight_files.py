"""Label files of every kind become instances; weight map files tell what they are."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from tiling.faults import InputError, WriteError
from tiling.strict_tiff import open_tiff, read_stack
from weightmaps import weight_map
from weightmaps.annotations import find_label_files, refuse_same_names
from weightmaps.files import LabelRule, read_history, read_labels, write_map
from weightmaps.label_rule import ids_of, looks_like_image, taken_as
from weightmaps.map_file import Shape, intact
from weightmaps.preview import Thumbnail, heat_map_png, panel_pages

CELLS = np.array([[1, 1, 0, 2], [0, 0, 0, 2], [3, 0, 1, 1]], np.uint16)
MASK = np.array([[1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 1, 1]], bool)
BY_4 = [[1, 1, 0, 2], [0, 0, 3, 0], [4, 0, 3, 3]]
BY_8 = [[1, 1, 0, 1], [0, 0, 1, 0], [2, 0, 1, 1]]


def tiff(path, array, **options):
    tifffile.imwrite(path, array, photometric="minisblack", metadata=None, **options)
    return path


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


# -- how values are taken ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ({0: 5, 255: 5}, np.uint8, "mask"),
        ({0: 5, 1: 5}, np.uint8, "mask"),
        ({255: 5}, np.uint8, "mask"),
        ({0: 5}, np.uint8, "mask"),
        ({0: 5, 65535: 5}, np.uint16, "mask"),
        ({0: 5, 255: 5}, np.uint16, "mask"),
        ({0: 5, 7: 5}, np.uint8, "instances"),
        ({0: 5, 1: 5, 2: 5}, np.uint8, "instances"),
        ({0: 90} | dict.fromkeys(range(1, 256), 1), np.uint8, "instances"),
        (None, np.uint16, "instances"),
        ({0.0: 5, 1.0: 5}, np.float32, "mask"),
    ],
)
def test_the_rule_of_auto(values, dtype, expected):
    assert taken_as(LabelRule(), values, dtype) == expected


@pytest.mark.parametrize(
    "values",
    [
        {0: 40, 1: 2, 3: 2, 252: 3, 255: 50},  # JPEG
        {0: 40, 127: 30, 255: 30},  # three classes
        {0: 10, 32: 1, 64: 1, 96: 1, 128: 1, 159: 1, 191: 1, 223: 1, 255: 60},  # VNC class codes
    ],
)
def test_grey_levels_are_refused_with_the_remedy(values):
    with pytest.raises(ValueError, match=r"--labels instances .* or --threshold"):
        taken_as(LabelRule(), values, np.uint8)
    assert taken_as(LabelRule("instances"), values, np.uint8) == "instances"
    assert taken_as(LabelRule(threshold=128), values, np.uint8) == "mask"


def test_a_mask_has_two_values():
    with pytest.raises(ValueError, match="0 and one other, this file has 0, 1, 2"):
        taken_as(LabelRule("mask"), {0: 1, 1: 1, 2: 1}, np.uint8)


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="about masks"):
        LabelRule("instances", inside="zero")
    with pytest.raises(ValueError, match="choose 4 or 8"):
        LabelRule(connectivity=6)
    with pytest.raises(ValueError, match="ignore label 0"):
        LabelRule(ignore_label=0)


def test_an_image_is_recognised_labels_are_not():
    rng = np.random.default_rng(0)
    assert looks_like_image(rng.integers(0, 256, (80, 80), dtype=np.uint8))
    assert not looks_like_image(np.kron(np.arange(100).reshape(10, 10), np.ones((8, 8), int)))
    assert not looks_like_image(rng.integers(0, 9, (5, 5)))


# -- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_becomes_components(tmp_path, value):
    path = tiff(tmp_path / "m.tif", MASK.astype(np.uint8) * np.uint8(value))
    assert read_labels(path).tolist() == [BY_4]
    assert read_labels(path, LabelRule(connectivity=8)).tolist() == [BY_8]


def test_one_bit_masks_are_masks(tmp_path):
    assert read_labels(tiff(tmp_path / "m.tif", MASK)).tolist() == [BY_4]
    assert read_labels(png(tmp_path / "m.png", MASK)).tolist() == [BY_4]


def test_the_other_polarity(tmp_path):
    path = tiff(tmp_path / "m.tif", np.where(MASK, 0, 255).astype(np.uint8))
    assert read_labels(path, LabelRule(inside="zero")).tolist() == [BY_4]


def test_slices_of_a_mask_are_labelled_one_by_one(tmp_path):
    stack = np.stack([MASK, MASK[::-1], MASK]).astype(np.uint8) * np.uint8(255)
    found = read_labels(tiff(tmp_path / "s.tif", stack))
    assert found.shape == (3, 3, 4)
    assert found[0].tolist() == found[2].tolist() == BY_4
    assert found[1].max() == 4


def test_three_slices_written_as_planar_colour_are_slices(tmp_path):
    stack = np.stack([CELLS, CELLS + 1, CELLS + 2]).astype(np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="rgb", planarconfig="separate")
    assert (read_labels(tmp_path / "s.tif") == stack).all()


def test_ids_stay_as_they_are(tmp_path):
    assert (read_labels(tiff(tmp_path / "i.tif", CELLS)) == CELLS).all()
    huge = CELLS.astype(np.uint64) << np.uint64(54)
    assert (read_labels(tiff(tmp_path / "h.tif", huge)) == huge).all()


def test_whole_float_labels_are_ids(tmp_path):
    found = read_labels(tiff(tmp_path / "f.tif", CELLS.astype(np.float32)))
    assert found.dtype.kind == "i"
    assert (found == CELLS).all()


def test_a_folder_of_masks_is_one_image_the_first_by_name_wins(tmp_path):
    a, b = np.zeros((2, 3, 4), np.uint8)
    a[0, :2], b[0, 1:] = 255, 255
    png(tmp_path / "cell" / "masks" / "2.png", b)
    png(tmp_path / "cell" / "masks" / "1.png", a)
    for name in (tmp_path / "cell", tmp_path / "cell" / "masks"):
        assert read_labels(name).tolist() == [[[1, 1, 2, 2], [0, 0, 0, 0], [0, 0, 0, 0]]]
    assert [f.stem for f in find_label_files([tmp_path, tmp_path / "cell"])] == ["cell"]


def test_masks_of_one_image_have_one_size(tmp_path):
    png(tmp_path / "c" / "masks" / "1.png", np.zeros((3, 4), np.uint8))
    png(tmp_path / "c" / "masks" / "2.png", np.zeros((4, 3), np.uint8))
    with pytest.raises(InputError, match=r"2\.png: is 4 x 3, but 1\.png is 3 x 4"):
        read_labels(tmp_path / "c")


def test_zarr_labels(tmp_path):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(
        str(tmp_path / "z.zarr"), shape=(2, 3, 4), dtype="u2", chunks=(1, 2, 4)
    )
    array[...] = np.stack([CELLS, CELLS * 2])
    assert (read_labels(tmp_path / "z.zarr") == np.stack([CELLS, CELLS * 2])).all()
    assert [f.stem for f in find_label_files([tmp_path])] == ["z"]


def test_the_ignore_label_of_a_mask_is_nobodys_id():
    components, rows = np.array([[1, 0, 2, 3]], np.int32), np.array([[255, 2, 255, 255]])
    found = ids_of(components, rows, LabelRule(ignore_label=2))
    assert found.tolist() == [[1, 2, 3, 4]]
    low = ids_of(components, rows, LabelRule(ignore_label=-1))
    assert low.tolist() == [[1, 0, 2, 3]]


def test_an_ignore_value_in_a_mask_file(tmp_path):
    values = np.array([[255, 255, 7, 255, 0, 255]], np.uint8)
    found = read_labels(tiff(tmp_path / "m.tif", values), LabelRule(ignore_label=7))
    assert found.tolist() == [[[1, 1, 7, 2, 0, 3]]]


# -- names ------------------------------------------------------------------------------------


def test_folders_globs_and_files_in_any_mix_each_once(tmp_path):
    for name in ("b.tif", "a.png", "x.weights.tif", "x.weights.png", ".hidden.tif", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = find_label_files([str(tmp_path / "b*"), tmp_path, tmp_path / "a.png"])
    assert [f.path.name for f in found] == ["b.tif", "a.png"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path):
    for name in ("s[1].tif", "s1.tif"):
        (tmp_path / name).write_bytes(b"x")
    assert [f.path.name for f in find_label_files([tmp_path / "s[1].tif"])] == ["s[1].tif"]
    assert [f.path.name for f in find_label_files([tmp_path / "s[12].tif"])] == ["s1.tif"]


@pytest.mark.parametrize("name", ["absent.tif", "absent*.tif", ""])
def test_nothing_behind_a_name(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no such file|no label file|an empty name"):
        find_label_files([name])


def test_an_ome_ending_is_no_part_of_the_stem(tmp_path):
    (tmp_path / "s.ome.tif").write_bytes(b"x")
    assert find_label_files([tmp_path])[0].stem == "s"


def test_equal_stems_are_refused_naming_both(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.tif").write_bytes(b"x")
    with pytest.raises(InputError, match=r"b.t\.tif: .* same output as .*a.t\.tif"):
        refuse_same_names(find_label_files([tmp_path / "a", tmp_path / "b"]), tmp_path)


# -- weight map files -------------------------------------------------------------------------


def test_a_map_is_read_back_by_other_readers(tmp_path):
    stack = weight_map(np.stack([CELLS, CELLS[::-1]]))
    write_map(tmp_path / "w.tif", stack, history={"format": "weight-map/1", "cells": 3})
    assert (tifffile.imread(tmp_path / "w.tif") == stack).all()
    assert (read_stack(tmp_path / "w.tif") == stack).all()
    with Image.open(tmp_path / "w.tif") as image:
        assert (np.asarray(image) == stack[0]).all()
        assert image.n_frames == 2


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_type_of_map(tmp_path, dtype):
    stack = weight_map(CELLS, dtype=dtype)
    write_map(tmp_path / "w.tif", stack, history={})
    with open_tiff(tmp_path / "w.tif") as image:
        assert image.dtype == dtype
        assert (image.read_page(0)[0] == stack).all()


def test_the_history_is_json_in_the_description(tmp_path):
    write_map(tmp_path / "w.tif", np.ones((2, 2), np.float32), history={"format": "weight-map/1"})
    with tifffile.TiffFile(tmp_path / "w.tif") as file:
        history = json.loads(file.pages[0].description)["unet2015"]
    assert history == read_history(tmp_path / "w.tif")
    assert len(history["pixels_sha256"]) == 64
    assert read_history(tiff(tmp_path / "other.tif", CELLS)) is None


def test_a_changed_pixel_is_noticed(tmp_path):
    path = tmp_path / "w.tif"
    write_map(path, np.ones((4, 4), np.float32), history={"format": "weight-map/1"})
    assert intact(path)[1]
    history = json.dumps({"unet2015": read_history(path)})
    tifffile.imwrite(path, np.full((4, 4), 2, np.float32), description=history, metadata=None)
    assert not intact(path)[1]


def test_an_existing_map_is_kept(tmp_path):
    write_map(tmp_path / "w.tif", np.ones((2, 2), np.float32), history={})
    with pytest.raises(WriteError, match="already exists"):
        write_map(tmp_path / "w.tif", np.zeros((2, 2), np.float32), history={})
    assert read_stack(tmp_path / "w.tif").max() == 1


def test_strips_are_about_a_quarter_megabyte():
    assert Shape(1, 512, 512, "float32").strip_rows == 128
    assert Shape(1, 10, 10, "float32").strip_rows == 10
    assert Shape(1, 10, 10**6, "float32").strip_rows == 1


# -- pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1024, 3), (1025, 700), (3000, 2100)])
def test_a_thumbnail_is_the_largest_weight_of_each_square(height, width):
    page = np.random.default_rng(1).random((height, width)).astype(np.float32)
    small = Thumbnail(height, width)
    for top in range(0, height, 333):
        small.add(page[top : top + 333])
    factor = -(-max(height, width) // 1024)
    for y, x in [(0, 0), (small.pixels.shape[0] - 1, small.pixels.shape[1] - 1)]:
        square = page[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        assert small.pixels[y, x] == square.max()
    assert small.pixels.max() == page.max()


def test_the_picture_is_a_png_and_always_the_same():
    pages = {k: weight_map(CELLS) for k in panel_pages(9)}
    first = heat_map_png(pages, title="a $b_c$ \udcff ü")
    assert first.startswith(b"\x89PNG")
    assert first == heat_map_png(pages, title="a $b_c$ \udcff ü")
