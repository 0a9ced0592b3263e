"""What a segmentation must beat: a constant, and the best blurred and thresholded raw image.

A score means little alone; these two need no network. Blur and threshold are tuned on training
slices and applied, unchanged, to held-out ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from unet2015.score import pixel_error, rand_error, v_info, v_rand, warping_error, wrong_pixels
from unet2015.sweep import Sweep, as_probability

__all__ = ["MEASURES", "Tuned", "baselines"]

MEASURES = {
    "wrong_pixels": wrong_pixels,
    "pixel_error": pixel_error,
    "rand_error": rand_error,
    "v_rand": v_rand,
    "v_info": v_info,
    "warping_error": warping_error,
}


class Tuned(NamedTuple):
    """A held-out value, and the blur (pixels; None without) and threshold it was obtained with."""

    value: float
    sigma_px: float | None
    threshold: float


def baselines(
    images: ArrayLike,
    truth: ArrayLike,
    *,
    train: Sequence[int],
    held_out: Sequence[int],
    sigmas_px: Sequence[float] = (1.0, 2.0, 3.0),
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
    sigmas_px
        Standard deviations of the Gaussian blur to try.
    quantiles
        Thresholds to try, as quantiles in 0..1 of the blurred training slices; default 24 from
        0.025 to 0.6.
    measures
        Names from `MEASURES`.

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
    maps = as_probability(images)
    labels = np.asarray(truth)
    learn, test = np.asarray(train, np.intp), np.asarray(held_out, np.intp)
    cuts = np.linspace(0.025, 0.6, 24) if quantiles is None else np.asarray(quantiles, np.float64)
    white = np.ones(labels[test].shape, np.float32)
    result: dict[str, dict[str, Tuned]] = {"white": {}, "blur": {}}
    blurred = {sigma: _blurred(maps, sigma) for sigma in sigmas_px}
    for name in measures:
        measure = MEASURES[name]
        result["white"][name] = Tuned(
            measure(white, labels[test], thresholds=(0.5,)).best, None, 0.5
        )
        tried: list[tuple[float, Sweep]] = []
        for sigma, blur in blurred.items():
            thresholds = tuple(float(t) for t in np.quantile(blur[learn], cuts))
            tried.append((sigma, measure(blur[learn], labels[learn], thresholds=thresholds)))
        sigma, best = min(tried, key=lambda pair: _rank(pair[1]))
        value = measure(blurred[sigma][test], labels[test], thresholds=(best.threshold,)).best
        result["blur"][name] = Tuned(value, sigma, best.threshold)
    return result


def _rank(sweep: Sweep) -> float:
    return sweep.best if sweep.best_is == "smallest" else -sweep.best


def _blurred(maps: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    slices = [ndimage.gaussian_filter(image.astype(np.float64), sigma_px) for image in maps]
    # Rounding may step over 1 by a unit in the last place.
    return np.clip(slices, 0.0, 1.0).astype(np.float32)
