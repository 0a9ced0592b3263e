"""Eq. 2 with w_c of several classes: by the book, block by block, and from the command line."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from tests.label_maps import random_labels
from tiling.strict_tiff import read_stack
from weightmaps import (
    EPSILON,
    WeightMapSpec,
    class_weights,
    instances_from_mask,
    multiclass_weight_map,
    separate_touching,
    volume_weight_map,
    weight_map,
    weight_map_blocks,
)
from weightmaps.blocks import census
from weightmaps.carving import separate_touching_volume
from weightmaps.cli import main
from weightmaps.files import read_history


def cells_and_classes(seed=0, side=40):
    labels = random_labels(seed, side, side, "voronoi")
    return labels, np.where(labels > 0, 1 + labels % 3, 0)


def class_image(seed=0, side=48):
    """Classes 0 .. 3 in squares of 6 pixels, many of which touch."""
    small = np.random.default_rng(seed).integers(0, 4, (side // 6, side // 6), dtype=np.uint8)
    return np.kron(small, np.ones((6, 6), np.uint8))


def cells_of(classes, connectivity=4):
    """Components of each class, one class after the other."""
    ids = np.zeros(classes.shape, np.int64)
    for value in range(1, int(classes.max()) + 1):
        part = instances_from_mask(classes == value, connectivity=connectivity)
        ids[part > 0] = part[part > 0] + ids.max()
    return ids


@pytest.mark.parametrize("separate", ["after", "before", "watershed", "none"])
@pytest.mark.parametrize("balance", ["balanced", "none", (0.5, 1.0, 2.0, 7.0)])
def test_border_term_plus_the_weight_of_the_class(separate, balance):
    labels, classes = cells_and_classes()
    spec = WeightMapSpec(class_weights=balance, separate=separate)
    carved = labels
    if spec.line:
        carved = separate_touching(labels, method=spec.line)
    kinds = np.where(carved > 0, classes, 0)
    table = np.array(balance) if isinstance(balance, tuple) else np.ones(4)
    if balance == "balanced":
        table = class_weights(np.bincount(kinds.ravel()))
    term = weight_map(labels, class_weights="none", separate=separate, dtype=float) - 1
    found = multiclass_weight_map(labels, classes, spec, dtype=float)
    np.testing.assert_allclose(found, table[kinds] + term, rtol=1e-12, atol=EPSILON)
    if balance == "balanced":
        flat = WeightMapSpec(w0=0, separate=separate)
        assert np.isclose(multiclass_weight_map(labels, classes, flat, dtype=float).mean(), 1)


def test_two_classes_are_the_ordinary_map():
    labels, _ = cells_and_classes()
    found = multiclass_weight_map(labels, (labels > 0).astype(int))
    np.testing.assert_array_equal(found, weight_map(labels))


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("ignore", [None, 3])
def test_blocks_equal_the_whole(rows, ignore):
    labels, classes = cells_and_classes(3)
    spec = WeightMapSpec(ignore_label=ignore, separate="watershed")
    if ignore:
        labels = np.where(classes == ignore, ignore, np.where(labels == ignore, 0, labels))
    found = weight_map_blocks(labels, spec, classes=classes, block_rows=rows)
    whole = multiclass_weight_map(labels, classes, spec)
    np.testing.assert_array_equal(np.concatenate([block for _, block in found]), whole)
    counts = census(labels, spec, classes=classes, block_rows=rows).counts
    assert counts.sum() == (whole > 0).sum()


@pytest.mark.parametrize("balance", ["balanced", (1, 2, 3, 4)])
@pytest.mark.parametrize("ignore", [-1, 77, 300])
def test_a_class_alone_can_be_ignored(ignore, balance):
    labels, classes = cells_and_classes(5)
    classes[10:20, 5:30] = ignore
    spec = WeightMapSpec(ignore_label=ignore, class_weights=balance)
    both = multiclass_weight_map(np.where(classes == ignore, ignore, labels), classes, spec)
    assert (both[classes == ignore] == 0).all()
    small = labels.astype(np.uint8)  # cannot hold -1 or 300
    np.testing.assert_array_equal(multiclass_weight_map(small, classes, spec), both)
    large = np.where(labels > 0, labels.astype(np.uint64) + np.uint64(2**63), np.uint64(0))
    np.testing.assert_array_equal(multiclass_weight_map(large, classes, spec), both)
    blocks = weight_map_blocks(small, spec, classes=classes, block_rows=7)
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), both)


@pytest.mark.parametrize("wrong", [-1, 2**40])
def test_a_class_that_is_none_is_named(wrong):
    for spec in (WeightMapSpec(), WeightMapSpec(class_weights=(1, 2))):
        with pytest.raises(ValueError, match=f"class {wrong} is not one of"):
            multiclass_weight_map([[1, 0]], [[wrong, 0]], spec)


def test_per_image_balances_each_slice():
    pairs = [cells_and_classes(seed) for seed in range(2)]
    labels, classes = (np.stack(part) for part in zip(*pairs, strict=True))
    spec = WeightMapSpec(class_weights="per-image")
    alone = [multiclass_weight_map(*pair) for pair in pairs]
    np.testing.assert_array_equal(multiclass_weight_map(labels, classes, spec), alone)


@pytest.mark.parametrize(
    ("classes", "options", "words"),
    [
        ([[1, 0, 2]], {"class_weights": (1.0, 2.0)}, "class 2 has no weight"),
        ([[1, 0, 2]], {"class_weights": "falk2019"}, "two classes"),
        ([[0, 1]], {}, r"\(1, 3\), classes \(1, 2\)"),
    ],
)
def test_bad_requests_are_refused(classes, options, words):
    with pytest.raises(ValueError, match=words):
        multiclass_weight_map([[5, 0, 6]], classes, WeightMapSpec(**options))


@pytest.mark.parametrize("dtype", [np.int64, np.complex64, np.longdouble, bool])
def test_the_map_is_of_a_type_with_fractions(dtype):
    with pytest.raises(TypeError, match="is not one of float16, float32, float64"):
        multiclass_weight_map([[5, 0, 6]], [[1, 0, 2]], dtype=dtype)


def test_the_spacing_of_an_image_is_two_numbers():
    spec, image = WeightMapSpec(spacing=(2, 1, 1)), np.array([[1, 0, 2]])
    with pytest.raises(ValueError, match="must be 2 numbers"):
        multiclass_weight_map(image, image, spec)
    for classes in (None, image):
        with pytest.raises(ValueError, match="must be 2 numbers"):
            list(weight_map_blocks(image, spec, classes=classes))


def test_more_weights_than_two_are_for_more_classes():
    with pytest.raises(ValueError, match=r"3 class weights.*multiclass_weight_map"):
        weight_map([[0, 1]], class_weights=(1, 2, 3))


@pytest.mark.parametrize("options", [(), ("--block-rows", "5")])
def test_class_files_from_the_command_line(tmp_path, capsys, options):
    images = [class_image(0), np.where(class_image(1) == 3, 0, class_image(1))]
    for k, image in enumerate(images):
        tifffile.imwrite(tmp_path / f"{k}.tif", image)
    args = [str(tmp_path), "--out", str(tmp_path / "w"), "--labels", "classes", *options]
    assert main(args) == 0
    ids = [cells_of(image) for image in images]
    kinds = [np.where(separate_touching(i) > 0, c, 0) for i, c in zip(ids, images, strict=True)]
    table = class_weights(np.bincount(np.concatenate(kinds, axis=None)))
    told = capsys.readouterr().out.splitlines()[0]
    assert told.endswith(
        f"background {table[0]:.4g}, class 1 {table[1]:.4g}, class 2 {table[2]:.4g},"
        f" class 3 {table[3]:.4g}"
    )
    spec = WeightMapSpec(class_weights=tuple(table.tolist()))
    for k in range(2):
        expected = multiclass_weight_map(ids[k], images[k], spec)
        np.testing.assert_array_equal(read_stack(tmp_path / "w" / f"{k}.weights.tif")[0], expected)
    history = read_history(tmp_path / "w" / "1.weights.tif")
    assert history["labels"]["taken_as"] == "classes"
    assert history["class_weights"] == table.tolist()
    assert len(history["labels"]["counts"]) == 3
    assert main(args) == 0
    assert capsys.readouterr().out.count("up to date") == 2


def test_an_ignored_class_weighs_nothing(tmp_path):
    image = class_image(2)
    tifffile.imwrite(tmp_path / "a.tif", np.where(image == 3, 255, image).astype(np.uint8))
    args = ["--labels", "classes", "--ignore-label", "255", "--class-weights", "1,2,3"]
    assert main([str(tmp_path / "a.tif"), "--out", str(tmp_path), *args]) == 0
    weights = read_stack(tmp_path / "a.weights.tif")[0]
    assert ((weights == 0) == (image == 3)).all()


def test_classes_of_a_volume(tmp_path):
    stack = np.stack([class_image(5), class_image(5), class_image(6)])
    tifffile.imwrite(tmp_path / "v.tif", stack, photometric="minisblack")
    args = [str(tmp_path / "v.tif"), "--out", str(tmp_path), "--labels", "classes", "--3d"]
    assert main(args) == 0
    found = read_stack(tmp_path / "v.weights.tif")
    history = read_history(tmp_path / "v.weights.tif")
    ids = np.zeros(stack.shape, np.int64)
    for value in (1, 2, 3):
        part, _ = ndimage.label(stack == value)
        ids[part > 0] = part[part > 0] + ids.max()
    kinds = np.where(separate_touching_volume(ids) > 0, stack, 0)
    assert history["labels"]["counts"] == np.bincount(kinds.ravel()).tolist()
    term = volume_weight_map(ids, class_weights="none") - 1
    expected = np.array(history["class_weights"])[kinds] + term
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "options", "code", "words"),
    [
        ((0, 127, 255), (), 3, "whole numbers from 0 to 15, this file has 0, 127, 255"),
        ((1, 0, 2), ("--class-weights", "1,2"), 3, "class 2 has no weight"),
        ((0, 1, 2), ("--class-weights", "falk2019"), 2, "falk2019 is for background and cells"),
        ((0, 1, 2), ("--inside", "zero"), 2, "do not go with classes"),
    ],
)
def test_refusals_of_class_files(tmp_path, capsys, values, options, code, words):
    tifffile.imwrite(tmp_path / "a.tif", np.array([values] * 4, np.uint8))
    args = [str(tmp_path / "a.tif"), "--out", str(tmp_path / "w"), "--labels", "classes"]
    assert main([*args, *options]) == code
    assert words in capsys.readouterr().err


def test_three_weights_want_classes(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "a.tif", class_image())
    args = [str(tmp_path / "a.tif"), "--out", str(tmp_path), "--class-weights", "1,2,3"]
    assert main(args) == 2
    assert "say --labels classes" in capsys.readouterr().err
