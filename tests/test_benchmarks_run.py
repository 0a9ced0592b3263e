"""Benchmarks that need nothing but the package run at small size, so that none rots."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as every
from benchmarks import (
    augmentation,
    record,
    throughput_rows,
    tiling_pairs,
    tiling_throughput,
    train_step,
)
from unet2015.recipe import isbi2012

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
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert found["machine"].keys() >= {"processor", "cores", "python", "commit", "versions"}


# The lines for a GPU, where there is none ---------------------------------------------------------


PRETENDED = torch.device("cpu:0")  # unlike torch.device("cpu")


class FakeGPU:
    """What the rows ask of torch.cuda, and how often."""

    def __init__(self, monkeypatch):
        self.waited, self.reset = 0, 0
        monkeypatch.setattr(torch.cuda, "synchronize", self._synchronize)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self._reset)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 300)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 1000)

    def _synchronize(self, _):
        self.waited += 1

    def _reset(self, _):
        self.reset += 1


@pytest.fixture
def gpu(monkeypatch):
    """A CPU that the rows take for a GPU, and MONAI's function as far as they call it."""

    def one_window(image, roi, _batch, predictor, **words):
        assert words.keys() <= {"overlap", "mode", "roi_weight_map"}
        window = predictor(torch.zeros((1, 1, *roi)))
        assert window.shape[-2:] == tuple(roi)
        return torch.zeros((1, 2, *image.shape[-2:]))

    inferers = types.SimpleNamespace(sliding_window_inference=one_window)
    monkeypatch.setitem(sys.modules, "monai", types.ModuleType("monai"))
    monkeypatch.setitem(sys.modules, "monai.inferers", inferers)
    monkeypatch.setattr(throughput_rows, "keep_freed_memory", lambda: True)  # of this process
    monkeypatch.setattr(throughput_rows, "on_gpu", lambda device: device == PRETENDED)
    monkeypatch.setattr(throughput_rows, "COMPARED", 64)
    return FakeGPU(monkeypatch)


def options_of(folder, row, monkeypatch):
    """Options of a row's own process, through the command line that the script itself makes."""
    monkeypatch.setattr(
        sys, "argv", ["x", "--base", "1", "--side", "230", "--device", str(PRETENDED)]
    )
    parent = tiling_throughput.parsed()
    parent.threads = torch.get_num_threads()
    command = tiling_throughput.child_words(parent, folder, "fp32", row)
    monkeypatch.setattr(sys, "argv", command[1:])
    return tiling_throughput.parsed()


@pytest.mark.parametrize("row", tiling_throughput.ROWS)
def test_every_row_of_the_throughput_runs_as_on_a_gpu(row, gpu, monkeypatch, tmp_path):
    tiling_throughput.write_image(tmp_path / "in.tif", 230)
    found = throughput_rows.one(row, options_of(tmp_path, row, monkeypatch))
    assert found["row"] == row
    assert found["seconds"] > 0
    assert found["pixels_given"] > 230**2 / 2
    if row == "pipeline":  # no device takes part
        assert gpu.waited == gpu.reset == 0
    else:
        assert (gpu.waited, gpu.reset, found["peak_bytes"]) == (2, 1, 700)
        assert found["host_peak_bytes"] >= 0
    saved = tmp_path / f"{row}.npy"
    assert saved.is_file() == (row not in ("network", "pipeline"))
    assert not saved.is_file() or np.load(saved).shape == (64, 64)


@pytest.mark.usefixtures("gpu")
def test_network_and_prediction_take_turns(monkeypatch, tmp_path):
    tiling_throughput.write_image(tmp_path / "in.tif", 230)
    options = options_of(tmp_path, "ours", monkeypatch)
    words = {k: v for k, v in vars(options).items() if k not in ("folder", "precision", "rows")}
    found = tiling_pairs.measured(
        argparse.Namespace(**words, rounds=2, rows=["ours", "labels"]), tmp_path, "fp32"
    )
    assert [sorted(one) for one in found["rounds"]] == [[
        "labels cpu_seconds", "labels seconds", "network cpu_seconds", "network seconds",
        "ours cpu_seconds", "ours seconds",
    ]] * 2  # fmt: skip
    assert all(len(figures) == 2 for one in found["rounds"] for figures in one.values())
    told = found["network_by_ours"]["seconds"]
    assert 0 < told["from"] <= told["median"] <= told["to"]
    assert 0 < found["added_up"]["network_by_both"] < 1
    told = {"side": 230, "device": "cpu", "base_channels": 1, "rows": ["ours", "labels"]}
    table = tiling_pairs.table({**told, "measured": [found]})
    assert [row[0] for row in table["rows"]] == ["probability, uint8", "labels"]
    assert {len(row) for row in table["rows"]} == {len(table["columns"])}


def test_the_ratio_of_a_round_is_that_of_its_sums():
    slow = {"network seconds": [2.0, 4.0], "ours seconds": [5.0, 3.0]}
    assert tiling_pairs.ratios([slow], "ours", "seconds") == [0.75]
    told = tiling_pairs.summary([0.9] * 7 + [0.5])
    assert told == {"median": 0.9, "from": 0.9, "to": 0.9}


@pytest.mark.usefixtures("gpu")
def test_one_pass_of_a_corner_has_its_true_context(monkeypatch, tmp_path):
    tiling_throughput.write_image(tmp_path / "in.tif", 230)
    for row in ("one pass", "ours"):
        throughput_rows.one(row, options_of(tmp_path, row, monkeypatch))
    whole, found = (np.load(tmp_path / f"{row}.npy") for row in ("one pass", "ours"))
    assert whole.shape == (64, 64)
    assert np.abs(found - whole).max() <= 0.5 / 255 + 1e-6


