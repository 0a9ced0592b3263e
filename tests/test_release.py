"""The authors' release form: docs/fidelity.md, checks 1, 5, 9 and 11 for `phseg_v5`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unet2015.net import UNet, centre_crop, init_paper_weights
from unet2015.variants.release import ReleaseUNet


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same images in each test, whatever ran before."""
    torch.manual_seed(0)


def on_meta(**arguments: object) -> ReleaseUNet:
    with torch.device("meta"):
        return ReleaseUNet(**arguments)


def small(**arguments: object) -> ReleaseUNet:
    net = ReleaseUNet(**{"base_channels": 2, "dropout": 0.0, **arguments}).double()
    init_paper_weights(net, seed=1)
    return net.eval().requires_grad_(False)


def test_check_1_parameters_are_those_of_the_release():
    net = on_meta()
    assert sum(p.numel() for p in net.parameters()) == 31_100_354
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == 23
    assert not any("Norm" in type(m).__name__ for m in net.modules())


def test_shapes_of_the_layers_that_differ_from_the_paper():
    net = on_meta()
    assert tuple(net.conv_d0a_b.weight.shape) == (64, 1, 3, 3)
    assert tuple(net.upconv_d4c_u3a.weight.shape) == (1024, 512, 2, 2)
    assert tuple(net.upconv_u1d_u0a.weight.shape) == (128, 128, 2, 2)
    assert tuple(net.conv_u0b_c.weight.shape) == (64, 192, 3, 3)
    assert tuple(net.conv_u0d_score.weight.shape) == (2, 64, 1, 1)
    assert net(torch.empty(1, 1, 572, 572, device="meta")).shape == (1, 2, 388, 388)


def test_check_5_22_relus_and_a_linear_output():
    net = small(base_channels=4)
    calls = []
    net.relu.register_forward_hook(lambda _m, _i, out: calls.append(out.min()))
    logits = net(torch.rand(1, 1, 188, 188, dtype=torch.float64))
    assert len(calls) == 22
    assert min(calls) == 0
    assert logits.min() < 0


def test_concatenation_puts_the_up_sampled_part_first():
    net = small()
    caught = {}
    net.conv_u0b_c.register_forward_pre_hook(lambda _m, i: caught.update(both=i[0].clone()))
    net.conv_d0b_c.register_forward_hook(lambda _m, _i, out: caught.update(skip=out.relu()))
    net(torch.rand(1, 1, 188, 204, dtype=torch.float64))
    assert caught["both"].shape[1] == 4 + 2
    skip = caught["both"][:, 4:]
    assert torch.equal(skip, centre_crop(caught["skip"], like=skip))


def test_dropout_is_at_d3c_and_d4c():
    net = small(base_channels=4, dropout=0.5).train()
    widths = []
    net.dropout.register_forward_hook(lambda _m, _i, out: widths.append(out.shape[1]))
    net(torch.rand(1, 1, 188, 188, dtype=torch.float64))
    assert widths == [32, 64]


def test_check_9_shift_by_16():
    net = small()
    torch.manual_seed(0)
    image = torch.rand(1, 1, 220, 204, dtype=torch.float64)
    whole, part = net(image), net(image[..., 16:204, :])
    assert (whole[..., 16:20, :] - part).abs().max() < 1e-12 * float(whole.abs().max())


def test_sizes_are_the_law_of_the_paper():
    assert (on_meta().margin, on_meta().period, on_meta().output_size(572)) == (92, 16, 388)
    with pytest.raises(ValueError, match="nearest: 556 or 572"):
        on_meta()(torch.empty(1, 1, 570, 572, device="meta"))
    with pytest.raises(ValueError, match=r"is not \(N, 1, H, W\)"):
        on_meta()(torch.empty(1, 2, 572, 572, device="meta"))
    with pytest.raises(ValueError, match="counts are >= 1"):
        ReleaseUNet(classes=0)


def test_it_is_the_paper_network_where_both_have_the_same_layers():
    """With the differing layers made equal (identity-like), both compute the same."""
    ours, theirs = UNet(base_channels=2, dropout=0.0), ReleaseUNet(base_channels=2, dropout=0.0)
    pairs = [
        (level.get_submodule(f"conv{n + 1}"), theirs.get_submodule(f"conv_d{i}{'ab'[n]}_{'bc'[n]}"))
        for i, level in enumerate(ours.contracting)
        for n in (0, 1)
    ]
    for a, b in pairs:
        assert a.weight.shape == b.weight.shape
        b.load_state_dict(a.state_dict())
    deepest = []
    ours.contracting[4].register_forward_hook(lambda _m, _i, out: deepest.append(out))
    theirs.upconv_d4c_u3a.register_forward_pre_hook(lambda _m, i: deepest.append(i[0]))
    image = torch.rand(1, 1, 188, 188)
    ours.eval()(image)
    theirs.eval()(image)
    assert torch.equal(deepest[0], deepest[1])
