"""Missing context is mirrored; the edge pixel is not repeated; nothing is padded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.counting_source import Counting
from tests.faults.invariants import invariant
from tiling import read_mirrored
from tiling.band import RowBand
from tiling.mirror import reflected


def test_edge_pixel_is_not_repeated():
    row = np.array([[10, 20, 30, 40]])
    np.testing.assert_array_equal(
        read_mirrored(row, 0, 1, -3, 7)[0, 0], [40, 30, 20, 10, 20, 30, 40, 30, 20, 10]
    )


@invariant("tiling", "mirroring equals numpy's reflection, also of images smaller than the margin")
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 40), st.integers(0, 40))
def test_equals_numpy_reflect_padding(height, width, before, after):
    image = np.arange(2 * height * width).reshape(2, height, width)
    padded = np.pad(image, [(0, 0), (before, after), (after, before)], mode="reflect")
    read = read_mirrored(image, -before, height + after, -after, width + before)
    np.testing.assert_array_equal(read, padded)


@example(height=5, width=6, y0=-1, x0=0, rows=3, columns=2)
@example(height=5, width=6, y0=0, x0=-1, rows=3, columns=2)
@example(height=5, width=6, y0=3, x0=0, rows=3, columns=2)
@example(height=5, width=6, y0=0, x0=5, rows=3, columns=2)
@given(*[st.integers(1, 9)] * 2, *[st.integers(-30, 30)] * 2, *[st.integers(0, 20)] * 2)
def test_any_window_is_one_of_the_padded_image(height, width, y0, x0, rows, columns):
    image = np.arange(height * width).reshape(height, width)
    padded = np.pad(image, 60, mode="reflect")
    read = read_mirrored(image, y0, y0 + rows, x0, x0 + columns)
    y, x = y0 + 60, x0 + 60
    np.testing.assert_array_equal(read, padded[None, y : y + rows, x : x + columns])


def test_one_pixel_and_one_row():
    assert (read_mirrored(np.full((1, 1), 7), -200, 300, -5, 5) == 7).all()
    block = read_mirrored(np.array([[1, 2]]), -1, 2, 0, 2)
    np.testing.assert_array_equal(block, [[[1, 2], [1, 2], [1, 2]]])


@invariant("tiling", "mirroring reads no more than the window")
@given(st.integers(-99, 99), st.integers(0, 50), st.integers(1, 30))
def test_reflection_reads_no_more_than_the_window(start, extent, length):
    found = reflected(start, start + extent, length)
    assert found.size == extent
    if extent:
        assert found.min() >= 0
        assert found.max() < length
        assert found.max() - found.min() < extent


def test_only_the_window_is_read():
    source = Counting(np.zeros((1000, 1000), np.uint8))
    read_mirrored(source, -92, 480, -92, 480)
    assert source.largest == 480 * 480
    assert source.reads[:480].max() == 1
    assert source.reads[480:].max() == 0


@invariant("tiling", "a band of kept rows gives what the source gives")
@given(
    st.integers(1, 60), st.integers(1, 9), st.integers(1, 20), st.lists(st.integers(0, 60)),
    st.integers(0, 20),
)  # fmt: skip
def test_a_row_band_gives_what_the_source_gives(height, width, rows, starts, spare):
    array = np.random.default_rng(0).integers(0, 255, (height, width))
    band = RowBand(array, rows + spare)
    for start in starts:
        top = min(start, height - 1)
        bottom = min(top + rows, height)
        np.testing.assert_array_equal(band[..., top:bottom, 0:width][0], array[top:bottom])


def test_a_row_band_refuses_too_tall_windows_and_survives_a_failed_read():
    class Failing(Counting):
        fail = False

        def __getitem__(self, key):
            if self.fail:
                raise OSError("gone")
            return super().__getitem__(key)

    source = Failing(np.arange(20).reshape(10, 2))
    band = RowBand(source, 4)
    with pytest.raises(ValueError, match="5 rows do not fit"):
        band[..., 0:5, 0:2]
    np.testing.assert_array_equal(band[..., 1:5, 0:2][0], source.array[1:5])
    source.fail = True
    with pytest.raises(OSError, match="gone"):
        band[..., 3:7, 0:2]
    source.fail = False
    np.testing.assert_array_equal(band[..., 3:7, 0:2][0], source.array[3:7])


@invariant("tiling", "rows read ahead in any steps are each read once, and no window changes")
@given(
    st.integers(20, 60), st.integers(4, 9), st.integers(1, 9),
    st.lists(st.lists(st.integers(0, 70), max_size=4), max_size=9),
)  # fmt: skip
def test_rows_read_ahead_are_read_once_and_change_no_window(height, rows, step, ahead):
    source = Counting(np.random.default_rng(0).integers(0, 255, (height, 3)))
    band = RowBand(source, rows + step)
    tops = range(0, max(1, height - rows), step)
    for top, stops in zip(tops, [*ahead, *[[]] * len(tops)], strict=False):
        window = slice(top, min(top + rows, height))
        np.testing.assert_array_equal(band[..., window, 0:3][0], source.array[window])
        for stop in stops:
            band.read_on(stop, top + rows + step)
            np.testing.assert_array_equal(band[..., window, 0:3][0], source.array[window])
            assert band.bottom >= min(stop, top + rows + step, height)
    assert source.reads.max() == 1


def test_a_row_band_of_a_big_endian_source_is_native():
    band = RowBand(np.arange(4, dtype=">u2").reshape(2, 2), 2)
    assert band[..., 0:2, 0:2].dtype == np.dtype("=u2")
    np.testing.assert_array_equal(band[..., 0:2, 0:2][0], [[0, 1], [2, 3]])
