"""A block of many megabytes costs page faults only the first time once freed memory is kept."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from unet2015.cli import main

PAGES = 40_000_000 // os.sysconf("SC_PAGE_SIZE")
ALLOCATE = """
import resource, sys
import numpy as np
from unet2015.host_memory import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("not glibc")
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(5_000_000)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults_of_the_fourth(way: str) -> int:
    # Without huge pages, which would count 512 times fewer faults.
    plain = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE, way], env=plain, capture_output=True, text=True, timeout=60
    )
    if "not glibc" in done.stderr:
        pytest.skip("the C library is not glibc on Linux; nothing is shown here")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_large_block_is_not_fetched_anew():
    if faults_of_the_fourth("as it comes") < PAGES / 2:
        pytest.skip("huge pages or another allocator: freed memory costs nothing here anyway")
    assert faults_of_the_fourth("kept") < PAGES / 100


@pytest.mark.parametrize("verb", ["predict", "train", "demo"])
def test_the_verbs_that_run_a_network_keep_it(verb, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("unet2015.host_memory.keep_freed_memory", lambda: asked.append(verb))
    nowhere = str(tmp_path / "none.tif")
    words = {
        "predict": [nowhere, nowhere, "--out", str(tmp_path / "o.tif")],
        "train": [nowhere, nowhere, "--out", str(tmp_path / "run")],
        "demo": ["--out", str(tmp_path / "demo"), "--device", "no device"],
    }[verb]
    assert main([verb, *words]) != 0
    assert asked == [verb]
