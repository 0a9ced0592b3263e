"""`unet2015 predict`: names of outputs, options without effect, values and channels of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from tiling import open_source
from tiling.faults import InputError, UsageFault
from unet2015.checkpoint import Checkpoint, describe_network, save
from unet2015.cli import main
from unet2015.net import UNet, init_paper_weights
from unet2015.planes import planes_of
from unet2015.predict import predict_array

PIXELS = np.random.default_rng(3).integers(0, 256, (90, 70), np.uint8)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for channels in (1, 3):
        net = UNet(channels, base_channels=1, depth=1)
        init_paper_weights(net, seed=1)
        content = Checkpoint(network=describe_network(net), weights=net.state_dict())
        save(f"net{channels}.safetensors", content)
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(name, PIXELS)
    return tmp_path


def predict(*words, channels=1):
    given = ["predict", f"net{channels}.safetensors", *words, "--device", "cpu"]
    return main([*given, "--output-tile", "40", "--memory", "2"])


def names():
    return sorted(path.as_posix() for path in Path().rglob("*.*") if "net" not in path.name)


def test_a_slash_makes_a_folder_of_one_image(here):
    assert predict("a.tif", "--out", "maps/") == 0
    assert names() == ["a.tif", "b.tif", "maps/a.prob.tif"]
    assert predict("b.tif", "--out", "maps") == 0
    assert Path("maps/b.prob.tif").is_file()


@pytest.mark.parametrize("name", ["results", "p.npz", "p.nii.gz", "p.png"])
def test_a_name_of_another_format_is_refused(here, name, capsys):
    assert predict("a.tif", "--out", name) == 2
    told = capsys.readouterr().err
    assert "results are TIFF (.tif, .ome.tif) or OME-Zarr (.zarr), not" in told
    assert "a slash at the end makes a folder" in told
    assert names() == ["a.tif", "b.tif"]


@pytest.mark.parametrize(
    "words", [("a.tif", "b.tif", "--out", "p.tif"), ("a.tif", "b.tif", "--out", "p.zarr"),
              ("a.tif", "--out", "p.tif/")],
)  # fmt: skip
def test_a_file_is_no_folder_of_results(here, words, capsys):
    assert predict(*words) == 2
    assert "is the name of a file" in capsys.readouterr().err
    assert names() == ["a.tif", "b.tif"]


def test_a_later_image_that_is_absent_is_told_before_the_first(here, capsys):
    assert predict("a.tif", "none.tif", "--out", "maps") == 3
    assert "none.tif: cannot be read: No such file" in capsys.readouterr().err
    assert names() == ["a.tif", "b.tif"]
    assert not Path("maps").exists()


def test_an_alpha_channel_of_nan_is_constant(here):
    pixels = np.dstack([PIXELS / np.float32(255)] * 4)
    pixels[..., 3] = np.nan
    tifffile.imwrite("c.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    assert predict("c.tif", "--out", "p.tif", channels=3) == 0


def test_an_output_of_a_later_image_is_refused_before_the_first(here, capsys):
    Path("maps").mkdir()
    Path("maps/b.prob.tif").write_bytes(b"precious")
    assert predict("a.tif", "b.tif", "--out", "maps") == 5
    assert "maps/b.prob.tif: already exists; use --overwrite" in capsys.readouterr().err
    assert names() == ["a.tif", "b.tif", "maps/b.prob.tif"]
    assert predict("a.tif", "b.tif", "--out", "maps", "--overwrite") == 0
    assert predict("a.tif", "b.tif", "--out", "maps", "--resume") == 0
    assert capsys.readouterr().err.count("nothing was left to do") == 2


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("--connectivity", "8"), "only objects have neighbours; add --save instances"),
        (("--mean-of", "logits"), "nothing is averaged; add --average flips"),
        (
            ("--mean-of", "probabilities", "--save", "logits", "--average", "flips"),
            "saved logits are averaged as logits; save something else, or leave it out",
        ),
        (("--compression", "none"), "a Zarr has a compression of its own; write a TIFF"),
        (("--seam-tolerance", "1", "--step", "paper"), "no seam is compared; take --step exact"),
    ],
)
def test_an_option_without_effect_is_refused(here, words, remedy, capsys):
    assert predict("a.tif", "--out", "p.zarr", *words) == 2
    assert remedy in capsys.readouterr().err
    assert names() == ["a.tif", "b.tif"]


@pytest.mark.parametrize("dtype", ["uint32", "int16", "int8"])
def test_integers_without_a_grey_range_ask_for_a_normalisation(here, dtype, capsys):
    values = PIXELS.astype(dtype) // 2
    tifffile.imwrite("c.tif", values)
    for plan in ((), ("--plan",)):
        assert predict("c.tif", "--out", "p.tif", *plan) == 3
        told = f"c.tif: images of dtype {dtype} have no agreed grey range; add --normalise per"
        assert told in capsys.readouterr().err
    assert predict("c.tif", "--out", "p.tif", "--normalise", "min-max") == 0
    with pytest.raises(ValueError, match="no agreed grey range"):
        predict_array(UNet(base_channels=1, depth=1), values)


def test_floats_far_from_one_are_told(here, capsys):
    tifffile.imwrite("c.tif", PIXELS.astype(np.float32))
    assert predict("c.tif", "--out", "p.tif") == 0
    told = "c.tif: images of floating point reach 255 and are taken as they are; if training saw"
    first, *others = capsys.readouterr().err.splitlines()
    assert told in first
    assert "tile 56 -> 40" in others[0]  # before the work
    assert predict("c.tif", "--out", "q.tif", "--normalise", "min-max") == 0
    tifffile.imwrite("d.tif", PIXELS / np.float32(255))
    assert predict("d.tif", "--out", "r.tif") == 0
    assert "floating point" not in capsys.readouterr().err


def test_a_constant_alpha_channel_is_left_out(here, capsys):
    colours = np.stack([PIXELS, PIXELS[::-1], PIXELS[:, ::-1]], axis=-1)
    alpha = np.full((*PIXELS.shape, 1), 255, np.uint8)
    tifffile.imwrite("rgb.tif", colours)
    tifffile.imwrite("rgba.tif", np.concatenate([colours, alpha], axis=-1))
    assert predict("rgb.tif", "--out", "p.tif", channels=3) == 0
    assert predict("rgba.tif", "--out", "q.tif", channels=3) == 0
    assert "rgba.tif: its fourth channel is left out as alpha, if it" in capsys.readouterr().err
    assert np.array_equal(tifffile.imread("p.tif"), tifffile.imread("q.tif"))
    pages = [np.concatenate([colours, alpha - alpha * page], axis=-1) for page in (0, 1)]
    tifffile.imwrite("rgba.tif", np.stack(pages))
    assert predict("rgba.tif", "--out", "r.tif", channels=3) == 3
    alpha[70, 3] = 7
    tifffile.imwrite("rgba.tif", np.concatenate([colours, alpha], axis=-1))
    assert predict("rgba.tif", "--out", "r.tif", channels=3) == 3
    assert "rgba.tif: has a fourth channel, by rights alpha, that varies" in capsys.readouterr().err
    assert not Path("r.tif").exists()


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_the_axes_of_a_tiff_with_channels_can_be_named(here, kind):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 2, 9, 8), np.uint8)
    name = "c.ome.tif" if kind == "ome" else "c.tif"
    tifffile.imwrite(name, pixels, metadata={"axes": "ZCYX"}, photometric="minisblack",
                     imagej=kind == "imagej")  # fmt: skip
    for given, axes, channels, count in (
        ("", "Z", 2, 3), ("ZCYX", "Z", 2, 3), ("TCYX", "T", 2, 3), ("ZTYX", "ZT", 1, 6),
    ):  # fmt: skip
        with open_source(name) as source:
            found = planes_of(source, name, channels, axes=given)
            shown = np.stack([plane[..., 0:9, 0:8] for plane in found])
        assert (found.axes, len(found)) == (axes, count)
        assert np.array_equal(shown.ravel(), pixels.ravel())


@pytest.mark.parametrize(
    ("said", "given", "axes", "planes"),
    [
        ("cyx", "CYX", "", 1), ("cyx", "ZYX", "Z", 2), ("czyx", "CZYX", "Z", 3),
        ("tczyx", "TCZYX", "TZ", 3), ("zcyx", "ZCYX", "Z", 3), ("zcyx", "TZYX", "TZ", 6),
    ],
)  # fmt: skip
def test_the_axes_of_a_zarr_with_channels_can_be_named(here, said, given, axes, planes):
    lengths = {"t": 1, "c": 2, "z": 3, "y": 9, "x": 8}
    pixels = np.random.default_rng(1).integers(0, 256, [lengths[k] for k in said], np.uint8)
    zarr.create_array("c.zarr", shape=pixels.shape, dtype="u1", dimension_names=list(said))[...] = (
        pixels
    )
    channels = 2 if "C" in given else 1
    with open_source("c.zarr") as source:
        found = planes_of(source, "c.zarr", channels, axes=given)
        shown = np.stack([plane[..., 0:9, 0:8] for plane in found])
    assert (found.axes, len(found)) == (axes, planes)
    moved = np.moveaxis(pixels, said.index("c"), -3) if channels == 2 else pixels
    assert np.array_equal(shown.ravel(), moved.ravel())


def test_where_the_channels_of_a_zarr_are_cannot_be_changed(here):
    zarr.create_array("c.zarr", shape=(2, 3, 9, 8), dtype="u1", dimension_names=list("czyx"))
    with open_source("c.zarr") as source, pytest.raises(UsageFault, match=r"YX, C where it is$"):
        planes_of(source, "c.zarr", 2, axes="ZCYX")


def test_slices_stored_as_colours_have_one_channel(here, capsys):
    tifffile.imwrite("c.tif", np.stack([PIXELS] * 3), photometric="rgb", planarconfig="separate")
    assert predict("c.tif", "--out", "p.tif", "--axes", "ZYX", "--channel", "1") == 2
    assert "by --axes ZYX each page of c.tif has one channel" in capsys.readouterr().err
    pages = np.stack([np.stack([PIXELS] * 3)] * 2)
    tifffile.imwrite("d.tif", pages, photometric="rgb", planarconfig="separate")
    with open_source("d.tif") as source, pytest.raises(UsageFault, match="only C can be that"):
        planes_of(source, "d.tif", 1, axes="CZYX")
    with open_source("c.tif") as source, pytest.raises(InputError, match="has 3 channels"):
        planes_of(source, "c.tif", 1)
