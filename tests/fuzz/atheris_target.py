"""The same readers under a coverage-guided fuzzer, where `pip install atheris` is possible.

    python -m tests.fuzz.atheris_target tiff --minutes 10

Finds lie as `crash-*`, `timeout-*` or `oom-*` in the working folder, the corpus in
`.fuzz/TARGET`; what stands behind `--` goes to libFuzzer.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[2]
SEEDS = """
import sys
from pathlib import Path
from tests.fuzz.targets import TARGETS

for number, data in enumerate(TARGETS[sys.argv[1]].seeds()):
    Path(sys.argv[2], f"seed{number}").write_bytes(data)
"""
READERS = ["tiling", "unet2015.caffe", "unet2015.checkpoint", "unet2015.info", "unet2015.recipe",
           "unet2015.tensor_file", "unet2015.training_log", "weightmaps.history"]  # fmt: skip


def main() -> int:
    """Exit code: 0 also where atheris is not there, with words about it; else libFuzzer's."""
    try:
        import atheris
    except ImportError:
        print("SKIPPED: atheris is not installed (pip install atheris)", file=sys.stderr)
        return 0
    with atheris.instrument_imports(include=READERS):  # not what numba compiles
        from tests.fuzz.targets import TARGETS
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.atheris_target")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("words", nargs="*", help="words for libFuzzer, behind --")
    chosen = parser.parse_args()
    target = TARGETS[chosen.target]
    scratch = Path(tempfile.mkdtemp())
    corpus = ROOT / ".fuzz" / chosen.target
    corpus.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-c", SEEDS, chosen.target, corpus]  # what makes them stays as it is
    subprocess.run(line, cwd=ROOT, check=True)
    with atheris.instrument_imports(include=READERS):
        for path in corpus.glob("seed*"):
            target.read(path.read_bytes(), scratch)  # imports what the reader imports

    def one_input(data: bytes) -> None:
        with contextlib.suppress(*target.allowed):
            target.read(data if target.repair is None else target.repair(data), scratch)

    limits = [f"-max_total_time={round(60 * chosen.minutes)}", "-timeout=5", "-rss_limit_mb=2048",
              "-max_len=131072"]  # fmt: skip
    atheris.Setup([sys.argv[0], *limits, *chosen.words, str(corpus)], one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
