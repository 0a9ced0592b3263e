"""The verb `weights`: what it prints, writes, skips and refuses."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tiling.strict_tiff import open_tiff, read_stack
from weightmaps import instances_from_mask, volume_weight_map, weight_map
from weightmaps.cli import main
from weightmaps.files import read_history
from weightmaps.history import complete

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def cells(seed, side=48):
    """Instance labels with touching cells."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 5, (side // 6, side // 6), dtype=np.uint16)
    return np.kron(small, np.ones((6, 6), np.uint16))


def mask_stack(pages=3, side=48):
    return np.stack([(cells(k, side) > 1) * np.uint8(255) for k in range(pages)])


@pytest.fixture
def labels(tmp_path):
    """A folder with a mask stack and two label images."""
    folder = tmp_path / "labels"
    folder.mkdir()
    tifffile.imwrite(folder / "stack.tif", mask_stack(), photometric="minisblack")
    tifffile.imwrite(folder / "one.tif", cells(7))
    Image.fromarray(cells(8).astype(np.uint8)).save(folder / "two.png")
    return folder


def weights_of(*args):
    return main([str(arg) for arg in args])


def hashes(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_maps_equal_the_python_function(labels, tmp_path, capsys):
    assert weights_of(labels, "--out", tmp_path / "w", "--class-weights", "none") == 0
    stack = instances_from_mask(mask_stack())
    for name, expected in [("stack", stack), ("one", cells(7)), ("two", cells(8))]:
        found = read_stack(tmp_path / "w" / f"{name}.weights.tif")
        assert found.dtype == np.float32
        assert (found == weight_map(expected, class_weights="none")).all()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "stack.weights.tif: 3 slices, " in lines[1]
    assert " cells, " in lines[0]
    assert " touching pairs, max weight 1" in lines[0]
    assert lines[0].endswith(" s")


def test_what_labels_say_of_missing_pixels_is_told(labels, tmp_path, capsys):
    tifffile.imwrite(labels / "one.tif", cells(7), extratags=[(42113, 2, 0, "9", True)])
    assert weights_of(labels, "--out", tmp_path / "w") == 0
    told = f"{labels / 'one.tif'}: calls 9 the number of missing pixels (GDAL_NODATA); it is read"
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith(told)]


def test_pages_that_are_called_channels_are_told(labels, tmp_path, capsys):
    for axes in ("CYX", "ZYX"):
        tifffile.imwrite(labels / "one.tif", np.stack([cells(7)] * 2), metadata={"axes": axes},
                         photometric="minisblack")  # fmt: skip
        assert weights_of(labels / "one.tif", "--out", tmp_path / axes) == 0
        told = "one.tif: calls its pages channels; each is taken as a slice of its own"
        assert (told in capsys.readouterr().err) == (axes == "CYX")


def test_balanced_means_over_all_files_named(labels, tmp_path, capsys):
    assert weights_of(labels, "--out", tmp_path / "w", "--separate", "none") == 0
    masks = [instances_from_mask(mask_stack()), cells(7), cells(8)]
    inside = sum(int((m > 0).sum()) for m in masks)
    total = sum(m.size for m in masks)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("class weights balanced over all of 3 files: ")
    found = np.concatenate([read_stack(p).ravel() for p in sorted((tmp_path / "w").iterdir())])
    inner = np.concatenate([m.ravel() > 0 for m in (cells(7), masks[0], cells(8))])
    assert found[inner] == pytest.approx(total / 2 / inside, rel=1e-6)
    assert found[~inner].min() >= total / 2 / (total - inside) * (1 - 1e-6)
    history = read_history(tmp_path / "w" / "one.weights.tif")
    assert history["parameters"]["dataset_counts"] == [total - inside, inside]
    assert history["labels"]["counts"] == [int((cells(7) == 0).sum()), int((cells(7) > 0).sum())]


