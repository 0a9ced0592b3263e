"""Annotations become instances, and touching instances are separated, by stated rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.invariants import invariant
from tests.label_maps import label_maps, some
from weightmaps import instances_from_mask, merge_instance_masks, separate_touching
from weightmaps.carving import separate_touching_volume
from weightmaps.labels import as_labels

METHODS = ["authors", "watershed"]


def authors_rule(labels):
    """The rule of Falk et al. 2019 as a loop: W, NW, N, NE, compared before any carving."""
    carved = labels.copy()
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, -1), (-1, -1), (-1, 0), (-1, 1)):
                if y + dy >= 0 and 0 <= x + dx < width and labels[y, x] != 0:
                    other = labels[y + dy, x + dx]
                    if other not in (0, labels[y, x]):
                        carved[y, x] = 0
    return carved


def touching_pairs(labels):
    """Number of 8-neighbour pairs of different cells."""
    count = 0
    padded = np.pad(labels, 1)
    inner = padded[1:-1, 1:-1]
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        count += np.count_nonzero((inner != 0) & (other != 0) & (inner != other))
    return count


def test_the_authors_rule_takes_the_later_side():
    labels = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3]])
    expected = [[1, 1, 0, 2], [1, 0, 0, 2], [0, 0, 0, 0]]  # (1, 1) has a 2 at north-east
    assert separate_touching(labels).tolist() == expected


def test_the_rule_looks_at_north_east():
    assert separate_touching([[0, 1], [2, 0]]).tolist() == [[0, 1], [0, 0]]


@invariant("labels", "the authors' carving equals its slow loop")
@given(label_maps)
def test_the_authors_rule_equals_its_loop(labels):
    np.testing.assert_array_equal(separate_touching(labels), authors_rule(labels))


@invariant("labels", "after carving no two neighbours differ")
@pytest.mark.parametrize("method", METHODS)
@given(labels=label_maps)
def test_afterwards_no_two_neighbours_differ(method, labels):
    carved = separate_touching(labels, method=method)
    assert touching_pairs(carved) == 0
    changed = carved != labels
    assert not carved[changed].any()
    np.testing.assert_array_equal(separate_touching(carved, method=method), carved)


@some(30)
@given(label_maps)
def test_no_pixel_of_the_watershed_line_could_be_given_back(labels):
    carved = separate_touching(labels, method="watershed")
    for y, x in np.argwhere(carved != labels):
        again = carved.copy()
        again[y, x] = labels[y, x]
        assert touching_pairs(again) > 0


@given(st.integers(0, 2**32 - 1))
@some(20)
def test_watershed_line_of_a_volume_is_minimal_and_keeps_cells_apart(seed):
    small = np.random.default_rng(seed).integers(0, 4, (3, 3, 3), dtype=np.uint8)
    labels = np.kron(small, np.ones((2, 3, 2), np.uint8))
    carved = separate_touching_volume(labels, method="watershed")
    line = (carved == 0) & (labels != 0)
    for method in ("watershed", "authors"):
        assert (separate_touching_volume(carved, method=method) == carved).all()
    padded = np.pad(carved, 1)
    for z, y, x in np.argwhere(line):
        around = padded[z : z + 3, y : y + 3, x : x + 3]
        assert ((around != 0) & (around != labels[z, y, x])).any()


def test_watershed_line_of_two_straight_cells_is_one_pixel_wide():
    labels = np.repeat([[1] * 5 + [2] * 5], 6, axis=0)
    carved = separate_touching(labels, method="watershed")
    assert (np.count_nonzero(carved == 0, axis=1) == 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_stacks_are_carved_slice_by_slice_and_ignored_pixels_stay(method):
    labels = np.array([[[1, 2, 255]], [[3, 3, 255]]], np.uint8)
    carved = separate_touching(labels, method=method, ignore_label=255)
    assert carved.dtype == np.uint8
    assert carved[1].tolist() == [[3, 3, 255]]
    assert carved[0, 0, 2] == 255
    assert sorted(carved[0, 0, :2].tolist())[0] == 0


def test_a_volume_is_carved_across_slices():
    labels = np.array([[[1, 0]], [[0, 2]], [[2, 2]]])
    assert separate_touching_volume(labels).tolist() == [[[1, 0]], [[0, 0]], [[2, 2]]]


def test_the_caller_array_is_untouched_and_any_layout_will_do():
    base = np.arange(60).reshape(6, 10) % 3
    expected = separate_touching(base)
    variants = [
        np.asfortranarray(base),
        np.repeat(base, 2, axis=1)[:, ::2],
        base[::-1, ::-1].copy()[::-1, ::-1],
        base.astype(">i4"),
        base.astype(float),
        base.astype(np.float16),
        base.tolist(),
    ]
    for labels in variants:
        np.testing.assert_array_equal(separate_touching(labels), expected)
    base.setflags(write=False)
    np.testing.assert_array_equal(separate_touching(base), expected)


def test_masks_become_components_of_either_connectivity():
    mask = np.array([[1, 0, 1], [0, 1, 0]], bool)
    assert instances_from_mask(mask).max() == 3
    assert instances_from_mask(mask, connectivity=8).max() == 1
    np.testing.assert_array_equal(
        instances_from_mask(mask), instances_from_mask(mask.astype(np.uint8) * 255)
    )
    stack = instances_from_mask(np.stack([mask, mask]))
    np.testing.assert_array_equal(stack[0], stack[1])


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [("first", [1, 1, 2]), ("last", [1, 2, 2]), ("background", [1, 0, 2])],
)
def test_who_wins_an_overlap_is_stated(overlap, expected):
    masks = np.array([[[1, 1, 0]], [[0, 1, 1]]])
    assert merge_instance_masks(masks, overlap=overlap).tolist() == [expected]


def test_three_masks_on_one_pixel_leave_it_to_the_background():
    assert merge_instance_masks([[[1]], [[1]], [[1]]], overlap="background").tolist() == [[0]]


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda: as_labels([[0.5]]), ValueError, "0.5 at"),
        (lambda: as_labels([[np.nan]]), ValueError, "nan at"),
        (lambda: as_labels([[2.0**60]]), ValueError, "below"),
        (lambda: as_labels([[0, -3]]), ValueError, "-3 at"),
        (lambda: as_labels([[0, -3]], ignore_label=-1), ValueError, "-3 at"),
        (lambda: as_labels([[True]]), TypeError, "instances_from_mask"),
        (lambda: as_labels([["a"]]), TypeError, "not integers"),
        (lambda: as_labels([1, 2]), ValueError, "1 axes"),
        (lambda: as_labels(np.zeros((0, 4), int)), ValueError, "empty"),
        (lambda: instances_from_mask([[1]], connectivity=6), ValueError, "4 or 8"),
        (lambda: instances_from_mask([1]), ValueError, "axes"),
        (lambda: instances_from_mask([[np.nan]]), ValueError, "NaN"),
        (lambda: merge_instance_masks([]), ValueError, "no masks"),
        (lambda: merge_instance_masks([1]), ValueError, "axes"),
        (lambda: merge_instance_masks([[[1]], [[1, 0]]]), ValueError, "mask 2"),
        (lambda: merge_instance_masks([[[1]]], overlap="both"), ValueError, "both"),
        (lambda: separate_touching([[1]], method="magic"), ValueError, "magic"),
        (lambda: separate_touching_volume([[1]]), ValueError, "axes"),
    ],
)
def test_bad_input_is_refused_with_its_value(call, error, word):
    with pytest.raises(error, match=word):
        call()


def test_a_negative_ignore_label_is_allowed():
    assert as_labels([[-1, 2]], ignore_label=-1).tolist() == [[-1, 2]]


@given(st.integers(2**53, 2**63))
@some(10)
def test_d4_huge_ids_never_pass_through_floats(label):
    labels = np.array([[label, 0, label + 1]], np.uint64)
    assert separate_touching(labels).tolist() == [[label, 0, label + 1]]
