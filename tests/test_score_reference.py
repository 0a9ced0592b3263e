"""The measures equal the challenge's own program on a synthetic stack (values in digits)."""

from __future__ import annotations

import hashlib
from dataclasses import astuple
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from unet2015.score import (
    SWEEP,
    isbi_scores,
    pixel_error,
    rand_error,
    v_info,
    v_rand,
    warping_counts,
    warping_error,
    wrong_pixels,
)

SIDE, SLICES, POINTS = 128, 3, 40
CROSS = ndimage.generate_binary_structure(2, 1)
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


@cache
def reference_stack():
    """Truth and proposals by name, (3, 128, 128) uint8 each."""
    rng = np.random.default_rng(7)
    membrane = np.array([_membrane(rng.integers(0, SIDE, (POINTS, 2))) for _ in range(SLICES)])
    truth = ~membrane
    masks = {
        "truth": truth,
        "erode": np.array([ndimage.binary_erosion(s, CROSS, border_value=1) for s in truth]),
        "dilate": np.array([ndimage.binary_dilation(s, CROSS) for s in truth]),
        "gaps": _gaps(rng, truth),
        "walls": _walls(rng, truth),
        "salt": truth ^ (rng.random(truth.shape) < 0.01),
        "white": np.ones_like(truth),
        "black": np.zeros_like(truth),
    }
    stack = {name: np.where(mask, 255, 0).astype(np.uint8) for name, mask in masks.items()}
    return {**stack, "map8": _map8(rng, truth)}


def _membrane(points):
    distance = (ROWS[..., None] - points[:, 0]) ** 2 + (COLUMNS[..., None] - points[:, 1]) ** 2
    label = distance.argmin(-1)
    border = np.zeros((SIDE, SIDE), bool)
    border[:-1] |= label[:-1] != label[1:]
    border[:, :-1] |= label[:, :-1] != label[:, 1:]
    return ndimage.binary_dilation(border, CROSS)


def _gaps(rng, truth):
    gaps = truth.copy()
    for mask, membrane in zip(gaps, ~truth, strict=True):
        places = np.argwhere(membrane)
        for y, x in places[rng.choice(len(places), 12, replace=False)]:
            mask[(ROWS - y) ** 2 + (COLUMNS - x) ** 2 <= 9] = True
    return gaps


def _walls(rng, truth):
    walls = truth.copy()
    for mask in walls:
        for _ in range(6):
            y, x = rng.integers(10, 118, 2)
            length = int(rng.integers(5, 30))
            if rng.integers(2):
                mask[y, max(0, x - length) : x + length] = False
            else:
                mask[max(0, y - length) : y + length, x] = False
    return walls


def _map8(rng, truth):
    blurred = [ndimage.gaussian_filter(mask.astype(np.float64), 1.2) for mask in truth]
    noisy = [s * 200 + 27 + rng.integers(-40, 41, s.shape) for s in blurred]
    return np.clip(np.floor(noisy), 0, 255).astype(np.uint8)


SHA256_16 = {
    "truth": "0f15d2de88ff4dab",
    "erode": "e8009370a6fb663d",
    "dilate": "3db9df9714de2381",
    "gaps": "3a757f11792ad97b",
    "walls": "0acdf25cb0df57d9",
    "salt": "c951487cf66219bf",
    "map8": "1614cf48388e91d7",
}

# Case, threshold; wrong pixels, pixel F, Rand F, V_rand macro and micro, V_info, warping classic
# and challenge; left-over pixels: split, merge, hole addition and deletion, object addition and
# deletion, clusters of splits and of mergers.
TABLE = [
    ("truth", 0.5, (0, 1, 1, 1, 1, 1, 0, 0), (0, 0, 0, 0, 0, 0, 0, 0)),
    (
        "erode", 0.5,
        (0.132263184, 0.905342244, 0.842608697, 0.999484523, 0.9994842, 0.99942175,
         6.10351562e-05, 4.06901042e-05),
        (2, 0, 0, 0, 0, 1, 2, 0),
    ),
    (
        "gaps", 0.5,
        (0.0117390951, 0.992383542, 0.729296586, 0.732441213, 0.729296586, 0.928225403,
         0.00349934896, 0.00349934896),
        (0, 172, 0, 0, 0, 0, 0, 38),
    ),
    (
        "walls", 0.5,
        (0.00866699219, 0.994301308, 0.977934289, 0.982094391, 0.982434197, 0.98794608,
         0.00038655599, 0.00038655599),
        (19, 0, 0, 0, 0, 0, 16, 0),
    ),
    (
        "map8", 0.2,
        (0.203104655, 0.882777732, 0.0636383577, 0.0636506933, 0.0636383577, 0,
         0.0506388346, 0.0504964193),
        (0, 2482, 7, 0, 0, 0, 0, 709),
    ),
    (
        "map8", 0.5,
        (0.0473225911, 0.968950235, 0.954998844, 0.980864545, 0.980841304, 0.993000596,
         0.00128173828, 0.000895182292),
        (35, 9, 17, 0, 1, 1, 34, 9),
    ),
    (
        "map8", 0.6,
        (0.0700073242, 0.952123885, 0.922154068, 0.99757734, 0.997583669, 0.996985898,
         0.000712076823, 0.000508626302),
        (25, 0, 9, 0, 0, 1, 25, 0),
    ),
]  # fmt: skip