def test_a_second_run_changes_nothing(labels, tmp_path, capsys):
    out = tmp_path / "w"
    assert weights_of(labels, "--out", out, "--preview") == 0
    before, times = hashes(out), {p: p.stat().st_mtime_ns for p in out.iterdir()}
    capsys.readouterr()
    assert weights_of(labels, "--out", out, "--preview") == 0
    assert [line.endswith("up to date") for line in capsys.readouterr().out.splitlines()] == [
        False, True, True, True,
    ]  # fmt: skip
    assert hashes(out) == before
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == times
    assert weights_of(labels, "--out", out, "--overwrite") == 0
    assert hashes(out) == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--w0", "9"], "w0"),
        (["--sigma", "4"], "sigma_px"),
        (["--where", "everywhere"], "where"),
        (["--separate", "before"], "separate"),
        (["--dtype", "float16"], "dtype"),
        (["--connectivity", "8"], "connectivity, dataset_counts"),
        (["--class-weights", "falk2019"], "class_weights, dataset_counts"),
        (["--ignore-label", "3"], "dataset_counts, ignore_label"),
    ],
)
def test_other_parameters_need_overwrite(labels, tmp_path, capsys, options, named):
    out = tmp_path / "w"
    assert weights_of(labels, "--out", out) == 0
    before = hashes(out)
    assert weights_of(labels, "--out", out, *options) == 5
    error = capsys.readouterr().err
    assert f"was made with other parameters ({named}); use --overwrite" in error
    assert error.count("\n") == 1
    assert hashes(out) == before
    assert weights_of(labels, "--out", out, *options, "--overwrite") == 0
    assert hashes(out) != before


def test_another_set_of_files_is_another_balance(labels, tmp_path, capsys):
    out = tmp_path / "w"
    assert weights_of(labels / "one.tif", "--out", out) == 0
    assert weights_of(labels, "--out", out) == 5
    assert "was balanced over another set of files" in capsys.readouterr().err


def test_changed_labels_and_foreign_files_need_overwrite(labels, tmp_path, capsys):
    out = tmp_path / "w"
    assert weights_of(labels / "one.tif", "--out", out) == 0
    tifffile.imwrite(labels / "one.tif", cells(70))
    assert weights_of(labels / "one.tif", "--out", out) == 5
    assert "was made from other labels" in capsys.readouterr().err
    (out / "one.weights.tif").write_bytes(b"not a TIFF")
    assert weights_of(labels / "one.tif", "--out", out) == 5
    assert "is damaged" in capsys.readouterr().err
    tifffile.imwrite(out / "one.weights.tif", cells(1))
    assert weights_of(labels / "one.tif", "--out", out) == 5
    assert "is no weight map of this program" in capsys.readouterr().err
    assert weights_of(labels / "one.tif", "--out", out, "--overwrite") == 0


def test_a_flipped_bit_in_a_finished_map_is_noticed(labels, tmp_path, capsys):
    out = tmp_path / "w"
    assert weights_of(labels / "one.tif", "--out", out) == 0
    path = out / "one.weights.tif"
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].dataoffsets[0] + file.pages[0].databytecounts[0] // 2
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    assert weights_of(labels / "one.tif", "--out", out) == 5
    assert "is damaged" in capsys.readouterr().err


def test_jobs_and_blocks_change_no_byte(labels, tmp_path):
    assert weights_of(labels, "--out", tmp_path / "a", "--preview") == 0
    assert weights_of(labels, "--out", tmp_path / "b", "--preview", "--jobs", "2") == 0
    assert weights_of(labels, "--out", tmp_path / "c", "--block-rows", "7") == 0
    whole, blocks = hashes(tmp_path / "a"), hashes(tmp_path / "c")
    assert whole == hashes(tmp_path / "b")
    assert blocks == {name: data for name, data in whole.items() if name.endswith(".tif")}


@pytest.mark.parametrize("balance", ["balanced", "per-image", "falk2019", "none", "0.5,2"])
def test_every_class_weight(labels, tmp_path, balance):
    out = tmp_path / "w"
    assert weights_of(labels / "one.tif", "--out", out, "--class-weights", balance) == 0
    chosen = (0.5, 2.0) if balance == "0.5,2" else balance
    found = read_stack(out / "one.weights.tif")[0]
    assert (found == weight_map(cells(7), class_weights=chosen)).all()


