"""`unet2015 predict` as people call it: files, exit codes, messages, kills and resumes."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from tiling import open_source
from tiling.safe_write import OutputLock
from unet2015 import tensor_file
from unet2015.checkpoint import Checkpoint, build_network, describe_network, load, save
from unet2015.cli import main
from unet2015.model import load_model
from unet2015.net import UNet, init_paper_weights
from unet2015.predict import predict_array
from unet2015.predict_job import Job

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    net = UNet(base_channels=2, depth=3)
    init_paper_weights(net, seed=4)
    content = {"network": describe_network(net), "weights": net.state_dict()}
    monkeypatch.chdir(tmp_path)
    save("net.safetensors", Checkpoint(**content))
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((300, 200)), 2)
    pixels = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    tifffile.imwrite("a.tif", pixels)
    return tmp_path


def predict(*words):
    return main(["predict", "net.safetensors", *words, "--device", "cpu", "--memory", "2"])


def names():
    return sorted(p.name for p in Path().iterdir())


def test_one_image(here, capsys):
    assert predict("a.tif", "--out", "p.tif", "--output-tile", "100", "--overlay", "p.png") == 0
    said = capsys.readouterr()
    assert said.out.startswith("p.tif: 0.06 Mpx in")
    assert "seams: " in said.out
    assert "0 differ" in said.out
    assert "tile 188 -> 100, step 96 px; values dtype-range" in said.err
    assert names() == ["a.tif", "net.safetensors", "p.png", "p.tif"]
    assert predict("a.tif", "--out", "p.tif") == 5
    assert "already exists; use --overwrite" in capsys.readouterr().err
    assert predict("a.tif", "--out", "p.tif", "--overwrite", "--precision", "auto") == 0


def test_python_computes_what_the_command_does(here):
    state = load("net.safetensors")
    averaged = {name: 1.5 * tensor for name, tensor in state.weights.items()}
    state = replace(state, averaged=averaged, preprocessing={"scale": "percentile:10:60"})
    save("net.safetensors", state, overwrite=True)
    assert predict("a.tif", "--out", "p.tif", "--class", "all", "--dtype", "float32") == 0
    image = tifffile.imread("a.tif")
    ours = predict_array(build_network(load("net.safetensors")), image)
    assert np.array_equal(ours, tifffile.imread("p.tif"))
    other = predict_array(build_network(state, use_averaged=False), image)
    assert np.abs(other - ours).max() > 0.01
    assert np.abs(predict_array(build_network(state), image, scale="none") - ours).max() > 0.01


def test_what_a_file_says_of_missing_pixels_is_told(here, capsys):
    pixels = tifffile.imread("a.tif")
    tifffile.imwrite("b.tif", pixels, extratags=[(42113, 2, 0, "-9999", True)])
    told = "b.tif: calls -9999 the number of missing pixels (GDAL_NODATA); it is read as any other"
    assert predict("b.tif", "--out", "p.tif", "--output-tile", "100") == 0
    assert told in capsys.readouterr().err.splitlines()
    assert predict("b.tif", "--out", "q.tif", "--output-tile", "100", "--plan") == 0
    assert told in capsys.readouterr().err.splitlines()


def test_several_images_go_to_a_folder_under_their_names(here, capsys):
    tifffile.imwrite("b.ome.tif", np.zeros((40, 50), np.uint8))
    assert predict("a.tif", "b.ome.tif", "--out", "maps") == 0
    assert sorted(p.name for p in Path("maps").iterdir()) == ["a.prob.tif", "b.prob.tif"]
    assert "every pixel is 0" in capsys.readouterr().err
    assert predict("a.tif", "b.ome.tif", "--out", "maps", "--save", "instances") == 0
    assert Path("maps/a.instances.tif").is_file()
    tifffile.imwrite("b.tif", np.zeros((40, 50), np.uint8))
    assert predict("b.tif", "b.ome.tif", "--out", "maps") == 2
    assert "two images would both be written" in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_f9_all_images_are_predicted_where_nobody_reads_the_results(here, monkeypatch, stream):
    tifffile.imwrite("b.tif", np.zeros((40, 50), np.uint8))
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as raw:
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(raw, write_through=True))
        assert predict("a.tif", "b.tif", "--out", "maps") == 0
    assert sorted(p.name for p in Path("maps").iterdir()) == ["a.prob.tif", "b.prob.tif"]


def test_the_plan_writes_nothing(here, capsys):
    assert predict("a.tif", "--out", "p.tif", "--plan", "--average", "all") == 0
    said = capsys.readouterr().out
    for words in ("tiles", "legal sizes", "memory", "time        about", "output      300 x 200"):
        assert words in said
    assert "compared: none" in said  # a single tile
    for step, compared in (("exact", "4 px along every seam"), ("paper", "none")):
        assert predict("a.tif", "--out", "p.tif", "--plan", "--output-tile", "100",
                       "--step", step) == 0  # fmt: skip
        assert f"compared: {compared}" in capsys.readouterr().out
    assert names() == ["a.tif", "net.safetensors"]
    tifffile.imwrite("b.tif", np.zeros((40, 50), np.uint8))
    assert predict("a.tif", "b.tif", "--out", "new", "--plan") == 0
    assert names() == ["a.tif", "b.tif", "net.safetensors"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["a.tif", "--output-tile", "390"], 2, "nearest: 388 or 396"),
        (["a.tif", "--region", "0-5"], 2, "Y0:Y1,X0:X1"),
        (["a.tif", "--class", "x"], 2, "class number or all"),
        (["a.tif", "--normalise", "zscore"], 2, "use dtype-range"),
        (["a.tif", "--connectivity", "6"], 2, "4 (sides touch) or 8"),
        (["a.tif", "--threshold", "0.5"], 2, "--save label"),
        (["a.tif", "--save", "masks"], 2, "--save"),
        (["a.tif", "--precision", "fp16"], 2, "not on a CPU"),
        (["none.tif"], 3, "none.tif"),
        (["net.safetensors"], 3, "net.safetensors"),
    ],
)
def test_wrong_words_have_one_line_and_their_code(here, capsys, words, code, text):
    assert predict(*words, "--out", "p.tif") == code
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1
    assert names() == ["a.tif", "net.safetensors"]


def test_too_little_memory_and_a_damaged_model_have_their_codes(here, capsys):
    words = ["predict", "net.safetensors", "a.tif", "--out", "p.tif", "--device", "cpu"]
    assert main([*words, "--memory", "0.04"]) == 6
    assert "even the smallest tile needs" in capsys.readouterr().err
    data = bytearray(Path("net.safetensors").read_bytes())
    data[-9] ^= 1
    Path("net.safetensors").write_bytes(data)
    assert predict("a.tif", "--out", "p.tif") == 4


# --- interrupted ----------------------------------------------------------------------------------

OPTIONS = ["predict", "net.safetensors", "a.tif", "--out", "p.tif", "--device", "cpu",
           "--output-tile", "44", "--memory", "2"]  # fmt: skip


@pytest.fixture
def whole(here):
    assert main([*OPTIONS, "--out", "whole.tif"]) == 0
    return Path("whole.tif").read_bytes()


@pytest.fixture
def at_tile(monkeypatch):
    """Something happens when the n-th tile is computed."""
    made = Job.function

    def arrange(number, what):
        count = 0

        def function(job, scale):
            run = made(job, scale)

            def counted(tiles):
                nonlocal count
                count += 1
                if count == number:
                    what()
                return run(tiles)

            return counted

        monkeypatch.setattr(Job, "function", function)

    yield arrange
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


CHILD = """
import os, signal, sys
from unet2015.cli import main
from unet2015.predict_job import Job
made, left = Job.function, int(sys.argv[1])
def function(job, scale):
    run = made(job, scale)
    def counted(tiles):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(tiles)
    return counted
