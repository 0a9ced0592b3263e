"""The tables of docs/results.md, from the JSON files that `isbi_results.py` writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import read, write
from benchmarks.result_tables import TABLES, Table

__all__ = ["markdown", "put_on_page", "with_table"]


def markdown(name: str, record: dict[str, Any]) -> str:
    """The table as it stands on the page: medians over the seeds, best and at 0.5."""
    if not record["rows"]:
        return f"_No run of `{record['command']}` yet._\n"
    heads, rows = _columns(TABLES[name]), list(_lines(name, record))
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n\n" + "\n\n".join(_below(name, record)) + "\n"


def with_table(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """The record with its table, for benchmarks/README.md."""
    shown = {"columns": _columns(TABLES[name]), "rows": list(_lines(name, record))}
    notes = _below(name, record) if record["rows"] else []
    return record | {"title": f"Results: {name}", "tables": [shown], "notes": notes}


def _columns(table: Table) -> list[str]:
    return ["", "held out", *(m.replace("_", " ") for m in table.measures), "seeds", "seconds"]


def _lines(name: str, record: dict[str, Any]) -> Iterator[list[str]]:
    """Cells of each line: baselines, then rows, each for every held-out part."""
    table = TABLES[name]
    for kind, by_part in record.get("baselines", {}).items():
        shown = list(by_part.items())
        for part, scores in shown if name == "quick" else shown[:1]:
            yield [kind, part, *(f"{scores[m]['best']:.4f}" for m in table.measures), "", ""]
    for row in table.rows:
        runs = sorted((r for r in record["rows"] if r["row"] == row), key=lambda r: r["seed"])
        for part in runs[0]["scores"] if runs else ():
            cells = []
            for m in table.measures:
                best, half = (
                    float(np.median([r["scores"][part][m][k] for r in runs]))
                    for k in ("best", "at_0.5")
                )
                cells.append(f"{best:.4f} ({half:.4f})")
            seconds = float(np.median([r["seconds"] for r in runs]))
            seeds = ", ".join(str(r["seed"]) for r in runs)
            yield [row, part, *cells, seeds, f"{seconds:.0f}"]


def _below(name: str, record: dict[str, Any]) -> list[str]:
    """What was measured, when, where and by which command."""
    runs = record["rows"]
    about = runs[-1]["machine"]
    dates = sorted({r["date"] for r in runs})
    commits = list(dict.fromkeys(r["machine"]["commit"] for r in runs))
    finished = sum("with_validations" in r for r in runs)
    said = [
        "Median of the seeds: best over the thresholds, in brackets at 0.5; seconds of training,"
        f" on a machine that others used too. `{record['command']}`, measured"
        f" {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {_where(about)}, torch"
        f" {about['versions']['torch']}, commit {', '.join(commits)}."
    ]
    if finished:
        said += [
            f"{finished} of these {len(runs)} runs were counted in from folders of `unet2015 train`"
            " with the same recipe (`--runs`); their seconds hold four validations each."
        ]
    if name == "weights":
        weights = {r["row"]: r["mean_weight"] for r in runs}
        means = "; ".join(
            f"{row} {w['background']:.2f} and {w['foreground']:.2f}" for row, w in weights.items()
        )
        said += [f"Mean weight of background and foreground over the training slices: {means}."]
    return said


def _where(about: dict[str, Any]) -> str:
    """The GPU, or the processor and its threads."""
    threads = f", {about['threads']} threads" if "threads" in about else ""
    return about.get("gpu") or about["processor"] + threads


def put_on_page(page: Path, results: Path) -> None:
    """Replace what stands between `<!-- table NAME -->` and `<!-- end -->` by the tables."""
    text = page.read_text("utf-8")
    bodies = {"time": times(results)}
    for name in TABLES:
        path = results / f"results_{name}.json"
        record = {"rows": [], "command": f"python benchmarks/isbi_results.py --table {name}"}
        if path.exists():
            record = read(path)
            write(path, with_table(name, record))
        bodies[name] = markdown(name, record)
    for name, body in bodies.items():
        pattern = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{page} has no lines <!-- table {name} --> and <!-- end -->")
        text = pattern.sub(lambda m, body=body: f"{m[1]}\n{body}\n{m[2]}", text)
    page.write_text(text, "utf-8")


def times(results: Path) -> str:
    """The records of every `time_to_quality_*.json`, as a table."""
    parts = []
    for path in sorted(results.glob("time_to_quality_*.json")):
        found = read(path)
        about = found["machine"]
        lines = ["| measure | target | seconds | steps |", "|---|---|---|---|"]
        lines += [
            f"| {r['measure']} | {r['target']:g} | {r['seconds']:.0f} | {r['steps']} |"
            for r in found["records"]
        ]
        seeds = {
            steps: sum(row["steps"] == steps for row in found["rows"])
            for steps in sorted({row["steps"] for row in found["rows"]})
        }
        runs = ", ".join(f"{count} of {steps} steps" for steps, count in seeds.items())
        lines += [
            "",
            f"`python benchmarks/time_to_quality.py {' '.join(found['command'])}`: runs {runs},"
            f" recipe `{found['recipe']['name']}`, measured {found['date']} on {_where(about)},"
            f" torch {about['versions']['torch']}, commit {about['commit']}.",
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts) or "_Not measured yet._\n"
