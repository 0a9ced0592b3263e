"""Faults A2, A5 to A8 of the writing layer alone: killed at each of its own calls."""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tiling.disk import writing
from tiling.faults import LockedError, WriteError
from tiling.input_file import InputFile
from tiling.journal import (
    first_difference,
    journal_lines,
    notes_of,
    numbered_records,
    read_journal,
)
from tiling.process import machine
from tiling.safe_write import (
    OutputLock,
    Partial,
    check_output,
    discard_partial,
    publish,
    remove_stale,
    remove_stale_beside,
    write_bytes,
    write_text,
)

OLD, NEW = b"old " * 50_000, b"new, and longer " * 50_000
MANY = 100  # more calls than anything here makes
Forked = Callable[[Callable[[], object], str], int]
Record = Callable[[str, object], None]


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


@pytest.mark.parametrize("kind", ["kill", "torn"])
def test_a2_killed_at_any_call_the_old_file_or_the_new_one_is_whole(
    tmp_path: Path, forked: Forked, kind: str, record_property: Record
) -> None:
    target = tmp_path / "model.bin"
    survived = 0
    for n in range(1, MANY):
        target.write_bytes(OLD)
        code = forked(lambda: write_bytes(target, NEW, overwrite=True), f"{kind}:{n}")
        assert target.read_bytes() in (OLD, NEW)
        remove_stale(tmp_path)
        assert hidden(tmp_path) == []
        if code == 0:
            break
        assert code == -9
        survived += 1
    assert target.read_bytes() == NEW
    assert survived >= 4  # write, fsync, replace, fsync of the folder
    record_property("kill_points", survived)


def test_a2_a_new_file_does_not_appear_before_it_is_whole(tmp_path: Path, forked: Forked) -> None:
    target = tmp_path / "new.bin"
    for n in range(1, MANY):
        target.unlink(missing_ok=True)
        code = forked(lambda: write_bytes(target, NEW), f"kill:{n}")
        assert not target.exists() or target.read_bytes() == NEW
        if code == 0:
            break
    assert target.read_bytes() == NEW


def grow(target: Path, pieces: int = 12) -> None:
    """A resumable job: `pieces` blocks of 5000 bytes, a sync after every third."""
    with Partial(target, identity={"pieces": pieces}, overwrite=True) as partial:
        for index in range(len(partial.records), pieces):
            partial.file.seek(index * 5000)
            partial.file.write(bytes([65 + index]) * 5000)
            partial.append({"piece": index})
            if index % 3 == 2:
                partial.sync()
        partial.publish()


def whole(pieces: int = 12) -> bytes:
    return b"".join(bytes([65 + index]) * 5000 for index in range(pieces))


@pytest.mark.parametrize("kind", ["kill", "torn"])
def test_a5_killed_and_killed_again_while_resuming(
    tmp_path: Path, forked: Forked, kind: str, record_property: Record
) -> None:
    for n in range(1, MANY):
        target = tmp_path / f"{n}" / "grown.bin"
        target.parent.mkdir()
        first = forked(functools.partial(grow, target), f"{kind}:{n}")
        if first == 0:
            break
        for again in (2, 5, 9):  # the resumed run is killed too, at another call each time
            assert not target.exists() or target.read_bytes() == whole()
            forked(functools.partial(grow, target), f"{kind}:{again}")
        grow(target)
        assert target.read_bytes() == whole()
        remove_stale(target.parent)
        assert hidden(target.parent) == []
        shutil.rmtree(target.parent)
    assert n > 15
    record_property("kill_points", 4 * (n - 1))


def test_a5_a_resumed_run_redoes_at_most_what_came_after_the_last_sync(
    tmp_path: Path, forked: Forked, shim: object, faulty: Callable[..., object]
) -> None:
    target = tmp_path / "grown.bin"
    seen = []
    for n in range(1, MANY):
        discard_partial(target)
        target.unlink(missing_ok=True)
        if forked(lambda: grow(target), f"kill:{n}") == 0:
            break
        if (tmp_path / ".grown.bin.part").exists():
            with Partial(target, identity={"pieces": 12}) as partial:
                seen.append(len(partial.records))
                length = 5000 * len(partial.records)
                assert (tmp_path / ".grown.bin.part").read_bytes()[:length] == whole()[:length]
    assert seen == sorted(seen)
    assert set(seen) == {0, 3, 6, 9, 12}


def ordered(log: list[tuple[str, str]], *steps: tuple[str, str]) -> bool:
    """Whether `steps` (name, part of the file name) occur in the log in this order."""
    rest = iter(log)
    return all(any(name == n and part in f for n, f in rest) for name, part in steps)


