"""Tiled equals one-shot; the certificate sees what is wrong; memory and threads are bounded."""

from __future__ import annotations

import os
import signal
import threading
import time
import tracemalloc
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.counting_source import Counting
from tests.valid_network import MARGIN, PERIOD, geometry, network, one_shot
from tiling import Geometry, SeamError, SeamRule, plan, stitch
from tiling.certificate import SeamWatch
from tiling.difference import noted

RNG = np.random.default_rng(1)
SIZES = [
    (1, 1), (1, 97), (97, 1), (5, 3), (9, 9), (30, 30), (31, 37), (61, 53), (64, 2), (22, 100),
]  # fmt: skip


def image_of(*shape):
    return RNG.normal(size=shape)


def tiled(image, output=14, function=network, channels=2, **options):
    region = options.get("region")
    size = image.shape[-2:] if region is None else (region[1] - region[0], region[3] - region[2])
    result = np.full((channels, *size), np.nan)
    summary = stitch(image, function, result, geometry(output), **options)
    return result, summary


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("output", [6, 14, 46])
def test_tiles_equal_whole_bit_for_bit(size, output):
    image = image_of(*size)
    result, summary = tiled(image, output, batch=3)
    np.testing.assert_array_equal(result, one_shot(image))
    assert summary.pixels == image.size
    assert summary.seam_max_difference in (None, 0.0)
    assert summary.probe_difference == (None if summary.tiles == 1 else 0.0)


@settings(max_examples=40)
@given(st.data())
def test_result_depends_on_nothing_but_the_image(data):
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    region = (
        y0, data.draw(st.integers(y0 + 1, height)), x0, data.draw(st.integers(x0 + 1, width)),
    )  # fmt: skip
    channels = data.draw(st.sampled_from([1, 3]))
    image = np.random.default_rng(height * 71 + width).normal(size=(channels, height, width))
    result, _ = tiled(
        image,
        data.draw(st.sampled_from([6, 10, 18, 34, 74])),
        batch=data.draw(st.integers(1, 7)),
        region=region,
        seams=SeamRule(tolerance=0.0),
    )
    np.testing.assert_array_equal(result, one_shot(image)[:, y0 : region[1], x0 : region[3]])


def test_paper_step_differs_and_the_probe_sees_it():
    """Outputs are 2 mod 4 here as they are 4 mod 16 in the U-Net: stepping by them is off phase."""
    image = image_of(60, 60)
    result, summary = tiled(image, 18, step="paper")
    off = np.abs(result - one_shot(image))
    assert (off[:, :18, :18] == 0).all()
    assert off[:, :, 18:36].max() > 0.1
    assert (off[:, 36:54, 36:54] == 0).all()  # two steps of 18 are in phase again
    assert summary.seam_max_difference is None
    assert summary.probe_difference > 0.1
    with pytest.raises(SeamError, match="probe tile"):
        tiled(image, 18, step="paper", seams=SeamRule(tolerance=1e-3))


def test_a_paper_step_region_is_the_crop_of_the_whole():
    image = image_of(60, 60)
    whole, _ = tiled(image, 18, step="paper")
    part, _ = tiled(image, 18, step="paper", region=(20, 45, 7, 60))
    np.testing.assert_array_equal(part, whole[:, 20:45, 7:60])
    # A single column of tiles begins at 18; the probe, at a multiple of 4, reads further left.
    part, _ = tiled(image, 18, step="paper", region=(0, 60, 18, 30))
    np.testing.assert_array_equal(part, whole[:, :, 18:30])


def test_a_delta_lands_on_its_pixel():
    image = np.zeros((50, 41))
    image[23, 37] = 1.0

    def centre(x):
        return x[..., MARGIN:-MARGIN, MARGIN:-MARGIN]

    result, _ = tiled(image, function=centre, channels=1)
    assert np.argwhere(result[0]).tolist() == [[23, 37]]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", ">i4", "float32", "float64"])
def test_the_identity_returns_the_image_unchanged(dtype):
    image = RNG.integers(0, 2, (3, 45, 70)).astype(dtype)
    image.flags.writeable = False
    result = np.zeros(image.shape, image.dtype.newbyteorder("="))
    inputs = set()

    def centre(x):
        inputs.add((x.dtype.str, x.flags.c_contiguous))
        return x[..., MARGIN:-MARGIN, MARGIN:-MARGIN]

    stitch(image, centre, result, geometry(14), batch=2)
    np.testing.assert_array_equal(result, image)
    assert inputs == {(result.dtype.str, True)}


