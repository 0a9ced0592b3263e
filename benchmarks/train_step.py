"""Milliseconds per training step and share of the peak, next to plain loops and other U-Nets.

    python benchmarks/train_step.py --json benchmarks/results/train_step_cpu.json
    python benchmarks/train_step.py --device cuda --precision bf16 --steps 100 \\
        --json benchmarks/results/train_step_gpu.json            # the one command for a GPU

Two sizes: `quick` (16 channels, depth 3, tile 284) and `paper` (64, 4, 572). Each row is one
network and one way to drive it, on the same data:

ours              what `unet2015 train` does: drawing, augmentation, weighted energy, autocast,
                  channels-last, fused optimiser; `waiting` is the share of the time that the
                  network stands still for data
ours, compiled    the same through torch.compile (the compiling is not timed)
plain fp32 loop   the same network and energy as one would first write it: contiguous, float32,
                  unfused optimiser, a tile that is already there
others            U-Nets of equal width in our loop's number format and memory format, on a tile
                  that is already there, plain cross-entropy

Padded networks take a tile of a multiple of 2^depth and label all of it, ours labels its centre:
so `ns per labelled pixel` stands beside `ms per step`. FLOPs are counted by torch (multiply and
add are two) where the network is not compiled; the peak is that of a large matrix product measured
in the same run. The JSON is written after each row; a row that fails says why there.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.record import machine, write
from benchmarks.rivals.padded_unets import rivals
from benchmarks.tables import cell
from unet2015 import step as training_step
from unet2015.data import Stack, batches, output_px, weigh
from unet2015.device import choose_device, choose_precision
from unet2015.energy import energy
from unet2015.host_memory import keep_freed_memory
from unet2015.recipe import Recipe, isbi2012, quick
from unet2015.train import _new_run, network_of

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
SIZES: dict[str, Recipe] = {"quick": quick(), "paper": replace(isbi2012(), dropout=0.0)}


def stack_for(recipe: Recipe) -> Stack:
    """Six slices of synthetic tissue, weighed."""
    random = np.random.default_rng(0)
    seeds = random.random((6, 16, 16)) < 0.6
    labels = np.kron(seeds, np.ones((32, 32), bool))
    labels[:, ::32] = labels[:, :, ::32] = False
    images = (labels * 100 + random.integers(0, 100, labels.shape)).astype(np.uint8)
    return weigh(Stack(images[:, None], labels.astype(np.int64)), recipe)


def timed(call: Callable[[], object], count: int, device: torch.device) -> float:
    """Median seconds of `call`; two calls go before.

    On a GPU ten calls are queued at a time, as in training, and then the device is waited for.
    """
    together = min(10, count) if device.type == "cuda" else 1
    for _ in range(min(2, count)):
        call()
    seconds = []
    for _ in range(-(-count // together)):
        _wait(device)
        start = time.perf_counter()
        for _ in range(together):
            call()
        _wait(device)
        seconds.append((time.perf_counter() - start) / together)
    return float(np.median(seconds))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_flops(device: torch.device, precision: str) -> float:
    """Multiplications and additions a second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=HALF.get(precision, torch.float32))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        return 2 * side**3 / min(timed(lambda: a @ a, 3, device) for _ in range(3))
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def flops_of(call: Callable[[], object]) -> int:
    """Floating-point operations of one step, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def ours(
    recipe: Recipe, device: torch.device, count: int, workers: int
) -> tuple[float, int, float]:
    """Seconds per step of our loop, FLOPs, share of the time spent waiting for tiles."""
    stack = stack_for(recipe)
    run = _new_run(recipe, stack, Path("unused"), None, device)
    net = training_step.shared_network(run)
    place = str(device) if device.type == "cuda" else "cpu"
    drawn = batches(stack, recipe, workers=workers, device=place)
    waiting: list[float] = []

    def one(wait: Callable[[torch.device], None] = lambda _: None) -> None:
        start = time.perf_counter()
        _, *tiles = next(drawn)
        wait(device)
        waiting.append(time.perf_counter() - start)
        training_step.gradients(run, net, tiles, device)
        training_step.update(run)

    with training_step.repeatable(recipe, device):
        seconds = timed(one, count, device)
        if device.type == "cuda":  # tiles drawn there are waited for apart: it costs time itself
            count = min(count, 10)
            timed(lambda: one(_wait), count, device)
        share = float(np.median(waiting[-count:])) / seconds
        operations = 0 if recipe.compile else flops_of(one)
    if hasattr(drawn, "close"):
        drawn.close()
    return seconds, operations, share


def loop(
    net: nn.Module, recipe: Recipe, device: torch.device, count: int, *,
    half: torch.dtype | None, side: int, labelled: int, weighted: bool,
) -> tuple[float, int]:  # fmt: skip
    """Seconds per step of a loop over one tile that is there, and its FLOPs."""
    form = torch.channels_last if half is not None else torch.contiguous_format
    net = net.to(device, memory_format=form).train()
    image = torch.rand(recipe.batch, 1, side, side, device=device).to(memory_format=form)
    labels = torch.randint(2, (recipe.batch, labelled, labelled), device=device)
    weights = torch.rand(recipe.batch, labelled, labelled, device=device)
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-9, momentum=0.99, foreach=False)

    def one() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            logits = net(image)
        if weighted:
            loss = energy(logits, labels, weights)
        else:
            loss = cross_entropy(logits.float(), labels)
        loss.backward()
        optimiser.step()

    return timed(one, count, device), flops_of(one)


@dataclass(frozen=True)
class Case:
    """A row: its number format, labelled pixels along a side, and what gives its figures."""

    row: str
    precision: str
    side: int
    run: Callable[[], tuple[float, int, dict[str, float]]] | str  # or why there are none


def cases(recipe: Recipe, device: torch.device, options: argparse.Namespace) -> Iterator[Case]:
    """All rows of one size; `recipe.precision` is no longer "auto"."""
    kind = recipe.precision
    count = options.steps or (10 if recipe.depth < 4 else 2)
    inner, period = output_px(recipe), 1 << recipe.depth
    padded = -(-recipe.tile_px // period) * period

    def of_ours(recipe: Recipe) -> tuple[float, int, dict[str, float]]:
        seconds, operations, share = ours(recipe, device, count, options.workers)
        return seconds, operations, {"waiting": share}

    def of_loop(net: nn.Module, **words: Any) -> tuple[float, int, dict[str, float]]:
        return *loop(net, recipe, device, count, **words), {}

    yield Case("ours", kind, inner, lambda: of_ours(recipe))
    if options.compile:
        compiled = replace(recipe, compile=True)
        yield Case("ours, compiled", kind, inner, lambda: of_ours(compiled))
    plain = {"half": None, "side": recipe.tile_px, "labelled": inner, "weighted": True}
    # What torch does with float32 convolutions on a GPU, unless told otherwise.
    shown = "tf32" if device.type == "cuda" else "fp32"
    yield Case("plain fp32 loop", shown, inner, lambda: of_loop(network_of(recipe), **plain))
    words = {"half": HALF.get(kind), "side": padded, "labelled": padded, "weighted": False}
    for name, net in rivals(2, recipe.base_channels, recipe.depth).items():
        run = net if isinstance(net, str) else lambda net=net: of_loop(net, **words)
        yield Case(name, kind, padded, run)


def figures(case: Case, recipe: Recipe, peak: Callable[[str], float]) -> dict[str, Any]:
    """Figures of a row, or why there are none: the other rows do not suffer from it."""
    if isinstance(case.run, str):
        return {"failed": case.run}
    failed = ""
    try:
        seconds, operations, more = case.run()
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        failed = f"{type(error).__name__}: {said[0][:200]}"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of this row's network, which nothing holds any more
    if failed:
        return {"failed": failed}
    counted = {
        "gflop": operations / 1e9, "tflops": operations / seconds / 1e12,
        "of_peak": operations / seconds / peak(case.precision),
    }  # fmt: skip
    return {
        "ms": 1e3 * seconds, **(counted if operations else {}),
        "ns_per_labelled_pixel": 1e9 * seconds / (recipe.batch * case.side**2), **more,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", type=int, default=0, help="timed steps; 0: few on a CPU")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tile", type=int, default=0, help="another tile, for a smoke test")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    peak = functools.cache(functools.partial(peak_flops, device))
    record = {"machine": machine(device), "command": sys.argv[1:], "rows": []}
    for name, recipe in SIZES.items():
        if options.size not in (name, "all"):
            continue
        recipe = replace(
            recipe, batch=options.batch, tile_px=options.tile or recipe.tile_px, steps=10**6,
            precision=choose_precision(options.precision, device),
        )  # fmt: skip
        for case in cases(recipe, device, options):
            entry = {"size": name, "row": case.row, "precision": case.precision}
            entry |= figures(case, recipe, peak)
            record["rows"].append(entry)
            print("  ".join(f"{k} {cell(v)}" for k, v in entry.items()), flush=True)
            if options.json:
                write(options.json, record)
    return int(any("failed" in row for row in record["rows"] if row["row"].startswith("ours")))


if __name__ == "__main__":
    keep_freed_memory()  # as `unet2015 train` does; it is kind to the rivals too
    raise SystemExit(main())
