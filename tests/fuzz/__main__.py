"""python -m tests.fuzz --minutes 20: mutated files at every reader of this project.

Says every half minute how far it is. With --record the figures go into docs/reliability.md, at
the end and every minute on the way, so that a run that is stopped leaves what it found.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")  # children are forked

from tests.fuzz.runner import Fuzzer
from tests.fuzz.targets import TARGETS

SAY_EVERY, RECORD_EVERY = 30.0, 60.0  # seconds


def main() -> int:
    """Exit code: 1 if anything was found, 130 or 143 if it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, over all targets")
    parser.add_argument("--count", type=int, help="this many inputs per target instead")
    parser.add_argument("--seed", type=int, help="repeat a run")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="only these")
    parser.add_argument("--keep", type=Path, help="folder for finds",
                        default=Path(__file__).parent / "regressions")  # fmt: skip
    parser.add_argument("--record", action="store_true", help="figures into docs/reliability.md")
    chosen = parser.parse_args()
    seed = chosen.seed if chosen.seed is not None else int.from_bytes(os.urandom(4), "little")
    names = chosen.target or list(TARGETS)
    print(f"seed {seed}, {', '.join(names)}", flush=True)
    fuzzers = {name: Fuzzer(TARGETS[name], seed, chosen.keep) for name in names}
    run = Run(fuzzers, seed, recording=chosen.record)
    signal.signal(signal.SIGTERM, _terminated)
    code = 0
    try:
        if chosen.count is not None:
            for fuzzer in fuzzers.values():
                fuzzer.batch(chosen.count)
        else:
            run.for_minutes(chosen.minutes)
    except KeyboardInterrupt:
        code = 130
    except SystemExit as stop:
        code = int(stop.code or 1)
    for name, fuzzer in fuzzers.items():
        print(name, *(f"{key} {value}" for key, value in asdict(fuzzer.tally).items()))
        print(*(f"  {line}\n" for line in sorted(set(fuzzer.found))[:20]), sep="", end="")
    run.record()
    return code or int(bool(run.finds))


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(143)


class Run:
    """All targets under fire for some minutes; says and records how far it is."""

    def __init__(self, fuzzers: dict[str, Fuzzer], seed: int, *, recording: bool) -> None:
        self.fuzzers, self.seed, self.recording = fuzzers, seed, recording
        self.began = time.monotonic()

    @property
    def finds(self) -> int:
        """Inputs so far that no reader may treat so."""
        return sum(fuzzer.tally.finds for fuzzer in self.fuzzers.values())

    def for_minutes(self, minutes: float) -> None:
        """Equal shares of the time for all targets."""
        spent = dict.fromkeys(self.fuzzers, 0.0)
        said = recorded = self.began
        while (now := time.monotonic()) - self.began < 60 * minutes:
            name = min(spent, key=spent.__getitem__)
            self.fuzzers[name].batch()
            spent[name] += time.monotonic() - now
            if now - said > SAY_EVERY:
                said = now
                inputs = sum(fuzzer.tally.inputs for fuzzer in self.fuzzers.values())
                print(f"{(now - self.began) / 60:.1f} of {minutes:g} min: {inputs:,} inputs, "
                      f"{self.finds} finds", flush=True)  # fmt: skip
            if now - recorded > RECORD_EVERY:
                recorded = now
                self.record()

    def record(self) -> None:
        """The figures so far into the page."""
        if not self.recording:
            return
        from tests.faults.reliability import machine, store

        readers = {name: asdict(fuzzer.tally) for name, fuzzer in self.fuzzers.items()}
        minutes = (time.monotonic() - self.began) / 60
        store("fuzz", {"machine": machine(), "minutes": minutes, "seed": self.seed,
                       "readers": readers})  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
