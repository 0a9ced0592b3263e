"""Data of the tables of docs/results.md, and how a trained run is scored on the held-out part."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.record import DATA, isbi
from unet2015.baselines import score_blur, tune_blur
from unet2015.data import Stack, read_stack_pair, split, weigh
from unet2015.objects import ctc_jaccards, dsb_image_ap
from unet2015.recipe import Recipe
from unet2015.score import isbi_scores
from unet2015.train import Run
from unet2015.validate import probabilities_of, with_weights
from weightmaps import instances_from_mask

HELD_OUT = "12-14,27-29"
REGIMES = {"12-14, 27-29": slice(0, 6), "12-14": slice(0, 3), "27-29": slice(3, 6)}
ISBI = ("wrong_pixels", "pixel_error", "v_info", "v_rand", "warping_error")
OBJECTS = ("iou", "seg", "ap")
THRESHOLDS = np.round(np.linspace(0.1, 0.9, 9), 2).tolist()
CUTS = np.linspace(0.05, 0.95, 13).tolist()  # of a grey range, for the baseline
Scores = dict[str, dict[str, float]]


def from_isbi(recipe: Recipe) -> tuple[Stack, Stack]:
    """24 slices to learn from; three slices of each noise regime held out."""
    training, held_out = split(read_stack_pair(*isbi()), HELD_OUT)
    return weigh(training, recipe), held_out


def from_hela(recipe: Recipe) -> tuple[Stack, Stack]:
    """Silver truth of 30 frames; the last six, which are the most crowded, are held out."""
    folder = DATA / "cells" / "ctc" / "DIC-C2DH-HeLa"
    stack = read_stack_pair(folder / "01", folder / "01_ST" / "SEG", meaning="instances")
    training, held_out = split(standardised(stack), "24-29")
    return weigh(training, recipe), held_out


def from_dsb(recipe: Recipe) -> tuple[Stack, Stack]:
    """Every fifth image is held out; they are in the order of their names, which are random."""
    stack = standardised(read_stack_pair(DATA / "cells" / "dsb2018" / "stage1_train", channels=3))
    held_out = list(range(2, len(stack), 5))
    training = stack.take([k for k in range(len(stack)) if k not in held_out])
    return weigh(training, recipe), stack.take(held_out)


def standardised(stack: Stack) -> Stack:
    """Each image with mean 0.5 and standard deviation 0.25, as float32.

    The contrast of DIC and of weak fluorescence is a few hundredths of the range of uint8; scaled
    by that range alone, a network without normalisation layers stays at the constant solution.
    """

    def one(image: NDArray[Any]) -> NDArray[np.float32]:
        grey = image.astype(np.float64)
        return (0.5 + 0.25 * (grey - grey.mean()) / max(grey.std(), 1e-12)).astype(np.float32)

    return replace(stack, images=[one(image) for image in stack.images])


def score_isbi(run: Run, held_out: Stack) -> dict[str, Scores]:
    """Measures by regime, with one prediction and with the mean of eight views."""
    net, truth = with_weights(run.net, run.averaged), np.stack(list(held_out.labels))
    found: dict[str, Scores] = {}
    for views, average in (("1 view", "none"), ("8 views", "all")):
        maps = probabilities_of(net, held_out, run.recipe, average=average)
        inside = np.stack([p[1] for p in maps])
        for regime, part in REGIMES.items():
            sweeps = isbi_scores(inside[part], truth[part])
            found[f"{regime}; {views}"] = {
                name: {"best": s.best, "threshold": s.threshold, "at_0.5": s.at(0.5)}
                for name, s in sweeps.items()
                if name in ISBI
            }
    return found


def score_objects(run: Run, held_out: Stack) -> dict[str, Scores]:
    """IoU of the foreground, SEG and average precision of the components above a threshold."""
    maps = probabilities_of(with_weights(run.net, run.averaged), held_out, run.recipe)
    by_cut = {t: object_scores([p[1] > t for p in maps], held_out) for t in THRESHOLDS}
    found: Scores = {}
    for name in OBJECTS:
        best = max(by_cut, key=lambda t: by_cut[t][name])
        found[name] = {
            "best": by_cut[best][name], "threshold": best, "at_0.5": by_cut[0.5][name],
        }  # fmt: skip
    return {f"{len(held_out)} images": found}


def object_scores(masks: Sequence[NDArray[np.bool_]], stack: Stack) -> dict[str, float]:
    """Measures of masks whose 4-connected components are taken for the cells."""
    assert stack.instances is not None
    truths = [np.maximum(t, 0).astype(np.int64) for t in stack.instances]
    cells = [instances_from_mask(mask).astype(np.int64) for mask in masks]
    both = sum(int((m & (t > 0)).sum()) for m, t in zip(masks, truths, strict=True))
    either = sum(int((m | (t > 0)).sum()) for m, t in zip(masks, truths, strict=True))
    pairs = list(zip(cells, truths, strict=True))
    return {
        "iou": both / max(either, 1),
        "seg": float(np.concatenate([ctc_jaccards(a, b) for a, b in pairs]).mean()),
        "ap": float(np.mean([dsb_image_ap(a, b)[0] for a, b in pairs])),
    }


def isbi_baselines() -> dict[str, dict[str, Scores]]:
    """Constant and blurred threshold, by regime; tuned on the slices that are not held out."""
    stack = read_stack_pair(*isbi())
    images = np.stack([image[0] for image in stack.images])
    truth = np.stack(list(stack.labels))
    held_out = np.array([12, 13, 14, 27, 28, 29])
    learn = np.setdiff1d(np.arange(len(stack)), held_out)
    tuned = tune_blur(images[learn], truth[learn], measures=ISBI)
    found: dict[str, dict[str, Scores]] = {"constant": {}, "blurred threshold": {}}
    for regime, part in REGIMES.items():
        where = held_out[part]
        scored = score_blur(images[where], truth[where], tuned)
        found["blurred threshold"][regime] = {
            m: {"best": t.value, "threshold": t.threshold} for m, t in scored.items()
        }
        white = isbi_scores(np.ones(truth[where].shape, np.float32), truth[where])
        found["constant"][regime] = {m: {"best": white[m].at(0.5), "threshold": 0.5} for m in ISBI}
    return found


def object_baselines(data: Any) -> dict[str, dict[str, Scores]]:
    """Everything foreground, and the best of three grey features, blurred and cut at a threshold.

    Feature (bright, dark, deviation from the mean of 15 x 15 pixels), blur and threshold are those
    best on a third of the training images; each feature is first scaled to its range in the image.
    """
    training, held_out = data(Recipe(border_weight=False, in_channels=3, class_weights="none"))
    training = training.take(range(0, len(training), 3))  # enough to choose by, in a third of time
    where = f"{len(held_out)} images"
    full = object_scores([np.ones(x.shape, bool) for x in held_out.labels], held_out)
    found: dict[str, dict[str, Scores]] = {
        "constant": {where: {m: {"best": v} for m, v in full.items()}},
        "tuned threshold": {where: {}},
    }
    tried: dict[tuple[str, float, float], dict[str, float]] = {}
    for feature in ("bright", "dark", "deviation"):
        for sigma in (1.0, 3.0):
            maps = _features(training, feature, sigma)
            for cut in CUTS:
                masks = [m > cut for m in maps]
                tried[feature, sigma, cut] = object_scores(masks, training)
    for measure in OBJECTS:
        feature, sigma, cut = max(tried, key=lambda way, m=measure: tried[way][m])
        masks = [m > cut for m in _features(held_out, feature, sigma)]
        found["tuned threshold"][where][measure] = {
            "best": object_scores(masks, held_out)[measure], "threshold": cut,
            "sigma_px": sigma, "feature": feature,
        }  # fmt: skip
    return found


def _features(stack: Stack, feature: str, sigma_px: float) -> list[NDArray[np.float64]]:
    """A grey feature of each image, blurred, and scaled to 0..1."""
    found = []
    for image in stack.images:
        grey = image.astype(np.float64).mean(0)
        if feature == "deviation":
            mean = ndimage.uniform_filter(grey, 15)
            grey = np.sqrt(np.maximum(ndimage.uniform_filter(grey**2, 15) - mean**2, 0))
        grey = ndimage.gaussian_filter(-grey if feature == "dark" else grey, sigma_px)
        found.append((grey - grey.min()) / max(float(np.ptp(grey)), 1e-12))
    return found
