"""Weights made anew after the warp are those of the deformed cells, and labels go with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.label_maps import voronoi_cells
from unet2015.augment import warp_nearest
from unet2015.data import draw_tile, output_px
from unet2015.deformation import draw_deformation
from unet2015.recipe import Recipe
from unet2015.stack import Stack, place
from unet2015.weighing import border_spec, weigh
from weightmaps import separate_touching, weight_map

SHALLOW = Recipe(
    tile_px=60, depth=1, steps=6, sigma_px=2.0, weights_after_warp="recomputed", shift_px=3.0
)  # a window with its margin is larger than the tile
DEEP = replace(SHALLOW, tile_px=172, depth=3)


def touching(classes=2, ignore=None):
    """Two slices of cells that touch, some without annotation; every third cell is of class 2."""
    ids = [voronoi_cells(150, 60, -1.0, seed).astype(np.int64) for seed in range(2)]
    for one in ids:
        one[40:60, 40:90] = 0
    labels = [np.where(one > 0, 1 + (one % 3 == 0) * (classes > 2), 0) for one in ids]
    if ignore is not None:
        for one in labels:
            one[100:110, 20:80] = ignore
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 150, 150), dtype=np.uint8)
    return Stack(images, labels, instances=ids)


def by_hand(stack, recipe, step):
    """Labels and weights of a tile: cells warped, carved and weighed one after the other."""
    index, centre = place(stack, recipe, step, 0)
    deformation = draw_deformation(recipe, recipe.seed, step, 0)
    spec, output = border_spec(recipe), output_px(recipe)
    where = {
        "centre": centre, "input_px": recipe.tile_px, "window_px": output + 2 * spec.halo_px
    }  # fmt: skip
    ids = warp_nearest(stack.instances[index], deformation, **where)
    classes = warp_nearest(stack.labels[index], deformation, **where)
    if spec.line is not None:
        carved = separate_touching(ids, method=spec.line, ignore_label=-1)
        classes[(ids > 0) & (carved == 0)] = 0
    term = weight_map(
        ids, w0=spec.w0, sigma_px=spec.sigma_px, class_weights="none", where=spec.where,
        separate=spec.separate, ignore_label=-1, dtype=np.float64,
    )  # fmt: skip
    table = np.ones(256)
    table[: recipe.classes] = stack.class_weights
    weights = np.where(ids == -1, 0, term - 1 + table[classes])
    inner = slice(spec.halo_px, spec.halo_px + output)
    return classes[inner, inner], weights[inner, inner]


@pytest.mark.parametrize("shape", [SHALLOW, DEEP])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"separate": "before", "where": "everywhere"},
        {"separate": "watershed", "classes": 3},
        {"separate": "watershed-before"},
        {"separate": "none", "border_weight": False},
        {"classes": 3, "ignore_label": 255, "class_weights": "none"},
    ],
)
def test_a_recomputed_tile_is_its_deformed_cells_weighed(shape, options):
    recipe = replace(shape, **options)
    stack = weigh(touching(recipe.classes, recipe.ignore_label), recipe)
    for step in range(2):
        _, labels, weights = draw_tile(stack, recipe, step, 0)
        expected_labels, expected = by_hand(stack, recipe, step)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-6)
    assert (weights > weights.min()).any() or not recipe.border_weight


def test_the_image_of_a_recomputed_tile_is_that_of_a_warped_one():
    for recipe in (SHALLOW, DEEP):
        image, _, _ = draw_tile(weigh(touching(), recipe), recipe, 0, 0)
        warped = replace(recipe, weights_after_warp="warped")
        expected, _, _ = draw_tile(weigh(touching(), warped), warped, 0, 0)
        np.testing.assert_array_equal(image, expected)


def test_pixels_mirrored_in_keep_their_factor_when_recomputed():
    recipe = replace(DEEP, class_weights="none", border_weight=False)
    stack = weigh(touching(), recipe)
    halved = replace(recipe, mirrored_weight=0.5)
    weights = [draw_tile(stack, one, 0, 0)[2] for one in (recipe, halved)]
    beyond = weights[0] != weights[1]
    assert beyond.any()
    np.testing.assert_array_equal(weights[1][beyond], 0.5)


@pytest.mark.parametrize("balance", ["per-image", "falk2019"])
def test_a_balance_of_the_tile_itself_leaves_cells_without_border(balance):
    recipe = replace(DEEP, class_weights=balance)
    _, labels, weights = draw_tile(weigh(touching(), recipe), recipe, 0, 0)
    assert labels.shape == weights.shape
    assert len(np.unique(weights[labels == 1])) == 1


def test_huge_ids_are_packed_too():
    ids = np.array([[[2**40, 0, -1, 7]]])
    stack = Stack(np.zeros((1, 1, 1, 4), np.uint8), np.array([[[1, 0, 255, 1]]]), instances=ids)
    assert (stack.packed[0] >> 8).tolist() == [[2, 0, -1, 1]]
    assert (stack.packed[0] & 255).tolist() == [[1, 0, 255, 1]]
