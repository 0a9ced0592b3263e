"""The update rule of section 3, its learning rate as a function of the step, its state as tensors.

The paper: stochastic gradient descent with momentum 0.99. torch's SGD keeps v <- m v + g and
subtracts lr * v, which equals Caffe's update while the rate is constant.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tiling.faults import ModelFileError
from unet2015.recipe import Recipe

__all__ = [
    "follow",
    "learning_rate",
    "make_optimiser",
    "optimiser_tensors",
    "restore_optimiser",
]

# The one-cycle shape of Smith and Topin as torch has it: a cosine rise over 30 % of the run from a
# 25th of the peak, then a cosine fall to a 250,000th of it.
RISE, START, END = 0.3, 1 / 25, 1 / 250_000


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of update `step` (zero-based): a function of the step alone.

    Examples
    --------
    >>> from unet2015.recipe import isbi2012
    >>> learning_rate(isbi2012(), 0) == learning_rate(isbi2012(), 59_999) == 1e-3
    True
    """
    peak = recipe.learning_rate
    if recipe.schedule == "one-cycle":
        last = max(recipe.steps - 1, 1)
        rise = RISE * recipe.steps - 1
        if step < rise:
            return peak * _cosine(START, 1.0, step / rise)
        return peak * _cosine(1.0, END, (step - rise) / (last - rise))
    if step < recipe.warmup_steps:
        return peak * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "cosine":
        left = max(recipe.steps - 1 - recipe.warmup_steps, 1)
        return peak * _cosine(1.0, 0.0, (step - recipe.warmup_steps) / left)
    return peak


def _cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` at share 0 to `end` at share 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def make_optimiser(recipe: Recipe, net: nn.Module) -> torch.optim.Optimizer:
    """Optimiser named by the recipe over all parameters of `net`, all of them in one kernel.

    Examples
    --------
    >>> from unet2015.recipe import isbi2012
    >>> make_optimiser(isbi2012(), nn.Conv2d(1, 1, 3)).defaults["momentum"]
    0.99
    """
    rate, decay = recipe.learning_rate, recipe.weight_decay
    fused = all(p.device.type in ("cpu", "cuda") for p in net.parameters())
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            net.parameters(), lr=rate, momentum=recipe.momentum, weight_decay=decay, fused=fused
        )
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    return kind(net.parameters(), lr=rate, weight_decay=decay, fused=fused)


def follow(averaged: dict[str, Tensor], net: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards those of `net`, in place: a <- d a + (1 - d) w.

    d is the decay, but (1 + step) / (10 + step) while that is less, so that the average forgets
    the initial weights quickly.

    Examples
    --------
    >>> net = nn.Linear(1, 1, bias=False)
    >>> averaged = {"weight": torch.zeros(1, 1)}
    >>> _ = net.weight.data.fill_(1.0)
    >>> follow(averaged, net, decay=0.999, step=0)
    >>> round(float(averaged["weight"]), 6)
    0.9
    """
    if averaged:
        weights = net.state_dict()
        share = 1 - min(decay, (1 + step) / (10 + step))
        for name, value in averaged.items():
            if value.is_floating_point():
                value.lerp_(weights[name], share)
            else:  # a count, as batch normalisation keeps one
                value.copy_(weights[name])


def optimiser_tensors(optimiser: torch.optim.Optimizer, net: nn.Module) -> dict[str, Tensor]:
    """State of the optimiser as named tensors, e.g. `momentum_buffer.score.weight`."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {
        f"{key}.{names[id(parameter)]}": torch.as_tensor(value).detach()
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, net: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Put the tensors of `optimiser_tensors` back.

    Raises
    ------
    ModelFileError
        If a tensor belongs to no parameter or has another shape.
    """
    parameters = dict(net.named_parameters())
    for name, tensor in tensors.items():
        key, _, owner = name.partition(".")
        parameter = parameters.get(owner)
        if parameter is None or (tensor.ndim > 0 and tensor.shape != parameter.shape):
            raise ModelFileError("checkpoint", f"optimiser state {name!r} fits no parameter")
        if tensor.ndim == 0:  # Adam's step counter: beside the parameter in the fused form only
            on = parameter.device if optimiser.defaults.get("fused") else "cpu"
            optimiser.state[parameter][key] = tensor.clone().to(on)
        else:  # with the strides of its parameter: fused kernels run over both side by side
            optimiser.state[parameter][key] = torch.empty_like(parameter).detach().copy_(tensor)
