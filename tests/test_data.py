"""The labelled stack: reading, meaning of label values, splitting, weighing, drawing."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import weightmaps
from tiling.faults import InputError
from unet2015.cli_train import replace_fields
from unet2015.data import (
    Stack,
    batches,
    draw_tile,
    output_px,
    read_stack_pair,
    read_weights,
    split,
    weigh,
)
from unet2015.label_values import as_class_labels, parse_label_values
from unet2015.net import UNet
from unet2015.recipe import dic_hela, isbi2012, quick
from unet2015.splitting import held_out_slices, parse_slices
from unet2015.weighing import without_unlabelled

SMALL = replace(
    isbi2012(), depth=2, tile_px=60, base_channels=2, steps=6, batch=2, displacement_std_px=4.0
)


def cells(count=6, height=48, width=52, dtype=np.uint8):
    """Stack of noise with two square cells per slice, 3 px apart."""
    random = np.random.default_rng(0)
    images = random.integers(0, 200, (count, 1, height, width)).astype(dtype)
    labels = np.zeros((count, height, width), np.int64)
    labels[:, 8:30, 5:20] = labels[:, 8:30, 23:40] = 1
    return Stack(images, labels)


def write(path, array):
    tifffile.imwrite(path, array, photometric="minisblack")
    return path


# Reading


def test_multi_page_stack_keeps_order_and_polarity(tmp_path):
    images = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
    masks = np.where(images % 3 == 0, 255, 0).astype(np.uint8)
    stack = read_stack_pair(write(tmp_path / "i.tif", images), write(tmp_path / "l.tif", masks))
    assert stack.names == ("0", "1", "2", "3")
    assert stack.instances is None
    for i in range(4):
        assert (stack.images[i][0] == images[i]).all()
        assert (stack.labels[i] == (images[i] % 3 == 0)).all()  # 255 = inside a cell = class 1
        assert stack.labels[i].dtype == np.int64


@pytest.mark.parametrize("stored", [bool, np.uint8])
def test_masks_stored_with_white_zeros_are_told(tmp_path, stored):
    images = write(tmp_path / "i.tif", np.zeros((2, 6, 8), np.uint8))
    cells = np.arange(96).reshape(2, 6, 8) % 5 == 0
    mask = cells if stored is bool else np.where(cells, 255, 0).astype(np.uint8)
    tifffile.imwrite(tmp_path / "l.tif", mask, photometric="miniswhite", metadata=None)
    stack = read_stack_pair(images, tmp_path / "l.tif")
    assert (np.array(stack.labels) == ~cells).all()
    largest = 1 if stored is bool else 255
    assert stack.notes == (
        f"{tmp_path / 'l.tif'}: stored as MinIsWhite: zeros are read as {largest}"
        f" (--label-values {largest},0 takes the others as class 1)",
    )
    other = read_stack_pair(images, tmp_path / "l.tif", label_values=[largest, 0])
    assert (np.array(other.labels) == cells).all()
    assert other.notes == ()


def test_a_folder_of_masks_stored_with_white_zeros_is_told_once(tmp_path):
    cell = np.zeros((6, 8), np.uint8)
    cell[2:4, 2:5] = 255
    for name in "abc":
        for kind in ("images", "masks", "i", "l"):
            folder = tmp_path / name / kind if len(kind) > 1 else tmp_path / kind
            folder.mkdir(parents=True, exist_ok=True)
            white = "miniswhite" if kind in ("masks", "l") else "minisblack"
            tifffile.imwrite(folder / f"{name}.tif", cell, photometric=white, metadata=None)
    stack = read_stack_pair(tmp_path / "i", tmp_path / "l")
    (note,) = stack.notes
    assert note.startswith(f"{tmp_path / 'l' / 'a.tif'} and 2 more: stored as MinIsWhite: zeros")
    for folder in ("i", "l"):
        shutil.rmtree(tmp_path / folder)
    samples = read_stack_pair(tmp_path)
    assert samples.notes == (
        f"{tmp_path / 'a' / 'masks' / 'a.tif'} and 2 more: stored as MinIsWhite: zeros are read as"
        " the cell",
    )
    assert (samples.labels[0] == (cell == 0)).all()


def test_zeros_and_ones_stored_with_white_zeros_ask_back(tmp_path):
    images = write(tmp_path / "i.tif", np.zeros((6, 8), np.uint8))
    cells = np.arange(48).reshape(6, 8) % 5 == 0
    tifffile.imwrite(tmp_path / "l.tif", cells.astype(np.uint8), photometric="miniswhite")
    with pytest.raises(InputError, match=r"read as 254 and 255; .*label-values 255,254"):
        read_stack_pair(images, tmp_path / "l.tif")
    stack = read_stack_pair(images, tmp_path / "l.tif", label_values=[255, 254])
    assert (stack.labels[0] == cells).all()


def test_ids_stored_with_white_zeros_are_refused(tmp_path):
    images = write(tmp_path / "i.tif", np.zeros((6, 8), np.uint8))
    ids = (np.arange(48).reshape(6, 8) % 3).astype(np.uint8)
    tifffile.imwrite(tmp_path / "l.tif", ids, photometric="miniswhite", metadata=None)
    with pytest.raises(InputError, match="stores ids as MinIsWhite, inverted; save it as"):
        read_stack_pair(images, tmp_path / "l.tif")
    given = read_stack_pair(images, tmp_path / "l.tif", classes=3, label_values=[255, 254, 253])
    assert (given.labels[0] == ids).all()


@pytest.mark.data
def test_isbi_stack_order_and_polarity(real_data):
    # docs/fidelity.md, check 38: 0 is membrane, darker than cells; neighbouring slices look alike.
    folder = real_data / "isbi2012"
    stack = read_stack_pair(folder / "train-volume.tif", folder / "train-labels.tif")
    assert len(stack) == 30
    assert stack.images[0].shape == (1, 512, 512)
    direct = tifffile.imread(folder / "train-volume.tif")
    for i in (0, 13, 29):
        image, label = stack.images[i][0], stack.labels[i]
        assert (image == direct[i]).all()
        assert 0.65 < label.mean() < 0.9
        assert image[label == 0].mean() < image[label == 1].mean() - 20
    train, val = split(stack, "12-14,27-29")
    assert (len(train), len(val)) == (24, 6)
    assert split(stack, 0.2)[1].names == val.names


def test_folders_are_paired_by_stem_in_counting_order(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in (10, 2, 1):
        write(tmp_path / "images" / f"s{i}.tif", np.full((9 + i, 8), i, np.uint8))
        Image.fromarray(np.full((9 + i, 8), 255 * (i == 2), np.uint8)).save(
            tmp_path / "labels" / f"s{i}.png"
        )
    (tmp_path / "labels" / ".hidden.png").write_bytes(b"")
    (tmp_path / "labels" / "README.txt").write_text("x")
    stack = read_stack_pair(tmp_path / "images", tmp_path / "labels")
    assert stack.names == ("s1", "s2", "s10")
    assert [int(image.max()) for image in stack.images] == [1, 2, 10]
    assert [int(label.max()) for label in stack.labels] == [0, 1, 0]
    assert [image.shape[1] for image in stack.images] == [10, 11, 19]


def test_weight_maps_beside_their_labels_are_no_labels(tmp_path, capsys):
    from weightmaps.cli import main

    for folder, factor in (("images", 9), ("labels", 255)):
        (tmp_path / folder).mkdir()
        for i in (1, 2):
            write(tmp_path / folder / f"{i}.tif", np.eye(8, dtype=np.uint8) * factor)
    assert main([str(tmp_path / "labels"), "--preview"]) == 0
    capsys.readouterr()
    assert (tmp_path / "labels" / "1.weights.png").is_file()
    stack = read_stack_pair(tmp_path / "images", tmp_path / "labels")
    assert stack.names == ("1", "2")
    from_files = read_weights(tmp_path / "labels", stack, isbi2012())
    assert (from_files.weights[1] == weigh(stack, isbi2012()).weights[1]).all()
    for i in (1, 2):
        (tmp_path / "labels" / f"{i}.tif").unlink()
    with pytest.raises(InputError, match="holds no TIFF or PNG file besides weight maps"):
        read_stack_pair(tmp_path / "images", tmp_path / "labels")


def test_cell_tracking_names_are_paired_by_their_number(tmp_path):
    for name, number in (("a", 3), ("a", 12)):
        (tmp_path / name).mkdir(exist_ok=True)
        write(tmp_path / name / f"t{number:03}.tif", np.full((4, 4), number, np.uint8))
        (tmp_path / "b").mkdir(exist_ok=True)
        write(tmp_path / "b" / f"man_seg{number:03}.tif", np.full((4, 4), number * 10, np.uint16))
    stack = read_stack_pair(tmp_path / "a", tmp_path / "b", meaning="instances")
    assert stack.names == ("t003", "t012")
    assert [int(i.max()) for i in stack.instances] == [30, 120]
    assert [int(i.max()) for i in stack.labels] == [1, 1]


def samples(root, overlap=False):
    for k, (height, width) in enumerate(((6, 7), (8, 9))):
        folder = root / f"id{k}"
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        rgba = np.full((height, width, 4), 255, np.uint8)
        rgba[..., :3] = np.arange(width, dtype=np.uint8)[None, :, None]
        Image.fromarray(rgba).save(folder / "images" / f"id{k}.png")
        for j in range(2):
            mask = np.zeros((height, width), np.uint8)
            mask[1:3, 3 * j : 3 * j + 2 + overlap * 2] = 255
            Image.fromarray(mask).save(folder / "masks" / f"cell{j}.png")
    return root


def test_folders_with_one_mask_per_cell(tmp_path):
    stack = read_stack_pair(samples(tmp_path), channels=1)
    assert stack.names == ("id0", "id1")
    assert stack.images[0].shape == (1, 6, 7)
    assert stack.instances[0][1].tolist() == [1, 1, 0, 2, 2, 0, 0]
    assert stack.labels[0][1].tolist() == [1, 1, 0, 1, 1, 0, 0]
    assert any("alpha" in note for note in stack.notes)
    assert any("equal channels" in note for note in stack.notes)


def test_overlapping_masks_are_told(tmp_path):
    stack = read_stack_pair(samples(tmp_path, overlap=True), channels=1)
    assert stack.instances[0][1].tolist() == [1, 1, 1, 1, 2, 2, 2]
    assert any("2 pixels in two masks" in note for note in stack.notes)


@pytest.mark.data
def test_data_science_bowl_folder(real_data, tmp_path):
    counts = {"93cfd412": 6, "220b37f4": 1, "45f059cf": 15}  # the last one is in colour
    for sample in (real_data / "cells" / "dsb2018" / "stage1_train").iterdir():
        if sample.name[:8] in counts:
            (tmp_path / sample.name).symlink_to(sample)
    stack = read_stack_pair(tmp_path, channels=3)
    assert {name[:8]: len(np.unique(i)) - 1
            for name, i in zip(stack.names, stack.instances, strict=True)} == counts  # fmt: skip
    with pytest.raises(InputError, match=r"45f059cf.* is a colour image"):
        read_stack_pair(tmp_path, channels=1)


@pytest.mark.parametrize("count", [3, 4])
def test_slices_written_as_planar_rgb_are_slices(tmp_path, count):
    images = np.random.default_rng(0).integers(0, 255, (count, 9, 8), dtype=np.uint8)
    masks = np.where(images > 128, 255, 0).astype(np.uint8)
    extra = {"extrasamples": ("unassalpha",)} if count == 4 else {}
    for name, array in (("i", images), ("l", masks)):
        tifffile.imwrite(
            tmp_path / f"{name}.tif", array, photometric="rgb", planarconfig="separate", **extra
        )
    stack = read_stack_pair(tmp_path / "i.tif", tmp_path / "l.tif")
    assert len(stack) == count
    assert all((stack.images[i][0] == images[i]).all() for i in range(count))
    assert all((stack.labels[i] == (images[i] > 128)).all() for i in range(count))
    assert any("planar RGB" in note for note in stack.notes)


def test_colour_images_stay_colour_or_are_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (9, 8, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "i.tif", image, photometric="rgb")
    label = write(tmp_path / "l.tif", np.eye(9, 8, dtype=np.uint8))
    stack = read_stack_pair(tmp_path / "i.tif", label, channels=3)
    assert (stack.images[0] == image.transpose(2, 0, 1)).all()
    with pytest.raises(InputError, match="in_channels=3"):
        read_stack_pair(tmp_path / "i.tif", label, channels=1)
    with pytest.raises(InputError, match="labels have one"):
        read_stack_pair(label, tmp_path / "i.tif")


def test_alpha_is_left_out_only_where_it_is_constant(tmp_path):
    rgba = np.full((5, 6, 4), 9, np.uint8)
    label = write(tmp_path / "l.tif", np.eye(5, 6, dtype=np.uint8))
    Image.fromarray(rgba).save(tmp_path / "i.png")
    assert read_stack_pair(tmp_path / "i.png", label).images[0].shape == (3, 5, 6)
    rgba[0, 0, 3] = 7
    Image.fromarray(rgba).save(tmp_path / "i.png")
    with pytest.raises(InputError, match="fourth channel, by rights alpha, varies; remove it, or"):
        read_stack_pair(tmp_path / "i.png", label)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_grey_values_are_kept_as_stored(tmp_path, dtype):
    image = np.linspace(0, 1000, 30).reshape(5, 6).astype(dtype)
    label = write(tmp_path / "l.tif", np.eye(5, 6, dtype=np.uint8))
    stack = read_stack_pair(write(tmp_path / "i.tif", image), label)
    assert (stack.images[0][0] == image.astype(stack.images[0].dtype)).all()
    assert stack.images[0].dtype == (np.float32 if dtype == np.float64 else dtype)


# Meaning of label values


def test_meaning_of_label_values_in_digits():
    def read(values, dtype=np.uint8, **options):
        labels, ids = as_class_labels([np.array([values], dtype)], **options)
        return labels[0][0].tolist(), None if ids is None else ids[0][0].tolist()

    assert read([0, 1, 1]) == ([0, 1, 1], None)
    assert read([0, 255]) == ([0, 1], None)
    assert read([False, True], bool) == ([0, 1], None)
    assert read([0, 0]) == ([0, 0], None)
    assert read([255, 255]) == ([1, 1], None)
    assert read([0, 5, 900], np.uint16) == ([0, 1, 1], [0, 5, 900])
    assert read([0, 5, 9], np.uint8, meaning="instances") == ([0, 1, 1], [0, 5, 9])
    assert read([0, 2, 1], classes=3) == ([0, 2, 1], None)
    assert read([0, 127, 255], classes=3, label_values=[0, 255, 127]) == ([0, 2, 1], None)
    assert read([255, 0], label_values=[255, 0]) == ([0, 1], None)
    assert read([0, 32, 255], label_values={0: 0, 32: 0, 255: 1}) == ([0, 0, 1], None)
    assert read([0, 1, 255], ignore_label=255) == ([0, 1, 255], None)
    ids = [0, 5, 255, 300]  # 255 is a cell among others, whatever the ignore label
    assert read(ids, np.uint16, ignore_label=255) == ([0, 1, 1, 1], ids)
    assert read([-2, 0, 5, 300], np.int16, ignore_label=-2) == ([-2, 0, 1, 1], [0, 0, 5, 300])
    assert read([0.0, 3.0], np.float32) == ([0, 1], None)
    ranges = parse_label_values("0-9=0,10-254=2,255=1")
    assert read([0, 9, 10, 254, 255], classes=3, label_values=ranges) == ([0, 0, 2, 2, 1], None)
    # The value of no annotation may be another one in the files, and any id.
    sparse = {"ignore_label": 255, "unlabelled_value": 0}
    assert read([0, 1, 2], label_values=[1, 2], **sparse) == ([255, 0, 1], None)
    assert read([0, 1, 0], classes=3, label_values=[3, 2, 1], **sparse) == ([255, 2, 255], None)
    sparse["unlabelled_value"] = 9
    assert read([0, 7, 9], **sparse) == ([0, 1, 255], None)
    assert read([0, 7, 9], np.uint16, **sparse) == ([0, 1, 255], None)
    ids = ([0, 1, 255, 1], [0, 7, 0, 300])
    assert read([0, 7, 9, 300], np.uint16, **sparse) == ids
    assert read([0, 2, 9], np.uint8, classes=3, meaning="classes", **sparse) == ([0, 2, 255], None)
    assert read([0, -1, 1], np.int16, ignore_label=-1) == ([0, -1, 1], None)


@pytest.mark.parametrize(
    ("values", "dtype", "options", "message"),
    [
        (range(256), np.uint8, {}, r"256 values \(0, 1, 2, .*\.\.\.\).*--label-values.*JPEG"),
        ([0, 1, 2], np.uint8, {}, "--label-values 0,1.*--ignore V.*--labels instances"),
        ([0, 127, 255], np.uint8, {}, r"3 values \(0, 127, 255\)"),
        ([1, 2], np.uint8, {}, r"2 values \(1, 2\)"),
        ([0, 7], np.uint8, {"classes": 3}, "3 classes were expected"),
        ([0, 9], np.uint8, {"label_values": [0, 255]}, "the value 9 besides the values"),
        ([0, 3], np.uint8, {"meaning": "classes"}, "the value 3 besides"),
        ([0, 1, 2], np.uint8, {"meaning": "mask"}, "0 and one other.*--label-values B,F"),
        ([0, 9], np.uint8, {"unlabelled_value": 9}, "value 9 of no annotation needs an ignore"),
        ([0, 1], np.uint8, {"label_values": [0, 1, 2]}, "3 classes, the recipe has 2.*classes=N"),
    ],
)  # fmt: skip
def test_unexpected_label_values_are_listed_and_asked_back(values, dtype, options, message):
    with pytest.raises(ValueError, match=message):
        as_class_labels([np.array([list(values)], dtype)], **options)


# Splitting


def test_slices_of_a_list():
    assert parse_slices("12-14,27-29", 30) == [12, 13, 14, 27, 28, 29]
    assert parse_slices("3", 4) == [3]
    for text, message in (("30", "outside 0 .. 29"), ("5-3", "outside"), ("a", "no slice number")):
        with pytest.raises(ValueError, match=message):
            parse_slices(text, 30)


@pytest.mark.parametrize("val", ["1,3", [3, 1], "b,d", "1, 3"])
def test_split_by_number_or_name(val):
    stack = replace(cells(4), names=("a", "b", "c", "d"))
    train, held = split(stack, val)
    assert (train.names, held.names) == (("a", "c"), ("b", "d"))
    assert held.images[1] is stack.images[3]


def test_a_name_that_no_slice_has_is_told():
    stack = replace(cells(4), names=("a", "b", "c", "d"))
    with pytest.raises(ValueError, match="no slice has the name 'z'; the names are a, b, c, d"):
        split(stack, "a,z")


def test_the_name_of_a_file_means_all_its_pages_a_number_too():
    stack = replace(cells(5), names=("1[0]", "1[1]", "2[0]", "2[1]", "b[0]"))
    for val, held in (("1", [0, 1]), ("1-2", [0, 1, 2, 3]), ("b,2[1]", [3, 4]), ("b", [4])):
        assert held_out_slices(stack, val) == held
    with pytest.raises(ValueError, match="slice 1 is named twice in '1,1'"):
        held_out_slices(replace(cells(3), names=("1", "2", "10")), "1,1")


@pytest.mark.parametrize(
    ("names", "val", "held"),
    [
        ("1 2 3 10", "1", "1"),
        ("1 2 3 10", "10", "10"),
        ("1 2 3 10", "2-3, 10", "2 3 10"),
        ("001 002 003 004", "1-2,4", "001 002 004"),
        ("0 1 2 3", "1-2", "1 2"),
        ("2 0 1 3", "0", "0"),
        ("1 2 a b", "1,2", "1 2"),
        ("1 2 a 1-2", "1-2", "1-2"),
        ("a b c d", "1-2", "b c"),
        ("1 2 a b", "1-2", "1 2"),
    ],
)
def test_where_names_are_numbers_a_number_is_a_name(names, val, held):
    assert split(replace(cells(4), names=tuple(names.split())), val)[1].names == (*held.split(),)


@pytest.mark.parametrize(
    ("names", "val", "message"),
    [
        ("1 2 3 10", "0", "no slice has the name '0'; the names are 1, 2, 3, 10"),
        ("1 2 3 10", "3-10", "no slice has the name '4'"),
        ("1 2 3 10", "3-2", "the range '3-2' holds no slice"),
        ("1 2 3 10", "1" * 5000, "holds no slice"),
        ("1 2 3 10", "0-999999999999999999", "no slice has the name '0'"),
        ("1 2 a b", "1,3", "no slice has the name '3'"),
        ("1 2 a b", "3", "no slice has the name '3'"),
        ("0 1 2 3", "1,4", "slices 4 are outside 0 .. 3"),
    ],
)
def test_a_number_that_is_no_name_is_told(names, val, message):
    with pytest.raises(ValueError, match=message):
        split(replace(cells(4), names=tuple(names.split())), val)


def test_fraction_is_taken_in_contiguous_blocks():
    assert split(cells(10), 0.2)[1].names == ("4", "9")
    assert split(cells(20), "0.3")[1].names == ("7", "8", "9", "17", "18", "19")
    assert split(cells(3), 0.3)[1].names == ("2",)


# Weighing


def test_weights_are_eq2_with_class_weights_of_the_whole_stack():
    stack = cells(3)
    stack.labels[2][:] = 0  # one slice without cells: the balance stays that of the stack
    weighed = weigh(stack, isbi2012())
    counts = sum(np.bincount(label.ravel(), minlength=2) for label in stack.labels)
    balance = counts.sum() / (2 * counts)
    assert weighed.class_weights == pytest.approx(balance)
    assert np.unique(weighed.weights[2]).tolist() == pytest.approx([balance[0]])
    expected = weightmaps.weight_map(
        weightmaps.instances_from_mask(stack.labels[0]), class_weights=tuple(balance)
    )
    assert (weighed.weights[0] == expected).all()
    # The gap of 3 px between the cells, 20..22: its centre has border term 7.261.
    assert weighed.weights[0][20, 21] == pytest.approx(balance[0] + 7.261, abs=1e-3)


def test_border_weight_can_be_left_out():
    weighed = weigh(cells(2), replace(isbi2012(), border_weight=False, class_weights="none"))
    assert (weighed.weights[0] == 1).all()


def test_touching_cells_are_separated_in_labels_and_weights():
    ids = np.zeros((1, 9, 12), np.int64)
    ids[0, 2:7, 2:6], ids[0, 2:7, 6:10] = 40, 7
    stack = Stack(np.zeros((1, 1, 9, 12), np.uint8), (ids > 0).astype(np.int64), instances=ids)
    weighed = weigh(stack, isbi2012())
    carved = weightmaps.separate_touching(ids[0]) > 0
    assert (weighed.labels[0] == carved).all()
    # The scanned neighbours W, NW, N, NE take 5 pixels of the right cell, 4 of the left one.
    assert (weighed.labels[0] != stack.labels[0]).sum() == 9
    assert weighed.weights[0][4, 6] == pytest.approx(weighed.class_weights[0] + 8.353, abs=1e-3)
    left = weigh(stack, replace(isbi2012(), separate="none"))
    assert (left.labels[0] == stack.labels[0]).all()
    for separate in ("after", "before", "none"):
        weigh(stack, replace(isbi2012(), separate=separate, class_weights="falk2019"))


def test_more_than_two_classes():
    labels = np.zeros((2, 8, 12), np.int64)
    labels[:, 2:6, 1:4], labels[:, 2:6, 6:9] = 1, 2
    recipe = replace(isbi2012(), classes=3)
    weighed = weigh(Stack(np.zeros((2, 1, 8, 12), np.uint8), labels), recipe)
    counts = np.bincount(labels.ravel())
    balance = counts.sum() / (3 * counts)
    assert weighed.class_weights == pytest.approx(balance)
    assert weighed.weights[0][3, 2] == pytest.approx(balance[1])
    assert weighed.weights[0][3, 7] == pytest.approx(balance[2])
    assert weighed.weights[0][3, 4] == pytest.approx(balance[0] + 8.353, abs=1e-3)  # gap of 2 px
    per_image = weigh(Stack(np.zeros((2, 1, 8, 12), np.uint8), labels),
                      replace(recipe, class_weights="per-image"))  # fmt: skip
    assert np.allclose(per_image.weights[1], weighed.weights[1])
    with pytest.raises(ValueError, match="two classes only"):
        weigh(weighed, replace(recipe, class_weights="falk2019"))
    with pytest.raises(ValueError, match="not all among the 2 classes"):
        weigh(Stack(np.zeros((2, 1, 8, 12), np.uint8), labels), isbi2012())


def test_ignored_pixels_and_the_unlabelled_band_have_weight_0():
    stack = cells(2)
    stack.labels[0][40:, :10] = 255
    recipe = replace(dic_hela(), unlabelled_border_px=4)
    weighed = weigh(stack, recipe)
    inner = np.zeros((48, 52), bool)
    inner[4:-4, 4:-4] = True
    unknown = (stack.labels[0] == 255) | (~inner & (stack.labels[0] == 0))
    assert ((weighed.weights[0] == 0) == unknown).all()
    assert ((weighed.labels[0] == 255) == unknown).all()
    known = np.concatenate([label[label != 255] for label in weighed.labels])
    counts = np.bincount(known)
    assert weighed.class_weights == pytest.approx(counts.sum() / (2 * counts))


def test_sparse_annotation_counts_near_its_cells_only():
    stack = cells(2)
    recipe = replace(dic_hela(), unlabelled_border_px=0, unlabelled_beyond_px=3)
    cell = stack.labels[0] == 1
    rows, columns = np.indices(cell.shape)
    distance = np.full(cell.shape, np.inf)
    for y, x in np.argwhere(cell):
        np.minimum(distance, np.hypot(rows - y, columns - x), out=distance)
    weighed, held_out = weigh(stack, recipe), without_unlabelled(stack, recipe)
    for marked in (weighed.labels[0], held_out.labels[0]):
        assert ((marked == 255) == (distance > 3)).all()
    assert ((weighed.weights[0] == 0) == (distance > 3)).all()
    assert (held_out.labels[0] == 1).sum() == cell.sum()
    empty = Stack(stack.images, [np.zeros_like(x) for x in stack.labels])
    assert (without_unlabelled(empty, recipe).labels[0] == 255).all()
    assert without_unlabelled(stack, replace(recipe, unlabelled_beyond_px=0)) is stack


def test_images_without_labels_are_left_out_where_asked(tmp_path):
    for name, numbers in (("a", (3, 5, 12)), ("b", (3, 12))):
        (tmp_path / name).mkdir()
        for number in numbers:
            file = f"t{number:03}.tif" if name == "a" else f"man_seg{number:03}.tif"
            write(tmp_path / name / file, np.full((4, 4), number, np.uint16))
    with pytest.raises(InputError, match=r"1 image \(t005.tif\).*--only-labelled"):
        read_stack_pair(tmp_path / "a", tmp_path / "b")
    options = {"meaning": "instances", "alone": "left out"}
    stack = read_stack_pair(tmp_path / "a", tmp_path / "b", **options)
    assert stack.names == ("t003", "t012")
    assert "1 images without labels are left out" in stack.notes[0]
    with pytest.raises(InputError, match="no partner for 1 label file"):
        read_stack_pair(tmp_path / "b", tmp_path / "a", **options)
    for file in (tmp_path / "b").iterdir():
        file.rename(file.with_name(f"other{file.name[-5]}x.tif"))
    with pytest.raises(InputError, match="no partner for 3 images"):
        read_stack_pair(tmp_path / "a", tmp_path / "b", **options)


# Weight maps from files


@pytest.fixture
def mapped(tmp_path, capsys):
    """Images and labels on the disk, and the maps that `unet2015 weights` makes of them."""
    from weightmaps.cli import main

    stack = cells(3)
    image = write(tmp_path / "i.tif", np.stack([a[0] for a in stack.images]))
    label = write(tmp_path / "l.tif", np.stack(stack.labels).astype(np.uint8) * 255)

    def make(*options):
        assert main([str(label), "--out", str(tmp_path / "maps"), "--overwrite", *options]) == 0
        capsys.readouterr()
        return read_stack_pair(image, label), tmp_path / "maps"

    return make


def test_weights_from_files_are_the_computed_ones(mapped):
    stack, maps = mapped()
    from_files, computed = read_weights(maps, stack, isbi2012()), weigh(stack, isbi2012())
    for part in ("weights", "labels", "instances"):
        for a, b in zip(getattr(from_files, part), getattr(computed, part), strict=True):
            assert (a == b).all()
    part = read_weights(maps / "l.weights.tif", stack.take([2]), isbi2012())
    assert (part.weights[0] == computed.weights[2]).all()


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (("--w0", "9"), {}, r"w0 = 9\.0, not 10\.0"),
        (("--sigma", "4"), {}, r"sigma_px = 4\.0, not 5\.0"),
        ((), {"class_weights": "none"}, r"class_weights = 'balanced', not 'none'"),
        ((), {"border_weight": False}, r"w0 = 10\.0, not 0\.0"),
        (("--where", "everywhere"), {}, "where = 'everywhere', not 'background'"),
        (("--inside", "zero"), {}, "inside = 'zero', not 'nonzero'"),
        (("--labels", "instances"), {}, "labels = 'instances', not 'mask'"),
    ],
)
def test_weights_of_another_recipe_are_refused(mapped, options, changes, message):
    stack, maps = mapped(*options)
    with pytest.raises(InputError, match=message):
        read_weights(maps, stack, replace(isbi2012(), **changes))


SET = "--set border_weight=true --set sigma_px=4.0"
ANEW = "unet2015 weights LABELS --out DIR --overwrite --labels"


@pytest.mark.parametrize(
    ("options", "changes", "remedy"),
    [
        (("--w0", "9", "--sigma", "4"), {}, "train with --set w0=9.0 --set sigma_px=4.0, or"),
        (("--sigma", "4"), {"border_weight": False}, f"train with {SET}, or without --weights"),
        (("--w0", "9"), {"border_weight": False}, "--set border_weight=true --set w0=9.0, or"),
        ((), {"ignore_label": 255}, "train with --set ignore_label=none, or"),
        (("--separate", "none"), {}, "train with --set separate=none, or"),
        (("--class-weights", "2,1"), {}, f"anew ({ANEW} mask), or train without --weights"),
        (("--spacing", "1,1"), {"sigma_px": 4.0}, f"anew ({ANEW} mask --sigma 4.0), or"),
        (("--connectivity", "8"), {"separate": "watershed"}, f"{ANEW} mask --border watershed)"),
        (("--inside", "zero"), {"border_weight": False}, f"anew ({ANEW} mask --w0 0.0), or"),
        (("--labels", "instances"), {"ignore_label": -1}, f"({ANEW} mask --ignore-label -1), or"),
    ],
)
def test_the_remedy_for_weights_of_another_recipe_works(mapped, options, changes, remedy):
    stack, maps = mapped(*options)
    recipe = replace(isbi2012(), **changes)
    with pytest.raises(InputError) as refused:
        read_weights(maps, stack, recipe)
    told = str(refused.value)
    assert remedy in told
    if "anew" in told:
        mapped(*told.partition("--overwrite ")[2].partition(")")[0].split())
    else:
        settings = told.partition("train with ")[2].partition(",")[0].split()
        recipe = replace_fields(recipe, [word for word in settings if word != "--set"], {})
    read_weights(maps, stack, recipe)


def test_weights_of_other_labels_missing_and_damaged_are_refused(mapped):
    stack, maps = mapped()
    path, labels = maps / "l.weights.tif", stack.sources[0][0]
    changed = np.stack(stack.labels).astype(np.uint8) * 255
    changed[0, 0, 0] = 255
    tifffile.imwrite(labels, changed, photometric="minisblack")
    with pytest.raises(InputError, match="made from other labels"):
        read_weights(maps, stack, isbi2012())
    write(path, np.zeros((3, 48, 52), np.float32))
    with pytest.raises(InputError, match="no weight map of this program"):
        read_weights(maps, stack, isbi2012())
    path.unlink()
    with pytest.raises(InputError, match="is missing; make it with: unet2015 weights"):
        read_weights(maps, stack, isbi2012())
    with pytest.raises(ValueError, match="not read from files"):
        read_weights(maps, cells(), isbi2012())
    with pytest.raises(ValueError, match="hold two classes"):
        read_weights(maps, stack, replace(isbi2012(), weights_after_warp="recomputed"))


# Drawing


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_output_is_the_networks(depth):
    recipe = replace(quick(), depth=depth, tile_px=572 if depth == 4 else 188)
    assert output_px(recipe) == UNet(base_channels=1, depth=depth).output_size(recipe.tile_px)


@pytest.mark.parametrize("mode", ["warped", "recomputed"])
def test_tiles_are_a_function_of_step_and_sample(mode):
    recipe = replace(SMALL, weights_after_warp=mode)
    stack = weigh(cells(), recipe)
    first = draw_tile(stack, recipe, 3, 1)
    draw_tile(stack, recipe, 4, 0)
    for a, b in zip(first, draw_tile(stack, recipe, 3, 1), strict=True):
        assert (a == b).all()
    other = [draw_tile(stack, recipe, *key)[0] for key in ((3, 0), (4, 1))]
    assert all((first[0] != tile).any() for tile in other)


@pytest.mark.parametrize("mode", ["warped", "recomputed"])
def test_batches_are_the_same_with_any_workers_start_and_device(mode):
    recipe = replace(SMALL, weights_after_warp=mode, ignore_label=9)
    stack = weigh(cells(dtype=np.uint16), recipe)
    plain = list(batches(stack, recipe))
    assert [step for step, *_ in plain] == list(range(6))
    images, labels, weights = plain[0][1:]
    assert (images.dtype, labels.dtype, weights.dtype) == (
        torch.float32, torch.int64, torch.float32
    )  # fmt: skip
    assert images.shape == (2, 1, 60, 60)
    assert labels.shape == weights.shape == (2, 20, 20)
    for other in (batches(stack, recipe, workers=2), batches(stack, recipe, 2, workers=3)):
        for got in other:
            assert all(torch.equal(a, b) for a, b in zip(got[1:], plain[got[0]][1:], strict=True))
    for got in batches(stack, recipe, device="cpu-torch"):
        for a, b in zip(got[1:], plain[got[0]][1:], strict=True):
            assert (a.double() - b.double()).abs().max() < 1e-4
    halves = [list(batches(stack, recipe, part=(rank, 2))) for rank in (0, 1)]
    for both, *pair in zip(plain, *halves, strict=True):
        assert torch.equal(torch.cat([half[1] for half in pair]), both[1])


def test_drawn_names_the_slices_of_a_step():
    recipe = replace(SMALL, shift_px=0, rotation_deg=0, mirror=False, displacement_std_px=0,
                     grey_gain=0, grey_shift=0, grey_gamma=0)  # fmt: skip
    stack = cells()
    stack = weigh(replace(stack, images=[np.full_like(a, i) for i, a in enumerate(stack.images)]),
                  recipe)  # fmt: skip
    for step, images, _, _ in batches(stack, recipe):
        values = [str(round(float(image.mean()) * 255)) for image in images]
        assert values == stack.drawn(recipe, step)


def test_undeformed_tile_is_the_mirrored_crop():
    recipe = replace(SMALL, shift_px=0, rotation_deg=0, mirror=False, displacement_std_px=0,
                     grey_gain=0, grey_shift=0, grey_gamma=0)  # fmt: skip
    stack = weigh(cells(1), recipe)
    canvas = np.pad(stack.images[0][0], 60, mode="reflect").astype(np.float32) / np.float32(255)
    image, _, _ = draw_tile(stack, recipe, 0, 0)
    windows = np.lib.stride_tricks.sliding_window_view(canvas, (60, 60))
    assert (windows == image[0]).all((2, 3)).any()


def test_recomputed_weights_are_those_of_the_deformed_cells():
    recipe = replace(SMALL, weights_after_warp="recomputed", class_weights="none", separate="none")
    stack = weigh(cells(), recipe)
    plain = weigh(cells(), replace(recipe, weights_after_warp="warped"))
    differ = 0.0
    for step in range(8):
        image, labels, weights = draw_tile(stack, recipe, step, 0)
        image2, labels2, weights2 = draw_tile(
            plain, replace(recipe, weights_after_warp="warped"), step, 0
        )
        assert (image == image2).all()
        assert (labels == labels2).all()
        assert (weights[labels == 1] == 1).all()  # warping leaks weight into cells, this does not
        differ = max(differ, float(np.abs(weights - weights2).max()))
    assert differ > 0.5


def test_recomputed_labels_and_weights_are_carved_together():
    recipe = replace(SMALL, weights_after_warp="recomputed", class_weights="none")
    ids = np.zeros((1, 60, 60), np.int64)
    ids[0, 5:55, 5:30], ids[0, 5:55, 30:55] = 3, 8
    stack = Stack(np.zeros((1, 1, 60, 60), np.uint8), (ids > 0).astype(np.int64), instances=ids)
    weighed = weigh(stack, recipe)
    assert (weighed.labels[0] == stack.labels[0]).all()
    high = 0.0
    for step in range(10):
        _, labels, weights = draw_tile(weighed, recipe, step, 0)
        assert (weights[labels == 1] == 1).all()
        high = max(high, float(weights.max()))
    assert high > 9  # 1 + 8.353 or more on the line between the touching cells


def test_mirrored_weight_and_ignore_label_reach_the_tile():
    recipe = replace(SMALL, mirrored_weight=0.0, ignore_label=255)
    stack = cells()
    for label in stack.labels:
        label[0:10] = 255
    stack = weigh(stack, recipe)
    weights = torch.cat([batch[3].ravel() for batch in batches(stack, recipe)])
    labels = torch.cat([batch[2].ravel() for batch in batches(stack, recipe)])
    assert (weights[labels == 255] == 0).all()
    assert ((weights == 0) & (labels != 255)).any()


def test_stack_refuses_what_does_not_fit():
    images, labels = np.zeros((2, 1, 8, 9), np.uint8), np.zeros((2, 8, 9), np.int64)
    for arguments, message in (
        ((images, labels[:1]), "2 image slices, but 1 labels"),
        ((images[:, 0], labels), r"\(C, H, W\) was expected"),
        ((images, labels[:, 1:]), r"labels of shape \(7, 9\).*\(8, 9\)"),
        ((images[:0], labels[:0]), "at least one slice"),
        (([images[0], images[1].astype(np.uint16)], labels), "uint16.*uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            Stack(*arguments)
    with pytest.raises(ValueError, match="no weights yet"):
        batches(Stack(images, labels), SMALL)
    with pytest.raises(ValueError, match="in_channels = 3"):
        draw_tile(weigh(Stack(images, labels), SMALL), replace(SMALL, in_channels=3), 0, 0)
    with pytest.raises(ValueError, match="leaves no output"):
        output_px(replace(SMALL, depth=6))


def test_fingerprint_sees_every_part():
    base = weigh(cells(2), SMALL)
    again = weigh(cells(2), SMALL)
    assert base.fingerprint == again.fingerprint
    other = weigh(cells(2), replace(SMALL, w0=9.0))
    assert other.fingerprint != base.fingerprint
    assert base.take([1, 0]).fingerprint != base.fingerprint


def test_pixels_that_become_background_between_classes_are_told():
    labels = np.zeros((1, 8, 8), np.int64)
    labels[0, 2:6, 1:4], labels[0, 2:6, 4:7] = 1, 2
    stack = Stack(np.zeros((1, 1, 8, 8), np.uint8), labels)
    weighed = weigh(stack, replace(isbi2012(), classes=3))
    lost = int((weighed.labels[0] != labels[0]).sum())
    assert lost > 0
    (note,) = weighed.notes
    assert note.startswith(f"{lost} pixels where labelled pieces touch are learned as background")
    kept = weigh(stack, replace(isbi2012(), classes=3, separate="none"))
    assert (kept.labels[0] == labels[0]).all()
    assert kept.notes == ()
