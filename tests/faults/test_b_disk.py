"""Faults B1 to B12: disks that fill up, names that mislead, files that change."""

from __future__ import annotations

import errno
import functools
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.faults.small_world import in_small_world
from tiling.faults import InputChangedError, InputError, LockedError, WriteError
from tiling.safe_write import (
    OutputLock,
    Partial,
    check_output,
    discard_partial,
    publish,
    remove_stale,
    write_bytes,
)
from tiling.strict_tiff import open_tiff

ROOT = Path(__file__).parents[2]
OLD, NEW = b"old " * 1000, b"new, and longer " * 200_000
Faulty = Callable[[str], AbstractContextManager[object]]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def run(code: str, *args: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(os.fspath, args)],  # type: ignore[call-overload]
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip


# B1, B3: full and failing disks -------------------------------------------------------------


@pytest.mark.parametrize("fault", ["enospc", "eio", "full"])
def test_b1_a_failing_disk_at_any_call_is_told_and_the_old_file_stays(
    tmp_path: Path, faulty: Faulty, fault: str
) -> None:
    target = tmp_path / "x.bin"
    for n in range(1, 50):
        target.write_bytes(OLD)
        try:
            with faulty(f"{fault}:{n}"):
                write_bytes(target, NEW, overwrite=True)
        except WriteError as error:
            told = str(error)
            assert str(target) in told
            assert ("bytes free" in told) == (fault != "eio")
            assert names(tmp_path) == ["x.bin"]
            assert target.read_bytes() in (OLD, NEW)
        else:
            break
    assert n > 4
    assert target.read_bytes() == NEW


def test_b1_the_needed_and_free_bytes_are_named(tmp_path: Path, faulty: Faulty) -> None:
    with (
        faulty("enospc:1"),
        pytest.raises(WriteError, match=r"at least \d+ bytes needed, \d+ bytes free"),
    ):
        write_bytes(tmp_path / "x.bin", NEW)


@pytest.mark.parametrize("fault", ["enospc", "eio"])
def test_b1_a_partial_output_is_taken_up_after_the_disk_failed(
    tmp_path: Path, faulty: Faulty, fault: str
) -> None:
    def grow(target: Path) -> None:
        with Partial(target) as partial:
            for index in range(len(partial.records), 6):
                partial.file.seek(index * 3000)
                partial.file.write(bytes([65 + index]) * 3000)
                partial.append({"piece": index})
                partial.sync()
            partial.publish()

    whole = b"".join(bytes([65 + index]) * 3000 for index in range(6))
    for n in range(1, 60):
        target = tmp_path / "x.bin"
        target.unlink(missing_ok=True)
        discard_partial(target)
        try:
            with faulty(f"{fault}:{n}"):
                grow(target)
        except WriteError:
            if not target.exists():
                grow(target)
            remove_stale(tmp_path)
            assert target.read_bytes() == whole
            assert names(tmp_path) == ["x.bin"]
        else:
            break
    assert n > 20


def test_b1_a_file_size_limit_is_an_error_and_no_signal(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from tiling.safe_write import write_bytes\n"
        "from tiling.faults import WriteError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n"
        "try: write_bytes(sys.argv[1], b'x' * 500000, overwrite=True)\n"
        "except WriteError as error: print(error); sys.exit(5)\n"
    )
    target = tmp_path / "x.bin"
    target.write_bytes(OLD)
    done = run(code, target)
    assert done.returncode == 5, done.stderr
    assert "bytes needed" in done.stdout
    assert target.read_bytes() == OLD
    assert names(tmp_path) == ["x.bin"]


