"""A2: checkpoints and exports killed at each call; the old file or the new one is whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.killing import MAKE_MODEL, Command, content, hidden, ruins
from tests.faults.warm import Warm
from tiling.safe_write import remove_stale

Record = Callable[[str, object], None]
SAVE = """
import sys
from dataclasses import replace
from unet2015.checkpoint import load, save

state = load(sys.argv[1])
save(sys.argv[2], replace(state, step=int(sys.argv[3])), overwrite=True)
"""
STEP = """
import sys
from unet2015.checkpoint import load

print(load(sys.argv[1]).step)
"""


@pytest.mark.parametrize("fault", ["kill", "torn"])
def test_a2_killed_while_saving_the_previous_checkpoint_loads(
    warm: Warm, tmp_path: Path, fault: str, record_property: Record
) -> None:
    first, target = tmp_path / "first.safetensors", tmp_path / "run" / "last.safetensors"
    target.parent.mkdir()
    assert warm.run(first, "2", code=MAKE_MODEL).code == 0
    assert warm.run(first, target, "10", code=SAVE).code == 0
    old = content(target)
    points = 0
    seen = {"10\n"}
    for _, ended in ruins(warm, Command((first, target, "20"), target, SAVE), fault):
        assert ended.code == -9, ended.err
        points += 1
        loaded = warm.run(target, code=STEP)
        assert loaded.code == 0, loaded.err
        assert (content(target) == old) == (loaded.out == "10\n")
        seen.add(loaded.out)
        remove_stale(target.parent)
        assert hidden(target.parent) == []
        assert warm.run(first, target, "10", code=SAVE).code == 0
    assert seen == {"10\n", "20\n"}
    assert warm.run(target, code=STEP).out == "20\n"
    assert points >= 4
    record_property("kill_points", points)


@pytest.mark.parametrize("fault", ["enospc", "eio", "full"])
def test_b1_b3_a_checkpoint_that_does_not_fit_leaves_the_previous_one(
    warm: Warm, tmp_path: Path, fault: str, record_property: Record
) -> None:
    target = tmp_path / "last.safetensors"
    assert warm.run(target, "2", code=MAKE_MODEL).code == 0
    old = content(target)
    points = 0
    for _, ended in ruins(warm, Command((target, target, "20"), target, SAVE), fault):
        points += 1
        assert "WriteError" in ended.err
        assert hidden(tmp_path) == []
        if content(target) != old:  # only the folder's own fsync failed: the new one is whole
            assert warm.run(target, code=STEP).out == "20\n"
            assert warm.run(target, target, "0", code=SAVE).code == 0
            assert content(target) == old
    assert points >= 4
    record_property("kill_points", points)


# Tracing a network takes seconds, so it is done once, and each kill is a fork of what follows.
EXPORT = """
import io, os, sys
import torch
from tests.faults import shim
from unet2015 import export
from unet2015.checkpoint import load

state, out = load(sys.argv[1]), sys.argv[2]
kept = io.BytesIO()
really_save, really_load = torch.export.save, torch.export.load

def save(program, file):
    if not kept.getvalue():
        really_save(program, kept)
    file.write(kept.getvalue())

torch.export.save = save
export.export_pt2(state, out + ".first")
program = really_load(io.BytesIO(kept.getvalue()))
torch.export.load, export.program = lambda file: program, lambda subject: None
for n in range(1, 99):
    child = os.fork()
    if not child:
        shim.install(f"{sys.argv[3]}:{n}")
        try:
            export.export_pt2(state, out)
            os._exit(0)
        except BaseException as error:
            os.write(2, type(error).__name__.encode() + b"\\n")
            os._exit(error.exit_code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    whole = open(out, "rb").read() == kept.getvalue() if os.path.exists(out) else None
    print(n, code, whole)
    if code == 0:
        break
    if whole:
        os.unlink(out)
"""


@pytest.mark.parametrize(
    ("fault", "code"), [("kill", -9), pytest.param("enospc", 5, marks=pytest.mark.soak)]
)
def test_a2_an_export_appears_whole_or_not_at_all(
    warm: Warm, tmp_path: Path, fault: str, code: int, record_property: Record
) -> None:
    assert warm.run(tmp_path / "m.safetensors", "1", code=MAKE_MODEL).code == 0
    done = warm.run(tmp_path / "m.safetensors", tmp_path / "m.pt2", fault, code=EXPORT)
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[-1][1:] == ["0", "True"]
    assert {row[1] for row in rows[:-1]} == {str(code)}
    assert {row[2] for row in rows[:-1]} <= {"None", "True"}
    assert [row[2] for row in rows].count("True") <= 2  # after the rename, and in the end
    assert len(rows) >= 5
    record_property("kill_points", len(rows) - 1)


@pytest.mark.soak
def test_a2_the_sample_folder_holds_whole_files_only(
    warm: Warm, tmp_path: Path, record_property: Record
) -> None:
    whole = Command(("sample", tmp_path / "whole"), tmp_path / "whole")
    assert whole.run(warm).code == 0
    expected = {path.name: path.read_bytes() for path in whole.out.iterdir()}
    command = Command(("sample", tmp_path / "out", "--overwrite"), tmp_path / "out")
    points = 0
    for _, ended in ruins(warm, command, "kill", points=range(2, 400, 16)):
        assert ended.code == -9
        points += 1
        found = {path.name: path.read_bytes() for path in command.out.glob("[!.]*")}
        assert found.items() <= expected.items()
    assert {path.name: path.read_bytes() for path in command.out.glob("[!.]*")} == expected
    assert points >= 1
    record_property("kill_points", points)
