"""Files that appear whole or not at all.

`publish` writes beside the target, waits for the disk, renames, and waits for the folder: at
every moment, also after a kill or a power cut, the final name holds the old file or the new one.
A symbolic link as target is followed: the file it points to is replaced, the link stays.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from tiling.apart import check_apart
from tiling.disk import (
    StrPath,
    beside,
    free_bytes,
    fsync_folder,
    keep_mode,
    real_target,
    remove,
    writing,
)
from tiling.faults import WriteError
from tiling.journal import JOURNAL_FORMAT
from tiling.lock import OutputLock, remove_dead_lock
from tiling.mounts import is_mounted
from tiling.partial import Partial
from tiling.process import lives, machine, start_time
from tiling.raw_file import RawFile
from tiling.renaming import give_name
from tiling.replacing import remove_dead_predecessors
from tiling.unfinished import discard_partial

__all__ = [
    "OutputLock",
    "Partial",
    "check_output",
    "check_zarr_target",
    "discard_partial",
    "publish",
    "remove_stale",
    "remove_stale_beside",
    "write_bytes",
    "write_text",
]

_BUFFER = 1 << 18
_TEMPORARY = re.compile(r"\.(\d+)-(\d+)-([0-9a-f]{8})-\d+\.unet2015-tmp\Z")
_counter = itertools.count()


@contextlib.contextmanager
def publish(path: StrPath, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Context manager giving an open binary file that becomes `path` when the block succeeds.

    Parameters
    ----------
    path
        Final name. Its folder must exist. A symbolic link is followed.
    overwrite
        Replace an existing file (its permissions are kept); otherwise it is refused.

    Yields
    ------
    BinaryIO
        A seekable file for reading and writing, beside the target, without `fileno`.

    Raises
    ------
    WriteError
        The target exists, is no ordinary file, or the disk refuses. The target is then as before
        and the temporary file is gone.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with publish(os.path.join(folder, "a.bin")) as file:
    ...         _ = file.write(b"abc")
    ...     print(os.listdir(folder))
    ['a.bin']
    """
    target = _checked_target(path, overwrite=overwrite)
    temporary = beside(target, _temporary_ending())
    exclusive = os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    raw: RawFile | None = None
    file: io.BufferedRandom | None = None
    try:
        raw = RawFile(temporary, exclusive, target)
        file = io.BufferedRandom(raw, _BUFFER)  # type: ignore[arg-type, unused-ignore]
        yield cast(BinaryIO, file)
        file.flush()
        with writing(target):
            keep_mode(raw.descriptor, target)
        raw.sync()
        raw.check_length()
        file.close()
        _checked_target(path, overwrite=overwrite)
        with writing(target):
            give_name(temporary, target, replace=overwrite)
            fsync_folder(target.parent)
    except BaseException as stop:
        if raw is not None:
            raw.abandon()
            with contextlib.suppress(Exception):
                (file or raw).close()
        if raw is not None or not isinstance(stop, Exception):  # Ctrl-C may come just after `open`
            with contextlib.suppress(OSError):
                remove(temporary)
        raise


def write_bytes(
    path: StrPath, data: bytes | bytearray | memoryview, *, overwrite: bool = False
) -> None:
    """Write `data` to `path`, whole or not at all.

    Parameters and errors are those of `publish`.
    """
    with publish(path, overwrite=overwrite) as file:
        file.write(data)


def write_text(path: StrPath, text: str, *, overwrite: bool = False) -> None:
    """Write `text` to `path` in UTF-8, line ends as they are, whole or not at all.

    Parameters and errors are those of `publish`.
    """
    write_bytes(path, text.encode("utf-8"), overwrite=overwrite)


def check_output(
    path: StrPath,
    *,
    overwrite: bool = False,
    inputs: Iterable[StrPath] = (),
    needed_bytes: int = 0,
) -> None:
    """Refuse an impossible output before any work is done.

    Parameters
    ----------
    path
        The output to come: a file, or a Zarr folder where the name ends in `.zarr`.
    overwrite
        Whether an existing output may be replaced.
    inputs
        Files that are read: none of them may be the output, or lie in it, see `check_apart`.
    needed_bytes
        Size of the output, as far as known.

    Raises
    ------
    WriteError
        The output exists, is an input or holds one, is a folder or a pipe, its folder is missing
        or not writable, or the disk is too small.
    """
    target = real_target(path)
    check_apart([path], inputs)
    if target.suffix.lower() == ".zarr":
        check_zarr_target(target, overwrite=overwrite)
    else:
        _checked_target(path, overwrite=overwrite)
    folder = target.parent
    effective = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        raise WriteError(path, f"folder {folder} is not writable; choose another folder")
    free = free_bytes(folder)
    if free is not None and needed_bytes > free:
        raise WriteError(
            path,
            f"needs {needed_bytes} bytes but {free} bytes are free in {folder}; "
            "free some space or choose another folder",
        )


