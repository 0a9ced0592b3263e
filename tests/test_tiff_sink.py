"""TIFF out: right in every reader, one pass, byte-identical after any interruption."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import tracemalloc
import types
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tiling.tiff_sink
from tests.valid_network import geometry, network, one_shot
from tiling import Geometry, SeamError, SeamRule, open_sink, open_source, read_mirrored, stitch
from tiling.bigtiff import Layout, Level, directories, header
from tiling.faults import InputError, UsageFault, WriteError
from tiling.journal import journal_lines, read_journal
from tiling.packing import cut
from tiling.strict_tiff import open_tiff, read_stack

RNG = np.random.default_rng(3)


def write(path, array, *, axes="", rows=50, **options):
    """Write an array in bands of `rows`, page by page, keeping what is there."""
    height, width = array.shape[-2:]
    with open_sink(path, array.shape, array.dtype, axes=axes, **options) as sink:
        for page, image in enumerate(array.reshape(sink.pages, -1, height, width)):
            one = sink.page(page)
            for y in range(one.rows_done, height, rows):
                one[..., y : min(y + rows, height), 0:width] = image[:, y : y + rows]


CASES = [
    ((300, 500), "", "uint8"), ((2, 257, 40), "", "float32"), ((3, 2, 130, 64), "ZCYX", "uint16"),
    ((30, 20, 20), "ZYX", "uint32"), ((1, 1), "", "float16"), ((5, 3), "", "bool"),
    ((128, 128), "", "int16"), ((2, 1, 1, 300), "TCYX", "float64"),
]  # fmt: skip


@pytest.mark.parametrize("compression", ["deflate", "none", "zstd"])
@pytest.mark.parametrize(("shape", "axes", "dtype"), CASES)
def test_every_reader_sees_the_pixels(tmp_path, shape, axes, dtype, compression):
    if compression == "zstd":
        pytest.importorskip("imagecodecs")
    path = tmp_path / "out.tif"
    array = (RNG.random(shape) * 200).astype(dtype)
    write(path, array, axes=axes, compression=compression)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_bigtiff
        np.testing.assert_array_equal(tif.asarray().reshape(shape), array)
        series = tif.series[0].get_axes(squeeze=False)
        assert series == (axes or {2: "YX", 3: "CYX"}[len(shape)])
    np.testing.assert_array_equal(read_stack(path).reshape(shape), array)
    if compression != "zstd" and dtype in ("uint8", "bool", "uint16", "float32", "int16"):
        with Image.open(path) as image:
            assert getattr(image, "n_frames", 1) == int(np.prod(shape[:-2]))
            np.testing.assert_array_equal(np.asarray(image), array.reshape(-1, *shape[-2:])[0])


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "float64"])
def test_an_empty_image_in_zstd_is_no_bomb_to_our_own_reader(tmp_path, dtype):
    pytest.importorskip("imagecodecs")
    array = np.zeros((128, 131_200), dtype)  # above 16 MiB
    write(tmp_path / "out.tif", array, rows=128, compression="zstd")
    with open_tiff(tmp_path / "out.tif") as image:
        assert not image.read_rows(0, 100, 101).any()


def test_axes_resolution_and_provenance_are_kept(tmp_path):
    path = tmp_path / "out.tif"
    array = np.zeros((3, 2, 9, 8), np.uint8)
    options = {"resolution": (3.9, 72.25, "um"), "provenance": {"seed": 1, "text": "µ"}}
    with open_sink(path, array.shape, "uint8", axes="ZCYX", **options) as sink:
        sink.provenance["seams"] = 0.0
        for page in range(3):
            sink.page(page)[..., 0:9, 0:8] = array[page]
    with open_source(path) as source:
        assert source.axes == "ZCYX"
        assert source.pages == 6
        assert source.resolution[:2] == pytest.approx((39000, 722500), rel=1e-6)
        assert source.resolution[2] == "cm"
        found = json.loads(source.image.description)
    assert found["unet2015"] == {"seed": 1, "text": "µ", "seams": 0.0}
    assert found["shape"] == [3, 2, 9, 8]


@pytest.mark.parametrize("value", [72.0, 1e-5, 0.4321, 96.123456789, 4e9, 1e12, 1e-12])
@pytest.mark.parametrize("unit", ["inch", "", "cm"])
def test_resolutions_survive(tmp_path, value, unit):
    path = tmp_path / "out.tif"
    write(path, np.zeros((1, 1), np.uint8), resolution=(value, value, unit))
    with open_source(path) as source:
        x, y, found = source.resolution
        assert found == unit
        assert x == y
        if 1e-6 < value < 4.2e9:
            assert x == pytest.approx(value, rel=1e-3 if value < 1e-4 else 1e-7)


def test_bytes_do_not_depend_on_the_bands(tmp_path):
    array = (RNG.random((2, 300, 170)) * 255).astype(np.uint8)
    found = set()
    for rows in (1, 7, 128, 129, 300):
        write(tmp_path / "out.tif", array, rows=rows, overwrite=True)
        found.add((tmp_path / "out.tif").read_bytes())
    assert len(found) == 1


@given(
    channels=st.integers(1, 3), height=st.integers(1, 40), width=st.integers(1, 100),
    kind=st.sampled_from(["u1", "<u2", "<f4"]),
)  # fmt: skip
def test_a_row_is_cut_into_tiles_side_by_side(channels, height, width, kind):
    layout = Layout((channels, height, width), np.dtype(kind), "none", 16)
    pixels = RNG.integers(1, 200, (channels, min(16, height), width)).astype(kind)
    padded = np.zeros((channels, 16, layout.across * 16), kind)
    padded[:, : pixels.shape[1], :width] = pixels
    expected = [np.split(one, layout.across, axis=1) for one in padded]
    np.testing.assert_array_equal(cut(pixels, 16, layout.dtype), np.concatenate(expected))


def test_large_images_have_larger_tiles_and_are_resumed(tmp_path, monkeypatch):
    array = (RNG.random((600, 300)) * 255).astype(np.uint8)
    monkeypatch.setattr(tiling.tiff_sink, "LARGE", 500)
    write(tmp_path / "whole.tif", array)
    with (
        contextlib.suppress(KeyboardInterrupt),
        open_sink(tmp_path / "a.tif", array.shape, "u1") as sink,
    ):
        sink[..., 0:520, 0:300] = array[:520]
        raise KeyboardInterrupt
    with open_sink(tmp_path / "a.tif", array.shape, "u1", resume=True) as sink:
        assert sink.rows_done == 512
        sink[..., 512:600, 0:300] = array[512:]
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert (tif.pages[0].tilelength, tif.pages[0].tilewidth) == (256, 256)
    np.testing.assert_array_equal(read_stack(tmp_path / "a.tif")[0], array)


def test_a_band_may_be_flat_and_is_checked(tmp_path):
    with open_sink(tmp_path / "a.tif", (6, 5), np.uint8) as sink:
        sink[..., 0:4, 0:5] = np.ones((4, 5), np.uint8)
        with pytest.raises(ValueError, match=r"\(1, 2, 4\) came, \(1, 2, 5\) was due"):
            sink[..., 4:6, 0:5] = np.ones((2, 4), np.uint8)
        with pytest.raises(ValueError, match="float64 came"):
            sink[..., 4:6, 0:5] = np.ones((2, 5))
        with pytest.raises(ValueError, match="row 4 of 6 was due"):
            sink[..., 5:6, 0:5] = np.ones((1, 5), np.uint8)
        with pytest.raises(ValueError, match="row 4 of 6 was due"):
            sink[..., 4:7, 0:5] = np.ones((3, 5), np.uint8)
        sink[..., 4:6, 0:5] = np.ones((2, 5), np.uint8)
    assert (read_stack(tmp_path / "a.tif") == 1).all()


def test_pages_come_in_order(tmp_path):
    one = np.zeros((4, 4), np.uint8)
    with open_sink(tmp_path / "a.tif", (2, 4, 4), np.uint8, axes="ZYX") as sink:
        with pytest.raises(ValueError, match="page 1 came out of order"):
            sink.page(1)[..., 0:4, 0:4] = one
        sink.page(0)[..., 0:2, 0:4] = one[:2]
        with pytest.raises(ValueError, match="page 1 came"):
            sink.page(1)[..., 2:4, 0:4] = one[:2]
        with pytest.raises(ValueError, match="page 2 of an output of 2"):
            sink.page(2)
        sink.page(0)[..., 2:4, 0:4] = one[:2]
        with pytest.raises(ValueError, match="out of order"):
            sink.page(0)[..., 0:4, 0:4] = one
        sink.page(1)[..., 0:4, 0:4] = one


def test_an_incomplete_file_never_appears(tmp_path):
    with (
        pytest.raises(ValueError, match="incomplete: page 0 of 1 ends at row 128 of 300"),
        open_sink(tmp_path / "a.tif", (300, 4), np.uint8) as sink,
    ):
        sink[..., 0:200, 0:4] = np.zeros((200, 4), np.uint8)
    assert not (tmp_path / "a.tif").exists()


def test_an_error_before_any_band_leaves_nothing(tmp_path):
    with (
        pytest.raises(ValueError, match="was due"),
        open_sink(tmp_path / "a.tif", (300, 4), np.uint8) as sink,
    ):
        sink[..., 0:100, 0:4] = np.zeros((99, 4), np.uint8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": "complex64"}, "cannot hold"),
        ({"compression": "lzma"}, "deflate, zstd or none"),
        ({"axes": "XY"}, "ending in YX"),
        ({"axes": "CZYX", "shape": (2, 2, 4, 4)}, "right before YX"),
        ({"shape": (0, 4)}, "no pixels"),
        ({"provenance": {"long": "x" * 70_000}}, "shorten"),
    ],
)
def test_nonsense_is_refused_before_the_work(tmp_path, options, reason):
    given = {"shape": (4, 4), "dtype": "uint8", **options}
    with pytest.raises(ValueError, match=reason):
        open_sink(tmp_path / "a.tif", given.pop("shape"), given.pop("dtype"), **given)
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_kept_unless_overwritten(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"older")
    with pytest.raises(WriteError, match="overwrite"):
        open_sink(path, (4, 4), np.uint8)
    write(path, np.zeros((4, 4), np.uint8), overwrite=True)
    assert read_stack(path).shape == (1, 4, 4)


def test_zstd_without_imagecodecs_is_a_clear_refusal(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UsageFault, match="imagecodecs"):
        open_sink(tmp_path / "a.tif", (4, 4), np.uint8, compression="zstd")


@pytest.mark.parametrize("lacking", ["the package", "libdeflate in it"])
def test_deflate_needs_nothing_but_python(tmp_path, monkeypatch, lacking):
    array = (RNG.random((300, 500)) * 200).astype(np.uint8)
    if lacking == "the package":
        monkeypatch.setitem(sys.modules, "imagecodecs", None)
    else:
        imagecodecs = pytest.importorskip("imagecodecs")
        monkeypatch.setattr(imagecodecs, "DEFLATE", types.SimpleNamespace(available=False))
    write(tmp_path / "a.tif", array)
    np.testing.assert_array_equal(read_stack(tmp_path / "a.tif")[0], array)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        page = tif.pages[0]
        stored = tif.filehandle.read_segments(page.dataoffsets, page.databytecounts)
        assert next(stored)[0] == zlib.compress(array[:128, :128].tobytes(), 1)


# --- interruption ---------------------------------------------------------------------------

IMAGE = RNG.normal(size=(2, 300, 130))


def run(path, *, resume, fail_at=None, calls=None):
    """Both pages of IMAGE through the stand-in network; fails at the given call of it."""
    calls = [] if calls is None else calls

    def function(x):
        calls.append(1)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return network(x).astype(np.float32)

    with open_sink(path, (2, 2, 300, 130), np.float32, axes="ZCYX", resume=resume) as sink:
        for page in range(2):
            stitch(IMAGE[page], function, sink.page(page), geometry(66), batch=1)
    return len(calls)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "out.tif"
    calls = run(path, resume=False)
    data = path.read_bytes()
    expected = np.stack([one_shot(image) for image in IMAGE]).astype(np.float32)
    np.testing.assert_array_equal(read_stack(path).reshape(expected.shape), expected)
    return data, calls


def test_a_resumed_run_ends_with_the_same_bytes(tmp_path, whole):
    data, calls = whole
    for fail_at in range(1, calls + 1, 2):
        path = tmp_path / f"{fail_at}.tif"
        with pytest.raises(KeyboardInterrupt):
            run(path, resume=False, fail_at=fail_at)
        assert not path.exists()
        run(path, resume=True)
        assert path.read_bytes() == data


def test_interrupted_twice(tmp_path, whole):
    path = tmp_path / "out.tif"
    for fail_at in (9, 3, 1):
        with pytest.raises(KeyboardInterrupt):
            run(path, resume=True, fail_at=fail_at)
    run(path, resume=True)
    assert path.read_bytes() == whole[0]
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_run_without_resume_starts_afresh(tmp_path, whole):
    path = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        run(path, resume=False, fail_at=9)
    assert run(path, resume=False) == whole[1]
    assert path.read_bytes() == whole[0]


def test_damaged_parts_are_done_again(tmp_path, whole):
    path = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        run(path, resume=False, fail_at=14)
    part = tmp_path / ".out.tif.part"
    data = bytearray(part.read_bytes())
    assert len(data) > 100
    data[50] ^= 1
    part.write_bytes(data)
    assert run(path, resume=True) == whole[1]
    assert path.read_bytes() == whole[0]


def test_damage_is_noticed_after_an_earlier_repair(tmp_path, whole):
    """A row of tiles that was done twice counts with its later record."""
    path, part = tmp_path / "out.tif", tmp_path / ".out.tif.part"
    for fail_at in (14, 9):
        with pytest.raises(KeyboardInterrupt):
            run(path, resume=True, fail_at=fail_at)
        data = bytearray(part.read_bytes())
        data[60] ^= 1
        part.write_bytes(data)
    with pytest.raises(KeyboardInterrupt):
        run(path, resume=True, fail_at=14)
    run(path, resume=True)
    assert path.read_bytes() == whole[0]


@pytest.mark.parametrize("more", [1, 4000, 1 << 31, 1 << 40, 10**31])
def test_a_journal_that_claims_more_than_was_written_is_not_believed(tmp_path, whole, more):
    """Its lines are chained by a checksum, which is no signature."""
    path = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        run(path, resume=False, fail_at=9)
    journal = path.with_name(".out.tif.part.journal")
    records, _, _ = read_journal(journal.read_bytes())
    last = [record for record in records if "counts" in record][-1]
    last["counts"][-1] += more
    journal.write_bytes(journal_lines(records)[0])
    run(path, resume=True)
    assert path.read_bytes() == whole[0]


def test_other_settings_are_not_resumed(tmp_path):
    path = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        run(path, resume=False, fail_at=9)
    with (
        pytest.raises(WriteError, match="other settings"),
        open_sink(path, (2, 2, 300, 130), np.uint8, axes="ZCYX", resume=True),
    ):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill a run cheaply")
def test_killed_at_any_system_call(tmp_path, whole):
    """A1, A5: nothing under the final name until it is whole; resumed, the bytes are the same."""

    def killed(path, at):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        calls = itertools.count(1)

        def counted(real):
            return lambda *args: real(*args) if next(calls) != at else os._exit(9)

        try:
            for name in ("write", "fsync", "replace", "ftruncate", "unlink"):
                setattr(os, name, counted(getattr(os, name)))
            run(path, resume=True)
        except BaseException:
            os._exit(1)
        os._exit(0)

    data, _ = whole
    at, outcome = 0, 9
    while outcome == 9:
        at += 3
        path = tmp_path / f"{at}.tif"
        outcome = killed(path, at)
        assert outcome in (0, 9)
        if path.exists():
            assert path.read_bytes() == data
            continue
        assert killed(path, 6 + at % 5) in (0, 9)
        if not path.exists():
            run(path, resume=True)
        assert path.read_bytes() == data
    assert at > 20


def test_rows_with_seams_are_not_taken_up_again(tmp_path):
    def whole_tile(x):
        return network(x) - x.mean()

    image, rule = RNG.normal(size=(400, 40)), SeamRule(tolerance=1e-9, probe=False)
    with (
        pytest.raises(SeamError),
        open_sink(tmp_path / "a.tif", (2, 400, 40), np.float64) as sink,
    ):
        stitch(image, whole_tile, sink, geometry(130), seams=rule)
    assert list(tmp_path.iterdir()) == []


# --- sources ---------------------------------------------------------------------------------


def test_pages_and_stacks_of_pages(tmp_path):
    array = RNG.integers(0, 255, (3, 40, 30)).astype(np.uint8)
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, array, compression="zlib", rowsperstrip=7, photometric="minisblack")
    with open_source(path, page=1) as source:
        assert (source.shape, source.dtype, source.pages) == ((40, 30), np.uint8, 3)
        np.testing.assert_array_equal(source[..., 3:20, 5:9], array[1, 3:20, 5:9])
        np.testing.assert_array_equal(source.page(2)[..., 0:40, 0:30], array[2])
        stack = source.stack([2, 0])
        assert stack.shape == (2, 40, 30)
        result = np.empty((2, 40, 30))
        stitch(stack, network, result, geometry(14))
        np.testing.assert_array_equal(result, one_shot(array[[2, 0]]))
        source.check_unchanged()
    with pytest.raises(InputError, match="no page 3"):
        open_source(path, page=3)


def test_colour_is_channels(tmp_path):
    array = RNG.integers(0, 255, (33, 41, 3)).astype(np.uint8)
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, array, photometric="rgb", tile=(16, 16))
    with open_source(path) as source:
        assert source.shape == (3, 33, 41)
        np.testing.assert_array_equal(
            read_mirrored(source, -5, 40, -3, 44),
            np.pad(array.transpose(2, 0, 1), [(0, 0), (5, 7), (3, 3)], mode="reflect"),
        )


@pytest.mark.parametrize(
    "how",
    [{}, {"rowsperstrip": 1}, {"tile": (32, 16)}, {"compression": "zlib", "predictor": True},
     {"compression": "zlib", "rowsperstrip": 90}, {"bigtiff": True, "byteorder": ">"}],
)  # fmt: skip
def test_the_kind_of_file_does_not_matter(tmp_path, how):
    array = RNG.integers(0, 60000, (90, 70)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", array, **how)
    result = np.empty((2, 90, 70))
    with open_source(tmp_path / "in.tif") as source:
        stitch(source, network, result, geometry(22), batch=2)
    np.testing.assert_array_equal(result, one_shot(array))


def centre(x):
    return x[..., 92:-92, 92:-92]


def test_file_to_file_in_constant_memory(tmp_path):
    """Six times the height, the same memory, on both sides of the pipeline."""
    peaks = []
    for height in (1200, 7200):
        path = tmp_path / f"{height}.tif"
        image = np.zeros((height, 1500), np.uint8)
        image[::7, ::5] = 9
        tifffile.imwrite(path, image, compression="zlib", rowsperstrip=64)
        out = tmp_path / f"{height}-out.tif"
        tracemalloc.start()
        with (
            open_source(path) as source,
            open_sink(out, source.shape, "uint8", pyramid="mean") as sink,
        ):
            summary = stitch(source, centre, sink, Geometry.for_unet(output=388))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        np.testing.assert_array_equal(read_stack(out)[0], image)
        assert peaks[-1] < summary.buffer_bytes + 6e6, (peaks, summary.buffer_bytes)
    assert peaks[1] < peaks[0] + 2e6  # which thread is how far when; the image grows by 9e6


def test_a_sparse_20_gb_file_starts_at_once(tmp_path):
    """C25: only the first bands are touched when the run is stopped after one tile."""
    path = tmp_path / "sparse.tif"
    height, width = 500_000, 40_000
    layout = Layout((height, width), np.dtype(np.uint8), "none", 16_000)
    tiles = layout.down * layout.across
    counts = np.full((1, tiles), 16_000**2, np.uint32)
    offsets = 4096 + np.arange(tiles, dtype=np.uint64)[None] * 16_000**2
    end = 4096 + tiles * 16_000**2
    first, blob = directories([Level(layout, offsets, counts)], [""], None, end)
    try:
        with path.open("wb") as file:
            file.write(header(first))
            file.seek(end)
            file.write(blob)
    except OSError:
        pytest.skip("this file system has no sparse files of 20 GB")
    if path.stat().st_blocks * 512 > 1 << 24:
        pytest.skip("this file system stores holes")

    class EnoughError(Exception):
        pass

    def stop(done, total):
        assert total > 100_000
        raise EnoughError

    tracemalloc.start()
    with (
        pytest.raises(EnoughError),
        open_source(path) as source,
        open_sink(tmp_path / "out.tif", source.shape, "uint8") as sink,
    ):
        stitch(source, centre, sink, Geometry.for_unet(output=388), progress=stop)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25_000 * width + 64e6
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.data
@pytest.mark.parametrize("name", ["cmu_small_region_gray.tif", "sem-rat5-bigtiff-tiled.tif"])
def test_real_large_images_pass_through_unchanged(real_data, tmp_path, name):
    path, out = real_data / "large" / name, tmp_path / "out.tif"
    with open_source(path) as source:
        options = {"resolution": source.resolution}
        with open_sink(out, source.shape, source.dtype, **options) as sink:
            summary = stitch(source, centre, sink, Geometry.for_unet(output=772))
    assert summary.probe_difference in (0.0, None)
    with open_tiff(path) as one, open_tiff(out) as other:
        np.testing.assert_array_equal(one.read_page(0), other.read_page(0))
        if one.resolution and one.resolution[2] in ("inch", "cm", ""):
            assert other.resolution[:2] == pytest.approx(one.resolution[:2], rel=1e-6)
            assert other.resolution[2] == one.resolution[2]
