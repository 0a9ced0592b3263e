"""Several processes train as one: DistributedDataParallel over gloo, on the CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.ddp_worker import trained
from tests.tiny_run import TINY, tiny_training, write_tiny
from tiling.faults import PeerFault, UsageFault
from unet2015 import checkpoint as checkpoints
from unet2015 import ranks, train
from unet2015.ranks import Ranks, joined, ranks_now
from unet2015.run_names import held

WORKER = str(Path(__file__).with_name("ddp_worker.py"))
TOLD = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"
)


TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}  # fmt: skip
COMMAND = [
    "-m", "unet2015", "train", "images.tif", "labels.tif", "--out", "run", "--recipe", "quick",
    "--set", "base_channels=2", "--set", "depth=1", "--set", "tile_px=44", "--set", "batch=2",
    "--set", "checkpoint_every=10", "--device", "cpu",
]  # fmt: skip


def torchrun(*words, folder=None):
    """What two processes said."""
    return subprocess.run(
        [*TWO, *map(str, words)], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
        check=False, timeout=240,
    )  # fmt: skip


def together(folder, *options):
    """Facts of each of two processes with batches of one, and what they said."""
    done = torchrun(WORKER, folder, 1, 2, *options)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank-{k}.json").read_text()) for k in (0, 1)], done


@pytest.mark.parametrize("normalisation", ["weights", "sum"])
def test_two_processes_make_the_run_of_one_with_twice_the_batch(tmp_path, normalisation):
    both, lone = tmp_path / "both", tmp_path / "lone"
    for folder in (both, lone):
        folder.mkdir()
        write_tiny(folder)
    one = trained(lone, 2, 1, normalisation)
    (first, second), done = together(both, normalisation)
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
    if sys.platform == "linux":
        assert first["threads"]
        assert second["threads"]
        assert not [name for name in first["threads"] + second["threads"] if "gloo" in name]


@pytest.mark.soak
def test_processes_are_resumed_together(tmp_path):
    write_tiny(tmp_path)
    (before, _), _ = together(tmp_path, "weights")
    (first, second), _ = together(tmp_path, "weights", "resume")
    assert first["hash"] == second["hash"] == before["hash"]


def test_alone_there_is_nothing_to_join(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as device:
        assert device == torch.device("cpu")
        assert ranks_now() == Ranks()
    value = torch.ones(2)
    assert Ranks().total(value) is value


@pytest.mark.parametrize("words", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": ""}, {"RANK": "1"}])
def test_a_variable_of_the_cluster_alone_starts_nothing(monkeypatch, words):
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    with joined(torch.device("cpu")):
        assert ranks_now() == Ranks()


def test_variables_that_are_no_numbers_are_named(monkeypatch):
    for name, value in (TOLD | {"WORLD_SIZE": "two"}).items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UsageFault, match=r"WORLD_SIZE=two, .* are not all numbers; start several"),
        joined(torch.device("cpu")),
    ):
        pass


def test_who_loses_the_others_says_so_and_nothing_is_left(tmp_path):
    """The first process finds the folder locked; the second one only sees it leave."""
    write_tiny(tmp_path)
    with held(tmp_path / "run"):
        done = torchrun(*COMMAND, folder=tmp_path)
        assert done.returncode == 1  # torchrun's own
    assert "is writing it" in done.stderr
    # torchrun may be quicker than the second one to notice
    assert re.search("another process of this run has ended|terminated", done.stderr)
    assert "bug" not in done.stderr
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a10_all_end_when_they_are_told_to(tmp_path):
    """Freed while the group's threads are at work, it would wait for them for ever."""
    write_tiny(tmp_path)
    with subprocess.Popen(
        [*TWO, *COMMAND, "--steps", "1000000"], cwd=tmp_path, env=ENVIRONMENT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        while run.poll() is None and not (tmp_path / "run" / "last.safetensors").exists():
            time.sleep(0.05)
        run.terminate()
        said = run.communicate(timeout=240)[1]
    assert said.count("unet2015: terminated") == 2
    assert "steps are saved; add --resume" in said
    assert "forcefully" not in said  # torchrun kills whom it has waited for in vain


def test_only_what_a_lost_connection_says_is_taken_for_one():
    with pytest.raises(PeerFault, match="what it said tells why"), ranks._together():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    with pytest.raises(PeerFault), ranks._together():
        raise dist.DistNetworkError("timed out")
    with pytest.raises(RuntimeError, match="shapes"), ranks._together():
        raise RuntimeError("shapes do not fit")


def test_what_cannot_train_together_is_refused(monkeypatch):
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UsageFault, match="several processes train on cpu or cuda only"),
        joined(torch.device("mps")),
    ):
        pass
    with pytest.raises(UsageFault, match="a GPU of its own"), joined(torch.device("cuda", 1)):
        pass
    monkeypatch.setenv("LOCAL_RANK", "99")
    with pytest.raises(UsageFault, match="process 99 has no GPU"), joined(torch.device("cuda")):
        pass


def test_fewer_tiles_than_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "ranks_now", lambda: Ranks(0, 3))
    with pytest.raises(UsageFault, match=r"3 processes share batches of 1 tile\(s\)"):
        train.train(TINY, tiny_training()[0], tmp_path)
