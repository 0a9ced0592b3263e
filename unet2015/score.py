"""The challenges' measures: how well a segmentation agrees with the annotation.

ISBI 2012 (electron microscopy): `pixel_error`, `rand_error`, `warping_error`, and the later
foreground-restricted, thinned `v_rand` and `v_info`, as the challenge's own program computes them.
Cell Tracking Challenge: `ctc_seg`. Data Science Bowl 2018: `dsb_ap`. Class maps: `confusion`,
`mean_iou`.

Conventions of the ISBI measures. The map is the probability of cell *interior*; the truth is
interior where > 0. Everything is computed per 2-D slice. A pixel is interior if its probability,
float32 promoted to binary64, is strictly above the threshold; thresholds are the eleven sums of 0.1
in `SWEEP`. Cells are 4-connected, membranes 8-connected. Every slice of the truth needs foreground.

References
----------
Jain et al., "Boundary learning by optimization with topological constraints", CVPR 2010.
Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
connectomics", Front. Neuroanat. 9:142, 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet2015.confusion_matrix import ClassScores, confusion, mean_iou
from unet2015.objects import ctc_seg, dsb_ap
from unet2015.pixels import Map, Mask, counts_of, interior, pixel_error, wrong_pixels
from unet2015.segments import cells, information_f, pair_counts, rand_counts
from unet2015.sweep import SWEEP, Sweep, as_probability, paired, slice_by_slice
from unet2015.thinning import thin
from unet2015.warping import WarpingCounts, count_mismatches, mismatches

__all__ = [
    "SWEEP",
    "ClassScores",
    "Sweep",
    "as_probability",
    "confusion",
    "ctc_seg",
    "dsb_ap",
    "isbi_scores",
    "mean_iou",
    "pixel_error",
    "rand_error",
    "v_info",
    "v_rand",
    "v_scores_at",
    "warping_counts",
    "warping_error",
    "wrong_pixels",
]


def _rand_counts(probability: Map, truth: Mask, threshold: float) -> tuple[int, int, int]:
    return rand_counts(pair_counts(cells(truth), cells(interior(probability, threshold))))


def _rand_f(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return 2.0 * counts[..., 0] / (counts[..., 1] + counts[..., 2])


def rand_error(
    prediction: ArrayLike, truth: ArrayLike, *, thresholds: Sequence[float] = SWEEP
) -> Sweep:
    """Rand error of ISBI 2012: 1 - F of pixel pairs, over the truth's foreground, without thinning.

    Labels are the 4-components of interior. Over the pixels of the truth's foreground,
    F = 2 S_AB / (S_A + S_B) with S_A, S_B, S_AB the sums of squared sizes of true cells, proposed
    cells and their intersections, where each proposal membrane pixel is a cell of its own. The sums
    run over the stack before F is taken.

    Parameters, errors and thresholds are those of `pixel_error`.

    Examples
    --------
    >>> rand_error(np.float32([[1, 1, 0, 1, 1]]), np.array([[1, 1, 1, 1, 1]])).at(0.5)
    0.47058823529411764
    """
    counts = counts_of(_rand_counts, *paired(prediction, truth), thresholds)
    errors = 1.0 - _rand_f(counts)
    return Sweep("rand_error", tuple(thresholds), 1.0 - _rand_f(counts.sum(0)), errors, "smallest")


def _thinned_pairs(
    probability: Map, truth: Mask, threshold: float
) -> tuple[tuple[int, int, int], float]:
    """Rand sums and information score of one slice against the thinned proposal."""
    pairs = pair_counts(cells(truth), thin(cells(interior(probability, threshold))))
    return rand_counts(pairs), information_f(pairs)


def _thinned(
    maps: Map, stack: Mask, thresholds: Sequence[float]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rows = slice_by_slice(_thinned_pairs, maps, stack, thresholds)
    counts = np.array([[counts for counts, _ in row] for row in rows])
    return counts, np.array([[information for _, information in row] for row in rows])


def _v_rand_sweep(counts: NDArray[np.int64], average: str, thresholds: tuple[float, ...]) -> Sweep:
    scores = _rand_f(counts)
    over_stack = scores.mean(0) if average == "macro" else _rand_f(counts.sum(0))
    name = "v_rand" if average == "macro" else "v_rand_micro"
    return Sweep(name, thresholds, over_stack, scores, "largest")


def v_rand(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    average: Literal["macro", "micro"] = "macro",
    thresholds: Sequence[float] = SWEEP,
) -> Sweep:
    """V_rand: the Rand F-score over the truth's foreground after border thinning; 1 is perfect.

    The proposal's cells first grow until a one-pixel line is left between them (`thin`); then as
    `rand_error`, but as a score. A slice without any cell counts as one cell.

    Parameters
    ----------
    prediction, truth, thresholds
        As for `pixel_error`.
    average
        "macro": mean of the slices' scores (the challenge's script); "micro": pair sums over the
        stack.

    Raises
    ------
    ValueError, TypeError
        As `pixel_error`, and ValueError if `average` is another word.

    Examples
    --------
    >>> v_rand(np.float32([[1, 1, 0, 1, 1]]), np.array([[1, 1, 0, 1, 1]])).best
    1.0
    """
    if average not in ("macro", "micro"):
        raise ValueError(f"average {average!r}: choose 'macro' or 'micro'")
    counts, _ = _thinned(*paired(prediction, truth), thresholds)
    return _v_rand_sweep(counts, average, tuple(thresholds))


def v_info(
    prediction: ArrayLike, truth: ArrayLike, *, thresholds: Sequence[float] = SWEEP
) -> Sweep:
    """V_info: information F-score over the truth's foreground after border thinning; 1 is perfect.

    2 I / (H(truth) + H(proposal)) of the labels of a random foreground pixel, natural logarithm,
    line pixels of the thinned proposal as cells of their own; the mean of the slices' scores.

    Parameters, errors and thresholds are those of `pixel_error`.

    Examples
    --------
    >>> v_info(np.float32([[1, 1, 1, 1, 1]]), np.array([[1, 1, 0, 1, 1]])).best
    0.0
    """
    _, scores = _thinned(*paired(prediction, truth), thresholds)
    return Sweep("v_info", tuple(thresholds), scores.mean(0), scores, "largest")


def v_scores_at(
    prediction: ArrayLike, truth: ArrayLike, threshold: float = 0.5
) -> tuple[float, float]:
    """V_rand (macro) and V_info at one threshold, of cells that are thinned once.

    Parameters and errors are those of `v_rand`; 0 <= `threshold` <= 1.

    Examples
    --------
    >>> v_scores_at(np.float32([[1, 1, 0, 1, 1]]), np.array([[1, 1, 0, 1, 1]]))
    (1.0, 1.0)
    """
    counts, information = _thinned(*paired(prediction, truth), (threshold,))
    v_rand_score = _v_rand_sweep(counts, "macro", (threshold,)).best
    return v_rand_score, float(information.mean(0)[0])


def warping_counts(
    prediction: ArrayLike, truth: ArrayLike, *, threshold: float = 0.5, radius_px: int = 20
) -> tuple[WarpingCounts, ...]:
    """Topological mismatches of each slice by class, at one threshold.

    Parameters
    ----------
    prediction, truth
        As for `pixel_error`.
    threshold
        Where the map is cut.
    radius_px
        Half-width of the window in which a cut is judged a split or not (see `mismatches`).

    Examples
    --------
    >>> warping_counts(np.float32([[1, 1, 1]]), np.array([[1, 0, 1]]))[0].merge
    1
    """
    maps, stack = paired(prediction, truth)
    return tuple(row[0] for row in _mismatch_counts(maps, stack, [threshold], radius_px))


def _mismatch_counts(
    maps: Map, stack: Mask, thresholds: Sequence[float], radius_px: int
) -> list[list[WarpingCounts]]:
    if radius_px < 1:
        raise ValueError(f"radius_px {radius_px} must be at least 1")

    def one(probability: Map, truth: Mask, threshold: float) -> WarpingCounts:
        return count_mismatches(mismatches(probability, truth, threshold, radius_px=radius_px))

    return slice_by_slice(one, maps, stack, thresholds)


def warping_error(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    kind: Literal["challenge", "classic"] = "challenge",
    radius_px: int = 20,
    thresholds: Sequence[float] = SWEEP[:-1],
) -> Sweep:
    """Warping error: share of pixels whose error changes topology, after borders were relaxed.

    The truth is relaxed towards the map by flipping simple points (`relax`). What still differs is
    classed (`mismatches`). No thinning; a frame of membrane surrounds the slice.

    Parameters
    ----------
    prediction, truth
        As for `pixel_error`.
    kind
        "challenge": only pixels that split or merge cells count; "classic": every left-over pixel
        (Jain et al. 2010).
    radius_px
        Half-width of the window of the split test; the challenge uses 20.
    thresholds
        Thresholds to sweep; default 0, 0.1, ..., 0.9 as in the challenge's script.

    Raises
    ------
    ValueError, TypeError
        As `pixel_error`, and ValueError for another `kind` or a radius below 1.

    Examples
    --------
    >>> warping_error(np.float32([[1, 1, 1, 1]]), np.array([[1, 0, 1, 1]])).best
    0.25
    """
    if kind not in ("challenge", "classic"):
        raise ValueError(f"kind {kind!r}: choose 'challenge' or 'classic'")
    maps, stack = paired(prediction, truth)
    counts = _mismatch_counts(maps, stack, thresholds, radius_px)
    return _warping_sweep(counts, stack[0].size, kind, tuple(thresholds))


def _warping_sweep(
    counts: list[list[WarpingCounts]], pixels: int, kind: str, thresholds: tuple[float, ...]
) -> Sweep:
    classic = kind == "classic"
    wrong = [[c.pixels if classic else c.split + c.merge for c in row] for row in counts]
    shares = np.array(wrong) / pixels
    name = "warping_classic" if classic else "warping_error"
    return Sweep(name, thresholds, shares.mean(0), shares, "smallest")


def isbi_scores(
    prediction: ArrayLike, truth: ArrayLike, *, radius_px: int = 20
) -> dict[str, Sweep]:
    """All ISBI measures of one stack, each over its own sweep of thresholds.

    Parameters
    ----------
    prediction, truth, radius_px
        As for `warping_error`.

    Returns
    -------
    dict
        Sweeps by name: pixel_error, rand_error, v_rand, v_info, warping_error, wrong_pixels, and
        beside them v_rand_micro and warping_classic.

    Raises
    ------
    ValueError
        If the shapes differ or are not of slices, the prediction is no probability, a label is
        negative, a slice of the truth has no foreground, or the radius is below 1.
    TypeError
        If the truth is neither integer nor bool.

    Examples
    --------
    >>> scores = isbi_scores(np.float32([[1, 1, 0, 1, 1]]), np.array([[1, 1, 0, 1, 1]]))
    >>> {name: sweep.best for name, sweep in scores.items() if name.startswith("v_")}
    {'v_rand': 1.0, 'v_info': 1.0, 'v_rand_micro': 1.0}
    """
    maps, stack = paired(prediction, truth)
    warping_thresholds = SWEEP[:-1]
    counts = _mismatch_counts(maps, stack, warping_thresholds, radius_px)
    pairs, information = _thinned(maps, stack, SWEEP)
    return {
        "pixel_error": pixel_error(maps, stack),
        "rand_error": rand_error(maps, stack),
        "v_rand": _v_rand_sweep(pairs, "macro", SWEEP),
        "v_info": Sweep("v_info", SWEEP, information.mean(0), information, "largest"),
        "warping_error": _warping_sweep(counts, stack[0].size, "challenge", warping_thresholds),
        "wrong_pixels": wrong_pixels(maps, stack),
        "v_rand_micro": _v_rand_sweep(pairs, "micro", SWEEP),
        "warping_classic": _warping_sweep(counts, stack[0].size, "classic", warping_thresholds),
    }
