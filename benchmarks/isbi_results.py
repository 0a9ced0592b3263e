"""The tables of docs/results.md, each from one command:

    python benchmarks/isbi_results.py --table quick      # three seeds, about 6 minutes on 2 cores
    python benchmarks/isbi_results.py --table weights    # what the weight map does
    python benchmarks/isbi_results.py --table deform     # with and without elastic deformation
    python benchmarks/isbi_results.py --table optimiser  # the paper's rule against today's
    python benchmarks/isbi_results.py --table hela       # DIC-C2DH-HeLa: IoU and SEG
    python benchmarks/isbi_results.py --table dsb        # Data Science Bowl 2018: IoU and AP
    python benchmarks/isbi_results.py --table full --device cuda    # the paper's network, on a GPU
    python benchmarks/isbi_results.py --list             # rows and commands, nothing is run
    python benchmarks/isbi_results.py --docs docs/results.md        # put all tables on the page

Each run (a row and a seed) is added to `benchmarks/results/results_TABLE.json` when it is done; an
interrupted table goes on where it stopped. On ISBI the slices 12-14 and 27-29 are held out and
reported apart, because the second half of the stack was taken with more noise. Baselines: a
constant, and a blurred threshold tuned on the training slices. `--steps` and `--seeds` make a
smoke test (with `--out` elsewhere).
"""

# ruff: noqa: E402 - the environment is set before torch is imported
from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from benchmarks.record import DATA, isbi, machine, read, write
from unet2015 import recipe as recipes
from unet2015.baselines import baselines
from unet2015.data import Stack, read_stack_pair, split, weigh
from unet2015.device import choose_device
from unet2015.objects import ctc_seg, dsb_image_ap
from unet2015.recipe import Recipe
from unet2015.score import isbi_scores
from unet2015.train import Run, train
from unet2015.validate import probabilities_of, with_weights

HELD_OUT = "12-14,27-29"
REGIMES = {"12-14, 27-29": slice(0, 6), "12-14": slice(0, 3), "27-29": slice(3, 6)}
ISBI = ("wrong_pixels", "pixel_error", "v_info", "v_rand", "warping_error")
Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Table:
    """Rows by name, each a recipe; where the data are; how a trained run is scored."""

    rows: Mapping[str, Recipe]
    data: Callable[[Recipe], tuple[Stack, Stack]]
    score: Callable[[Run, Stack], dict[str, Scores]]
    measures: tuple[str, ...] = ISBI


def from_isbi(recipe: Recipe) -> tuple[Stack, Stack]:
    training, held_out = split(read_stack_pair(*isbi()), HELD_OUT)
    return weigh(training, recipe), held_out


def from_hela(recipe: Recipe) -> tuple[Stack, Stack]:
    """Silver truth of every frame but the last fifth, where the held-out frames are."""
    folder = DATA / "cells" / "ctc" / "DIC-C2DH-HeLa"
    stack = read_stack_pair(folder / "01", folder / "01_ST" / "SEG", meaning="instances")
    training, held_out = split(stack, "24-29")
    return weigh(training, recipe), held_out


def from_dsb(recipe: Recipe) -> tuple[Stack, Stack]:
    """Every fifth image is held out; the images keep their order by name, which is random."""
    stack = read_stack_pair(DATA / "cells" / "dsb2018" / "stage1_train", channels=3)
    held_out = list(range(2, len(stack), 5))
    training = stack.take([k for k in range(len(stack)) if k not in held_out])
    return weigh(training, recipe), stack.take(held_out)


def score_isbi(run: Run, held_out: Stack) -> dict[str, Scores]:
    """Measures by regime, with one prediction and with the mean of eight views."""
    net, truth = with_weights(run.net, run.averaged), np.stack(list(held_out.labels))
    found: dict[str, Scores] = {}
    for views, average in (("1 view", "none"), ("8 views", "all")):
        maps = probabilities_of(net, held_out, run.recipe, average=average)
        inside = np.stack([p[1] for p in maps])
        for regime, part in REGIMES.items():
            sweeps = isbi_scores(inside[part], truth[part])
            found[f"{regime}; {views}"] = {
                name: {"best": s.best, "threshold": s.threshold, "at_0.5": s.at(0.5)}
                for name, s in sweeps.items()
                if name in ISBI
            }
    return found


