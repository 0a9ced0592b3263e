"""The figures a segmentation must beat are the known ones, and are tuned on other slices."""

from __future__ import annotations

import numpy as np
import pytest

from unet2015.baselines import baselines
from unet2015.score import isbi_scores, v_info, wrong_pixels


@pytest.mark.data
def test_constant_and_blur_on_isbi_are_the_known_figures(real_data):
    from tiling.images import read_image

    images = read_image(real_data / "isbi2012" / "train-volume.tif")[25:30]
    truth = read_image(real_data / "isbi2012" / "train-labels.tif")[25:30]
    white = isbi_scores(np.full(truth.shape, 255, np.uint8), truth)
    assert white["wrong_pixels"].best == pytest.approx(0.199, abs=5e-4)
    assert white["pixel_error"].best == pytest.approx(0.1105, abs=5e-5)
    assert white["v_info"].best == pytest.approx(0.0, abs=1e-12)
    from scipy.ndimage import gaussian_filter

    levels = tuple(level / 255 for level in range(80, 132, 3))
    for sigma, wrong, information in ((1, 0.162, 0.894), (2, 0.170, 0.930)):
        blur = np.array([gaussian_filter(s / 255, sigma) for s in images])
        found = wrong_pixels(blur, truth, thresholds=levels).best
        assert found == pytest.approx(wrong, abs=1.5e-3)
        assert v_info(blur, truth, thresholds=levels).best == pytest.approx(information, abs=3e-3)


def stripes(rng, slices):
    truth = np.ones((slices, 48, 48), np.uint8)
    truth[:, ::12] = truth[:, :, ::16] = 0
    noise = rng.normal(0, 0.15, truth.shape)
    return np.clip(0.3 + 0.4 * truth + noise, 0, 1).astype(np.float32), truth


def test_blur_is_tuned_on_the_training_slices_only():
    images, truth = stripes(np.random.default_rng(3), 3)
    found = baselines(
        images, truth, train=[0, 1], held_out=[2], measures=["wrong_pixels", "v_info"]
    )
    images[2] = 1.0
    truth[2] = 1
    other = baselines(
        images, truth, train=[0, 1], held_out=[2], measures=["wrong_pixels", "v_info"]
    )
    for name in found["blur"]:
        assert found["blur"][name][1:] == other["blur"][name][1:]
    assert other["white"]["wrong_pixels"].value == 0.0
    assert found["white"]["wrong_pixels"].value == pytest.approx((truth[0] == 0).mean())
    assert found["blur"]["wrong_pixels"].value < found["white"]["wrong_pixels"].value


def test_overlapping_sets_are_refused():
    images, truth = stripes(np.random.default_rng(3), 2)
    with pytest.raises(ValueError, match="must be two sets"):
        baselines(images, truth, train=[0, 1], held_out=[1])
    with pytest.raises(ValueError, match="must be two sets"):
        baselines(images, truth, train=[], held_out=[1])
