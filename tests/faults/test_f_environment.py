"""F7 to F9, G5 to G8: clocks, locales, closed pipes, homes, flags of Python: the same bytes."""

from __future__ import annotations

import ast
import functools
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.faults.killing import MAKE_MODEL, content, hidden
from tests.faults.warm import ROOT, Ended, Warm

FUTURE = 4_000_000_000  # the year 2096


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """A tiny network, an image, labels, and what the verbs make of them here and now."""
    folder = tmp_path_factory.mktemp("environment")
    assert warm.run(folder / "model.safetensors", "2", code=MAKE_MODEL).code == 0
    draw = np.random.default_rng(9)
    image = draw.integers(0, 256, (150, 170), dtype=np.uint8)
    tifffile.imwrite(folder / "image.tif", image, photometric="minisblack", metadata=None)
    cells = np.kron(draw.integers(0, 4, (8, 8), dtype=np.uint8), np.ones((6, 6), np.uint8))
    tifffile.imwrite(folder / "labels.tif", cells, photometric="minisblack", metadata=None)
    assert warm.run(*predicting(folder, folder / "whole.tif")).code == 0
    assert warm.run(*weighing(folder, folder / "maps")).code == 0
    return folder


def predicting(place: Path, out: Path) -> tuple[str | Path, ...]:
    return ("predict", place / "model.safetensors", place / "image.tif", "--out", out,
            "--output-tile", "36")  # fmt: skip


def weighing(place: Path, out: Path) -> tuple[str | Path, ...]:
    return ("weights", place / "labels.tif", "--out", out)


SEVERAL = """
import os, sys
from unet2015.cli import main

for line in sys.argv[1:]:
    code = main([os.fsdecode(bytes.fromhex(word)) for word in line.split(",")])
    for descriptor in (1, 2):
        sys.stdout.flush(), sys.stderr.flush()
        os.write(descriptor, b"\\x1e%d\\n" % code)
"""


