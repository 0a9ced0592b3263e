"""Components labelled band by band equal those of the whole image, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label

from tests.counting_source import Counting
from tests.faults.invariants import invariant
from tiling import open_sink, open_source
from tiling.instances import Components, label_bands


@invariant("tiling", "objects labelled band by band are those of the whole image")
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 45), st.booleans(),
    st.sampled_from([0.2, 0.5, 0.6, 0.95]), st.integers(1, 3), st.integers(0, 2**32),
)  # fmt: skip
def test_bands_equal_whole(height, width, rows, eight, density, classes, seed):
    random = np.random.default_rng(seed)
    image = random.integers(1, classes + 1, (height, width)) * (
        random.random((height, width)) < density
    )
    found = np.zeros(image.shape, np.uint32)
    count = label_bands(image, found, rows=rows, eight=eight)
    whole = label(image, connectivity=2 if eight else 1)
    np.testing.assert_array_equal(found, whole)
    assert count == whole.max()


def test_numbers_are_those_of_scipy():
    image = np.random.default_rng(2).random((200, 300)) < 0.55
    found = np.zeros(image.shape, np.uint32)
    assert label_bands(image, found, rows=37) == ndimage.label(image)[1]
    np.testing.assert_array_equal(found, ndimage.label(image)[0])


def test_a_spiral_through_every_band_is_one():
    image = np.zeros((41, 41), np.uint8)
    y = x = 0
    steps = [40, 40, 40]
    for side in range(38, 0, -2):
        steps += [side, side]
    for turns, length in enumerate(steps):
        dy, dx = [(0, 1), (1, 0), (0, -1), (-1, 0)][turns % 4]
        for _ in range(length):
            image[y, x] = 1
            y, x = y + dy, x + dx
    found = np.zeros(image.shape, np.uint32)
    assert label_bands(image, found, rows=1) == 1
    np.testing.assert_array_equal(found, image)


def test_nothing_and_everything():
    found = np.ones((3, 4), np.uint32)
    assert label_bands(np.zeros((3, 4), bool), found, rows=2) == 0
    assert not found.any()
    assert label_bands(np.full((3, 4), 7), found, rows=2) == 1
    assert label_bands(np.full((3, 4), 7), found, rows=2, background=7) == 0
    assert (
        label_bands(np.array([[7, 0, 7, 0], [0, 7, 7, 7], [7, 7, 7, 7]]), found, background=7) == 3
    )
    np.testing.assert_array_equal(found, [[0, 1, 0, 2], [3, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("shape", "rows", "words"),
    [((3, 4), 0, "rows 0"), ((3, 4), -2, "rows -2"), ((2, 3, 4), 5, r"\(2, 3, 4\).*one channel")],
)
def test_bad_requests_are_refused(shape, rows, words):
    with pytest.raises(ValueError, match=words):
        label_bands(np.zeros(shape, int), np.zeros((3, 4), np.uint32), rows=rows)


def test_rows_are_read_twice_and_never_more_than_a_band():
    source = Counting(np.eye(90, 60, dtype=np.uint8))
    label_bands(source, np.zeros((90, 60), np.uint32), rows=16)
    assert (source.reads == 2).all()
    assert source.largest == 16 * 60


def test_file_to_file(tmp_path):
    image = (np.random.default_rng(0).random((300, 200)) < 0.5).astype(np.uint8)
    with open_sink(tmp_path / "classes.tif", image.shape, "uint8") as sink:
        sink[..., 0:300, 0:200] = image
    with (
        open_source(tmp_path / "classes.tif") as source,
        open_sink(tmp_path / "objects.tif", image.shape, "uint32") as sink,
    ):
        label_bands(source, sink, rows=50)
    with open_source(tmp_path / "objects.tif") as source:
        np.testing.assert_array_equal(source[..., 0:300, 0:200], label(image, connectivity=1))


def test_more_components_than_fit_are_refused(monkeypatch):
    components = Components()
    components.grow(3)
    monkeypatch.setattr(np, "count_nonzero", lambda mask: 2**32)
    with pytest.raises(OverflowError, match="4294967295"):
        components.numbers()