def test_a6_publish_syncs_the_file_before_the_rename_and_the_folder_after(
    tmp_path: Path, forked: Forked, shim: object
) -> None:
    log, target = tmp_path / "log", tmp_path / "out" / "x.bin"
    target.parent.mkdir()
    assert forked(lambda: write_bytes(target, NEW), f"log:{log}") == 0
    calls = shim.log_of(log)  # type: ignore[attr-defined]
    assert [name for name, _ in calls][-3:] == ["fsync", "replace", "fsync"]
    assert calls[-1][1] == str(target.parent)
    assert all("unet2015-tmp" in file for _, file in calls[:-1])
    assert {name for name, _ in calls[:-3]} == {"write"}


def test_a6_partial_syncs_data_before_the_journal_speaks_of_them(
    tmp_path: Path, forked: Forked, shim: object
) -> None:
    log, target = tmp_path / "log", tmp_path / "out" / "x.bin"
    target.parent.mkdir()
    assert forked(lambda: grow(target), f"log:{log}") == 0
    calls = [(name, Path(file).name) for name, file in shim.log_of(log)]  # type: ignore[attr-defined]
    unsynced = journalled = False
    for name, file in calls:
        if file == ".x.bin.part" and name == "write":
            unsynced = True
        elif file == ".x.bin.part" and name == "fsync":
            unsynced = False
        elif file == ".x.bin.part.journal" and name == "write" and calls.index((name, file)):
            assert not unsynced, "a record was written before its data were on the disk"
            journalled = True
    assert journalled
    assert ordered(calls, ("fsync", ".part"), ("replace", ".part"), ("fsync", "out"))
    assert calls[-2:] == [("replace", ".x.bin.part"), ("fsync", "out")]


