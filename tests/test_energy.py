"""docs/fidelity.md, checks 12-17: Eq. 1 and the update rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.faults.invariants import invariant
from unet2015.energy import energy
from unet2015.net import UNet

NORMALISATIONS = ("sum", "mean", "weights")


def sample(seed=0, shape=(2, 3, 5, 4), scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    batch, classes, height, width = shape
    logits = torch.randn(shape, generator=generator, dtype=dtype) * scale
    labels = torch.randint(0, classes, (batch, height, width), generator=generator)
    weights = torch.rand((batch, height, width), generator=generator, dtype=dtype) * 10
    return logits, labels, weights


def by_loop(
    logits: Tensor, labels: Tensor, weights: Tensor, normalisation: str, ignore: int | None
) -> float:
    """Eq. 1 pixel by pixel in Python floats."""
    total = weight_sum = pixels = 0.0
    batch, classes, height, width = logits.shape
    for n in range(batch):
        for y in range(height):
            for x in range(width):
                label = int(labels[n, y, x])
                if label == ignore:
                    continue
                a = [float(logits[n, k, y, x]) for k in range(classes)]
                top = max(a)
                log_sum = top + math.log(math.fsum(math.exp(v - top) for v in a))
                w = float(weights[n, y, x])
                total += w * (log_sum - a[label])
                weight_sum += w
                pixels += 1
    return total / {"sum": 1, "mean": pixels, "weights": weight_sum}[normalisation]


@pytest.mark.parametrize("ignore", [None, 2])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_check_12_equals_a_float64_loop(normalisation, ignore):
    logits, labels, weights = sample()
    found = energy(logits, labels, weights, normalisation=normalisation, ignore_label=ignore)
    assert float(found) == pytest.approx(
        by_loop(logits, labels, weights, normalisation, ignore), rel=1e-13
    )
    narrow = energy(
        logits.float(), labels, weights.float(), normalisation=normalisation, ignore_label=ignore
    )
    assert narrow.dtype == torch.float32
    assert float(narrow) == pytest.approx(float(found), rel=2e-6)


def test_one_pixel_by_hand():
    logits = torch.tensor([[[[0.0]], [[math.log(3.0)]]]], dtype=torch.float64)
    labels = torch.tensor([[[0]]])
    assert float(energy(logits, labels)) == pytest.approx(math.log(4))
    assert float(energy(logits, torch.tensor([[[1]]]))) == pytest.approx(math.log(4 / 3))


@invariant("loss", "gradient = softmax - one-hot, weighted")
@given(st.integers(0, 10_000), st.sampled_from(NORMALISATIONS))
def test_gradient_is_weighted_softmax_minus_one_hot(seed, normalisation):
    logits, labels, weights = sample(seed)
    logits.requires_grad_()
    energy(logits, labels, weights, normalisation=normalisation).backward()
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    divisor = {"sum": 1.0, "mean": labels.numel(), "weights": weights.sum()}[normalisation]
    expected = (logits.detach().softmax(1) - one_hot) * weights[:, None] / divisor
    assert torch.allclose(logits.grad, expected, rtol=1e-10, atol=1e-14)


@invariant("loss", "w = 1 equals plain cross-entropy, and pixels have no order")
@given(st.integers(0, 10_000))
def test_without_weights_it_is_plain_cross_entropy_and_pixels_have_no_order(seed):
    logits, labels, weights = sample(seed)
    plain = torch.nn.functional.cross_entropy(logits, labels)
    for normalisation in ("mean", "weights"):
        assert torch.allclose(energy(logits, labels, normalisation=normalisation), plain)
        ones = torch.ones_like(weights)
        assert torch.allclose(energy(logits, labels, ones, normalisation=normalisation), plain)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(20))

    def shuffled(pixels: Tensor) -> Tensor:
        return pixels.flatten(-2)[..., order].reshape(pixels.shape)

    assert torch.allclose(
        energy(shuffled(logits), shuffled(labels), shuffled(weights)),
        energy(logits, labels, weights),
        rtol=1e-13,
    )


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_check_13_ignored_pixels_add_nothing(normalisation):
    logits, labels, weights = sample()
    labels[0, :2] = 255
    cut = {"normalisation": normalisation, "ignore_label": 255}
    logits.requires_grad_()
    found = energy(logits, labels, weights, **cut)
    found.backward()
    assert not logits.grad[0, :, :2].any()
    other_logits, other_weights = logits.detach().clone(), weights.clone()
    other_logits[0, :, :2] = 1e4
    other_weights[0, :2] = torch.nan
    assert torch.equal(energy(other_logits, labels, other_weights, **cut), found.detach())
    kept = labels != 255
    parts = logits.detach().movedim(1, -1)[kept].T[None, :, None]
    assert torch.allclose(
        found.detach(),
        energy(parts, labels[kept][None, None], weights[kept][None, None], **cut),
        rtol=1e-13,
    )


def test_check_13_no_label_is_ignored_unless_asked():
    logits, labels, _ = sample()
    labels[0, 0, 0] = -100  # what torch's own loss would leave out without a word
    with pytest.raises((IndexError, RuntimeError)):
        energy(logits, labels)
    assert torch.isfinite(energy(logits, labels, ignore_label=-100))


@given(st.floats(1e-3, 1e3), st.integers(0, 1000))
@settings(max_examples=25)
def test_check_14_scaling_the_weights_scales_the_sum_and_not_the_weighted_mean(factor, seed):
    logits, labels, weights = sample(seed)
    for normalisation, expected in (("sum", factor), ("mean", factor), ("weights", 1.0)):
        before = float(energy(logits, labels, weights, normalisation=normalisation))
        after = float(energy(logits, labels, weights * factor, normalisation=normalisation))
        assert after == pytest.approx(before * expected, rel=1e-12)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("ignore", [None, -1, 1, 256])
def test_labels_of_any_integer_type_are_the_same_labels(kind, ignore):
    logits, labels, weights = sample()
    wide = energy(logits, labels, weights, ignore_label=ignore)
    assert energy(logits, labels.to(kind), weights, ignore_label=ignore) == wide


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("case", ["weights are 0", "all pixels ignored"])
def test_check_15_nothing_to_count_is_0_with_gradient_0(case, normalisation):
    logits, labels, weights = sample()
    logits.requires_grad_()
    if case == "weights are 0":
        weights.zero_()
    else:
        labels.fill_(9)
    found = energy(logits, labels, weights, normalisation=normalisation, ignore_label=9)
    found.backward()
    assert found == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_logits_of_ten_thousand_are_finite(dtype):
    logits = torch.full((1, 2, 3, 3), -1e4, dtype=dtype)
    logits[:, 1] = 1e4
    logits.requires_grad_()
    labels = torch.tensor([[[0, 1, 0]] * 3])
    found = energy(logits, labels, torch.ones(1, 3, 3))
    found.backward()
    assert torch.isfinite(found)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = float(logits.detach().double().amax() - logits.detach().double().amin()) * 2 / 3
    assert float(found.detach()) == pytest.approx(exact, rel=1e-6)
    assert torch.isfinite(logits.grad).all()


def test_a_large_tile_is_summed_without_loss():
    logits = torch.zeros(1, 2, 1024, 1024)
    labels = torch.zeros(1, 1024, 1024, dtype=torch.int64)
    found = float(energy(logits, labels, normalisation="sum"))
    assert found == pytest.approx(1024**2 * float(torch.tensor(2.0).log()), rel=1e-7)


def test_check_16_torch_sgd_is_the_update_of_caffe_over_50_steps():
    """Caffe: V <- momentum * V + rate * (gradient + decay * W);  W <- W - V."""
    rate, momentum, decay = 1e-3, 0.99, 5e-4
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    start = torch.randn(6, generator=generator, dtype=torch.float64)

    def gradient(weights: Tensor) -> Tensor:
        return matrix.T @ matrix @ weights + torch.sin(weights)

    ours = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([ours], lr=rate, momentum=momentum, weight_decay=decay)
    caffe, velocity = start.clone(), torch.zeros_like(start)
    for _ in range(50):
        ours.grad = gradient(ours.detach())
        optimiser.step()
        velocity = momentum * velocity + rate * (gradient(caffe) + decay * caffe)
        caffe = caffe - velocity
        assert torch.allclose(ours.detach(), caffe, rtol=1e-12, atol=1e-14)
    assert (caffe - start).abs().max() > 0.1


def test_check_17_the_target_of_a_tile_is_its_centre():
    net = UNet(base_channels=1)
    tile = torch.arange(572 * 572).reshape(572, 572)
    target = tile[net.margin : -net.margin, net.margin : -net.margin]
    assert net.margin == 92
    assert target.shape == (388, 388)
    assert target[0, 0] == 92 * 572 + 92
    assert torch.equal(target, tile[92:-92, 92:-92])


def test_wrong_arguments_are_refused_with_the_remedy():
    logits, labels, weights = sample()
    with pytest.raises(ValueError, match="crop them by the network's margin"):
        energy(logits, labels[:, 1:], weights)
    with pytest.raises(ValueError, match="weights are"):
        energy(logits, labels, weights[:1])
    with pytest.raises(ValueError, match="choose one of weights, mean, sum"):
        energy(logits, labels, weights, normalisation="none")
    with pytest.raises(TypeError, match="classes are integers"):
        energy(logits, labels.double(), weights)
    with pytest.raises(TypeError, match="floating point"):
        energy(logits, labels, weights.long())
    with pytest.raises(ValueError, match=r"not floating \(N, K, h, w\)"):
        energy(logits[0], labels, weights)


def test_arguments_are_left_as_they_were():
    logits, labels, weights = sample()
    copies = [t.clone() for t in (logits, labels, weights)]
    energy(logits, labels, weights, ignore_label=1)
    assert all(map(torch.equal, copies, (logits, labels, weights)))