def score_objects(run: Run, held_out: Stack) -> dict[str, Scores]:
    """IoU of the foreground, SEG and average precision of the components above a threshold."""
    from weightmaps import instances_from_mask

    assert held_out.instances is not None
    maps = probabilities_of(with_weights(run.net, run.averaged), held_out, run.recipe)
    by_threshold = {}
    for threshold in np.round(np.linspace(0.1, 0.9, 9), 2).tolist():
        pairs = [
            (instances_from_mask(p[1] > threshold).astype(np.int64), truth.astype(np.int64))
            for p, truth in zip(maps, held_out.instances, strict=True)
        ]
        both = sum(int(((a > 0) & (b > 0)).sum()) for a, b in pairs)
        any_ = sum(int(((a > 0) | (b > 0)).sum()) for a, b in pairs)
        cells = [len(np.unique(b)) - 1 for _, b in pairs]
        seg = [ctc_seg(a, b) if n else 0.0 for (a, b), n in zip(pairs, cells, strict=True)]
        by_threshold[threshold] = {
            "iou": both / max(any_, 1),
            "seg": float(np.average(seg, weights=cells)),
            "ap": float(np.mean([dsb_image_ap(a, b)[0] for a, b in pairs])),
        }
    found: Scores = {}
    for name in ("iou", "seg", "ap"):
        best = max(by_threshold, key=lambda t: by_threshold[t][name])
        found[name] = {
            "best": by_threshold[best][name], "threshold": best,
            "at_0.5": by_threshold[0.5][name],
        }  # fmt: skip
    return {f"{len(held_out)} images": found}


QUICK = recipes.quick()
EQ2 = {"border_weight": True, "class_weights": "balanced"}
OBJECTS = ("iou", "seg", "ap")
CELLS = replace(QUICK, name="cells", border_weight=True)

TABLES: dict[str, Table] = {
    "quick": Table({"quick": QUICK}, from_isbi, score_isbi),
    "weights": Table(
        {
            "no weights": QUICK,
            "class balance": replace(QUICK, class_weights="balanced"),
            "border, w0 = 1": replace(QUICK, border_weight=True, w0=1.0),
            "border, w0 = 10": replace(QUICK, border_weight=True),
            "Eq. 2: balance + border, w0 = 10": replace(QUICK, **EQ2),
            "the same, balance of each image": replace(
                QUICK, border_weight=True, class_weights="per-image"
            ),
            "Falk et al. 2019": replace(
                QUICK, border_weight=True, class_weights="falk2019", w0=50.0, sigma_px=6.0
            ),
        },
        from_isbi, score_isbi,
    ),
    "deform": Table(
        {
            "std 4 px (quick)": QUICK,
            "std 10 px": replace(QUICK, displacement_std_px=10.0),
            "B-spline, std 10 px": replace(
                QUICK, displacement="bspline", displacement_std_px=10.0
            ),
            "no displacement": replace(QUICK, displacement_std_px=0.0),
            "no displacement, rotation, mirroring": replace(
                QUICK, displacement_std_px=0.0, rotation_deg=0.0, mirror=False
            ),
            "and no grey values": replace(
                QUICK, displacement_std_px=0.0, rotation_deg=0.0, mirror=False,
                grey_gain=0.0, grey_shift=0.0, grey_gamma=0.0,
            ),
        },
        from_isbi, score_isbi,
    ),
    "optimiser": Table(
        {
            "Adam, one cycle (quick)": QUICK,
            "the paper's: SGD, momentum 0.99": replace(
                QUICK, optimiser="sgd", momentum=0.99, learning_rate=1e-3, schedule="constant"
            ),
            "SGD, momentum 0.99, cosine": replace(
                QUICK, optimiser="sgd", momentum=0.99, learning_rate=1e-3, schedule="cosine"
            ),
            "modern: AdamW, warm-up, cosine, average": replace(
                QUICK, optimiser="adamw", weight_decay=1e-4, schedule="cosine",
                warmup_steps=100, average_decay=0.99,
            ),
        },
        from_isbi, score_isbi,
    ),
    "hela": Table(
        {
            "Eq. 2: balance + border": replace(CELLS, class_weights="balanced"),
            "border alone": CELLS,
            "no border": replace(CELLS, border_weight=False),
        },
        from_hela, score_objects, OBJECTS,
    ),
    "dsb": Table(
        {
            "border": replace(CELLS, in_channels=3),
            "no border": replace(CELLS, in_channels=3, border_weight=False),
        },
        from_dsb, score_objects, OBJECTS,
    ),
    "full": Table(
        {
            "isbi2012, bf16": replace(recipes.isbi2012(), precision="bf16"),
            "isbi2012-modern": recipes.isbi2012_modern(),
            "isbi2012, no elastic deformation": replace(
                recipes.isbi2012(), precision="bf16", displacement_std_px=0.0
            ),
            "isbi2012, no border weights": replace(
                recipes.isbi2012(), precision="bf16", border_weight=False
            ),
        },
        from_isbi, score_isbi,
    ),
}  # fmt: skip


def run_table(name: str, options: argparse.Namespace) -> None:
    """Every row and seed that the record does not hold yet."""
    table, path = TABLES[name], options.out / f"results_{name}.json"
    device = choose_device(options.device)
    record = read(path)
    record |= {"table": name, "machine": machine(device)}
    record["command"] = f"python benchmarks/isbi_results.py --table {name}" + (
        "" if options.device == "cpu" else f" --device {options.device}"
    )
    if table.score is score_isbi:
        record["baselines"] = stored_baselines(options.out / "results_baselines.json")
    for row, recipe in table.rows.items():
        for seed in options.seeds:
            recipe_now = replace(recipe, seed=seed, validate_every=10**9, checkpoint_every=10**9)
            recipe_now = replace(recipe_now, steps=options.steps or recipe.steps)
            known = [(r["row"], r["recipe"]) for r in record["rows"]]
            if (row, recipe_now.to_dict()) in known:
                continue
            entry = {"row": row, "seed": seed, "recipe": recipe_now.to_dict()}
            record["rows"].append(entry | trained(table, recipe_now, device, options.workers))
            write(path, record)
            print(f"{name}: {row}, seed {seed}: {_line(record['rows'][-1], table)}", flush=True)
    print("\n" + markdown(name, record))


