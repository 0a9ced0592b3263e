"""A short fuzz of fixed length, and every find of the past once more."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, Target, regression_files

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "count", [400, pytest.param(20_000, marks=pytest.mark.soak)], ids=["short", "long"]
)
def test_mutated_files_are_read_or_refused(tmp_path: Path, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--count", str(count), "--seed", "2015",
         "--keep", tmp_path / "finds"],
        cwd=ROOT, capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [words[0] for words in lines] == list(TARGETS)
    for words in lines:
        tally = dict(zip(words[1::2], map(float, words[2::2]), strict=True))
        assert tally["inputs"] == count
        assert tally["accepted"] + tally["refused"] == count
        assert tally["accepted"]  # the seeds' neighbourhood is reached, not only the first check


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_seeds_are_read(tmp_path: Path, target: Target) -> None:
    for data in target.seeds():
        target.read(data, tmp_path)


@pytest.mark.parametrize(
    ("target", "path"), list(regression_files()), ids=lambda value: getattr(value, "name", "")
)
def test_finds_of_the_past_stay_found(tmp_path: Path, target: Target, path: Path) -> None:
    with contextlib.suppress(*target.allowed):
        target.read(path.read_bytes(), tmp_path)


def test_regression_files_are_small() -> None:
    assert all(path.stat().st_size <= 1 << 17 for _, path in regression_files())


def test_an_input_is_a_function_of_its_number() -> None:
    seeds = TARGETS["text"].seeds()
    for number in range(50):
        first, second = (mutated(random.Random(number), seeds) for _ in range(2))
        assert first == second
    assert len({mutated(random.Random(number), seeds) for number in range(50)}) > 45