def test_a6_strace_sees_the_same_calls_as_the_shim(
    tmp_path: Path, with_shim: Callable[..., subprocess.CompletedProcess[str]], shim: object
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    code = (
        "import sys; from tiling.safe_write import write_bytes, Partial\n"
        "write_bytes(sys.argv[1] + '/a', b'x' * 9)\n"
        "with Partial(sys.argv[1] + '/b') as p:\n"
        "    p.file.write(b'y'); p.append({}); p.sync(); p.publish()\n"
    )
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    done = with_shim("-c", code, ours, fault=f"log:{tmp_path / 'log'}")
    assert done.returncode == 0, done.stderr
    trace = tmp_path / "trace"
    calls = "write,pwrite64,fsync,rename,renameat,renameat2,ftruncate,fallocate"
    traced = subprocess.run(
        [strace, "-f", "-y", "-o", trace, "-e", f"trace={calls}", sys.executable, "-B", "-c", code,
         theirs],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if "ptrace" in traced.stderr or not trace.exists():
        pytest.skip(f"strace may not trace here: {traced.stderr.strip()[:200]}")
    assert traced.returncode == 0, traced.stderr
    seen = [
        line.split("(")[0].split()[-1] for line in trace.read_text().splitlines()
        if str(theirs) in line
    ]  # fmt: skip
    names = {"rename": "replace", "renameat": "replace", "renameat2": "replace"}
    logged = [name for name, _ in shim.log_of(tmp_path / "log")]  # type: ignore[attr-defined]
    assert [names.get(name, name) for name in seen] == logged


def test_a7_a_journal_cut_at_any_byte_gives_back_its_whole_lines() -> None:
    records = [{"tile": i, "sha256": "ab" * 8, "name": "\u00e4\u2028"} for i in range(6)]
    lines, _ = journal_lines(records)
    ends = [len(journal_lines(records[:count])[0]) for count in range(7)]
    for cut in range(len(lines) + 1):
        found, end, _ = read_journal(lines[:cut])
        count = sum(e <= cut for e in ends) - 1
        assert found == records[:count]
        assert end == ends[count]


def test_a7_a_flipped_bit_hides_its_line_and_all_after() -> None:
    records = [{"tile": i} for i in range(4)]
    lines, _ = journal_lines(records)
    first = len(journal_lines(records[:1])[0])
    for byte in range(len(lines)):
        for bit in (0, 3, 7):
            bad = bytearray(lines)
            bad[byte] ^= 1 << bit
            found, _, _ = read_journal(bytes(bad))
            assert found == records[: len(found)]
            assert len(found) < 4
            assert byte < first or found


@pytest.mark.parametrize(
    ("numbers", "kept"),
    [([0, 1, 2, 3], 3), ([0, 1, 1, 0], 1), ([0, -1, 1], 1), ([0, 2], 1), ([0, True], 1), ([], 0)],
)
def test_a7_records_are_taken_up_as_far_as_their_numbers_make_sense(
    numbers: list[int], kept: int
) -> None:
    records = [{"n": number, "place": place} for place, number in enumerate(numbers)]
    found = numbered_records(records, 3)
    assert [record["n"] for record in found] == list(range(kept))
    assert all(record["place"] == numbers.index(record["n"]) for record in found[1:])


def test_a7_notes_without_a_name_are_passed_over() -> None:
    records = [{"note": ["seams"], "value": 1}, {"note": None}, {"note": "seams", "value": 2}]
    assert notes_of(records) == {"seams": 2}


def test_a7_settings_that_only_one_run_has_are_a_difference() -> None:
    assert first_difference({}, {"tile": 388}) == "tile: None, now 388"
    assert first_difference({"tile": 388}, {}) == "tile: 388, now None"


def test_a7_torn_journal_on_disk_is_taken_up_at_every_cut(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    with Partial(target, identity={"pieces": 4}) as partial:  # left unpublished
        for index in range(3):
            partial.file.write(bytes([65 + index]) * 5000)
            partial.append({"piece": index})
            partial.sync()
    data, journal = tmp_path / ".x.bin.part", tmp_path / ".x.bin.part.journal"
    kept_data, kept_journal = data.read_bytes(), journal.read_bytes()
    for cut in range(0, len(kept_journal), 5):
        target.unlink(missing_ok=True)
        data.write_bytes(kept_data)
        journal.write_bytes(kept_journal[:cut])
        grow(target, 4)
        assert target.read_bytes() == whole(4)


@pytest.mark.parametrize("junk", [b"\0" * 5000, b"\xff" * 300, b"{}\n" * 9, b"\n" * 99])
def test_a7_garbage_behind_or_instead_of_a_journal(tmp_path: Path, junk: bytes) -> None:
    target = tmp_path / "x.bin"
    journal = tmp_path / ".x.bin.part.journal"
    with Partial(target, identity={"pieces": 4}) as partial:
        partial.file.write(b"A" * 5000)
        partial.append({"piece": 0})
    kept = journal.read_bytes()
    for content in (kept + junk, junk):
        journal.write_bytes(content)
        (tmp_path / ".x.bin.part").write_bytes(b"A" * 5000)
        target.unlink(missing_ok=True)
        grow(target, 4)
        assert target.read_bytes() == whole(4)


def test_a7_an_unfinished_output_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    with Partial(target, identity={"model": "aa", "batch": 1}):
        pass
    other = Partial(target, identity={"model": "bb", "batch": 1})
    with pytest.raises(WriteError, match="model: aa, now bb"), other:
        pass
    assert len(discard_partial(target)) == 2
    with Partial(target, identity={"model": "bb", "batch": 1}) as partial:
        assert partial.records == []
        partial.discard()
    assert list(tmp_path.iterdir()) == []


def test_a8_temporary_files_of_dead_runs_go_and_no_others(tmp_path: Path, forked: Forked) -> None:
    mine = tmp_path / "mine.bin"
    assert forked(lambda: write_bytes(mine, NEW), "kill:2") == -9
    (left,) = hidden(tmp_path)
    process, start, machine, _ = left.rsplit(".", 2)[1].split("-")
    foreign = [
        f".mine.bin.{os.getpid()}-0-{machine}-0.unet2015-tmp",  # lives
        f".mine.bin.{process}-{start}-00000000-0.unet2015-tmp",  # of another machine
        ".mine.bin.unet2015-tmp",
        ".mine.bin.part",
        "notes.tmp",
    ]
    for name in foreign:
        (tmp_path / name).touch()
    reused = tmp_path / f".b.{os.getpid()}-1-{machine}-3.unet2015-tmp"  # number used again
    reused.touch()
    removed = [path.name for path in remove_stale(tmp_path)]
    assert sorted(removed) == sorted([left, reused.name])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(foreign)


def test_a8_locks_of_dead_runs_go_and_no_others(tmp_path: Path, forked: Forked) -> None:
    """Also that of an output which had its name already when its run was killed."""

    def killed() -> None:
        OutputLock(tmp_path / "dead").acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    assert forked(killed, "") == -9
    dead = re.split(r"[ \n]", (tmp_path / ".dead.lock").read_text())
    theirs = {
        ".theirs.lock": "a lock of another program", ".number.lock": f"{dead[1]}\n",
        ".elsewhere.lock": f"unet2015 {dead[1]} {dead[2]} 00000000\n",
    }  # fmt: skip
    for name, text in theirs.items():
        (tmp_path / name).write_text(text)
    (tmp_path / ".link.lock").symlink_to(tmp_path / ".dead.lock")
    (tmp_path / ".folder.lock").mkdir()
    with OutputLock(tmp_path / "lives"):
        assert remove_stale(tmp_path) == [tmp_path / ".dead.lock"]
        kept = [*theirs, ".folder.lock", ".link.lock", ".lives.lock"]
        assert hidden(tmp_path) == sorted(kept)


def test_b1_a_lock_for_which_there_is_no_room_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WriteError, match="No space"):
        OutputLock(tmp_path / "x").acquire()
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("path", ["d/" * 2500 + "o.tif", "d" * 300 + "/o.tif"])
def test_b9_a_path_that_no_disk_takes_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="too long"):
        check_output(tmp_path / path)


def test_b4_a_folder_that_goes_away_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="moved or removed"), writing(tmp_path / "f" / "x"):
        os.replace(tmp_path / "f" / ".x.part", tmp_path / "f" / "x")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a8_a_dead_process_whose_parent_does_not_look_is_dead(tmp_path: Path) -> None:
    """The first process of many containers never does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the tests' own threads do not matter
        process = os.fork()
    if not process:
        with publish(tmp_path / "a.bin"):
            os._exit(0)
    while not Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].startswith("Z"):
        time.sleep(0.01)
    try:
        assert len(remove_stale(tmp_path)) == 1
    finally:
        os.waitpid(process, 0)
    assert list(tmp_path.iterdir()) == []


def test_b3_a_disk_that_refuses_at_closing_a_lock_or_an_input_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network disk may; neither holds anything that is needed."""
    (tmp_path / "in.bin").write_bytes(b"abc")
    real = os.close

    def refused(descriptor: int) -> None:
        real(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    lock, file = OutputLock(tmp_path / "x"), InputFile(tmp_path / "in.bin")
    lock.acquire()
    monkeypatch.setattr(os, "close", refused)
    with pytest.raises(LockedError):
        OutputLock(tmp_path / "x").acquire()
    lock.release()
    file.close()
    assert hidden(tmp_path) == []


def test_a8_a_file_being_written_is_not_stale(tmp_path: Path) -> None:
    with publish(tmp_path / "a.bin") as file:
        file.write(b"abc")
        assert remove_stale(tmp_path) == []
    assert (tmp_path / "a.bin").read_bytes() == b"abc"


def test_an_exception_or_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    def stopped(error: type[BaseException]) -> None:
        with publish(tmp_path / "a.bin") as file:
            file.write(NEW)
            raise error

    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            stopped(error)
    assert list(tmp_path.iterdir()) == []


def test_a9_ctrl_c_at_the_moment_a_file_is_opened_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def interrupted(path: str | Path, *more: int) -> int:
        opened = real(path, *more)
        if str(path).endswith("unet2015-tmp"):
            os.close(opened)
            raise KeyboardInterrupt
        return opened

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a.bin", NEW)
    assert list(tmp_path.iterdir()) == []


def test_a8_stale_files_go_where_the_output_really_lies(tmp_path: Path) -> None:
    """Behind a link, too; a folder that is missing is not ours to tell of."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a.bin")
    stale = tmp_path / "real" / f".b.{os.getpid()}-1-{machine()}-3.unet2015-tmp"
    stale.touch()
    outputs = tmp_path / "none" / "a.bin", tmp_path / "link", tmp_path / "real" / "a.bin"
    assert remove_stale_beside(*outputs) == [stale]
    assert not stale.exists()


def test_text_is_utf8_with_its_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ä\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa4\r\nb\n"


def test_published_file_can_be_read_back_and_sought_while_written(tmp_path: Path) -> None:
    with publish(tmp_path / "a.bin") as file:
        file.write(b"0123456789" * 100_000)
        file.seek(3)
        assert file.read(4) == b"3456"
        file.seek(0)
        file.write(b"X")
        file.truncate(10)
    assert (tmp_path / "a.bin").read_bytes() == b"X123456789"


def test_partial_holds_the_lock_of_its_output(tmp_path: Path) -> None:
    with Partial(tmp_path / "x") as first:
        with pytest.raises(LockedError, match=str(os.getpid())), Partial(tmp_path / "x"):
            pass
        first.discard()
    check_output(tmp_path / "x")


# Windows, where nobody ran this: what can be seen from here ------------------------------------


def test_on_windows_no_open_file_is_renamed_and_no_process_is_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("Ctrl-C to a stranger"))
    (tmp_path / f".x.{os.getpid()}-0-{machine()}-0.unet2015-tmp").touch()
    assert remove_stale(tmp_path) == []
    real, opened = os.replace, []
    with Partial(tmp_path / "a.bin") as partial:

        def replace(source: Path, target: Path) -> None:
            opened.append(partial._data.descriptor)
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        partial.file.write(b"abc")
        partial.publish()
    assert opened == [-1]
    assert (tmp_path / "a.bin").read_bytes() == b"abc"
    with Partial(tmp_path / "b.bin") as partial:
        partial.file.write(b"abc")
        partial.discard()
    assert not list(tmp_path.glob("*b.bin*"))
