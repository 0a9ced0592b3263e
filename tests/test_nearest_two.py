"""d1 and d2 are exact Euclidean distances to the two nearest different instances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.invariants import invariant
from tests.label_maps import label_maps, random_labels, some, voronoi_cells
from weightmaps import nearest_two as module
from weightmaps import (
    threads,
    two_nearest_distances,
    two_nearest_distances_reference,
    volume_two_nearest_distances,
)
from weightmaps.reference import per_instance, transform, two_nearest_by_bits


def test_two_cells_on_a_line_by_hand():
    d1, d2 = two_nearest_distances([[0, 3, 0, 0, 0, 8, 0]])
    assert d1.tolist() == [[1, 0, 1, 2, 1, 0, 1]]
    assert d2.tolist() == [[5, 4, 3, 2, 3, 4, 5]]


def test_two_pieces_of_one_cell_are_one_cell():
    d1, d2 = two_nearest_distances([[5, 0, 5, 0, 0, 0, 9]])
    assert d1.tolist() == [[0, 1, 0, 1, 2, 1, 0]]
    assert d2.tolist() == [[6, 5, 4, 3, 2, 3, 4]]


def test_diagonal_distances_are_euclidean_not_chamfer():
    labels = np.zeros((4, 8), int)
    labels[0, 0], labels[3, 7] = 1, 2
    d1, d2 = two_nearest_distances(labels)
    assert d1[3, 4] == 3.0
    assert d2[3, 4] == 5.0
    assert d1[1, 1] == np.sqrt(2)
    assert d2[1, 1] == np.sqrt(40)


@invariant("weight map", "nearest two distances equal one transform per cell")
@given(label_maps)
def test_equals_one_transform_per_instance(labels):
    expected = two_nearest_distances_reference(labels)
    np.testing.assert_array_equal(two_nearest_distances(labels), expected)
    np.testing.assert_array_equal(two_nearest_by_bits(labels), expected)


@some(50)
@given(label_maps, st.floats(0.5, 12))
def test_a_limit_only_hides_what_is_farther(labels, limit):
    expected = np.array(two_nearest_distances_reference(labels))
    expected[expected > limit] = np.inf
    np.testing.assert_array_equal(two_nearest_distances(labels, max_distance=limit), expected)


@some(40)
@given(label_maps, st.floats(0.2, 5), st.floats(0.2, 5))
def test_pixel_size_is_respected(labels, sy, sx):
    found = two_nearest_distances(labels, spacing=(sy, sx))
    expected = two_nearest_distances_reference(labels, spacing=(sy, sx))
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@some(40)
@given(label_maps)
def test_the_named_instances_have_the_distances(labels):
    d1, d2, l1, l2 = two_nearest_distances(labels, return_labels=True)
    assert l1.dtype == labels.dtype
    assert not (l1[l1 != 0] == l2[l1 != 0]).any()
    for d, cells in ((d1, l1), (d2, l2)):
        np.testing.assert_array_equal(cells == 0, np.isinf(d))
        for label in np.unique(cells[cells != 0]):
            here = cells == label
            np.testing.assert_array_equal(d[here], transform(labels == label, None)[here])


@pytest.mark.parametrize("between", [0, 3])
def test_ids_beyond_32_bits_come_back_as_they_are(between):
    labels = np.array([[2**31 - 5, between, 2**31]])  # the last is the first of 32 bits
    d1, d2, l1, l2 = two_nearest_distances(labels, return_labels=True)
    assert d2[0, 0] == (1 if between else 2)
    np.testing.assert_array_equal(l1[0, ::2], labels[0, ::2])
    assert l2[0].tolist()[::2] == ([3, 3] if between else [2**31, 2**31 - 5])
    assert d1[0].tolist() == [0, 0 if between else 1, 0]


@some(25)
@given(st.integers(0, 2**31), st.tuples(*[st.integers(1, 12)] * 3), st.booleans())
def test_volumes_equal_one_transform_per_instance(seed, shape, cubic):
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 6, shape) * (rng.random(shape) < rng.choice([0.02, 0.2]))
    spacing = None if cubic else tuple(rng.uniform(0.3, 3, 3))
    found = volume_two_nearest_distances(labels, spacing=spacing)
    np.testing.assert_allclose(found, per_instance(labels, spacing)[:2], rtol=1e-13)


def test_a_stack_is_independent_slices():
    labels = np.stack([random_labels(s, 20, 24, "cells") for s in range(3)])
    d1, d2 = two_nearest_distances(labels)
    for k in range(3):
        np.testing.assert_array_equal((d1[k], d2[k]), two_nearest_distances(labels[k]))


@pytest.mark.parametrize("cells", [0, 1])
def test_without_a_second_cell_the_distance_is_infinite(cells):
    labels = np.zeros((5, 6), np.uint8)
    labels[2, 3] = cells
    d1, d2 = two_nearest_distances(labels)
    assert np.isinf(d2).all()
    assert np.isinf(d1).all() == (cells == 0)


@pytest.mark.parametrize("shape", [(1, 50_000), (50_000, 1)])
def test_c21_squared_distances_beyond_32_bits(shape):
    labels = np.zeros(shape, np.uint16)
    labels.flat[0], labels.flat[-1] = 1, 2
    d1, d2 = two_nearest_distances(labels)
    near = np.minimum(np.arange(50_000), np.arange(49_999, -1, -1)).reshape(shape)
    np.testing.assert_array_equal(d1, near)
    np.testing.assert_array_equal(d2, 49_999 - near)
    labels.flat[1::5000] = 3  # four and more cells, the other route
    labels.flat[7::9000] = np.arange(4, 10)
    labels.flat[20_000] = 10
    labels.flat[30_000] = 11
    labels.flat[0] = 1
    np.testing.assert_array_equal(
        two_nearest_distances(labels, max_distance=60_000.0)[1],
        two_nearest_distances_reference(labels)[1],
    )


def test_a_large_crowded_image_equals_the_bit_oracle():
    labels = voronoi_cells(300, 400, 2.0)
    np.testing.assert_array_equal(two_nearest_distances(labels), two_nearest_by_bits(labels))


def test_same_bits_for_any_thread_count(monkeypatch):
    labels = voronoi_cells(150, 60, 3.0)
    expected = two_nearest_distances(labels, return_labels=True)
    monkeypatch.setattr(threads, "THREAD_PIXELS", 500)
    monkeypatch.setattr(threads, "_threads", 3)
    found = two_nearest_distances(labels, return_labels=True)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_few_cells_far_apart_take_the_transforms():
    labels = np.zeros((3, 2000), np.int32)
    labels[1, 5], labels[2, 1990] = 4, 9
    np.testing.assert_array_equal(
        two_nearest_distances(labels), two_nearest_distances(labels, max_distance=1e9)
    )


@pytest.mark.parametrize("return_labels", [False, True])
def test_without_numba_the_result_is_the_same(monkeypatch, return_labels):
    labels = random_labels(5, 30, 33, "cells").astype(np.uint64) * np.uint64(2**60 // 7)
    options = {"max_distance": 6.0, "return_labels": return_labels}
    compiled = two_nearest_distances(labels, **options)
    monkeypatch.setattr(module, "available", lambda: False)
    plain = two_nearest_distances(labels, **options)
    for a, b in zip(compiled[:2], plain[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(compiled[2:], plain[2:], strict=True):
        assert a.dtype == b.dtype == np.uint64
        np.testing.assert_array_equal(a == 0, b == 0)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_distance": 0}, "max_distance 0"),
        ({"max_distance": float("nan")}, "max_distance nan"),
        ({"spacing": (1.0,)}, "spacing"),
        ({"spacing": (1.0, -2.0)}, "spacing"),
    ],
)
def test_bad_options_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        two_nearest_distances([[1, 0]], **options)
