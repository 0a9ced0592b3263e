"""Every benchmark that takes minutes, one after the other, then the page of their tables.

    python -m benchmarks                    # what `make bench` does
    python -m benchmarks weightmaps_speed   # some of them
    python -m benchmarks --quick            # small sizes, to try the scripts; writes no results
    python -m benchmarks --list

Each script runs in a process of its own; one that fails, or lacks its data, is told in the summary
and does not stop the rest. Scripts that take hours or need a GPU are listed with their command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
# Script -> arguments of a small run.
MINUTES: dict[str, list[str]] = {
    "weightmaps_speed": ["--quick", "--repeats", "2"],
    "weightmaps_memory": ["--sizes", "2048"],
    "weightmaps_warp": ["--tiles", "2", "--rounds", "1"],
    "augmentation": ["--seconds", "0.3"],
    "score_speed": ["--slices", "2", "--side", "128", "--repeats", "1"],
    "tiling_memory": ["--small"],
    "tiling_throughput": ["--small"],
    "train_step": ["--size", "quick", "--steps", "1"],
}
HOURS = {
    "isbi_results": "python benchmarks/isbi_results.py --table quick (and the other tables)",
    "time_to_quality": "python benchmarks/time_to_quality.py --json benchmarks/results/"
    "time_to_quality_cpu.json",
}


def command(name: str, target: Path, *, quick: bool) -> list[str]:
    """Return the command line of one script."""
    arguments = MINUTES[name] if quick else []
    return [sys.executable, str(HERE / f"{name}.py"), *arguments, "--json", str(target)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; by default all")
    parser.add_argument("--quick", action="store_true", help="small sizes, no results are kept")
    parser.add_argument("--list", action="store_true", help="name them, run nothing")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in MINUTES]
    if unknown:
        known = ", ".join(MINUTES)
        parser.error(f"no benchmark of minutes is called {unknown[0]!r}; there are {known}")
    if options.list:
        print(*MINUTES, *(f"{name}: hours; {how}" for name, how in HOURS.items()), sep="\n")
        return 0
    outcome: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        RESULTS.mkdir(exist_ok=True)
        folder = Path(scratch) if options.quick else RESULTS
        for name in options.names or MINUTES:
            ending = "_cpu" if name == "train_step" else ""
            print(f"== {name}", file=sys.stderr, flush=True)
            start = time.perf_counter()
            target = folder / f"{name}{ending}.json"
            words = command(name, target, quick=options.quick)
            code = subprocess.run(words, check=False).returncode
            said = "done" if code == 0 else f"failed with exit code {code}"
            outcome[name] = f"{said} after {time.perf_counter() - start:.0f} s"
    if not options.quick:
        subprocess.run([sys.executable, str(HERE / "tables.py")], check=True)
    print("\nSummary", *(f"{name:20} {said}" for name, said in outcome.items()), sep="\n")
    return int(any("failed" in said for said in outcome.values()))


if __name__ == "__main__":
    raise SystemExit(main())
