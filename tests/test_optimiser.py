"""The learning rate as a function of the step, the update rules, and their state as tensors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tiling.faults import ModelFileError
from unet2015.net import UNet, init_paper_weights
from unet2015.optimiser import (
    follow,
    learning_rate,
    make_optimiser,
    optimiser_tensors,
    restore_optimiser,
)
from unet2015.recipe import isbi2012, isbi2012_modern, quick

KINDS = [
    replace(isbi2012(), learning_rate=1e-2),
    replace(quick(), learning_rate=1e-2),
    replace(isbi2012_modern(), learning_rate=1e-2, warmup_steps=0, schedule="constant"),
]


def small_net(channels_last=True):
    net = UNet(base_channels=2, depth=1, dropout=0.0)
    init_paper_weights(net, 1)
    return net.to(memory_format=torch.channels_last) if channels_last else net


def give_gradients(net, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in net.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(drawn)


@pytest.mark.parametrize("steps", [10, 41, 2000])
def test_one_cycle_is_torchs(steps):
    recipe = replace(quick(), steps=steps)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=steps, cycle_momentum=False
    )
    for step in range(steps):
        assert learning_rate(recipe, step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        if step < steps - 1:
            theirs.step()


def test_warm_up_and_cosine_in_digits():
    recipe = replace(isbi2012_modern(), learning_rate=1.0, warmup_steps=4, steps=9)
    rates = [round(learning_rate(recipe, step), 4) for step in range(9)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 0.8536, 0.5, 0.1464, 0.0]


def test_constant_is_constant_and_one_step_is_enough():
    assert {learning_rate(isbi2012(), step) for step in (0, 1, 59_999)} == {1e-3}
    for recipe in (quick(), isbi2012_modern()):
        assert learning_rate(replace(recipe, steps=1), 0) > 0


@pytest.mark.parametrize("recipe", KINDS, ids=lambda recipe: recipe.optimiser)
def test_fused_update_is_the_plain_one(recipe):
    ours, plain = small_net(), small_net(channels_last=False)
    optimiser = make_optimiser(recipe, ours)
    arguments = {k: v for k, v in optimiser.defaults.items() if k in (
        "lr", "momentum", "weight_decay", "betas", "eps")}  # fmt: skip
    assert arguments["weight_decay"] == recipe.weight_decay
    other = type(optimiser)(plain.parameters(), fused=False, foreach=False, **arguments)
    for step in range(20):
        for net, rule in ((ours, optimiser), (plain, other)):
            give_gradients(net, step)
            rule.step()
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6), name


def test_check_16_momentum_is_caffes_formula():
    recipe = replace(isbi2012(), learning_rate=1e-2)
    net = small_net()
    optimiser = make_optimiser(recipe, net)
    weights = [p.detach().double().clone() for p in net.parameters()]
    velocity = [torch.zeros_like(w) for w in weights]
    for step in range(50):
        give_gradients(net, step)
        for w, v, p in zip(weights, velocity, net.parameters(), strict=True):
            v.mul_(0.99).add_(1e-2 * p.grad.double())  # Caffe: V <- mu V + alpha g, W <- W - V
            w.sub_(v)
        optimiser.step()
    for w, p in zip(weights, net.parameters(), strict=True):
        assert torch.allclose(p.double(), w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recipe", KINDS, ids=lambda recipe: recipe.optimiser)
@pytest.mark.parametrize("channels_last", [True, False])
def test_state_travels_as_plain_tensors(recipe, channels_last):
    net = small_net(channels_last)
    optimiser = make_optimiser(recipe, net)
    for step in range(3):
        give_gradients(net, step)
        optimiser.step()
    stored = {k: v.contiguous().clone() for k, v in optimiser_tensors(optimiser, net).items()}
    weights = {k: v.clone() for k, v in net.state_dict().items()}

    again = small_net(channels_last)
    again.load_state_dict(weights)
    resumed = make_optimiser(recipe, again)
    restore_optimiser(resumed, again, stored)
    for step in range(3, 6):
        for one, rule in ((net, optimiser), (again, resumed)):
            give_gradients(one, step)
            rule.step()
    for (name, a), b in zip(net.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_foreign_state_is_refused():
    net = small_net()
    optimiser = make_optimiser(quick(), net)
    for name, shape in (("exp_avg.nobody.weight", (2, 2)), ("exp_avg.score.weight", (3, 3))):
        with pytest.raises(ModelFileError, match="fits no parameter"):
            restore_optimiser(optimiser, net, {name: torch.zeros(shape)})


def test_a_count_is_kept_as_it_is_beside_the_average():
    net = torch.nn.BatchNorm1d(1)
    averaged = {name: value.clone() for name, value in net.state_dict().items()}
    net(torch.full((4, 1), 3.0))
    follow(averaged, net, 0.9, 0)
    assert int(averaged["num_batches_tracked"]) == 1
    assert float(averaged["running_mean"]) == pytest.approx(0.9 * 0.3)


def test_average_follows_the_weights():
    net = torch.nn.Linear(1, 1, bias=False)
    averaged = {"weight": torch.zeros(1, 1)}
    expected = 0.0
    for step in range(200):
        net.weight.data.fill_(math.sin(step))
        decay = min(0.95, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * math.sin(step)
        follow(averaged, net, 0.95, step)
    assert float(averaged["weight"]) == pytest.approx(expected, abs=1e-5)
