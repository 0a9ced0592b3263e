"""What a prediction keeps, adds and proves: names, pixel sizes, levels, certificate."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from tests.test_predict_file import SMALL, Stopping, image_of, model, probability
from tiling import SeamError, open_source
from tiling.faults import InputError, UsageFault, WriteError
from tiling.pyramid import halved_mean, halved_mode
from unet2015.info import describe, print_description
from unet2015.predict_file import predict_file
from unet2015.predict_history import finished, made_alike, tile_begun_with


def made(path):
    with open_source(path) as source:
        return source.provenance


@pytest.fixture
def stack(tmp_path):
    """Three slices with a pixel size, as an OME-TIFF."""
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(
        path, image_of(3, 130, 300), photometric="minisblack",
        metadata={"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2.0,
                  "Channel": {"Name": ["DAPI"]}},
    )  # fmt: skip
    return path


# --- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif", "out.zarr"])
@pytest.mark.parametrize("save", ["probability", "instances"])
def test_axes_and_pixel_sizes_in_three_directions_are_kept(stack, tmp_path, name, save):
    predict_file(model(), stack, tmp_path / name, replace(SMALL, save=save, classes=None))
    with open_source(tmp_path / name) as source:
        assert source.axes == "ZYX"
        x, y, unit = source.resolution
        per_um = {"um": 1.0, "cm": 1e-4}[unit]
        assert (x * per_um, y * per_um) == (pytest.approx(2), pytest.approx(4))
        assert source.meaning.z_step / per_um == pytest.approx(2)
        assert source.provenance["channels_in"] == ["DAPI"]
    if name == "out.ome.tif":
        pixels = tifffile.xml2dict(tifffile.tiffcomment(tmp_path / name))["OME"]["Image"]["Pixels"]
        assert (pixels["SizeZ"], pixels["PhysicalSizeZ"], pixels["PhysicalSizeX"]) == (3, 2.0, 0.5)
        kept = {"probability": "foreground", "instances": "instances"}
        assert pixels["Channel"]["Name"] == kept[save]


@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif", "out.zarr"])
def test_the_maps_bear_the_names_of_the_classes(tmp_path, name):
    tifffile.imwrite(tmp_path / "in.tif", image_of(90, 130))
    who = replace(model(classes=3), class_names=("membrane", "µ & <cell>", "gap"))
    predict_file(who, tmp_path / "in.tif", tmp_path / name, replace(SMALL, dtype="float32"))
    with open_source(tmp_path / name) as source:
        assert source.axes == "CYX"
        assert source.meaning.channels == who.class_names
    assert describe(tmp_path / name)["channels"] == "membrane, µ & <cell>, gap"
    if name == "out.zarr":
        omero = zarr.open_group(tmp_path / name, mode="r").attrs["ome"]["omero"]
        assert [c["label"] for c in omero["channels"]] == list(who.class_names)
        assert omero["channels"][0]["window"]["end"] == 1.0
    predict_file(model(classes=3), tmp_path / "in.tif", tmp_path / "plain.tif", SMALL)
    with open_source(tmp_path / "plain.tif") as source:
        assert source.meaning.channels == ("class 0", "class 1", "class 2")


def test_names_from_a_file_cannot_move_the_cursor_or_fill_the_description(tmp_path):
    names = [f"&#27;[2J{'x' * 200}{number}" for number in range(300)]
    channels = "".join(f'<Channel ID="Channel:0:{i}" Name="{n}"/>' for i, n in enumerate(names))
    text = (
        '<?xml version="1.0"?><OME><Image><Pixels DimensionOrder="XYCZT" Type="uint8" SizeX="30"'
        f' SizeY="20" SizeC="300" SizeZ="1" SizeT="1">{channels}</Pixels></Image></OME>'
    )
    tifffile.imwrite(tmp_path / "in.tif", image_of(300, 20, 30), photometric="minisblack",
                     description=text, metadata=None)  # fmt: skip
    found = describe(tmp_path / "in.tif")["channels"]
    assert "x0," in found
    assert "\x1b" not in found
    predict_file(model(), tmp_path / "in.tif", tmp_path / "out.tif", replace(SMALL, channel=7))
    assert len(made(tmp_path / "out.tif")["channels_in"]) == 64


@pytest.mark.parametrize("scale", [[1.0, float("inf"), 1.0], [float("nan"), 2.0, 0.0]])
def test_pixel_sizes_that_make_no_sense_are_not_kept(tmp_path, scale):
    group = zarr.create_group(tmp_path / "in.zarr", zarr_format=3)
    pixels = image_of(2, 30, 40)
    group.create_array("0", shape=pixels.shape, dtype="u1", chunks=(1, 30, 40))[...] = pixels
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    predict_file(model(), tmp_path / "in.zarr", tmp_path / "out.tif", SMALL)
    with open_source(tmp_path / "out.tif") as source:
        assert (source.axes, source.resolution, source.meaning.z_step) == ("ZYX", None, 0.0)


def test_a_channel_is_chosen_by_its_name(tmp_path):
    pixels = image_of(2, 50, 61)
    tifffile.imwrite(tmp_path / "in.ome.tif", pixels, photometric="minisblack",
                     metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}})  # fmt: skip
    with pytest.raises(InputError, match=r"has 2 channels \(DAPI, GFP\).* --channel DAPI"):
        predict_file(model(), tmp_path / "in.ome.tif", tmp_path / "out.tif", SMALL)
    with pytest.raises(UsageFault, match=r"--channel RFP: .* has channels DAPI, GFP"):
        predict_file(model(), tmp_path / "in.ome.tif", tmp_path / "out.tif",
                     replace(SMALL, channel="RFP"))  # fmt: skip
    predict_file(model(), tmp_path / "in.ome.tif", tmp_path / "out.tif",
                 replace(SMALL, channel="GFP"))  # fmt: skip
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), probability(pixels[1]))
    assert made(tmp_path / "out.tif")["channel"] == "GFP"


def test_a_name_of_several_channels_chooses_none(tmp_path):
    pixels = image_of(3, 50, 61)
    names = {"Name": ["DAPI", "GFP", "DAPI"]}
    tifffile.imwrite(tmp_path / "in.ome.tif", pixels, photometric="minisblack",
                     metadata={"axes": "CYX", "Channel": names})  # fmt: skip
    with pytest.raises(InputError, match=r"has 3 channels \(DAPI, GFP, DAPI\).* --channel 0"):
        predict_file(model(), tmp_path / "in.ome.tif", tmp_path / "out.tif", SMALL)
    with pytest.raises(UsageFault, match=r"has 2 channels of this name; .* of one: 0 or 2"):
        predict_file(model(), tmp_path / "in.ome.tif", tmp_path / "out.tif",
                     replace(SMALL, channel="DAPI"))  # fmt: skip
    for channel, number in (("GFP", 1), (2, 2)):
        predict_file(model(), tmp_path / "in.ome.tif", tmp_path / "out.tif",
                     replace(SMALL, channel=channel), overwrite=True)  # fmt: skip
        found = tifffile.imread(tmp_path / "out.tif")
        np.testing.assert_array_equal(found, probability(pixels[number]))


@pytest.mark.parametrize("order", ["<", ">"])
def test_imagej_names_its_channels_by_the_labels_of_their_slices(tmp_path, order):
    def names(labels, axes="ZCYX"):
        tifffile.imwrite(tmp_path / "in.tif", np.zeros((2, 2, 9, 9), order + "u2"), imagej=True,
                         byteorder=order, metadata={"axes": axes, "Labels": labels})  # fmt: skip
        with open_source(tmp_path / "in.tif") as source:
            assert source.axes == axes
            return source.meaning.channels

    assert names(["DAPI", "GFP", "DAPI", "GFP"]) == ("DAPI", "GFP")
    assert names(["c:1/2 z:1/2 - DAPI", "c:2/2 z:1/2 - β", "x", "y"]) == ("DAPI", "β")
    assert names(["same"] * 4) == ()
    assert names(["one", "two"]) == ()
    assert names(["a", "b", "c", "d"], "TZYX") == ()
    data = bytearray((tmp_path / "in.tif").read_bytes())
    at = data.index(b"lbal" if order == "<" else b"labl")
    for place in range(at - 8, at + 12):  # whatever is in there, the pixels can be read
        torn = data.copy()
        torn[place] ^= 255
        (tmp_path / "in.tif").write_bytes(torn)
        with open_source(tmp_path / "in.tif") as source:
            assert source[..., 0:9, 0:9].shape == (9, 9)


def test_three_slices_stored_as_planar_colours_are_read_as_slices_when_told_so(tmp_path):
    pixels = image_of(3, 50, 61)
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="rgb", planarconfig="separate")
    with pytest.raises(InputError, match=r"choose one with --channel 0, or add --axes ZYX"):
        predict_file(model(), tmp_path / "in.tif", tmp_path / "out.tif", SMALL)
    predict_file(model(), tmp_path / "in.tif", tmp_path / "out.tif", replace(SMALL, axes="ZYX"))
    with open_source(tmp_path / "out.tif") as source:
        assert (source.axes, source.pages) == ("ZYX", 3)
        for number in range(3):
            found = source.page(number)[..., 0:50, 0:61]
            np.testing.assert_array_equal(found, probability(pixels[number]))
    colour = model(channels=3)
    predict_file(colour, tmp_path / "in.tif", tmp_path / "rgb.tif", replace(SMALL, axes="CYX"))
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "rgb.tif"), probability(pixels, colour)
    )
    with pytest.raises(InputError, match="has 1 channel per slice, the network takes 3"):
        predict_file(colour, tmp_path / "in.tif", tmp_path / "z.tif", replace(SMALL, axes="ZYX"))


@pytest.mark.parametrize("kind", ["uint8", "uint16", "rgb", "bool"])
def test_png_is_an_input(tmp_path, kind):
    pixels = image_of(50, 61)
    who = model(channels=3 if kind == "rgb" else 1)
    if kind == "rgb":
        pixels = np.stack([pixels, pixels // 2, 255 - pixels])
        Image.fromarray(np.moveaxis(pixels, 0, 2)).save(tmp_path / "in.png")
    else:
        pixels = pixels > 120 if kind == "bool" else pixels.astype(kind) * (kind == "uint16" or 1)
        Image.fromarray(pixels).save(tmp_path / "in.png")
    predict_file(who, tmp_path / "in.png", tmp_path / "out.tif", SMALL)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), probability(pixels, who))


def test_what_is_no_image_or_no_output_is_refused_with_a_way_on(tmp_path):
    Image.fromarray(image_of(50, 61)).save(tmp_path / "in.jpg")
    with pytest.raises(InputError, match="a JPEG image, whose compression has changed the pixels"):
        predict_file(model(), tmp_path / "in.jpg", tmp_path / "out.tif", SMALL)
    (tmp_path / "in.xyz").write_bytes(b"something else")
    with pytest.raises(InputError, match="TIFF, PNG and Zarr are read"):
        predict_file(model(), tmp_path / "in.xyz", tmp_path / "out.tif", SMALL)
    tifffile.imwrite(tmp_path / "in.tif", image_of(50, 61))
    with pytest.raises(UsageFault, match=r"results are TIFF .* not \.png"):
        predict_file(model(), tmp_path / "in.tif", tmp_path / "out.png", SMALL)
    tifffile.imwrite(tmp_path / "three.tif", image_of(3, 50, 61), photometric="minisblack",
                     metadata=None)  # fmt: skip
    with pytest.raises(UsageFault, match="no axis 'I'; say what it is with --axes"):
        predict_file(model(), tmp_path / "three.tif", tmp_path / "out.ome.tif", SMALL)
    half = replace(SMALL, dtype="float16")
    with pytest.raises(UsageFault, match="cannot hold float16"):
        predict_file(model(), tmp_path / "in.tif", tmp_path / "out.ome.tif", half)
    assert not list(tmp_path.glob("*out*"))


# --- levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif", "out.zarr"])
@pytest.mark.parametrize(
    ("save", "halve"), [("probability", halved_mean), ("instances", halved_mode)]
)
def test_smaller_levels_are_those_of_the_whole_result(stack, tmp_path, name, save, halve):
    settings = replace(SMALL, save=save, pyramid=True)
    predict_file(model(), stack, tmp_path / name, settings)
    if name == "out.zarr":
        group = zarr.open_group(tmp_path / name, mode="r")
        found = [group[level][...] for level in ("0", "1")]
        assert "2" not in group
    else:
        with tifffile.TiffFile(tmp_path / name) as tif:
            found = [
                np.stack([page.asarray() for page in tif.pages]),
                np.stack([page.pages[0].asarray() for page in tif.pages]),
            ]
            assert len(tif.pages[0].pages) == 1
    np.testing.assert_array_equal(found[1], halve(found[0]))
    assert found[1].shape == (3, 65, 150)
    predict_file(model(), stack, tmp_path / "plain.tif", replace(settings, pyramid=False))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "plain.tif"), found[0])
    assert made(tmp_path / name)["pyramid"] == ("mode" if save == "instances" else "mean")


# --- the certificate ------------------------------------------------------------------------------


def test_the_certificate_holds_its_values_however_often_the_run_was_interrupted(stack, tmp_path):
    settings = replace(SMALL, output_tile=52)
    summaries = predict_file(model(), stack, tmp_path / "whole.tif", settings)
    found = made(tmp_path / "whole.tif")["seams"]
    assert found["values_compared"] == sum(s.seam_compared for s in summaries) > 1000
    assert found["max_difference"] == max(s.seam_max_difference for s in summaries)
    assert found["probe_difference"] == max(s.probe_difference for s in summaries)
    assert found["probe_compared"] > 0
    out = tmp_path / "out.tif"
    for after in (9, 14):
        with pytest.raises(KeyboardInterrupt):
            predict_file(model(), stack, out, settings, resume=True, progress=Stopping(after))
    predict_file(model(), stack, out, settings, resume=True)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_labels_have_a_tolerance_in_pixels(stack, tmp_path):
    for save in ("label", "instances"):
        predict_file(model(), stack, tmp_path / f"{save}.tif", replace(SMALL, save=save))
        seams = made(tmp_path / f"{save}.tif")["seams"]
        assert (seams["held"], seams["tolerance"], seams["tolerance_share"]) == (True, None, 0.001)
        assert seams["values_compared"] > 1000


@pytest.mark.parametrize("save", ["probability", "label", "instances"])
def test_where_nothing_was_compared_no_seam_has_held(stack, tmp_path, capsys, save):
    out = tmp_path / "out.tif"
    predict_file(model(), stack, out, replace(SMALL, output_tile=300, save=save))
    seams = made(out)["seams"]
    assert (seams["held"], seams["values_compared"], seams["probe_compared"]) == (None, 0, 0)
    for as_json, words in ((False, "None (nothing to compare)\n"), (True, '"held": null')):
        print_description(describe(out), as_json=as_json)
        assert words in capsys.readouterr().out
    predict_file(model(), stack, tmp_path / "paper.tif", replace(SMALL, step="paper"))
    print_description(describe(tmp_path / "paper.tif"), as_json=False)
    assert "None (no tolerance)\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("save", "mean_of", "done"),
    [
        ("logits", "probabilities", "logits"),
        ("probability", "probabilities", "probabilities"),
        ("label", "logits", "logits"),
    ],
)
def test_a_file_names_what_was_averaged(stack, tmp_path, save, mean_of, done):
    settings = replace(SMALL, save=save, mean_of=mean_of, average="flips")
    predict_file(model(), stack, tmp_path / "out.tif", settings)
    assert made(tmp_path / "out.tif")["mean_of"] == done


@pytest.mark.parametrize(("tolerance", "held"), [(None, False), (1.0, True)])
def test_labels_that_do_not_fit_together_stop_the_run(
    stack, tmp_path, monkeypatch, tolerance, held
):
    from unet2015.predict_job import Job

    real = Job.function

    def unlike(job, scale):
        function, random = real(job, scale), np.random.default_rng(0)
        return lambda tiles: np.asarray(function(tiles)) ^ (random.random() < 0.4)

    monkeypatch.setattr(Job, "function", unlike)
    settings = replace(SMALL, save="label", seam_tolerance=tolerance)
    if held:
        predict_file(model(), stack, tmp_path / "out.tif", settings)
        assert made(tmp_path / "out.tif")["seams"]["tolerance_share"] == 1.0
        return
    with pytest.raises(SeamError, match=r"differ in .* % of the pixels .*accepted 0\.1 %"):
        predict_file(model(), stack, tmp_path / "out.tif", settings)
    assert [p.name for p in tmp_path.iterdir()] == [stack.name]


# --- complete already -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif", "out.zarr"])
@pytest.mark.parametrize("save", ["probability", "instances"])
def test_resuming_a_complete_output_does_nothing(stack, tmp_path, monkeypatch, name, save):
    settings = replace(SMALL, save=save, region=(0, 60, 0, 70))
    out, told = tmp_path / name, []
    predict_file(model(), stack, out, settings, say=told.append)
    leftover = tmp_path / f".{name}.classes.tif"
    leftover.write_bytes(b"of a run that was killed at the very end")
    monkeypatch.setattr("unet2015.predict_file.stitch", lambda *a, **k: 1 / 0)
    free = replace(settings, output_tile=0)  # then the tile is the one it was made with
    assert predict_file(model(), stack, out, free, resume=True, say=told.append) == []
    assert "is complete, made with these settings" in told[-1]
    assert not leftover.exists()
    other = [{"threshold": 0.4, "save": "label"}, {"channel": 0}]
    other.append({"seam_tolerance": 0.5})
    if save == "probability":
        other.append({"dtype": "float32"})
    if name != "out.zarr":  # which no setting packs in another way
        other.append({"compression": "none"})
    for changes in other:
        with pytest.raises(WriteError, match="already exists"):
            predict_file(model(), stack, out, replace(settings, **changes), resume=True)
    with pytest.raises(WriteError, match="already exists"):
        predict_file(replace(model(), sha256="x"), stack, out, settings, resume=True)


def test_a_zarr_of_which_pixels_are_missing_is_not_complete(stack, tmp_path):
    out = tmp_path / "out.zarr"
    predict_file(model(), stack, out, SMALL)
    assert predict_file(model(), stack, out, SMALL, resume=True) == []
    next(file for file in (out / "0" / "c").rglob("*") if file.is_file()).unlink()
    with pytest.raises(WriteError, match="already exists"):
        predict_file(model(), stack, out, SMALL, resume=True)


@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_a_complete_output_that_does_not_tell_its_type_has_the_type_it_has(stack, tmp_path, name):
    """Files made before the type was told of."""
    out = tmp_path / name
    predict_file(model(), stack, out, SMALL)
    assert finished(out)["dtype"] == "uint8"
    if name == "out.zarr":
        document = json.loads((out / "zarr.json").read_text())
        del document["attributes"]["unet2015"]["dtype"]
        (out / "zarr.json").write_text(json.dumps(document))
    else:
        out.write_bytes(out.read_bytes().replace(b'"dtype": "uint8", ', b" " * 18))
    assert finished(out)["dtype"] == "uint8"
    assert predict_file(model(), stack, out, SMALL, resume=True) == []
    with pytest.raises(WriteError, match="already exists"):
        predict_file(model(), stack, out, replace(SMALL, dtype="float32"), resume=True)


@pytest.mark.parametrize("tile", [5, 2**70, -4, True, "100"])
def test_a_file_of_others_does_not_choose_the_tile(stack, tmp_path, tile):
    out = tmp_path / "out.zarr"
    predict_file(model(), stack, out, SMALL)
    metadata = out / "zarr.json"
    document = json.loads(metadata.read_text())
    document["attributes"]["unet2015"] = {"seams": {}, "output_tile": tile}
    metadata.write_text(json.dumps(document))
    with pytest.raises(WriteError, match="already exists"):
        predict_file(model(), stack, out, replace(SMALL, output_tile=0), resume=True)


def test_a_file_of_others_is_not_complete(stack, tmp_path):
    tifffile.imwrite(tmp_path / "out.tif", image_of(9, 9))
    with pytest.raises(WriteError, match="already exists"):
        predict_file(model(), stack, tmp_path / "out.tif", SMALL, resume=True)
    text = json.dumps({"shape": [9, 9], "unet2015": {"seams": 3}})
    tifffile.imwrite(tmp_path / "out.tif", image_of(9, 9), description=text, metadata=None)
    with pytest.raises(WriteError, match="already exists"):
        predict_file(model(), stack, tmp_path / "out.tif", SMALL, resume=True)


@pytest.mark.parametrize("odd", [None, [], {}, "x", -1, [1]])
@pytest.mark.parametrize("name", ["unet2015", "seams", "output_tile", "versions"])
def test_a_damaged_history_is_no_bug(tmp_path, name, odd):
    history = {"seams": {}, "output_tile": 40, "versions": {}} | {name: odd}
    told = json.dumps({"unet2015": odd if name == "unet2015" else history})
    path = tmp_path / "out.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), description=told, metadata=None)
    assert not made_alike(finished(path), {"output_tile": 40})
    assert tile_begun_with(path, instances=False) in (0, 40)
    print_description(describe(path), as_json=False)


def test_what_json_cannot_say_is_told_as_text(tmp_path, capsys):
    path = tmp_path / "out.tif"
    told = '{"unet2015": {"seams": NaN, "history": [Infinity]}}'
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), description=told, metadata=None)
    print_description(describe(path), as_json=True)

    def refuse(word):
        raise AssertionError(word)

    out = capsys.readouterr().out
    json.loads(out, parse_constant=refuse)
    assert '"NaN"' in out


@pytest.mark.parametrize("save", ["probability", "instances"])
def test_a_zarr_names_its_own_codec_and_is_taken_up_whatever_it_named(stack, tmp_path, save):
    settings = replace(SMALL, save=save, classes=None)
    predict_file(model(), stack, tmp_path / "out.tif", settings)
    assert made(tmp_path / "out.tif")["compression"] == "deflate"
    out = tmp_path / "out.zarr"
    predict_file(model(), stack, out, settings)
    told = zarr.open_group(out, mode="r")["0"].compressors
    assert [codec.to_dict()["name"] for codec in told] == [made(out)["compression"]] == ["zstd"]
    metadata = out / "zarr.json"
    for named in ("zstd", "deflate"):  # the latter by versions before
        document = json.loads(metadata.read_text())
        document["attributes"]["unet2015"]["compression"] = named
        metadata.write_text(json.dumps(document))
        assert predict_file(model(), stack, out, settings, resume=True) == []