Job.function = function
main(sys.argv[2:])
"""


@pytest.mark.parametrize("number", [2, 24])
def test_a1_killed_and_resumed_ends_with_the_same_bytes(whole, number):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(number), *OPTIONS]
    assert subprocess.run(command, env=environment, timeout=120, check=False).returncode == -9
    assert not Path("p.tif").exists()
    assert main([*OPTIONS, "--resume"]) == 0
    assert Path("p.tif").read_bytes() == whole
    assert names() == ["a.tif", "net.safetensors", "p.tif", "whole.tif"]


def test_a9_ctrl_c_leaves_with_130_and_says_how_to_go_on(whole, at_tile, monkeypatch, capsys):
    at_tile(24, lambda: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(sys, "argv", ["/somewhere/unet2015", *OPTIONS])
    assert main() == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"unet2015: interrupted; to go on: unet2015 {' '.join(OPTIONS)} --resume"
    )
    assert not Path("p.tif").exists()
    assert main([*OPTIONS, "--resume"]) == 0
    assert Path("p.tif").read_bytes() == whole


def test_a10_sigterm_leaves_with_143(here, at_tile, capsys):
    at_tile(3, lambda: signal.raise_signal(signal.SIGTERM))
    assert main(OPTIONS) == 143
    assert "--resume" in capsys.readouterr().err
    assert not Path("p.tif").exists()


def test_b12_an_input_that_changes_leaves_with_7(here, at_tile, capsys):
    at_tile(5, lambda: os.utime("a.tif", ns=(1, 1)))
    assert main(OPTIONS) == 7
    assert "a.tif: changed while it was being read" in capsys.readouterr().err
    assert not Path("p.tif").exists()


def test_b8_a_second_run_leaves_with_7(here, capsys):
    with OutputLock("p.tif"):
        assert main(OPTIONS) == 7
    assert f"another run (process {os.getpid()})" in capsys.readouterr().err


def test_outputs_are_readable_as_sources(here):
    assert predict("a.tif", "--out", "p.ome.zarr", "--class", "all", "--dtype", "float16") == 0
    with open_source("p.ome.zarr") as source:
        assert source.axes == "CYX"
        assert source.shape == (2, 300, 200)
        assert source.dtype == np.float16


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--memory", "inf"], 2, "--memory inf: give GiB"),
        (["--overlay", "look.jpg"], 2, "choose a name that ends in .png"),
        (["--out", "n" * 252 + ".tif"], 5, "its name has 256 bytes, a disk takes 255"),
    ],
)
def test_nonsense_is_refused_in_one_line(here, capsys, words, code, said):
    assert main(["predict", "net.safetensors", "a.tif", "--out", "p.tif", *words]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert names() == ["a.tif", "net.safetensors"]


@pytest.mark.parametrize("name", ["a" * 300 + ".tif", "none.tif"])
def test_an_image_that_cannot_be_is_bad_input_and_no_bad_output(here, capsys, name):
    assert predict(name, "--out", "p.tif") == 3
    assert "is also" not in capsys.readouterr().err


def test_a_model_replaced_while_it_is_loaded_is_named_as_loaded(here, monkeypatch):
    """The hash is that of the bytes that were read, not of what has their name by then."""
    before = Path("net.safetensors").read_bytes()
    read = tensor_file.read

    def replaced(path, *args):
        found = read(path, *args)
        Path("other").write_bytes(b"another model")
        os.replace("other", path)
        return found

    monkeypatch.setattr(tensor_file, "read", replaced)
    assert load_model(Path("net.safetensors")).sha256 == hashlib.sha256(before).hexdigest()


@pytest.mark.parametrize(
    ("words", "clash"),
    [
        (["a.tif", "a.prob.tif", "--out", "."], "a.prob.tif"),
        (["a.prob.tif", "a.tif", "--out", "."], "a.prob.tif"),
        (["a.tif", "a.prob.tif", "--out", "link"], "a.prob.tif"),
        (["a.tif", "hard.tif", "--out", "."], "hard.tif"),
        (["a.tif", "--out", "p.tif", "--overlay", "m.png"], "net.safetensors"),
        (["a.tif", "--out", "net.safetensors"], "net.safetensors"),
        (["a.tif", "--out", "p.png", "--overlay", "./p.png"], "p.png"),
        (["deep.zarr/a.tif", "--out", "deep.zarr"], "deep.zarr/a.tif"),
    ],
)  # fmt: skip
def test_b6_no_output_is_any_input_of_the_command(here, capsys, words, clash):
    """Nor the network, nor another output; by a link or another spelling as little."""
    if "hard.tif" in words:
        os.rename("a.tif", "hard.tif")
        os.link("hard.tif", "a.prob.tif")
        tifffile.imwrite("a.tif", np.zeros((40, 50), np.uint8))
    else:
        tifffile.imwrite("a.prob.tif", np.zeros((40, 50), np.uint8))
    Path("deep.zarr").mkdir()
    Path("deep.zarr/zarr.json").write_text("{}")
    Path("deep.zarr/a.tif").write_bytes(Path("a.tif").read_bytes())
    os.symlink(".", "link")
    os.symlink("net.safetensors", "m.png")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert predict(*words, "--overwrite") == 5
    said = capsys.readouterr().err
    assert clash in said
    assert "; choose another output name" in said
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
