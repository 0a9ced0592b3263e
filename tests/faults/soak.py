"""python -m tests.faults.soak --minutes 20: the long tests, and each property with 2,000 examples.

Each long test, and each few properties, are a process of their own, two at a time; when all have
run and time is left, they run again with other random inputs. A test that crashes its process is a
failure that is told and counted, and the next one goes on; one that outlives the end by five
minutes is cut off. Every end is told; the record is written after each, so that a soak that is
stopped leaves what it found (tests/faults/records/soak.json, docs/reliability.md).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from tests.faults.catalogue import TESTS
from tests.faults.reliability import Watcher, machine, store

ROOT = TESTS.parent
EXAMPLES = 2000
GRACE = 300.0  # seconds that a test may go on after the end
TOGETHER = 4  # properties of one file in one process: starting one costs seconds
WORDS = ["-q", "-p", "no:cacheprovider", "-n", "0", "--timeout=3600"]


class Collector:
    """A pytest plugin that gathers the long tests and the properties of a collection."""

    def __init__(self) -> None:
        self.long: list[str] = []
        self.properties: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            name = item.nodeid.partition("[")[0]  # all parameters of a test together
            if item.get_closest_marker("soak"):
                self.long.append(item.nodeid)
            elif getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                self.properties.append(name)


Unit = tuple[str, ...]  # tests that run in one process


def collected(only: str = "") -> list[Unit]:
    """Units of a round: long tests and properties in turn."""
    collector, said = Collector(), io.StringIO()
    with contextlib.redirect_stdout(said):
        code = pytest.main(["--collect-only", "-qq", *WORDS[1:], "tests"], plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise SystemExit(f"{said.getvalue()}\nthe tests cannot be collected (exit code {code})")
    long = [(name,) for name in dict.fromkeys(collector.long) if only in name]
    names = [name for name in dict.fromkeys(collector.properties) if only in name]
    by_file = itertools.groupby(names, key=lambda name: name.partition("::")[0])
    properties = [unit for _, group in by_file for unit in _batched(list(group), TOGETHER)]
    share = max(1, -(-len(properties) // max(len(long), 1)))
    mixed: list[Unit] = []
    while long or properties:
        mixed += properties[:share] + long[:1]
        properties, long = properties[share:], long[1:]
    return mixed


def _batched(names: list[str], size: int) -> list[Unit]:
    return [tuple(names[start : start + size]) for start in range(0, len(names), size)]


@dataclass
class Soak:
    """A soak: its clock, and what came of it so far.

    Attributes
    ----------
    units
        Of a round.
    minutes
        When no further test is begun.
    seed
        Of the first round; each round has the next one.
    """

    units: list[Unit]
    minutes: float
    seed: int
    began: float = field(default_factory=time.monotonic)
    counts: Counter[str] = field(default_factory=Counter)
    reached: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    kill_points: int = 0
    rounds: int = 0
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.began + 60 * self.minutes - time.monotonic()

    def go(self, jobs: int) -> None:
        """Rounds until the end of time; at least one test is run by each job."""
        while self.left > 0:
            waiting: queue.Queue[Unit] = queue.Queue()
            for unit in self.units:
                waiting.put(unit)
            threads = [
                threading.Thread(target=self._work, args=(waiting,), daemon=True)
                for _ in range(jobs)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # so that Ctrl-C is heard
                    thread.join(1.0)
            self.rounds += 1

    def stop(self) -> None:
        """End the tests at work."""
        for process in list(self.running.values()):
            _end(process)

    def _work(self, waiting: queue.Queue[Unit]) -> None:
        while self.left > 0:
            try:
                unit = waiting.get_nowait()
            except queue.Empty:
                return
            result = self._one(unit)
            with self.lock:
                self._note(unit, result)

    def _one(self, unit: Unit) -> dict[str, Any]:
        """What came of a unit in a process of its own."""
        with tempfile.TemporaryDirectory() as folder:
            report, said = Path(folder, "report.json"), Path(folder, "said.txt")
            line = [sys.executable, "-m", "tests.faults.soak", "--report", report, "--seed",
                    str(self.seed + self.rounds), "--unit", *unit]  # fmt: skip
            with said.open("wb") as out:
                process = subprocess.Popen(
                    line, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                    start_new_session=True,
                    env={"OMP_NUM_THREADS": "1", **os.environ, "HYPOTHESIS_PROFILE": "soak"},
                )  # fmt: skip
            self.running[process.pid] = process
            try:
                process.wait(self.left + GRACE)
            except subprocess.TimeoutExpired:
                _end(process)
                return {"late": True}
            finally:
                self.running.pop(process.pid, None)
            text = said.read_text("utf-8", "replace") if said.exists() else ""  # ended by hand
            if not report.exists():
                return {"crashed": process.returncode, "text": text[-2000:]}
            return {**json.loads(report.read_text("utf-8")), "text": text[-4000:]}

    def _note(self, unit: Unit, result: dict[str, Any]) -> None:
        name = f"{unit[0]} and {len(unit) - 1} more" if len(unit) > 1 else unit[0]
        minute = f"{(time.monotonic() - self.began) / 60:5.1f} of {self.minutes:g} min"
        if "late" in result:
            self.counts["cut off by the end"] += 1
            print(f"{minute}  cut off by the end  {name}", flush=True)
            return
        self.reached.update(unit)
        outcomes = Counter(result.get("outcomes", ["failed"]))
        self.counts += outcomes
        self.kill_points += result.get("kill_points", 0)
        points = f", {result['kill_points']} kill points" if result.get("kill_points") else ""
        words = ", ".join(f"{count} {word}" for word, count in sorted(outcomes.items()))
        print(f"{minute}  {words}{points}  {name}", flush=True)
        if outcomes["failed"]:
            why = f" (process ended with {result['crashed']})" if "crashed" in result else ""
            self.failures += [name + why for name in result.get("failed", unit)]
            print(result["text"], flush=True)
        self.record()

    def record(self) -> None:
        """The figures so far into the page."""
        store("soak", {
            "machine": machine(), "minutes": (time.monotonic() - self.began) / 60,
            "examples": EXAMPLES, "tests": sum(map(len, self.units)), "reached": len(self.reached),
            "rounds": self.rounds + 1, "seed": self.seed, "kill_points": self.kill_points,
            "counts": {word: self.counts[word] for word in ("passed", "failed", "skipped")},
            "failures": sorted(set(self.failures)),
        })  # fmt: skip


def run_unit(unit: list[str], report: Path, seed: int) -> int:
    """Run a unit here and write what came of it."""
    watcher = Watcher()
    code = int(pytest.main([*WORDS, f"--hypothesis-seed={seed}", *unit], plugins=[watcher]))
    outcomes = list(watcher.outcomes.values())
    failed = [name for name, what in watcher.outcomes.items() if what == "failed"]
    found = {"outcomes": outcomes or ["failed"], "kill_points": watcher.kill_points,
             "failed": failed or unit}  # fmt: skip
    report.write_text(json.dumps(found), "utf-8")
    return code


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a test and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Exit code: 1 if a test failed, 130 if it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="when no further test is begun")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time")
    parser.add_argument("--seed", type=int, help="repeat the random inputs of a soak")
    parser.add_argument("--only", default="", help="tests whose name holds this text")
    parser.add_argument("--unit", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    os.chdir(ROOT)
    if chosen.unit:
        return run_unit(chosen.unit, chosen.report, chosen.seed)
    seed = chosen.seed if chosen.seed is not None else random.SystemRandom().randrange(10**6)
    units = collected(chosen.only)
    tests = sum(map(len, units))
    print(f"{tests} long tests and properties, seed {seed}", flush=True)
    soak = Soak(units, chosen.minutes, seed)
    signal.signal(signal.SIGTERM, _terminated)
    code = 0
    try:
        soak.go(chosen.jobs)
    except KeyboardInterrupt:
        code = 130
        soak.stop()
    with soak.lock:
        print(f"{dict(soak.counts)}, {soak.kill_points} kill points; "
              f"{len(soak.reached)} of {tests} reached", flush=True)  # fmt: skip
        print(*(f"FAILED {name}" for name in sorted(set(soak.failures))), sep="\n", flush=True)
    return code or int(bool(soak.failures))


if __name__ == "__main__":
    sys.exit(main())
