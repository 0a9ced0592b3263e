"""Zarr and OME-Zarr, in and out: right pixels and axes, whole shards, resumable."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import tifffile

zarr = pytest.importorskip("zarr")

from tests.valid_network import geometry, network, one_shot  # noqa: E402
from tiling import open_sink, open_source, stitch  # noqa: E402
from tiling.faults import InputChangedError, InputError, WriteError  # noqa: E402
from tiling.tiff import TiffSource  # noqa: E402
from tiling.zarr import ZarrSource  # noqa: E402

RNG = np.random.default_rng(4)


def write(path, array, *, axes="", rows=50, **options):
    height, width = array.shape[-2:]
    with open_sink(path, array.shape, array.dtype, axes=axes, **options) as sink:
        for page, image in enumerate(array.reshape(sink.pages, -1, height, width)):
            one = sink.page(page)
            for y in range(one.rows_done, height, rows):
                one[..., y : min(y + rows, height), 0:width] = image[:, y : y + rows]


@pytest.mark.parametrize(
    ("shape", "axes", "dtype", "stored"),
    [
        ((300, 140), "", "uint8", "yx"), ((2, 130, 4200), "", "float32", "cyx"),
        ((3, 2, 130, 64), "ZCYX", "uint16", "czyx"), ((4, 20, 20), "ZYX", "uint32", "zyx"),
        ((1, 1), "", "float16", "yx"), ((2, 2, 5, 3), "TCYX", "bool", "tcyx"),
    ],
)  # fmt: skip
def test_written_pixels_and_axes_are_read_back(tmp_path, shape, axes, dtype, stored):
    path = tmp_path / "out.zarr"
    array = (RNG.random(shape) * 200).astype(dtype)
    write(path, array, axes=axes, resolution=(4.0, 2.0, "um"), provenance={"seed": 1})
    group = zarr.open_group(path, mode="r")
    assert group.attrs["unet2015"] == {"seed": 1}
    image = group.attrs["ome"]["multiscales"][0]
    assert "".join(axis["name"] for axis in image["axes"]) == stored
    scale = image["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale == [1.0] * (len(shape) - 2) + [0.5, 0.25]
    order = [(axes or "CYX"[-len(shape) :]).index(letter.upper()) for letter in stored]
    np.testing.assert_array_equal(group["0"][...], array.transpose(order))
    height, width = shape[-2:]
    with open_source(path) as source:
        assert source.axes == stored.upper()
        assert source.resolution == (4.0, 2.0, "um")
        pages = [source.page(i)[..., 0:height, 0:width] for i in range(source.pages)]
        source.check_unchanged()
    np.testing.assert_array_equal(np.stack(pages).reshape(shape), array)


def test_shards_are_whole_and_none_is_missing(tmp_path):
    """`write_empty_chunks`: zeros are stored, so that a lost shard is not a black one."""
    path = tmp_path / "out.zarr"
    write(path, np.zeros((2, 300, 4200), np.uint8), rows=77)
    found = sorted(str(f.relative_to(path / "0" / "c")) for f in (path / "0" / "c").rglob("[0-9]*"))
    files = [f for f in found if (path / "0" / "c" / f).is_file()]
    assert files == [f"{c}/{y}/{x}" for c in range(2) for y in range(3) for x in range(2)]


@pytest.mark.parametrize("chunks", [(16, 16), (90, 70), (7, 64), (1, 70)])
@pytest.mark.parametrize("version", [2, 3])
def test_any_chunks_give_the_same_result(tmp_path, chunks, version):
    array = RNG.integers(0, 60000, (90, 70)).astype(np.uint16)
    path = tmp_path / "in.zarr"
    made = zarr.create_array(path, shape=(90, 70), chunks=chunks, dtype="u2", zarr_format=version)
    made[...] = array
    result = np.empty((2, 90, 70))
    with open_source(path) as source:
        assert source.axes == "YX"
        assert source.resolution is None
        stitch(source, network, result, geometry(22), batch=2)
    np.testing.assert_array_equal(result, one_shot(array))


def test_chunks_are_read_once(tmp_path, monkeypatch):
    array = RNG.normal(size=(2, 90, 70))
    path = tmp_path / "in.zarr"
    made = zarr.create_array(path, shape=array.shape, chunks=(1, 16, 70), dtype="f8",
                             dimension_names=("c", "y", "x"))  # fmt: skip
    made[...] = array
    rows = np.zeros(90, int)
    result = np.empty((2, 90, 70))
    with open_source(path) as source:
        inner = source._array

        class Counting:
            chunks = inner.chunks

            def __getitem__(self, key):
                assert key[-2].start % 16 == 0
                rows[key[-2]] += 1
                return inner[key]

        source._array = Counting()
        assert source.shape == (2, 90, 70)
        stitch(source, network, result, geometry(14))
    assert (rows == 1).all()
    np.testing.assert_array_equal(result, one_shot(array))


def test_foreign_ome_zarr_04_is_read(tmp_path):
    path = tmp_path / "in.zarr"
    group = zarr.create_group(path, zarr_format=2)
    array = RNG.integers(0, 255, (2, 3, 1, 20, 30)).astype(np.uint8)
    group.create_array("s0", shape=array.shape, chunks=(1, 1, 1, 8, 8), dtype="u1")[...] = array
    axes = [{"name": n, "type": t} for n, t in zip("tczyx", ("time", "channel", *["space"] * 3),
                                                   strict=True)]  # fmt: skip
    axes[-1]["unit"] = "micrometer"
    level = {
        "path": "s0",
        "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1, 2, 4]}],
    }
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level]}]
    with open_source(path, page=1) as source:
        assert (source.axes, source.pages, source.shape) == ("TCZYX", 2, (3, 20, 30))
        assert source.resolution == (0.25, 0.5, "um")
        np.testing.assert_array_equal(source[..., 3:9, 2:7], array[1, :, 0, 3:9, 2:7])


@pytest.mark.parametrize(
    ("name", "kind", "axes"), [("s", "space", "IYX"), ("stain", "channel", "CYX")]
)
def test_the_type_of_an_axis_says_that_it_is_channels(tmp_path, name, kind, axes):
    named = [{"name": name, "type": kind}, *({"name": n, "type": "space"} for n in "yx")]
    path = group_of(tmp_path / "a.zarr", named, [[1, 1, 1]])
    with ZarrSource(path) as source:
        assert source.axes == axes


def test_what_is_no_image_is_refused(tmp_path):
    def array(name, shape, **options):
        path = tmp_path / f"{name}.zarr"
        zarr.create_array(path, shape=shape, dtype=options.pop("dtype", "u1"), **options)
        return path

    (tmp_path / "file.zarr").write_bytes(b"x")
    (tmp_path / "empty.zarr").mkdir()
    zarr.create_group(tmp_path / "group.zarr")
    for path, reason in [
        (tmp_path / "absent.zarr", "not a Zarr folder"),
        (tmp_path / "file.zarr", "is not a TIFF file"),
        (tmp_path / "empty.zarr", "is no Zarr array or group"),
        (tmp_path / "group.zarr", "without an OME image"),
        (array("four", (2, 2, 4, 4)), "4 axes and no names"),
        (array("order", (4, 4), dimension_names=("x", "y")), "do not end in y, x"),
        (array("complex", (4, 4), dtype="c8"), "numbers are read"),
        (array("none", (0, 4)), "must be 1 at least"),
    ]:
        with pytest.raises(InputError, match=reason):
            open_source(path)
    with pytest.raises(InputError, match="no page 1"):
        open_source(array("page", (4, 4)), page=1)


def test_a_damaged_chunk_is_an_input_error(tmp_path):
    path = tmp_path / "in.zarr"
    write(path, RNG.integers(0, 255, (40, 40)).astype(np.uint8))
    shard = path / "0" / "c" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-30])
    with open_source(path) as source, pytest.raises(InputError, match=r"0/c/0/0: is damaged.*copy"):
        source[..., 0:40, 0:40]


def test_a_changed_input_is_noticed(tmp_path):
    path = tmp_path / "in.zarr"
    write(path, np.zeros((4, 4), np.uint8))
    with open_source(path) as source:
        file = path / "zarr.json"
        file.write_text(json.dumps(json.loads(file.read_text()), indent=7))
        with pytest.raises(InputChangedError):
            source.check_unchanged()


# --- interruption ---------------------------------------------------------------------------

IMAGE = RNG.normal(size=(300, 130))


def run(path, *, resume, fail_at=None, overwrite=False):
    calls = []

    def function(x):
        calls.append(1)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return network(x).astype(np.float32)

    with open_sink(path, (2, 300, 130), np.float32, resume=resume, overwrite=overwrite) as sink:
        stitch(IMAGE, function, sink, geometry(66), batch=1)
    return len(calls)


def content(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def test_a_resumed_run_ends_with_the_same_bytes(tmp_path):
    run(tmp_path / "whole.zarr", resume=False)
    data = content(tmp_path / "whole.zarr")
    for fail_at in (1, 6, 9, 11):
        path = tmp_path / f"{fail_at}.zarr"
        with pytest.raises(KeyboardInterrupt):
            run(path, resume=False, fail_at=fail_at)
        assert not path.exists()
        assert run(path, resume=True) == {1: 11, 6: 9, 9: 9, 11: 5}[fail_at]
        assert content(path) == data
    names = {f.name for f in tmp_path.iterdir()}
    assert names == {"whole.zarr", "1.zarr", "6.zarr", "9.zarr", "11.zarr"}


def test_a_resumed_run_stores_zeros_too(tmp_path):
    """A black shard that comes after the resumption is a file, as in an uninterrupted run."""
    black = np.zeros((300, 4200), np.uint8)
    write(tmp_path / "whole.zarr", black)
    path = tmp_path / "out.zarr"

    def interrupted():
        with open_sink(path, black.shape, np.uint8) as sink:
            sink[..., 0:128, 0:4200] = black[:128]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    write(path, black, resume=True)
    assert content(path) == content(tmp_path / "whole.zarr")


@pytest.mark.parametrize("damage", ["flip", "remove", "forget"])
def test_damaged_shards_are_done_again(tmp_path, damage):
    path, part = tmp_path / "a.zarr", tmp_path / ".a.zarr.part.zarr"
    with pytest.raises(KeyboardInterrupt):
        run(path, resume=False, fail_at=11)
    shard = part / "0" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    if damage == "flip":
        shard.write_bytes(data)
    elif damage == "remove":
        shard.unlink()
    else:
        (part / "0" / "zarr.json").unlink()
    assert run(path, resume=True) == 11
    expected = one_shot(IMAGE).astype(np.float32)
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["0"][...], expected)


def test_existing_folders_are_kept_unless_overwritten(tmp_path):
    path = tmp_path / "a.zarr"
    run(path, resume=False)
    with pytest.raises(WriteError, match="overwrite"):
        run(path, resume=False)
    before = content(path)
    with pytest.raises(KeyboardInterrupt):
        run(path, resume=False, overwrite=True, fail_at=9)
    assert content(path) == before
    run(path, resume=True, overwrite=True)
    assert content(path) == before
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(WriteError, match="not a Zarr v3 folder"):
        run(tmp_path / "mine.zarr", resume=False, overwrite=True)
    with pytest.raises(WriteError, match="does not exist"):
        run(tmp_path / "none" / "a.zarr", resume=False)


@pytest.mark.parametrize("taken", ["everything", "a shard", "what the array says"])
def test_a_folder_that_was_thinned_out_meanwhile_never_appears(tmp_path, taken):
    """Zarr would make what is missing anew, without a word."""
    array, path = np.ones((300, 140), np.uint8), tmp_path / "out.zarr"
    unfinished = tmp_path / ".out.zarr.part.zarr"

    def written_and_thinned_out():
        with open_sink(path, array.shape, array.dtype, pyramid="mean") as sink:
            sink[..., 0:200, 0:140] = array[:200]
            if taken == "everything":
                shutil.rmtree(unfinished)
            elif taken == "a shard":
                next(f for f in (unfinished / "0" / "c").rglob("*") if f.is_file()).unlink()
            else:
                (unfinished / "0" / "zarr.json").write_text("{}")
            sink[..., 200:300, 0:140] = array[200:]

    told = "moved or removed" if taken == "everything" else "was removed, moved or changed"
    with pytest.raises(WriteError, match=f"{told} meanwhile.*run again"):
        written_and_thinned_out()
    assert not path.exists()
    write(path, array, pyramid="mean", resume=True)
    with open_source(path) as image:
        np.testing.assert_array_equal(image[..., 0:300, 0:140].squeeze(), array)


def test_an_incomplete_image_never_appears(tmp_path):
    with (
        pytest.raises(ValueError, match="incomplete"),
        open_sink(tmp_path / "a.zarr", (300, 4), np.uint8) as sink,
    ):
        sink[..., 0:200, 0:4] = np.zeros((200, 4), np.uint8)
    assert not (tmp_path / "a.zarr").exists()
    with (
        pytest.raises(ValueError, match="float64"),
        open_sink(tmp_path / "b.zarr", (300, 4), np.uint8) as sink,
    ):
        sink[..., 0:200, 0:4] = np.zeros((200, 4))
    assert not list(tmp_path.glob(".b*"))


def group_of(path, axes, scales, whole=()):
    """Images of 4 x 5 px, with the scales of their level and of the whole image."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", shape=(3, 4, 5)[-len(axes) :], dtype="u1")
    steps = [[{"type": "scale", "scale": scale} for scale in part] for part in (scales, whole)]
    level = {"path": "0", "coordinateTransformations": steps[0]}
    image = {"axes": axes, "datasets": [level], "coordinateTransformations": steps[1]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    return path


@pytest.mark.parametrize(
    ("units", "scales", "whole", "expected"),
    [
        (("micrometer", "micrometer"), [[0.5, 0.25]], [], (4.0, 2.0, "um")),
        (("micrometer", "micrometer"), [[0.5, 0.25]], [[10, 10]], (0.4, 0.2, "um")),
        (("nanometer", "micrometer"), [[500, 0.25]], [], (4.0, 2.0, "um")),
        (("micrometer", "micrometer"), [[1, 0.5, 0.25]], [], None),  # a scale too many
        (("micrometer", "micrometer"), [["0.5", None]], [], None),
        (("micrometer", "micrometer"), [[10**400, 1]], [], None),
        (("furlong", "micrometer"), [[1, 1]], [], None),
    ],
)
def test_pixel_size_is_that_of_level_and_image_in_one_unit(
    tmp_path, units, scales, whole, expected
):
    axes = [{"name": name, "type": "space", "unit": u} for name, u in zip("yx", units, strict=True)]
    with ZarrSource(group_of(tmp_path / "a.zarr", axes, scales, whole)) as source:
        found = source.resolution
    if expected is None:
        assert found is None
    else:
        assert found[:2] == pytest.approx(expected[:2])
        assert found[2] == expected[2]


@pytest.mark.parametrize("names", [[None, None], None, ["y", "x"]])
def test_axes_without_a_name_are_rows_and_columns(tmp_path, names):
    zarr.create_array(tmp_path / "a.zarr", shape=(4, 5), dtype="u1", dimension_names=names)
    with ZarrSource(tmp_path / "a.zarr") as source:
        assert source.axes == "YX"


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ([{"axes": [{"type": "space"}] * 2, "datasets": [{"path": "0"}]}], "make no sense"),
        ([{"axes": ["y", "x"], "datasets": [{}]}], "make no sense"),
        ([{"axes": ["y", "x"], "datasets": [{"path": "7"}]}], "make no sense"),
        ([3], "make no sense"),
        ("abc", "make no sense"),
        (None, "without an OME image"),
    ],
)
def test_metadata_that_make_no_sense_come_with_a_remedy(tmp_path, changed, match):
    path = group_of(tmp_path / "a.zarr", ["y", "x"], [[1, 1]])
    zarr.open_group(path, mode="r+").attrs["ome"] = {"multiscales": changed}
    with pytest.raises(InputError, match=rf"{match}.*; (copy|name)"):
        ZarrSource(path)