@pytest.mark.parametrize("separate", ["after", "before"])
def test_the_minimal_border(labels, tmp_path, separate):
    options = ("--border", "watershed", "--separate", separate, "--block-rows", 7)
    assert weights_of(labels / "one.tif", "--out", tmp_path / "w", *options) == 0
    spec = {"after": "watershed", "before": "watershed-before"}[separate]
    found = read_stack(tmp_path / "w" / "one.weights.tif")[0]
    assert (found == weight_map(cells(7), separate=spec)).all()
    assert read_history(tmp_path / "w" / "one.weights.tif")["parameters"]["separate"] == spec


def test_per_image_means_each_slice(labels, tmp_path):
    out = tmp_path / "w"
    assert weights_of(labels / "stack.tif", "--out", out, "--class-weights", "per-image") == 0
    expected = weight_map(instances_from_mask(mask_stack()), class_weights="per-image")
    assert (read_stack(out / "stack.weights.tif") == expected).all()


def test_a_true_volume(labels, tmp_path):
    out = tmp_path / "w"
    options = ("--3d", "--labels", "instances", "--spacing", "3,1,1", "--class-weights", "none")
    volume = np.stack([cells(k) for k in (1, 2, 3)])
    tifffile.imwrite(labels / "volume.tif", volume, photometric="minisblack")
    assert weights_of(labels / "volume.tif", "--out", out, *options) == 0
    expected = volume_weight_map(volume, class_weights="none", spacing=(3, 1, 1))
    assert (read_stack(out / "volume.weights.tif") == expected).all()


def test_cells_of_a_mask_volume_run_through_the_slices(tmp_path, capsys):
    mask = np.zeros((3, 8, 8), np.uint8)
    mask[:, 2:4, 2:4], mask[1, 6, 6] = 255, 255
    tifffile.imwrite(tmp_path / "v.tif", mask, photometric="minisblack")
    assert weights_of(tmp_path / "v.tif", "--out", tmp_path / "w", "--3d") == 0
    assert "3 slices, 2 cells, 0 touching pairs" in capsys.readouterr().out


def test_pixel_size_travels_and_spacing_counts(tmp_path):
    path = tmp_path / "l.tif"
    tifffile.imwrite(path, cells(3), resolution=(20000, 10000), resolutionunit="CENTIMETER")
    out = tmp_path / "w"
    assert weights_of(path, "--out", out, "--spacing", "2,0.5", "--class-weights", "none") == 0
    expected = weight_map(cells(3), spacing=(2, 0.5), class_weights="none")
    with open_tiff(out / "l.weights.tif") as image:
        assert image.resolution == (20000, 10000, "cm")
        assert (image.read_page(0)[0] == expected).all()


def test_ignored_pixels_weigh_nothing(tmp_path):
    values = np.where(cells(3) > 0, 255, 0).astype(np.uint8)
    values[:, :5] = 99
    tifffile.imwrite(tmp_path / "l.tif", values)
    for name, extra in (("w", ()), ("v", ("--block-rows", 5))):
        out = tmp_path / name
        assert weights_of(tmp_path / "l.tif", "--out", out, "--ignore-label", 99, *extra) == 0
        found = read_stack(out / "l.weights.tif")[0]
        assert (found[:, :5] == 0).all()
        assert (found[:, 5:] > 0).all()
    assert (tmp_path / "w/l.weights.tif").read_bytes() == (
        tmp_path / "v/l.weights.tif"
    ).read_bytes()


