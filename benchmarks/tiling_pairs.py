"""What prediction from file to file costs beside its network alone, turn by turn in one process.

    python benchmarks/tiling_pairs.py --json benchmarks/results/tiling_pairs.json
    python benchmarks/tiling_pairs.py --device cuda --side 49156 --rounds 1 --precisions bf16 \\
        --rows ours labels --json benchmarks/results/tiling_pairs_gpu.json

`tiling_throughput.py` runs each row in a process of its own, some minutes apart; where the speed of
a machine drifts by a tenth, a cost of a hundredth does not show. Here they take turns on the same
image and weights, in the order A B B A of each round (or A B C C B A), so that drift meets all. A
round gives one ratio: the network's time divided by that of `predict_file`, TIFF to TIFF. The
median of the rounds is told, with the range that holds it at 95 % (bootstrap), for wall time and
for CPU time of all threads; the latter is the steadier on a machine that others use.

On a GPU only wall time says something: what the processor does, it does meanwhile. But the first
rows are read before the network begins and the last are written after it has ended. Of an image of
N rows of tiles that is one N-th of the reading and of the writing, so that large images come nearer
to the network's own speed.

The last column adds up instead of comparing: CPU seconds of the network divided by those of it and
of reading, cutting and writing (the row `pipeline`) together. On a CPU of which every core is busy
with the network, no order of the work gives more.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.record import machine, write

UNITS = ("seconds", "cpu_seconds")
WRITTEN = {"ours": "probability, uint8", "labels": "labels"}


def rounds_of(given: Any, names: list[str], rounds: int) -> list[dict[str, list[float]]]:
    """Each round's two figures of each row, unit by unit: {"network seconds": [a, b], ...}."""
    from benchmarks import throughput_rows as rows

    every = {
        "network": rows.network, "ours": rows.ours, "labels": partial(rows.ours, save="label")
    }  # fmt: skip
    timed = {name: every[name](given) for name in names}
    for run in timed.values() if given.device.type == "cpu" else ():
        run()  # none is the first to touch its memory; a GPU was warmed up before
    found = []
    for _ in range(rounds):
        one: dict[str, list[float]] = {}
        for name in (*names, *reversed(names)):
            meter = rows.Meter(given.device)
            timed[name]()
            figures = meter.stop()
            for unit in UNITS:
                one.setdefault(f"{name} {unit}", []).append(figures[unit])
        found.append(one)
    return found


def ratios(rounds: list[dict[str, list[float]]], name: str, unit: str) -> list[float]:
    """The network's time divided by that of row `name`, one number for each round.

    >>> ratios([{"network seconds": [1.0, 3.0], "ours seconds": [2.0, 2.0]}], "ours", "seconds")
    [1.0]
    """
    return [sum(one[f"network {unit}"]) / sum(one[f"{name} {unit}"]) for one in rounds]


def summary(values: list[float]) -> dict[str, float]:
    """Median, and where 95 % of the medians of rounds drawn again lie."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return {"median": float(np.median(values)), "from": float(low), "to": float(high)}


def measured(options: argparse.Namespace, folder: Path, precision: str) -> dict[str, Any]:
    """All figures of one number format."""
    from benchmarks import throughput_rows as rows

    given = rows.given(argparse.Namespace(**vars(options), folder=folder, precision=precision))
    found = rounds_of(given, ["network", *options.rows], options.rounds)
    middle = {name: float(np.median([n for one in found for n in one[name]])) for name in found[0]}
    mpx = given.shape[0] * given.shape[1] / 1e6
    told: dict[str, Any] = {
        "precision": precision, "tile": given.geometry.output, "tiles": given.tiles,
        "rounds": found,
    }  # fmt: skip
    for name in options.rows:
        told[f"network_by_{name}"] = {unit: summary(ratios(found, name, unit)) for unit in UNITS}
        told[f"mpx_per_second_{name}"] = mpx / middle[f"{name} seconds"]
    if given.device.type == "cpu":
        meter = rows.Meter(given.device)
        rows.pipeline(given)()
        alone, network = meter.stop()["cpu_seconds"], middle["network cpu_seconds"]
        together = network / (network + alone)
        told["added_up"] = {"pipeline_cpu_seconds": alone, "network_by_both": together}
    return told


def table(report: dict[str, Any]) -> dict[str, Any]:
    """What the page shows."""
    rows = []
    for one in report["measured"]:
        for name in report["rows"]:
            told = [one[f"network_by_{name}"][unit] for unit in UNITS]
            shown = [f"{t['median']:.3f} ({t['from']:.3f} to {t['to']:.3f})" for t in told]
            together = f"{one['added_up']['network_by_both']:.3f}" if "added_up" in one else ""
            rows.append([
                WRITTEN[name], one["precision"], report["base_channels"],
                one[f"mpx_per_second_{name}"], *shown, together,
            ])  # fmt: skip
    return {
        "caption": "Time of the network alone divided by that of prediction from file to file,"
        f" {report['side']} x {report['side']} px, {report['device']}",
        "columns": [
            "written", "format", "channels", "Mpx/s, file to file", "wall time", "CPU time",
            "CPU time, added up",
        ],
        "rows": rows,
    }  # fmt: skip


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--rows", nargs="+", choices=list(WRITTEN), default=["ours"])
    parser.add_argument("--side", type=int, default=3076)
    parser.add_argument("--base", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--memory", type=int, default=8192, help="MiB")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "auto"])
    parser.add_argument("--no-compression", action="store_true")
    return parser.parse_args()


def main() -> int:
    options = parsed()
    if options.small:
        options.side, options.base, options.rounds = 600, 2, 2
    import torch

    from benchmarks.tiling_throughput import PACKAGES, write_image
    from unet2015.device import choose_device, choose_precision, describe_device
    from unet2015.host_memory import keep_freed_memory

    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = choose_device(options.device)
    formats = [choose_precision(name, device) for name in options.precisions]
    report: dict[str, Any] = {
        "machine": machine(device, PACKAGES), "device": describe_device(device),
        "side": options.side, "base_channels": options.base, "depth": options.depth,
        "rows": options.rows, "measured": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        write_image(Path(name) / "in.tif", options.side)
        for precision in dict.fromkeys(formats):
            report["measured"].append(measured(options, Path(name), precision))
            report["tables"] = [table(report)]
            if options.json:
                write(options.json, report)
            for row in report["tables"][0]["rows"][-len(options.rows) :]:
                print(*row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
