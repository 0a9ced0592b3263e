"""A8, A9, A10, B8: prediction stopped by hand, scheduler or rival; leftovers of dead runs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer

from tests.faults.killing import MAKE_MODEL, content, hidden
from tests.faults.warm import Warm
from tiling.command import run_app

ROOT = Path(__file__).parents[2]
POINTS = (1, 8, 11, 13, 16, 19, 22, 26, 31, 36)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """A tiny network, an image, and the output of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("stopping")
    assert warm.run(folder / "model.safetensors", "1", code=MAKE_MODEL).code == 0
    image = np.random.default_rng(8).integers(0, 256, (2, 300, 40), dtype=np.uint8)
    tifffile.imwrite(folder / "image.tif", image, photometric="minisblack", metadata=None)
    assert warm.run(*words(folder, folder / "whole.tif")).code == 0
    return folder


def words(place: Path, out: Path) -> tuple[str | Path, ...]:
    return ("predict", place / "model.safetensors", place / "image.tif", "--out", out,
            "--output-tile", "60")  # fmt: skip


@pytest.mark.parametrize(("fault", "code"), [("sigint", 130), ("sigterm", 143)])
def test_a9_a10_a_signal_at_ten_points(
    place: Path, warm: Warm, tmp_path: Path, fault: str, code: int
) -> None:
    out = tmp_path / "out.tif"
    for n in POINTS:
        stopped = warm.run(*words(place, out), fault=f"{fault}:{n}")
        assert stopped.code == code, (n, stopped)
        assert "Traceback" not in stopped.err
        assert "unet2015: " in stopped.err.splitlines()[-1]
        assert not [name for name in hidden(tmp_path) if name.endswith("tmp")]
        if ".out.tif.part" in hidden(tmp_path):
            assert "--resume" in stopped.err.splitlines()[-1]
        if not out.exists():
            again = warm.run(*words(place, out), "--resume")
            assert again.code == 0, again.err
        assert content(out) == content(place / "whole.tif")
        assert hidden(tmp_path) == []
        out.unlink()


@pytest.mark.parametrize("times", [1, 2])
def test_a9_ctrl_c_at_random_moments_ends_soon(
    place: Path, warm: Warm, tmp_path: Path, times: int
) -> None:
    draw = random.Random(times)
    out = tmp_path / "out.tif"
    began = time.monotonic()
    assert warm.run(*words(place, out)).code == 0
    usual = time.monotonic() - began
    codes = []
    for _ in range(6):
        out.unlink(missing_ok=True)
        run = warm.start(*words(place, out), "--resume")
        time.sleep(draw.uniform(0.02, usual))
        for _ in range(times):
            run.send_signal(signal.SIGINT)
        ended = run.wait()
        codes.append(ended.code)
        # -2 or 1: before the command line had its handlers, as any Python program
        assert ended.code in (0, 130, 1, -2), ended
        assert content(out) in ("", content(place / "whole.tif"))
        assert not [name for name in hidden(tmp_path) if name.endswith("tmp")]
    if not out.exists():
        assert warm.run(*words(place, out), "--resume").code == 0
    assert content(out) == content(place / "whole.tif")


def test_a8_leftovers_of_a_dead_run_are_removed_and_named(
    place: Path, warm: Warm, tmp_path: Path
) -> None:
    save = "import sys; from tiling.safe_write import write_bytes; write_bytes(sys.argv[1], b'x')"
    assert warm.run(tmp_path / "out.tif", code=save, fault="kill:2").code == -9
    (left,) = hidden(tmp_path)
    foreign = tmp_path / ".notes.tmp"
    foreign.touch()
    done = warm.run(*words(place, tmp_path / "out.tif"))
    assert done.code == 0, done.err
    assert f"unet2015: removed {tmp_path / left}, left by a run that did not end" in done.err
    assert hidden(tmp_path) == [foreign.name]


def test_a8_leftovers_are_removed_by_the_verbs_that_write_models_too(
    place: Path, warm: Warm, tmp_path: Path
) -> None:
    save = "import sys; from tiling.safe_write import write_bytes; write_bytes(sys.argv[1], b'x')"
    assert warm.run(tmp_path / "m.pt2", code=save, fault="kill:2").code == -9
    (left,) = hidden(tmp_path)
    out = tmp_path / "there.pt2"
    out.touch()  # so that the export is refused, and is quick
    done = warm.run("export", place / "model.safetensors", "--to", "pt2", "--out", out)
    assert done.code == 5
    assert left in done.err
    assert hidden(tmp_path) == []
    assert warm.run(tmp_path / "m.pt2", code=save, fault="kill:2").code == -9
    done = warm.run("import-caffe", place / "image.tif", "--out", tmp_path / "m.safetensors")
    assert done.code == 4
    assert hidden(tmp_path) == []


