"""Checks 30, 31, 35 and 36 of docs/fidelity.md with the network; test_stitch.py has a stand-in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiling import Geometry, SeamRule, stitch
from unet2015.net import UNet, init_paper_weights
from unet2015.predict import covering_output, predict_array

PROBABILITY_STEP = 1e-5  # float32 rounding of a soft-max output, with room


@pytest.fixture(scope="module")
def net():
    """The paper's shape, narrow: margin 20, period 4."""
    torch.set_num_threads(1)
    net = UNet(base_channels=4, depth=2)
    init_paper_weights(net, seed=3)
    return net.eval()


def image_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)


def one_pass(net, image, **options):
    return predict_array(net, image, output=covering_output(net, image.shape), **options)


@pytest.mark.parametrize("size", [(61, 75), (64, 64), (7, 90), (1, 33)])
@pytest.mark.parametrize("output", [8, 20])
def test_tiles_of_the_unet_equal_one_pass(net, size, output):
    image = image_of(*size)
    tiled = predict_array(net, image, output=output, batch=3)
    assert tiled.shape == (2, *size)
    np.testing.assert_allclose(tiled, one_pass(net, image), atol=PROBABILITY_STEP)


def test_tiles_of_the_papers_depth_equal_one_pass():
    net = UNet(base_channels=1)
    init_paper_weights(net, seed=1)
    image = image_of(50, 41)
    tiled = predict_array(net, image, output=36)  # runs 220, keeps 36, steps by 32
    np.testing.assert_allclose(tiled, one_pass(net, image), atol=PROBABILITY_STEP)


def test_the_papers_step_differs():
    """Tiles side by side: outputs of a depth-4 network are 4 mod 16, so every second one is off."""
    net = UNet(base_channels=1)
    init_paper_weights(net, seed=1)
    image = image_of(20, 60)

    def function(tiles):
        with torch.inference_mode():
            return net.eval()(torch.from_numpy(tiles)).softmax(dim=1).numpy()

    literal, exact = np.empty((2, 2, *image.shape), np.float32)
    for result, step in ((literal, "paper"), (exact, "exact")):
        stitch(
            image[None].astype(np.float32) / 255, function, result,
            Geometry(net.margin, net.period, 20), step=step, seams=SeamRule(probe=False),
        )  # fmt: skip
    np.testing.assert_allclose(exact, one_pass(net, image), atol=PROBABILITY_STEP)
    off = np.abs(literal - exact).max(axis=(0, 1))
    assert off[:20].max() < PROBABILITY_STEP  # the first tile is in phase
    assert off[20:40].max() > 100 * PROBABILITY_STEP


def test_grey_values_are_scaled_by_type_never_by_tile(net):
    """A bright corner changes nothing beyond the reach of the network, whatever the tile."""
    image = image_of(60, 90) // 4
    bright = image.copy()
    bright[:8, :8] = 255
    for output in (20, 60):
        plain, changed = (predict_array(net, i, output=output) for i in (image, bright))
        np.testing.assert_array_equal(plain[..., 48:], changed[..., 48:])
        assert (plain[:, :8, :8] != changed[:, :8, :8]).any()
    wide = image.astype(np.uint16) * 257  # 255 becomes 65535
    real = image.astype(np.float32) / np.float32(255)
    for same in (wide, real):
        np.testing.assert_allclose(one_pass(net, same), one_pass(net, image), atol=PROBABILITY_STEP)


def test_eight_views_are_equivariant_four_flips_are_not(net):
    """On a legal output size, where turning the image does not change the pooling phase."""
    image = image_of(36, 36)

    def averaged(picture, views):
        return predict_array(net, np.ascontiguousarray(picture), output=36, average=views)

    def assert_same(found, expected):
        np.testing.assert_allclose(found, expected, atol=PROBABILITY_STEP)

    for turns in (1, 2, 3):
        expected = np.rot90(averaged(image, "all"), turns, (1, 2))
        assert_same(averaged(np.rot90(image, turns), "all"), expected)
    assert_same(averaged(image[:, ::-1], "all"), averaged(image, "all")[..., ::-1])
    assert_same(averaged(image[::-1], "flips"), averaged(image, "flips")[:, ::-1])
    quarter = averaged(np.rot90(image), "flips") - np.rot90(averaged(image, "flips"), 1, (1, 2))
    assert np.abs(quarter).max() > 100 * PROBABILITY_STEP