def test_plan_writes_nothing(labels, tmp_path, capsys):
    out = tmp_path / "w"
    assert weights_of(labels, "--out", out, "--plan", "--block-rows", "10") == 0
    assert not out.exists()
    lines = capsys.readouterr().out.splitlines()
    assert "would be written, 3 x 48 x 48 float32" in lines[2]
    assert "taken as mask" in lines[2]
    assert "blocks of 10 rows + 2 x 32 rows of context" in lines[2]
    weights_of(labels / "one.tif", "--out", out)
    weights_of(labels / "one.tif", "--out", out, "--plan")
    assert "up to date" in capsys.readouterr().out.splitlines()[-1]
    weights_of(labels / "one.tif", "--out", out, "--plan", "--sigma", "4")
    assert "would need --overwrite" in capsys.readouterr().out.splitlines()[-1]
    weights_of(labels / "one.tif", "--out", out, "--plan", "--sigma", "4", "--overwrite")
    assert "would be replaced" in capsys.readouterr().out.splitlines()[-1]


def test_a_preview_is_made_for_a_map_that_lacks_it(labels, tmp_path):
    out = tmp_path / "w"
    assert weights_of(labels / "one.tif", "--out", out) == 0
    assert weights_of(labels / "one.tif", "--out", out, "--preview") == 0
    late = (out / "one.weights.png").read_bytes()
    assert weights_of(labels / "one.tif", "--out", tmp_path / "v", "--preview") == 0
    assert late == (tmp_path / "v" / "one.weights.png").read_bytes()
    with Image.open(out / "one.weights.png") as image:
        assert image.width > 300


def test_a_preview_of_another_map_does_not_stay(labels, tmp_path, capsys):
    out, picture = tmp_path / "w", tmp_path / "w" / "one.weights.png"
    other = labels / "one.tif", "--out", out, "--sigma", "2"
    assert weights_of(labels / "one.tif", "--out", out, "--preview") == 0
    old = picture.read_bytes()
    assert weights_of(*other, "--overwrite") == 0  # leaves the picture of the map that was there
    capsys.readouterr()
    assert weights_of(*other, "--preview") == 5
    assert "one.weights.png: already exists" in capsys.readouterr().err
    assert picture.read_bytes() == old
    assert weights_of(*other, "--preview", "--overwrite") == 0
    new, written = picture.read_bytes(), picture.stat().st_mtime_ns
    assert new != old
    assert weights_of(*other, "--preview") == 0
    assert (picture.read_bytes(), picture.stat().st_mtime_ns) == (new, written)


def test_maps_beside_their_labels_are_not_taken_for_labels(labels, capsys):
    assert weights_of(labels, "--out", labels, "--preview") == 0
    assert weights_of(labels, "--out", labels, "--preview") == 0
    assert capsys.readouterr().out.count("up to date") == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--w0", "-1"], "w0 -1.0 must be"),
        (["--sigma", "0"], "sigma_px 0.0 must be"),
        (["--class-weights", "fair"], "'fair' is not known"),
        (["--class-weights", "1,x"], "two numbers"),
        (["--spacing", "1"], "must be 2 numbers: Y,X"),
        (["--3d", "--spacing", "1,1"], "must be 3 numbers: Z,Y,X"),
        (["--3d", "--block-rows", "9"], "--block-rows cuts single pages"),
        (["--3d", "--block-px", "9"], "--block-rows cuts single pages"),  # its former name
        (["--labels", "instances", "--inside", "zero"], "about masks"),
        (["--labels", "instances", "--connectivity", "8"], "ids are cells as they are"),
        (["--jobs", "0"], "--jobs"),
        (["--border", "watershed", "--separate", "none"], "--separate none carves nothing"),
        (["--threshold", "nan"], "threshold nan must be a finite number"),
        (["--dtype", "float16", "--w0", "1e5"], "above the largest number of float16"),
        (["--class-weights", "1e39,1"], "above the largest number of float32"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_usage_errors(labels, tmp_path, capsys, options, words):
    assert weights_of(labels, "--out", tmp_path / "w", *options) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_folder_below_a_file_is_told_as_such(labels, tmp_path, capsys):
    (tmp_path / "f").write_text("mine")
    assert weights_of(labels, "--out", tmp_path / "f" / "g") == 5
    told = "Not a directory; a part of its name is a file, no folder: choose another name"
    assert told in capsys.readouterr().err


def test_names_with_everything_in_them(tmp_path, capsys):
    names = ["a b.tif", "ü$_x.tif", "-dash.tif", "st*r[1]?.tif", "two\nlines.tif"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"raw\xff.tif"))
    for k, name in enumerate(names):
        tifffile.imwrite(tmp_path / name, cells(k))
    out = tmp_path / "out dir"
    arguments = [tmp_path / name for name in names]
    assert weights_of("--out", out, "--preview", "--", *arguments) == 0
    assert len(list(out.glob("*.weights.tif"))) == len(names)
    assert len(list(out.glob("*.weights.png"))) == len(names)
    told = capsys.readouterr().out.splitlines()
    assert sum("max weight" in line for line in told) == len(names) == len(told) - 1
    assert any("two\\nlines.weights.tif" in line for line in told)