def test_b8_the_second_prediction_is_told_the_first_ones_number(
    place: Path, warm: Warm, tmp_path: Path
) -> None:
    from tiling.lock import OutputLock

    out = tmp_path / "out.tif"
    with OutputLock(out):
        second = warm.run(*words(place, out))
    assert second.code == 7
    assert f"process {os.getpid()}" in second.err
    assert "Traceback" not in second.err
    assert not out.exists()
    assert warm.run(*words(place, out)).code == 0


def test_b12_an_image_replaced_during_the_run_gives_no_output(
    place: Path, warm: Warm, tmp_path: Path
) -> None:
    image = tmp_path / "image.tif"
    image.write_bytes((place / "image.tif").read_bytes())
    meddle = """
import os, sys
import unet2015.predict_file as module

really = module.stitch

def stitch(*args, **options):
    result = really(*args, **options)
    os.utime(sys.argv[-1], (1, 1))
    return result

module.stitch = stitch
from unet2015.cli import main
raise SystemExit(main(sys.argv[1:-1]))
"""
    line = [word if word != place / "image.tif" else image
            for word in words(place, tmp_path / "out.tif")]  # fmt: skip
    ended = warm.run(*line, image, code=meddle)
    assert ended.code == 7, ended.err
    assert "changed while it was being read" in ended.err
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a9_a10_a_real_process_in_the_middle_of_its_work(
    place: Path, tmp_path: Path, number: int, code: int
) -> None:
    image = np.random.default_rng(8).integers(0, 256, (40, 600, 600), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "large.tif", image, photometric="minisblack", metadata=None)
    out = tmp_path / "out.tif"
    line = [sys.executable, "-m", "unet2015", "predict", place / "model.safetensors",
            tmp_path / "large.tif", "--out", out, "--output-tile", "60"]  # fmt: skip
    with subprocess.Popen(
        line, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as run:  # fmt: skip
        journal = tmp_path / ".out.tif.part.journal"
        for _ in range(6000):
            if journal.exists() and b'"n":' in journal.read_bytes():  # rows are done
                break
            time.sleep(0.01)
        run.send_signal(number)
        began = time.monotonic()
        _, err = run.communicate(timeout=60)
    assert run.returncode == code, err
    assert time.monotonic() - began < 20  # 2 s on a machine at rest
    assert "--resume" in err.splitlines()[-1]
    assert not out.exists()
    assert journal.exists()


INTERRUPTED_WHILE_LOADING = """
import os, runpy, signal, sys, time

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "tiling.command":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

sys.meta_path.insert(0, Interrupting())
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["unet2015", "weightmaps"])
def test_a9_ctrl_c_while_the_program_is_loaded_shows_no_traceback(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_LOADING, module, "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = f"{module}: interrupted\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", said)


@pytest.mark.parametrize("package", ["unet2015", "weightmaps"])
def test_a9_nothing_is_loaded_before_ctrl_c_is_taken(package: str) -> None:
    """The package itself comes before its `__main__`, which takes Ctrl-C."""
    code = f"import sys; old = {{*sys.modules}}; import {package}; print(*{{*sys.modules}} - old)"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert set(ended.stdout.split()) <= {"__future__", package}


def test_a9_ctrl_c_while_the_command_line_is_read_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_args: object, **_keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tiling.command._plainly_used", lambda command: command)
    monkeypatch.setattr("typer.core.TyperCommand.make_context", interrupted)
    app = typer.Typer()
    app.command()(lambda: None)
    assert run_app("program", app, []) == 130
    assert "program: interrupted" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("call", ["socketpair:signal=SIGINT", "socketpair:error=EMFILE"])
def test_a9_a_library_that_is_interrupted_while_it_starts_shows_no_traceback(
    place: Path, tmp_path: Path, call: str
) -> None:
    """The loop of zarr, whose finalizer fails where it was not made to its end."""
    line = ["strace", "-f", "-q", "-o", os.devnull, "--trace=socketpair", f"--inject={call}:when=1",
            sys.executable, "-m", "unet2015", *words(place, tmp_path / "o.zarr")]  # fmt: skip
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not be used here")
    assert done.returncode == (130 if "SIGINT" in call else 5), done.stderr
    assert "Traceback" not in done.stderr
    assert "never awaited" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("unet2015: ")
