"""docs/fidelity.md, checks 1-10: the network is the one of Figure 1."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from unet2015.net import UNet, centre_crop, init_paper_weights, margin, output_side

FIGURE_1 = """
d0b 64 570, d0c 64 568, d1a 64 284, d1b 128 282, d1c 128 280, d2a 128 140, d2b 256 138, d2c 256 136,
d3a 256 68, d3b 512 66, d3c 512 64, d4a 512 32, d4b 1024 30, d4c 1024 28,
u3a 512 56, u3b 1024 56, u3c 512 54, u3d 512 52, u2a 256 104, u2b 512 104, u2c 256 102, u2d 256 100,
u1a 128 200, u1b 256 200, u1c 128 198, u1d 128 196, u0a 64 392, u0b 128 392, u0c 64 390, u0d 64 388,
score 2 388
"""
BLOBS = [
    (name, int(channels), int(side))
    for name, channels, side in (line.split() for line in FIGURE_1.replace("\n", " ").split(","))
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same images in each test, whatever ran before."""
    torch.manual_seed(0)


def on_meta(**arguments: object) -> UNet:
    with torch.device("meta"):
        return UNet(**arguments)


def small(**arguments: object) -> UNet:
    """Narrow float64 network with the paper's initialisation, without dropout."""
    net = UNet(**{"base_channels": 2, "dropout": 0.0, **arguments}).double()
    init_paper_weights(net, seed=1)
    return net.eval().requires_grad_(False)


