"""Measures on whole held-out slices, through the same overlap-tile path as a prediction."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from unet2015.data import Stack
from unet2015.predict import predict_array
from unet2015.recipe import Recipe
from unet2015.score import confusion, mean_iou, v_info_at, v_rand_at

__all__ = ["BEST_BY", "is_constant", "probabilities_of", "validate", "with_weights"]

BEST_BY = "wrong_pixels"
"""The measure whose smallest value makes a checkpoint `best.safetensors`."""


def with_weights(net: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Copy of `net` with other weights, or `net` itself where there are none."""
    if not weights:
        return net
    other = copy.deepcopy(net)
    other.load_state_dict(weights)
    return other


def probabilities_of(
    net: nn.Module, stack: Stack, recipe: Recipe, *, average: str = "none"
) -> list[NDArray[np.float32]]:
    """Class probabilities (K, H, W) of every slice of `stack`."""
    precision = "fp32" if recipe.precision == "fp16" else recipe.precision
    return [
        predict_array(net, image, scale=recipe.scale, precision=precision, average=average)
        for image in stack.images
    ]


def validate(
    net: nn.Module, stack: Stack, recipe: Recipe, averaged: dict[str, Tensor] | None = None
) -> dict[str, float]:
    """Measures of `net` on the labelled slices of `stack`.

    Parameters
    ----------
    net
        The network; its training mode is left as it was.
    stack
        Held-out slices with class labels.
    recipe
        Scaling, classes and ignore label.
    averaged
        Weights to measure instead of the network's own.

    Returns
    -------
    dict
        `wrong_pixels` (share of labelled pixels whose most probable class is wrong), `mean_iou`,
        `spread` (standard deviation of the foreground probability; near 0 for a network at the
        constant solution), and for two classes `v_info` and `v_rand` at threshold 0.5.
    """
    was_training = net.training
    probabilities = probabilities_of(with_weights(net, averaged or {}), stack, recipe)
    net.train(was_training)
    counts = sum(
        confusion(p.argmax(0), truth, recipe.classes, ignore_label=recipe.ignore_label)
        for p, truth in zip(probabilities, stack.labels, strict=True)
    )
    counts = np.asarray(counts)
    measures = {
        BEST_BY: float(1 - np.trace(counts) / max(counts.sum(), 1)),
        "mean_iou": float(mean_iou(counts)),
        "spread": float(np.mean([p[1].std() for p in probabilities])),
        "classes_predicted": float((counts.sum(0) > 0).sum()),
    }
    if recipe.classes == 2 and recipe.ignore_label is None:
        cells = [p[1] for p in probabilities]
        measures["v_info"] = _mean(v_info_at(p, t) for p, t in zip(cells, stack.labels, strict=True))
        measures["v_rand"] = _mean(v_rand_at(p, t) for p, t in zip(cells, stack.labels, strict=True))
    return measures


def is_constant(measures: dict[str, float]) -> bool:
    """Whether the measures are those of a network that says the same everywhere."""
    return measures["spread"] < 1e-3 or measures["classes_predicted"] < 2


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
