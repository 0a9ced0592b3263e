"""Every benchmark that takes minutes, one after the other, then the page of their tables.

    python -m benchmarks                    # what `make bench` does
    python -m benchmarks weightmaps_speed   # some of them
    python -m benchmarks --quick            # small sizes, to try the scripts; writes no results
    python -m benchmarks --gpu              # everything that wants a GPU: its tests, its benchmarks
    python -m benchmarks --list

Each script runs in a process of its own; one that fails, or lacks its data, is told in the summary
and does not stop the rest. `--gpu` ends after 25 minutes: a script that is still at work then is
stopped, and what it has measured is kept, for those write as they go. Scripts that take hours are
listed with their command. `--gpu --device cpu --quick` tries the lines for a GPU where there is
none.

On a machine that is lent: `--minutes` and names divide the work, `--out FOLDER` puts the results
elsewhere (the page is left as it is), UNET2015_DATA names the folder of the ISBI data, and where
the copy of the sources has no git, UNET2015_COMMIT the commit they are of.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
GPU_MINUTES = 25.0
# Script -> arguments of a small run.
MINUTES: dict[str, list[str]] = {
    "weightmaps_speed": ["--quick", "--repeats", "2"],
    "weightmaps_memory": ["--sizes", "2048"],
    "weightmaps_warp": ["--tiles", "2", "--rounds", "1"],
    "augmentation": ["--seconds", "0.3"],
    "score_speed": ["--slices", "2", "--side", "128", "--repeats", "1"],
    "tiling_memory": ["--small"],
    "tiling_throughput": ["--small"],
    "tiling_pairs": ["--small"],
    "train_step": ["--size", "quick", "--steps", "1"],
}
# Script -> (arguments on a GPU, arguments of a small run); the shortest first.
GPU: dict[str, tuple[list[str], list[str]]] = {
    "train_step": (
        ["--precision", "bf16", "--steps", "100", "--compile"],
        ["--size", "quick", "--steps", "1"],
    ),
    "tiling_throughput": (["--base", "64", "--side", "12292", "--repeat", "2"], ["--small"]),
    "tiling_pairs": (
        ["--side", "49156", "--rounds", "1", "--precisions", "bf16", "--rows", "ours", "labels"],
        ["--small"],
    ),
    "time_to_quality": (
        ["--recipe", "isbi2012-modern", "--workers", "4", "--steps", "1000", "2000", "4000"],
        ["--recipe", "quick", "--steps", "2", "--seeds", "0"],
    ),
}  # fmt: skip
HOURS = {
    "isbi_results": "python benchmarks/isbi_results.py --table quick (and the other tables);"
    " on a GPU --table full --device cuda --workers 4",
    "time_to_quality": "python benchmarks/time_to_quality.py --json benchmarks/results/"
    "time_to_quality_cpu.json",
}


def command(name: str, target: Path, options: argparse.Namespace) -> list[str]:
    """Return the command line of one script."""
    if options.gpu:
        arguments = [*GPU[name][options.quick], "--device", options.device]
    else:
        arguments = MINUTES[name] if options.quick else []
    return [sys.executable, str(HERE / f"{name}.py"), *arguments, "--json", str(target)]


def outcome_of(words: list[str], until: float, **place: object) -> str:
    """Run a command until a moment of `time.monotonic`, and say how it ended."""
    start = time.monotonic()
    left = until - start
    if left <= 0:
        return "left out: no time left"
    running = subprocess.Popen(words, process_group=0 if os.name == "posix" else None, **place)  # type: ignore[call-overload]
    try:
        code = running.wait(None if left == float("inf") else left)
        said = "done" if code == 0 else f"failed with exit code {code}"
    except subprocess.TimeoutExpired:
        said = "stopped, what was measured is kept,"
    finally:
        stop(running)
    return f"{said} after {time.monotonic() - start:.0f} s"


def stop(running: subprocess.Popen[bytes]) -> None:
    """End a script and the processes it has started; it may take its files away first."""
    for strength in (signal.SIGINT, signal.SIGTERM):
        if running.poll() is not None:
            return
        if os.name == "posix":
            os.killpg(running.pid, strength)
        else:
            running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            continue
    if running.poll() is None:
        running.kill()
        running.wait()


def parsed() -> argparse.Namespace:
    """The command line, refused where it cannot be followed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; by default all")
    parser.add_argument("--quick", action="store_true", help="small sizes, no results are kept")
    parser.add_argument("--gpu", action="store_true", help="those for a GPU, and its tests")
    parser.add_argument("--device", default="cuda", help="with --gpu: cuda, cuda:N or cpu")
    parser.add_argument(
        "--minutes", type=float, metavar="N",
        help=f"stop after so long; with --gpu {GPU_MINUTES:.0f}, else when all is done",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--list", action="store_true", help="name them, run nothing")
    options = parser.parse_args()
    options.every = list(GPU if options.gpu else MINUTES)
    unknown = [name for name in options.names if name not in options.every]
    if unknown:
        there = ", ".join(options.every)
        parser.error(f"no such benchmark is called {unknown[0]!r}; there are {there}")
    if options.gpu and options.device != "cpu" and not options.list:
        import torch

        if not torch.cuda.is_available():
            parser.error(
                f"--device {options.device}: torch finds no CUDA device here; --gpu --device cpu"
                " --quick tries the same lines on the processor"
            )
    if options.minutes is None:
        options.minutes = GPU_MINUTES if options.gpu else float("inf")
    return options


def run_all(options: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Run what is asked for and say how each ended."""
    until = time.monotonic() + 60 * options.minutes
    outcome: dict[str, str] = {}
    if options.gpu and not options.names:
        words = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_gpu.py"]
        here = {**os.environ, "UNET2015_TEST_DEVICE": options.device}
        outcome["tests/test_gpu.py"] = outcome_of(words, until, cwd=HERE.parent, env=here)
    for name in options.names or options.every:
        ending = "_gpu" if options.gpu else "_cpu" if name == "train_step" else ""
        print(f"== {name}", file=sys.stderr, flush=True)
        target = folder / f"{name}{ending}.json"
        outcome[name] = outcome_of(command(name, target, options), until)
    return outcome


def main() -> int:
    options = parsed()
    if options.list:
        hours = (f"{name}: hours; {how}" for name, how in HOURS.items())
        print(*options.every, *hours, sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        outcome = run_all(options, Path(scratch) if options.quick else options.out)
    if not options.quick and options.out == RESULTS:
        outcome["tables"] = outcome_of([sys.executable, str(HERE / "tables.py")], float("inf"))
    print("\nSummary", *(f"{name:20} {said}" for name, said in outcome.items()), sep="\n")
    return int(any("failed" in said for said in outcome.values()))


if __name__ == "__main__":
    raise SystemExit(main())