@pytest.mark.parametrize("name", SHA256_16)
def test_synthetic_stack_is_the_one_of_the_table(name):
    stack = reference_stack()[name]
    assert hashlib.sha256(stack.tobytes()).hexdigest()[:16] == SHA256_16[name]


@pytest.mark.parametrize(("case", "threshold", "values", "counts"), TABLE)
def test_every_value_equals_the_challenge_program(case, threshold, values, counts):
    stack = reference_stack()
    prediction, truth = stack[case], stack["truth"]
    at = {"thresholds": (threshold,)}
    ours = (
        wrong_pixels(prediction, truth, **at).best,
        1 - pixel_error(prediction, truth, **at).best,
        1 - rand_error(prediction, truth, **at).best,
        v_rand(prediction, truth, **at).best,
        v_rand(prediction, truth, average="micro", **at).best,
        v_info(prediction, truth, **at).best,
        warping_error(prediction, truth, kind="classic", **at).best,
        warping_error(prediction, truth, **at).best,
    )
    assert ours == pytest.approx(values, rel=0, abs=1e-9)
    per_slice = warping_counts(prediction, truth, threshold=threshold)
    assert np.sum([astuple(one) for one in per_slice], axis=0).tolist() == list(counts)


def test_the_sweep_holds_the_same_values_as_each_threshold_alone():
    stack = reference_stack()
    scores = isbi_scores(stack["map8"], stack["truth"])
    for _, threshold, values, _ in TABLE[-3:]:
        found = [
            scores["wrong_pixels"].at(threshold),
            1 - scores["pixel_error"].at(threshold),
            1 - scores["rand_error"].at(threshold),
            scores["v_rand"].at(threshold),
            scores["v_rand_micro"].at(threshold),
            scores["v_info"].at(threshold),
            scores["warping_classic"].at(threshold),
            scores["warping_error"].at(threshold),
        ]
        assert found == pytest.approx(values, rel=0, abs=1e-9)


def test_thresholds_are_accumulated_in_binary64():
    assert SWEEP == (
        0.0, 0.1, 0.2, 0.30000000000000004, 0.4, 0.5, 0.6, 0.7, 0.7999999999999999,
        0.8999999999999999, 0.9999999999999999,
    )  # fmt: skip
    map8 = reference_stack()["map8"]
    assert warping_error(map8, reference_stack()["truth"]).thresholds == SWEEP[:-1]


def test_ties_are_foreground_as_in_the_challenge_program():
    # 51, 102, 153, 204, 255 of 255 hit thresholds exactly; a float32 comparison would drop them.
    map8 = reference_stack()["map8"]
    flipped = [int((map8 == value).sum()) for value in (51, 102, 153, 204, 255)]
    assert flipped == [97, 140, 132, 393, 3432]
    white = np.full((1, 2, 2), 255, np.uint8)
    assert pixel_error(white, white).at(1.0) == 0.0
    for value, threshold in ((51, 0.2), (102, 0.4), (153, 0.6), (204, 0.8)):
        grey = np.full((1, 2, 2), value, np.uint8)
        assert wrong_pixels(grey, white).at(threshold) == 0.0


@pytest.mark.parametrize(("name", "best"), [("white", 0.0), ("black", 0.0)])
def test_constant_maps_carry_no_information(name, best):
    stack = reference_stack()
    assert v_info(stack[name], stack["truth"]).best == pytest.approx(best, abs=1e-12)
