"""Run the fault tests and write what came of each fault into docs/reliability.md.

    python -m tests.faults.reliability            the tests that carry the id of a fault
    python -m tests.faults.reliability --render   only write the page anew from the records

A fault is survived when all its tests passed; one that was skipped here is not survived here.
What is behind `--` goes to pytest, e.g. `-- -n 2`. The page is made from the files in
`tests/faults/records`: those of this run, of `make soak`, of `make fuzz`, and of `make audit`.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import os
import platform
import sys
from collections import defaultdict
from importlib import metadata
from typing import Any

import pytest

from tests.faults.catalogue import FAULTS, TESTS, found_tests, ids_of
from tests.faults.invariants import found_invariants
from tiling.safe_write import write_text

RECORDS = TESTS / "faults" / "records"
PAGE = TESTS.parent / "docs" / "reliability.md"
GROUPS = {
    "A": "Kill and power", "B": "Disk and names", "C": "Input images", "D": "Labels and data sets",
    "E": "Model files and code execution", "F": "Processes, memory, time", "G": "Environment",
    "H": "Training numerics",
}  # fmt: skip


class Watcher:
    """A pytest plugin that notes the result of each test and the kill points it went through."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.kill_points = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            worst = self.outcomes.get(report.nodeid, "passed")
            self.outcomes[report.nodeid] = worst if worst == "failed" else report.outcome
            if report.skipped and isinstance(report.longrepr, tuple):
                self.reasons[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")
        if report.when == "call" and report.passed:
            self.kill_points += sum(v for k, v in report.user_properties if k == "kill_points")

    def by_fault(self) -> dict[str, dict[str, Any]]:
        """Counts of passed, failed, skipped tests of each fault, and why some were skipped."""
        found: dict[str, dict[str, Any]] = {}
        for fault in FAULTS:
            mine = [n for n in self.outcomes if fault in ids_of(_function(n.rpartition("::")[2]))]
            counts = {
                outcome: sum(self.outcomes[n] == outcome for n in mine)
                for outcome in ("passed", "failed", "skipped")
            }
            reasons = sorted({self.reasons[n] for n in mine if n in self.reasons})
            found[fault] = {**counts, "reasons": reasons}
        return found


def _function(name: str) -> str:
    return name.partition("[")[0]


def machine() -> dict[str, Any]:
    """Kind of this machine: nothing that names it."""
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
    }


def properties() -> dict[str, int]:
    """Number of `@given` tests in each test file."""
    found: dict[str, int] = defaultdict(int)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(mark).startswith(("given(", "hypothesis.given("))
                for mark in node.decorator_list
            ):
                found[path.relative_to(TESTS.parent).as_posix()] += 1
    return dict(found)


