"""From file to file: what is written, what it says about itself, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image
from scipy import ndimage

from tiling import open_source
from tiling.faults import (
    InputChangedError,
    InputError,
    MemoryFault,
    ModelFileError,
    UsageFault,
    WriteError,
)
from unet2015.net import UNet, init_paper_weights
from unet2015.overlay import write_overlay
from unet2015.predict import predict_array
from unet2015.predict_file import Model, Settings, predict_file, prepare
from unet2015.predict_text import plan_text, summary_text

SMALL = Settings(output_tile=36, device="cpu", memory_bytes=2 << 30)


def model(channels=1, classes=2, scale="dtype-range"):
    net = UNet(channels, classes, base_channels=2, depth=3)
    init_paper_weights(net, seed=4)
    return Model(net, scale, "abc")


def image_of(*shape, seed=0):
    noise = np.random.default_rng(seed).random(shape)
    smooth = ndimage.gaussian_filter(noise, (0,) * (len(shape) - 2) + (2, 2))
    smooth -= smooth.min()
    return (255 * smooth / smooth.max()).astype(np.uint8)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, image_of(90, 130), resolution=(20000, 20000), resolutionunit=3)
    return path


def said(path):
    with open_source(path) as source:
        return json.loads(source.image.description)["unet2015"]


def probability(pixels, who=None, **options):
    found = predict_array((who or model()).net, pixels, **options)[1]
    return np.rint(found * np.float32(255)).astype(np.uint8)


# --- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["tif", "ome.zarr", "zarr/"])
def test_probabilities_equal_those_of_the_array(image, tmp_path, ending):
    out = f"{tmp_path}/out.{ending}"
    (summary,) = predict_file(model(), image, out, SMALL)
    with open_source(out) as source:
        found = source[..., 0:90, 0:130]
        assert source.axes == "YX"
        x, y, unit = source.resolution
        assert (x, y, unit) in ((20000, 20000, "cm"), (pytest.approx(20000), y, unit))
    np.testing.assert_array_equal(found, probability(tifffile.imread(image)))
    assert summary.seam_max_difference == summary.probe_difference == 0
    assert summary.seam_compared > 0


def test_other_programs_read_the_output(image, tmp_path):
    predict_file(model(), image, tmp_path / "out.tif", SMALL)
    expected = probability(tifffile.imread(image))
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        np.testing.assert_array_equal(tif.asarray(), expected)
        assert tif.is_bigtiff
        assert tif.series[0].axes == "YX"
        assert tif.pages[0].tags["XResolution"].value[0] == 20000
    with Image.open(tmp_path / "out.tif") as picture:
        np.testing.assert_array_equal(np.asarray(picture), expected)
        assert picture.info["dpi"][0] == pytest.approx(20000 * 2.54)
    predict_file(model(), image, tmp_path / "out.zarr", SMALL)
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    np.testing.assert_array_equal(group["0"][:], expected)
    (scale,) = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == [1 / 20000, 1 / 20000]


def test_the_file_says_what_made_it_and_that_its_seams_held(image, tmp_path):
    predict_file(model(), image, tmp_path / "out.tif", SMALL)
    found = said(tmp_path / "out.tif")
    assert found["normalise"] == "dtype-range"
    assert found["gain"] == 1 / 255
    assert found["model_sha256"] == "abc"
    seams = found["seams"]
    assert {name: seams[name] for name in list(seams)[:8]} == {
        "exact": True, "step": 32, "margin": 44, "period": 8, "compared_px": 4, "tolerance": 1.0,
        "held": True, "max_difference": 0.0,
    }  # fmt: skip
    assert seams["values_compared"] == 3 * 4 * (90 + 2 * 4) + 2 * 4 * 130
    assert (seams["values_differing"], seams["probe_difference"]) == (0, 0.0)
    predict_file(model(), image, tmp_path / "paper.tif", replace(SMALL, step="paper"))
    found = said(tmp_path / "paper.tif")["seams"]
    assert (found["exact"], found["step"], found["held"]) == (False, 36, None)


@pytest.mark.parametrize(
    ("axes", "shape", "channels", "given", "out_axes"),
    [
        ("ZYX", (3, 50, 61), 1, "", "ZYX"),
        ("TZYX", (2, 2, 50, 61), 1, "", "TZYX"),
        ("CYX", (2, 50, 61), 2, "", "YX"),
        ("TCYX", (2, 2, 50, 61), 2, "", "TYX"),
        (None, (3, 50, 61), 3, "CYX", "YX"),
        (None, (3, 50, 61), 1, "", "IYX"),
    ],
)
def test_axes_are_kept_and_never_guessed(tmp_path, axes, shape, channels, given, out_axes):
    pixels = image_of(*shape)
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="minisblack",
                     metadata={"axes": axes} if axes else None)  # fmt: skip
    who = model(channels)
    settings = replace(SMALL, axes=given)
    predict_file(who, tmp_path / "in.tif", tmp_path / "out.tif", settings)
    with open_source(tmp_path / "out.tif") as source:
        assert source.axes == out_axes
        count = source.pages
        found = [source.page(i)[..., 0:50, 0:61] for i in range(count)]
    planes = pixels.reshape(count, *(channels,) * (channels > 1), 50, 61)
    for one, plane in zip(found, planes, strict=True):
        np.testing.assert_array_equal(one, probability(plane, who))


def test_what_the_axes_do_not_say_is_asked(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", image_of(3, 50, 61), photometric="minisblack",
                     metadata=None)  # fmt: skip
    with pytest.raises(InputError, match="add --axes CYX"):
        predict_file(model(3), tmp_path / "in.tif", tmp_path / "out.tif", SMALL)
    with pytest.raises(UsageFault, match=r"whose axes are .*; give one letter of ITZPRC for each"):
        predict_file(model(3), tmp_path / "in.tif", tmp_path / "out.tif",
                     replace(SMALL, axes="TCZYX"))  # fmt: skip
    tifffile.imwrite(tmp_path / "in.tif", image_of(2, 50, 61), metadata={"axes": "CYX"},
                     photometric="minisblack")  # fmt: skip
    with pytest.raises(InputError, match="choose one with --channel"):
        predict_file(model(1), tmp_path / "in.tif", tmp_path / "out.tif", SMALL)
    predict_file(model(1), tmp_path / "in.tif", tmp_path / "out.tif", replace(SMALL, channel=1))
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "out.tif"), probability(image_of(2, 50, 61)[1])
    )


@pytest.mark.parametrize(
    ("name", "word"),
    [("DAPI", "DAPI"), ("Alexa 488", "'Alexa 488'"), ("-x", "0"), ("488", "0"), ("", "0")],
)
def test_a_channel_is_named_as_a_shell_takes_it(tmp_path, name, word):
    tifffile.imwrite(
        tmp_path / "in.ome.tif", image_of(2, 50, 61), photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": [name, "other"]}},
    )  # fmt: skip
    with pytest.raises(InputError) as caught:
        predict_file(model(1), tmp_path / "in.ome.tif", tmp_path / "out.tif", SMALL)
    assert caught.value.reason.endswith(f"choose one with --channel {word}")


def test_axes_that_do_not_end_in_rows_and_columns_are_asked(tmp_path):
    pixels = image_of(3, 50, 61)
    tifffile.imwrite(tmp_path / "in.tif", pixels, metadata={"axes": "ZXY"},
                     photometric="minisblack")  # fmt: skip
    with pytest.raises(InputError, match=r"do not end in YX.*3 pages; say what they are with --"):
        predict_file(model(1), tmp_path / "in.tif", tmp_path / "out.tif", SMALL)
    predict_file(model(1), tmp_path / "in.tif", tmp_path / "out.tif", replace(SMALL, axes="ZYX"))
    with open_source(tmp_path / "out.tif") as source:
        assert (source.axes, source.pages) == ("ZYX", 3)


@pytest.mark.parametrize(
    ("names", "given", "said", "out_axes"),
    [
        (["slice", "y", "x"], "", "", "IYX"),
        (["s", "y", "x"], "ZYX", "", "ZYX"),
        (["s", "z", "y", "x"], "TZYX", "", "TZYX"),
        (["s", "i", "y", "x"], "", "2 x 3 pages; say what they are with --axes", ""),
        (["s", "i", "y", "x"], "TZYX", "", "TZYX"),
    ],
)
def test_an_axis_of_a_zarr_that_begins_with_s_is_pages(tmp_path, names, given, said, out_axes):
    pixels = image_of(*(2, 3, 50, 61)[-len(names) :])
    array = zarr.create_array(tmp_path / "in.zarr", shape=pixels.shape, dtype="u1",
                              dimension_names=names)  # fmt: skip
    array[...] = pixels
    wanted = model(), tmp_path / "in.zarr", tmp_path / "out.tif", replace(SMALL, axes=given)
    if said:
        with pytest.raises(InputError, match=said):
            predict_file(*wanted)
        return
    predict_file(*wanted)
    with open_source(tmp_path / "out.tif") as source:
        assert source.axes == out_axes
        found = [source.page(i)[..., 0:50, 0:61] for i in range(source.pages)]
    for one, plane in zip(found, pixels.reshape(-1, 50, 61), strict=True):
        np.testing.assert_array_equal(one, probability(plane))


def test_all_classes_logits_and_regions(image, tmp_path):
    who, pixels = model(classes=3), tifffile.imread(image)
    region = (11, 80, 37, 101)
    settings = replace(SMALL, save="logits", region=region)
    predict_file(who, image, tmp_path / "out.tif", settings)
    whole = predict_array(who.net, pixels, save="logits")
    found = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_array_equal(found, whole[:, 11:80, 37:101])
    predict_file(who, image, tmp_path / "one.tif", replace(SMALL, classes=2, dtype="uint16"))
    expected = np.rint(predict_array(who.net, pixels)[2] * np.float32(65535)).astype(np.uint16)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "one.tif"), expected)


@pytest.mark.parametrize(("connectivity", "ending"), [(4, "tif"), (8, "tif"), (4, "zarr")])
def test_instances_equal_labelling_the_whole(tmp_path, connectivity, ending):
    pixels = image_of(2, 90, 130)
    tifffile.imwrite(tmp_path / "in.tif", pixels, metadata={"axes": "ZYX"},
                     photometric="minisblack")  # fmt: skip
    levels = [predict_array(model().net, plane)[1] for plane in pixels]
    level = float(np.median(levels))
    settings = replace(SMALL, save="instances", threshold=level, connectivity=connectivity)
    told = []
    out = tmp_path / f"out.{ending}"
    predict_file(model(), tmp_path / "in.tif", out, settings, say=told.append)
    structure = np.ones((3, 3)) if connectivity == 8 else None
    with open_source(out) as source:
        assert source.dtype == np.uint32
        for number in range(2):
            expected, count = ndimage.label(levels[number].astype(float) > level, structure)
            found = source.page(number)[..., 0:90, 0:130]
            np.testing.assert_array_equal(found, expected)
            assert count > 5
            assert told[number].endswith(f"plane {number} holds {count} objects")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", out.name]


def test_labels_by_threshold(image, tmp_path):
    settings = replace(SMALL, save="label", threshold=0.4)
    predict_file(model(), image, tmp_path / "out.tif", settings)
    expected = predict_array(model().net, tifffile.imread(image))[1].astype(float) > 0.4
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), expected)


# --- normalisation --------------------------------------------------------------------------------


def test_normalisation_is_of_the_whole_image_and_as_the_checkpoint_says(tmp_path):
    pixels = image_of(80, 80).astype(np.uint16) * 9 + 500
    tifffile.imwrite(tmp_path / "in.tif", pixels)
    who, region = model(scale="percentile:2:98"), (0, 40, 8, 70)
    for name, given in (("a", ""), ("b", "percentile:2:98"), ("c", "min-max")):
        predict_file(who, tmp_path / "in.tif", tmp_path / f"{name}.tif",
                     replace(SMALL, normalise=given, region=region))  # fmt: skip
    a, b, c = (tifffile.imread(tmp_path / f"{name}.tif") for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    low, high = np.percentile(pixels, (2, 98))  # of all of it, not of the region
    assert said(tmp_path / "a.tif")["offset"] == [pytest.approx(low)]
    assert said(tmp_path / "a.tif")["gain"] == [pytest.approx(1 / (high - low))]
    whole = predict_array(who.net, pixels, scale="percentile:2:98")[1][0:40, 8:70]
    np.testing.assert_array_equal(a, np.rint(whole * np.float32(255)))
    with pytest.raises(ModelFileError, match=r"'x{80}' is unknown; .*; give --normalise"):
        predict_file(model(scale="x" * 10**6), tmp_path / "in.tif", tmp_path / "d.tif", SMALL)
    with pytest.raises(UsageFault, match="--normalise: normalisation 'best' is unknown"):
        predict_file(who, tmp_path / "in.tif", tmp_path / "d.tif",
                     replace(SMALL, normalise="best"))  # fmt: skip


def test_c15_nan_in_a_file(tmp_path):
    pixels = np.zeros((60, 70), np.float32)
    pixels[33, 44] = np.nan
    tifffile.imwrite(tmp_path / "in.tif", pixels)
    with pytest.raises(InputError, match=r"in.tif: holds 1 NaN .* row 33, column 44; .*--nan-to"):
        predict_file(model(), tmp_path / "in.tif", tmp_path / "out.tif", SMALL)
    assert not (tmp_path / "out.tif").exists()
    predict_file(model(), tmp_path / "in.tif", tmp_path / "out.tif", replace(SMALL, nan_to=0.0))
    zero = probability(np.zeros((60, 70), np.float32))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), zero)


@pytest.mark.parametrize("normalise", ["", "min-max", "percentile", "median"])
def test_c16_a_constant_image_is_worth_a_warning(tmp_path, normalise):
    tifffile.imwrite(tmp_path / "in.tif", np.full((60, 70), 9, np.uint8))
    told = []
    predict_file(model(), tmp_path / "in.tif", tmp_path / "out.tif",
                 replace(SMALL, normalise=normalise), say=told.append)  # fmt: skip
    assert len(told) == 1
    assert "every pixel is 9" in told[0]


# --- memory, faults, resume -----------------------------------------------------------------------


def test_f5_memory_is_estimated_first(image, tmp_path):
    def chosen(**changes):
        with open_source(image) as source:
            return prepare(model(), source, "image.tif", replace(SMALL, **changes))

    assert chosen(output_tile=0, memory_bytes=1 << 30).geometry.output == 132
    tight = chosen(output_tile=0, memory_bytes=(48 << 20) + 800_000)
    assert tight.geometry.output < 132
    assert tight.network_bytes + tight.pipeline_bytes <= (48 << 20) + 800_000
    with pytest.raises(MemoryFault, match=r"even the smallest tile needs about 0\.05 GiB"):
        chosen(output_tile=0, memory_bytes=40 << 20)
    with pytest.raises(MemoryFault, match="--output-tile 1028 needs about"):
        chosen(output_tile=1028, memory_bytes=100 << 20)
    with pytest.raises(UsageFault, match="nearest: 388 or 396"):
        chosen(output_tile=390)


class Stopping:
    """Stops the run after some tiles, as Ctrl-C would; or does something else then."""

    def __init__(self, after, what=None):
        self.after, self.what = after, what

    def __call__(self, _job, plane, done, _tiles):
        self.after -= 1
        if self.after == 0:
            if self.what is None:
                raise KeyboardInterrupt
            self.what()


def test_a_resumed_run_calls_no_image_constant_of_which_it_saw_a_part(tmp_path):
    pixels = image_of(1, 400, 90)
    pixels[..., 60:, :] = 0
    tifffile.imwrite(tmp_path / "in.tif", pixels)
    wanted, told = (model(), tmp_path / "in.tif", tmp_path / "out.tif", SMALL), []
    with pytest.raises(KeyboardInterrupt):
        predict_file(*wanted, progress=Stopping(30))
    (summary,) = predict_file(*wanted, resume=True, say=told.append)
    assert summary.rows_kept > 200
    assert told == []


@pytest.mark.parametrize("save", ["probability", "instances"])
@pytest.mark.parametrize("after", [1, 7, 14, 23])
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path, save, after):
    tifffile.imwrite(tmp_path / "in.tif", image_of(2, 130, 170), metadata={"axes": "ZYX"},
                     photometric="minisblack")  # fmt: skip
    settings = replace(SMALL, output_tile=52, save=save)
    predict_file(model(), tmp_path / "in.tif", tmp_path / "whole.tif", settings)
    out = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        predict_file(model(), tmp_path / "in.tif", out, settings, progress=Stopping(after))
    assert not out.exists()
    predict_file(model(), tmp_path / "in.tif", out, settings, resume=True)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", "out.tif", "whole.tif"]


@pytest.mark.parametrize("more", [{}, {"overwrite": True}])
def test_class_labels_of_an_overwriting_run_do_not_stay(tmp_path, more):
    tifffile.imwrite(tmp_path / "in.tif", image_of(600, 60))
    settings = replace(SMALL, save="instances")
    wanted = model(), tmp_path / "in.tif", tmp_path / "out.tif", settings
    predict_file(*wanted)
    before, there = (tmp_path / "out.tif").read_bytes(), sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        predict_file(*wanted, overwrite=True, progress=Stopping(30))
    assert len(list(tmp_path.iterdir())) > len(there)
    assert predict_file(*wanted, resume=True, **more) == []
    assert sorted(tmp_path.iterdir()) == there
    assert (tmp_path / "out.tif").read_bytes() == before


def test_class_labels_that_were_finished_are_used_again(image, tmp_path, monkeypatch):
    settings = replace(SMALL, save="instances")
    predict_file(model(), image, tmp_path / "whole.tif", settings)
    monkeypatch.setattr("unet2015.predict_file.label_bands", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict_file(model(), image, tmp_path / "out.tif", settings)
    monkeypatch.undo()
    monkeypatch.setattr("unet2015.predict_file.stitch", lambda *a, **k: 1 / 0)
    assert predict_file(model(), image, tmp_path / "out.tif", settings, resume=True) == []
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


@pytest.mark.parametrize("labelling", [False, True])
def test_class_labels_that_nobody_wants_any_more_are_removed(
    image, tmp_path, monkeypatch, labelling
):
    settings, out = replace(SMALL, save="instances"), tmp_path / "out.tif"
    if labelling:
        monkeypatch.setattr("unet2015.predict_file.label_bands", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict_file(model(), image, out, settings)
    else:  # as SIGKILL leaves it
        for ending in ("part", "part.journal"):
            (tmp_path / f"..out.tif.classes.tif.{ending}").write_bytes(b"x")
    assert list(tmp_path.glob(".*out.tif.classes.tif*")) != []
    predict_file(model(), image, out, SMALL)
    assert sorted(tmp_path.iterdir()) == [image, out]


def test_b12_an_input_that_changes_is_noticed(image, tmp_path):
    def touch():
        os.utime(image, ns=(1, 1))

    with pytest.raises(InputChangedError, match="changed while it was being read"):
        predict_file(model(), image, tmp_path / "out.tif", SMALL, progress=Stopping(3, touch))
    assert not (tmp_path / "out.tif").exists()
    tifffile.imwrite(image, image_of(90, 130, seed=9))
    with pytest.raises(WriteError, match=r"unfinished output of other settings \(another image\)"):
        predict_file(model(), image, tmp_path / "out.tif", SMALL, resume=True)
    other = replace(model(), sha256="another")
    with pytest.raises(WriteError, match=r"other settings \(another model\)"):
        predict_file(other, image, tmp_path / "out.tif", SMALL, resume=True)
    predict_file(model(), image, tmp_path / "out.tif", SMALL)


@pytest.mark.parametrize("version", [2, 3])
def test_b12_a_zarr_that_changes_is_noticed(tmp_path, version):
    folder = tmp_path / "in.zarr"
    array = zarr.create_array(folder, shape=(90, 130), chunks=(16, 130), dtype="u1",
                              zarr_format=version)  # fmt: skip
    array[:] = image_of(90, 130)
    chunk = folder / ("5.0" if version == 2 else "c/5/0")  # the last one, not yet read

    def rewrite():
        (tmp_path / "new").write_bytes(chunk.read_bytes())
        (tmp_path / "new").replace(chunk)

    with pytest.raises(InputChangedError, match="was written to while it was read"):
        predict_file(model(), folder, tmp_path / "out.tif", SMALL, progress=Stopping(1, rewrite))
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize("sampled", [1 << 20, 0])
def test_b12_pixels_of_a_zarr_folder_that_change_are_noticed(image, tmp_path, monkeypatch, sampled):
    predict_file(model(), image, tmp_path / "in.zarr", SMALL)
    monkeypatch.setattr("unet2015.predict_history.SAMPLED", sampled)
    wanted = model(), tmp_path / "in.zarr", tmp_path / "out.tif", SMALL
    predict_file(*wanted)
    assert predict_file(*wanted, resume=True) == []
    chunk = max(tmp_path.glob("in.zarr/0/c/**/*"), key=lambda path: path.is_file())
    pixels = bytearray(chunk.read_bytes())
    pixels[len(pixels) // 2] ^= 1
    chunk.write_bytes(pixels)
    with pytest.raises(WriteError, match="already exists"):
        predict_file(*wanted, resume=True)


def test_outputs_are_not_replaced_and_inputs_are_safe(image, tmp_path):
    (tmp_path / "out.tif").write_bytes(b"mine")
    with pytest.raises(WriteError, match="already exists"):
        predict_file(model(), image, tmp_path / "out.tif", SMALL)
    with pytest.raises(WriteError, match="is also the input"):
        predict_file(model(), image, image, SMALL, overwrite=True)
    predict_file(model(), image, tmp_path / "in.zarr", SMALL)
    with pytest.raises(WriteError, match="is also the input"):
        predict_file(model(), tmp_path / "in.zarr", tmp_path / "in.zarr", SMALL, overwrite=True)
    predict_file(model(), tmp_path / "in.zarr", tmp_path / "out.tif", SMALL, overwrite=True)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"classes": 5}, "classes 0 to 1"),
        ({"save": "label", "classes": 1}, "need --threshold"),
        ({"save": "instances", "dtype": "uint8"}, "always uint32"),
        ({"threshold": 0.5}, "--save label"),
        ({"region": (0, 91, 0, 5)}, "not inside 90 x 130 pixels; give Y0 < Y1 of 0 to 90"),
        ({"nan_to": float("nan")}, "--nan-to nan: give a number nearer to 0 than 1e30"),
        (
            {"normalise": "fixed:0:1e-310"},
            "'fixed:0:1e-310': give LOW < HIGH .* more than 1e-30 apart",
        ),
        ({"device": "cpu:7"}, "--device cpu:7: not available"),
        ({"device": "tpu"}, "--device tpu"),
        ({"precision": "fp16"}, "not on a CPU"),
        ({"average": "most"}, "choose average"),
    ],
)
def test_settings_that_do_not_fit_are_refused(image, tmp_path, wrong, words):
    with pytest.raises(UsageFault, match=words):
        predict_file(model(), image, tmp_path / "out.tif", replace(SMALL, **wrong))
    assert [p.name for p in tmp_path.iterdir()] == ["image.tif"]


# --- text and pictures ----------------------------------------------------------------------------


@pytest.mark.parametrize("save", ["probability", "label", "logits", "instances"])
def test_an_overlay_shows_the_first_plane(image, tmp_path, save):
    settings = replace(SMALL, save=save)
    predict_file(model(), image, tmp_path / "out.tif", settings)
    with open_source(image) as source:
        job = prepare(model(), source, "image.tif", settings)
        write_overlay(job, tmp_path / "out.tif", tmp_path / "a.png", overwrite=False)
        assert "step 32 px" in plan_text(job)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (130, 90)
        assert picture.mode == "RGB"


@pytest.mark.parametrize(
    ("hardware", "precision"), [(True, "fp32"), (True, "bf16"), (False, "fp32")]
)
def test_the_plan_names_the_faster_number_format(image, monkeypatch, hardware, precision):
    monkeypatch.setattr("unet2015.predict_text.has_fast_bf16", lambda device: hardware)
    with open_source(image) as source:
        job = prepare(model(), source, "image.tif", replace(SMALL, precision=precision))
        told = "with --precision bf16 about" in plan_text(job)
    assert told == (hardware and precision == "fp32")


def test_the_plan_and_the_summary_name_what_matters(image, tmp_path):
    summaries = predict_file(model(), image, tmp_path / "out.tif", SMALL)
    with open_source(image) as source:
        job = prepare(model(), source, "image.tif", SMALL)
        plan = plan_text(job)
    for words in (
        "3 x 4 = 12 per plane",
        "next to this one 28 and 44",
        "computed twice and compared: 4 px",
        "GiB in the network",
        "smaller tiles if the device runs out: 20, 12\n",
        "time        about",
    ):
        assert words in plan
    text = summary_text(tmp_path / "out.tif", job, summaries)
    for words in ("12 tiles", "waited", "peak memory", "0 differ", "probe tile 0"):
        assert words in text


@pytest.mark.parametrize(
    ("options", "work"),
    [
        ({}, f"{12 * 124**2 / (90 * 130):.2f} x the pixels of the image"),
        ({"average": "flips"}, f"{4 * 12 * 124**2 / (90 * 130):.2f} x the pixels of the image"),
        ({"average": "all"}, f"{8 * 12 * 124**2 / (90 * 130):.2f} x the pixels of the image"),
        ({"region": (0, 36, 0, 36)}, f"{124**2 / 36**2:.2f} x the pixels of the region"),
        ({"region": (0, 90, 0, 130)}, f"{12 * 124**2 / (90 * 130):.2f} x the pixels of the image"),
    ],
)
def test_the_plan_counts_what_the_network_sees(image, options, work):
    with open_source(image) as source:
        job = prepare(model(), source, "image.tif", replace(SMALL, **options))
        assert f"the network sees {work};" in plan_text(job)


def test_the_summary_of_one_tile_tells_that_nothing_was_compared(image, tmp_path):
    settings = replace(SMALL, output_tile=132)
    summaries = predict_file(model(), image, tmp_path / "out.tif", settings)
    with open_source(image) as source:
        job = prepare(model(), source, "image.tif", settings)
    text = summary_text(tmp_path / "out.tif", job, summaries)
    assert "seams: none, nothing to compare\n" in text


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "options", "axes"),
    [
        ("large/codex-R001_X003_Y004.ome.tif", {"channel": 1, "normalise": "percentile"}, "YX"),
        ("large/sem-rat5-bigtiff-tiled.tif", {}, "YX"),
        ("large/nuclear_protein_control_uint16.tif", {"normalise": "median"}, "YX"),
        ("isbi2012/test-volume.tif", {"region": (0, 200, 100, 300)}, "IYX"),
    ],
)
def test_real_files(real_data, tmp_path, name, options, axes):
    settings = replace(SMALL, output_tile=0, **options)
    predict_file(model(), real_data / name, tmp_path / "out.tif", settings)
    with open_source(real_data / name) as source, open_source(tmp_path / "out.tif") as out:
        assert out.axes == axes
        if source.resolution and source.resolution[2] == "um":
            x, _, unit = out.resolution
            assert x / {"cm": 1e4, "um": 1}[unit] == pytest.approx(source.resolution[0], rel=1e-6)
        pixels = source.page(options.get("channel", 0))[..., 0:170, 0:200]
    with Image.open(tmp_path / "out.tif") as picture:
        found = np.asarray(picture)
    seams = said(tmp_path / "out.tif")["seams"]
    assert seams["held"] is (True if seams["values_compared"] else None)
    if not options:
        expected = probability(pixels)[:60, :90]  # beyond the reach of the crop's edges
        np.testing.assert_array_equal(found[:60, :90], expected)
    assert torch.get_num_threads() >= 1
