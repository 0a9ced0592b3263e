"""benchmarks/README.md from the JSON files in benchmarks/results.

    python benchmarks/tables.py            # writes the page
    python benchmarks/tables.py --check    # exit 1 if the page is not that of the files

One section per file. A file may say how it wants to be shown:

    title     heading; else the name of the file
    tables    [{"caption", "columns", "rows"}, ...]; else every list of records and every group of
              plain values is shown as it is
    notes     sentences below the tables, where we lose among them
    machine   processor, cores, commit, versions: one line above them

The script of `results/NAME.json` is the one whose name NAME begins with; its first lines say what
is measured, and how to repeat it.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import throughput_page  # noqa: E402 - found from the root

INTRODUCTION = """# Benchmarks

One script per claim; `make bench` runs those that take minutes, `python -m benchmarks --gpu` those
that want a GPU (25 minutes at most), `python -m benchmarks --list` names them all. Each table below
is made by `python benchmarks/tables.py` from a file in `results/`, which holds all figures, the
machine, the commit and the versions. CPU seconds count all threads, so they also compare on a
machine that others use at the same time.

`make bench` installs the rivals (dependency group `bench`), but for BiaPy, which brings many
libraries of its own: install it by hand, or name its file `data/pre_processing.py` in
`BIAPY_PRE_PROCESSING`. A rival that is absent is in the tables as "not installed".
"""
_SHOWN_ELSEWHERE = ("title", "tables", "notes", "at_auto", "machine", "benchmark", "command")
_OF_MACHINE = (
    "processor", "gpu", "device", "instruction sets", "cores", "threads", "load", "system",
    "python", "commit", "versions",
)  # fmt: skip


def page(folder: Path = HERE) -> str:
    """Return the text of the page."""
    sections = [section(path, folder) for path in sorted((folder / "results").glob("*.json"))]
    return "\n".join([INTRODUCTION, *sections])


def section(path: Path, folder: Path) -> str:
    """Return the section of one result file."""
    found = json.loads(path.read_text("utf-8"))
    script = script_of(path, folder)
    said = "" if script is None else first_lines(script)
    title = found.get("title") or words(path.stem).capitalize()
    parts = [f"## {title}\n"]
    if script is not None:
        parts.append(f"`{script.name}`: {' '.join(said.split())}\n")
    about = machine_line(found)
    if about:
        parts.append(f"{about}\n")
    for table in found["tables"] if "tables" in found else plain_tables(found):
        caption = table.get("caption")
        parts += [f"{caption}:\n"] if caption else []
        parts.append(markdown(table["columns"], table["rows"]))
    notes = throughput_page.notes(found) if "formats" in found else found.get("notes", [])
    parts += [f"- {note}" for note in notes] + [""]
    parts.append(f"All figures: [results/{path.name}](results/{path.name}).\n")
    return "\n".join(parts)


def script_of(path: Path, folder: Path) -> Path | None:
    """Return the script with the longest name that the file's name begins with."""
    scripts = [s for s in folder.glob("*.py") if path.stem.startswith(s.stem)]
    if path.stem.startswith("results_"):  # one table of docs/results.md each
        scripts += list(folder.glob("isbi_results.py"))
    return max(scripts, key=lambda s: len(s.stem), default=None)


def first_lines(script: Path) -> str:
    """Return the first paragraph of what a script says about itself."""
    text = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
    return text.partition("\n\n")[0]


def machine_line(found: dict[str, Any]) -> str:
    """Return one line about what the figures depend on."""
    about = found.get("machine", found)
    about = {"processor": about} if not isinstance(about, dict) else about
    about = {**about, **{k: found[k] for k in _OF_MACHINE if k in found}}
    # Older files name the processor otherwise.
    about.setdefault("processor", about.get("cpu", about.get("machine")))
    told = []
    for name in _OF_MACHINE:
        value = about.get(name)
        if isinstance(value, dict):
            told.append(", ".join(f"{k} {v}" for k, v in value.items()))
        elif isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
            plain = name in ("processor", "gpu", "system")
            told.append(cell(value) if plain else f"{name} {cell(value)}")
    return "; ".join(told)


