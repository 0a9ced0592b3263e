"""A1, A8: a Zarr folder is replaced in one step, where the system can exchange two names."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.faults.killing import MAKE_MODEL, Command, content, count_calls, hidden
from tests.faults.warm import Warm
from tiling import renaming, replacing
from tiling.lock import OutputLock
from tiling.safe_write import remove_stale

Forked = Callable[[Callable[[], object], str], int]
EXCHANGE = 2


def lay(folder: Path, value: str) -> None:
    (folder / "0").mkdir(parents=True)
    (folder / "zarr.json").write_text(value)
    (folder / "0" / "zarr.json").write_text(value)


def value_of(folder: Path) -> str:
    """The value that was laid there, in both files; "" where there is no folder."""
    values = {path.read_text() for path in folder.rglob("zarr.json")}
    assert len(values) < 2
    assert not values or (folder / "0" / "zarr.json").is_file()
    return "".join(values)


def laid(folder: Path) -> Path:
    """A folder, and the new one beside it that is to replace it."""
    lay(folder / "o.zarr", "old")
    lay(replacing.new_folder(folder / "o.zarr"), "new")
    return folder / "o.zarr"


def killed_at(forked: Forked, folder: Path, n: int) -> tuple[Path, int]:
    """A replacement killed at its N-th call, and how that ended."""
    target = laid(folder)
    return target, forked(lambda: replacing.replace_folder(target, overwrite=True), f"kill:{n}")


@pytest.fixture
def exchanging() -> None:
    call = renaming._renameat2()
    if call is None:
        pytest.skip("this system has no exchange of two names")


def refusing(number: int) -> Callable[..., int]:
    """A kernel, or file system, that refuses the exchange alone."""
    real = renaming._renameat2()
    assert real is not None

    def call(*words: object) -> int:
        if words[-1] == EXCHANGE:
            ctypes.set_errno(number)
            return -1
        return real(*words)

    return call


def test_a1_at_no_moment_of_a_replacement_nothing_bears_the_name(
    tmp_path: Path, forked: Forked, exchanging: None
) -> None:
    seen = []
    for n in range(1, 20):
        target, ended = killed_at(forked, tmp_path / str(n), n)
        seen.append(value_of(target))
        replacing.put_back(target)
        assert value_of(target) == seen[-1]
        # What is unpublished can be taken up; the predecessor of what is published goes.
        left = {"old": [".o.zarr.part.zarr"], "new": []}[seen[-1]]
        assert hidden(target.parent) == left
        assert all(value_of(target.parent / name) == "new" for name in left)
        if ended == 0:
            break
    assert seen == ["old", "old", "new", "new", "new", "new"]


def test_a1_the_exchange_is_one_rename_of_the_shim(
    tmp_path: Path, forked: Forked, shim: object, exchanging: None
) -> None:
    target = laid(tmp_path)
    log = tmp_path / "log"
    assert forked(lambda: replacing.replace_folder(target, overwrite=True), f"log:{log}") == 0
    calls = [name for name, _ in shim.log_of(log)]  # type: ignore[attr-defined]
    assert calls == ["replace", "replace", "fsync", "replace", "fsync"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, 0])
def test_a1_where_no_names_can_be_exchanged_two_renames_do(
    tmp_path: Path, forked: Forked, monkeypatch: pytest.MonkeyPatch, number: int, exchanging: None
) -> None:
    call = refusing(number) if number else None
    monkeypatch.setattr(renaming, "_renameat2", lambda: call)
    seen = []
    for n in range(1, 20):
        target, ended = killed_at(forked, tmp_path / str(n), n)
        seen.append(value_of(target))
        replacing.put_back(target)
        assert value_of(target) == (seen[-1] or "old")
        assert hidden(target.parent) == ([] if seen[-1] == "new" else [".o.zarr.part.zarr"])
        if ended == 0:
            break
    assert [value for value, _ in itertools.groupby(seen)] == ["old", "", "new"]


@pytest.mark.parametrize("fault", ["enospc", "eio"])
def test_b3_an_exchange_that_fails_leaves_the_old_one_and_what_can_be_taken_up(
    tmp_path: Path, faulty: Callable[..., object], fault: str, exchanging: None
) -> None:
    for n in (1, 2):
        target = laid(tmp_path / str(n))
        with faulty(f"{fault}:{n}"), pytest.raises(OSError, match=r"No space|Input/output"):  # type: ignore[attr-defined]
            replacing.replace_folder(target, overwrite=True)
        assert value_of(target) == "old"
        assert value_of(replacing.new_folder(target)) == "new"
        assert hidden(target.parent) == [".o.zarr.part.zarr"]


@pytest.mark.parametrize("steps", [1, 2])
def test_a1_a_result_taken_away_after_it_had_its_name_leaves_its_predecessor(
    tmp_path: Path, forked: Forked, monkeypatch: pytest.MonkeyPatch, steps: int, exchanging: None
) -> None:
    if steps == 2:
        monkeypatch.setattr(renaming, "_renameat2", lambda: None)
    target, _ = killed_at(forked, tmp_path, 2 + steps)
    target.rename(tmp_path / "kept.zarr")
    replacing.put_back(target)
    assert not target.exists()
    assert value_of(tmp_path / "kept.zarr") == "new"
    assert hidden(tmp_path) == [".o.zarr.old.zarr"]
    assert value_of(tmp_path / ".o.zarr.old.zarr") == "old"
    lay(replacing.new_folder(target), "newer")
    replacing.replace_folder(target, overwrite=True)
    assert (value_of(target), hidden(tmp_path)) == ("newer", [])


def test_a1_a_predecessor_whose_place_is_another_folder_now_is_never_lost_work(
    tmp_path: Path, forked: Forked, exchanging: None
) -> None:
    """As where a file system numbers its folders anew: taken for unfinished, which is checked."""
    target, _ = killed_at(forked, tmp_path, 2)
    left = next(p for p in tmp_path.iterdir() if p.name.endswith(".swap.zarr"))
    left.rename(tmp_path / ".o.zarr.1.swap.zarr")
    replacing.put_back(target)
    assert (value_of(target), value_of(replacing.new_folder(target))) == ("old", "new")


def test_a8_a_predecessor_that_a_killed_run_left_is_found_and_removed(
    tmp_path: Path, forked: Forked, exchanging: None
) -> None:
    target, _ = killed_at(forked, tmp_path, 3)
    theirs = tmp_path / ".theirs.zarr.7.swap.zarr"
    lay(theirs, "kept")
    (left,) = (p for p in tmp_path.iterdir() if p.name.startswith(".o.zarr"))
    with OutputLock(target):  # a run that lives
        assert remove_stale(tmp_path) == []
    assert value_of(left) == "old"
    assert remove_stale(tmp_path) == [left]
    assert value_of(target) == "new"
    assert hidden(tmp_path) == [theirs.name]


def test_a8_a_half_deleted_predecessor_is_found_and_removed(
    tmp_path: Path, forked: Forked, exchanging: None
) -> None:
    target, _ = killed_at(forked, tmp_path, 5)
    assert hidden(tmp_path) == [".o.zarr.trash.zarr"]
    (tmp_path / ".p.zarr.trash.zarr").symlink_to(target)
    assert remove_stale(tmp_path) == [tmp_path / ".o.zarr.trash.zarr"]
    assert value_of(target) == "new"
    assert hidden(tmp_path) == [".p.zarr.trash.zarr"]


@pytest.mark.parametrize("more", [("--resume",), ("--overwrite",), ()])
def test_a8_a_prediction_killed_after_its_exchange_is_told_and_tidied_up(
    tmp_path: Path, warm: Warm, shim: object, more: tuple[str, ...], exchanging: None
) -> None:
    model, image, out = (tmp_path / name for name in ("m.safetensors", "i.tif", "o.zarr"))
    assert warm.run(model, "1", code=MAKE_MODEL).code == 0
    pixels = np.random.default_rng(7).integers(0, 256, (150, 40), dtype=np.uint8)
    tifffile.imwrite(image, pixels, photometric="minisblack", metadata=None)
    words = ("predict", model, image, "--out", out, "--output-tile", "60")
    run = Command((*words, "--overwrite"), out)
    whole = Command((*words[:4], tmp_path / "whole.zarr", *words[5:]), tmp_path / "whole.zarr")
    assert whole.run(warm).code == 0
    assert run.run(warm, "--region", "0:90,0:40").code == 0
    calls = count_calls(warm, run, tmp_path / "log", shim.log_of)  # type: ignore[attr-defined]
    at = next(n for n, (_, file) in enumerate(calls, 1) if ".swap.zarr" in file)
    assert calls[at - 1][0] == "replace"  # the exchange
    assert run.run(warm, "--region", "0:90,0:40").code == 0
    old = content(out)
    assert run.run(warm, fault=f"kill:{at + 1}").code == -9
    assert content(out) == content(whole.out) != old
    (left,) = (name for name in hidden(tmp_path) if name.endswith(".swap.zarr"))
    assert content(tmp_path / left) == old
    ended = warm.run(*words, *more)
    assert f"{left}, left by a run that did not end" in ended.err
    assert (ended.code, content(out)) == (0 if more else 5, content(whole.out))
    assert hidden(tmp_path) == [] or not more
    assert left not in hidden(tmp_path)
    assert os.listdir(out)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("exchange", [True, False])
def test_b11_a_replaced_zarr_folder_keeps_its_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(renaming, "can_exchange", lambda: False)
    target = laid(tmp_path)
    target.chmod(0o700)
    replacing.replace_folder(target, overwrite=True)
    assert value_of(target) == "new"
    assert target.stat().st_mode & 0o777 == 0o700
