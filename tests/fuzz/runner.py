"""Mutated files read in child processes, so that a crash, a hang or a flood of memory is seen.

Every input is a function of (seed, target, number): a child that dies names its input by the
number it left in shared memory, and the parent makes the input again and keeps it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import Target

SLOW = 1.0  # seconds of work that count as a hang
GROWTH = 256 << 20
BATCH = 300
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
            try:
                os.close(read)
                self._work(end, write, scratch)
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            lines = pipe.read().splitlines()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        shutil.rmtree(scratch, ignore_errors=True)
        for line in lines:
            self._note(json.loads(line))
        at = struct.unpack("<q", self._shared[:8])[0]
        if status:  # died while reading input `at`
            kind = "hangs" if status == -signal.SIGPROF else "crashes"
            self._find(at, kind, f"signal {-status}")
            self.tally.inputs += 1
            self._next = at + 1
        else:
            self._next = at

    def _work(self, end: int, write: int, scratch: Path) -> None:
        """Read inputs until `end` or a find that spoils the process; report in lines of JSON."""
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
