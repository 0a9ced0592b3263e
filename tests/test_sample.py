"""The embedded sample: exact labels, correlated slices, a task a blurred threshold cannot solve."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from tiling.faults import WriteError
from unet2015 import sample
from unet2015.counter import generator
from unet2015.random_fields import smooth_field
from unet2015.sample import SAMPLE_FILES, SHIPPED_FILES, synthetic_stack, write_sample


@pytest.fixture(scope="module")
def stack():
    return synthetic_stack(2015, slices=6, size=(320, 352))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sample") / "new" / "folder"
    assert [path.name for path in write_sample(directory)] == list(SAMPLE_FILES)
    return directory


def test_stack_has_shapes_and_types(stack):
    for array, dtype in (
        (stack.images, "uint8"),
        (stack.instances, "uint16"),
        (stack.mask, "uint8"),
    ):
        assert array.shape == (6, 320, 352)
        assert array.dtype == dtype
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1
    assert set(np.unique(stack.mask)) == {0, 255}
    assert stack.noisy.tolist() == [False] * 3 + [True] * 3


def test_instances_are_the_components_of_the_mask(stack):
    for ids, mask in zip(stack.instances, stack.mask, strict=True):
        pieces, count = ndimage.label(mask)
        pairs = {(int(a), int(b)) for a, b in zip(pieces.ravel(), ids.ravel(), strict=True)}
        assert len(pairs) == count + 1 == len(np.unique(ids))  # one to one, background included
        assert (0, 0) in pairs


def test_no_two_cells_touch(stack):
    for ids in stack.instances:
        widest = ndimage.maximum_filter(ids, size=3)
        lowest = ndimage.minimum_filter(np.where(ids == 0, 65535, ids), size=3)
        assert ((widest == lowest) | (widest == 0) | (ids == 0)).all()


def test_cells_vary_in_size_and_none_is_a_speck(stack):
    areas = np.concatenate([np.bincount(ids.ravel())[1:] for ids in stack.instances])
    areas = areas[areas > 0]
    assert areas.min() >= 30
    assert np.percentile(areas, 95) > 10 * np.percentile(areas, 10)


def test_membranes_are_three_to_twelve_pixels_wide(stack):
    # Twice the distance to the nearest cell, on the membrane's ridge; junctions are wider.
    for mask in stack.mask:
        depth = ndimage.distance_transform_edt(mask == 0)
        ridge = (depth == ndimage.maximum_filter(depth, size=5)) & (depth > 0)
        widths = 2 * depth[ridge] - 1
        assert np.percentile(widths, 1) >= 3 - 0.2
        assert np.percentile(widths, 75) <= 12
    assert 0.12 < (stack.mask == 0).mean() < 0.3


def test_neighbouring_slices_are_alike_and_distant_ones_are_not(stack):
    def agreement(a, b):
        both = (stack.instances[a] > 0) & (stack.instances[b] > 0)
        return (stack.instances[a] == stack.instances[b])[both].mean()

    assert agreement(0, 1) > 0.8
    assert agreement(0, 1) > agreement(0, 5)
    assert (stack.instances[0] != stack.instances[1]).mean() > 0.05


def test_later_slices_are_noisier_and_blurrier(stack):
    def pixel_noise(image):
        return np.median(np.abs(np.diff(image.astype(float), axis=1)))

    noise = [pixel_noise(image) for image in stack.images]
    assert min(noise[3:]) > 1.2 * max(noise[:3])


def test_membranes_are_dark_and_partly_faint(stack):
    for image, mask in zip(stack.images, stack.mask, strict=True):
        smooth = ndimage.gaussian_filter(image.astype(float), 1.0)
        inside, membrane = smooth[mask == 255], smooth[mask == 0]
        assert np.median(membrane) < np.median(inside) - 25
        assert (membrane > np.percentile(inside, 25)).mean() > 0.05  # gaps of contrast
        assert (inside < np.median(membrane)).mean() > 0.01  # organelles distract


def test_a_tuned_blurred_threshold_is_bad(stack):
    wrong = min(
        ((blurred > threshold) != (stack.mask > 0)).mean()
        for sigma in (0.7, 1.0, 1.5, 2.0, 3.0)
        for blurred in [
            np.stack(
                [ndimage.gaussian_filter(image.astype(float), sigma) for image in stack.images]
            )
        ]
        for threshold in range(60, 150, 4)
    )
    assert 0.11 < wrong < (stack.mask == 0).mean()


def test_seed_decides_everything():
    first, again = (synthetic_stack(3, slices=2, size=96) for _ in range(2))
    other = synthetic_stack(4, slices=2, size=96)
    assert (first.images == again.images).all()
    assert (first.instances == again.instances).all()
    assert (first.mask != other.mask).any()


def test_tissue_is_the_same_on_every_machine():
    # Which cell lies under each point of a coarse grid: survives differences in rounding.
    ids = synthetic_stack(2015, slices=1, size=256).instances[0]
    assert (ids[16::32, 16::32] != CELLS_OF_2015).sum() <= 2


CELLS_OF_2015 = np.array([
    [0, 3, 0, 4, 4, 65, 13, 13],
    [3, 3, 3, 25, 64, 43, 13, 13],
    [3, 0, 46, 5, 0, 0, 2, 2],
    [8, 27, 0, 5, 5, 37, 2, 2],
    [57, 11, 11, 40, 0, 21, 2, 2],
    [34, 11, 0, 10, 10, 21, 52, 2],
    [32, 22, 22, 10, 0, 14, 14, 24],
    [6, 0, 15, 15, 16, 14, 0, 53],
])  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"seed": -1}, "seed -1"),
        ({"slices": 0}, "slices = 0"),
        ({"slices": 201}, "slices = 201"),
        ({"size": 63}, "size 63 x 63"),
        ({"size": (64, 4097)}, "64 .. 4096"),
    ],
)
def test_out_of_range_requests_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        synthetic_stack(**wrong)


def test_smooth_field_has_unit_variance():
    field = smooth_field(generator(1), (600, 700), 6.0)
    assert abs(float(field.mean())) < 0.05
    assert abs(float(field.std()) - 1) < 0.03


def test_written_stacks_hold_the_arrays(folder):
    stack = synthetic_stack(2015, slices=10, size=512)
    for name, array in (("images", stack.images), ("labels", stack.mask),
                        ("instances", stack.instances)):  # fmt: skip
        with tifffile.TiffFile(folder / f"{name}.tif") as file:
            assert len(file.pages) == 10
            assert file.pages[0].photometric.name == "MINISBLACK"
            assert file.pages[0].compression.name == "ADOBE_DEFLATE"
            assert (file.asarray() == array).all()
    large, labels = (tifffile.imread(folder / f"large{end}.tif") for end in ("", "-labels"))
    assert large.shape == labels.shape == (900, 1100)
    assert set(np.unique(labels)) == {0, 255}


def test_large_image_is_other_tissue(folder):
    stack, large = (
        tifffile.imread(folder / "labels.tif"),
        tifffile.imread(folder / "large-labels.tif"),
    )
    agreement = (stack[0] == large[:512, :512]).mean()
    assert agreement < 0.8  # two unrelated masks with a fifth of membrane agree on about two thirds


def test_three_or_four_slices_stay_slices(tmp_path):
    for slices in (3, 4):
        path = tmp_path / f"{slices}.tif"
        path.write_bytes(sample._tiff_bytes(np.zeros((slices, 16, 16), np.uint8)))
        with tifffile.TiffFile(path) as file:
            assert [page.samplesperpixel for page in file.pages] == [1] * slices


def test_real_images_carry_merged_ids(folder):
    nuclei, ids = (
        np.asarray(Image.open(folder / f"nuclei{end}.png")) for end in ("", "-instances")
    )
    assert nuclei.shape == ids.shape == (256, 320)
    assert nuclei.dtype == np.uint8
    assert np.unique(ids).tolist() == list(range(59))
    blobs = ndimage.label(ids > 0, np.ones((3, 3)))[1]
    assert blobs == 26  # 58 nuclei, many of which touch

    axons, classes, ids = (
        np.asarray(Image.open(folder / f"axons{end}.png")) for end in ("", "-classes", "-instances")
    )
    assert axons.shape == classes.shape == ids.shape == (512, 512)
    assert np.unique(classes).tolist() == [0, 127, 255]
    assert ((ids > 0) == (classes == 255)).mean() > 0.98
    assert np.unique(ids).tolist() == list(range(302))


def test_every_shipped_file_is_small_licensed_and_described(folder):
    described = (folder / "README.md").read_text(encoding="utf-8")
    for name in SHIPPED_FILES:
        assert (folder / name).stat().st_size <= 300_000
        assert name == "README.md" or name in described
    assert "Permission is hereby granted" in (folder / "LICENSE-axons-MIT.txt").read_text("utf-8")
    assert "CC0 1.0" in (folder / "LICENSE-nuclei-CC0.txt").read_text("utf-8")


def test_shipped_images_say_nothing_but_pixels():
    for name in SHIPPED_FILES:
        if name.endswith(".png"):
            data = (Path(sample.__file__).parent / "samples" / name).read_bytes()
            assert set(_png_chunks(data)) == {b"IHDR", b"IDAT", b"IEND"}


def _png_chunks(data):
    at, names = 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(body)
        names.append(body[:4])
        at += 12 + length
    return names


def test_existing_files_are_kept_unless_asked(folder, monkeypatch):
    other = folder / "images.tif"
    other.write_bytes(other.read_bytes()[:-1] + b"x")
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    with pytest.raises(WriteError, match=r"images\.tif: already exists; use --overwrite"):
        write_sample(folder)
    assert before == {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    small = {name: np.zeros((64, 64), np.uint8) for name in sample.SYNTHETIC_FILES}
    monkeypatch.setattr(sample, "_synthetic_arrays", lambda seed: small)
    write_sample(folder, overwrite=True)
    assert not tifffile.imread(folder / "large.tif").any()


def test_a_sample_that_a_full_disk_cut_short_is_finished(tmp_path, monkeypatch):
    small = {name: np.full((64, 64), k, np.uint8) for k, name in enumerate(sample.SYNTHETIC_FILES)}
    monkeypatch.setattr(sample, "_synthetic_arrays", lambda seed: small)

    def state(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    write_sample(tmp_path / "whole")
    whole = state(tmp_path / "whole")
    for number in range(len(SAMPLE_FILES) + 1):  # after so many files the disk was full
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in (*SHIPPED_FILES, *sample.SYNTHETIC_FILES)[:number]:
            (folder / name).write_bytes(whole[name])
        times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert write_sample(folder) == [folder / name for name in SAMPLE_FILES]
        assert state(folder) == whole
        assert all(path.stat().st_mtime_ns == then for path, then in times.items())


def test_one_existing_file_stops_everything(tmp_path):
    (tmp_path / "large.tif").write_text("mine")
    with pytest.raises(WriteError, match=r"large\.tif"):
        write_sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["large.tif"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(WriteError, match="folder"):
        write_sample(tmp_path / "taken")