def processes(
    *lines: tuple[str | bytes | Path, ...],
    flags: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    drop: tuple[str, ...] = (),
) -> list[Ended]:
    """`unet2015 WORDS...` for each line, one after the other, in a process of another environment.

    One process for several, because starting one costs more than what it does here.
    """
    outside = {name: value for name, value in os.environ.items() if name not in drop}
    coded = [",".join(os.fsencode(word).hex() for word in line) for line in lines]
    done = subprocess.run(
        [sys.executable, *flags, "-c", SEVERAL, *coded], cwd=ROOT, capture_output=True,
        text=True, errors="replace", timeout=240, check=False,
        env={**outside, "OMP_NUM_THREADS": "1", **(env or {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ended = []
    out, err = done.stdout, done.stderr
    for _ in lines:
        said, _, out = out.partition("\x1e")
        code, _, out = out.partition("\n")
        told, _, err = err.partition("\x1e")
        err = err.partition("\n")[2]
        ended.append(Ended(int(code), said, told))
    return ended


# -- F7: clocks ---------------------------------------------------------------------------------


def test_f7_no_decision_depends_on_the_time_of_day() -> None:
    """Only durations are measured, by a clock that cannot be set."""
    calls = []
    for package in ("tiling", "weightmaps", "unet2015"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute):
                    text = ast.unparse(node)
                    if text in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow",
                                "datetime.datetime.now", "date.today"):  # fmt: skip
                        calls.append(f"{path.name}: {text}")
    assert calls == []


def test_f7_files_of_the_future_and_a_clock_set_back(
    place: Path, warm: Warm, tmp_path: Path
) -> None:
    image = tmp_path / "image.tif"
    image.write_bytes((place / "image.tif").read_bytes())
    os.utime(image, (FUTURE, FUTURE))
    line = ["predict", place / "model.safetensors", image, "--out", tmp_path / "o" / "out.tif",
            "--output-tile", "36"]  # fmt: skip
    (tmp_path / "o").mkdir()
    assert warm.run(*line, fault="kill:12").code == -9
    for path in (tmp_path / "o").iterdir():
        os.utime(path, (FUTURE, FUTURE))
    back = (
        "import sys, time; time.time = lambda: 1e8; time.time_ns = lambda: 10**17\n"
        "from unet2015.cli import main; raise SystemExit(main(sys.argv[1:]))\n"
    )
    done = warm.run(*line, "--resume", code=back)
    assert done.code == 0, done.err
    assert content(tmp_path / "o" / "out.tif") == content(place / "whole.tif")
    assert hidden(tmp_path / "o") == []


def test_f7_a_map_is_current_by_its_content_not_by_its_date(
    place: Path, warm: Warm, tmp_path: Path
) -> None:
    assert warm.run(*weighing(place, tmp_path)).code == 0
    (made,) = tmp_path.iterdir()
    for moment in (1, FUTURE):
        os.utime(made, (moment, moment))
        again = warm.run(*weighing(place, tmp_path))
        assert again.code == 0
        assert "up to date" in again.out
        assert made.stat().st_mtime == moment


# -- F8: words and paths ------------------------------------------------------------------------

LOCALES = [
    {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "LANGUAGE": "tr"},
]


@pytest.mark.parametrize("locale", LOCALES, ids=["C-ascii", "tr_TR"])
def test_f8_any_locale_and_any_path_give_the_same_bytes(
    place: Path, tmp_path: Path, locale: dict[str, str]
) -> None:
    folder = os.fsencode(tmp_path) + "/Bild İıß 微 ".encode() + b"\xff"
    os.mkdir(folder)
    image, labels = folder + b"/i *[0].tif", tmp_path / "Zellen İı 微.tif"
    with open(image, "wb") as file:
        file.write((place / "image.tif").read_bytes())
    labels.write_bytes((place / "labels.tif").read_bytes())
    made, told, absent, weighed, sampled = processes(
        ("predict", place / "model.safetensors", image, "--out", folder + b"/o.tif",
         "--output-tile", "36"),
        ("info", folder + b"/o.tif"),
        ("info", folder + b"/absent.tif"),
        ("weights", labels, "--out", tmp_path / "Gewichte ß", "--preview"),
        ("sample", tmp_path / "Beispiel ß 微"),
        env=locale,
    )  # fmt: skip
    for done in (made, told, weighed, sampled):
        assert done.code == 0, done.err
    with open(folder + b"/o.tif", "rb") as file, tifffile.TiffFile(file) as ours:
        assert (ours.asarray() == tifffile.imread(place / "whole.tif")).all()
    assert absent.code == 3, absent.err
    assert absent.err.count("\n") == 1
    (one,) = (tmp_path / "Gewichte ß").glob("*.weights.tif")
    (usual,) = (place / "maps").glob("*.weights.tif")
    assert (tifffile.imread(one) == tifffile.imread(usual)).all()
    assert list((tmp_path / "Beispiel ß 微").iterdir())


def test_f8_help_and_usage_errors_in_ascii() -> None:
    words = (("--help",), ("predict", "--help"), ("predict", "--nö"))
    for done, code in zip(processes(*words, env=LOCALES[0]), (0, 0, 2), strict=True):
        assert done.code == code, done.err
        assert "Traceback" not in done.err


# -- F9: nobody listens -------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["help", "predict"])
def test_f9_a_closed_pipe_ends_quietly(place: Path, tmp_path: Path, verb: str) -> None:
    words = ("--help",) if verb == "help" else predicting(place, tmp_path / "out.tif")
    with subprocess.Popen(
        [sys.executable, "-m", "unet2015", *words], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as run:  # fmt: skip
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        told = run.stderr.read()
        code = run.wait(timeout=120)
    assert code == 0, told
    assert "Traceback" not in told
    assert "BrokenPipe" not in told
    if verb == "predict":
        assert content(tmp_path / "out.tif") == content(place / "whole.tif")


def test_f9_no_standard_output_at_all(place: Path, warm: Warm, tmp_path: Path) -> None:
    closed = """
import os, sys
os.close(1)
os.open("/dev/full", os.O_WRONLY)
from unet2015.cli import main
code = main(sys.argv[1:])
os._exit(code)
"""
    done = warm.run(*predicting(place, tmp_path / "out.tif"), code=closed)
    assert done.code in (0, 5), done.err
    assert "Traceback" not in done.err
    assert content(tmp_path / "out.tif") == content(place / "whole.tif")


# -- G5 to G8: Python and its surroundings ------------------------------------------------------


def test_g5_without_the_optional_packages_every_verb_still_has_its_help() -> None:
    code = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"imagecodecs", "zarr", "tensorboard", "onnx", "onnxruntime",
                                      "onnxscript", "bioimageio"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import tiling, weightmaps, unet2015
from unet2015.cli import main

for verb in ("weights", "train", "predict", "score", "info", "doctor", "export", "import-caffe",
             "sample", "demo"):
    assert main([verb, "--help"]) == 0, verb
assert "torch" not in sys.modules
import unet2015.train, unet2015.predict_file, unet2015.export, weightmaps.batch, tiling.tiff
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


SETTINGS = {
    "optimised": (("-O",), {"PYTHONHASHSEED": "1"}, ()),
    "warnings are errors": (("-W", "error"), {"PYTHONHASHSEED": "4242"}, ()),
    "read-only home": ((), {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere"}, ()),
    "no home": ((), {}, ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME")),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_g6_g8_results_are_the_same_bytes(place: Path, tmp_path: Path, setting: str) -> None:
    flags, env, drop = SETTINGS[setting]
    lines = [predicting(place, tmp_path / "o.tif")]
    if not setting.startswith("read-only"):  # without any cache all is compiled anew: 10 s of work
        lines.append(weighing(place, tmp_path / "maps"))
    if "home" in setting:  # where the compiled code would lie
        drop = (*drop, "UNET2015_CACHE_DIR", "NUMBA_CACHE_DIR")
    for done in processes(*lines, flags=flags, env=env, drop=drop):
        assert done.code == 0, done.err
    assert content(tmp_path / "o.tif") == content(place / "whole.tif")
    assert len(lines) == 1 or content(tmp_path / "maps") == content(place / "maps")


@pytest.mark.soak
def test_g1_g6_weight_maps_without_any_cache_are_the_same_bytes(
    place: Path, tmp_path: Path
) -> None:
    flags, env, drop = SETTINGS["read-only home"]
    (done,) = processes(weighing(place, tmp_path / "maps"), flags=flags, env=env,
                        drop=(*drop, "UNET2015_CACHE_DIR", "NUMBA_CACHE_DIR"))  # fmt: skip
    assert done.code == 0, done.err
    assert content(tmp_path / "maps") == content(place / "maps")


def test_g7_a_torch_below_the_floor_is_refused_with_the_reason(
    place: Path, warm: Warm, tmp_path: Path
) -> None:
    old = """
import sys
import unet2015.checkpoint as module

module.require_safe_torch.__defaults__ = ("2.9.1+cpu",)
from unet2015.cli import main
raise SystemExit(main(sys.argv[1:]))
"""
    done = warm.run(*predicting(place, tmp_path / "o.tif"), code=old)
    assert done.code == 2
    assert "CVE-2026-24747" in done.err
    assert not (tmp_path / "o.tif").exists()


@pytest.mark.parametrize("verb", ["weights", "train", "predict", "score", "sample", "export"])
def test_f5_a_limit_in_which_no_library_can_be_loaded_is_told_at_once(
    verb: str, tmp_path: Path
) -> None:
    words = {
        "weights": ["l.tif", "--out", "w"],
        "train": ["i.tif", "l.tif", "--out", "run"],
        "predict": ["m.st", "i.tif", "--out", "o.tif"],
        "score": ["p.tif", "l.tif"],
        "sample": ["s"],
        "export": ["m.st", "--to", "onnx", "--out", "m.onnx"],
    }[verb]
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_AS, (300 << 20, 300 << 20))
    done = subprocess.run(
        [sys.executable, "-m", "unet2015", verb, *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 6
    (line,) = done.stderr.splitlines()
    assert "(ulimit -v) is 307200 kB" in line
    assert "raise it" in line
    assert not list(tmp_path.iterdir())