def trained(table: Table, recipe: Recipe, device: torch.device, workers: int) -> dict[str, Any]:
    """Time and scores of one run."""
    training, held_out = table.data(recipe)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = train(recipe, training, folder, device=device, workers=workers)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds, "loss": run.loss, "mean_weight": _mean_weight(training),
        "scores": table.score(run, held_out),
    }  # fmt: skip


def _mean_weight(stack: Stack) -> dict[str, float]:
    """Mean weight of background and foreground: what the map does to their balance."""
    assert stack.weights is not None
    weights = np.concatenate([w.ravel() for w in stack.weights])
    labels = np.concatenate([x.ravel() for x in stack.labels])
    return {
        "background": float(weights[labels == 0].mean()),
        "foreground": float(weights[labels == 1].mean()),
    }


def stored_baselines(path: Path) -> dict[str, dict[str, Scores]]:
    """The baselines from `path`, computed (minutes) where it does not exist."""
    record = read(path)
    if "baselines" not in record:
        record = {"machine": machine(), "baselines": isbi_baselines(), "rows": []}
        write(path, record)
    return record["baselines"]


def isbi_baselines() -> dict[str, dict[str, Scores]]:
    """Constant and blurred threshold, by regime."""
    stack = read_stack_pair(*isbi())
    images = np.stack([image[0] for image in stack.images])
    truth = np.stack(list(stack.labels))
    every = np.array([12, 13, 14, 27, 28, 29])
    learn = [k for k in range(len(stack)) if k not in every]
    found: dict[str, dict[str, Scores]] = {"constant": {}, "blurred threshold": {}}
    for regime, part in REGIMES.items():
        tuned = baselines(images, truth, train=learn, held_out=every[part].tolist(), measures=ISBI)
        for name, kind in (("constant", "white"), ("blurred threshold", "blur")):
            found[name][regime] = {
                m: {"best": t.value, "threshold": t.threshold} for m, t in tuned[kind].items()
            }
    return found


def _line(entry: dict[str, Any], table: Table) -> str:
    scores = next(iter(entry["scores"].values()))
    figures = ", ".join(
        f"{m} {scores[m]['best']:.4f} ({scores[m]['at_0.5']:.4f} at 0.5)" for m in table.measures
    )
    return f"{figures}; {entry['seconds']:.0f} s"


def markdown(name: str, record: dict[str, Any]) -> str:
    """The table as it stands on the page: medians over the seeds, best and at 0.5."""
    table = TABLES[name]
    names = list(dict.fromkeys(r["row"] for r in record["rows"]))
    if not names:
        return f"_No run of `{record.get('command', name)}` yet._\n"
    seeds = sorted({r["seed"] for r in record["rows"]})
    lines = [
        "| | slices | " + " | ".join(m.replace("_", " ") for m in table.measures) + " | seconds |",
        "|---|---|" + "---|" * len(table.measures) + "---|",
    ]
    for kind, by_regime in record.get("baselines", {}).items():
        for regime, scores in by_regime.items():
            cells = [f"{scores[m]['best']:.4f}" for m in table.measures]
            lines.append(f"| {kind} | {regime} | " + " | ".join(cells) + " | |")
    for row in names:
        runs = [r for r in record["rows"] if r["row"] == row]
        seconds = float(np.median([r["seconds"] for r in runs]))
        for regime in runs[0]["scores"]:
            cells = []
            for m in table.measures:
                best, half = (
                    float(np.median([r["scores"][regime][m][k] for r in runs]))
                    for k in ("best", "at_0.5")
                )
                cells.append(f"{best:.4f} ({half:.4f})")
            lines.append(f"| {row} | {regime} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    where = record["machine"].get("gpu") or (
        f"{record['machine']['processor']}, {record['machine']['threads']} threads"
    )
    lines += [
        "",
        f"Median of seeds {', '.join(map(str, seeds))}; best over the thresholds, in brackets at"
        f" 0.5. `{record['command']}` on {where}, torch {record['machine']['versions']['torch']},"
        f" commit {record['machine']['commit']}.",
    ]
    return "\n".join(lines) + "\n"


def put_on_page(page: Path, results: Path) -> None:
    """Replace what stands between `<!-- table NAME -->` and `<!-- end -->` by the tables."""
    text = page.read_text("utf-8")
    for name in TABLES:
        path = results / f"results_{name}.json"
        pattern = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if path.exists() and pattern.search(text):
            body = markdown(name, read(path))
            text = pattern.sub(lambda m, body=body: m[1] + body + m[2], text)
    page.write_text(text, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=list(TABLES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=0, help="fewer steps, for a smoke test")
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