SMALL_DISK = """
import os, subprocess, sys
folder = sys.argv[1]
done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder])
if done.returncode:
    sys.exit(77)
from tiling.faults import WriteError
from tiling.safe_write import Partial, check_output, write_bytes
target = os.path.join(folder, "x.bin")
write_bytes(target, b"old")
try:
    write_bytes(target, b"n" * 4_000_000, overwrite=True)
except WriteError as error:
    print(error)
    assert "bytes free" in str(error)
assert os.listdir(folder) == ["x.bin"]
with open(target, "rb") as file:
    assert file.read() == b"old"
try:
    check_output(os.path.join(folder, "y.bin"), needed_bytes=4_000_000)
    sys.exit("not refused")
except WriteError as error:
    print(error)
try:
    with Partial(os.path.join(folder, "z.bin")) as partial:
        partial.file.write(bytes(4_000_000))
        partial.sync()
    sys.exit("not noticed")
except WriteError as error:
    print(error)
"""


def test_b1_b2_a_real_disk_of_two_megabytes(tmp_path: Path) -> None:
    done = in_small_world(SMALL_DISK, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


NO_INODES = """
import os, subprocess, sys
from tiling.faults import WriteError
from tiling.safe_write import write_bytes
folder = sys.argv[1]
options = "size=2m,nr_inodes=3"
if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]).returncode:
    sys.exit(77)
for name in "ab":
    open(os.path.join(folder, name), "wb").close()
try:
    write_bytes(os.path.join(folder, "c"), b"c")
except WriteError as error:
    print(error)
"""


def test_b1_a_disk_that_takes_no_more_files_is_not_said_to_lack_bytes(tmp_path: Path) -> None:
    done = in_small_world(NO_INODES, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no room for another file: its inodes are used up); delete files there" in done.stdout


def test_b2_an_output_larger_than_the_disk_is_refused_at_once(tmp_path: Path) -> None:
    assert WriteError.exit_code == 5
    with pytest.raises(WriteError, match=r"needs 1\d* bytes but \d+ bytes are free"):
        check_output(tmp_path / "x.tif", needed_bytes=10**18)


@pytest.mark.parametrize("kind", ["fsync", "replace"])
def test_b3_a_failure_at_fsync_or_rename_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(OLD)

    def fails(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, kind, fails)
        with pytest.raises(WriteError, match="No space left"):
            write_bytes(target, NEW, overwrite=True)
    assert target.read_bytes() == OLD
    assert names(tmp_path) == ["x.bin"]


def test_b3_a_failure_at_close_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, close = tmp_path / "x.bin", os.close

    def fails(descriptor: int) -> None:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        close(descriptor)
        if regular:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fails)
        with pytest.raises(WriteError, match="cannot write"):
            write_bytes(target, NEW)
    assert names(tmp_path) == []


# B4 to B7: places and names -----------------------------------------------------------------


def test_b4_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="does not exist; create it"):
        check_output(tmp_path / "nowhere" / "x.tif")
    with pytest.raises(WriteError, match="file is no folder; choose another place"):
        check_output(tmp_path / "file" / "x.tif")
    with pytest.raises(WriteError, match="is no folder"), publish(tmp_path / "file" / "x.tif"):
        pass
    with pytest.raises(WriteError, match="file is no folder"):
        check_output(tmp_path / "file" / "x.zarr")


READ_ONLY_DISK = """
import os, subprocess, sys
if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", sys.argv[1]]).returncode:
    sys.exit(77)
from tiling.faults import WriteError
from tiling.safe_write import OutputLock, check_output, write_bytes
target = os.path.join(sys.argv[1], "x.tif")
for work in (check_output, lambda path: write_bytes(path, b"x"), lambda p: OutputLock(p).acquire()):
    try:
        work(target)
        sys.exit("not refused")
    except WriteError as error:
        print(error)
"""


