"""Section D: label files that are wrong, odd or extreme; and C, as far as labels are concerned."""

import numpy as np
import pytest
import tifffile

from tiling.faults import InputError
from tiling.strict_tiff import read_stack
from weightmaps import weight_map
from weightmaps.cli import main
from weightmaps.files import read_labels


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def refused(tmp_path, capsys):
    """Run the verb on an array; return the one line of its refusal with exit code 3."""

    def run(array, *options, **how):
        path = tmp_path / "labels.tif"
        if array is not None:
            how.setdefault("photometric", "minisblack")
            tifffile.imwrite(path, array, metadata=None, **how)
        code = main([str(path), "--out", str(tmp_path / "w"), *map(str, options)])
        assert code == 3
        assert not list((tmp_path / "w").iterdir())
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(path) in error
        return error

    return run


@pytest.fixture
def made(tmp_path):
    """Run the verb on an array; return the map."""

    def run(array, *options):
        tifffile.imwrite(tmp_path / "l.tif", array, photometric="minisblack", metadata=None)
        out = str(tmp_path / "w")
        assert main([str(tmp_path / "l.tif"), "--out", out, "--overwrite", *options]) == 0
        return read_stack(tmp_path / "w" / "l.weights.tif")

    return run


CELLS = np.kron(np.array([[1, 1, 2], [0, 0, 2], [3, 0, 4]]), np.ones((5, 5), int))


def test_d1_masks_of_one_image_with_two_shapes_name_both(tmp_path, capsys):
    (tmp_path / "cell" / "masks").mkdir(parents=True)
    for k, shape in enumerate([(4, 5), (5, 4)]):
        tifffile.imwrite(tmp_path / "cell" / "masks" / f"{k}.tif", np.zeros(shape, np.uint8))
    assert main([str(tmp_path / "cell"), "--out", str(tmp_path / "w")]) == 3
    assert "1.tif: is 5 x 4, but 0.tif is 4 x 5" in capsys.readouterr().err


def test_d2_negative_ids_are_refused_with_their_place(refused):
    labels = np.stack([CELLS, CELLS]).astype(np.int16)
    labels[1, 7, 3] = -5
    assert "page 1: label -5 at (7, 3) is negative" in refused(labels)


def test_d2_a_negative_ignore_label_is_allowed(made):
    labels = CELLS.astype(np.int16)
    labels[0] = -1
    assert (made(labels, "--ignore-label=-1")[0, 0] == 0).all()


def test_d2_the_remedy_of_a_negative_id_is_an_option_of_the_verb(refused):
    assert "--ignore-label" in refused(CELLS.astype(np.int16) - 1)


def test_d4_huge_ids_beside_a_negative_ignore_label(made):
    huge = np.where(CELLS > 0, CELLS + 2**60, -1)
    expected = weight_map(np.where(CELLS > 0, CELLS, -1), ignore_label=-1)
    assert (made(huge, "--ignore-label=-1")[0] == expected).all()


def test_c15_nan_in_a_mask_is_refused_with_its_place(refused):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values[3, 2] = np.nan
    error = refused(np.stack([np.zeros_like(values), values]), "--threshold", "0.5")
    assert "page 1: holds NaN at (3, 2)" in error


def test_c15_nan_among_ids_is_refused_as_what_it_is(refused):
    values = np.zeros((80, 80), np.float32)
    values[7:, :] = np.nan
    assert "page 0: label nan at (7, 0) is not a whole number" in refused(values)


def test_a_rare_class_whose_weight_float16_cannot_hold_is_refused(refused, tmp_path):
    labels = np.zeros((400, 400), np.uint16)
    labels[7, 7] = 3
    per_image = ("--class-weights", "per-image", "--dtype", "float16")
    assert "above the largest number of float16" in refused(labels, *per_image)
    out = ["--out", str(tmp_path / "w")]
    assert main([str(tmp_path / "labels.tif"), "--dtype", "float16", *out]) == 2


@pytest.mark.parametrize("bad", [1.5, np.nan, np.inf, 2.0**53])
def test_d3_d4_float_labels_that_are_no_ids_are_refused(refused, bad):
    labels = CELLS.astype(np.float64)
    labels[2, 4] = bad
    assert "(2, 4) is not a whole number below 2**53" in refused(labels)


def test_d3_whole_float_labels_are_ids(made):
    assert (made(CELLS.astype(np.float32)) == made(CELLS.astype(np.uint8))).all()


@pytest.mark.parametrize("shift", [1, 2**40, 2**53, 2**63])
def test_d4_ids_beyond_2_to_53_keep_every_bit(made, shift):
    # Two touching cells whose ids differ in the last bit only.
    labels = CELLS.astype(np.uint64)
    huge = np.where(labels > 0, labels + np.uint64(shift), np.uint64(0))
    assert (made(huge) == made(labels)).all()


@pytest.mark.parametrize("value", [0, 1, 255])
def test_d5_no_cell_or_one_cell_is_class_balance_only(made, value):
    assert (made(np.full((9, 9), value, np.uint8)) == 1).all()
    one = np.zeros((9, 9), np.uint8)
    one[3:6, 3:6] = value
    found = made(one)
    assert np.isfinite(found).all()
    assert (found[0][one > 0] == np.float32(81 / 18)).all()
    assert len(np.unique(found[0][one == 0])) == 1