def test_a_folder_that_is_no_zarr_or_two_of_them(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(InputError, match=r"is no Zarr array or group .*; name the folder"):
        ZarrSource(tmp_path / "a.zarr")
    for version in (2, 3):
        zarr.create_array(tmp_path / "b.zarr", shape=(4, 5), dtype="u1", zarr_format=version)
    with pytest.raises(InputError, match=r"zarr.json and .zarray, .*; remove one"):
        ZarrSource(tmp_path / "b.zarr")


def test_the_axes_that_xarray_names_are_read(tmp_path):
    def array(name, shape, dimensions):
        path = tmp_path / f"{name}.zarr"
        made = zarr.create_array(path, shape=shape, dtype="u1", zarr_format=2)
        made.attrs["_ARRAY_DIMENSIONS"] = dimensions
        return path

    for dimensions, axes in [
        (["time", "y", "x"], "TYX"),
        (["c", "y", "x"], "CYX"),
        (["dim_0", "dim_1", "dim_2"], "IYX"),  # xarray's names of axes without one
        ([], "IYX"),
        (["slice", "y", "x"], "IYX"),  # no colour samples, as they are called in a TIFF
        (["sample", "z", "y", "x"], "IZYX"),
        (["scene", "i", "y", "x"], "QIYX"),
    ]:
        shape = (2, 3, 4, 5)[-max(len(dimensions), 3) :]
        with ZarrSource(array("_".join(dimensions), shape, dimensions)) as source:
            assert source.axes == axes
    wrong = [
        (["x", "y"], "do not end in y, x; reorder the array"),
        (["time", "tile", "y", "x"], "two with the letter T; rename one of them"),
        (["y"], "names 1 of 2 axes"),
        ({"y": 0, "x": 1}, "is not a list of names"),
        ([["y"], ["x"]], "is not a list of names"),
        ("yx", "is not a list of names"),
    ]
    for number, (dimensions, match) in enumerate(wrong):
        shape = (4, 5) if len(dimensions) < 3 else (2, 3, 4, 5)
        with pytest.raises(InputError, match=match):
            ZarrSource(array(f"{number}", shape, dimensions))


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_the_five_axes_of_the_first_ome_zarr_have_no_names(tmp_path, version):
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    for name, shape in (("0", (2, 3, 1, 4, 5)), ("1", (3, 1, 4, 5))):
        group.create_array(name, shape=shape, dtype="u1")
        levels = [{"version": version, "datasets": [{"path": name}]}]
        group.attrs["multiscales"] = levels
        if len(shape) == 5:
            with ZarrSource(tmp_path / "a.zarr") as source:
                assert (source.axes, source.pages, source.shape) == ("TCZYX", 2, (3, 4, 5))
        else:
            with pytest.raises(InputError, match=r"4 axes and no names .*; write their names"):
                ZarrSource(tmp_path / "a.zarr")


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("version", [2, 3])
def test_what_an_array_says_of_itself_counts_not_what_a_group_gathered(tmp_path, version):
    path = tmp_path / "a.zarr"
    image = {"axes": ["y", "x"], "datasets": [{"path": "0"}]}
    told = {"multiscales": [image]}
    group = zarr.create_group(
        path, zarr_format=version, attributes=told if version == 2 else {"ome": told}
    )
    pixels = RNG.integers(0, 255, (4, 6)).astype(np.uint8)
    group.create_array("0", shape=(4, 6), chunks=(4, 6), dtype="u1")[...] = pixels
    zarr.consolidate_metadata(path)
    gathered = path / (".zmetadata" if version == 2 else "zarr.json")
    text = re.sub(r"4,\s*6", "6, 4", gathered.read_text())
    assert text != gathered.read_text()
    gathered.write_text(text)
    with ZarrSource(path) as source:
        np.testing.assert_array_equal(source.whole(), pixels[None])


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("attributes", "doubts"),
    [
        ({"scale_factor": 0.01, "add_offset": 273.0}, "CF: scale_factor 0.01, add_offset 273.0"),
        ({"scale_factor": 1.0, "add_offset": 0}, ""),
        ({"_FillValue": -9999}, "calls -9999 the number of missing pixels"),
        ({"missing_value": [1, 2]}, r"calls .1, 2. the number"),
        ({"_FillValue": "NaN"}, ""),
        ({"_FillValue": "AAAAAAAA+H8="}, ""),
    ],
)
def test_numbers_that_cf_would_change_are_a_doubt(tmp_path, version, attributes, doubts):
    path = tmp_path / "a.zarr"
    array = zarr.create_array(path, shape=(4, 5), chunks=(4, 5), dtype="f4", zarr_format=version)
    array[...] = 1
    array.attrs.update(attributes)
    with ZarrSource(path) as source:
        assert len(source.doubts) == bool(doubts)
        assert re.search(doubts, "".join(source.doubts))
        assert (source.whole() == 1).all()


def test_a_folder_is_a_zarr_by_what_lies_in_it_and_a_file_is_none(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("0", shape=pixels.shape, dtype=pixels.dtype)[...] = pixels
    with open_source(tmp_path / "a.zarr" / "0") as source:
        np.testing.assert_array_equal(source.page(0)[:, 0:8, 0:8], pixels)
    tifffile.imwrite(tmp_path / "b.zarr", pixels)
    with open_source(tmp_path / "b.zarr") as source:
        assert isinstance(source, TiffSource)
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match="is a folder, not an image file"):
        open_source(tmp_path / "c")
    with pytest.raises(InputError, match="check the name"):
        open_source(tmp_path / "d.zarr")
