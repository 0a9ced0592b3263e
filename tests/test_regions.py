"""A region is the crop of the whole image's result, whatever its place and size and the step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiling import Geometry, SeamRule, stitch

IMAGE = np.random.default_rng(7).integers(1, 1 << 15, (150, 150)).astype(np.float32)


def cut(margin):
    """The middle of a tile: a function whose result cannot depend on how tiles lie."""
    return lambda x: x[..., margin:-margin, margin:-margin]


def tile_dependent(margin):
    """As cheap, but a pixel's value depends on its place in the tile, as out of phase."""

    def function(x):
        rows = np.arange(x.shape[-2] - 2 * margin)[:, None] % 4
        return cut(margin)(x) + rows * x[..., margin:-margin, 2 * margin :]

    return function


class Kept(np.ndarray):
    """A sink that holds its first rows already."""

    rows_done = 0


@pytest.mark.parametrize("step", ["exact", "paper"])
def test_the_probe_may_begin_left_of_the_only_column_of_tiles(step):
    """Columns 388:500 of 2000 begin at no multiple of 16: the probe is floored to 384."""
    image = np.random.default_rng(0).integers(0, 255, (900, 2000)).astype(np.uint8)
    result = np.zeros((1, 800, 112), np.uint8)
    summary = stitch(
        image, cut(92), result, Geometry.for_unet(output=388), step=step, region=(0, 800, 388, 500)
    )
    np.testing.assert_array_equal(result[0], image[0:800, 388:500])
    assert summary.probe_difference == 0.0


def test_a_resumed_run_compares_the_probe_with_its_own_bands_alone():
    """At the paper's step the probe may begin above the first band that runs again."""
    image = IMAGE[:100, :60]
    for kept in range(0, 100, 9):
        sink = np.full((1, 100, 60), -1.0, np.float32).view(Kept)
        sink.rows_done = kept
        summary = stitch(image, cut(3), sink, Geometry(3, 8, 13), step="paper")
        assert summary.probe_difference == 0.0, kept


def drawn_range(data, length, name):
    """Half open, within `length`; short ones, of a single tile, as often as any other."""
    low = data.draw(st.integers(0, length - 1), label=f"{name} from")
    size = st.integers(1, min(12, length - low)) | st.integers(1, length - low)
    return low, low + data.draw(size, label=f"{name} size")


@settings(max_examples=150)
@given(st.data())
def test_a_region_is_the_crop_of_the_whole_at_either_step(data):
    height, width = (data.draw(st.integers(1, 150), label=name) for name in ("height", "width"))
    (y0, y1), (x0, x1) = drawn_range(data, height, "rows"), drawn_range(data, width, "columns")
    step = data.draw(st.sampled_from(["exact", "paper"]), label="step")
    margin, period = data.draw(st.sampled_from([(10, 4), (3, 8), (1, 16)]), label="kind")
    smallest = period + -margin % period
    output = smallest + period * data.draw(st.integers(0, 4), label="periods")
    probe = data.draw(st.sampled_from([None, smallest]), label="probe")
    make = data.draw(st.sampled_from([cut, tile_dependent]))
    image = IMAGE[:height, :width]

    def run(region, kept=0):
        shape = (1, region[1] - region[0], region[3] - region[2])
        sink = np.full(shape, -1.0, np.float32).view(Kept)
        sink.rows_done = kept
        summary = stitch(
            image, make(margin), sink, Geometry(margin, period, output), step=step, region=region,
            batch=data.draw(st.integers(1, 5)), seams=SeamRule(probe_output=probe),
        )  # fmt: skip
        return np.asarray(sink), summary

    whole, _ = run((0, height, 0, width))
    kept = data.draw(st.integers(0, y1 - y0), label="rows kept")
    part, summary = run((y0, y1, x0, x1), kept)
    np.testing.assert_array_equal(part[:, kept:], whole[:, y0 + kept : y1, x0:x1])
    assert (part[:, :kept] == -1).all()
    if make is cut:  # whatever is compared, it is what tiles have written
        assert summary.probe_difference in (None, 0.0)
        assert summary.seam_max_difference in (None, 0.0)
