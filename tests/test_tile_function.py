"""Numbers that leave the network: quantised, thresholded, and the same when memory is short."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tiling import stitch
from tiling.faults import MemoryFault, NumericsError, UsageFault
from unet2015.fitting import Fitting, is_out_of_memory
from unet2015.intensity import (
    Scale,
    blocks_of,
    check_normalisation,
    measure_scale,
    scale_for_dtype,
)
from unet2015.net import UNet, init_paper_weights
from unet2015.order_statistics import order_statistics
from unet2015.predict import geometry_of
from unet2015.tile_function import Wanted, _probabilities, as_tile_function
from unet2015.transfer import OnItsWay, _scaled, fetched

SCALE = Scale(gain=1 / 255)


def network(classes=2):
    net = UNet(1, classes, base_channels=2, depth=3)
    init_paper_weights(net, seed=1)
    return net


def tiles(n=2, side=92):
    return np.random.default_rng(n).integers(0, 256, (n, 1, side, side), dtype=np.uint8)


# --- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "full"), [("uint8", 255), ("uint16", 65535)])
def test_integers_hold_the_rounded_probability(dtype, full):
    net = network()
    exact = as_tile_function(net, scale=SCALE)(tiles())
    found = as_tile_function(net, Wanted(dtype=dtype), scale=SCALE)(tiles())
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.rint(exact * np.float32(full)).astype(dtype))


def test_one_class_and_half_precision_files():
    net = network(3)
    exact = as_tile_function(net, scale=SCALE)(tiles())
    found = as_tile_function(net, Wanted(dtype="float16", only=2), scale=SCALE)(tiles())
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, exact[:, 2:3].astype(np.float16))


def test_labels_by_the_most_probable_class_and_by_threshold():
    net = network(3)
    exact = as_tile_function(net, scale=SCALE)(tiles())
    label = Wanted(save="label", dtype="uint8")
    found = as_tile_function(net, label, scale=SCALE)(tiles())
    np.testing.assert_array_equal(found[:, 0], exact.argmax(1))
    # Strictly above, and compared as the challenge's program does: float32 as binary64.
    level = float(exact[0, 1, 3, 3])
    wanted = Wanted(save="label", dtype="uint8", only=1, threshold=level)
    found = as_tile_function(net, wanted, scale=SCALE)(tiles())
    np.testing.assert_array_equal(found[:, 0], exact[:, 1].astype(np.float64) > level)
    assert found[0, 0, 3, 3] == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"save": "mask"}, "choose from probability"),
        ({"save": "logits", "dtype": "uint8"}, "cannot hold logits; use float32"),
        ({"save": "label"}, "cannot hold label; use uint8"),
        ({"dtype": "int7"}, "--dtype int7"),
        ({"threshold": 0.5}, "--save label --class"),
        ({"save": "label", "dtype": "uint8", "threshold": 2.0, "only": 1}, "0 to 1"),
    ],
)
def test_wishes_that_do_not_fit_are_refused(wrong, words):
    with pytest.raises(UsageFault, match=words):
        Wanted(**wrong)


def test_unknown_averages_are_refused():
    with pytest.raises(UsageFault, match="average='some'"):
        as_tile_function(network(), scale=SCALE, average="some")
    with pytest.raises(UsageFault, match="mean_of='votes'"):
        as_tile_function(network(), scale=SCALE, mean_of="votes")


def test_the_caller_keeps_its_tiles_and_random_layers_sleep():
    net = network().train()
    given_tiles = tiles()
    before = given_tiles.copy()
    function = as_tile_function(net, scale=SCALE)
    np.testing.assert_array_equal(function(given_tiles), function(given_tiles))
    np.testing.assert_array_equal(given_tiles, before)


# --- memory (fault list F3, F4) -------------------------------------------------------------------


class Limited(nn.Module):
    """A real network on a device that holds so many values and no more."""

    def __init__(self, net, limit, error=torch.OutOfMemoryError):
        super().__init__()
        self.net, self.limit, self.error = net, limit, error
        self.margin, self.period, self.calls = net.margin, net.period, []

    def forward(self, image):
        self.calls.append(image.numel())
        if image.numel() > self.limit:
            raise self.error("CUDA out of memory. Tried to allocate")
        return self.net(image)


@pytest.mark.parametrize("limit", [2 * 148**2, 2 * 124**2, 2 * 100**2])
def test_f3_out_of_memory_gives_the_same_bytes(limit):
    image = np.random.default_rng(0).integers(0, 256, (150, 130), dtype=np.uint8)
    found = []
    for net in (network(), limited := Limited(network(), limit)):
        result = np.empty((1, 150, 130), np.uint8)
        function = as_tile_function(net, Wanted(dtype="uint8", only=1), scale=SCALE)
        summary = stitch(image, function, result, geometry_of(net, 60), batch=3)
        found.append(result)
        assert summary.seam_max_difference == 0
    np.testing.assert_array_equal(*found)
    # A size that failed is not tried again for each tile.
    failures = [size for size in limited.calls if size > limit]
    assert len(failures) <= 5


def test_f3_the_floor_is_told():
    function = as_tile_function(Limited(network(), 1000), scale=SCALE)
    with pytest.raises(MemoryFault, match="too little memory even for an input of 100 x 100"):
        function(tiles(2, 132))


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
def test_f4_other_errors_are_not_taken_for_it(error):
    limited = Limited(network(), 1000, error)
    with pytest.raises(error, match="out of memory"):
        as_tile_function(limited, scale=SCALE)(tiles(2, 132))
    assert len(limited.calls) == 1


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))  # pinned memory, handles
    assert not is_out_of_memory(RuntimeError("CUDA error: illegal address"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN, ulimit -v
    for other in (
        "could not create a primitive descriptor for a convolution forward propagation primitive",
        "could not create a primitive descriptor iterator",
    ):
        assert not is_out_of_memory(RuntimeError(other))
    assert not is_out_of_memory(ValueError("could not create a primitive"))


@given(output=st.integers(2, 12).map(lambda k: 8 * k + 4), limit=st.integers(40, 200))
@settings(max_examples=30)
def test_pieces_cover_any_window(output, limit):
    """A stand-in that returns the centre must give the image back from any pieces."""

    def centre(image):
        if max(image.shape[-2:]) > max(limit, 8 + 4 + 40):
            raise torch.OutOfMemoryError
        assert image.shape[-1] % 8 == 4
        return image[..., 20:-20, 20:-20]

    fitting = Fitting(20, 8, torch.device("cpu"), centre)
    image = np.random.default_rng(0).random((2, 1, output + 40, output + 40), np.float32)
    np.testing.assert_array_equal(fitting(image), image[..., 20:-20, 20:-20])


# --- normalisation (fault list C15, C16) ----------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", ">u2", "i2", "u4", "i8", "f2", "f4", ">f8", "?"]
)
def test_percentiles_are_exact_whatever_the_type(dtype):
    random = np.random.default_rng(3)
    values = (random.normal(0, 40, (2, 3, 31, 17)) * 3).astype(np.int8 if dtype == "i1" else int)
    image = np.abs(values).astype(dtype) if dtype in ("u1", "?") else values.astype(dtype)
    image = image + np.float16(0.25) if dtype == "f2" else image
    image = image.astype(dtype)
    percents = (0, 0.3, 25, 50, 99.8, 100)
    found = order_statistics(lambda: blocks_of(image), np.dtype(dtype), percents)
    flat = image.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(found, np.percentile(flat, percents, axis=1).T, rtol=1e-13)


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=40),
    st.lists(st.floats(0, 100), min_size=1, max_size=3),
)
@settings(max_examples=60)
def test_percentiles_of_any_floats(values, percents):
    image = np.array([values], np.float32)
    finite = image[np.isfinite(image)]
    if finite.size == 0:
        with pytest.raises(ValueError, match="no finite value"):
            order_statistics(lambda: blocks_of([image]), image.dtype, percents)
        return
    found = order_statistics(lambda: blocks_of([image]), image.dtype, percents)
    expected = np.percentile(finite.astype(np.float64), percents)
    np.testing.assert_allclose(found[0], expected, rtol=1e-9, atol=1e-44)


def test_normalisations_by_hand():
    image = np.array([[10, 20, 30, 40, 50]], np.uint16)

    def scaled(text):
        return measure_scale(text, image.dtype, lambda: blocks_of([image]))(image[None])[0, 0]

    np.testing.assert_allclose(scaled("dtype-range"), image[0] / 65535, rtol=1e-6)
    np.testing.assert_array_equal(scaled("none"), image[0])
    np.testing.assert_allclose(scaled("min-max"), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(scaled("fixed:20:40"), [-0.5, 0, 0.5, 1, 1.5])
    np.testing.assert_allclose(scaled("percentile:25:75"), [-0.5, 0, 0.5, 1, 1.5])
    np.testing.assert_allclose(scaled("median"), np.array([-20, -10, 0, 10, 20]) * 1.349 / 20,
                               rtol=1e-4)  # fmt: skip


def test_channels_have_their_own_range_and_planes_share_it():
    planes = [np.array([[[0, 2]], [[5, 5]]], np.uint8), np.array([[[1, 4]], [[6, 9]]], np.uint8)]
    scale = measure_scale("min-max", planes[0].dtype, lambda: blocks_of(planes))
    assert scale == Scale((0.0, 5.0), (0.25, 0.25))
    np.testing.assert_array_equal(scale(planes[1][None])[0], [[[0.25, 1]], [[0.25, 1]]])


def test_c16_constant_images_do_not_divide_by_zero():
    image = np.full((4, 4), 7, np.uint8)
    for text in ("min-max", "percentile", "median"):
        scale = measure_scale(text, image.dtype, lambda: blocks_of([image]))
        np.testing.assert_array_equal(scale(image[None]), 0)
    mostly = np.zeros((100, 100), np.uint8)
    mostly[0, 0] = 200  # both percentiles are 0: the whole range is used
    scale = measure_scale("percentile", mostly.dtype, lambda: blocks_of([mostly]))
    assert scale(mostly[None]).max() == 1


def test_c15_nan_is_refused_with_count_and_place_or_replaced():
    planes = [np.zeros((50, 30), np.float32) for _ in range(3)]
    planes[1][20, 4], planes[2][0, 0] = np.nan, -np.inf
    with pytest.raises(ValueError, match=r"2 NaN .* plane 1, channel 0, row 20, column 4"):
        measure_scale("none", planes[0].dtype, lambda: blocks_of(planes))
    planes[0][0, 0] = 2.0
    scale = measure_scale("min-max", planes[0].dtype, lambda: blocks_of(planes), nan_to=1.0)
    assert scale == Scale((0.0,), (0.5,), 1.0)
    assert scale(planes[1][None])[0, 20, 4] == 0.5


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("fixed:3:3", "-1e30 to 1e30"), ("fixed:1:nan", "-1e30 to 1e30"),
        ("fixed:0:1e31", "-1e30 to 1e30"), ("percentile:5:101", "0 to 100"),
        ("percentile:9:2", "0 to 100"),
    ],
)  # fmt: skip
def test_limits_of_a_normalisation_that_make_no_sense_are_told(text, limits):
    with pytest.raises(ValueError, match=f"{text}': give LOW < HIGH of {limits}"):
        check_normalisation(text)


@pytest.mark.parametrize("text", ["max", "fixed", "fixed:3", "fixed:a:b", "median:1", "", "none:"])
def test_unknown_normalisations_are_refused(text):
    with pytest.raises(ValueError, match="use dtype-range"):
        check_normalisation(text)


def test_dtype_range_is_the_release_scaling():
    assert scale_for_dtype(np.uint8)(np.array([255], np.uint8)) == 1
    assert scale_for_dtype(np.uint16)(np.array([65535], np.uint16)) == 1
    assert scale_for_dtype(bool)(np.array([True])) == 1
    assert scale_for_dtype(np.float32)(np.array([7], np.float32)) == 7
    assert scale_for_dtype(np.uint8, "none")(np.array([7], np.uint8)) == 7


@given(side=st.integers(1, 60), classes=st.integers(2, 4), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_a_pixel_has_the_same_probability_in_a_tile_of_any_size(side, classes, seed):
    random = torch.Generator().manual_seed(seed)
    large = torch.randn(1, classes, 64, 64, generator=random) * 5
    small = large[..., 2 : 2 + side, 3 : 3 + side]
    both = _probabilities(torch.cat([small, small]))
    whole = _probabilities(large)[..., 2 : 2 + side, 3 : 3 + side]
    assert torch.equal(both, whole.expand_as(both))


# --- results that are on their way (from a device that computes meanwhile) ------------------------


@pytest.fixture
def _elsewhere(monkeypatch):
    """Results as a device beside the CPU gives them: checked when they are asked for."""
    monkeypatch.setattr("unet2015.tile_function.fetched", OnItsWay)


@pytest.mark.parametrize("limit", [10**9, 2 * 100**2])
def test_results_on_their_way_are_those_of_the_cpu(monkeypatch, limit):
    image = np.random.default_rng(0).integers(0, 256, (150, 130), dtype=np.uint8)
    found = [np.empty((1, 150, 130), np.uint8) for _ in range(2)]
    for result, way in zip(found, (fetched, OnItsWay), strict=True):
        monkeypatch.setattr("unet2015.tile_function.fetched", way)
        net = Limited(network(), limit if way is OnItsWay else 10**9)
        function = as_tile_function(net, Wanted(dtype="uint8", only=1), scale=SCALE)
        stitch(image, function, result, geometry_of(net, 60))
    np.testing.assert_array_equal(*found)


@pytest.mark.usefixtures("_elsewhere")
def test_the_next_two_tiles_are_begun_before_one_is_asked_for():
    events = []

    class Watched(OnItsWay):
        def __array__(self, *given, **names):
            events.append("taken")
            return super().__array__(*given, **names)

    net = network()
    plain = as_tile_function(net, Wanted(only=0), scale=SCALE)

    def function(tiles):
        events.append("begun")
        made = torch.from_numpy(np.asarray(plain(tiles)))
        return Watched(made, torch.ones(1, dtype=torch.bool), lambda result, _: result)

    image = np.zeros((60, 180), np.uint8)
    stitch(image, function, np.empty((1, 60, 180), np.float32), geometry_of(net, 60))
    count = len(events) // 2
    assert count >= 3
    assert events == ["begun", "begun", *["begun", "taken"] * (count - 2), "taken", "taken"]


@pytest.mark.usefixtures("_elsewhere")
def test_not_a_number_is_told_when_the_result_is_asked_for():
    net = network()
    nn.init.constant_(net.score.weight, 3e38)  # finite, but not what it makes of an image
    made = as_tile_function(net, scale=SCALE)(tiles())
    with pytest.raises(NumericsError, match="NaN or Inf"):
        np.asarray(made)


def test_a_weight_that_is_not_a_number_is_told_though_a_relu_hides_it():
    net = network()
    with torch.no_grad():
        net.contracting[1].conv2.weight[0, 1, 2, 0] = torch.nan
    with pytest.raises(NumericsError, match=r"weights contracting\.1\.conv2\.weight hold NaN"):
        as_tile_function(net, scale=SCALE)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e31])
def test_not_a_number_in_the_image_is_told_though_a_relu_hides_it(value):
    image = np.zeros((1, 1, 100, 100), np.float32)
    image[0, 0, 50, 50] = value
    with pytest.raises(NumericsError, match="input or output holds NaN or Inf, or values"):
        as_tile_function(network(), scale=Scale())(image)


class Overflowing(nn.Module):
    """A network whose logits overflow half precision where the image is bright."""

    margin, period = 0, 1

    def forward(self, image):
        half = torch.is_autocast_enabled("cpu")
        large = torch.where(image > 0.5, 70000.0, 1.0)
        return torch.cat([large.half().float() if half else large, image], dim=1)


@pytest.mark.parametrize("late", [False, True])
def test_a_tile_that_overflows_fp16_is_computed_again_in_fp32(monkeypatch, late):
    image = np.zeros((3, 1, 8, 8), np.uint8)
    image[1, 0, 3, 3] = 255
    wanted = Wanted(save="logits")
    expected = as_tile_function(Overflowing(), wanted, scale=SCALE)(image)
    assert expected.max() == 70000
    if late:
        monkeypatch.setattr("unet2015.tile_function.fetched", OnItsWay)
    found = as_tile_function(Overflowing(), wanted, scale=SCALE, precision="fp16")(image)
    np.testing.assert_array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
def test_overflow_is_mended_in_every_number_type(dtype):
    image = np.zeros((3, 1, 8, 8), np.uint8)
    image[1, 0, 3, 3] = 255
    wanted = Wanted(dtype=dtype)
    expected = as_tile_function(Overflowing(), wanted, scale=SCALE)(image)
    found = as_tile_function(Overflowing(), wanted, scale=SCALE, precision="fp16")(image)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("dtype", "sent_as"), [(np.uint8, np.uint8), (np.uint16, np.int16)])
def test_values_scaled_on_a_device_are_those_of_the_cpu(dtype, sent_as):
    full = np.iinfo(dtype).max
    values = np.random.default_rng(5).integers(0, full, (2, 2, 30, 30), dtype, endpoint=True)
    values[0, 0, 0, :2] = 0, full
    scale = Scale(offset=(3.1, 7.7), gain=(1 / 3, 0.01))
    found = _scaled(torch.from_numpy(values.view(sent_as)), scale)
    np.testing.assert_array_equal(found.numpy(), scale(values))
