"""Convolution and ReLU joined: the same bits as one after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unet2015.fused import _ConvReLU, fused
from unet2015.net import UNet, init_paper_weights

needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_convolution_pointwise"), reason="torch without oneDNN"
)


def network(base, depth, classes=2):
    net = UNet(base_channels=base, depth=depth, classes=classes).eval()
    init_paper_weights(net, seed=base)
    return net.to(memory_format=torch.channels_last)


@needs_onednn
@settings(max_examples=20, deadline=None)
@given(
    base=st.integers(1, 5), depth=st.integers(1, 2), more=st.integers(0, 4), batch=st.integers(1, 2)
)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_fused_is_the_reference_to_the_last_bit(kind, base, depth, more, batch):
    net = network(base, depth)
    side = 2 * net.margin + net.period - 2 * net.margin % net.period - 4 % net.period
    side += net.period * more + (net.period if side <= 2 * net.margin else 0)
    image = torch.randn(batch, 1, side, side).contiguous(memory_format=torch.channels_last)
    image = image.expand(2, -1, -1, -1) if batch == 1 else image  # see logits._SMALL
    with torch.inference_mode(), torch.autocast("cpu", kind, enabled=kind != torch.float32):
        assert torch.equal(fused(net)(image), net(image))


@needs_onednn
def test_every_convolution_with_a_relu_is_joined_and_the_net_left_alone():
    net = network(2, 4)
    before = [*net.modules()]
    twin = fused(net)
    assert sum(isinstance(one, _ConvReLU) for one in twin.modules()) == 18  # all 3x3 of Figure 1
    assert [*net.modules()] == before
    assert {id(one) for one in twin.parameters()} == {id(one) for one in net.parameters()}
    assert twin.margin == 92


@needs_onednn
@pytest.mark.parametrize(
    "block",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.ReLU()),
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU()),
        nn.Sequential(nn.Conv2d(1, 2, 3).double(), nn.ReLU()),
        nn.ModuleList([nn.Conv2d(1, 2, 3), nn.ReLU()]),
    ],
)
def test_what_onednn_does_not_do_is_left(block):
    assert not any(isinstance(one, _ConvReLU) for one in fused(block).modules())


@needs_onednn
def test_padding_stride_dilation_groups_and_no_bias():
    block = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=(2, 1), stride=(1, 2), dilation=(2, 1), groups=2, bias=False),
        nn.ReLU(),
    )
    image = torch.randn(3, 2, 40, 41)
    with torch.inference_mode():
        assert torch.equal(fused(block)(image), block(image))


def test_a_number_format_that_the_processor_lacks(monkeypatch):
    monkeypatch.setattr("unet2015.fused._computes", lambda _kind: False)
    block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    image = torch.randn(2, 1, 60, 60)
    with torch.inference_mode():
        assert torch.equal(fused(block)(image), block(image))
