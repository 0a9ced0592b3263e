"""The tables of docs/results.md, each from one command:

    python benchmarks/isbi_results.py --table quick      # three seeds: about 8 minutes on 2
                                                         # cores, scoring not counted
    python benchmarks/isbi_results.py --table weights    # what the weight map does
    python benchmarks/isbi_results.py --table deform     # with and without elastic deformation
    python benchmarks/isbi_results.py --table optimiser  # the paper's rule against today's
    python benchmarks/isbi_results.py --table hela       # DIC-C2DH-HeLa: IoU, SEG, AP
    python benchmarks/isbi_results.py --table dsb        # Data Science Bowl 2018: IoU, SEG, AP
    python benchmarks/isbi_results.py --table full --device cuda    # the paper's network, on a GPU
    python benchmarks/isbi_results.py --list             # rows of each table, nothing is run
    python benchmarks/isbi_results.py --docs docs/results.md        # put all tables on the page

Each run (a row and a seed) is added to `benchmarks/results/results_TABLE.json` when it is done; an
interrupted table goes on where it stopped. `--runs FOLDER...` counts finished runs of `unet2015
train` in, where recipe and data are those of a row. On ISBI the slices 12-14 and 27-29 are held out
and reported apart, because the second half of the stack was taken with more noise. The baselines
are tuned on the training slices. `--steps`, `--set`, `--rows` and `--seeds` run less (a smoke test:
with `--out` elsewhere).
"""

# ruff: noqa: E402 - the environment is set before torch is imported
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
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from benchmarks.record import machine, read, write
from benchmarks.result_tables import TABLES, Table
from benchmarks.results_page import markdown, put_on_page, with_table
from unet2015.cli_train import replace_fields
from unet2015.data import Stack
from unet2015.device import choose_device
from unet2015.recipe import Recipe
from unet2015.run_names import LAST
from unet2015.train import Run, _new_run, train

SCRIPT = "python benchmarks/isbi_results.py"


def run_table(name: str, options: argparse.Namespace) -> None:
    """Every row and seed that the record does not hold yet."""
    table, path = TABLES[name], options.out / f"results_{name}.json"
    device = choose_device(options.device)
    record = read(path)
    record |= {"table": name, "command": f"{SCRIPT} --table {name}" + _on(options.device)}
    chosen = [row for row in table.rows if row in options.rows] or [
        row for row in table.rows if not options.rows or any(w in row for w in options.rows)
    ]
    for row in chosen:
        recipe = table.rows[row]
        for seed in options.seeds:
            wanted = replace(recipe, seed=seed, validate_every=10**9, checkpoint_every=10**9)
            wanted = replace_fields(wanted, options.set, {"steps": options.steps or None})
            if any(same_training(Recipe.from_dict(r["recipe"]), wanted) for r in record["rows"]):
                for known in record["rows"]:
                    if same_training(Recipe.from_dict(known["recipe"]), wanted):
                        known["row"] = row
                continue
            found = finished(table, wanted, device, options.runs)
            found = found or trained(table, wanted, device, options.workers)
            entry = {"row": row, "seed": seed, "machine": machine(device), **found}
            record["rows"].append(entry)
            write(path, record)
            print(f"{name}: {row}, seed {seed}: {_line(entry, table)}", flush=True)
    record["baselines"] = stored_baselines(table, options.out / "results_baselines.json")
    write(path, with_table(name, record))
    print("\n" + markdown(name, record))


def _on(device: str) -> str:
    return "" if device == "cpu" else f" --device {device}"


