"""Several processes train as one: DistributedDataParallel over gloo, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.ddp_worker import trained
from tests.tiny_run import TINY, tiny_training, write_tiny
from tiling.faults import UsageFault
from unet2015 import checkpoint as checkpoints
from unet2015 import train
from unet2015.ranks import Ranks, joined, ranks_now

WORKER = str(Path(__file__).with_name("ddp_worker.py"))

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"
)


def together(folder, *options):
    """Facts of each of two processes with batches of one, and what they said."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         WORKER, str(folder), "1", "2", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank-{k}.json").read_text()) for k in (0, 1)], done


def test_two_processes_make_the_run_of_one_with_twice_the_batch(tmp_path):
    both, lone = tmp_path / "both", tmp_path / "lone"
    for folder in (both, lone):
        folder.mkdir()
        write_tiny(folder)
    one = trained(lone, 2, 1)
    (first, second), done = together(both)
    assert first["hash"] == second["hash"]  # the same weights on both
    assert first["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert second["loss"] == first["loss"]
    ours, theirs = (checkpoints.load(p / "run" / "last.safetensors") for p in (both, lone))
    for name, tensor in theirs.weights.items():
        assert torch.allclose(ours.weights[name], tensor, rtol=1e-4, atol=1e-6), name
    assert ours.measures["wrong_pixels"] == pytest.approx(theirs.measures["wrong_pixels"], abs=1e-3)
    assert done.stderr.count("in 2 processes") == 1  # one of them speaks
    assert done.stdout.count("20 steps; held out") == 1
    assert (both / "run" / "report.html").exists()
    assert not [name for name in first["threads"] + second["threads"] if "gloo" in name]


@pytest.mark.soak
def test_processes_are_resumed_together(tmp_path):
    write_tiny(tmp_path)
    (before, _), _ = together(tmp_path)
    (first, second), _ = together(tmp_path, "resume")
    assert first["hash"] == second["hash"] == before["hash"]


def test_alone_there_is_nothing_to_join(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as device:
        assert device == torch.device("cpu")
        assert ranks_now() == Ranks()
    value = torch.ones(2)
    assert Ranks().total(value) is value


def test_what_cannot_train_together_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(UsageFault, match="several processes train on cpu or cuda only"),
        joined(torch.device("mps")),
    ):
        pass
    monkeypatch.setenv("LOCAL_RANK", "99")
    with pytest.raises(UsageFault, match="process 99 has no GPU"), joined(torch.device("cuda")):
        pass


def test_fewer_tiles_than_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "ranks_now", lambda: Ranks(0, 3))
    with pytest.raises(UsageFault, match=r"3 processes share batches of 1 tile\(s\)"):
        train.train(TINY, tiny_training()[0], tmp_path)
