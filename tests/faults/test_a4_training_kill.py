"""docs/reliability.md A4, A5, A9, A10: training killed, interrupted, and resumed exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LAST, BEST, LOG, RECIPE = range(4)


def scenarios(folder, more=1):
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    done = subprocess.run(
        [sys.executable, str(HERE / "training_kills.py"), str(folder), str(more)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        facts = json.loads(line)
        found.setdefault(facts.pop("name"), []).append(facts)
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return scenarios(tmp_path_factory.mktemp("kills"))


def resumed_exactly(facts, log=True):
    """Same weights, optimiser, measures, to the last byte of each file; nothing left over."""
    assert facts["resumed"] == 0, facts
    assert facts["equal"][LAST], facts
    assert facts["equal"][BEST], facts
    assert facts["equal"][RECIPE], facts
    assert facts["equal"][LOG] or not log, facts
    assert facts["left"] == [], facts


def test_a4_killed_after_any_step(told, record_property):
    assert {(f["workers"], f["threads"]) for f in told["a4-step"]} == {
        (0, 1), (2, 1), (0, 2), (2, 2)
    }  # fmt: skip
    assert len(told["a4-step"]) >= 20
    for facts in told["a4-step"]:
        assert facts["code"] == -9
        before = facts["step"] // 10 * 10 or -1
        assert facts["saved"] == before, facts
        resumed_exactly(facts)
    record_property("kill_points", len(told["a4-step"]))


def test_a2_a4_killed_inside_a_save(told):
    assert {f["fault"] for f in told["a4-save"]} == {"kill", "torn"}
    for facts in told["a4-save"]:
        assert facts["code"] == -9
        assert facts["saved"] in (-1, 10, 20, 30, 40, 50, 60)
        resumed_exactly(facts)
    assert len({f["saved"] for f in told["a4-save"]}) >= 3


def test_a5_killed_while_resuming(told):
    for facts in told["a5"]:
        assert facts["codes"] == [-9, -9]
        resumed_exactly(facts)


@pytest.mark.parametrize(("code", "word"), [(130, "interrupted"), (143, "terminated")])
def test_a9_a10_stopped_after_any_step_saves_it_and_tells_how_to_go_on(told, code, word):
    found = [f for f in told["stop-step"] if f["expected"] == code]
    assert len(found) >= 2
    for facts in found:
        step = facts["step"]
        assert facts["code"] == code, facts
        assert facts["saved"] == step
        assert facts["said"] == (
            f"unet2015: {word}; {step} of 60 steps are saved; add --resume to go on\n"
        )
        resumed_exactly(facts, log=False)  # the log has one row more: the interrupted step's


@pytest.mark.parametrize("code", [130, 143])
def test_a9_a10_stopped_at_any_moment(told, code):
    found = [f for f in told["stop-time"] if f["expected"] == code]
    assert found
    for facts in found:
        assert facts["code"] in (code, 0), facts  # 0: the run was faster than the alarm
        assert facts["said"].count("\n") == (facts["code"] != 0), facts
        resumed_exactly(facts, log=False)


def test_a9_ctrl_c_twice_leaves_the_checkpoint_before(told):
    for facts in told["stop-twice"]:
        assert facts["code"] == 130
        assert facts["left_then"] == []
        assert facts["saved"] in (20, 25)
        resumed_exactly(facts, log=False)


@pytest.mark.soak
def test_a4_soak(tmp_path):
    for name, found in scenarios(tmp_path, more=10).items():
        for facts in found:
            resumed_exactly(facts, log=name.startswith("a"))
