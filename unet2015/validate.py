"""Measures on whole held-out slices, through the same overlap-tile path as a prediction."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tiling import SeamRule
from tiling.faults import NumericsError
from tiling.signals import undisturbed
from unet2015.data import Stack
from unet2015.predict import predict_array
from unet2015.recipe import Recipe
from unet2015.run_folder import Run, kept, save_run
from unet2015.run_names import BEST
from unet2015.scaled_stack import left_to_scale
from unet2015.score import confusion, mean_iou, v_scores_at

__all__ = [
    "BEST_BY",
    "evaluate",
    "is_constant",
    "measured",
    "probabilities_of",
    "validate",
    "with_weights",
]

BEST_BY = "wrong_pixels"
"""The measure whose smallest value makes a checkpoint `best.safetensors`."""

PATIENCE = 3  # evaluations at the constant solution before it is called out

CONSTANT = (
    "the network has predicted the same class everywhere for {n} evaluations; usual causes:"
    " learning rate too high or far too low, labels of one class, a weight map that drowns the"
    " other class, images of low contrast (try --set scale=percentile), default initialisation"
    " instead of the paper's"
)


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
    """Class probabilities (K, H, W) of every slice of `stack`; the training mode is kept."""
    was_training = net.training
    precision = "fp32" if recipe.precision == "fp16" else recipe.precision
    try:
        return [
            predict_array(
                net,
                image,
                scale=left_to_scale(stack, recipe.scale),
                precision=precision,
                average=average,
                seams=SeamRule(probe=False),  # a measure of training, not to stop it
            )
            for image in stack.images
        ]
    finally:
        net.train(was_training)


def validate(
    net: nn.Module, stack: Stack, recipe: Recipe, averaged: dict[str, Tensor] | None = None
) -> dict[str, float]:
    """Measures of `net` on the labelled slices of `stack`; see `measured`.

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

    Examples
    --------
    >>> from unet2015.net import UNet
    >>> from unet2015.recipe import quick
    >>> stack = Stack(np.zeros((1, 1, 9, 9), np.uint8), np.ones((1, 9, 9), np.int64))
    >>> sorted(validate(UNet(base_channels=1, depth=1), stack, quick()))
    ['classes_predicted', 'classes_true', 'mean_iou', 'spread', 'v_info', 'v_rand', 'wrong_pixels']
    """
    maps = probabilities_of(with_weights(net, averaged or {}), stack, recipe)
    return measured(maps, stack, recipe)[0]


def measured(
    probabilities: Sequence[NDArray[np.float32]], stack: Stack, recipe: Recipe
) -> tuple[dict[str, float], list[str]]:
    """Measures of the probabilities (K, H, W) of labelled slices, and sentences about them.

    Returns
    -------
    measures : dict
        `wrong_pixels` (share of labelled pixels whose most probable class is wrong), `mean_iou`,
        `spread` (largest standard deviation of a class's probability; near 0 for a network at the
        constant solution), the numbers of classes predicted and true, and for two classes
        `v_info` and `v_rand` at threshold 0.5 over the slices with foreground.
    notes : list of str
        Which measures were left out, and why.
    """
    counts = np.zeros((recipe.classes, recipe.classes), np.int64)
    for p, truth in zip(probabilities, stack.labels, strict=True):
        counts += confusion(p.argmax(0), truth, recipe.classes, ignore_label=recipe.ignore_label)
    measures = {
        BEST_BY: float(1 - np.trace(counts) / max(counts.sum(), 1)),
        "mean_iou": float(mean_iou(counts)),
        "spread": float(np.mean([p.std((1, 2)).max() for p in probabilities])),
        "classes_predicted": float((counts.sum(0) > 0).sum()),
        "classes_true": float((counts.sum(1) > 0).sum()),
    }
    if recipe.classes != 2 or recipe.ignore_label is not None:
        return measures, []
    pairs = [(p[1], t) for p, t in zip(probabilities, stack.labels, strict=True) if t.any()]
    notes = []
    if len(pairs) < len(stack):
        empty = [n for n, t in zip(stack.names, stack.labels, strict=True) if not t.any()]
        notes = [
            f"held-out slice(s) {', '.join(empty[:8])} have no foreground: V_info and V_rand"
            " leave them out"
        ]
    if pairs:
        scores = [v_scores_at(p, truth) for p, truth in pairs]
        v_rand, v_info = (float(np.mean(column)) for column in zip(*scores, strict=True))
        measures.update(v_info=v_info, v_rand=v_rand)
    return measures, notes


def is_constant(measures: dict[str, float]) -> bool:
    """Whether the measures are those of a network that says the same everywhere.

    >>> is_constant({"spread": 1e-6, "classes_predicted": 1.0, "classes_true": 2.0})
    True
    >>> is_constant({"spread": 0.2, "classes_predicted": 1.0, "classes_true": 1.0})
    False
    """
    return measures["spread"] < 1e-3 or (
        measures["classes_predicted"] < 2 <= measures["classes_true"]
    )


def evaluate(run: Run, validation: Stack) -> None:
    """Measure the held-out slices, keep the best weights, notice a constant network.

    Raises
    ------
    NumericsError
        If a weight is NaN or Inf.
    """
    for name, tensor in run.net.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise NumericsError(f"step {run.step}: NaN or Inf in {name}; {kept(run)}")
    net = with_weights(run.net, run.averaged)
    probabilities = probabilities_of(net, validation, run.recipe)
    measures, notes = measured(probabilities, validation, run.recipe)
    with undisturbed():  # best, its file and the log say the same, also after a Ctrl-C
        run.measures, run.measured, run.example = measures, run.step, probabilities[0][1]
        for note in notes:
            run.warn(note)
        run.constant_evaluations = run.constant_evaluations + 1 if is_constant(measures) else 0
        if run.constant_evaluations == PATIENCE:
            run.warn(CONSTANT.format(n=PATIENCE))
        if measures[BEST_BY] < run.best:
            run.best = measures[BEST_BY]
            save_run(run, BEST)
        run.log.add(run.step, **measures)
