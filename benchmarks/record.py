"""What the figures of a benchmark depend on, and files that grow row by row."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("UNET2015_DATA", ROOT.parent / "shared" / "data"))


def machine(device: Any = None) -> dict[str, Any]:
    """Processor, device, threads, commit, versions."""
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    found = {
        "processor": model[0] if model else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "versions": {name: metadata.version(name) for name in ("torch", "numpy", "numba")},
    }
    if device is not None and device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def read(path: Path) -> dict[str, Any]:
    """The record in `path`, or an empty one."""
    return json.loads(path.read_text()) if path.exists() else {"rows": []}


def write(path: Path, record: dict[str, Any]) -> None:
    """Replace `path` whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(record, indent=1) + "\n")
    beside.replace(path)


def isbi() -> tuple[Path, Path]:
    """Images and labels of the ISBI 2012 training stack."""
    folder = DATA / "isbi2012"
    if not (folder / "train-volume.tif").is_file():
        raise SystemExit(f"no ISBI stack in {folder}; set UNET2015_DATA (see CONTRIBUTING.md)")
    return folder / "train-volume.tif", folder / "train-labels.tif"