def test_d6_touching_cells_get_a_border(made):
    found = made(CELLS.astype(np.uint8), "--class-weights", "none")[0]
    assert (found == weight_map(CELLS, class_weights="none")).all()
    assert found[0, 9:12].tolist() == pytest.approx([1, 10.2312, 1], abs=1e-4)
    assert (found[1:5, 9:11] > 9).all()  # carved from both cells, as N-E and W see each other
    assert (found[1:4, 11:] == 1).all()


def test_d7_equal_stems_are_refused_before_anything_is_read(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.tif").write_bytes(b"broken")
    arguments = [str(tmp_path / "a"), str(tmp_path / "b" / "t.tif"), "--out", str(tmp_path / "w")]
    assert main(arguments) == 3
    error = capsys.readouterr().err
    assert str(tmp_path / "a" / "t.tif") in error
    assert str(tmp_path / "b" / "t.tif") in error
    assert not (tmp_path / "w").exists()


def test_d7_one_bad_file_among_many_stops_before_the_first_map(tmp_path, capsys):
    for k in range(4):
        tifffile.imwrite(tmp_path / f"{k}.tif", CELLS.astype(np.uint8))
    whole = (tmp_path / "3.tif").read_bytes()
    (tmp_path / "3.tif").write_bytes(whole[: len(whole) // 2])
    assert main([str(tmp_path), "--out", str(tmp_path / "w")]) == 3
    assert "3.tif" in capsys.readouterr().err
    assert not list((tmp_path / "w").iterdir())


@pytest.mark.parametrize("jobs", [1, 2])
def test_d_a_refusal_in_a_worker_is_the_same_line(refused, jobs):
    labels = np.stack([CELLS] * 3).astype(np.int16)
    labels[2, 0, 0] = -1
    assert "page 2: label -1" in refused(labels, "--jobs", jobs)


def test_c10_colour_is_no_label_image(refused):
    colour = np.zeros((6, 7, 3), np.uint8)
    assert "has 3 channels: an image in colour, not labels" in refused(colour, photometric="rgb")


def test_c11_grey_levels_are_never_thresholded_in_silence(refused, made):
    smooth = np.array([[0, 0, 3, 128, 252, 255, 255, 255]] * 4, np.uint8)
    assert "look like grey levels" in refused(smooth)
    assert "--threshold T" in refused(smooth, "--labels", "mask")
    found = made(smooth, "--threshold", "128", "--class-weights", "0,1")
    assert found[0, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_c_an_image_is_no_label_file(refused):
    noise = np.random.default_rng(0).integers(0, 250, (80, 80)).astype(np.uint8)
    assert "looks like an image, not labels" in refused(noise)


def test_c12_inverted_ids_are_refused_inverted_masks_are_not(refused, tmp_path):
    assert "MinIsWhite" in refused(CELLS.astype(np.uint8), photometric="miniswhite")
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, CELLS > 0, photometric="miniswhite", metadata=None)
    with tifffile.TiffFile(path) as file:
        stored = file.pages[0].asarray()
    inside = stored == 0  # white
    assert ((read_labels(path)[0] > 0) == inside).all()


def test_c12_an_inverted_mask_is_said_to_be_one(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "m.tif", CELLS == 1)  # this writer stores True as black
    assert main([str(tmp_path / "m.tif"), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert " 1 cell, 0 touching pairs, stored as MinIsWhite: its zeros are white" in told


def test_c1_c23_broken_and_foreign_files(tmp_path, refused):
    path = tmp_path / "labels.tif"
    tifffile.imwrite(path, CELLS.astype(np.uint8), compression="zlib")
    whole = path.read_bytes()
    for keep in (0, 3, 20, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:keep])
        refused(None)
    path.write_text("<html>not found</html>")
    refused(None)


def test_c23_pipe_and_missing_file(tmp_path, capsys):
    import os

    os.mkfifo(tmp_path / "pipe.tif")
    for name, words in [("pipe.tif", "pipe"), ("absent.tif", "no such file")]:
        assert main([str(tmp_path / name), "--out", str(tmp_path / "w")]) == 3
        assert words in capsys.readouterr().err


def test_c21_an_axis_of_46342_pixels_and_more(tmp_path):
    labels = np.zeros((1, 50_000), np.uint8)
    labels[0, :10], labels[0, 14:20], labels[0, -9:] = 1, 2, 3
    tifffile.imwrite(tmp_path / "l.tif", labels, metadata=None)
    options = ["--class-weights", "none", "--out", str(tmp_path / "w")]
    assert main([str(tmp_path / "l.tif"), *options]) == 0
    found = read_stack(tmp_path / "w" / "l.weights.tif")[0, 0]
    assert found[11] == pytest.approx(1 + 10 * np.exp(-(5**2) / 50), rel=1e-6)
    assert (found[60:] == 1).all()


def test_e12_a_map_whose_history_is_nonsense_is_refused(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "l.tif", CELLS.astype(np.uint8), metadata=None)
    out = tmp_path / "w"
    out.mkdir()
    ours = '{"unet2015": {"format": "weight-map/1"%s}}'
    for history in ("{", "[]", '{"unet2015": 3}', ours % "", ours % ', "labels": 4'):
        tifffile.imwrite(
            out / "l.weights.tif", np.ones((15, 15), np.float32), description=history, metadata=None
        )
        assert main([str(tmp_path / "l.tif"), "--out", str(out)]) == 5
        assert "--overwrite" in capsys.readouterr().err


def test_read_labels_refuses_a_folder_of_several(tmp_path):
    for k in range(2):
        tifffile.imwrite(tmp_path / f"{k}.tif", CELLS.astype(np.uint8))
    with pytest.raises(InputError, match="is 2 annotations"):
        read_labels(tmp_path)
