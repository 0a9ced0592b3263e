"""Tiles cover each pixel once, on the grid of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.invariants import invariant
from tiling import Geometry, plan

SIDES = st.integers(1, 1500)


@st.composite
def cases(draw):
    height, width = draw(SIDES), draw(SIDES)
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    region = (y0, draw(st.integers(y0 + 1, height)), x0, draw(st.integers(x0 + 1, width)))
    geometry = Geometry.for_unet(output=draw(st.sampled_from([68, 196, 388, 772])))
    return (height, width), geometry, draw(st.none() | st.just(region))


@invariant("tiling", "a plan covers each pixel exactly once")
@given(cases(), st.sampled_from(["exact", "paper"]))
def test_each_pixel_is_written_exactly_once(case, step):
    shape, geometry, region = case
    y0, y1, x0, x1 = region or (0, shape[0], 0, shape[1])
    count = np.zeros(shape, np.uint8)
    tiles = plan(shape, geometry, step=step, region=region)
    for tile in tiles:
        a, b, c, d = tile.write
        assert 0 <= a < b <= shape[0]
        assert 0 <= c < d <= shape[1]
        count[a:b, c:d] += 1
    assert (count[y0:y1, x0:x1] == 1).all()
    assert count.sum() == (y1 - y0) * (x1 - x0)


@invariant("tiling", "offsets of exact tiles are multiples of the period")
@given(cases())
def test_exact_tiles_begin_at_multiples_of_the_period(case):
    shape, geometry, region = case
    for tile in plan(shape, geometry, region=region):
        for low, high, first in ((*tile.read[:2], tile.write[0]), (*tile.read[2:], tile.write[2])):
            assert (low + geometry.margin) % 16 == 0
            assert high - low == geometry.input
            assert low + geometry.margin <= first < high - geometry.margin


@invariant("tiling", "a plan is a sequence of full-width bands")
@given(cases())
def test_a_plan_is_a_sequence_of_bands(case):
    shape, geometry, region = case
    tiles = plan(shape, geometry, region=region)
    assert len(tiles) == tiles.rows * tiles.columns == len(list(tiles)) == len(tiles[:])
    assert tiles[-1] == tiles[len(tiles) - 1] == tiles.tile(tiles.rows - 1, tiles.columns - 1)
    with pytest.raises(IndexError):
        tiles[len(tiles)]
    ends = [tiles.band(row) for row in range(tiles.rows)]
    assert [a for a, _ in ends[1:]] == [b for _, b in ends[:-1]]
    for row, (a, b) in enumerate(ends):
        assert tiles.band_of(a) == tiles.band_of(b - 1) == row


def test_the_last_tile_keeps_its_whole_output():
    unet = Geometry.for_unet(output=388)
    assert len(plan((388, 388), unet)) == 1
    assert len(plan((389, 388), unet)) == 2
    assert [t.write[2:] for t in plan((1, 1156), unet)] == [(0, 384), (384, 768), (768, 1156)]
    assert [t.write[2:] for t in plan((1, 1164), unet, step="paper")] == [
        (0, 388), (388, 776), (776, 1164),
    ]  # fmt: skip


def test_a_region_begins_at_the_grid_at_or_before_its_corner():
    unet, region = Geometry.for_unet(), (95, 1000, 388, 900)
    assert plan((2000, 2000), unet, region=region).origin == (80, 384)  # multiples of 16
    assert plan((2000, 2000), unet, region=region, step="paper").origin == (0, 388)


def test_plans_of_huge_images_cost_nothing():
    tiles = plan((10**9, 10**9), Geometry.for_unet())
    assert len(tiles) == 2604167**2
    assert tiles[-1].write[1::2] == (10**9, 10**9)


@pytest.mark.parametrize("region", [(0, 0, 0, 5), (0, 11, 0, 5), (-1, 5, 0, 5), (3, 2, 0, 5)])
def test_regions_outside_are_refused(region):
    with pytest.raises(ValueError, match="region rows"):
        plan((10, 10), Geometry.for_unet(), region=region)


def test_empty_images_and_unknown_steps_are_refused():
    with pytest.raises(ValueError, match="0 x 10"):
        plan((0, 10), Geometry.for_unet())
    with pytest.raises(ValueError, match="'exact' or 'paper'"):
        plan((10, 10), Geometry.for_unet(), step="half")  # type: ignore[arg-type]
