"""Every benchmark that takes minutes, one after the other, then the page of their tables.

    python -m benchmarks                    # what `make bench` does
    python -m benchmarks weightmaps_speed   # some of them
    python -m benchmarks --quick            # small sizes, to try the scripts; writes no results
    python -m benchmarks --gpu              # everything that wants a GPU: its tests, its benchmarks
    python -m benchmarks --list

Each script runs in a process of its own; one that fails, or lacks its data, is told in the summary
and does not stop the rest. Scripts that take hours are listed with their command. `--gpu --device
cpu --quick` tries the lines for a GPU where there is none.
"""

from __future__ import annotations

import argparse
import os
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
# Script -> (arguments on a GPU, arguments of a small run).
GPU: dict[str, tuple[list[str], list[str]]] = {
    "tiling_throughput": (["--base", "64", "--side", "12292", "--repeat", "2"], ["--small"]),
    "train_step": (
        ["--precision", "bf16", "--steps", "100"], ["--size", "quick", "--steps", "1"],
    ),
    "time_to_quality": (
        ["--recipe", "isbi2012-modern", "--workers", "4"],
        ["--recipe", "quick", "--steps", "2", "--seeds", "0"],
    ),
    "isbi_results": (["--table", "full"], []),
}  # fmt: skip
HOURS = {
    "isbi_results": "python benchmarks/isbi_results.py --table quick (and the other tables)",
    "time_to_quality": "python benchmarks/time_to_quality.py --json benchmarks/results/"
    "time_to_quality_cpu.json",
}


def command(name: str, target: Path, options: argparse.Namespace) -> list[str]:
    """Return the command line of one script."""
    if options.gpu:
        arguments = [*GPU[name][options.quick], "--device", options.device]
    else:
        arguments = MINUTES[name] if options.quick else []
    goes = ["--out", str(target.parent)] if name == "isbi_results" else ["--json", str(target)]
    return [sys.executable, str(HERE / f"{name}.py"), *arguments, *goes]


def gpu_tests(options: argparse.Namespace) -> int:
    """Exit code of the tests that need a GPU."""
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_gpu.py"]
    here = {**os.environ, "UNET2015_TEST_DEVICE": options.device}
    return subprocess.run(words, cwd=HERE.parent, env=here, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; by default all")
    parser.add_argument("--quick", action="store_true", help="small sizes, no results are kept")
    parser.add_argument("--gpu", action="store_true", help="those for a GPU, and its tests")
    parser.add_argument("--device", default="cuda", help="with --gpu: cuda, cuda:N or cpu")
    parser.add_argument("--list", action="store_true", help="name them, run nothing")
    options = parser.parse_args()
    every = list(GPU if options.gpu else MINUTES)
    if options.gpu and options.quick:
        every.remove("isbi_results")  # has no small size
    unknown = [name for name in options.names if name not in every]
    if unknown:
        parser.error(f"no such benchmark is called {unknown[0]!r}; there are {', '.join(every)}")
    if options.list:
        print(*every, *(f"{name}: hours; {how}" for name, how in HOURS.items()), sep="\n")
        return 0
    outcome: dict[str, str] = {}
    if options.gpu and not options.names:
        code = gpu_tests(options)
        outcome["tests/test_gpu.py"] = "passed" if code == 0 else f"failed with exit code {code}"
    with tempfile.TemporaryDirectory() as scratch:
        RESULTS.mkdir(exist_ok=True)
        folder = Path(scratch) if options.quick else RESULTS
        for name in options.names or every:
            ending = "_gpu" if options.gpu else "_cpu" if name == "train_step" else ""
            print(f"== {name}", file=sys.stderr, flush=True)
            start = time.perf_counter()
            target = folder / f"{name}{ending}.json"
            code = subprocess.run(command(name, target, options), check=False).returncode
            said = "done" if code == 0 else f"failed with exit code {code}"
            outcome[name] = f"{said} after {time.perf_counter() - start:.0f} s"
    if not options.quick:
        subprocess.run([sys.executable, str(HERE / "tables.py")], check=True)
    print("\nSummary", *(f"{name:20} {said}" for name, said in outcome.items()), sep="\n")
    return int(any("failed" in said for said in outcome.values()))


if __name__ == "__main__":
    raise SystemExit(main())
