"""Training scales images as prediction will: each file as a whole, by the rule in the recipe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from tests.tiny_run import TINY
from tiling import open_source
from tiling.faults import InputError
from unet2015.checkpoint import Checkpoint, describe_network, load, save
from unet2015.data import Stack, draw_tile, read_stack_pair, split, weigh
from unet2015.intensity import blocks_of, measure_scale
from unet2015.model import load_model
from unet2015.net import UNet
from unet2015.predict_file import Settings, prepare
from unet2015.recipe import Recipe
from unet2015.scaled_stack import left_to_scale, scaled_stack
from unet2015.training_run import Inputs, read_inputs, run_training

MEASURED = ["min-max", "percentile", "percentile:5:90", "median", "fixed:100:900"]


@pytest.fixture
def folders(tmp_path):
    """Two files of two slices, of different brightness, and their masks."""
    random = np.random.default_rng(5)
    for name, gain in (("a", 2), ("b", 9)):
        image = (random.integers(0, 256, (2, 120, 130)) * gain + 50 * gain).astype(np.uint16)
        for folder, pixels in (("images", image), ("labels", (image > 200 * gain) * np.uint8(255))):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(
                tmp_path / folder / f"{name}.tif", pixels, photometric="minisblack",
                metadata={"axes": "ZYX"},
            )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize("scale", MEASURED)
def test_each_file_is_scaled_as_in_prediction(folders, scale):
    recipe = replace(TINY, scale=scale)
    inputs = Inputs(folders / "images", folders / "labels", val="a[1],b[0]")
    stack, held_out = read_inputs(inputs, recipe)
    found = dict(zip((*stack.names, *held_out.names), (*stack.images, *held_out.images)))  # noqa: B905
    for name in "ab":
        pixels = tifffile.imread(folders / "images" / f"{name}.tif")
        same = measure_scale(scale, pixels.dtype, lambda: blocks_of(list(pixels)))  # noqa: B023
        for number in range(2):
            expected = same(pixels[number][None])
            np.testing.assert_array_equal(found[f"{name}[{number}]"], expected)
    assert left_to_scale(stack, scale) == "none"
    assert left_to_scale(stack, "dtype-range") == "dtype-range"
    assert scaled_stack(stack, scale) is stack


@pytest.mark.parametrize("scale", [*MEASURED, "none"])
@pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "int32", "uint64", "int64"])
def test_integers_without_a_grey_range_are_scaled_as_in_prediction(tmp_path, dtype, scale):
    counts = np.random.default_rng(3).integers(0, 100, (3, 60, 70))
    if np.dtype(dtype).itemsize > 2:
        counts[0] += 1 << 24  # beyond what float32 counts one by one
    image, labels, model = (tmp_path / name for name in ("i.tif", "l.tif", "m.safetensors"))
    pixels = counts.astype(dtype)
    tifffile.imwrite(image, pixels, photometric="minisblack", metadata={"axes": "ZYX"})
    masks = (counts % (1 << 24) > 40) * np.uint8(255)
    tifffile.imwrite(labels, masks, photometric="minisblack", metadata={"axes": "ZYX"})
    stack, _ = read_inputs(Inputs(image, labels), replace(TINY, scale=scale))
    net = UNet(base_channels=1, depth=1)
    save(model, Checkpoint(network=describe_network(net), weights=net.state_dict(),
                           preprocessing={"scale": scale}))  # fmt: skip
    with open_source(image) as source:
        job = prepare(load_model(model), source, str(image), Settings(device="cpu"))
        for plane, found in zip(job.planes, stack.images, strict=True):
            expected = job.scale(np.asarray(plane[..., 0:60, 0:70])[None])
            assert found.dtype == expected.dtype == np.float32
            np.testing.assert_array_equal(found, expected)
    assert draw_tile(stack, replace(TINY, scale=scale), 0, 0)[0].dtype == np.float32


def test_integers_without_a_grey_range_name_the_rules_that_do(tmp_path):
    image, labels = tmp_path / "i.tif", tmp_path / "l.tif"
    pixels = np.random.default_rng(3).integers(0, 100, (60, 70)).astype(np.uint32)
    tifffile.imwrite(image, pixels, photometric="minisblack")
    tifffile.imwrite(labels, (pixels > 40) * np.uint8(255), photometric="minisblack")
    words = r"i\.tif: images of dtype uint32 have no agreed grey range; train with --set scale="
    with pytest.raises(InputError, match=words):
        read_inputs(Inputs(image, labels), TINY)
    stack = read_stack_pair(image, labels)
    with pytest.raises(ValueError, match="uint32 have no agreed grey range"):
        draw_tile(weigh(stack, TINY), TINY, 0, 0)


def test_an_undeformed_tile_holds_the_scaled_image():
    image = np.random.default_rng(1).integers(0, 60_000, (1, 200, 200)).astype(np.uint16)
    labels = (image[0] > 30_000).astype(np.int64)
    still = replace(
        TINY, scale="percentile", displacement_std_px=0, shift_px=0, rotation_deg=0, mirror=False,
        grey_gain=0, grey_shift=0, grey_gamma=0,
    )  # fmt: skip
    stack = weigh(scaled_stack(Stack([image], [labels]), still.scale), still)
    tile = draw_tile(stack, still, 0, 0)[0]
    low, high = np.percentile(image, (1, 99.8))
    inside = set(np.round((image.ravel() - low) / (high - low), 4).tolist())
    assert {round(float(v), 4) for v in tile.ravel()[:200]} <= {
        value + step for value in inside for step in (0.0, 1e-4, -1e-4)
    } | inside
    with pytest.raises(ValueError, match="are not scaled by 'percentile' yet"):
        draw_tile(weigh(Stack([image], [labels]), still), still, 0, 0)


def test_the_checkpoint_says_how_and_prediction_obeys(folders, tmp_path):
    recipe = replace(TINY, scale="median", class_names="gap,cell", steps=2)
    inputs = Inputs(folders / "images", folders / "labels", val="b[1]")
    run_training(recipe, inputs, tmp_path / "run", device="cpu")
    state = load(tmp_path / "run" / "last.safetensors")
    assert state.preprocessing["scale"] == "median"
    assert Recipe.from_dict(state.recipe) == recipe


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scale": "best"}, "scale = 'best'; choose one of dtype-range"),
        ({"scale": "fixed:1"}, "choose one of"),
        ({"class_names": "one,two,three"}, "are not 2; give one name for each class"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **wrong)


def test_a_split_keeps_the_scaling():
    stack = Stack(
        np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2), np.array([[[0, 1], [0, 1]]] * 2)
    )
    for part in split(scaled_stack(stack, "min-max"), "1"):
        assert part.scale == "min-max"