def test_the_umask_decides_the_mode(labels, tmp_path):
    old = os.umask(0o027)
    try:
        assert weights_of(labels / "one.tif", "--out", tmp_path / "w") == 0
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "w" / "one.weights.tif").stat().st_mode) == 0o640


def run(*args, **environment):
    return subprocess.run(
        [sys.executable, "-m", "weightmaps", *map(str, args)],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def test_as_a_command_in_any_locale_without_torch(labels, tmp_path):
    name = labels / "zelle-ü.tif"
    (labels / "one.tif").rename(name)
    done = run(name, "--out", tmp_path / "w", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "w/zelle-\\" in done.stdout  # the bytes that this locale has no letters for
    code = (
        "import sys, weightmaps.cli; assert not {'torch', 'numba', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_traceback_only_when_asked(tmp_path):
    (tmp_path / "l.tif").write_text("<html>")
    plain = run(tmp_path / "l.tif", "--out", tmp_path / "w")
    assert plain.returncode == 3
    assert plain.stderr.count("\n") == 1
    told = run(tmp_path / "l.tif", "--out", tmp_path / "w", "--traceback")
    assert told.returncode == 3
    assert "Traceback" in told.stderr


def test_the_same_verb_in_the_house_command(labels, tmp_path):
    pytest.importorskip("torch")
    from unet2015.cli import main as house

    assert house(["weights", str(labels / "one.tif"), "--out", str(tmp_path / "w")]) == 0
    assert main([str(labels / "one.tif"), "--out", str(tmp_path / "v")]) == 0
    assert hashes(tmp_path / "w") == hashes(tmp_path / "v")


# -- real data --------------------------------------------------------------------------------


@pytest.mark.data
def test_isbi_training_labels(real_data, tmp_path, capsys):
    path = real_data / "isbi2012" / "train-labels.tif"
    assert weights_of(path, "--out", tmp_path) == 0
    assert "30 slices, 3431 cells" in capsys.readouterr().out
    found = read_stack(tmp_path / "train-labels.weights.tif")
    mask = read_stack(path)
    assert found[mask > 0].max() < found[mask == 0].min() + 10
    assert 11 < found.max() < 13  # w_c of the membrane + nearly w0


@pytest.mark.data
def test_vnc_membranes_have_the_other_polarity(real_data, tmp_path, capsys):
    path = real_data / "vnc" / "stack1-membranes.tif"
    assert weights_of(path, "--out", tmp_path, "--inside", "zero") == 0
    assert "taken" not in capsys.readouterr().err
    assert read_history(tmp_path / "stack1-membranes.weights.tif")["parameters"]["inside"] == "zero"


@pytest.mark.data
@pytest.mark.parametrize("name", ["stack1-labels.tif", "stack1-mitochondria.tif", "stack1-raw.tif"])
def test_vnc_files_that_hold_no_cells_are_refused(real_data, tmp_path, capsys, name):
    assert weights_of(real_data / "vnc" / name, "--out", tmp_path) == 3
    assert "--labels instances" in capsys.readouterr().err


@pytest.mark.data
def test_cell_tracking_labels(real_data, tmp_path, capsys):
    folder = real_data / "cells" / "ctc" / "DIC-C2DH-HeLa" / "01_GT" / "SEG"
    assert weights_of(folder, "--out", tmp_path) == 0
    assert "man_seg002.weights.tif: 10 cells, " in capsys.readouterr().out


@pytest.mark.data
def test_data_science_bowl_pairs_are_those_of_the_table(real_data, tmp_path, capsys):
    table = {"0bda515e": (53, 9, 0), "1609b1b8": (20, 1, 1), "93cfd412": (6, 4, 0)}
    folder = real_data / "cells" / "dsb2018" / "stage1_train"
    found = [next(folder.glob(f"{key}*")) for key in table]
    assert weights_of(*found, "--out", tmp_path) == 0
    for folder, (count, pairs, overlap) in zip(found, table.values(), strict=True):
        history = read_history(tmp_path / f"{folder.name}.weights.tif")
        assert (history["cells"], history["touching_pairs"]) == (count, pairs)
        assert history["labels"]["overlap_px"] == overlap
    assert "1 px in several masks (the first by name has them)" in capsys.readouterr().out


def test_the_history_fits_its_place(labels, tmp_path):
    long = labels / f"{'x' * 200}.tif"
    (labels / "one.tif").rename(long)
    assert weights_of(long, "--out", tmp_path / "w", "--spacing", f"{1 / 3},{1 / 7}") == 0
    with open_tiff(next((tmp_path / "w").glob("*.tif"))) as image:
        assert json.loads(image.description)["unet2015"]["labels"]["name"].startswith("xxx")


def test_without_out_each_map_is_beside_its_labels(labels, tmp_path, capsys):
    nucleus = tmp_path / "n1" / "masks"
    nucleus.mkdir(parents=True)
    Image.fromarray(mask_stack()[0]).save(nucleus / "a.png")
    other = tmp_path / "other"
    other.mkdir()
    tifffile.imwrite(other / "one.tif", cells(3))  # the name of another, in another folder
    assert weights_of(labels, other / "one.tif", nucleus.parent) == 0
    for path in (labels / "one", labels / "two", other / "one", tmp_path / "n1" / "n1"):
        assert path.with_name(path.name + ".weights.tif").is_file(), path
    capsys.readouterr()
    assert weights_of(labels, other, nucleus.parent, "--plan") == 0
    assert capsys.readouterr().out.count("up to date") == 5
    tifffile.imwrite(labels / "two.tif", cells(3))
    assert weights_of(labels) == 3
    assert "same output as" in capsys.readouterr().err


def damaged_histories(history):
    """The history with one entry absent or of another kind, at any depth."""
    for name, value in history.items():
        for odd in (None, [], {}, "x", -1, float("inf"), 10**30):
            yield {**history, name: odd}
        yield {key: kept for key, kept in history.items() if key != name}
        if isinstance(value, dict):
            yield from ({**history, name: inner} for inner in damaged_histories(value))


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_a_map_with_any_damaged_history_is_told_and_no_bug(tmp_path, overwrite):
    labels, out = tmp_path / "l.tif", tmp_path / "l.weights.tif"
    cells = np.zeros((20, 20), np.uint8)
    cells[2:8, 2:8], cells[10:18, 3:9] = 1, 2
    tifffile.imwrite(labels, cells)
    words = [str(labels), "--preview", *overwrite]
    assert main(words) == 0
    whole = out.read_bytes()
    history = read_history(out)
    assert complete(history)
    (tmp_path / "l.weights.png").unlink()
    small = {"format": history["format"], "labels": {}, "parameters": {}}
    for number, odd in enumerate([small, *damaged_histories(history)]):
        text = json.dumps({"unet2015": odd}, separators=(",", ":"), sort_keys=True)
        start = whole.index(b'{"unet2015"')
        ours = whole[:start] + text.encode().ljust(2048) + whole[start + 2048 :]
        out.write_bytes(ours)
        assert main([*words, "--plan"]) in (0, 5), odd
        if number % 8 == 0:
            assert main(words) in (0, 5), odd