def known_records() -> dict[str, Any]:
    """All records there are, by name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in RECORDS.glob("*.json")}


def store(name: str, figures: dict[str, Any]) -> None:
    """Keep one record and write the page anew. Each has a file of its own: runs may overlap."""
    RECORDS.mkdir(exist_ok=True)
    text = json.dumps(figures, indent=1, sort_keys=True) + "\n"
    write_text(RECORDS / f"{name}.json", text, overwrite=True)
    write_text(PAGE, page(known_records()), overwrite=True)


def survived(result: dict[str, Any]) -> bool:
    """Whether all tests of a fault ran and passed."""
    return bool(result["passed"] and not result["failed"] and not result["skipped"])


def page(known: dict[str, Any]) -> str:
    """The page of figures that a reader sees, in Markdown."""
    faults = known.get("faults", {})
    results = faults.get("results", {})
    count = sum(survived(result) for result in results.values())
    lines = [
        "# Reliability",
        "",
        "What may go wrong, what must happen then, and what happened when we made it go wrong.",
        "This page is written by `python -m tests.faults.reliability` from the results of the",
        "tests; a fault counts as survived only when all its tests ran and passed on this kind",
        "of machine, and a skipped test counts against it.",
        "",
    ]
    if results:
        lines += [
            f"**{count}/{len(FAULTS)} faults survived**, {faults['tests']} tests,"
            f" {faults['kill_points']} kill and failure points; {_where(faults)}.",
            "",
        ]
    lines += _soak(known.get("soak")) + _fuzz(known.get("fuzz")) + _audit(known.get("audit"))
    lines += ["## The faults", ""]
    for group, title in GROUPS.items():
        lines += [f"### {group}. {title}", "", "| id | fault | what must happen | result |",
                  "| --- | --- | --- | --- |"]  # fmt: skip
        for fault, (what, answer) in FAULTS.items():
            if fault[0] == group:
                said = _said(results[fault]) if fault in results else "not run"
                lines.append(f"| {fault} | {_cell(what)} | {_cell(answer)} | {said} |")
        lines.append("")
    return "\n".join(lines + _properties(faults.get("properties", {})))


def _said(result: dict[str, Any]) -> str:
    total = result["passed"] + result["failed"] + result["skipped"]
    if survived(result):
        return f"survived ({total} {'test' if total == 1 else 'tests'})"
    if result["failed"]:
        return f"**not survived**: {result['failed']} of {total} tests failed"
    if not result["passed"]:
        return f"**not tested here**: {_cell('; '.join(result['reasons']) or 'no test ran')}"
    reasons = _cell("; ".join(result["reasons"]))
    return f"**not fully tested here**: {result['skipped']} of {total} skipped: {reasons}"


def _where(figures: dict[str, Any]) -> str:
    where = figures["machine"]
    return (
        f"{where['date']}, {where['cores']} cores, {where['system']}, Python {where['python']},"
        f" torch {where['torch']}"
    )


def _soak(figures: dict[str, Any] | None) -> list[str]:
    if figures is None:
        return ["`make soak` has not been recorded yet.", ""]
    whole = "all" if figures["reached"] == figures["tests"] else f"{figures['reached']} of"
    counts = figures["counts"]
    lines = [
        f"`make soak`, {figures['minutes']:.0f} minutes: {whole} {figures['tests']} long tests and"
        f" properties, each property with {figures['examples']:,} examples,"
        f" in {figures['rounds']} round{'s' * (figures['rounds'] > 1)} of random inputs;"
        f" {counts['passed']} runs of tests passed, {counts['failed']} failed,"
        f" {counts['skipped']} skipped; {figures['kill_points']:,} kill and failure points;"
        f" {_where(figures)}.",
        "",
    ]
    if figures["failures"]:
        lines += ["Failed:", "", *(f"- {_cell(name)}" for name in figures["failures"]), ""]
    return lines


def _audit(figures: dict[str, Any] | None) -> list[str]:
    from tests.audit import told

    if figures is None:
        return ["`make audit` has not been recorded yet.", ""]
    return [f"`make audit`, {figures['machine']['date']}: {_cell(told(figures))}.", ""]


def _fuzz(figures: dict[str, Any] | None) -> list[str]:
    if figures is None:
        return ["`make fuzz` has not been recorded yet.", ""]
    lines = [
        f"`make fuzz`, {figures['minutes']:.0f} minutes of mutated files; {_where(figures)}:",
        "",
        "| reader | inputs | accepted | refused | crashes | hangs over 1 s | growth over 256 MB"
        " | foreign exceptions | slowest |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in figures["readers"].items():
        cells = (row["inputs"], row["accepted"], row["refused"], row["crashes"], row["hangs"],
                 row["growths"], row["foreign"])  # fmt: skip
        numbers = " | ".join(f"{cell:,}" for cell in cells)
        lines.append(f"| {name} | {numbers} | {1000 * row['slowest']:.0f} ms |")
    return [*lines, ""]


def _properties(counts: dict[str, int]) -> list[str]:
    invariants = found_invariants()
    lines = [
        "## Properties", "",
        f"{len(invariants)} invariants hold for 200 random inputs each in every test run, and for"
        " 2,000 each in `make soak`:", "", "| area | invariant | test |", "| --- | --- | --- |",
    ]  # fmt: skip
    lines += [
        f"| {one.area} | {_cell(one.says)} | `{one.file}::{one.test}` |"
        for one in sorted(invariants, key=lambda one: (one.area, one.file, one.says))
    ]
    if counts:
        lines += [
            "", f"With those that cost more and get fewer inputs in a test run there are"
            f" {sum(counts.values())} properties:", "", "| file | properties |", "| --- | --- |",
            *(f"| {name} | {count} |" for name, count in counts.items()),
        ]  # fmt: skip
    return [*lines, ""]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Exit code: that of pytest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only write the page anew")
    parser.add_argument("pytest", nargs="*", help="words for pytest, behind --")
    chosen = parser.parse_args()
    if chosen.render:
        write_text(PAGE, page(known_records()), overwrite=True)
        return 0
    watcher = Watcher()
    os.chdir(TESTS.parent)
    names = sorted({name for found in found_tests().values() for name in found})
    code = int(pytest.main(["-q", "-m", "not soak", *chosen.pytest, *names], plugins=[watcher]))
    outcomes = list(watcher.outcomes.values())
    if code in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR) or not outcomes:
        return code or 1
    results = watcher.by_fault()
    store("faults", {
        "machine": machine(), "tests": len(outcomes), "kill_points": watcher.kill_points,
        "results": results, "properties": properties(),
    })  # fmt: skip
    sys.stdout.write(f"{sum(map(survived, results.values()))}/{len(results)} faults survived\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