@pytest.mark.parametrize(
    "view", [np.asfortranarray, lambda a: a[:, ::-1][:, ::-1], lambda a: np.repeat(a, 2, 1)[:, ::2]]
)
def test_any_memory_layout_gives_the_same_result(view):
    image = image_of(40, 33)
    np.testing.assert_array_equal(tiled(view(image))[0], tiled(image)[0])


class WriteOnce:
    """A sink that refuses to be written twice, out of order, or in part of its width."""

    def __init__(self, *shape, fail_at=None):
        self.shape = shape
        self.rows = 0
        self.fail_at = fail_at

    def __setitem__(self, key, block):
        _, rows, columns = key
        assert (columns.start, columns.stop) == (0, self.shape[-1])
        assert rows.start == self.rows
        assert block.shape == (2, rows.stop - rows.start, columns.stop)
        self.rows = rows.stop
        if self.fail_at is not None and self.rows >= self.fail_at:
            raise OSError("disk full")


def test_each_row_is_written_once_in_order():
    sink = WriteOnce(2, 83, 47)
    stitch(image_of(83, 47), network, sink, geometry(14), batch=4)
    assert sink.rows == 83


def test_each_row_is_read_once():
    for height in (83, 84, 85, 86, 87, 13, 200):
        source = Counting(image_of(height, 40))
        stitch(source, network, np.empty((2, height, 40)), geometry(14), batch=2)
        assert (source.reads == 1).all(), height


@pytest.mark.parametrize("keeps", [True, False])
def test_rows_are_read_ahead_little_by_little_where_the_source_keeps_them(keeps):
    source = Counting(image_of(98, 140))
    source.keeps_rows = keeps
    result = np.empty((2, 98, 140))
    stitch(source, network, result, geometry(14), batch=2)
    np.testing.assert_array_equal(result, one_shot(source.array))
    assert (source.reads == 1).all()
    # Twelve tiles in a row, two at a time: after each pair a sixth of the step of 12 rows. Else
    # the first tile of a row waits for all of them, at first the probe and it for some each.
    assert source.heights == [24, *([2] * 37 if keeps else [8, 4, 12, 12, 12, 12, 12, 2])]


def test_batches_are_never_padded_nor_mixed_between_bands():
    sizes = []

    def counted(x):
        sizes.append(x.shape[0])
        return network(x)

    _, summary = tiled(image_of(40, 60), function=counted, batch=3)
    assert sizes == [3, 2, 1, 3, 2, 3, 2, 3, 2]
    assert sum(sizes) == summary.tiles + 1


def test_a_flat_sink_takes_one_channel():
    image = image_of(30, 30)
    flat = np.empty((30, 30))
    stitch(image, lambda x: network(x)[:, :1], flat, geometry(14))
    np.testing.assert_array_equal(flat, one_shot(image)[0])
    with pytest.raises(ValueError, match=r"2 channel.*the sink holds 1"):
        stitch(image, network, flat, geometry(14))


# --- the certificate ------------------------------------------------------------------------


def test_certificate_sees_too_small_a_margin():
    """Global pooling makes the result depend on the whole tile, not only on its margin."""

    def whole_tile(x):
        return network(x) - x.mean(axis=(1, 2, 3), keepdims=True)

    _, summary = tiled(image_of(50, 50), function=whole_tile)
    assert summary.seam_max_difference > 0.01
    assert summary.seam_differing > 0
    with pytest.raises(SeamError, match=r"neighbouring tiles differ by up to 0\.\d+ .*tolerance"):
        tiled(image_of(50, 50), function=whole_tile, seams=SeamRule(tolerance=1e-6))


@pytest.mark.parametrize(("height", "width"), [(50, 50), (14, 60), (60, 14)])
@pytest.mark.parametrize(("y", "x"), [(-2, -2), (-2, 0), (0, -2)])
def test_certificate_sees_a_grid_out_of_phase(height, width, y, x, monkeypatch):
    """All strips agree when the whole grid is shifted; only the probe can tell."""
    import importlib

    # `tiling.stitch` is also the name of the function, hence not by attribute.
    module = importlib.import_module("tiling.stitch")
    planned = module.plan

    def shifted(*args, **options):
        tiles = planned(*args, **options)
        object.__setattr__(tiles._y, "start", y)
        object.__setattr__(tiles._x, "start", x)
        return tiles

    monkeypatch.setattr(module, "plan", shifted)
    _, summary = tiled(image_of(height, width))
    assert summary.seam_max_difference == 0.0
    assert summary.probe_difference > 0.01


