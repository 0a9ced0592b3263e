"""What the figures of a benchmark depend on, and files that are replaced whole."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("UNET2015_DATA", ROOT.parent / "shared" / "data"))
INSTRUCTIONS = ("amx-bf16", "avx512bf16", "avx512f", "avx2", "sse4.2", "bf16", "sve", "neon")


def machine(
    device: Any = None, packages: Sequence[str] = ("torch", "numpy", "numba")
) -> dict[str, Any]:
    """Processor, threads and GPU of a torch device, load, commit, versions of `packages`."""
    found: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count()}
    if device is not None:
        import torch

        found["threads"] = torch.get_num_threads()
        if device.type == "cuda":
            found["gpu"] = torch.cuda.get_device_name(device)
    if "numba" in packages:
        import llvmlite.binding as llvm

        features = llvm.get_host_cpu_features()
        found["instruction sets"] = ", ".join(f for f in INSTRUCTIONS if features.get(f))
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 1)
    return found | {
        "system": platform.system(), "python": platform.python_version(), "commit": commit(),
        "versions": {name: version(name) for name in packages},
    }  # fmt: skip


def processor() -> str:
    """Name of the processor, or of its kind where the system does not tell more."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """First digits of the commit of the checkout; outside of one, what UNET2015_COMMIT says."""
    words = ["git", "rev-parse", "--short=12", "HEAD"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
        told = found.stdout.strip()
    except OSError:  # no git
        told = ""
    return told or os.environ.get("UNET2015_COMMIT", "")[:12]


def version(package: str) -> str:
    """Version of an installed package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def peak_bytes() -> int:
    """Largest resident memory of this process so far (Linux counts in kB, macOS in bytes)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def read(path: Path) -> dict[str, Any]:
    """The record in `path`, or an empty one."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {"rows": []}


def write(path: Path, record: dict[str, Any]) -> None:
    """Replace `path` whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    beside.replace(path)


def isbi() -> tuple[Path, Path]:
    """Images and labels of the ISBI 2012 training stack."""
    folder = DATA / "isbi2012"
    if not (folder / "train-volume.tif").is_file():
        raise SystemExit(
            f"no ISBI 2012 stack in {folder}; set UNET2015_DATA to the folder that holds isbi2012/"
            " (see CONTRIBUTING.md)"
        )
    return folder / "train-volume.tif", folder / "train-labels.tif"
