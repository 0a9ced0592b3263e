"""Reduced levels: those of the whole image, made in one pass, taken up after any interruption."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tiling import open_sink, open_source
from tiling.faults import UsageFault
from tiling.ome import checked_for_ome
from tiling.pyramid import METHODS, Pyramid, halved_mean, halved_mode, levels_for

RNG = np.random.default_rng(11)


def halved_by_loop(image, method):
    """One pixel after the other, from the definition."""
    height, width = image.shape
    found = np.zeros((-(-height // 2), -(-width // 2)), image.dtype)
    for y, x in np.ndindex(found.shape):
        block = [
            image[min(i, height - 1), min(j, width - 1)]
            for i in (2 * y, 2 * y + 1) for j in (2 * x, 2 * x + 1)
        ]  # fmt: skip
        if method == "mode":
            found[y, x] = max(block, key=block.count)  # the first of equals
        else:
            found[y, x] = np.floor(sum(map(int, block)) / 4 + 0.5)
    return found


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(0, 999), st.sampled_from(["u1", "i2", "i8"])
)
@settings(max_examples=60)
def test_halving_is_as_defined(height, width, seed, dtype):
    random = np.random.default_rng(seed)
    image = random.integers(0, 4, (height, width)).astype(dtype) * random.choice([1, 60])
    image = image.astype(dtype)
    for method, halve in METHODS.items():
        np.testing.assert_array_equal(halve(image), halved_by_loop(image, method))


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "uint32", "uint64", "int16", "int64", "float16", "float32"]
)
@pytest.mark.parametrize("end", ["min", "max"])
def test_the_mean_of_equal_pixels_is_the_pixel(dtype, end):
    largest = getattr(np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype), end)
    image = np.full((5, 4), largest, dtype)
    np.testing.assert_array_equal(halved_mean(image), image[:3, :2])
    assert halved_mean(image).dtype == image.dtype


def test_labels_are_never_mixed():
    labels = RNG.choice(np.array([0, 7, 4_000_000_000], np.uint32), (33, 47))
    while max(labels.shape) > 1:
        labels = halved_mode(labels)
        assert set(np.unique(labels)) <= {0, 7, 4_000_000_000}


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.sampled_from([2, 4, 6]))
@settings(max_examples=60)
def test_groups_give_the_levels_of_the_whole_from_any_row_on(height, width, levels, rows):
    image = RNG.integers(0, 256, (2, height, width), dtype=np.uint8)
    whole = [image]
    for _ in range(levels):
        whole.append(halved_mean(whole[-1]))
    down = -(-height // rows)
    for start in range(down + 1):
        found = [np.full_like(level, 77) for level in whole]
        pyramid = Pyramid((height, width), rows, levels=levels)
        for row in range(start):
            for level, number in pyramid.due(row):
                part = slice(number * rows, (number + 1) * rows)
                found[level][:, part] = whole[level][:, part]
        pyramid.take_up(start, lambda k, n: whole[k][:, n * rows : (n + 1) * rows])
        for row in range(start, down):
            for level, number, group in pyramid.add(row, image[:, row * rows : (row + 1) * rows]):
                found[level][:, number * rows : (number + 1) * rows] = group
        for one, other in zip(found, whole, strict=True):
            np.testing.assert_array_equal(one, other)


# --- files ------------------------------------------------------------------------------------


def write(path, array, *, stop=None, rows=100, **options):
    """Write an array in bands; raises KeyboardInterrupt before band `stop`."""
    height, width = array.shape[-2:]
    band = 0
    with open_sink(path, array.shape, array.dtype, **options) as sink:
        for page, image in enumerate(array.reshape(sink.pages, -1, height, width)):
            one = sink.page(page)
            y = one.rows_done
            while y < height:
                if band == stop:
                    raise KeyboardInterrupt
                end = min((y // rows + 1) * rows, height)
                one[..., y:end, 0:width] = image[:, y:end]
                y, band = end, band + 1


def levels_of(array, method):
    found = [array]
    for _ in range(levels_for(array.shape)):
        found.append(METHODS[method](found[-1]))
    return found


CASES = [
    ((900, 700), "YX", "uint8", "mean"), ((2, 300, 530), "CYX", "float32", "mean"),
    ((2, 2, 257, 131), "ZCYX", "uint16", "mean"), ((3, 520, 70), "ZYX", "uint32", "mode"),
]  # fmt: skip


@pytest.mark.parametrize("compression", ["deflate", "none", "zstd"])
@pytest.mark.parametrize(("shape", "axes", "dtype", "method"), CASES)
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_tifffile_opens_every_level(tmp_path, name, shape, axes, dtype, method, compression):
    if compression == "zstd":
        pytest.importorskip("imagecodecs")
    array = (RNG.random(shape) * 200).astype(dtype)
    write(tmp_path / name, array, axes=axes, pyramid=method, compression=compression)
    whole = levels_of(array, method)
    with tifffile.TiffFile(tmp_path / name) as tif:
        pages = tif.pages
        assert len(pages) == int(np.prod(shape[:-2]))
        for number, page in enumerate(pages):
            np.testing.assert_array_equal(page.asarray(), array.reshape(-1, *shape[-2:])[number])
            assert len(page.pages) == len(whole) - 1
            for below, level in zip(page.pages, whole[1:], strict=True):
                assert below.is_reduced
                np.testing.assert_array_equal(
                    below.asarray(), level.reshape(-1, *level.shape[-2:])[number]
                )
        series = tif.series[0]
        assert (series.kind, series.axes) == ("ome" if ".ome" in name else "shaped", axes)
        levels = series.levels
        if "Z" in axes and ".ome" not in name:  # there tifffile would have slices halved too
            levels = tif.series
        for below, level in zip(levels, whole, strict=True):
            np.testing.assert_array_equal(below.asarray(), level)
    if compression != "zstd" and dtype != "uint32":
        with Image.open(tmp_path / name) as picture:
            assert getattr(picture, "n_frames", 1) == int(np.prod(shape[:-2]))
            np.testing.assert_array_equal(np.asarray(picture), array.reshape(-1, *shape[-2:])[0])
    with open_source(tmp_path / name) as source:  # the reader of this house sees the finest
        assert (source.axes, source.pages) == (axes, int(np.prod(shape[:-2])))


@pytest.mark.parametrize(("shape", "axes", "dtype", "method"), CASES)
def test_zarr_opens_every_level(tmp_path, shape, axes, dtype, method):
    array = (RNG.random(shape) * 200).astype(dtype)
    write(tmp_path / "a.zarr", array, axes=axes, pyramid=method, resolution=(4.0, 2.0, "um"))
    whole = levels_of(array, method)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    (image,) = group.attrs["ome"]["multiscales"]
    assert [level["path"] for level in image["datasets"]] == [str(i) for i in range(len(whole))]
    order = [axes.index(a["name"].upper()) for a in image["axes"]]
    for number, (about, level) in enumerate(zip(image["datasets"], whole, strict=True)):
        np.testing.assert_array_equal(group[about["path"]][...], level.transpose(order))
        scale = about["coordinateTransformations"][0]["scale"]
        assert scale[-2:] == [2**number / 2, 2**number / 4]
        assert ("translation" in about["coordinateTransformations"][-1]) == (number > 0)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.zarr"])
def test_interrupted_anywhere_the_bytes_are_the_same(tmp_path, name):
    def content(path):
        if path.is_file():
            return path.read_bytes()
        return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}

    array = RNG.integers(0, 256, (2, 700, 300), dtype=np.uint8)
    options = {"axes": "ZYX", "pyramid": "mean"}
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole" / name, array, **options)
    for stop in (2, 5, 13):
        out = tmp_path / name
        for again in (stop, 3):
            with pytest.raises(KeyboardInterrupt):
                write(out, array, stop=min(again, 13 - stop), resume=True, **options)
        write(out, array, resume=True, **options)
        assert content(out) == content(tmp_path / "whole" / name), stop
        if out.is_file():
            out.unlink()
        else:
            out.rename(tmp_path / f"done-{stop}.zarr")


def test_an_unfinished_file_without_levels_is_not_taken_up(tmp_path):
    array = RNG.integers(0, 256, (700, 300), dtype=np.uint8)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.tif", array, stop=4)
    from tiling.faults import WriteError

    with pytest.raises(WriteError, match="other settings"):
        write(tmp_path / "a.tif", array, pyramid="mean", resume=True)


@pytest.mark.parametrize(
    ("dtype", "axes", "words"),
    [("float16", "YX", "cannot hold float16"), ("uint8", "PYX", "no axis 'P'")],
)
def test_what_ome_has_no_word_for_is_refused(tmp_path, dtype, axes, words):
    assert words in checked_for_ome(np.dtype(dtype), axes)
    with pytest.raises(UsageFault, match=words):
        open_sink(tmp_path / "a.ome.tif", (1,) * (len(axes) - 2) + (4, 4), dtype, axes=axes)


def test_libvips_opens_every_level(tmp_path):
    pyvips = pytest.importorskip("pyvips", reason="needs the package pyvips")
    array = RNG.integers(0, 256, (2, 700, 523), dtype=np.uint8)
    write(tmp_path / "a.ome.tif", array, axes="CYX", pyramid="mean", resolution=(2.0, 2.0, "um"))
    whole = pyvips.Image.new_from_file(str(tmp_path / "a.ome.tif"))
    assert (whole.get("n-pages"), whole.get("n-subifds"), whole.xres) == (2, 2, 2000.0)
    np.testing.assert_array_equal(whole.numpy(), array[0])
    for number, level in enumerate(levels_of(array, "mean")[1:]):
        for page in (0, 1):
            found = pyvips.Image.new_from_file(
                str(tmp_path / "a.ome.tif"), subifd=number, page=page
            )
            np.testing.assert_array_equal(found.numpy(), level[page])