def test_certificate_counts_every_strip():
    _, summary = tiled(image_of(26, 26))  # 2 x 2 tiles, step 12: origins 0 and 12, strips of 2
    assert (summary.tiles, summary.step) == (4, 12)
    # two channels of: 2 columns x 14 rows in each band; 2 rows x (12 + 14) columns between them
    assert summary.seam_compared == 2 * (2 * 14 + 2 * 14 + 2 * 26) == 216
    assert summary.pixels_computed == 5 * 14 * 14  # the probe's too
    assert tiled(image_of(26, 26), seams=SeamRule(probe=False))[1].probe_difference is None


@pytest.mark.parametrize("output", [6, 14, 46])
def test_the_probe_lies_across_a_corner_of_four_tiles(output):
    tiles = plan((200, 200), geometry(output))
    y0, y1, x0, x1 = SeamWatch(tiles, SeamRule()).probe_window
    assert y0 < tiles.step < y1
    assert x0 < tiles.columns // 2 * tiles.step < x1
    assert (y0 % PERIOD, x0 % PERIOD) == (0, 0)


def test_nan_in_one_of_two_tiles_fails_the_certificate():
    calls = []

    def sometimes(x):
        calls.append(1)
        return network(x) * (np.nan if len(calls) == 2 else 1)

    with pytest.raises(SeamError, match="inf"):
        tiled(image_of(14, 40), function=sometimes, seams=SeamRule(tolerance=1e9, probe=False))


def test_integer_results_are_compared_without_wrapping():
    calls = []

    def byte(x):
        calls.append(1)
        return np.full((1, 1, 14, 14), 255 if len(calls) % 2 else 0, np.uint8)

    _, summary = tiled(image_of(14, 40), function=byte, channels=1, seams=SeamRule(probe=False))
    assert summary.seam_max_difference == 255.0


# --- resume, faults, threads, memory --------------------------------------------------------


class Kept(np.ndarray):
    rows_done = 0


@pytest.mark.parametrize("kept", [0, 1, 11, 12, 13, 40, 57, 59, 60])
def test_rows_that_are_there_are_kept(kept):
    image = image_of(60, 40)
    whole = one_shot(image)
    sink = np.full(whole.shape, -1.0).view(Kept)
    sink.rows_done = kept
    summary = stitch(image, network, sink, geometry(14), batch=2)
    assert (np.asarray(sink)[:, :kept] == -1).all()
    np.testing.assert_array_equal(np.asarray(sink)[:, kept:], whole[:, kept:])
    assert summary.rows_kept == kept
    assert summary.pixels == (60 - kept) * 40
    # The last band that is there runs once more, to compare it with the first new one.
    assert summary.tiles == 4 * (0 if kept == 60 else 5 - max(0, min(kept // 12, 4) - 1))
    compared = 0 if kept == 60 else summary.seam_compared
    assert compared == 0 or kept < 24 or compared > 2 * 2 * 40


def test_a_resumed_run_compares_its_first_band_with_the_last_that_was_kept():
    """The second run has another network: no seam within it tells, only the one above it."""
    image, rule = image_of(60, 40), SeamRule(tolerance=1e-9, probe=False)
    calls = []

    def another(x):
        calls.append(1)
        return network(x) + (len(calls) > 8)  # after the two rows of tiles that were kept

    sink = np.zeros((2, 60, 40)).view(Kept)
    sink.rows_done = 36
    with pytest.raises(SeamError, match="neighbouring tiles differ by up to 1"):
        stitch(image, another, sink, geometry(14), seams=rule)
    assert len(calls) == 9


def test_labels_may_differ_in_a_share_of_the_pixels():
    def labels(share):
        flipped = iter(np.arange(1 << 20) * share % 1 < share)

        def function(x):
            found = (network(x)[:, :1] > 0).astype(np.uint8)
            found[..., 0] ^= np.array([next(flipped) for _ in range(found.shape[-1])], np.uint8)
            return found

        return function

    rule = SeamRule(share=0.01, probe=False)
    assert (
        tiled(image_of(60, 60), function=labels(0), channels=1, seams=rule)[1].seam_differing == 0
    )
    words = r"differ in \d.* % of the pixels that were computed twice \(accepted 1 %"
    with pytest.raises(SeamError, match=words):
        tiled(image_of(60, 60), function=labels(0.2), channels=1, seams=rule)
    tiled(image_of(60, 60), function=labels(0.2), channels=1, seams=SeamRule(share=0.5))


def one_band_with(flipped):
    """Seam check of 14 x 60 labels in 5 tiles, so many pixels of the first strip made wrong."""
    calls = []

    def labels(x):
        calls.append(1)
        found = np.zeros((1, 1, 14, 14), np.uint8)
        if len(calls) == 1:
            strip = found[0, 0, :, 12:]
            strip[np.unravel_index(range(flipped), strip.shape)] = 1
        return found

    return lambda share: tiled(
        image_of(14, 60), function=labels, channels=1, seams=SeamRule(share=share, probe=False)
    )[1]


def test_one_label_may_always_differ_and_two_as_the_share_says():
    assert one_band_with(1)(0.0).seam_differing == 1
    with pytest.raises(SeamError, match="2 of 112 values"):
        one_band_with(2)(0.0)


def test_a_share_is_one_of_the_band_and_not_of_its_first_strip():
    assert one_band_with(28)(0.3).seam_differing == 28  # of 4 strips of 2 x 14
    with pytest.raises(SeamError, match="28 of 112 values"):
        one_band_with(28)(0.2)


class Noting(Kept):
    """Keeps what is noted in `noted`."""

    def note(self, name, value):
        self.noted[f"0 {name}"] = value


@pytest.mark.parametrize("size", [(60, 40), (14, 40), (40, 14), (10, 10)])
def test_what_the_bands_note_adds_up_to_the_summary(size):
    sink = np.zeros((2, *size)).view(Noting)
    sink.noted = noted_here = {}
    summary = stitch(image_of(*size), network, sink, geometry(14))
    seams, probe = noted(noted_here, "seams"), noted(noted_here, "probe")
    assert (seams.compared, seams.differing) == (summary.seam_compared, summary.seam_differing)
    assert seams.maximum == summary.seam_max_difference
    assert probe.maximum == summary.probe_difference
    assert noted({"0 seams 0": "nonsense", "x": 3, "1 seams": [1]}, "seams").compared == 0


def test_a_resumed_run_notes_what_the_run_before_did_not():
    sink = np.zeros((2, 60, 40)).view(Noting)
    sink.noted, sink.rows_done = {}, 36  # three bands; the third runs once more
    stitch(image_of(60, 40), network, sink, geometry(14))
    assert set(sink.noted) == {"0 seams 3", "0 seams 4"}


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("tiling")]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), MemoryError()])
def test_an_error_of_the_function_ends_the_run(error):
    calls = []

    def failing(x):
        calls.append(1)
        if len(calls) == 6:
            raise error
        return network(x)

    sink = WriteOnce(2, 90, 40)
    with pytest.raises(type(error)):
        stitch(image_of(90, 40), failing, sink, geometry(14))
    assert not threads()
    assert len(calls) == 6
    assert sink.rows == 12  # four tiles and the probe: the band that is complete is written


