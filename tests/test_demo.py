"""The demo refuses before it writes, and stops as every command does."""

from __future__ import annotations

import html
import shlex
from types import SimpleNamespace

import pytest

from tiling.faults import InputError
from tiling.lock import OutputLock
from unet2015 import demo
from unet2015.cli import main
from unet2015.recipe import quick


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--steps", "0"], 2, "steps = 0 is outside"),
        (["--steps", "-5"], 2, "steps = -5 is outside"),
        (["--device", "tpu"], 2, "--device tpu: unknown"),
    ],
)
def test_a_demo_that_cannot_run_writes_nothing(words, code, reason, tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), *words]) == code
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_an_earlier_demo_is_kept(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["demo", "--out", str(tmp_path)]) == 5
    assert "use --overwrite" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("stop", "code"), [(KeyboardInterrupt(), 130), (InputError("labels.tif", "is broken"), 3)]
)
def test_a_demo_stopped_at_its_weights_says_why_once(stop, code, tmp_path, capsys, monkeypatch):
    def stopping(*_args, **_options):
        raise stop

    monkeypatch.setattr(demo, "write_sample", lambda *_args, **_options: [])
    monkeypatch.setattr(demo, "weights", stopping)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == code
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unet2015:")]
    assert len(said) == 1


def test_an_interrupted_demo_names_its_own_remedy(tmp_path, capsys, monkeypatch):
    def stopped(*_args, **_options):
        stop = KeyboardInterrupt()
        stop.add_note("7 of 1000 steps are saved; add --resume to go on")
        raise stop

    monkeypatch.setattr(demo, "write_sample", lambda *_args, **_options: [])
    monkeypatch.setattr(demo, "weights", lambda *_args, **_options: None)
    monkeypatch.setattr(demo, "run_training", stopped)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 130
    error = capsys.readouterr().err
    assert "--resume" not in error
    assert "start it again with --overwrite" in error


def test_a_second_demo_leaves_the_checkpoints_of_the_first(tmp_path, capsys):
    run = tmp_path / "demo" / "run"
    run.mkdir(parents=True)
    (run / "last.safetensors").write_bytes(b"of the first")
    with OutputLock(run / "run"):
        before = sorted(path.name for path in (tmp_path / "demo").rglob("*"))
        assert main(["demo", "--out", str(tmp_path / "demo"), "--overwrite"]) == 7
        assert "another run" in capsys.readouterr().err
        assert sorted(path.name for path in (tmp_path / "demo").rglob("*")) == before
    assert (run / "last.safetensors").read_bytes() == b"of the first"


def test_the_commands_in_the_report_can_be_pasted(tmp_path, monkeypatch):
    told = {}
    nothing = {"_large_scores": ({}, {}), "run_report": (None, None), "predict_file": [None]}
    nothing["run_training"] = SimpleNamespace(stack=None, validation=None)
    for name in (
        "write_sample", "weights", "run_training", "load_model", "predict_file", "read_stack",
        "_large_scores", "run_report", "_with_large_image", "_difference", "_with_seams",
        "write_text", "write_report",
    ):  # fmt: skip
        found = nothing.get(name, [None])
        monkeypatch.setattr(demo, name, lambda *_args, found=found, **_options: found)
    monkeypatch.setattr(demo, "replace", lambda *_args, **options: told.update(options))
    run = tmp_path / "my demo"
    demo._tell(run, quick(), overwrite=False, device="cpu")
    words = [shlex.split(line) for line in told["commands"]]
    assert [line[:2] for line in words] == [
        ["unet2015", verb] for verb in ("sample", "weights", "train", "predict")
    ]
    assert all(str(run) in " ".join(word for word in line if " " in word) for line in words)


def test_a_short_demo_comes_to_its_end_and_its_commands_give_the_same(tmp_path, capsys):
    out, kept = tmp_path / "demo", tmp_path / "kept"
    assert main(["demo", "--out", str(out), "--steps", "2", "--device", "cpu"]) == 0
    assert (out / "report.html").stat().st_size > 100_000
    assert (out / "run" / "last.safetensors").is_file()
    assert str(out / "report.html") in capsys.readouterr().out
    assert [path.name for path in out.rglob(".*")] == []
    out.rename(kept)
    page = (kept / "report.html").read_text("utf-8")
    lines = html.unescape(page.partition("<pre><code>")[2].partition("</code>")[0]).splitlines()
    commands = [shlex.split(line) for line in lines]
    assert len(commands) == 4
    for program, *words in commands:
        assert (program, main(words)) == ("unet2015", 0), capsys.readouterr().err
    for name in ("run/recipe.json", "run/last.safetensors", "large-probability.tif"):
        assert (out / name).read_bytes() == (kept / name).read_bytes(), name
