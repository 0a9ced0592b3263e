"""Whole images through a real network: tiles equal one pass, to the last bit where that can be."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tiling import Geometry, SeamError, SeamRule, stitch
from tiling.faults import MemoryFault, NumericsError, UsageFault
from unet2015.intensity import Scale
from unet2015.net import UNet, init_paper_weights
from unet2015.predict import (
    covering_output,
    default_output,
    geometry_of,
    predict_array,
    tile_bytes,
)
from unet2015.tile_checks import Trimmed, measured_reach, refuse_tile_dependence, trimmed
from unet2015.tile_function import Wanted, as_tile_function

SIZES = [(1, 1), (1, 97), (83, 1), (17, 19), (80, 80), (97, 131), (128, 61), (201, 90)]


@functools.cache
def network(base=4, depth=3, classes=2, channels=1):
    net = UNet(channels, classes, base_channels=base, depth=depth)
    init_paper_weights(net, seed=base + depth)
    return net.eval()


def image_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def one_pass(net, image, dtype=torch.float32):
    """Logits of the whole image, mirrored up to one legal tile, by torch alone."""
    pixels = image if image.ndim == 3 else image[None]
    side, edge = covering_output(net, image.shape), net.margin
    height, width = image.shape[-2:]
    pads = [(0, 0), (edge, edge + side - height), (edge, edge + side - width)]
    canvas = np.pad(pixels, pads, mode="reflect").astype(np.float32) * np.float32(1 / 255)
    tensor = torch.from_numpy(canvas)[None].to(dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        # Two of them, so that torch takes the same convolution as for large tiles.
        logits = net.to(dtype)(torch.cat([tensor, tensor]))[0].numpy()
    net.to(torch.float32)
    return logits[:, :height, :width]


def legal(net, *numbers):
    smallest = geometry_of(net, covering_output(net, (1, 1))).smallest
    return [smallest + k * net.period for k in numbers]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_tiles_equal_one_pass_bit_for_bit(shape, depth):
    net = network(depth=depth)
    image = image_of(*shape)
    whole = one_pass(net, image)
    for number, output in enumerate(legal(net, 0, 2, 5)[depth > 3 :]):
        tiled = predict_array(net, image, output=output, save="logits", batch=1 + 2 * number)
        np.testing.assert_array_equal(tiled, whole)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("base", [1, 6, 16])
def test_widths_and_threads(base, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        net, image = network(base=base), image_of(70, 113)
        whole = one_pass(net, image)
        for output in legal(net, 1, 4):
            tiled = predict_array(net, image, output=output, save="logits", batch=2)
            np.testing.assert_array_equal(tiled, whole)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SIZES[1:6])
def test_tiles_equal_one_pass_in_float64(shape):
    net, image = network(), image_of(*shape)
    whole = one_pass(net, image, torch.float64)

    def function(tiles):
        with torch.inference_mode():
            return net(torch.from_numpy(tiles.astype(np.float32) * np.float32(1 / 255)).double())

    net.double()
    result = np.empty_like(whole)
    stitch(image, function, result, geometry_of(net, 44), batch=2)
    net.float()
    assert np.abs(result - whole).max() <= 1e-14 * max(1.0, np.abs(whole).max())


@settings(max_examples=12)
@given(data=st.data())
def test_a_region_is_the_crop_of_the_whole(data):
    net = network(base=2)
    height, width = data.draw(st.integers(1, 130)), data.draw(st.integers(1, 130))
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    image, output = image_of(height, width), data.draw(st.sampled_from(legal(net, 1, 3, 6)))
    whole = predict_array(net, image, save="logits")
    function = as_tile_function(net, Wanted(save="logits"), scale=Scale(gain=1 / 255))
    part = np.empty((2, y1 - y0, x1 - x0), np.float32)
    stitch(image, function, part, geometry_of(net, output), region=(y0, y1, x0, x1),
           batch=data.draw(st.integers(1, 3)))  # fmt: skip
    np.testing.assert_array_equal(part, whole[:, y0:y1, x0:x1])


def test_channels_classes_and_kinds_of_array():
    net = network(classes=3, channels=2, base=2)
    image = image_of(2, 50, 61)
    whole = predict_array(net, image, save="logits")
    assert whole.shape == (3, 50, 61)
    for same in (np.asfortranarray(image), image[:, ::-1][:, ::-1], np.repeat(image, 2, 1)[:, ::2]):
        before = same.copy()
        np.testing.assert_array_equal(predict_array(net, same, output=20, save="logits"), whole)
        np.testing.assert_array_equal(same, before)
    big_endian = (image.astype(">u2") * 257).astype(">u2")
    np.testing.assert_allclose(
        predict_array(net, big_endian, save="logits"), whole, rtol=1e-4, atol=1e-4
    )
    labels = predict_array(net, image, save="label")
    np.testing.assert_array_equal(labels[0], whole.argmax(0))
    probability = predict_array(net, image)
    np.testing.assert_allclose(probability.sum(0), 1, atol=1e-6)


def test_the_paper_step_is_not_one_pass_and_the_certificate_sees_it():
    net = network(depth=4, base=8)
    image = image_of(160, 200)
    whole = one_pass(net, image)
    function = as_tile_function(net, Wanted(save="logits"), scale=Scale(gain=1 / 255))
    found = {}
    for step in ("exact", "paper"):
        result = np.empty_like(whole)
        summary = stitch(image, function, result, geometry_of(net, 68), step=step)
        found[step] = np.abs(result - whole).max(), summary.probe_difference
    assert found["exact"] == (0.0, 0.0)
    assert found["paper"][0] > 0.01 * whole.std()
    assert found["paper"][1] > 0.01 * whole.std()
    with pytest.raises(SeamError, match="commute with shifts by 16 px"):
        stitch(image, function, result, geometry_of(net, 68), step="paper",
               seams=SeamRule(tolerance=1e-4))  # fmt: skip


def test_a_wrong_period_is_found_by_the_strips():
    net, image = network(depth=4, base=8), image_of(160, 200)
    function = as_tile_function(net, Wanted(save="logits"), scale=Scale(gain=1 / 255))
    wrong = Geometry(margin=92, period=4, output=68, remainder=0)
    shrunken = Geometry(margin=92, period=12, output=68, remainder=8)  # step 60: 8 px twice
    for geometry in (wrong, shrunken):
        with pytest.raises(SeamError):
            stitch(image, function, np.empty((2, 160, 200), np.float32), geometry,
                   seams=SeamRule(tolerance=1e-3))  # fmt: skip


def test_bf16_tiles_equal_bf16_tiles():
    net, image = network(base=8), image_of(90, 120)
    once = predict_array(net, image, precision="bf16")
    for output, batch in ((36, 1), (36, 3), (68, 2)):
        tiled = predict_array(net, image, precision="bf16", output=output, batch=batch)
        assert np.abs(tiled - once).max() < 0.02
    assert np.abs(once - predict_array(net, image)).max() < 0.05


# --- averaging --------------------------------------------------------------------------------


def test_averaging_over_all_views_turns_with_the_image():
    net, image = network(), image_of(60, 76)
    once = predict_array(net, image, average="all", output=36)
    for turns in range(4):
        for mirrored in (False, True):
            view = np.rot90(image[:, ::-1] if mirrored else image, turns)
            turned = predict_array(net, view, average="all", output=36)
            back = np.rot90(turned, -turns, (-2, -1))
            back = back[..., ::-1] if mirrored else back
            np.testing.assert_allclose(back, once, atol=3e-6)
    assert np.abs(once - predict_array(net, image)).max() > 1e-3


@pytest.mark.parametrize(("average", "views"), [("flips", 4), ("rotations", 4), ("all", 8)])
def test_averages_are_the_mean_of_their_views(average, views):
    net, tile = network(), image_of(1, 1, 100, 100)
    scale = Scale(gain=1 / 255)
    plain = as_tile_function(net, Wanted(save="logits"), scale=scale)
    total, done = 0.0, 0
    for turns in range(4):
        for mirrored in (False, True):
            wanted = {"flips": turns in (0, 2), "rotations": not mirrored, "all": True}[average]
            if wanted:
                view = np.rot90(tile[..., ::-1] if mirrored else tile, turns, (-2, -1))
                out = np.rot90(plain(view), -turns, (-2, -1))
                total, done = total + (out[..., ::-1] if mirrored else out), done + 1
    assert done == views
    logits = as_tile_function(net, Wanted(save="logits"), scale=scale, average=average)(tile)
    np.testing.assert_allclose(logits, total / views, atol=2e-5)
    by_logits = as_tile_function(net, scale=scale, average=average, mean_of="logits")(tile)
    exponent = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(by_logits, exponent / exponent.sum(1, keepdims=True), atol=1e-5)
    by_probability = as_tile_function(net, scale=scale, average=average)(tile)
    assert np.abs(by_probability - by_logits).max() > 1e-5


# --- networks that cannot be tiled --------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.BatchNorm2d(4, track_running_stats=False), "mean and variance from what it is shown"),
        (nn.InstanceNorm2d(4), "mean and variance from what it is shown"),
        (nn.GroupNorm(2, 4), "mean and variance over the tile"),
        (nn.LayerNorm([4, 8, 8]), "mean and variance over the tile"),
        (nn.AdaptiveAvgPool2d(1), "pools over the whole tile"),
        (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "corners of the tile"),
        (nn.MultiheadAttention(4, 1), "attends"),
    ],
)
def test_networks_that_see_the_whole_tile_are_refused_with_the_reason(layer, reason):
    net = network()
    body = nn.Sequential(nn.Conv2d(1, 4, 3), layer)
    body.margin, body.period = net.margin, net.period
    with pytest.raises(UsageFault, match=reason):
        as_tile_function(body, scale=Scale())


def test_batch_norm_is_refused_only_while_it_learns():
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    with pytest.raises(UsageFault, match="layer 1"):
        refuse_tile_dependence(body.train())
    refuse_tile_dependence(body.eval())


class Padded(nn.Module):
    """Two poolings with zero padding, as most U-Nets of today are."""

    in_channels, classes = 1, 2

    def __init__(self, hidden=None):
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.ModuleList(nn.Conv2d(c, 8, 3, padding=1) for c in (1, 8, 8))
        self.up = nn.ModuleList(nn.Conv2d(16, 8, 3, padding=1) for _ in range(2))
        self.score, self.hidden = nn.Conv2d(8, 2, 1), hidden or nn.Identity()

    def forward(self, x):
        a = self.down[0](x).relu()
        b = self.down[1](nn.functional.max_pool2d(a, 2)).relu()
        c = self.hidden(self.down[2](nn.functional.max_pool2d(b, 2)).relu())
        b = self.up[0](torch.cat([nn.functional.interpolate(c, scale_factor=2), b], 1)).relu()
        a = self.up[1](torch.cat([nn.functional.interpolate(b, scale_factor=2), a], 1)).relu()
        return self.score(a)


def test_the_margin_of_a_padded_network_is_measured_and_makes_it_exact():
    net = Padded().eval()
    reach = measured_reach(net, in_channels=1, period=4)
    # 1 + 2 + 4 down, 3 at the bottom for the pooling phase, 2 + 1 up: 9 to 13 by phase.
    assert 9 <= reach <= 16
    valid = trimmed(net, in_channels=1, period=4)
    assert valid.margin % 4 == 0
    assert reach <= valid.margin < reach + 4
    image = image_of(70, 90)
    whole = predict_array(valid, image, save="logits", output=96)
    for output in (8, 24, 40):
        tiled = predict_array(valid, image, save="logits", output=output)
        np.testing.assert_array_equal(tiled, whole)
    short = Trimmed(net, valid.margin - 8, 4)
    function = as_tile_function(short, Wanted(save="logits"), scale=Scale(gain=1 / 255))
    with pytest.raises(SeamError, match="needs more"):
        stitch(image, function, np.empty((2, 70, 90), np.float32), geometry_of(short, 24),
               seams=SeamRule(tolerance=1e-6))  # fmt: skip


def test_statistics_hidden_in_a_forward_are_found_by_perturbation():
    class Hidden(nn.Module):
        def forward(self, x):
            return x - x.mean((-2, -1), keepdim=True)

    with pytest.raises(UsageFault, match="still depends on pixels 1024 px away"):
        measured_reach(Padded(Hidden()), in_channels=1, period=4)


@pytest.mark.parametrize("save", ["probability", "logits", "label"])
def test_arrays_are_predicted_by_tiles_that_agree_or_not_at_all(save):
    """A padded network leaves no strip between its tiles: the probe tile sees it."""
    net = Padded().eval()
    with torch.no_grad():
        for layer in (*net.down, *net.up, net.score):
            layer.weight *= 3
    image = image_of(150, 170)
    short = Trimmed(net, 4, 4)
    with pytest.raises(SeamError, match="the probe tile"):
        predict_array(short, image, save=save, output=40)
    unseen = predict_array(short, image, save=save, output=40, seams=SeamRule(probe=False))
    assert unseen.shape[-2:] == (150, 170)


@pytest.mark.parametrize(
    "hidden",
    [
        lambda x: x / (x.std() + 1),
        lambda x: nn.functional.batch_norm(x, None, None, training=True),
        lambda x: nn.functional.interpolate(
            nn.functional.max_pool2d(x, 2), size=x.shape[-2:], mode="bilinear", align_corners=True
        ),
        lambda x: x + torch.linspace(0, 1, x.shape[-1], dtype=x.dtype),
        lambda x: x + torch.linspace(0, 1, x.shape[-2], dtype=x.dtype)[:, None],
    ],
    ids=["batch", "batch norm", "corners", "columns", "rows"],
)
def test_what_depends_on_the_tile_as_a_whole_is_found_by_showing_it_another(hidden):
    class Hidden(nn.Module):
        def forward(self, x):
            return hidden(x)

    with pytest.raises(UsageFault, match=r"still depends on pixels|changes by .* when the tile"):
        trimmed(Padded(Hidden()), in_channels=1, period=4)


def test_a_period_that_is_too_small_is_found():
    class Pooled(nn.Module):
        def forward(self, x):
            return nn.functional.interpolate(
                nn.functional.max_pool2d(x, 4, ceil_mode=True), scale_factor=4
            )[..., : x.shape[-2], : x.shape[-1]]

    assert measured_reach(Pooled(), in_channels=1, period=4) == 3
    with pytest.raises(UsageFault, match="begins 2 px later"):
        measured_reach(Pooled(), in_channels=1, period=2)


# --- memory and numbers -------------------------------------------------------------------------


def test_the_tile_is_chosen_from_the_memory_at_hand():
    net = network(base=8)
    sides = [default_output(net, (3000, 3000), m << 20).output for m in (90, 120, 400, 4000)]
    assert sides == sorted(sides)
    assert sides[0] < sides[-1] <= 1540
    for side, memory in zip(sides, (90, 120, 400, 4000), strict=True):
        assert tile_bytes(net, geometry_of(net, side)) <= memory << 20
    with pytest.raises(MemoryFault, match="even the smallest tile"):
        default_output(net, (3000, 3000), 40 << 20)
    # 512 x 512 in one tile of 516, not in four of 388.
    assert default_output(UNet(base_channels=1), (512, 512), 8 << 30).output == 516


def test_output_that_is_not_finite_is_an_error():
    net = UNet(base_channels=1, depth=1)
    nn.init.constant_(net.score.bias, torch.inf)
    with pytest.raises(NumericsError, match="NaN or Inf"):
        predict_array(net, image_of(20, 20))


def test_nan_in_an_array_is_refused_with_place_and_count():
    image = np.zeros((9, 12), np.float32)
    image[4, 7] = image[8, 0] = np.nan
    with pytest.raises(ValueError, match=r"2 NaN .* row 4, column 7"):
        predict_array(network(), image)


@pytest.mark.parametrize("shape", [(5,), (), (1, 1, 8, 8)])
def test_an_image_of_another_number_of_axes_is_refused(shape):
    with pytest.raises(ValueError, match=r"give \(H, W\) or \(C, H, W\)"):
        predict_array(UNet(base_channels=1, depth=1), np.zeros(shape, np.uint8))