def convolutions(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


@pytest.mark.parametrize(
    ("in_channels", "classes", "parameters"),
    [(1, 2, 31_030_658), (3, 2, 31_031_810), (1, 1, 31_030_593)],
)
def test_check_1_parameters_are_those_of_the_paper(in_channels, classes, parameters):
    net = on_meta(in_channels=in_channels, classes=classes)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_check_1_weights_and_biases_23_convolutions_no_normalisation():
    net = on_meta()
    assert sum(p.numel() for n, p in net.named_parameters() if n.endswith("bias")) == 6_850
    assert sum(p.numel() for n, p in net.named_parameters() if n.endswith("weight")) == 31_023_808
    kinds = [(type(m).__name__, m.kernel_size, m.padding) for m in convolutions(net)]
    assert kinds.count(("Conv2d", (3, 3), (0, 0))) == 18
    assert kinds.count(("ConvTranspose2d", (2, 2), (0, 0))) == 4
    assert kinds.count(("Conv2d", (1, 1), (0, 0))) == 1
    assert len(kinds) == 23
    assert not any("Norm" in type(m).__name__ for m in net.modules())
    assert not list(net.buffers())


def test_check_2_hooked_shapes_at_572_are_those_of_figure_1():
    net = on_meta()
    seen: list[tuple[int, int]] = []
    # A level's first convolution receives the pooled (d1a) or concatenated (u3b) blob.
    firsts = [level.conv1 for level in (*net.contracting[1:], *net.expansive)]

    def note(layer, inputs, output):
        if layer in firsts:
            seen.append(tuple(inputs[0].shape[1:3]))
        seen.append(tuple(output.shape[1:3]))

    for layer in convolutions(net):
        layer.register_forward_hook(note)
    net(torch.empty(1, 1, 572, 572, device="meta"))
    assert seen == [(channels, side) for _, channels, side in BLOBS]


def test_check_2_trace_is_the_table():
    assert on_meta().trace(572) == BLOBS
    assert on_meta().trace(188)[-1] == ("score", 2, 4)
    with pytest.raises(ValueError, match="nearest: 556 or 572"):
        on_meta().trace(570)


@pytest.mark.parametrize(
    ("from_side", "to_side", "first"), [(64, 56, 4), (136, 104, 16), (280, 200, 40), (568, 392, 88)]
)
def test_check_3_crops_are_exactly_centred(from_side, to_side, first):
    coded = torch.arange(from_side * from_side).reshape(1, 1, from_side, from_side)
    cropped = centre_crop(coded, like=torch.empty(1, 1, to_side, to_side, device="meta"))
    assert cropped.shape[-2:] == (to_side, to_side)
    assert cropped[0, 0, 0, 0] == first * from_side + first
    last = from_side - 1 - first
    assert cropped[0, 0, -1, -1] == last * from_side + last


def test_check_4_concatenation_puts_the_up_sampled_half_first():
    net = small()
    caught: dict[str, Tensor] = {}
    net.up_convs[0].register_forward_hook(lambda _m, _i, out: caught.update(up=out.clone()))
    net.contracting[3].register_forward_hook(lambda _m, _i, out: caught.update(skip=out.clone()))
    net.expansive[0].register_forward_pre_hook(lambda _m, i: caught.update(both=i[0].clone()))
    net(torch.rand(1, 1, 188, 204, dtype=torch.float64))
    up, skip = caught["both"].chunk(2, dim=1)
    assert torch.equal(up, caught["up"])
    assert torch.equal(skip, centre_crop(caught["skip"], like=up))


def test_check_5_a_relu_follows_each_3x3_convolution_and_no_other_layer():
    net = small()
    assert sum(isinstance(m, nn.ReLU) for m in net.modules()) == 18
    up_sampled = []
    net.up_convs[0].register_forward_hook(lambda _m, _i, out: up_sampled.append(out.min()))
    logits = net(torch.rand(1, 1, 188, 188, dtype=torch.float64))
    assert up_sampled[0] < 0
    assert logits.min() < 0


def test_check_6_dropout_is_at_d3c_before_pool_and_skip_and_at_d4c_only():
    net = small(base_channels=4, dropout=0.5)
    net.train()
    assert UNet(base_channels=1).dropout.p == 0.5
    blobs: list[Tensor] = []
    seen: dict[str, Tensor] = {}
    net.dropout.register_forward_hook(lambda _m, _i, out: blobs.append(out))
    net.contracting[4].register_forward_pre_hook(lambda _m, i: seen.update(pooled=i[0]))
    net.expansive[0].register_forward_pre_hook(lambda _m, i: seen.update(both=i[0].clone()))
    torch.manual_seed(0)
    image = torch.rand(1, 1, 252, 252, dtype=torch.float64)
    net(image)
    assert [blob.shape[1] for blob in blobs] == [32, 64]
    d3c, _ = blobs
    assert torch.equal(seen["pooled"], torch.nn.functional.max_pool2d(d3c, 2))
    skip = seen["both"][:, 32:]
    assert torch.equal(skip, centre_crop(d3c, like=skip))
    net.eval()
    assert torch.equal(net(image), net(image))


def test_check_6_dropout_zeroes_half_and_doubles_the_rest():
    net = UNet(base_channels=1, dropout=0.5).train()
    torch.manual_seed(0)
    values = net.dropout(torch.ones(100_000))
    assert set(values.tolist()) == {0.0, 2.0}
    assert abs(float(values.mean()) - 1) < 0.02


@pytest.mark.parametrize(
    ("height", "width", "words"),
    [
        (571, 572, "input height 571 does not fit a depth-4 U-Net .* nearest: 556 or 572"),
        (570, 572, r"legal sizes are 16k \+ 12\); nearest: 556 or 572"),
        (572, 573, "input width 573 .* nearest: 572 or 588"),
        (187, 188, "input height 187 .* nearest: 188"),
        (188, 12, "input width 12 .* from 188.*; nearest: 188"),
    ],
)
def test_check_7_illegal_sizes_name_the_nearest_legal_ones(height, width, words):
    with pytest.raises(ValueError, match=words):
        on_meta()(torch.empty(1, 1, height, width, device="meta"))


def test_check_7_legal_sizes_are_exactly_188_and_every_16_more():
    legal = []
    for side in range(700):
        try:
            assert output_side(side, depth=4) == side - 184
        except ValueError:
            continue
        legal.append(side)
    assert legal == list(range(188, 700, 16))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_check_7_the_size_law_is_what_the_layers_do(depth):
    with torch.device("meta"):
        net = UNet(3, 5, base_channels=1, depth=depth)
    assert net.margin == margin(depth) == 2 * (3 * 2**depth - 2)
    legal = [side for side in range(2 * net.margin, 2 * net.margin + 200) if _is_legal(net, side)]
    assert legal[0] - 2 * net.margin in (2, 4)
    assert {b - a for a, b in itertools.pairwise(legal)} == {net.period}
    for height, width in [(legal[0], legal[2]), (legal[1], legal[0])]:
        logits = net(torch.empty(2, 3, height, width, device="meta"))
        assert logits.shape == (2, 5, net.output_size(height), net.output_size(width))


def _is_legal(net: UNet, side: int) -> bool:
    try:
        net.output_size(side)
    except ValueError:
        return False
    return True


def test_check_7_wrong_channels_and_arguments_are_refused():
    with pytest.raises(ValueError, match=r"is not \(N, 3, H, W\)"):
        on_meta(in_channels=3)(torch.empty(1, 1, 572, 572, device="meta"))
    for bad in ({"classes": 0}, {"depth": 0}, {"dropout": 1.0}, {"base_channels": -1}):
        with pytest.raises(ValueError, match="counts are >= 1"):
            UNet(**bad)


def test_check_8_weights_are_gaussian_with_std_sqrt_2_over_n():
    net = UNet(in_channels=1, base_channels=32, depth=3)
    init_paper_weights(net, seed=3)
    for layer in convolutions(net.requires_grad_(False)):
        up_conv = isinstance(layer, nn.ConvTranspose2d)
        n = layer.in_channels if up_conv else layer.in_channels * layer.kernel_size[0] ** 2
        std = math.sqrt(2 / n)
        # 2 % where there are enough values; four standard errors of a standard deviation if not.
        bound = max(0.02, 4 / math.sqrt(2 * layer.weight.numel()))
        assert abs(float(layer.weight.std()) / std - 1) < bound
        assert abs(float(layer.weight.mean())) < 5 * std / math.sqrt(layer.weight.numel())
        assert not layer.bias.any()


def test_check_8_initialisation_depends_on_the_seed_only():
    first, again, other = UNet(base_channels=2), UNet(base_channels=2), UNet(base_channels=2)
    init_paper_weights(first, seed=7)
    torch.rand(5)
    init_paper_weights(again, seed=7)
    init_paper_weights(other, seed=8)
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not torch.equal(first.score.weight, other.score.weight)


def test_check_8_variance_survives_the_up_convolutions():
    net = small(base_channels=16)
    ratios: list[float] = []
    for layer in net.up_convs:
        layer.register_forward_hook(
            lambda _m, i, out: ratios.append(float(out.pow(2).mean() / i[0].pow(2).mean()))
        )
    torch.manual_seed(0)
    net(torch.randn(1, 1, 220, 220, dtype=torch.float64))
    assert len(ratios) == 4
    assert all(1.2 < ratio < 2.8 for ratio in ratios)  # 2 for N = in; N = 2 in would give 1


@pytest.mark.parametrize("shift", [(16, 0), (0, 16), (32, 48)])
def test_check_9_shift_by_16_moves_the_output_by_16(shift):
    down, right = shift
    net = small(base_channels=3)
    torch.manual_seed(0)
    image = torch.rand(1, 1, 252, 268, dtype=torch.float64)
    whole = net(image)
    part = net(image[..., down : down + 188, right : right + 204])
    moved = whole[..., down : down + 4, right : right + 20]
    assert (part - moved).abs().max() < 1e-12 * max(1.0, float(whole.abs().max()))


def test_check_9_shift_by_4_does_not():
    net = small(base_channels=3)
    torch.manual_seed(0)
    image = torch.rand(1, 1, 220, 220, dtype=torch.float64)
    here = net(image[..., :204, :204])[..., 4:, 4:]
    moved = net(image[..., 4:208, 4:208])[..., :-4, :-4]
    assert (here - moved).abs().max() > 1e-3 * float(here.std())


def test_check_10_one_output_pixel_sees_188_or_204_pixels():
    net = small(base_channels=2)
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()  # every path open: nothing cancels, no ReLU is shut
    # Constant input: max-pooling passes the gradient to one pixel of four, so use averages.
    net_forward = _with_average_pooling(net)
    spans, reaches = set(), set()
    for row in range(16):
        image = torch.ones(1, 1, 220, 220, dtype=torch.float64, requires_grad=True)
        net_forward(image)[0, 0, row, row].backward()
        seen = image.grad[0, 0].sum(dim=1).nonzero().flatten()
        spans.add(int(seen[-1] - seen[0]) + 1)
        centre = row + net.margin
        reaches |= {centre - int(seen[0]), int(seen[-1]) - centre}
    assert spans == {188, 204}
    assert (min(reaches), max(reaches)) == (92, 107)


def _with_average_pooling(net: UNet):
    """`net`, whose gradient visits all four pixels of each pooling window."""

    def forward(image: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unet2015.net.F.max_pool2d", torch.nn.functional.avg_pool2d)
            return net(image)

    return forward


def test_batch_and_rectangles_equal_single_images():
    net = small()
    torch.manual_seed(0)
    images = torch.rand(4, 1, 188, 220, dtype=torch.float64)
    assert torch.allclose(
        net(images), torch.cat([net(i[None]) for i in images]), rtol=0, atol=1e-12
    )


def test_full_width_runs_on_the_smallest_tile():
    net = UNet()
    init_paper_weights(net, seed=0)
    with torch.inference_mode():
        logits = net.eval()(torch.rand(1, 1, 188, 188))
    assert logits.shape == (1, 2, 4, 4)
    assert torch.isfinite(logits).all()