@pytest.mark.usefixtures("gpu")
def test_memory_of_a_tile_is_what_it_adds(monkeypatch, tmp_path):
    tiling_throughput.write_image(tmp_path / "in.tif", 230)
    options = options_of(tmp_path, "memory:100", monkeypatch)
    found = throughput_rows.tile_memory(100, options)
    assert (found["output"], found["peak_bytes"]) == (100, 700)
    assert found["estimate_bytes"] > 0


def test_a_row_that_fails_or_is_not_installed_says_so_and_the_others_go_on(monkeypatch, tmp_path):
    def child(_options, folder, precision, run):
        if run == "monai defaults":
            return {"row": run, "failed": "OutOfMemoryError: too large"}
        if run in ("one pass", "ours"):
            np.save(folder / f"{run}.npy", np.zeros((2, 2)))
        taken.append((precision, run))
        return {"row": run, "seconds": 2.0, "cpu_seconds": 3.0, "peak_bytes": 1, "pixels_given": 9}

    taken: list[tuple[str, str]] = []
    monkeypatch.setattr(tiling_throughput, "child", child)
    options = argparse.Namespace(
        rows=("ours", "monai defaults"), repeat=2, side=3, small=True, json=tmp_path / "a.json"
    )
    formats = {name: {"rows": [], "load_before_each_row": []} for name in ("fp32", "bf16")}
    (tmp_path / "in.tif").touch()
    tiling_throughput.measure(options, {"auto": "bf16", "formats": formats}, tmp_path)
    told = json.loads((tmp_path / "a.json").read_text("utf-8"))
    ours, theirs = told["formats"]["fp32"]["rows"]
    assert ours["deviation_from_one_pass"] == 0
    assert theirs["failed"] == "OutOfMemoryError: too large"
    assert told["at_auto"] is None
    rows = [pair for pair in taken if pair[1] == "ours"]
    assert rows == [("fp32", "ours"), ("bf16", "ours")] * 2  # formats take turns


def test_a_rival_that_is_not_installed_is_a_row(monkeypatch, tmp_path):
    monkeypatch.setattr(tiling_throughput.importlib.util, "find_spec", lambda _: None)
    options = argparse.Namespace()
    found = tiling_throughput.child(options, tmp_path, "fp32", "monai grid")
    assert found == {"row": "monai grid", "failed": "not installed"}
    for name in ("elasticdeform", "albumentations"):
        monkeypatch.setitem(sys.modules, name, None)  # import raises ImportError
    absent = [name for name, draw in augmentation.contenders(isbi2012()).items() if draw is None]
    assert absent == ["elasticdeform", "albumentations"]
    assert record.version("no-such-package") == "not installed"


def test_a_row_of_the_step_benchmark_that_fails_leaves_the_others(monkeypatch, tmp_path):
    def fails(*_args, **_words):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(train_step, "peak_flops", lambda *_: 1e12)
    monkeypatch.setattr(train_step, "network_of", fails)
    monkeypatch.setattr(train_step, "rivals", lambda *_: {"MONAI UNet": "not installed"})
    words = [
        "--size",
        "quick",
        "--steps",
        "1",
        "--tile",
        "92",
        "--threads",
        "1",
        "--json",
        str(tmp_path / "a.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["x", *words])
    assert train_step.main() == 0
    ours, plain, theirs = json.loads((tmp_path / "a.json").read_text("utf-8"))["rows"]
    assert ours["ms"] > 0
    assert plain["failed"].startswith("OutOfMemoryError: CUDA out of memory")
    assert theirs["failed"] == "not installed"


@pytest.mark.parametrize("name", every.GPU)
@pytest.mark.parametrize("quick", [False, True])
def test_the_command_lines_for_a_gpu_are_understood(name, quick, tmp_path):
    options = argparse.Namespace(gpu=True, quick=quick, device="cuda")
    words = every.command(name, tmp_path / f"{name}_gpu.json", options)
    known = (ROOT / "benchmarks" / f"{name}.py").read_text("utf-8")
    for word in words[2:]:
        assert not word.startswith("--") or f'"{word}"' in known, word
    assert words[words.index("--device") + 1] == "cuda"


def test_without_a_gpu_nothing_is_started(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["x", "--gpu"])
    with pytest.raises(SystemExit):
        every.main()
    assert "finds no CUDA device here; --gpu --device cpu --quick" in capsys.readouterr().err


def test_results_go_where_they_are_wanted(monkeypatch, tmp_path, capsys):
    def outcome_of(words, _until, **_place):
        started.append(words)
        return "done after 0 s"

    started: list[list[str]] = []
    monkeypatch.setattr(every, "outcome_of", outcome_of)
    words = ["x", "--gpu", "--device", "cpu", "--out", str(tmp_path), "train_step"]
    monkeypatch.setattr(sys, "argv", words)
    assert every.main() == 0
    (only,) = started  # neither tests nor the page
    assert only[-2:] == ["--json", str(tmp_path / "train_step_gpu.json")]
    assert "train_step           done" in capsys.readouterr().out


def test_the_commit_of_a_copy_without_git_may_be_named(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("UNET2015_COMMIT", "0123456789abcdef")
    assert record.commit() == "0123456789ab"


def test_a_script_is_stopped_when_the_time_is_over():
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert every.outcome_of(sleeps, time.monotonic() + 0.5).startswith("stopped, what was measured")
    assert every.outcome_of(sleeps, time.monotonic() - 1) == "left out: no time left"
    fails = [sys.executable, "-c", "raise SystemExit(3)"]
    assert every.outcome_of(fails, float("inf")).startswith("failed with exit code 3")