def test_b4_a_read_only_disk_is_refused_before_the_work(tmp_path: Path) -> None:
    done = in_small_world(READ_ONLY_DISK, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not writable" in done.stdout.splitlines()[0]
    assert len(done.stdout.splitlines()) == 3


def test_b4_a_read_only_folder_is_refused_before_the_work() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        if root:  # modes do not bind root: be nobody for a moment
            os.seteuid(65534)
        try:
            for work in (check_output, functools.partial(write_bytes, data=OLD)):
                with pytest.raises(WriteError, match=r"not writable|may write to"):
                    work(os.path.join(folder, "x.tif"))
        finally:
            if root:
                os.seteuid(0)
            os.chmod(folder, 0o755)


def test_b5_an_existing_output_stays_without_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(OLD)
    for work in (check_output, functools.partial(write_bytes, data=NEW)):
        with pytest.raises(WriteError, match="already exists; use --overwrite"):
            work(target)
    assert target.read_bytes() == OLD
    write_bytes(target, NEW, overwrite=True)
    assert target.read_bytes() == NEW


def test_b5_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"

    def slow() -> None:
        with publish(target) as file:
            file.write(NEW)
            target.write_bytes(OLD)

    with pytest.raises(WriteError, match="already exists"):
        slow()
    assert target.read_bytes() == OLD
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("link", ["same", "dotted", "hard", "symbolic", "chain"])
def test_b6_the_input_is_never_the_output(tmp_path: Path, link: str) -> None:
    source = tmp_path / "in.tif"
    source.write_bytes(OLD)
    output = {"same": source, "dotted": tmp_path / "." / ".." / tmp_path.name / "in.tif"}.get(
        link, tmp_path / "out.tif"
    )
    if link == "hard":
        output.hardlink_to(source)
    elif link == "symbolic":
        output.symlink_to(source)
    elif link == "chain":
        (tmp_path / "mid").symlink_to(source)
        output.symlink_to(tmp_path / "mid")
    with pytest.raises(WriteError, match="is also the input"):
        check_output(output, overwrite=True, inputs=[tmp_path / "other.tif", source])
    assert source.read_bytes() == OLD


def test_b7_a_zarr_that_holds_the_input_is_no_output(tmp_path: Path) -> None:
    """It would be replaced as a whole, and the input with it."""
    out, source = tmp_path / "out.zarr", tmp_path / "out.zarr" / "big.tif"
    out.mkdir()
    for file in (out / "zarr.json", source):
        file.write_bytes(OLD)
    with pytest.raises(WriteError, match="holds the input"):
        check_output(out, overwrite=True, inputs=[source])


def test_b7_a_symbolic_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "x.bin", tmp_path / "x.bin"
    real.write_bytes(OLD)
    link.symlink_to(real)
    with pytest.raises(WriteError, match="already exists"):
        write_bytes(link, NEW)
    write_bytes(link, NEW, overwrite=True)
    assert link.is_symlink()
    assert real.read_bytes() == NEW
    dangling = tmp_path / "d.bin"
    dangling.symlink_to(tmp_path / "far" / "new.bin")
    write_bytes(dangling, NEW)
    assert dangling.is_symlink()
    assert (tmp_path / "far" / "new.bin").read_bytes() == NEW


def test_b7_folder_pipe_device_and_link_loop_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("folder", "pipe", "loop", "/dev/null"):
        for work in (check_output, functools.partial(write_bytes, data=NEW)):
            with pytest.raises(WriteError):
                work(tmp_path / name, overwrite=True)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# B8: locks ----------------------------------------------------------------------------------

HOLD = """
import sys; from tiling.safe_write import OutputLock
with OutputLock(sys.argv[1]):
    print("held", flush=True); sys.stdin.readline()
"""


def test_b8_the_second_run_is_told_the_first_ones_number(tmp_path: Path) -> None:
    target = tmp_path / "x.tif"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, target], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid}") as caught:
            OutputLock(target).acquire()
        assert caught.value.exit_code == 7
        holder.kill()  # no chance to tidy up: the lock goes with the process
    with OutputLock(target) as lock:
        assert lock.held
    assert names(tmp_path) == []


def test_b8_a_lock_file_without_an_owner_means_nothing(tmp_path: Path) -> None:
    (tmp_path / ".x.tif.lock").write_text("1\n")
    with OutputLock(tmp_path / "x.tif"):
        pass


def test_b8_a_lock_file_that_its_holder_removes_meanwhile_means_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda _: True)  # a moment ago
    with OutputLock(tmp_path / "x.tif") as lock:
        assert lock.held

    def closed(_path: Path) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "lstat", closed)
    with pytest.raises(WriteError, match="may write to"):
        OutputLock(tmp_path / "x.tif").acquire()


