"""G1-G4: the cache of compiled code may be missing, foreign, damaged or contended; runs go on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from weightmaps import compiled as module

pytest.importorskip("numba")

ROOT = Path(__file__).parents[2]
PROGRAM = """
from weightmaps.compiled import compiled
from weightmaps.threads import set_threads, threads

@compiled
def total(values):
    result = 0
    for value in values:
        result += value
    return result
"""
MAIN = """
import logging
import numpy as np
logging.basicConfig(format="LOGGED %(message)s")
print(total(np.arange(5)))
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program" / "adding.py"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(module.ENVIRONMENT, str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_warned", False)
    return tmp_path / "cache" / "compiled"


def start(program):
    """Import the program anew, call its function for one type; returns the cache hits."""
    spec = importlib.util.spec_from_file_location("adding", program)
    adding = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adding)
    assert adding.total(np.arange(5)) == 10
    return sum(adding.total._cache_hits.values())


def command(program, *flags):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program.read_text()}{MAIN}"
    main = program.with_name("main.py")
    main.write_text(code)
    return [sys.executable, *flags, str(main)]


def files(cache):
    return sorted(cache.iterdir())


def test_the_second_start_finds_the_compiled_code(program, cache):
    assert start(program) == 0
    assert len(files(cache)) == 1
    assert start(program) == 1
    assert cache.stat().st_mode & 0o777 == 0o700
    assert not list(program.parent.glob("__pycache__/*.nb*"))


def test_g1_an_unusable_place_means_one_warning(program, cache):
    cache.parent.write_text("a file where a folder should be")
    with pytest.warns(RuntimeWarning, match="compiled code cannot be kept") as warned:
        assert start(program) == 0
    assert len(warned) == 1
    assert module.ENVIRONMENT in str(warned[0].message)
    assert start(program) == 0  # and no second warning: warnings are errors here


def test_g1_warnings_as_errors_do_not_stop_a_run(program, cache):
    cache.parent.write_text("a file where a folder should be")
    done = subprocess.run(
        command(program, "-W", "error::RuntimeWarning"), capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout == "10\n"
    assert done.stderr.count("LOGGED compiled code cannot be kept") == 1


@pytest.mark.skipif(os.name != "posix", reason="POSIX homes")
@pytest.mark.parametrize("home", ["/proc/nowhere", "", "/"])
def test_g6_no_usable_home(program, cache, monkeypatch, home):
    for name in (module.ENVIRONMENT, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", home)
    with pytest.warns(RuntimeWarning, match="compiled code cannot be kept"):
        assert start(program) == 0


def damaged(content, kind):
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    return {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "garbage": bytes(range(256)) * 40,
        "flipped": bytes(flipped),
        "text": "\N{SNOWMAN}".encode() * 100,
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "truncated", "garbage", "flipped", "text"])
def test_g2_a_damaged_file_is_recompiled(program, cache, kind):
    start(program)
    (path,) = files(cache)
    path.write_bytes(damaged(path.read_bytes(), kind))
    assert start(program) == 0
    assert start(program) == 1


def test_g2_a_file_that_cannot_be_read_back_is_recompiled(program, cache):
    start(program)
    module._publish(files(cache)[0], b"checked, but no compiled code")  # a valid checksum
    with pytest.warns(RuntimeWarning, match="compiled code cannot be kept"):
        assert start(program) == 0


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
@pytest.mark.parametrize("mode", [0o777, 0o750, 0o704])
def test_g3_a_folder_open_to_others_is_not_used(program, cache, mode):
    start(program)
    cache.chmod(mode)
    with pytest.warns(RuntimeWarning, match="others may enter"):
        assert start(program) == 0


@pytest.mark.skipif(os.name != "posix", reason="POSIX owners")
def test_g3_a_folder_of_another_user_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv(module.ENVIRONMENT, str(tmp_path))
    mine = os.geteuid()
    assert module._private_directory() == tmp_path / "compiled"
    assert (tmp_path / "compiled").stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(OSError, match="belongs to user"):
        module._private_directory()


def test_g3_a_link_or_a_relative_place_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "compiled").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv(module.ENVIRONMENT, str(tmp_path))
    with pytest.raises(OSError, match="not a folder"):
        module._private_directory()
    monkeypatch.setenv(module.ENVIRONMENT, "here")
    with pytest.raises(OSError, match="not absolute"):
        module._private_directory()


def test_g4_four_processes_compile_at_once(program, cache):
    start_one = command(program)
    running = [
        subprocess.Popen(start_one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in running:
        out, errors = process.communicate(timeout=120)
        assert (process.returncode, out, errors) == (0, "10\n", "")
    assert len(files(cache)) == 1
    assert module._intact(files(cache)[0])


def test_changed_source_is_recompiled_and_its_old_code_removed(program, cache):
    start(program)
    old = files(cache)
    program.write_text(program.read_text() + "\n# another version\n")
    assert start(program) == 0
    assert len(files(cache)) == 1
    assert files(cache) != old


def test_without_numba_the_function_stays_python(monkeypatch):
    monkeypatch.setattr(module, "available", lambda: False)

    def twice(x):
        return 2 * x

    assert module.compiled(twice) is twice
    assert module.compiled_distinct(twice) is twice


def test_g5_without_numba_the_package_still_works():
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.modules["numba"] = None
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "numba" else found(name, *a)
import weightmaps
print(weightmaps.weight_map([[1, 0, 2]], class_weights="none").round(3).tolist())
print([d.tolist() for d in weightmaps.two_nearest_distances([[1, 0, 2]])])
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "[[0.0, 1.0, 0.0]]" in done.stdout


def test_importing_is_light():
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import weightmaps
heavy = {{"torch", "numba", "scipy", "zarr", "tifffile", "skimage", "matplotlib"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("platform", "variables", "end"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/unet2015/compiled"),
        ("linux", {"HOME": "/h"}, "/h/.cache/unet2015/compiled"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/unet2015/compiled"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/unet2015/compiled"),
    ],
)
def test_the_place_follows_the_platform(monkeypatch, platform, variables, end):
    for name in ("XDG_CACHE_HOME", module.ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert module.cache_directory() == Path(end)


def test_compiled_kernels_do_not_warn():
    from weightmaps import weight_map

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weight_map(np.eye(5, dtype=int))
