"""python -m tests.fuzz --minutes 20: mutated files at every reader of this project."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # children are forked

from tests.fuzz.runner import Fuzzer
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Exit code: 1 if anything was found."""
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
    began = time.monotonic()
    if chosen.count is not None:
        for fuzzer in fuzzers.values():
            fuzzer.batch(chosen.count)
    else:
        _for_minutes(fuzzers, began, 60 * chosen.minutes)
    minutes = (time.monotonic() - began) / 60
    for name, fuzzer in fuzzers.items():
        print(name, *(f"{key} {value}" for key, value in asdict(fuzzer.tally).items()))
        print(*(f"  {line}\n" for line in sorted(set(fuzzer.found))[:20]), sep="", end="")
    if chosen.record:
        from tests.faults.reliability import machine, store

        readers = {name: asdict(fuzzer.tally) for name, fuzzer in fuzzers.items()}
        store("fuzz", {"machine": machine(), "minutes": minutes, "seed": seed, "readers": readers})
    return int(any(fuzzer.tally.finds for fuzzer in fuzzers.values()))


def _for_minutes(fuzzers: dict[str, Fuzzer], began: float, seconds: float) -> None:
    """Equal shares of the time for all targets."""
    spent = dict.fromkeys(fuzzers, 0.0)
    while time.monotonic() - began < seconds:
        name = min(spent, key=spent.__getitem__)
        start = time.monotonic()
        fuzzers[name].batch()
        spent[name] += time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
