"""What a segmentation must beat: a constant, and the best blurred and thresholded raw image.

A score means little alone; these two need no network. Blur and threshold are tuned on training
slices and applied, unchanged, to held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from unet2015.score import pixel_error, rand_error, v_info, v_rand, warping_error, wrong_pixels
from unet2015.sweep import Sweep, as_probability

__all__ = ["MEASURES", "Tuned", "baselines", "score_blur", "tune_blur"]

MEASURES = {
    "wrong_pixels": wrong_pixels,
    "pixel_error": pixel_error,
    "rand_error": rand_error,
    "v_rand": v_rand,
    "v_info": v_info,
    "warping_error": warping_error,
}


SIGMAS_PX = (1.0, 2.0, 3.0)
STRIDE = 3  # of the thresholds tried first


class Tuned(NamedTuple):
    """A value, and the blur (pixels; None without) and threshold it was obtained with."""

    value: float
    sigma_px: float | None
    threshold: float


def baselines(
    images: ArrayLike,
    truth: ArrayLike,
    *,
    train: Sequence[int],
    held_out: Sequence[int],
    sigmas_px: Sequence[float] = SIGMAS_PX,
    quantiles: ArrayLike | None = None,
    measures: Sequence[str] = tuple(MEASURES),
) -> dict[str, dict[str, Tuned]]:
    """Scores of the constant and of the tuned blurred threshold on held-out slices.

    Interior is taken to be brighter than membrane, as in electron microscopy; give the inverted
    image otherwise. For each measure, sigma and threshold are those best over the training slices.

    Parameters
    ----------
    images
        (S, H, W) raw slices: uint8, uint16, or floats in 0..1.
    truth
        (S, H, W) integer or bool, interior > 0.
    train, held_out
        Slices to tune on and slices to score; they may not overlap.
    sigmas_px, quantiles, measures
        As for `tune_blur`.

    Returns
    -------
    dict
        "white" (everything interior, threshold 0.5) and "blur", each a dict of `Tuned` by measure.

    Raises
    ------
    ValueError
        If a slice is in both sets, a set is empty, or as `pixel_error`.

    Examples
    --------
    >>> truth = np.ones((2, 8, 8), np.uint8)
    >>> truth[:, 4] = 0
    >>> found = baselines(truth * 200, truth, train=[0], held_out=[1], measures=["wrong_pixels"])
    >>> found["white"]["wrong_pixels"].value
    0.125
    """
    if not len(train) or not len(held_out) or set(train) & set(held_out):
        raise ValueError(f"train {list(train)} and held_out {list(held_out)} must be two sets")
    maps, labels = as_probability(images), np.asarray(truth)
    learn, test = np.asarray(train, np.intp), np.asarray(held_out, np.intp)
    tuned = tune_blur(
        maps[learn], labels[learn], sigmas_px=sigmas_px, quantiles=quantiles, measures=measures
    )
    white = np.ones(labels[test].shape, np.float32)
    constant = {
        name: Tuned(MEASURES[name](white, labels[test], thresholds=(0.5,)).best, None, 0.5)
        for name in measures
    }
    return {"white": constant, "blur": score_blur(maps[test], labels[test], tuned)}


def tune_blur(
    images: ArrayLike,
    truth: ArrayLike,
    *,
    sigmas_px: Sequence[float] = SIGMAS_PX,
    quantiles: ArrayLike | None = None,
    measures: Sequence[str] = tuple(MEASURES),
) -> dict[str, Tuned]:
    """Blur and threshold best for each measure on labelled slices, and the value they reach.

    Parameters
    ----------
    images, truth
        As for `baselines`.
    sigmas_px
        Standard deviations of the Gaussian blur to try.
    quantiles
        Thresholds to try, as quantiles in 0..1 of the blurred slices; default 24 from 0.025 to
        0.6, of which each third is tried first and then the neighbours of the best.
    measures
        Names from `MEASURES`.

    Examples
    --------
    >>> truth = np.ones((1, 8, 8), np.uint8)
    >>> truth[:, :4] = 0
    >>> tune_blur(truth * 200, truth, measures=["wrong_pixels"])["wrong_pixels"].value
    0.0
    """
    maps, labels = as_probability(images), np.asarray(truth)
    cuts = np.linspace(0.025, 0.6, 24) if quantiles is None else np.asarray(quantiles, np.float64)
    found: dict[str, tuple[float, Tuned]] = {}
    for sigma in sigmas_px:
        blur = _blurred(maps, sigma)
        thresholds = [float(t) for t in np.quantile(blur, cuts)]
        for name in measures:
            rank, tuned = _tuned(MEASURES[name], blur, labels, thresholds, sigma)
            if name not in found or rank < found[name][0]:
                found[name] = rank, tuned
    return {name: found[name][1] for name in measures}


def score_blur(images: ArrayLike, truth: ArrayLike, tuned: Mapping[str, Tuned]) -> dict[str, Tuned]:
    """Value of each measure on other slices, with the blur and threshold it was tuned to.

    Parameters are those of `tune_blur`, whose result is `tuned`.

    Examples
    --------
    >>> truth = np.ones((1, 8, 8), np.uint8)
    >>> truth[:, :4] = 0
    >>> tuned = tune_blur(truth * 200, truth, measures=["wrong_pixels"])
    >>> score_blur(truth[:, ::-1] * 200, truth[:, ::-1], tuned)["wrong_pixels"].value
    0.0
    """
    maps, labels = as_probability(images), np.asarray(truth)
    blurred = {t.sigma_px: _blurred(maps, t.sigma_px or 0.0) for t in tuned.values()}
    found = {}
    for name, best in tuned.items():
        sweep = MEASURES[name](blurred[best.sigma_px], labels, thresholds=(best.threshold,))
        found[name] = best._replace(value=sweep.best)
    return found


def _tuned(
    measure: Callable[..., Sweep],
    blur: NDArray[np.float32],
    labels: NDArray[Any],
    thresholds: Sequence[float],
    sigma_px: float,
) -> tuple[float, Tuned]:
    """Best of the thresholds, coarse to fine, and its rank (smaller is better)."""
    coarse = list(range(0, len(thresholds), STRIDE))
    first = measure(blur, labels, thresholds=tuple(thresholds[i] for i in coarse))
    middle = coarse[[thresholds[i] for i in coarse].index(first.threshold)]
    near = range(max(0, middle - STRIDE + 1), min(len(thresholds), middle + STRIDE))
    second = measure(blur, labels, thresholds=tuple(thresholds[i] for i in near))
    return _rank(second), Tuned(second.best, sigma_px, second.threshold)


def _rank(sweep: Sweep) -> float:
    return sweep.best if sweep.best_is == "smallest" else -sweep.best


def _blurred(maps: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    slices = [ndimage.gaussian_filter(image.astype(np.float64), sigma_px) for image in maps]
    # Rounding may step over 1 by a unit in the last place.
    return np.clip(slices, 0.0, 1.0).astype(np.float32)
