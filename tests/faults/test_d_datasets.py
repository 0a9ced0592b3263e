"""docs/reliability.md, section D (data sets), F6 (a loader dies) and H5: at the level of stacks."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tiling.faults import InputError
from unet2015 import data
from unet2015.cli import main
from unet2015.data import Stack, batches, read_stack_pair, split, weigh
from unet2015.label_values import as_class_labels
from unet2015.recipe import quick

SMALL = replace(quick(), depth=1, tile_px=32, steps=50)


def write(path, array):
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack")
    return path


def stack_of(count=4):
    random = np.random.default_rng(0)
    labels = np.zeros((count, 20, 20), np.int64)
    labels[:, 5:9, 5:9] = labels[:, 12:17, 3:9] = 1
    return Stack(random.integers(0, 255, (count, 1, 20, 20)).astype(np.uint8), labels)


CLOSED = {
    "folder": ("iterdir", ["train", "i", "l", "--out", "run"]),
    "samples": ("iterdir", ["train", "i", "i", "--out", "run"]),
    "folder above": ("is_dir", ["train", "i", "l", "--out", "run"]),
    "labels": ("is_dir", ["weights", "l"]),
    "file": ("open", ["info", "i/a.tif"]),
    "folder above a file": ("exists", ["info", "i/a.tif"]),
    "truth": ("is_dir", ["score", "i/a.tif", "i/a.tif"]),
}


@pytest.mark.parametrize("what", CLOSED)
def test_what_may_not_be_read_is_bad_input(what, tmp_path, monkeypatch, capsys):
    call, words = CLOSED[what]
    for folder in ("i", "l"):
        write(tmp_path / folder / "a.tif", np.zeros((8, 9), np.uint8))
    monkeypatch.chdir(tmp_path)
    real = getattr(Path, call)

    def closed(path, *args, **options):  # tests may run as root, whom no mode binds
        if path.parts[:1] in (("i",), ("l",)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, call, closed)
    assert main(words) == 3
    assert "cannot be read: Permission denied" in capsys.readouterr().err


def test_d1_labels_of_another_shape_name_both_shapes(tmp_path):
    image = write(tmp_path / "i.tif", np.zeros((3, 8, 9), np.uint8))
    label = write(tmp_path / "l.tif", np.zeros((3, 9, 8), np.uint8))
    with pytest.raises(InputError, match=r"l\.tif: is 9 x 8, but .*i\.tif is 8 x 9"):
        read_stack_pair(image, label)
    fewer = write(tmp_path / "f.tif", np.zeros((2, 8, 9), np.uint8))
    with pytest.raises(InputError, match=r"f\.tif: has 2 pages, but .*i\.tif has 3"):
        read_stack_pair(image, fewer)


def with_channels(path, axes, shape, *, ome):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path.parent.mkdir(exist_ok=True)
    how = {"photometric": "minisblack"} if ome else {"imagej": True}
    tifffile.imwrite(path, array, metadata={"axes": axes} if axes else {}, **how)
    return path


@pytest.mark.parametrize("ome", [True, False])
@pytest.mark.parametrize(
    ("axes", "shape", "count"),
    [("CYX", (2, 8, 9), 2), ("ZCYX", (3, 2, 8, 9), 2), ("", (6, 8, 9), 6)],
)  # tifffile writes pages without a name as channels into the text of ImageJ
def test_d_channels_are_no_slices(tmp_path, ome, axes, shape, count):
    if ome and not axes:
        axes = "CYX"
    ending = ".ome.tif" if ome else ".tif"
    odd = with_channels(tmp_path / f"odd{ending}", axes, shape, ome=ome)
    plain = write(tmp_path / "plain.tif", np.zeros((int(np.prod(shape[:-2])), 8, 9), np.uint8))
    words = rf"odd.*: has {count} channels.*; save one channel as .*, or, if they are slices,"
    for images, labels in ((odd, plain), (plain, odd)):
        with pytest.raises(InputError, match=words):
            read_stack_pair(images, labels)


@pytest.mark.parametrize("missing", ["i.tif", "l.tif"])
def test_d7_the_file_that_is_missing_is_named(tmp_path, missing):
    for name in {"i.tif", "l.tif"} - {missing}:
        write(tmp_path / name, np.zeros((8, 9), np.uint8))
    with pytest.raises(InputError, match=rf"{missing}: cannot be read: No such file"):
        read_stack_pair(tmp_path / "i.tif", tmp_path / "l.tif")


def test_d_one_channel_of_many_slices_is_slices(tmp_path):
    image = with_channels(tmp_path / "i.ome.tif", "ZCYX", (3, 1, 8, 9), ome=True)
    label = with_channels(tmp_path / "l.tif", "TZYX", (3, 1, 8, 9), ome=False)
    assert len(read_stack_pair(image, label, meaning="instances")) == 3


@pytest.mark.parametrize("kind", ["same", "link", "second name"])
@pytest.mark.parametrize("what", ["files", "folders", "files of folders"])
def test_d7_an_image_is_not_its_own_labels(tmp_path, kind, what):
    image = write(tmp_path / "i" / "a.tif", np.zeros((8, 9), np.uint8))
    other = tmp_path / "l" / "a.tif"
    if what != "folders":
        other.parent.mkdir()
        if kind == "same" and what == "files":
            other = image
        elif kind == "second name":
            other.hardlink_to(image)
        else:
            other.symlink_to(image)
    elif kind == "same":
        other = image
    else:
        other.parent.symlink_to(image.parent)
    named = (image, other) if what == "files" else (image.parent, other.parent)
    with pytest.raises(InputError, match=r"is named .* of images and of labels; name the "):
        read_stack_pair(*named)


def test_d3_float_labels_are_read_only_where_they_are_whole(tmp_path):
    image = write(tmp_path / "i.tif", np.zeros((4, 4), np.uint8))
    whole = write(tmp_path / "w.tif", np.eye(4, dtype=np.float32) * 255)
    assert read_stack_pair(image, whole).labels[0].tolist() == np.eye(4).tolist()
    for name, value in (("half", 0.5), ("nan", np.nan), ("inf", np.inf), ("huge", 1e17)):
        array = np.eye(4, dtype=np.float64)
        array[2, 2] = value
        label = write(tmp_path / f"{name}.tif", array)
        with pytest.raises(InputError, match="not a whole number below 2"):
            read_stack_pair(image, label)


@pytest.mark.parametrize(
    ("dtype", "bits", "signalling"), [("f2", "u2", 0x7D01), ("f4", "u4", 0x7FA00001)]
)
@pytest.mark.filterwarnings("error")
def test_d3_of_a_signalling_nan_no_warning_is_shown(tmp_path, dtype, bits, signalling):
    image = write(tmp_path / "i.tif", np.zeros((4, 4), np.uint8))
    array = np.eye(4, dtype=dtype)
    array.view(bits)[2, 2] = signalling
    with pytest.raises(InputError, match=r"label nan at \(2, 2\) is not a whole number"):
        read_stack_pair(image, write(tmp_path / "l.tif", array))


def test_d4_ids_beyond_2_to_53_keep_every_bit():
    ids = np.array([[0, 2**53, 2**53 + 1, 2**62 + 1]])
    labels, kept = as_class_labels([ids.astype(np.uint64)])
    assert kept[0].tolist() == ids.tolist()
    assert labels[0].tolist() == [[0, 1, 1, 1]]


def test_d7_missing_extra_and_duplicate_partners(tmp_path):
    square = np.zeros((4, 4), np.uint8)
    for name in ("a", "b", "c"):
        write(tmp_path / "images" / f"{name}.tif", square)
    for name in ("a", "b"):
        write(tmp_path / "labels" / f"{name}.tif", square)
    with pytest.raises(InputError, match=r"labels: has no partner for 1 image \(c\.tif\)"):
        read_stack_pair(tmp_path / "images", tmp_path / "labels")
    for name in ("c", "d", "e"):
        write(tmp_path / "labels" / f"{name}.tif", square)
    with pytest.raises(InputError, match=r"images: has no .* 2 label files \(d\.tif, e\.tif\)"):
        read_stack_pair(tmp_path / "images", tmp_path / "labels")
    for name in ("d", "e"):
        (tmp_path / "labels" / f"{name}.tif").unlink()
    assert len(read_stack_pair(tmp_path / "images", tmp_path / "labels")) == 3
    Image.fromarray(square).save(tmp_path / "labels" / "b.png")
    with pytest.raises(InputError, match=r"holds both b\.png and b\.tif"):
        read_stack_pair(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "labels" / "b.png").unlink()
    (tmp_path / "labels" / "x.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="without loss"):
        read_stack_pair(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no TIFF or PNG"):
        read_stack_pair(tmp_path / "images", tmp_path / "empty")
    with pytest.raises(InputError, match="two of a kind"):
        read_stack_pair(tmp_path / "images", tmp_path / "images" / "a.tif")
    with pytest.raises(InputError, match="of images and of labels"):
        read_stack_pair(tmp_path / "images", tmp_path / "images")
    with pytest.raises(InputError):
        read_stack_pair(tmp_path / "none.tif", tmp_path / "images" / "a.tif")


def test_d7_sample_folders_without_masks(tmp_path):
    folder = tmp_path / "id"
    (folder / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "images" / "id.png")
    with pytest.raises(InputError, match="no folder masks"):
        read_stack_pair(tmp_path)
    (folder / "masks").mkdir()
    with pytest.raises(InputError, match="holds no TIFF or PNG"):
        read_stack_pair(tmp_path)
    Image.fromarray(np.full((4, 5), 255, np.uint8)).save(folder / "masks" / "1.png")
    with pytest.raises(InputError, match=r"is 4 x 5, but .* is 4 x 4"):
        read_stack_pair(tmp_path)


def test_d8_empty_splits_are_refused():
    stack = stack_of()
    for val, message in (
        ("0-3", "no slice for training"),
        ([], "no slice for validation"),
        ("4", "outside 0 .. 3"),
        ([0, 0], "named twice"),
        (1.5, "between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            split(stack, val)
    with pytest.raises(ValueError, match="no slice for training"):
        split(stack_of(1), "0")


def test_d8_the_same_image_on_both_sides_is_a_leak():
    stack = stack_of()
    copied = replace(stack, images=[*stack.images[:3], stack.images[1].copy()])
    with pytest.raises(ValueError, match=r"leak: held-out slice '3' is identical to .* '1'"):
        split(copied, "3")
    training, validation = split(copied, "1,3")  # twice on one side is no leak
    assert (len(training), len(validation)) == (2, 2)


def test_h5_a_split_of_one_class_is_refused():
    stack = stack_of()
    stack.labels[2][:] = 0
    with pytest.raises(ValueError, match="validation slices hold only class 0"):
        split(stack, "2")
    stack.labels[2][:] = 255
    with pytest.raises(ValueError, match="validation slices hold no labelled pixel"):
        split(stack, "2", ignore_label=255)
    for i in (0, 1, 2):
        stack.labels[i][:] = 1
    with pytest.raises(ValueError, match="training slices hold only class 1"):
        split(stack, "3")


def test_d_nan_in_an_image_is_refused_with_its_place(tmp_path):
    image = np.zeros((4, 4), np.float32)
    image[1, 2] = np.nan
    with pytest.raises(InputError, match=r"1 pixels? .*\(1, 2\)"):
        read_stack_pair(
            write(tmp_path / "i.tif", image), write(tmp_path / "l.tif", np.eye(4, dtype=np.uint8))
        )


@pytest.mark.parametrize("error", [MemoryError, SystemExit, OSError])
def test_f6_a_loader_that_dies_is_noticed_at_once(monkeypatch, error):
    stack = weigh(stack_of(), SMALL)
    draw = data._draw

    def dies(stack, recipe, step, sample, held=None):
        if step == 3:
            raise error("out of memory")
        return draw(stack, recipe, step, sample, held)

    monkeypatch.setattr(data, "_draw", dies)
    loader = batches(stack, SMALL, workers=2)
    assert [next(loader)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(error, match="out of memory"):
        next(loader)


def test_f6_an_abandoned_loader_leaves_no_thread():
    stack = weigh(stack_of(), SMALL)
    loader = batches(stack, SMALL, workers=3)
    next(loader)
    loader.close()
    for _ in range(100):
        if not any(thread.name.startswith("tiles") for thread in threading.enumerate()):
            break
        time.sleep(0.05)
    assert not any(thread.name.startswith("tiles") for thread in threading.enumerate())
