"""Seconds until held-out slices are this good: the records of time to quality.

    python benchmarks/time_to_quality.py --also benchmarks/results/results_quick.json \\
        benchmarks/results/results_optimiser.json \\
        --json benchmarks/results/time_to_quality_cpu.json
    python benchmarks/time_to_quality.py --recipe isbi2012-modern --device cuda --workers 4 \\
        --json benchmarks/results/time_to_quality_gpu.json       # the one command for a GPU

Trains on the ISBI stack without slices 12-14 and 27-29, several seeds and several lengths of the
schedule (a one-cycle or cosine run is good at its end only, so each length is a run of its own),
and prints for each target of wrong pixels and V_info the fastest run that reached it in the median
over the seeds. Validation is not timed; reading, weighing and drawing are; two steps go before the
first run. Runs that the JSON has already are not repeated; `--also` counts in those of a table of
`isbi_results.py` that differ from the recipe in seed and length only. Data: UNET2015_DATA.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from benchmarks.isbi_results import same_training
from benchmarks.record import isbi, machine, read, write
from unet2015.cli_train import find_recipe, replace_fields
from unet2015.data import read_stack_pair, split, weigh
from unet2015.device import choose_device
from unet2015.host_memory import keep_freed_memory
from unet2015.recipe import Recipe
from unet2015.score import v_info, wrong_pixels
from unet2015.train import train
from unet2015.validate import probabilities_of, with_weights

TARGETS = {
    "wrong pixels": (0.12, 0.10, 0.09, 0.083, 0.08, 0.075, 0.07, 0.06, 0.045),
    "V_info": (0.95, 0.965, 0.972, 0.975, 0.98, 0.985),
}


def one_run(recipe: Recipe, device: torch.device, workers: int) -> dict[str, Any]:
    """Seconds and quality of one run from files to weights."""
    start, used = time.perf_counter(), time.process_time()
    training, held_out = split(read_stack_pair(*isbi()), "12-14,27-29")
    training = weigh(training, recipe)
    with tempfile.TemporaryDirectory() as folder:
        run = train(recipe, training, folder, device=device, workers=workers)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    net = with_weights(run.net, run.averaged)
    inside = np.stack([p[1] for p in probabilities_of(net, held_out, recipe)])
    truth = np.stack(list(held_out.labels))
    return {
        "steps": recipe.steps, "seed": recipe.seed, "seconds": seconds,
        "cpu seconds": used, "load": os.getloadavg()[0],
        "wrong pixels": wrong_pixels(inside, truth).best, "V_info": v_info(inside, truth).best,
    }  # fmt: skip


def warm_up(recipe: Recipe, device: torch.device, workers: int) -> None:
    """Two steps, so that no run's time holds what a process does once: compiling, kernels."""
    training, _ = split(read_stack_pair(*isbi()), "12-14,27-29")
    short = replace(recipe, steps=2)
    with tempfile.TemporaryDirectory() as folder:
        train(short, weigh(training, short), folder, device=device, workers=workers)


def of_table(path: Path, base: Recipe) -> list[dict[str, Any]]:
    """Rows from a table's file that were trained by `base` but for seed and length."""
    found = []
    for entry in read(path)["rows"]:
        recipe = Recipe.from_dict(entry["recipe"])
        if same_training(replace(recipe, seed=base.seed, steps=base.steps), base):
            scores = entry["scores"]["12-14, 27-29; 1 view"]
            found.append({
                "steps": recipe.steps, "seed": recipe.seed, "seconds": entry["seconds"],
                "wrong pixels": scores["wrong_pixels"]["best"], "V_info": scores["v_info"]["best"],
                "from": path.name,
            })  # fmt: skip
    return found


def records(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each target the length of run that reaches it in the median, and its median time."""
    lengths = sorted({row["steps"] for row in rows})
    median = {
        steps: {
            key: float(np.median([row[key] for row in rows if row["steps"] == steps]))
            for key in ("seconds", *TARGETS)
        }
        for steps in lengths
    }
    found = []
    for measure, targets in TARGETS.items():
        for target in targets:
            good = [
                (median[steps]["seconds"], steps)
                for steps in lengths
                if (median[steps][measure] <= target) == (measure == "wrong pixels")
                or median[steps][measure] == target
            ]
            if good:
                seconds, steps = min(good)
                found.append(
                    {"measure": measure, "target": target, "seconds": seconds, "steps": steps}
                )
    return found


def shown(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows as a table of benchmarks/README.md."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return {"columns": columns, "rows": [[row.get(c, "") for c in columns] for row in rows]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--set", action="append", default=[], help="recipe field, FIELD=VALUE")
    parser.add_argument("--steps", type=int, nargs="+", default=[250, 500, 1000, 2000, 3000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here; what it has is kept")
    parser.add_argument(
        "--also", type=Path, nargs="+", default=[], help="results_NAME.json whose runs count too"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    base = replace_fields(find_recipe(options.recipe), options.set, {})
    base = replace(base, validate_every=10**9, checkpoint_every=10**9)
    rows = read(options.json)["rows"] if options.json else []
    rows = [row for row in rows if "from" not in row]
    for path in options.also:
        rows += of_table(path, base)
    rows = list({(row["steps"], row["seed"]): row for row in rows}.values())
    known = {(row["steps"], row["seed"]) for row in rows}
    wanted = [(steps, seed) for steps in options.steps for seed in options.seeds]
    wanted = [pair for pair in wanted if pair not in known]
    if wanted:
        warm_up(base, device, options.workers)
    for steps, seed in wanted:
        rows.append(one_run(replace(base, steps=steps, seed=seed), device, options.workers))
        print("  ".join(f"{k} {v:.4g}" for k, v in rows[-1].items()), flush=True)
        if options.json:
            write(
                    options.json,
                    {
                        "machine": machine(device), "command": sys.argv[1:],
                        "date": time.strftime("%Y-%m-%d", time.gmtime()),
                        "recipe": base.to_dict(), "rows": rows, "records": records(rows),
                        "tables": [shown(records(rows)), shown(rows)],
                    },
                )  # fmt: skip
    for record in records(rows):
        print("{measure} {target}: {seconds:.1f} s ({steps} steps)".format(**record))


if __name__ == "__main__":
    keep_freed_memory()  # as `unet2015 train` does
    main()
