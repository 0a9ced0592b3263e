"""Validation: whole slices through the overlap-tile path, and measures that can be left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny_run import TINY, tiny_stack, tiny_training
from unet2015.data import Stack
from unet2015.predict import predict_array
from unet2015.score import v_info, v_rand, wrong_pixels
from unet2015.train import network_of, train
from unet2015.validate import is_constant, measured, probabilities_of, validate


def test_measures_are_those_of_the_score_module():
    _, held_out = tiny_training()
    net = network_of(TINY).train()
    found = validate(net, held_out, TINY)
    assert net.training
    (image,), (truth,) = held_out.images, held_out.labels
    inside = predict_array(net, image)[1]
    assert found["wrong_pixels"] == pytest.approx(wrong_pixels(inside, truth).at(0.5), abs=1e-9)
    assert found["v_info"] == v_info(inside, truth, thresholds=[0.5]).best
    assert found["v_rand"] == v_rand(inside, truth, thresholds=[0.5]).best


def test_averaged_weights_are_measured_on_a_copy():
    _, held_out = tiny_training()
    net, other = network_of(TINY), network_of(replace(TINY, seed=5))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert validate(net, held_out, TINY, other.state_dict()) == validate(other, held_out, TINY)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_slices_of_several_sizes_and_classes():
    random = np.random.default_rng(1)
    recipe = replace(TINY, classes=3)
    sizes = ((30, 41), (20, 20))
    stack = Stack(
        [random.integers(0, 255, (1, *size)).astype(np.uint8) for size in sizes],
        [random.integers(0, 3, size) for size in sizes],
    )
    found = validate(network_of(recipe), stack, recipe)
    assert set(found) == {
        "wrong_pixels", "mean_iou", "spread", "classes_predicted", "classes_true"
    }  # fmt: skip
    assert found["classes_true"] == 3


def test_h5_slices_without_foreground_are_left_out_and_named():
    stack = tiny_stack(3)
    labels = [stack.labels[0], np.zeros_like(stack.labels[1]), stack.labels[2]]
    stack = Stack(stack.images, labels)
    maps = probabilities_of(network_of(TINY), stack, TINY)
    found, notes = measured(maps, stack, TINY)
    alone = [v_info(maps[k][1], labels[k], thresholds=[0.5]).best for k in (0, 2)]
    assert found["v_info"] == np.mean(alone)
    assert notes == ["held-out slice(s) 1 have no foreground: V_info and V_rand leave them out"]
    nothing = stack.take([1])
    found, notes = measured(maps[1:2], nothing, TINY)
    assert "v_info" not in found
    assert "v_rand" not in found
    assert len(notes) == 1


def test_h5_a_run_with_a_split_without_foreground_goes_on_and_says_so(tmp_path):
    training, held_out = tiny_training()
    empty = Stack(held_out.images, [np.zeros_like(held_out.labels[0])])
    run = train(replace(TINY, steps=20), training, tmp_path, validation=empty)
    assert "V_info and V_rand leave them out" in run.warnings[0]
    assert "v_info" not in run.measures
    assert (tmp_path / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("spread", "predicted", "true", "constant"),
    [(1e-5, 2, 2, True), (0.2, 1, 2, True), (0.2, 1, 1, False), (0.2, 2, 2, False)],
)
def test_what_counts_as_constant(spread, predicted, true, constant):
    measures = {"spread": spread, "classes_predicted": predicted, "classes_true": true}
    assert is_constant(measures) is constant
