"""Mutated files read in child processes, so that a crash, a hang or a flood of memory is seen.

Every input is a function of (seed, target, number): a child that dies names its input by the
number it left in shared memory, and the parent makes the input again and keeps it. A child that
waits without working (for a pipe, a lock) is seen by a clock that its work pushes on.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import Target

SLOW = 1.0  # seconds of work that count as a hang
GROWTH = 256 << 20
BATCH = 300
STILL = 60.0  # seconds without a next input that count as a hang, on however busy a machine
_MEMORY = Path("/dev/shm")  # files in memory, where the system has such a place
_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass
class Tally:
    """What the inputs of one target came to."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    crashes: int = 0
    hangs: int = 0
    growths: int = 0
    foreign: int = 0
    slowest: float = 0.0

    @property
    def finds(self) -> int:
        """Inputs that no reader may treat so."""
        return self.crashes + self.hangs + self.growths + self.foreign


class Fuzzer:
    """One target under fire.

    Parameters
    ----------
    target
        What is read.
    seed
        Start of all randomness.
    keep
        Folder for the files that were finds, or None.
    """

    def __init__(self, target: Target, seed: int, keep: Path | None = None) -> None:
        self.target, self.seed, self.keep = target, seed, keep
        self.seeds = target.seeds()
        self.tally = Tally()
        self.found: list[str] = []
        self._next = 0
        self._shared = mmap.mmap(-1, 8)  # number of the input at work

    def input(self, number: int) -> bytes:
        """Input of this number."""
        draw = random.Random(f"{self.seed} {self.target.name} {number}")
        data = mutated(draw, self.seeds)
        if self.target.repair is not None and draw.random() < 0.7:
            data = self.target.repair(data)
        return data

    def batch(self, count: int = BATCH) -> None:
        """Read the next `count` inputs in a child process."""
        end = self._next + count
        while self._next < end:
            self._child(end)

    def _child(self, end: int) -> None:
        read, write = os.pipe()
        scratch = Path(tempfile.mkdtemp(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(read)
                self._work(end, write, scratch)
                code = 0
            finally:
                os._exit(code)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            lines = self._watched(child, pipe)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        shutil.rmtree(scratch, ignore_errors=True)
        for line in lines:
            self._note(json.loads(line))
        at = self._at()
        if status:  # died while reading input `at`
            still = status in (-signal.SIGPROF, -signal.SIGALRM)
            self._find(at, "hangs" if still else "crashes", f"status {status}")
            self.tally.inputs += 1
            self._next = at + 1
        else:
            self._next = at

    def _at(self) -> int:
        return int(struct.unpack("<q", self._shared[:8])[0])

    def _watched(self, child: int, pipe: BinaryIO) -> list[bytes]:
        """What the child reports; it is stopped by SIGALRM when it stands still."""
        parts: list[bytes] = []
        at, since = -1, time.monotonic()
        while True:
            ready, _, _ = select.select([pipe], [], [], 1.0)
            if ready:
                part = os.read(pipe.fileno(), 1 << 16)
                if not part:
                    return b"".join(parts).splitlines()
                parts.append(part)
            if self._at() != at:
                at, since = self._at(), time.monotonic()
            elif time.monotonic() - since > STILL:
                os.kill(child, signal.SIGALRM)
                since = time.monotonic()

    def _work(self, end: int, write: int, scratch: Path) -> None:
        """Read inputs until `end` or a find that spoils the process; report in lines of JSON."""
        for number_of in (signal.SIGINT, signal.SIGTERM):  # the parent's business
            signal.signal(number_of, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        tally = Tally()
        before = _peak()
        number = self._next
        finds: list[tuple[int, str, str]] = []
        while number < end:
            self._shared[:8] = struct.pack("<q", number)
            data = self.input(number)
            number += 1
            signal.setitimer(signal.ITIMER_PROF, 5 * SLOW)
            began = time.process_time()
            try:
                self.target.read(data, scratch)
                tally.accepted += 1
            except self.target.allowed:
                tally.refused += 1
            except BaseException as error:
                tally.foreign += 1
                finds.append((number - 1, "foreign", f"{type(error).__name__}: {error}"))
            seconds = time.process_time() - began
            signal.setitimer(signal.ITIMER_PROF, 0)
            tally.inputs += 1
            tally.slowest = max(tally.slowest, seconds)
            if seconds > SLOW:
                tally.hangs += 1
                finds.append((number - 1, "hangs", f"{seconds:.1f} s"))
            if _peak() - before > GROWTH:
                tally.growths += 1
                finds.append((number - 1, "growths", f"{(_peak() - before) >> 20} MB"))
                break  # the peak of a process never falls
        self._shared[:8] = struct.pack("<q", number)
        report = json.dumps({"tally": asdict(tally), "finds": finds}).encode() + b"\n"
        while report:
            report = report[os.write(write, report) :]

    def _note(self, report: dict) -> None:
        for name, value in report["tally"].items():
            mine = getattr(self.tally, name)
            setattr(self.tally, name, max(mine, value) if name == "slowest" else mine + value)
        for number, kind, words in report["finds"]:
            self._keep(number, kind, words)

    def _find(self, number: int, kind: str, words: str) -> None:
        setattr(self.tally, kind, getattr(self.tally, kind) + 1)
        self._keep(number, kind, words)

    def _keep(self, number: int, kind: str, words: str) -> None:
        data = self.input(number)
        name = f"{self.target.name}-{kind}-{hashlib.sha256(data).hexdigest()[:8]}.bin"
        self.found.append(f"{name}: {words}")
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            (self.keep / name).write_bytes(data)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
