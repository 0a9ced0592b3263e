"""The integers of the overlap-tile strategy (docs/fidelity.md, images and tiles)."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.invariants import invariant
from tiling import Geometry


def test_the_papers_tile():
    unet = Geometry.for_unet(depth=4, output=388)
    assert (unet.margin, unet.period, unet.input, unet.step, unet.overlap) == (92, 16, 572, 384, 4)


def test_legal_outputs_of_depth_4_are_4_mod_16():
    legal = []
    for output in range(-20, 500):
        try:
            legal.append(Geometry.for_unet(output=output).output)
        except ValueError:
            continue
    assert legal == list(range(20, 500, 16))  # inputs 204, 220, ..., 572, ...


@pytest.mark.parametrize("depth", range(6))
def test_legal_inputs_are_minus_4_mod_period(depth):
    """Walk the U level by level: every pooling must see an even side."""

    def output_of(side):
        for _ in range(depth):
            side -= 4
            if side % 2 or side <= 0:
                return None
            side //= 2
        side -= 4
        for _ in range(depth):
            side = side * 2 - 4
        return side if side > 0 else None

    for side in range(1, 900):
        output = output_of(side)
        shrink = 4 * (3 * 2**depth - 2)
        if output is None or output < 2**depth:
            if side > shrink:
                with pytest.raises(ValueError, match="nearest"):
                    Geometry.for_unet(depth, side - shrink)
            continue
        assert side % 2**depth == -4 % 2**depth
        assert Geometry.for_unet(depth, output).input == side


@pytest.mark.parametrize(
    ("output", "nearest"), [(390, "388 or 404"), (4, "nearest: 20"), (-1, "nearest: 20")]
)
def test_illegal_output_is_refused_naming_the_nearest(output, nearest):
    with pytest.raises(ValueError, match=f"output tile {output} .*16k \\+ 4.*{nearest}"):
        Geometry.for_unet(output=output)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="margin"):
        Geometry(-1, 16, 388)
    with pytest.raises(ValueError, match="period"):
        Geometry(0, 0, 388)
    with pytest.raises(ValueError, match="depth"):
        Geometry.for_unet(depth=-1)


def test_padded_network_and_other_remainders():
    padded = Geometry(margin=96, period=16, output=384)
    assert (padded.step, padded.overlap, padded.remainder) == (384, 0, 0)
    assert Geometry(92, 16, 390, remainder=6).step == 384
    assert Geometry(1, 1, 7).step == 7


@invariant("tiling", "tile sizes offered are legal, and the nearest ones")
@given(st.integers(0, 200), st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(1, 3000))
def test_nearest_legal_tiles(margin, period, wanted):
    smallest = Geometry(margin, period, period + -margin % period)
    below, above = smallest.nearest(wanted)
    assert below <= max(wanted, smallest.smallest) <= above < below + period + 1
    tile = smallest.resized(above)
    assert tile.nearest(above) == (above, above)
    assert tile.step % period == 0
    assert 0 < tile.step <= tile.output < tile.step + period


def test_shrink_to_the_image():
    big = Geometry.for_unet(output=1540)
    assert big.shrink_to((512, 512)).output == 516
    assert big.shrink_to((3, 1, 7)).output == 20
    assert big.shrink_to((40, 5000)) == big


def test_a_geometry_is_a_frozen_value():
    unet = Geometry.for_unet()
    assert unet == Geometry(92, 16, 388)
    assert hash(unet) == hash(Geometry(92, 16, 388))
    with pytest.raises(dataclasses.FrozenInstanceError):
        unet.output = 404  # type: ignore[misc]
