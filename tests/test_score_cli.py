"""`unet2015 score` reads files as users have them, and says in one line what it cannot score."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import typer
from PIL import Image

from tiling import open_sink
from tiling.command import deferred, run_app
from unet2015.score import ctc_seg, isbi_scores
from unet2015.score_cli import score
from weightmaps import instances_from_mask

app = typer.Typer()
app.command("score")(deferred(score))


@pytest.fixture
def files(tmp_path):
    """Truth of 5 slices and an uint8 map, as TIFF stacks."""
    rng = np.random.default_rng(11)
    truth = np.full((5, 24, 30), 255, np.uint8)
    truth[:, ::8] = truth[:, :, ::10] = 0
    noisy = truth * 0.6 + 50 + rng.integers(-50, 51, truth.shape)
    return {
        "folder": tmp_path,
        "truth": write(tmp_path / "truth.tif", truth),
        "map": write(tmp_path / "map.tif", np.clip(noisy, 0, 255).astype(np.uint8)),
    }


def write(path, array, **options):
    tifffile.imwrite(path, array, **{"photometric": "minisblack", "metadata": None, **options})
    return path


def run(capsys, *words):
    code = run_app("unet2015", app, [str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_has_every_measure_per_slice_and_over_the_stack(files, capsys):
    code, out, err = run(capsys, files["map"], files["truth"], "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    expected = isbi_scores(tifffile.imread(files["map"]), tifffile.imread(files["truth"]))
    keys = ("pixel_error", "rand_error", "v_rand", "v_info", "warping_error", "wrong_pixels")
    for key in keys:
        assert record[key]["best"] == expected[key].best
        assert record[key]["threshold"] == expected[key].threshold
        assert record[key]["at_0.5"] == expected[key].at(0.5)
        assert [row["slice"] for row in record[key]["per_slice"]] == [0, 1, 2, 3, 4]
        assert {"best", "threshold", "at_0.5"} <= set(record[key]["per_slice"][0])


def test_table_shows_the_stack_and_the_slices(files, capsys):
    code, out, _ = run(capsys, files["map"], files["truth"], "--measure", "v_info")
    assert code == 0
    assert "over the stack" in out
    assert "per slice" in out
    assert "v_info" in out
    assert "v_rand" not in out


def test_what_the_files_say_of_missing_pixels_is_told(files, capsys):
    for name, value in (("truth", "9"), ("map", "7")):
        pixels = tifffile.imread(files[name])
        write(files[name], pixels, extratags=[(42113, 2, 0, value, True)])
    code, _, err = run(capsys, files["map"], files["truth"])
    assert code == 0
    for name, value in (("truth", "9"), ("map", "7")):
        assert f"note: {files[name]}: calls {value} the number of missing pixels" in err


def test_slices_choose_pages_of_the_truth(files, capsys):
    some = write(files["folder"] / "some.tif", tifffile.imread(files["map"])[[1, 3, 4]])
    words = ("--slices", "1,3-4", "--json", "--measure", "wrong_pixels")
    records = []
    for prediction in (files["map"], some):
        code, out, _ = run(capsys, prediction, files["truth"], *words)
        assert code == 0
        records.append(json.loads(out))
    assert records[0]["wrong_pixels"] == records[1]["wrong_pixels"]
    assert records[0]["slices"] == [1, 3, 4]
    code, _, err = run(capsys, files["map"], files["truth"], "--slices", "4-5")
    assert code == 2
    assert "outside 0 .. 4" in err


def test_scales_uint16_and_float_maps_alike(files, capsys):
    prediction = tifffile.imread(files["map"])
    best = set()
    for index, array in enumerate(
        (prediction, prediction.astype(np.uint16) * 257, prediction / np.float32(255))
    ):
        path = write(files["folder"] / f"{index}.tif", array)
        _, out, _ = run(capsys, path, files["truth"], "--json", "--measure", "v_rand")
        best.add(json.dumps(json.loads(out)["v_rand"]))
    assert len(best) == 1


def test_two_classes_mean_class_one_and_more_need_the_flag(files, capsys):
    prediction = tifffile.imread(files["map"])
    two = np.stack([255 - prediction, prediction], axis=1)
    path = write(files["folder"] / "two.ome.tif", two, metadata={"axes": "ZCYX"}, ome=True)
    words = (files["truth"], "--json", "--measure", "pixel_error")
    _, plain, _ = run(capsys, files["map"], *words)
    code, out, _ = run(capsys, path, *words)
    assert code == 0
    assert json.loads(out)["pixel_error"] == json.loads(plain)["pixel_error"]
    three = np.concatenate([two, two[:, :1]], axis=1)
    path = write(files["folder"] / "three.ome.tif", three, metadata={"axes": "ZCYX"}, ome=True)
    code, _, err = run(capsys, path, *words)
    assert code == 3
    assert "--class N" in err
    code, out, _ = run(capsys, path, *words, "--class", "1")
    assert json.loads(out)["pixel_error"] == json.loads(plain)["pixel_error"]
    assert run(capsys, path, *words, "--class", "3")[0] == 3


def test_a_three_slice_stack_stored_as_planar_rgb_is_recognised(files, capsys):
    prediction, truth = (tifffile.imread(files[key])[:3] for key in ("map", "truth"))
    planar = {"photometric": "rgb", "planarconfig": "separate"}
    right = [write(files["folder"] / f"{n}.tif", a) for n, a in (("p", prediction), ("t", truth))]
    wrong = [
        write(files["folder"] / f"{n}-rgb.tif", a, **planar)
        for n, a in (("p", prediction), ("t", truth))
    ]
    _, expected, _ = run(capsys, *right, "--json", "--measure", "v_info")
    for pair in ((wrong[0], right[1]), (right[0], wrong[1]), wrong):
        code, out, err = run(capsys, *pair, "--json", "--measure", "v_info")
        assert code == 0
        assert "stored as planar RGB, read as a stack of 3 slices" in err
        assert json.loads(out)["v_info"] == json.loads(expected)["v_info"]
    colours = write(files["folder"] / "c.tif", np.moveaxis(truth, 0, -1).copy(), photometric="rgb")
    code, _, err = run(capsys, right[0], colours)
    assert code == 3
    assert "3 channels; a truth has one value" in err


def test_masks_of_zeros_and_ones_are_masks(files, capsys):
    truth = tifffile.imread(files["truth"])
    ones = write(files["folder"] / "ones.tif", (truth > 0).astype(np.uint8))
    code, out, err = run(capsys, ones, files["truth"], "--json", "--measure", "wrong_pixels")
    assert code == 0
    assert "read as a mask" in err
    assert json.loads(out)["wrong_pixels"]["at_0.5"] == 0.0


def test_a_mask_is_one_whatever_its_other_value(files, capsys):
    truth = tifffile.imread(files["truth"])
    for value in (7, 255, 65535):
        dtype = np.uint8 if value < 256 else np.uint16
        path = write(files["folder"] / "mask.tif", (truth > 0).astype(dtype) * dtype(value))
        code, out, err = run(capsys, path, files["truth"], "--json", "--measure", "wrong_pixels")
        assert (code, json.loads(out)["wrong_pixels"]["at_0.5"]) == (0, 0.0)
        assert ("holds 0 and 7 only; read as a mask" in err) == (value == 7)
    half = write(files["folder"] / "half.tif", np.full(truth.shape, 100, np.uint8))
    code, out, err = run(capsys, half, files["truth"], "--json", "--measure", "wrong_pixels")
    assert json.loads(out)["wrong_pixels"]["at_0.5"] == np.mean(truth > 0)
    assert "reaches 100, read as the probability 0.392; if its values are ids or classes" in err


def test_pieces_of_a_mask_are_objects(files, capsys):
    truth = tifffile.imread(files["truth"])
    ids = write(files["folder"] / "ids.tif", instances_from_mask(truth).astype(np.uint16))
    words = ("--measure", "seg", "--measure", "ap", "--json")
    code, out, err = run(capsys, ids, files["truth"], *words)
    record = json.loads(out)
    assert (code, record["seg"]["value"], record["ap"]["value"]) == (0, 1.0, 1.0)
    assert record["seg"]["objects"] == 5 * 3 * 3
    assert err == (
        "note: the truth holds 0 and 255 only; each piece (of pixels that share sides) is taken as"
        " an object\n"
    )
    code, out, err = run(capsys, files["truth"], ids, *words)
    assert json.loads(out)["ap"]["value"] == 1.0
    assert "note: the prediction holds 0 and 255 only" in err


def test_masks_with_other_values_are_the_same_classes(files, capsys):
    truth = tifffile.imread(files["truth"])
    ones = write(files["folder"] / "ones.tif", (truth > 0).astype(np.uint8))
    code, out, err = run(capsys, ones, files["truth"], "--json", "--measure", "iou")
    assert (code, json.loads(out)["iou"]["mean_iou"]) == (0, 1.0)
    assert json.loads(out)["iou"]["labels"] == [0, 1]
    assert "the foreground is 1 in the prediction and 255 in the truth; both are read as 1" in err
    truth[0, 0, 0] = 128  # a third value that counts nowhere
    third = write(files["folder"] / "third.tif", truth)
    words = ("--json", "--measure", "iou", "--ignore", "128")
    assert json.loads(run(capsys, ones, third, *words)[1])["iou"]["mean_iou"] == 1.0
    assert json.loads(run(capsys, ones, third, *words[:3])[1])["iou"]["labels"] == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("saved", "measure", "told"),
    [
        ("instances", "isbi", "holds objects and no probabilities; --measure seg or ap"),
        ("instances", "iou", "holds objects and no classes; --measure seg or ap"),
        ("label", "v_info", "holds classes and no probabilities; --measure seg or ap"),
        ("probability", "seg", "holds probabilities and no objects; predict with --save instances"),
        ("probability", "iou", "holds probabilities and no classes; predict with --save label"),
        ("logits", "ap", "holds logits and no objects; predict with --save instances"),
    ],
)
@pytest.mark.parametrize("ending", ["tif", "zarr"])
def test_what_predict_wrote_is_measured_as_what_it_is(files, capsys, saved, measure, told, ending):
    path = files["folder"] / f"p.{ending}"
    made = np.arange(24 * 30, dtype=np.uint8).reshape(24, 30) % 3
    with open_sink(path, made.shape, "u1", provenance={"save": saved}) as sink:
        sink[..., 0:24, 0:30] = made
    truth = write(files["folder"] / "t.tif", (made > 0).astype(np.uint8))
    code, out, err = run(capsys, path, truth, "--measure", measure)
    assert (code, out) == (3, "")
    assert told in err


def written_by_us(path, values, saved):
    with open_sink(path, values.shape, values.dtype, provenance={"save": saved}) as sink:
        sink[..., 0 : values.shape[0], 0 : values.shape[1]] = values
    return path


@pytest.mark.parametrize("largest", [1, 3, 254])
def test_a_probability_of_ours_is_no_mask_however_few_values_it_has(files, capsys, largest):
    cells = np.arange(24 * 30).reshape(24, 30) % 5 == 0
    truth = write(files["folder"] / "t.tif", cells.astype(np.uint8))
    values = np.where(cells, largest, 0).astype(np.uint8)
    path = written_by_us(files["folder"] / "p.tif", values, "probability")
    code, out, err = run(capsys, path, truth, "--json", "--measure", "wrong_pixels")
    share = json.loads(out)["wrong_pixels"]["at_0.5"]
    assert (code, err, share) == (0, "", 0.0 if largest > 127 else np.mean(cells))


def test_labels_of_ours_with_one_class_are_a_mask_with_more_they_are_not(files, capsys):
    cells = instances_from_mask(np.arange(24 * 30).reshape(24, 30) % 5 == 0)
    truth = write(files["folder"] / "t.tif", cells.astype(np.uint16))
    one = written_by_us(files["folder"] / "a.tif", (cells > 0).astype(np.uint8), "label")
    code, out, _ = run(capsys, one, truth, "--json", "--measure", "ap", "--measure", "seg")
    assert (code, json.loads(out)["ap"]["value"]) == (0, 1.0)
    two = written_by_us(files["folder"] / "b.tif", (cells % 3).astype(np.uint8), "label")
    code, _, err = run(capsys, two, truth, "--measure", "ap")
    assert code == 3
    assert "holds classes and no objects; predict with --save instances" in err
    logits = written_by_us(files["folder"] / "c.tif", cells.astype(np.float32) > 0, "logits")
    code, _, err = run(capsys, logits, truth)
    assert code == 3
    assert "holds logits; predict with --save probability" in err


@pytest.mark.parametrize(
    ("saved", "dtype", "value", "found"),
    [
        ("instances", np.uint32, 1, 0.5), ("", np.uint16, 1, 0.5), ("", np.uint16, 300, 0.5),
        ("", np.uint8, 1, 1.0), ("", np.uint16, 255, 1.0), ("", np.uint16, 65535, 1.0),
        ("", np.float32, 1, 1.0),
    ],
)  # fmt: skip
def test_an_object_in_two_pieces_stays_one_where_it_has_an_id(
    files, capsys, saved, dtype, value, found
):
    pieces = np.zeros((8, 8), dtype)
    pieces[1:3, 1:3], pieces[3:5, 3:5] = value, value  # they touch at a corner
    truth = write(files["folder"] / "t.tif", instances_from_mask(pieces).astype(np.uint16))
    path = files["folder"] / "p.tif"
    path = written_by_us(path, pieces, saved) if saved else write(path, pieces)
    code, out, err = run(capsys, path, truth, "--json", "--measure", "seg")
    assert (code, "each piece" in err) == (0, found == 1)
    assert ("taken as one object in 2 pieces" in err) == (not saved and found < 1)
    expected = ctc_seg(pieces, instances_from_mask(pieces)) if found < 1 else 1.0
    assert json.loads(out)["seg"]["value"] == expected


def test_two_classes_are_never_taken_for_one(files, capsys):
    cells = np.arange(24 * 30).reshape(24, 30) % 5 == 0
    truth = write(files["folder"] / "t.tif", np.where(cells, 2, 0).astype(np.uint8))
    other = write(files["folder"] / "p.tif", cells.astype(np.uint8))
    code, out, err = run(capsys, other, truth, "--json", "--measure", "iou")
    assert (code, err) == (0, "")
    assert json.loads(out)["iou"]["labels"] == [0, 1, 2]
    assert json.loads(out)["iou"]["mean_iou"] < 0.5


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_masks_of_any_integers_are_masks_for_every_measure(files, capsys, dtype):
    mask = tifffile.imread(files["truth"]) > 0
    for value in (1, 7, 255, np.iinfo(dtype).max):
        if value > np.iinfo(dtype).max:
            continue
        path = write(
            files["folder"] / "m.tif", np.where(mask, np.array(value, dtype), np.array(0, dtype))
        )
        words = ("--json", "--measure", "wrong_pixels", "--measure", "iou")
        code, out, _ = run(capsys, path, files["truth"], *words)
        assert (code, json.loads(out)["wrong_pixels"]["at_0.5"]) == (0, 0.0)
        assert (json.loads(out)["iou"]["mean_iou"] == 1) == (value != 7)


def test_a_prediction_that_reaches_infinity_shows_no_warning(files, capsys, recwarn):
    values = tifffile.imread(files["truth"]).astype(np.float32) / 255
    values[0, 0, 0] = np.inf
    for measure in ("wrong_pixels", "iou", "seg"):
        path = write(files["folder"] / "inf.tif", values)
        code, _, err = run(capsys, path, files["truth"], "--measure", measure)
        assert (code, err.count("\n")) == (3, 1)
    assert not recwarn.list


def test_a_mask_of_floats_is_one_for_every_measure(files, capsys):
    truth = tifffile.imread(files["truth"])
    path = write(files["folder"] / "f.tif", truth.astype(np.float32))
    code, out, err = run(capsys, path, files["truth"], "--json", "--measure", "wrong_pixels")
    assert (code, json.loads(out)["wrong_pixels"]["at_0.5"]) == (0, 0.0)
    assert "holds 0 and 255 only; read as a mask" in err


def test_values_stored_as_white_zeros_are_told(files, capsys):
    mask = tifffile.imread(files["truth"]) > 0
    tifffile.imwrite(files["folder"] / "bits.tif", mask, photometric="miniswhite")
    code, _, err = run(capsys, files["map"], files["folder"] / "bits.tif")
    assert code == 0
    assert "bits.tif: stored as MinIsWhite: its zeros are white, the largest values" in err
    ids = np.zeros((5, 24, 30), np.uint32)
    code, _, err = run(capsys, write(files["folder"] / "ids.tif", ids), files["truth"])
    assert code == 3
    assert "of ids or classes, --measure seg or ap compares objects, iou classes" in err


def test_instance_and_class_measures(files, capsys):
    labels = np.zeros((2, 6, 8), np.uint16)
    labels[:, 1:3, 1:4], labels[:, 4:, 2:7] = 300, 7
    path = write(files["folder"] / "labels.tif", labels)
    words = ("--measure", "seg", "--measure", "ap", "--measure", "iou", "--json")
    code, out, _ = run(capsys, path, path, *words)
    record = json.loads(out)
    assert code == 0
    assert record["seg"] == {"value": 1.0, "objects": 4}
    assert record["ap"] == {"value": 1.0, "per_slice": [1.0, 1.0]}
    assert record["iou"]["labels"] == [0, 7, 300]
    assert record["iou"]["mean_iou"] == 1.0
    assert np.array(record["iou"]["confusion"]).trace() == labels.size
    code, out, _ = run(capsys, path, path, *words[:-1], "--ignore", "7")
    assert code == 0
    assert "mean IoU 1.000000" in out
    assert "SEG 1.000000" in out


@pytest.mark.parametrize(("slices", "message"), [("4,4", "named twice"), (",", "'' is no slice")])
def test_each_slice_counts_once(files, capsys, slices, message):
    code, out, err = run(capsys, files["map"], files["truth"], "--slices", slices)
    assert (code, out) == (2, "")
    assert message in err


def test_ignore_is_refused_where_it_would_do_nothing(files, capsys):
    code, out, err = run(capsys, files["map"], files["truth"], "--ignore", "255")
    assert (code, out) == (2, "")
    assert "--ignore 255: of the measures only iou can leave pixels out" in err


def test_png_files_are_read(files, capsys):
    truth = tifffile.imread(files["truth"])[0]
    Image.fromarray(truth).save(files["folder"] / "t.png")
    code, out, _ = run(capsys, *[files["folder"] / "t.png"] * 2, "--json")
    assert code == 0
    assert json.loads(out)["v_rand"]["best"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda truth: truth[:, :-1], "both need the same slices and size"),
        (lambda truth: -(truth > 0).astype(np.int16), "negative label -1; 0 is membrane"),
        (lambda truth: truth[:3], "both need the same slices and size"),
        (
            lambda truth: truth * (np.arange(5) != 2)[:, None, None].astype(np.uint8),
            "bad.tif, page 2: has no foreground",
        ),
    ],
)
def test_bad_pairs_get_one_line_and_exit_code_3(files, capsys, change, message):
    path = write(files["folder"] / "bad.tif", change(tifffile.imread(files["truth"])))
    code, out, err = run(capsys, files["map"], path)
    assert (code, out) == (3, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda t: t * 0, [], ", page 0: has no foreground (no value above 0); leave"),
        (
            lambda t: t * (np.arange(5) < 3)[:, None, None].astype(np.uint8),
            ["--slices", "3-4"],
            ", page 3: has no foreground",
        ),
        (lambda t: t * 0, ["--measure", "seg"], ": has no object, and SEG is a mean over the"),
        (lambda t: -t.astype(np.int16), ["--measure", "seg"], ": has the negative label -"),
        (lambda t: -t.astype(np.int16), [], ": has the negative label -"),
        (lambda t: t / np.float32(2), [], ": cannot be scored: label 127.5 at (0, "),
        (
            lambda t: t / np.float32(2),
            ["--measure", "ap"],
            ": cannot be scored: label 127.5 at (0, ",
        ),
        (
            lambda t: t * np.float32("nan"),
            ["--measure", "iou"],
            ": cannot be scored: label nan at (0, 0, 0) is not",
        ),
        (lambda t: t * 0, ["--measure", "iou", "--ignore", "0"], ": holds the ignore label 0 in"),
    ],
)
def test_of_two_files_the_bad_one_is_named(files, capsys, change, words, message):
    path = write(files["folder"] / "truth2.tif", change(tifffile.imread(files["truth"])))
    code, _, err = run(capsys, files["truth"], path, *words)
    assert code == 3
    assert f"{path}{message}" in err
    assert "; " in err
    assert "against" not in err
    if "label" in message and "--ignore" not in words:  # the same in the prediction
        code, _, err = run(capsys, path, files["truth"], "--measure", "seg")
        assert code == 3
        assert f"unet2015: {path}: against {files['truth']}: " in err


def test_missing_file_and_unknown_measure(files, capsys):
    code, _, err = run(capsys, files["folder"] / "none.tif", files["truth"])
    assert code == 3
    assert err.count("\n") == 1
    code, _, err = run(capsys, files["map"], files["truth"], "--measure", "beauty")
    assert code == 2
    assert err.count("\n") == 1
    path = write(files["folder"] / "nan.tif", np.full((5, 24, 30), np.nan, np.float32))
    code, _, err = run(capsys, path, files["truth"])
    assert code == 3
    assert "nan is outside" in err


def test_a_zarr_that_fits_no_memory_is_refused_by_the_named_limit(files, capsys):
    folder = files["folder"] / "big.zarr"
    folder.mkdir()
    meta = {"zarr_format": 2, "shape": [95_000, 95_000], "chunks": [1000, 1000], "dtype": "|u1",
            "compressor": None, "fill_value": 0, "order": "C", "filters": None}  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(meta))
    code, out, err = run(capsys, folder, folder)
    assert (code, out) == (3, "")
    assert f"{folder}: needs 9025000000 bytes of memory, above max_bytes" in err


def test_scoring_out_of_memory_names_the_file_and_what_helps(files, capsys, monkeypatch):
    def full(*_args):
        raise MemoryError

    monkeypatch.setattr("unet2015.score_cli._measured", full)
    code, _, err = run(capsys, files["map"], files["truth"])
    assert code == 6
    assert f"{files['map']}: scoring needs more memory" in err
    assert "--slices" in err


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_d3_labels_stored_as_whole_floats_are_scored_as_integers(files, capsys, dtype):
    truth = tifffile.imread(files["truth"])
    path = write(files["folder"] / "floats.tif", truth.astype(dtype))
    for words in ([], ["--measure", "seg", "--measure", "ap", "--measure", "iou"]):
        prediction = path if words else files["map"]
        answers = [
            run(capsys, prediction, file, "--json", *words) for file in (path, files["truth"])
        ]
        found, expected = (json.loads(out) for _, out, _ in answers)
        assert found | {"prediction": "", "truth": ""} == expected | {"prediction": "", "truth": ""}
    for value in (0.5, np.nan, np.inf):
        bad = np.where(truth == 0, dtype(value), truth).astype(dtype)
        path = write(files["folder"] / "odd.tif", bad)
        for words in ([], ["--measure", "seg"], ["--measure", "iou"]):
            code, out, err = run(capsys, files["map"], path, *words)
            assert (code, out) == (3, "")
            assert "not a whole number" in err


def test_d4_ids_beyond_2_to_the_53_stay_apart_whatever_their_types(files, capsys):
    truth = np.zeros((1, 6, 8), np.uint64)
    truth[:, :3, :4], truth[:, 3:, 4:] = 2**60 + 1, 2**60 + 2
    paths = [write(files["folder"] / f"{dtype}.tif", truth.astype(dtype)) for dtype in ("u8", "i8")]
    code, out, _ = run(capsys, *paths, "--measure", "iou", "--json")
    assert code == 0
    assert json.loads(out)["iou"]["labels"] == [0, 2**60 + 1, 2**60 + 2]
