"""`unet2015 train` from the command line: files in, a folder with checkpoints and report out."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from tests.tiny_run import TINY, tiny_training, write_tiny
from unet2015 import checkpoint as checkpoints
from unet2015 import cli, cli_train, training_run
from unet2015.recipe import Recipe, isbi2012, quick
from unet2015.run_report import run_report
from unet2015.train import train

TINY_WORDS = [
    word
    for name in ("base_channels", "depth", "tile_px", "validate_every", "checkpoint_every")
    for word in ("--set", f"{name}={getattr(TINY, name)}")
]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def unet2015(*words):
    """Exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder with images, labels and a finished run."""
    folder = tmp_path_factory.mktemp("cli")
    images, labels = write_tiny(folder)
    code, out, err = unet2015(
        "train", images, labels, "--recipe", "quick", *TINY_WORDS, "--precision", "fp32",
        "--steps", 40, "--seed", 3, "--val", "3", "--keep-every", 20, "--out", folder / "run",
    )  # fmt: skip
    assert code == 0, err
    return folder, out, err


def test_a_run_leaves_checkpoints_log_scores_and_report(finished):
    folder, out, err = finished
    run = folder / "run"
    assert {p.name for p in run.iterdir() if not p.name.startswith(".")} == {
        "best.safetensors", "last.safetensors", "step-000020.safetensors",
        "step-000040.safetensors", "log.csv", "recipe.json", "report.html", "scores.json",
    }  # fmt: skip
    assert out.startswith(f"{run}: 40 steps; held out: wrong_pixels 0.")
    assert "quick: 3 slices, 1 held out, 40 steps of 1 tile(s) 44 px on cpu" in err
    assert re.search(r"step 20: loss 0\.\d+; wrong_pixels .* v_info .* tiles/s", err)
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "20", "30", "40"]
    assert rows[1]["wrong_pixels"] != ""
    assert rows[2]["wrong_pixels"] == ""
    recipe = Recipe.from_json((run / "recipe.json").read_text())
    assert (recipe.steps, recipe.seed, recipe.base_channels) == (40, 3, 2)
    scores = json.loads((run / "scores.json").read_text())
    assert {"wrong_pixels", "v_rand", "v_info", "warping_error"} <= set(scores)
    state = checkpoints.load(run / "last.safetensors")
    assert state.recipe == recipe.to_dict()


@pytest.mark.parametrize("place", ["write_run_report", "closing", "tell"])
def test_ctrl_c_after_the_last_step_names_resume_and_resuming_ends_alike(
    finished, tmp_path, monkeypatch, place
):
    folder, whole, _ = finished
    words = [
        "train", folder / "images.tif", folder / "labels.tif", "--recipe", "quick", *TINY_WORDS,
        "--precision", "fp32", "--steps", 40, "--seed", 3, "--val", "3", "--keep-every", 20,
        "--tensorboard", "--out", tmp_path / "run",
    ]  # fmt: skip

    def stopped(*_args, **_options):
        raise KeyboardInterrupt

    class Stopping(contextlib.closing):
        def __exit__(self, *_):
            raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "require_tensorboard", lambda: None)
    monkeypatch.setattr(training_run, "Events", lambda _: contextlib.nullcontext(lambda _: None))
    monkeypatch.setattr(training_run, "closing", lambda events: events)
    with monkeypatch.context() as patch:
        if place == "closing":
            events = lambda _run: None  # noqa: E731
            events.close = lambda: None
            patch.setattr(training_run, "Events", lambda _: events)
        patch.setattr(training_run, place, Stopping if place == "closing" else stopped)
        code, out, err = unet2015(*words)
    assert (code, out) == (130, "")
    assert err.endswith("unet2015: interrupted; 40 of 40 steps are saved; add --resume to go on\n")
    code, out, err = unet2015(*words, "--resume")
    assert code == 0, err
    figures = [text.partition("held out: ")[2].strip().split(", ") for text in (out, whole)]
    assert sorted(figures[0]) == sorted(figures[1]) != []
    for name in ("log.csv", "scores.json", "recipe.json"):
        assert (tmp_path / "run" / name).read_text() == (folder / "run" / name).read_text()
    ours, theirs = (checkpoints.load(at / "run" / "last.safetensors") for at in (tmp_path, folder))
    assert all(torch.equal(ours.weights[name], theirs.weights[name]) for name in theirs.weights)
    assert (tmp_path / "run" / "report.html").exists()


def test_ctrl_c_before_the_first_step_names_no_resume(finished, tmp_path, monkeypatch):
    def stopped(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "read_inputs", stopped)
    images, labels = finished[0] / "images.tif", finished[0] / "labels.tif"
    code, _, err = unet2015("train", images, labels, "--out", tmp_path / "run")
    assert (code, err) == (130, "unet2015: interrupted\n")


def test_the_report_holds_curves_slices_weights_recipe_and_certificate(finished):
    page = (finished[0] / "run" / "report.html").read_text("utf-8")
    for words in (
        "Training run run",
        "V_info",
        "slice 3",
        "base_channels",
        "largest difference",
        "unet2015 train" if "unet2015 train" in page else "unet2015 ",
        "torch",
    ):
        assert words in page, words
    assert page.count("data:image/png") >= 4  # Figure 3, curves, a slice, seams
    assert "<script" not in page


def test_the_slices_that_are_held_out_are_told(tmp_path):
    images, labels = write_tiny(tmp_path)
    for stack in (images, labels):
        (tmp_path / stack.stem).mkdir()
        for number, page in enumerate(tifffile.imread(stack), start=1):
            tifffile.imwrite(tmp_path / stack.stem / f"{number}.tif", page, metadata=None)
    code, _, err = unet2015(
        "train", tmp_path / "images", tmp_path / "labels", "--recipe", "quick", *TINY_WORDS,
        "--steps", 1, "--val", "1-2,4", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    assert "held out: 1, 2, 4\n" in err


def test_a_finished_run_is_refused_and_resumed(finished):
    folder = finished[0]
    _, told, _ = unet2015("info", folder / "run", "--json")
    _, told_of_file, _ = unet2015("info", folder / "run" / "last.safetensors", "--json")
    assert json.loads(told) == {"run": str(folder / "run"), **json.loads(told_of_file)}
    again = ["train", folder / "images.tif", folder / "labels.tif", "--val", "3",
             "--recipe", folder / "run" / "recipe.json", "--out", folder / "run"]  # fmt: skip
    code, _, err = unet2015(*again)
    assert code == 5
    assert "already holds a run; add --resume" in err
    before = (folder / "run" / "last.safetensors").read_bytes()
    code, out, _ = unet2015(*again, "--resume")
    assert code == 0
    assert "40 steps; held out" in out
    assert (folder / "run" / "last.safetensors").read_bytes() == before
    code, _, err = unet2015(*again, "--resume", "--seed", 4)
    assert code == 2
    assert "another recipe (seed 3 -> 4)" in err


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_b6_a_file_of_the_run_is_no_file_that_it_learns_from(tmp_path, link):
    images, labels = write_tiny(tmp_path)
    (tmp_path / "run").mkdir()
    link(labels, tmp_path / "run" / "report.html")
    before = labels.read_bytes()
    code, _, err = unet2015("train", images, labels, "--out", tmp_path / "run")
    assert code == 5
    assert f"report.html: is also the input {labels}" in err
    assert labels.read_bytes() == before


def test_f_a_current_folder_that_is_gone_is_told(tmp_path, monkeypatch):
    images, labels = write_tiny(tmp_path)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, _, err = unet2015("train", images, labels, "--out", "run")
    assert code == 2
    assert "has been deleted; change to one that exists" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--recipe", "huge"], 2, "--recipe huge: unknown; choose isbi2012"),
        (["--recipe", "no.json"], 3, "no.json: is no recipe"),
        (["--set", "lr=1"], 2, "--set lr=1: give FIELD=VALUE with a field of recipe.json"),
        (["--set", "momentum=2"], 2, "momentum = 2.0 is outside 0 .. 0.99999"),
        (
            ["--set", "warmup_steps=5"],
            2,
            "warmup_steps=5: does nothing with schedule=one-cycle; leave it out, or add --set",
        ),
        (["--set", "momentum=0.9"], 2, "momentum=0.9: does nothing with optimiser=adam; leave"),
        (["--set", "w0=9"], 2, "w0=9.0: does nothing with border_weight=false; leave it out"),
        (["--set", "sigma_px=9"], 2, "sigma_px=9.0: does nothing with border_weight=false"),
        (["--set", "where=everywhere"], 2, "where=everywhere: does nothing with border_weight="),
        (["--set", "displacement_spacing_px=9"], 2, "with displacement=interpolate; leave it out"),
        (
            ["--set", "displacement=bspline", "--set", "displacement_grid=4"],
            2,
            "displacement_grid=4: does nothing with displacement=bspline",
        ),
        (["--set", "steps=3", "--steps", "3"], 2, "--set steps beside --steps: leave one of the"),
        (["--set", "learning_rate=abc"], 2, "learning_rate = 'abc' is not of type float"),
        (["--set", "steps=many"], 2, "steps = 'many' is not of type int"),
        (["--set", "to_json=1"], 2, "to_json=1: give FIELD=VALUE with a field of recipe.json\n"),
        (["--set", "sigma=4"], 2, "with a field of recipe.json, perhaps sigma_px\n"),
        (["--set", "steps"], 2, "--set steps: give FIELD=VALUE with a field of recipe.json\n"),
        (["--set", "tile_px=285"], 2, "tile_px 285 does not fit"),
        (["--device", "cuda:99"], 2, "not available on this machine"),
        (["--device", "tpu"], 2, "unknown; use auto, cpu"),
        (["--val", "9"], 2, "--val 9: slices 9 are outside 0 .. "),
        (
            ["--val", "abc"],
            2,
            "--val abc: 'abc' is no slice number or range; write e.g. 12-14",
        ),
        (["--val", "0-3"], 2, "leave no slice for training; the stack has 4"),
        (["--set", "ignore_label=1"], 2, "is one of the classes 0 .. 1; use 255, and --ignore 1"),
        (["--set", "unlabelled_beyond_px=9"], 2, "add ignore_label = 255"),
        (["--ignore", "7", "--weights", "maps"], 2, "leave --weights out"),
        (["--label-values", "255,0", "--weights", "maps"], 2, "maps from files take 0 as backgro"),
        (["--workers", "257"], 2, "Invalid value for '--workers'"),
        (["--set", "ignore_label=255"], 3, "train with --set ignore_label=254"),
        (["--set", "ignore_label=255", "--val", "3"], 3, "255 means no annotation here"),
        (["--set", "ignore_label=255", "--label-values", "0,255"], 3, "255 is that of class 1 and"),
        (["--val", "0,a"], 2, "no slice has the name 'a'; the names are 0, 1"),
        (["--set", "in_channels=2"], 3, "has 1 channel(s), the network takes 2; train with --set"),
        (
            ["--weights", "m", "--set", "weights_after_warp=recomputed"],
            2,
            "--weights m: weight map",
        ),
        (["--labels", "classes", "--set", "classes=3", "--ignore", "1"], 3, "name the value of"),
        (["--label-values", "a,b"], 2, "'a' is neither a whole number nor VALUE=CLASS"),
        (["--label-values", "0-9=0,5=1"], 2, "5 is given to the classes 0 and 1"),
        (["--label-values", "9-0=0"], 2, "names -8 values"),
        (["--label-values", "0,255", "--labels", "mask"], 2, "leave one of the two out"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path, words, code, message):
    images, labels = write_tiny(tmp_path)
    found, out, err = unet2015(
        "train", images, labels, "--recipe", "quick", "--out", tmp_path / "run", *words
    )
    assert (found, out) == (code, ""), err
    assert message in err
    assert not (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_training_that_runs_out_of_memory_names_the_remedy(tmp_path, monkeypatch, error):
    def gradients(*_args):
        raise error

    monkeypatch.setattr("unet2015.train.gradients", gradients)
    words = ("--recipe", "quick", *TINY_WORDS, "--out", tmp_path / "run")
    code, _, err = unet2015("train", *write_tiny(tmp_path), *words)
    assert code == 6
    assert "out of memory; use a smaller --set tile_px or --set batch" in err


def test_h3_weights_that_are_all_zero_are_bad_input(tmp_path, monkeypatch):
    def weigh(stack, _recipe):
        return replace(stack, weights=[np.zeros(x.shape, np.float32) for x in stack.labels])

    monkeypatch.setattr(training_run, "weigh", weigh)
    images, labels = write_tiny(tmp_path)
    code, _, err = unet2015("train", images, labels, "--out", tmp_path / "run")
    assert code == 3
    assert "gives every pixel the weight 0: nothing to learn" in err


def test_settings_keep_their_types():
    changed = cli_train.replace_fields(
        isbi2012(),
        ["class_weights=none", "ignore_label=255", "mirror=false", "learning_rate=1",
         "precision=bf16"],
        {"steps": None, "seed": 7},
    )  # fmt: skip
    assert changed == replace(
        isbi2012(), class_weights="none", ignore_label=255, mirror=False, learning_rate=1.0,
        precision="bf16", seed=7,
    )  # fmt: skip
    assert cli_train.replace_fields(changed, ["ignore_label=none"], {}) == replace(
        changed, ignore_label=None
    )
    slower = ["optimiser=sgd", "momentum=0.9"]
    assert cli_train.replace_fields(quick(), slower, {}).momentum == 0.9
    assert {cli_train.find_recipe(name).name for name in cli_train.RECIPES} == set(
        cli_train.RECIPES
    )


@pytest.mark.parametrize("kind", ["three classes", "ignore label", "no foreground held out"])
def test_reports_of_other_kinds_of_data(tmp_path, kind):
    stack, held_out = tiny_training()
    recipe = replace(TINY, steps=4)
    if kind == "three classes":
        recipe = replace(recipe, classes=3)
    elif kind == "ignore label":
        recipe = replace(recipe, ignore_label=255)
        labels = held_out.labels[0].copy()
        labels[:8] = 255
        held_out = replace(held_out, labels=[labels])
    else:
        held_out = replace(held_out, labels=[np.zeros_like(held_out.labels[0])])
    run = train(recipe, stack, tmp_path, validation=held_out)
    data, scores = run_report(run, stack, held_out)
    assert scores is None
    assert data.key_figures[0].value == pytest.approx(run.measures["wrong_pixels"])
    assert len(data.slices) == 1
    assert ("leave them out" in " ".join(data.warnings)) == (kind == "no foreground held out")


def test_a_run_without_held_out_slices_has_a_report_too(tmp_path):
    images, labels = write_tiny(tmp_path)
    code, out, err = unet2015("train", images, labels, "--recipe", "quick", *TINY_WORDS,
                              "--steps", 3, "--out", tmp_path / "run")  # fmt: skip
    assert code == 0, err
    assert out == f"{tmp_path / 'run'}: 3 steps\n"
    assert (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_row_and_the_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    images, labels = write_tiny(tmp_path)
    code, _, err = unet2015(
        "train", images, labels, "--recipe", "quick", *TINY_WORDS, "--steps", 40, "--val", "3",
        "--tensorboard", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [10, 20, 30, 40]
    assert [e.step for e in events.Scalars("wrong_pixels")] == [20, 40]
    assert [e.step for e in events.Images("held out/probability")] == [20, 40]
    assert {"held out/image", "held out/labels"} <= set(events.Tags()["images"])


def test_tensorboard_that_is_not_installed_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    images, labels = write_tiny(tmp_path)
    code, _, err = unet2015("train", images, labels, "--tensorboard", "--out", tmp_path / "run")
    assert code == 2
    assert "pip install 'unet2015[tensorboard]'" in err


@pytest.mark.data
def test_a_few_steps_on_the_isbi_stack(real_data, tmp_path):
    folder = real_data / "isbi2012"
    code, _, err = unet2015(
        "train", folder / "train-volume.tif", folder / "train-labels.tif", "--recipe", "quick",
        "--val", "12-14,27-29", "--steps", 2, "--set", "base_channels=2", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    assert quick().tile_px == 284
    assert "24 slices, 6 held out" in err
    assert tifffile.imread(folder / "train-volume.tif").shape == (30, 512, 512)


def test_sparsely_painted_labels_are_trained_on_where_they_are(tmp_path):
    images, labels = write_tiny(tmp_path)
    painted = np.where(tifffile.imread(labels) > 0, 2, 1).astype(np.uint8)
    painted[:, :, ::2] = 0  # every other column is not annotated
    sparse = tmp_path / "sparse.tif"
    tifffile.imwrite(sparse, painted, photometric="minisblack", metadata=None)
    words = ["train", images, sparse, "--recipe", "quick", *TINY_WORDS, "--steps", 3, "--val", "3"]
    code, _, err = unet2015(*words, "--out", tmp_path / "asked")
    assert code == 3
    assert "3 values (0, 1, 2)" in err
    options = ["--label-values", "1,2", "--ignore", "0"]
    code, out, err = unet2015(*words, *options, "--out", tmp_path / "run")
    assert code == 0, err
    assert "held out: wrong_pixels" in out
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["ignore_label"] == 255
    code, _, err = unet2015(*words, *options, "--out", tmp_path / "run", "--resume")
    assert code == 0, err


def test_floating_point_beyond_1_is_told(tmp_path):
    images, labels = write_tiny(tmp_path)
    words = ["train", tmp_path / "f.tif", labels, "--recipe", "quick", *TINY_WORDS, "--steps", 1]
    for gain, told in ((1 / 255, False), (1, True)):
        pixels = tifffile.imread(images) * np.float32(gain)
        tifffile.imwrite(tmp_path / "f.tif", pixels, photometric="minisblack", metadata=None)
        code, _, err = unet2015(*words, "--out", tmp_path / f"run{told}")
        assert code == 0, err
        assert ("are taken as they are; --set scale=percentile" in err) is told


def test_folder_and_tile_are_refused_before_anything_is_read(finished, tmp_path):
    folder, _, _ = finished
    absent = (tmp_path / "no.tif", tmp_path / "no.tif")
    code, _, err = unet2015("train", *absent, "--out", folder / "run")
    assert code == 5
    assert "already holds a run" in err
    (tmp_path / "file").write_bytes(b"")
    code, _, err = unet2015("train", *absent, "--out", tmp_path / "file" / "run")
    assert code == 5
    assert "cannot be made a folder" in err
    code, _, err = unet2015("train", *absent, "--out", tmp_path / "new", "--set", "tile_px=571")
    assert code == 2
    assert "nearest: 556 or 572" in err


def test_info_of_an_ordinary_folder_says_what_it_lacks(tmp_path):
    code, _, err = unet2015("info", tmp_path)
    assert code == 3
    assert "is a folder without last.safetensors (a training run) and without Zarr" in err


@pytest.mark.parametrize("name", ["report.html", "log.csv", "recipe.json", "scores.json"])
def test_b5_a_file_of_somebody_else_is_not_replaced_by_a_run(tmp_path, name):
    images, labels = write_tiny(tmp_path)
    other = tmp_path / "run" / name
    other.parent.mkdir()
    other.write_text("my notes")
    words = ("train", images, labels, "--recipe", "quick", "--steps", "1", "--out", other.parent)
    code, _, err = unet2015(*words)
    assert code == 5
    assert f"holds {name} and no run; move that file away" in err
    assert other.read_text() == "my notes"


def test_b6_a_recipe_that_is_changed_does_not_replace_the_given_one(tmp_path):
    images, labels = write_tiny(tmp_path)
    given = tmp_path / "run" / "recipe.json"
    given.parent.mkdir()
    given.write_text(TINY.to_json())
    words = ("train", images, labels, "--recipe", given, "--steps", "1", "--out", given.parent)
    code, _, err = unet2015(*words)
    assert code == 5
    assert "recipe.json: is also the input" in err
    assert given.read_text() == TINY.to_json()
