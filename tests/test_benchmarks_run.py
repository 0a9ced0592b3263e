"""Benchmarks that need nothing but the package run at small size, so that none rots."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("script", "small"),
    [
        ("tiling_memory", ["--small"]),
        ("weightmaps_memory", ["--sizes", "600"]),
        ("weightmaps_warp", ["--tiles", "1", "--rounds", "1"]),
    ],
)
def test_it_runs_and_writes_its_figures(script, small, tmp_path):
    words = [sys.executable, ROOT / "benchmarks" / f"{script}.py", *small, "--json"]
    subprocess.run([*words, tmp_path / "found.json"], check=True, stdout=subprocess.DEVNULL)
    assert json.loads((tmp_path / "found.json").read_text("utf-8"))
