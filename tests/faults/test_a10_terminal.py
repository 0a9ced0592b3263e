"""A10: the terminal of a prediction is closed, or its time is up, while it works."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.faults.killing import MAKE_MODEL, content
from tests.faults.warm import Warm

pytestmark = pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """A tiny network, an image that keeps it busy, and the output of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("terminal")
    assert warm.run(folder / "model.safetensors", "1", code=MAKE_MODEL).code == 0
    image = np.random.default_rng(8).integers(0, 256, (6, 600, 600), dtype=np.uint8)
    tifffile.imwrite(folder / "image.tif", image, photometric="minisblack", metadata=None)
    assert warm.run(*words(folder, folder / "whole.tif")).code == 0
    return folder


def words(place: Path, out: Path) -> tuple[str | Path, ...]:
    return ("predict", place / "model.safetensors", place / "image.tif", "--out", out,
            "--output-tile", "60")  # fmt: skip


def closed_on(place: Path, out: Path, first: Callable[[], object]) -> tuple[int, bytes]:
    """Exit code of a prediction whose terminal is closed after its first rows, and what it said."""
    import fcntl
    import termios

    def enter() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        first()

    here, there = os.openpty()
    journal, said = out.with_name(f".{out.name}.part.journal"), b""
    with subprocess.Popen(
        [sys.executable, "-m", "unet2015", *words(place, out)], cwd=ROOT, preexec_fn=enter,
        stdin=there, stdout=there, stderr=there, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as run:  # fmt: skip
        os.close(there)
        while run.poll() is None and not (journal.exists() and b'"n":' in journal.read_bytes()):
            if select.select([here], [], [], 0.01)[0]:
                said += os.read(here, 4096)
        os.close(here)
        return run.wait(), said


def test_a10_a_closed_terminal_ends_the_run_as_sigterm_does(
    place: Path, warm: Warm, tmp_path: Path
) -> None:
    out = tmp_path / "out.tif"
    code, said = closed_on(place, out, lambda: None)
    assert code == 128 + signal.SIGHUP, said
    assert not out.exists()
    assert (tmp_path / ".out.tif.part.journal").exists()
    assert warm.run(*words(place, out), "--resume").code == 0
    assert content(out) == content(place / "whole.tif")


def test_a10_where_a_closed_terminal_is_to_be_ignored_the_run_ends_whole(
    place: Path, tmp_path: Path
) -> None:
    """As `nohup` starts it, with a progress bar that nobody can see any longer."""
    out = tmp_path / "out.tif"
    code, said = closed_on(place, out, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert code == 0, said
    assert content(out) == content(place / "whole.tif")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGXCPU])
def test_a10_the_like_of_sigterm_tell_how_to_go_on(
    place: Path, warm: Warm, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out.tif"
    with subprocess.Popen(
        [sys.executable, "-m", "unet2015", *words(place, out)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as run:  # fmt: skip
        journal = tmp_path / ".out.tif.part.journal"
        while run.poll() is None and not (journal.exists() and b'"n":' in journal.read_bytes()):
            time.sleep(0.01)
        run.send_signal(number)
        _, err = run.communicate()
    assert run.returncode == 128 + number, err
    told = err.splitlines()[-1]
    assert told.startswith("unet2015: terminated; "), err
    assert told.endswith("--resume")
    assert warm.run(*words(place, out), "--resume").code == 0
    assert content(out) == content(place / "whole.tif")