def plain_tables(found: dict[str, Any], before: str = "") -> list[dict[str, Any]]:
    """Return tables of records and of groups of values, for a file that names none."""
    tables = []
    single = []
    for name, value in found.items():
        if not before and (name in _SHOWN_ELSEWHERE or name in _OF_MACHINE):
            continue
        caption = f"{before}{'' if name == 'rows' else words(name)}".rstrip(": ")
        if _records(value):
            tables.append(of_records(caption, [flat(record) for record in value]))
        elif isinstance(value, dict) and any(_records(v) or _nested(v) for v in value.values()):
            tables += plain_tables(value, f"{before}{words(name)}: ")
        elif isinstance(value, dict) and _records(list(value.values())):
            tables.append(of_records(caption, [{"": k} | flat(v) for k, v in innermost(value)]))
        elif isinstance(value, dict):
            tables.append(of_records(caption, [{"": k, words(name): v} for k, v in value.items()]))
        elif value is not None:
            single.append([words(name), value])
    if single:
        caption = f"{before}settings and single values".removeprefix(": ")
        tables.append({"caption": caption, "columns": ["", "value"], "rows": single})
    return tables


def of_records(caption: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a table with one column for each key that occurs."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[row.get(column, "") for column in columns] for row in rows]
    return {"caption": caption, "columns": columns, "rows": cells}


def _records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _nested(value: Any) -> bool:
    return isinstance(value, dict) and any(_records(v) for v in value.values())


def innermost(records: dict[str, Any], before: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Give records by name; of those that hold nothing but records, these as "outer: inner"."""
    for name, record in records.items():
        if _records(list(record.values())):
            yield from innermost(record, f"{before}{words(name)}: ")
        else:
            yield before + words(name), record


def flat(record: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return a record whose nested records are columns of their own, "outer: inner"."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{name}: ")
        else:
            found[before + name] = value
    return found


def words(name: str) -> str:
    """Return a key as words."""
    return name.replace("_", " ")


def markdown(columns: list[str], rows: list[list[Any]]) -> str:
    """Return a table; numbers are short and to the right, bytes are told in MB."""
    for k, name in enumerate(columns):
        if name.endswith("bytes"):
            columns = [*columns[:k], f"{name[:-5]}MB", *columns[k + 1 :]]
            rows = [[*row[:k], _megabytes(row[k]), *row[k + 1 :]] for row in rows]
    lines = [[words(str(c)) for c in columns], *([cell(v) for v in row] for row in rows)]
    number = [bool(rows) and all(_is_number(row[k]) for row in rows) for k in range(len(columns))]
    rule = ["---:" if right else "---" for right in number]
    text = [f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])]
    return "\n".join(text) + "\n"


def _megabytes(value: Any) -> Any:
    return value / 1e6 if isinstance(value, int | float) else value


def _is_number(value: Any) -> bool:
    text = str(value).rstrip("x%").strip().replace(",", "")
    try:
        float(text)
    except ValueError:
        return value in ("", None)
    return True


def cell(value: Any) -> str:
    """Return a value as text for a table: three or four digits of a float."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 1e4 else str(value)
    if isinstance(value, list):
        return " x ".join(cell(v) for v in value) if len(value) <= 4 else f"{len(value)} values"
    if isinstance(value, dict):
        return ", ".join(f"{words(k)} {cell(v)}" for k, v in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    options = parser.parse_args()
    target = HERE / "README.md"
    text = page()
    if options.check:
        same = target.is_file() and target.read_text("utf-8") == text
        if not same:
            print(f"{target} is not up to date; run python benchmarks/tables.py", file=sys.stderr)
        return 0 if same else 1
    target.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
