"""What prediction from file to file costs beside its network alone, turn by turn in one process.

    python benchmarks/tiling_pairs.py --json benchmarks/results/tiling_pairs.json
    python benchmarks/tiling_pairs.py --device cuda --base 64 --side 12292 --rounds 20

`tiling_throughput.py` runs each row in a process of its own, some minutes apart; where the speed of
a machine drifts by a tenth, a cost of a hundredth does not show. Here both take turns on the same
image and weights, in the order A B B A of each round, so that drift meets both. A round gives one
ratio: the network's time divided by that of `predict_file`, TIFF to TIFF, uint8 probabilities. The
median of the rounds is told, with the range that holds it at 95 % (bootstrap), for wall time and
for CPU time of all threads; the latter is the steadier on a machine that others use.

The last column adds up instead of comparing: CPU seconds of the network divided by those of it and
of reading, cutting and writing (the row `pipeline`) together. On a CPU of which every core is busy
with the network, no order of the work gives more.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.record import machine, write

UNITS = ("seconds", "cpu_seconds")


def rounds_of(given: Any, rounds: int) -> list[dict[str, list[float]]]:
    """Each round's two figures of both rows, unit by unit: {"network seconds": [a, b], ...}."""
    from benchmarks import throughput_rows as rows

    timed = {"network": rows.network(given), "ours": rows.ours(given)}
    for run in timed.values():
        run()  # neither is the first to touch its memory
    found = []
    for _ in range(rounds):
        one: dict[str, list[float]] = {}
        for name in ("network", "ours", "ours", "network"):
            meter = rows.Meter(given.device)
            timed[name]()
            figures = meter.stop()
            for unit in UNITS:
                one.setdefault(f"{name} {unit}", []).append(figures[unit])
        found.append(one)
    return found


def ratios(rounds: list[dict[str, list[float]]], unit: str) -> list[float]:
    """The network's time divided by ours, one number for each round.

    >>> ratios([{"network seconds": [1.0, 3.0], "ours seconds": [2.0, 2.0]}], "seconds")
    [1.0]
    """
    return [sum(one[f"network {unit}"]) / sum(one[f"ours {unit}"]) for one in rounds]


def summary(values: list[float]) -> dict[str, float]:
    """Median, and where 95 % of the medians of rounds drawn again lie."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return {"median": float(np.median(values)), "from": float(low), "to": float(high)}


def measured(options: argparse.Namespace, folder: Path, precision: str) -> dict[str, Any]:
    """All figures of one number format."""
    from benchmarks import throughput_rows as rows

    given = rows.given(argparse.Namespace(**vars(options), folder=folder, precision=precision))
    found = rounds_of(given, options.rounds)
    meter = rows.Meter(given.device)
    rows.pipeline(given)()
    alone = meter.stop()["cpu_seconds"]
    network = float(np.median([n for one in found for n in one["network cpu_seconds"]]))
    mpx = given.shape[0] * given.shape[1] / 1e6
    return {
        "precision": precision, "tile": given.geometry.output, "tiles": given.tiles,
        "mpx_per_second": mpx / float(np.median([n for one in found for n in one["ours seconds"]])),
        "network_by_ours": {unit: summary(ratios(found, unit)) for unit in UNITS},
        "added_up": {"pipeline_cpu_seconds": alone, "network_by_both": network / (network + alone)},
        "rounds": found,
    }  # fmt: skip


def table(report: dict[str, Any]) -> dict[str, Any]:
    """What the page shows."""
    rows = []
    for one in report["measured"]:
        told = [one["network_by_ours"][unit] for unit in UNITS]
        shown = [f"{t['median']:.3f} ({t['from']:.3f} to {t['to']:.3f})" for t in told]
        rows.append([
            one["precision"], report["base_channels"], one["mpx_per_second"], *shown,
            f"{one['added_up']['network_by_both']:.3f}",
        ])  # fmt: skip
    return {
        "caption": "Time of the network alone divided by that of prediction from file to file",
        "columns": [
            "format", "channels", "Mpx/s, file to file", "wall time", "CPU time",
            "CPU time, added up",
        ],
        "rows": rows,
    }  # fmt: skip


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--rounds", type=int, default=8)
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
        "measured": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        write_image(Path(name) / "in.tif", options.side)
        for precision in dict.fromkeys(formats):
            report["measured"].append(measured(options, Path(name), precision))
            report["tables"] = [table(report)]
            if options.json:
                write(options.json, report)
            print(*report["tables"][0]["rows"][-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
