"""The same results on a GPU, and a GPU whose memory is short.

Skipped, saying so, where there is none. `UNET2015_TEST_DEVICE=cpu` runs the same lines on a CPU, to
see that they work before a GPU is at hand.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny_run import TINY, tiny_training
from tiling import SeamRule, stitch
from unet2015.intensity import Scale
from unet2015.net import UNet, init_paper_weights
from unet2015.predict import geometry_of, predict_array
from unet2015.tile_function import Wanted, as_tile_function
from unet2015.train import train
from unet2015.transfer import fetched, sent

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device():
    name = os.environ.get("UNET2015_TEST_DEVICE", "cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU on this machine; nothing is shown about GPUs")
    return torch.device(name)


@pytest.fixture
def short_of_memory(device):
    """Let this process have so many bytes of the GPU, until the test ends."""
    if device.type != "cuda":
        pytest.skip("only CUDA can be told to have less memory")

    number = torch.cuda.current_device() if device.index is None else device.index

    def leave(size):
        torch.cuda.empty_cache()
        whole = torch.cuda.get_device_properties(device).total_memory
        held = torch.cuda.memory_allocated(device)
        torch.cuda.set_per_process_memory_fraction((held + size) / whole, number)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0, number)


def network(base=8):
    net = UNet(base_channels=base).eval()
    init_paper_weights(net, seed=3)
    return net


def image_of(height, width, dtype=np.uint8):
    random = np.random.default_rng(height)
    return random.integers(0, np.iinfo(dtype).max, (height, width), dtype, endpoint=True)


@pytest.mark.parametrize("shape", [(400, 300), (97, 611), (1, 70)])
def test_logits_are_those_of_the_cpu(device, shape):
    image, net = image_of(*shape), network()
    expected = predict_array(net, image, save="logits")
    found = predict_array(net.to(device), image, save="logits")
    assert np.abs(found - expected).max() <= 2e-5 * expected.std()


def test_tiles_are_one_pass(device):
    image, net = image_of(700, 650), network().to(device)
    whole = predict_array(net, image, output=708, save="logits")
    for output in (100, 388):
        tiled = predict_array(net, image, output=output, save="logits")
        assert np.abs(tiled - whole).max() <= 2e-6 * np.abs(whole).max()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near(device, precision):
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("fp16 is not for CPUs")
    image, net = image_of(300, 300), network()
    expected = predict_array(net, image)
    found = predict_array(net.to(device), image, precision=precision)
    assert np.abs(found - expected).max() < 0.05


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_scaled_values_are_those_of_the_cpu_to_the_bit(device, dtype):
    tiles = image_of(64, 64, dtype)[None, None]
    scale = Scale(offset=17.3, gain=1 / 3)
    with torch.inference_mode():
        there = sent(tiles, scale, device)
        finite = torch.ones(1, dtype=torch.bool, device=device)
        back = np.asarray(fetched(there, finite, lambda result, _: result))
    np.testing.assert_array_equal(back, scale(tiles))


def test_the_same_run_twice_gives_the_same_bytes(device):
    image, net = image_of(500, 420), network().to(device)
    first, second = (predict_array(net, image, output=100) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_short_of_memory_the_result_is_the_same(device, short_of_memory):
    image, net = image_of(1540, 1540), network(16).to(device)
    wanted, geometry = Wanted(dtype="uint8", only=1), geometry_of(net, 1540)
    found = []
    for room in (None, 400 << 20, 120 << 20):
        if room is not None:
            short_of_memory(room)
        result = np.empty((1, 1540, 1540), np.uint8)
        function = as_tile_function(net, wanted, scale=Scale(gain=1 / 255), device=device)
        stitch(image, function, result, geometry, seams=SeamRule(tolerance=1.0))
        found.append(result)
    assert function.failed > 0  # there was not enough for the whole tile
    for result in found[1:]:
        assert np.abs(result.astype(int) - found[0]).max() <= 1  # a rounding of the last grey value


def test_training_repeats_to_the_bit_and_follows_the_cpu(device, tmp_path):
    recipe = replace(TINY, precision="fp32", steps=20)
    curves, weights = [], []
    for number, where in enumerate((device, device, torch.device("cpu"))):
        stack, validation = tiny_training(recipe)
        run = train(recipe, stack, tmp_path / f"{number}", validation=validation, device=where)
        curves.append(run.log.column("loss")[1])
        weights.append([one.cpu() for one in run.net.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    np.testing.assert_allclose(curves[0][:3], curves[2][:3], rtol=1e-3)
    assert np.isfinite(curves[0]).all()
