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

__all__ = ["learning_rate", "make_optimiser", "optimiser_tensors", "restore_optimiser"]

# The one-cycle shape of Smith and Topin: a cosine rise over 30 % of the run from a 25th of the
# peak, then a cosine fall to a 250,000th of it.
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
        rise = RISE * last
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
    """Optimiser named by the recipe over all parameters of `net`."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            net.parameters(), lr=rate, momentum=recipe.momentum, weight_decay=decay
        )
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    return kind(net.parameters(), lr=rate, weight_decay=decay)


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
        # Adam keeps its step counter on the CPU, everything else lies beside the parameter.
        place = tensor if key == "step" else tensor.to(parameter.device, parameter.dtype)
        optimiser.state[parameter][key] = place.clone(memory_format=torch.preserve_format)