def test_b8_two_names_of_one_output_are_one_lock(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(OLD)
    (tmp_path / "y.tif").symlink_to(tmp_path / "x.tif")
    with OutputLock(tmp_path / "x.tif"), pytest.raises(LockedError):
        OutputLock(tmp_path / "y.tif").acquire()


# B9 to B11: names, temporary folder, modes --------------------------------------------------

STRANGE = [
    "with space.bin", "ümläut 細胞.bin", "a*b?[c].bin", "-rf.bin", "'q\"uote.bin", "a\nb.bin",
    b"\xff\xfe.bin", "x" * 251 + ".bin", ".hidden", "a.part", "%s{}.bin",
]  # fmt: skip


@pytest.mark.parametrize("name", STRANGE, ids=range(len(STRANGE)))
def test_b9_any_name_the_disk_allows_works(tmp_path: Path, name: str | bytes) -> None:
    target = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
    check_output(target)
    write_bytes(target, OLD)
    with OutputLock(target), pytest.raises(WriteError, match="already exists"):
        write_bytes(target, NEW)
    with Partial(target, overwrite=True) as partial:
        partial.file.write(NEW)
        partial.publish()
    with open(target, "rb") as file:
        assert file.read() == NEW
    assert os.listdir(os.fsencode(tmp_path)) == [os.fsencode(name)]


@pytest.mark.parametrize("name", ["with space.tif", "a*[b].tif", b"\xff\xfe.tif", "-x.tif"])
def test_b9_any_name_can_be_read(tmp_path: Path, name: str | bytes) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    tifffile.imwrite(tmp_path / "plain.tif", pixels)
    source = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
    os.rename(tmp_path / "plain.tif", source)
    with open_tiff(source) as image:
        assert (image.read_page(0) == pixels).all()


@pytest.mark.parametrize("name", ["a\0b.bin", ""])
def test_b9_impossible_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WriteError):
        write_bytes(os.path.join(tmp_path, name), OLD)
    with pytest.raises(InputError):
        open_tiff(os.path.join(tmp_path, name))


def test_b10_the_temporary_file_lies_beside_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    (tmp_path / "out").mkdir()
    with publish(tmp_path / "out" / "x.bin") as file:
        file.write(OLD)
        file.flush()
        assert names(elsewhere) == []
        (temporary,) = names(tmp_path / "out")
        assert temporary.startswith(".x.bin.")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_b11_a_new_file_has_the_mode_of_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a", OLD)
        with Partial(tmp_path / "b") as partial:
            partial.publish()
    finally:
        os.umask(before)
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_b11_a_replaced_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "a"
    for _ in range(2):
        target.unlink(missing_ok=True)
        target.write_bytes(OLD)
        target.chmod(mode)
        write_bytes(target, NEW, overwrite=True)
        assert stat.S_IMODE(target.stat().st_mode) == mode
        with Partial(target, overwrite=True) as partial:
            partial.publish()
        assert stat.S_IMODE(target.stat().st_mode) == mode


# B12: inputs that change --------------------------------------------------------------------


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def touched(path: Path) -> None:
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


def truncated(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.parametrize("change", [appended, replaced, touched, truncated, Path.unlink])
def test_b12_a_changed_input_is_noticed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    source = tmp_path / "in.tif"
    tifffile.imwrite(source, np.arange(40_000, dtype=np.uint16).reshape(200, 200))
    with open_tiff(source) as image:
        image.read_rows(0, 0, 100)
        image.check_unchanged()
        change(source)
        with pytest.raises(InputChangedError) as caught:
            image.check_unchanged()
        assert caught.value.exit_code == 7


def test_b12_an_input_cut_while_it_is_read_is_an_error_and_no_signal(tmp_path: Path) -> None:
    source = tmp_path / "in.tif"
    tifffile.imwrite(source, np.zeros((200, 200), np.uint16))
    with open_tiff(source) as image:
        truncated(source)
        with pytest.raises(InputChangedError, match="shorter"):
            image.read_page(0)
