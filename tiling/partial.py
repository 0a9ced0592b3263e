"""Output that grows over hours and survives any interruption.

Beside the target lie the data (`.NAME.part`) and an append-only journal (`.NAME.part.journal`) of
what in the data is finished. `sync` waits for the data before it writes the records about them,
so a record on the disk is never ahead of its data. Each journal line carries a checksum chained
to the line before; a torn or damaged tail is dropped, and its work is done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from tiling.disk import (
    StrPath,
    beside,
    fsync_folder,
    keep_mode,
    names,
    real_target,
    remove,
    writing,
)
from tiling.faults import WriteError
from tiling.journal import (
    JOURNAL_FORMAT,
    MAX_JOURNAL_BYTES,
    journal_lines,
    other_header,
    read_journal,
)
from tiling.lock import OutputLock
from tiling.raw_file import RawFile, let_go
from tiling.renaming import give_name
from tiling.unfinished import clear, is_ordinary

__all__ = ["Partial"]

_BUFFER = 1 << 18


class Partial:
    """Resumable output: a data file, and a journal of what is finished in it.

    A context manager; it holds the output's `OutputLock` while open. An unfinished output of the
    same `identity` is taken up where its last `sync` left it; start afresh with
    `discard_partial(path)` before. Leaving the block without `publish()` keeps the unfinished
    output for the next run.

    Parameters
    ----------
    path
        Final name.
    identity
        Everything that decides the bytes (hash of the input, parameters), JSON values.
    overwrite
        Whether `publish` may replace an existing file.
    lock
        A lock on the same output that the caller already holds.

    Attributes
    ----------
    records : list of dict
        Records of earlier runs and of this one, in order.
    file : BinaryIO
        The data file, for reading and writing at any place; kept between runs.

    Raises
    ------
    WriteError
        The unfinished output has another identity, or the disk refuses.
    LockedError
        Another run is writing the same output.

    Examples
    --------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     out = os.path.join(folder, "out.bin")
    ...     for _ in range(2):  # the first run is interrupted after one of two records
    ...         with Partial(out, identity={"input": "abc"}) as partial:
    ...             n = len(partial.records)
    ...             _ = partial.file.seek(n) + partial.file.write(b"ab"[n : n + 1])
    ...             partial.append({"done": n})
    ...             partial.sync()
    ...             if n == 1:
    ...                 partial.publish()
    ...     with open(out, "rb") as file:
    ...         print(os.listdir(folder), file.read())
    ['out.bin'] b'ab'
    """

    def __init__(
        self,
        path: StrPath,
        *,
        identity: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        lock: OutputLock | None = None,
    ) -> None:
        self.target, self.overwrite = real_target(path), overwrite
        self.path = beside(self.target, ".part")
        self.journal_path = beside(self.target, ".part.journal")
        self.records: list[dict[str, Any]] = []
        # Through JSON and back, so that tuples equal the lists they become.
        header = {"format": JOURNAL_FORMAT, "identity": dict(identity or {})}
        self._header: dict[str, Any] = json.loads(json.dumps(header, allow_nan=False))
        self._pending: list[dict[str, Any]] = []
        self._chain, self._open = "", False
        self._own_lock = OutputLock(self.target) if lock is None or not lock.held else None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            if self._own_lock is not None:
                undo.enter_context(self._own_lock)
            self._check_target()  # another run may have completed it since
            if not self._resumable():
                with writing(self.target):
                    clear(self.target)
            create = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            self._data = RawFile(self.path, create, self.target)
            undo.callback(self._data.close)
            self._journal = RawFile(self.journal_path, create, self.target)
            undo.callback(self._journal.close)
            self.file = cast(BinaryIO, io.BufferedRandom(self._data, _BUFFER))
            self._start()
            undo.pop_all()
        self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._open:
            return
        try:
            if error is None:
                self.sync()
            elif not isinstance(error, WriteError):
                with contextlib.suppress(WriteError):
                    self.sync()  # what is finished is kept, also after Ctrl-C
        finally:
            self._close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Note that something is finished; it reaches the journal with the next `sync`."""
        kept = json.loads(json.dumps(dict(record), allow_nan=False))
        self._pending.append(kept)
        self.records.append(kept)

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name, beside the records; the last one counts."""
        self.append({"note": name, "value": value})

    def sync(self) -> None:
        """Wait for the data, then for the records about them."""
        self.file.flush()
        self._data.sync()
        if self._pending:
            lines, chain = journal_lines(self._pending, self._chain)
            self._append_to_journal(lines)
            self._journal.sync()
            self._chain, self._pending = chain, []

    def digest(self, start: int, length: int) -> str:
        """SHA-256 of `length` bytes of the data file from `start`; shorter where it ends."""
        self.file.flush()
        self.file.seek(start)
        found = hashlib.sha256()
        while length > 0 and (block := self.file.read(min(length, _BUFFER))):
            found.update(block)
            length -= len(block)
        return found.hexdigest()

    def publish(self) -> None:
        """Give the data its final name and forget the journal; closes this object."""
        self.file.flush()
        with writing(self.target):
            keep_mode(self._data.descriptor, self.target)
        self._data.sync()
        self._data.check_length()
        self.check_publishable()  # after the wait, in which much can happen
        let_go(self._data, self._journal)
        with writing(self.target):
            give_name(self.path, self.target, replace=self.overwrite)
        self._check_named()
        with writing(self.target, done="it is whole and has its name; --resume tidies up"):
            fsync_folder(self.target.parent)
            remove(self.journal_path)
        self._close()

    def check_publishable(self) -> None:
        """`WriteError` if a file has come since, or the data were taken away or replaced."""
        self._check_target()
        with writing(self.target):
            ours = names(self.path, self._data.descriptor)
        if not ours:
            reason = f"{self.path.name} was removed, moved or replaced meanwhile; run again"
            raise WriteError(self.target, reason)

    def _check_named(self) -> None:
        """`WriteError` if something else lay under the hidden name as it became the final one."""
        with writing(self.target):
            ours = self._data.descriptor < 0 or names(self.target, self._data.descriptor)
        if not ours:
            reason = "another program put something else in its place just now; remove it and run"
            raise WriteError(self.target, f"{reason} again")

    def discard(self) -> None:
        """Delete the unfinished output; closes this object."""
        let_go(self._data, self._journal)
        with writing(self.target):
            clear(self.target)
        self._close()

    def _check_target(self) -> None:
        with writing(self.target):
            taken = self.target.exists() and not self.overwrite
        if taken:
            raise WriteError(
                self.target, "already exists; use --overwrite to replace it, or another name"
            )

    def _resumable(self) -> bool:
        """Whether data and journal are both there and the journal's first line is whole."""
        if not (is_ordinary(self.path) and is_ordinary(self.journal_path)):
            return False
        with writing(self.target):
            size = self.journal_path.stat().st_size
            if size > MAX_JOURNAL_BYTES:
                raise WriteError(self.journal_path, f"journal of {size} bytes; delete it")
            records, _, _ = read_journal(self.journal_path.read_bytes())
        if not records:
            return False
        if records[0] != self._header:
            other = other_header(records[0], self._header)
            raise WriteError(
                self.target,
                f"an unfinished output of other settings ({other}) lies in {self.path.name}; "
                "run without --resume to start afresh",
            )
        return True

    def _start(self) -> None:
        """Read the journal back, cut its damaged tail off, or write its first line."""
        self._journal.seek(0)
        records, end, self._chain = read_journal(self._journal.readall() or b"")
        if records:
            self.records = records[1:]
            self._journal.truncate(end)
            self._journal.seek(end)
            return
        lines, self._chain = journal_lines([self._header])
        self._append_to_journal(lines)
        self._journal.sync()
        with writing(self.target):
            fsync_folder(self.target.parent)

    def _append_to_journal(self, lines: bytes) -> None:
        start = self._journal.tell()
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[self._journal.write(rest) :]
        except WriteError:
            # Half a line must not lie in front of the next attempt.
            with contextlib.suppress(WriteError):
                self._journal.truncate(start)
                self._journal.seek(start)
            raise

    def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._data.abandon()  # everything of worth was flushed by sync or publish
        self._journal.abandon()
        try:
            self.file.close()
            self._journal.close()
        finally:
            if self._own_lock is not None:
                self._own_lock.release()