def check_zarr_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that is there, unless it is a Zarr folder that may be replaced.

    Raises
    ------
    WriteError
        The target exists without `overwrite`, is no Zarr v3 folder, or has no folder to be in.
    """
    _refuse_no_folder(target, target.parent)
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise WriteError(target, "already exists; use --overwrite to replace it, or another name")
    if not (target / "zarr.json").is_file():
        raise WriteError(target, "is not a Zarr v3 folder and is not replaced; use another name")
    _refuse_mounted(target, target)


def remove_stale(folder: StrPath) -> list[Path]:
    """Delete the temporary files that dead runs of ours left in `folder`.

    A temporary file names the process that writes it (process id, start time, machine); it goes
    only when that process is of this machine and no longer lives. Resumable `.part` files stay; a
    Zarr folder that a dead run had replaced goes.

    Returns
    -------
    list of Path
        What was removed, sorted.
    """
    directory = Path(os.fsdecode(folder))
    removed = []
    for name in sorted(os.listdir(directory)):  # noqa: PTH208 - plain names, any bytes
        found = _TEMPORARY.search(name)
        if found is None or found[3] != machine() or lives(int(found[1]), int(found[2])):
            continue
        with contextlib.suppress(OSError):
            remove(directory / name)
            removed.append(directory / name)
    removed += remove_dead_predecessors(directory) + _remove_orphan_journals(directory)
    return removed + _remove_dead_locks(directory)


def remove_stale_beside(*outputs: StrPath) -> list[Path]:
    """Do that wherever one of these outputs will really lie; `check_output` tells of bad folders.

    Returns
    -------
    list of Path
        What was removed.
    """
    removed, done = [], set()
    for output in outputs:
        with contextlib.suppress(OSError, WriteError):
            folder = real_target(output).parent
            if folder not in done:
                done.add(folder)
                removed += remove_stale(folder)
    return removed


def _remove_orphan_journals(directory: Path) -> list[Path]:
    """Journals of ours whose data file was published (killed between the two)."""
    removed = []
    for journal in sorted(directory.glob(".*.part.journal")):
        data = journal.with_suffix("")
        if not journal.is_file():  # a pipe would hang
            continue
        with contextlib.suppress(OSError), journal.open("rb") as file:
            head = file.read(256)
            if not data.exists() and JOURNAL_FORMAT.encode("ascii") in head:
                remove(journal)
                removed.append(journal)
    return removed


def _remove_dead_locks(directory: Path) -> list[Path]:
    """Locks of runs that were killed, also just after their output had its name."""
    removed = []
    for lock in sorted(directory.glob(".*.lock")):
        with contextlib.suppress(OSError):
            if remove_dead_lock(lock):
                removed.append(lock)
    return removed


def _checked_target(path: StrPath, *, overwrite: bool) -> Path:
    """Real target of `path`, in an existing folder, absent or an ordinary file we may replace."""
    target = real_target(path)
    _refuse_no_folder(path, target.parent)
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return target
    except OSError as error:
        raise WriteError(path, f"cannot be looked at: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise WriteError(path, "is a folder, pipe or device, not a file; choose another name")
    if not overwrite:
        raise WriteError(path, "already exists; use --overwrite to replace it, or another name")
    _refuse_mounted(path, target)
    return target


def _refuse_no_folder(path: StrPath, folder: Path) -> None:
    """Refuse a place in no folder, or below a file."""
    if folder.is_dir():
        return
    if os.path.lexists(folder):
        raise WriteError(path, f"{folder} is no folder; choose another place")
    raise WriteError(path, f"folder {folder} does not exist; create it first")


def _refuse_mounted(path: StrPath, target: Path) -> None:
    """Refuse a place that no rename can give to another file."""
    if is_mounted(target):
        raise WriteError(
            path,
            "is mounted by itself, into a container perhaps, and cannot be replaced in one step; "
            "mount its folder instead, or use another name",
        )


def _temporary_ending() -> str:
    process = os.getpid()
    return f".{process}-{start_time(process)}-{machine()}-{next(_counter)}.unet2015-tmp"