def test_an_error_of_the_source_ends_the_run():
    class Broken:
        shape, dtype = (90, 40), np.dtype(float)

        def __getitem__(self, key):
            if key[-2].stop > 50:
                raise OSError("bad sector")
            return np.zeros((key[-2].stop - key[-2].start, key[-1].stop - key[-1].start))

    with pytest.raises(OSError, match="bad sector"):
        stitch(Broken(), network, np.empty((2, 90, 40)), geometry(14))
    assert not threads()


def test_an_error_of_the_sink_ends_the_run_within_two_bands():
    calls = []

    def counted(x):
        calls.append(1)
        return network(x)

    with pytest.raises(OSError, match="disk full"):
        stitch(
            image_of(1200, 40), counted, WriteOnce(2, 1200, 40, fail_at=12), geometry(14), batch=1
        )
    assert not threads()
    assert len(calls) < 100


def test_a_sink_that_fails_late_ends_a_run_that_waits_for_it():
    class Slow:
        shape = (2, 90, 40)

        def __setitem__(self, key, block):
            time.sleep(0.2)  # meanwhile both bands are full, and the function's thread waits
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        stitch(image_of(90, 40), network, Slow(), geometry(14))
    assert not threads()


def test_wrong_shapes_are_named():
    image = image_of(40, 40)
    with pytest.raises(ValueError, match=r"must return \(N, K, 14, 14\)"):
        tiled(image, function=lambda x: x)
    with pytest.raises(ValueError, match="sink is 40 x 39"):
        stitch(image, network, np.empty((2, 40, 39)), geometry(14))
    with pytest.raises(ValueError, match="batch 0"):
        tiled(image, batch=0)
    kinds = iter("fddd")
    with pytest.raises(ValueError, match="the same kind"):
        tiled(image_of(40, 14), function=lambda x: network(x).astype(next(kinds)))


