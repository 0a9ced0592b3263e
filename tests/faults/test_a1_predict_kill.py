"""A1, A5, A6 and neighbours: `unet2015 predict` killed, torn, starved at each of its calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.faults.killing import (
    MAKE_MODEL,
    MOST,
    Command,
    content,
    count_calls,
    hidden,
    ruins,
)
from tests.faults.warm import Warm
from tiling.renaming import can_exchange

ROOT = Path(__file__).parents[2]
MEMORY = Path("/dev/shm")
Record = Callable[[str, object], None]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where there is such a place: thousands of fsyncs cost nothing there."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """A tiny network and an image of two pages, each of three rows of stored tiles."""
    folder = tmp_path_factory.mktemp("predict")
    assert warm.run(folder / "model.safetensors", "1", code=MAKE_MODEL).code == 0
    image = np.random.default_rng(7).integers(0, 256, (2, 300, 40), dtype=np.uint8)
    tifffile.imwrite(folder / "image.tif", image, photometric="minisblack", metadata=None)
    return folder


def predict(place: Path, out: Path, *options: str) -> Command:
    if "levels" in out.name:
        options = ("--axes", "ZYX", "--pyramid", *options)
    words = ("predict", place / "model.safetensors", place / "image.tif", "--out", out,
             "--output-tile", "60", *options)  # fmt: skip
    return Command(words, out)


@pytest.fixture(scope="module")
def whole(place: Path, warm: Warm) -> dict[str, str]:
    """Contents of the uninterrupted runs."""
    found = {}
    for ending in ("tif", "zarr", "levels.ome.tif", "levels.zarr"):
        command = predict(place, place / f"whole.{ending}")
        assert command.run(warm).code == 0
        found[ending] = content(command.out)
    return found


def every(nth: int) -> range:
    """Each N-th call, more than any command makes."""
    return range(1, MOST, nth)


in_soak = pytest.mark.soak


@pytest.mark.parametrize(
    ("fault", "ending", "calls"),
    [
        ("kill", "tif", every(1)),
        ("torn", "tif", every(4)),
        ("kill", "zarr", every(3)),
        ("kill", "levels.ome.tif", every(4)),
        ("kill", "levels.zarr", every(9)),
        pytest.param("torn", "tif", every(1), marks=in_soak),
        pytest.param("kill", "zarr", every(1), marks=in_soak),
        pytest.param("kill", "levels.ome.tif", every(1), marks=in_soak),
        pytest.param("torn", "levels.ome.tif", every(1), marks=in_soak),
        pytest.param("kill", "levels.zarr", every(1), marks=in_soak),
    ],
)
def test_a1_killed_at_each_call_then_resumed_to_the_same_bytes(
    place: Path, warm: Warm, whole: dict[str, str], tmp_path: Path, fault: str, ending: str,
    calls: range, record_property: Record,
) -> None:  # fmt: skip
    command = predict(place, tmp_path / f"out.{ending}")
    points = published = 0
    for _, ended in ruins(warm, command, fault, points=calls):
        assert ended.code == -9, ended.err
        points += 1
        published += command.out.exists()
        again = command.run(warm, "--resume")
        assert again.code == 0, again.err
        assert hidden(tmp_path) == []
        assert content(command.out) == whole[ending]
        _clear(tmp_path)
    assert content(command.out) == whole[ending]
    assert points > 36 / calls.step - 1
    assert published <= 3  # only what comes after the rename
    record_property("kill_points", points)


@pytest.mark.parametrize(
    ("ending", "calls"),
    [
        ("tif", every(2)),
        ("zarr", every(3)),
        pytest.param("tif", every(1), marks=in_soak),
        pytest.param("zarr", every(1), marks=in_soak),
    ],
)
def test_a1_the_predecessor_stays_until_its_successor_is_whole(
    place: Path, warm: Warm, whole: dict[str, str], tmp_path: Path, ending: str,
    calls: range, record_property: Record,
) -> None:  # fmt: skip
    command = predict(place, tmp_path / f"out.{ending}", "--overwrite")
    before = predict(place, command.out, "--region", "0:140,0:40", "--overwrite")
    assert before.run(warm).code == 0
    old = content(command.out)
    points = 0
    for n, ended in ruins(warm, command, "kill", points=calls):
        assert ended.code == -9, ended.err
        points += 1
        found = content(command.out)
        assert found in (old, whole[ending]) or not (found or can_exchange()), n
        if found != old:  # also from between two renames, where a system exchanges no names
            assert before.run(warm).code == 0
            assert content(command.out) == old
    assert points > 36 / calls.step - 1
    assert content(command.out) == whole[ending]
    assert hidden(tmp_path) == []
    record_property("kill_points", points)


@pytest.mark.parametrize("ending", ["tif", "zarr"])
def test_a5_killed_while_resuming_and_again(
    place: Path, warm: Warm, whole: dict[str, str], tmp_path: Path, ending: str,
    record_property: Record,
) -> None:  # fmt: skip
    command = predict(place, tmp_path / f"out.{ending}")
    points = 0
    for first in (6, 14, 23, 33):
        for second in (5, 12) if ending == "tif" else (12,):
            kills = [(first, ()), (second, ("--resume",)), (9, ("--resume",))]
            for n, options in kills:
                ended = command.run(warm, *options, fault=f"kill:{n}")
                assert ended.code in (-9, 0, 5)
                points += ended.code == -9
                assert content(command.out) in ("", whole[ending])
            if not command.out.exists():
                assert command.run(warm, "--resume").code == 0
            assert content(command.out) == whole[ending]
            _clear(tmp_path)
    assert points >= 10
    record_property("kill_points", points)


@pytest.mark.parametrize(
    ("ending", "more"), [("tif", ()), ("zarr", ()), ("tif", ("--save", "instances"))]
)
def test_a1_the_tile_of_an_interrupted_run_does_not_follow_the_memory_at_hand(
    place: Path, warm: Warm, tmp_path: Path, ending: str, more: tuple[str, ...]
) -> None:
    line = ("predict", place / "model.safetensors", place / "image.tif", *more)
    whole, out = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    assert warm.run(*line, "--out", whole, "--output-tile", "60").code == 0
    killed = warm.run(*line, "--out", out, "--output-tile", "60", fault="kill:22")
    assert killed.code == -9
    again = warm.run(*line, "--out", out, "--resume")  # by itself it would choose 40
    assert again.code == 0, again.err
    assert content(out) == content(whole)


@pytest.mark.soak
@pytest.mark.parametrize("ending", ["tif", "zarr"])
def test_a5_every_pair_of_kills(
    place: Path, warm: Warm, whole: dict[str, str], tmp_path: Path, ending: str,
    record_property: Record,
) -> None:  # fmt: skip
    command = predict(place, tmp_path / f"out.{ending}")
    points = 0
    for first in range(1, 40, 2):
        for second in range(1, 60):
            assert command.run(warm, fault=f"kill:{first}").code in (-9, 0)
            if command.out.exists():
                break
            code = command.run(warm, "--resume", fault=f"kill:{second}").code
            points += 2
            if not command.out.exists():
                assert command.run(warm, "--resume").code == 0
            assert content(command.out) == whole[ending]
            _clear(tmp_path)
            if code == 0:
                break
    assert points > 500
    record_property("kill_points", points)


@pytest.mark.parametrize(
    ("fault", "ending", "calls"),
    [
        ("enospc", "tif", every(2)),
        ("eio", "tif", every(6)),
        ("full", "tif", every(6)),
        ("enospc", "zarr", every(6)),
        ("enospc", "levels.ome.tif", every(7)),
        ("enospc", "levels.zarr", every(12)),
        pytest.param("enospc", "levels.ome.tif", every(1), marks=in_soak),
        pytest.param("enospc", "levels.zarr", every(1), marks=in_soak),
        pytest.param("enospc", "tif", every(1), marks=in_soak),
        pytest.param("eio", "tif", every(1), marks=in_soak),
        pytest.param("full", "tif", every(1), marks=in_soak),
        pytest.param("enospc", "zarr", every(1), marks=in_soak),
    ],
)
def test_b1_b3_a_failing_disk_at_each_call_is_told_and_the_run_can_go_on(
    place: Path, warm: Warm, whole: dict[str, str], tmp_path: Path, fault: str, ending: str,
    calls: range, record_property: Record,
) -> None:  # fmt: skip
    command = predict(place, tmp_path / f"out.{ending}")
    points = 0
    for n, ended in ruins(warm, command, fault, points=calls):
        assert ended.code == 5, (n, ended.err)
        assert ended.err.count("\n") <= 2  # the line of the plan, and the line of the error
        assert "Traceback" not in ended.err
        points += 1
        if not command.out.exists():
            again = command.run(warm, "--resume")
            assert again.code == 0, (n, again.err)
        assert content(command.out) == whole[ending]
        _clear(tmp_path)
    assert points >= 36 // calls.step
    record_property("kill_points", points)


def test_a6_bytes_reach_the_disk_before_the_records_and_the_name(
    place: Path, warm: Warm, tmp_path: Path, shim: object
) -> None:
    (tmp_path / "o").mkdir()
    command = predict(place, tmp_path / "o" / "out.tif")
    calls = count_calls(warm, command, tmp_path / "log", shim.log_of)  # type: ignore[attr-defined]
    calls = [(name, Path(file).name) for name, file in calls if not file.endswith(".lock")]
    dirty = False
    for k, (name, file) in enumerate(calls):
        if file == ".out.tif.part":
            dirty = (dirty or name in ("write", "ftruncate")) and name != "fsync"
            assert name != "replace" or not dirty, "renamed before the data were on the disk"
        elif file == ".out.tif.part.journal" and name == "write":
            assert not dirty, "a record was written before its data were on the disk"
            assert calls[k + 1] == ("fsync", file)
    assert calls[-2:] == [("replace", ".out.tif.part"), ("fsync", "o")]


def test_a6_shards_reach_the_disk_before_the_records_and_the_name(
    place: Path, warm: Warm, tmp_path: Path, shim: object
) -> None:
    (tmp_path / "o").mkdir()
    command = predict(place, tmp_path / "o" / "out.zarr")
    calls = count_calls(warm, command, tmp_path / "log", shim.log_of)  # type: ignore[attr-defined]
    synced: set[str] = set()
    written: set[str] = set()
    for name, file in calls:
        if name == "replace" and ".partial" in file:
            written.add(file.rsplit(".", 2)[0])
        elif name == "fsync":
            synced.add(file)
        elif name == "write" and file.endswith(".part.journal") and synced:
            shards = {file for file in written if "/c/" in file}
            assert shards <= synced
            assert {str(Path(shard).parent) for shard in shards} <= synced
    assert len({file for file in written if "/c/" in file}) == 6
    assert calls[-3][0] == "replace"
    assert calls[-2] == ("fsync", str(tmp_path / "o"))
    assert {file for file in synced if file.endswith("zarr.json")}


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# -- the same through the kernel ---------------------------------------------------------------

CALLS = "write,pwrite64,fsync,rename,renameat,renameat2,ftruncate,fallocate"
NAMES = {"rename": "replace", "renameat": "replace", "renameat2": "replace", "pwrite64": "pwrite"}


def traced(command: Command, trace: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own under strace, its calls on ordinary files in `trace`."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    watched = [
        word
        for ending in (".lock", ".part", ".part.journal")
        for word in ("-P", str(command.out.with_name(f".{command.out.name}{ending}")))
    ]
    done = subprocess.run(
        [strace, "-f", "-y", "-o", trace, "-P", command.out.parent, *watched,
         "-e", f"trace={CALLS}", *options, sys.executable, "-m", "unet2015", *command.words],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    if "ptrace" in done.stderr or not trace.exists():
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[:200]}")
    return done


def names_in(trace: Path) -> list[str]:
    """Names of the calls in a trace, as the shim has them; threads are put back together."""
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        word = line.split("(")[0].split()[-1]
        if word in CALLS.split(","):
            found.append(NAMES.get(word, word))
    return found


def test_a1_the_kernel_sees_the_calls_that_the_shim_counts_and_its_kill_is_survived(
    place: Path, warm: Warm, whole: dict[str, str], tmp_path: Path, shim: object,
    record_property: Record,
) -> None:  # fmt: skip
    (tmp_path / "o").mkdir()
    command = predict(place, tmp_path / "o" / "out.tif")
    calls = count_calls(warm, command, tmp_path / "log", shim.log_of)  # type: ignore[attr-defined]
    assert content(command.out) == whole["tif"]
    _clear(tmp_path / "o")
    done = traced(command, tmp_path / "trace")
    assert done.returncode == 0, done.stderr
    assert content(command.out) == whole["tif"]
    assert names_in(tmp_path / "trace") == [name for name, _ in calls]
    for point in ("fsync:signal=KILL:when=4", "ftruncate:signal=KILL:when=2"):
        _clear(tmp_path / "o")
        done = traced(command, tmp_path / "trace", "-e", f"inject={point}")
        assert done.returncode in (-9, 137), done.stderr
        seen = names_in(tmp_path / "trace")
        assert seen == [name for name, _ in calls][: len(seen)]  # the same N
        assert not command.out.exists()
        assert command.run(warm, "--resume").code == 0
        assert content(command.out) == whole["tif"]
    record_property("kill_points", 2)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["write", "fsync", "ftruncate", "rename"])
def test_a1_killed_by_the_kernel_at_each_call(
    place: Path, warm: Warm, whole: dict[str, str], tmp_path: Path, kind: str,
    record_property: Record,
) -> None:  # fmt: skip
    (tmp_path / "o").mkdir()
    command = predict(place, tmp_path / "o" / "out.tif")
    points = 0
    for n in range(1, 60):
        done = traced(command, tmp_path / "trace", "-e", f"inject={kind}:signal=KILL:when={n}")
        if done.returncode == 0:
            break
        points += 1
        assert content(command.out) in ("", whole["tif"])
        if not command.out.exists():
            assert command.run(warm, "--resume").code == 0
        assert content(command.out) == whole["tif"]
        _clear(tmp_path / "o")
    assert points
    record_property("kill_points", points)
