"""w_c balances the classes over the whole data set, with mean exactly 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.invariants import invariant
from tests.label_maps import label_maps, some
from weightmaps import class_counts, class_map, class_weights, separate_touching, weight_map


def test_by_hand():
    assert class_weights([[0, 0, 0, 5]]).tolist() == [4 / 6, 2.0]
    assert class_weights([50, 30, 20]).tolist() == [100 / 150, 100 / 90, 100 / 60]


@invariant("weight map", "class weights have mean one and are finite")
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=8))
def test_the_mean_is_one_and_every_weight_finite(counts):
    weights = class_weights(counts)
    assert np.isfinite(weights).all()
    total = sum(counts)
    if total:
        mean = sum(w * n for w, n in zip(weights, counts, strict=True)) / total
        assert math.isclose(mean, 1.0, rel_tol=1e-12)


def test_an_absent_class_weighs_one():
    assert class_weights([7, 0]).tolist() == [1.0, 1.0]
    assert class_weights([10, 0, 30]).tolist() == [2.0, 1.0, 40 / 60]
    assert class_weights({0: 10, 2: 30}).tolist() == [2.0, 1.0, 40 / 60]


@some(30)
@given(label_maps)
def test_counts_of_parts_add_up(labels):
    whole = class_counts(labels)
    half = labels.shape[0] // 2
    if half:
        np.testing.assert_array_equal(
            class_counts(labels[:half]) + class_counts(labels[half:]), whole
        )
    assert class_counts(labels, separate="after")[1] == np.count_nonzero(separate_touching(labels))


@some(20)
@given(label_maps)
def test_the_map_uses_the_weights_of_its_carved_labels(labels):
    weights = class_weights(class_counts(labels, separate="after"))
    np.testing.assert_array_equal(
        weight_map(labels), weight_map(labels, class_weights=weights.tolist())
    )
    flat = weight_map(labels, w0=0, dtype=float)
    assert math.isclose(flat.mean(), 1.0, rel_tol=1e-12)


def test_ignored_pixels_are_not_counted():
    labels = np.array([[0, 0, 9, 255, 255]])
    assert class_counts(labels, ignore_label=255).tolist() == [2, 1]
    assert class_weights(labels, ignore_label=255).tolist() == [0.75, 1.5]


def test_the_background_is_no_ignore_label():
    for count in (class_counts, class_weights):
        with pytest.raises(ValueError, match="ignore_label 0 is the background"):
            count([[0, 0, 1]], ignore_label=0)


def test_several_classes():
    classes = np.array([[0, 1], [2, 255]])
    found = class_map(classes, [1, 2, 3], ignore_label=255)
    assert found.tolist() == [[1, 2], [3, 0]]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: class_weights([]), "one number"),
        (lambda: class_weights({}), "one number"),
        (lambda: class_weights([3, -1]), "-1"),
        (lambda: class_map([[3]], [1, 2]), "class 3"),
        (lambda: class_map([[1, 2]], [1, 2]), "class 2 .*classes 0 to 1"),
        (lambda: class_map([[-1]], [1, 2]), "class -1"),
    ],
)
def test_bad_counts_are_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()