@pytest.mark.parametrize("change", [lambda x: x[:, :1], lambda x: x.astype("f4")])
def test_results_of_two_kinds_in_one_band_are_refused(change):
    """numpy would repeat the channel, or round, without a word."""
    calls = []

    def fickle(tiles):
        calls.append(1)
        return network(tiles) if len(calls) < 3 else change(network(tiles))

    for options in ({}, {"seams": SeamRule(probe=False)}):
        calls.clear()
        with pytest.raises(ValueError, match="the same kind each time"):
            tiled(image_of(10, 60), function=fickle, **options)


def test_a_sink_of_another_number_of_channels_is_refused():
    image = image_of(20, 20)
    for channels in (1, 3):
        with pytest.raises(ValueError, match=f"returns 2 .* holds {channels}; .* \\(2, H, W\\)"):
            tiled(image, channels=channels)
    with pytest.raises(ValueError, match=r"returns 1 .* holds 3"):
        tiled(image, channels=3, function=lambda x: network(x)[:, :1])


def test_any_array_like_is_a_source():
    image = image_of(2, 20, 30)
    expected = one_shot(image)
    for source in (image.tolist(), torch.from_numpy(image), memoryview(image)):
        np.testing.assert_array_equal(tiled_from(source, image), expected)
    for wrong in (image[0, 0], image[None]):
        with pytest.raises(ValueError, match=r"give one image, \(H, W\) or \(C, H, W\)"):
            stitch(wrong, network, np.empty((2, 20, 30)), geometry(14))


def tiled_from(source, image):
    result = np.empty((2, *image.shape[-2:]))
    stitch(source, network, result, geometry(14))
    return result


def test_progress_counts_every_tile():
    seen = []
    _, summary = tiled(image_of(40, 60), batch=3, progress=lambda *now: seen.append(now))
    assert seen[-1] == (summary.tiles, summary.tiles)
    assert seen == sorted(seen)
    assert len(seen) == 8


def test_memory_is_bounded_by_the_tile():
    """Sixteen times the height costs no more; what is held is what the summary says."""

    class Zeros:
        dtype = np.dtype(np.uint8)

        def __init__(self, height):
            self.shape = (height, 2000)

        def __getitem__(self, key):
            return np.zeros((key[-2].stop - key[-2].start, key[-1].stop - key[-1].start), np.uint8)

    class Nowhere:
        def __setitem__(self, key, block):
            pass

    def centre(x):
        return x[..., 92:-92, 92:-92]

    peaks = []
    for height in (1500, 24000):
        tracemalloc.start()
        summary = stitch(Zeros(height), centre, Nowhere(), Geometry.for_unet(output=388), batch=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        # the summary's figure, one block being read, and the tile plan
        assert summary.buffer_bytes <= peaks[-1] + 3e6
        assert peaks[-1] <= summary.buffer_bytes + 956 * 2000 + 1e6
    assert peaks[1] <= peaks[0] + 1e6
    assert peaks[1] <= 25_000 * 2000


def test_period_of_the_stand_in_is_what_it_claims():
    """Measured by shifting, not by trust."""
    image = image_of(1, 1, 62, 62)
    base = network(image[..., :58, :58])
    assert base.shape == (1, 2, 58 - 2 * MARGIN, 58 - 2 * MARGIN)
    for shift, equal in ((PERIOD, True), (2, False), (1, False)):
        moved = network(image[..., shift : 58 + shift, shift : 58 + shift])
        same = np.array_equal(base[..., shift:, shift:], moved[..., :-shift, :-shift])
        assert same == equal


@pytest.mark.parametrize("output", [6, 10, 14, 30])
def test_a_smaller_probe_tile_sees_the_same_for_less(output):
    image = image_of(90, 130)
    sizes = []

    def counted(x):
        sizes.append(x.shape[-1])
        return network(x)

    rule = SeamRule(probe_output=output)
    _, good = tiled(image, function=counted, output=30, seams=rule)
    assert good.probe_difference == 0.0
    assert sorted(set(sizes)) == sorted({50, output + 20})
    result = np.empty((2, 90, 130))
    bad = stitch(image, network, result, geometry(30), step="paper", seams=rule)
    assert bad.probe_difference > 0.1


def test_ctrl_c_during_the_last_band_waits_for_it():
    """Python up to 3.12 takes a thread for ended whose `join` a signal interrupts."""

    class Slow:
        shape = (256, 64)
        ended: ClassVar[list[int]] = []

        def __setitem__(self, key, block):
            if key[1].stop == 256:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)  # the main thread is interrupted while it waits for this band
            self.ended.append(key[1].stop)

    geometry = Geometry(margin=0, period=1, output=64)
    with pytest.raises(KeyboardInterrupt):
        stitch(np.ones((256, 64)), lambda tiles: tiles, Slow(), geometry)
    assert Slow.ended == [64, 128, 192, 256]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tiling")]