def same_training(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes train the same network; names and intervals of saving do not matter."""
    same = {"name": "", "validate_every": 1, "checkpoint_every": 1, "keep_every": 0}
    return replace(one, **same) == replace(other, **same)


def trained(table: Table, recipe: Recipe, device: torch.device, workers: int) -> dict[str, Any]:
    """Time and scores of one run."""
    training, held_out = table.data(recipe)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), time.process_time()
        run = train(recipe, training, folder, device=device, workers=workers)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds, used = time.perf_counter() - start, time.process_time() - used
    return {
        "seconds": seconds, "cpu_seconds": used, "date": date, "loss": run.loss,
        "load": os.getloadavg()[0], "mean_weight": _mean_weight(training),
        "recipe": recipe.to_dict(), "scores": table.score(run, held_out),
    }  # fmt: skip


def finished(
    table: Table, recipe: Recipe, device: torch.device, folders: list[Path]
) -> dict[str, Any] | None:
    """Time and scores of the first of the folders that holds the finished run of this recipe.

    The time is that between its first file and its last checkpoint, validations included.
    """
    for folder in folders:
        start, end = folder / "recipe.json", folder / LAST
        if not (start.is_file() and end.is_file()):
            continue
        made_with = Recipe.from_json(start.read_text("utf-8"))
        if not same_training(made_with, recipe):
            continue
        training, held_out = table.data(made_with)
        run = _loaded(folder, made_with, training, device)
        if run.step < made_with.steps:
            continue
        return {
            "machine": machine(device) | {"commit": "unrecorded"},
            "seconds": end.stat().st_mtime - start.stat().st_mtime, "with_validations": True,
            "date": time.strftime("%Y-%m-%d", time.gmtime(end.stat().st_mtime)),
            "loss": run.loss, "mean_weight": _mean_weight(training),
            "recipe": made_with.to_dict(), "scores": table.score(run, held_out),
        }  # fmt: skip
    return None


def _loaded(folder: Path, recipe: Recipe, training: Stack, device: torch.device) -> Run:
    """A run as its last checkpoint has it; other data or another recipe are refused."""
    from unet2015.run_folder import _resume

    run = _new_run(recipe, training, folder, None, device)
    _resume(run, folder / LAST, resume=True)
    losses = run.log.column("loss")[1]
    run.loss = losses[-1] if losses else float("nan")
    return run


def _mean_weight(stack: Stack) -> dict[str, float]:
    """Mean weight of background and foreground: what the map does to their balance."""
    assert stack.weights is not None
    weights = np.concatenate([w.ravel() for w in stack.weights])
    labels = np.concatenate([x.ravel() for x in stack.labels])
    return {
        "background": float(weights[labels == 0].mean()),
        "foreground": float(weights[labels == 1].mean()),
    }


def stored_baselines(table: Table, path: Path) -> dict[str, Any]:
    """The baselines of the table's data from `path`, computed where they are not in it."""
    record = read(path)
    record.pop("rows", None)
    if table.baselines_of not in record:
        start = time.perf_counter()
        record[table.baselines_of] = table.baselines()
        record |= {"machine": machine()}
        record["seconds"] = record.get("seconds", {}) | {
            table.baselines_of: time.perf_counter() - start
        }
        write(path, record)
    return record[table.baselines_of]


def _line(entry: dict[str, Any], table: Table) -> str:
    scores = next(iter(entry["scores"].values()))
    figures = ", ".join(
        f"{m} {scores[m]['best']:.4f} ({scores[m]['at_0.5']:.4f} at 0.5)" for m in table.measures
    )
    return f"{figures}; {entry['seconds']:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=list(TABLES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--rows", nargs="+", default=[], help="only these rows, or that hold these words"
    )
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="folders of finished runs")
    parser.add_argument("--steps", type=int, default=0, help="fewer steps, for a smoke test")
    parser.add_argument("--set", action="append", default=[], help="recipe field, FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--docs", type=Path, help="page whose tables are replaced")
    parser.add_argument("--list", action="store_true", help="rows of each table")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.list:
        for name, table in TABLES.items():
            print(f"{name}: " + "; ".join(f"{r} ({k.steps} steps)" for r, k in table.rows.items()))
    if options.table:
        run_table(options.table, options)
    if options.docs:
        put_on_page(options.docs, options.out)


if __name__ == "__main__":
    main()
