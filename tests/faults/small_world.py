"""A process that may mount what it likes and harms nobody."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def in_small_world(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` where it may mount a disk of its own on `folder`; skips where nobody may.

    An exit code of 77 says that the disk could not be mounted.
    """
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], check=False).returncode:
        pytest.skip("no user namespaces here: nothing can be mounted")
    done = subprocess.run(
        [unshare, "-rm", sys.executable, "-c", code, folder],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"it cannot be mounted here: {done.stderr.strip()[:200]}")
    return done
