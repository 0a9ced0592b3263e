"""Check 40: docs/fidelity.md names every open choice, and each of its 40 checks has tests."""

from __future__ import annotations

import ast
import dataclasses
import re
from functools import cache
from pathlib import Path

import pytest

from unet2015.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "fidelity.md").read_text("utf-8")
FIELDS = {field.name: field.default for field in dataclasses.fields(Recipe)}
TABLE = PAGE.split("## The forty checks")[1]
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", TABLE, re.MULTILINE)
MARKS = re.compile(r"\[(P|R|F|M|open|ours)\]")


@cache
def functions_in(file: str) -> set[str]:
    """Names of the test functions of a file, read without importing it."""
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


def test_the_forty_checks_are_all_there():
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 41))


@pytest.mark.parametrize(("number", "claim", "tests"), ROWS, ids=[row[0] for row in ROWS])
def test_each_check_has_tests_that_exist(number, claim, tests):
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
    assert named, f"check {number} ({claim}) names no test"
    for file, function in named:
        assert function in functions_in(file), f"check {number}: {file} has no {function}"


def test_every_numbered_test_is_listed():
    """A test whose name says `check_N` must be found on the page, or at least its number's file."""
    listed = {(number, file) for number, _, tests in ROWS
              for file in re.findall(r"`([\w/]+\.py)::", tests)}  # fmt: skip
    for path in (ROOT / "tests").glob("test_*.py"):
        for number in {
            m[1] for n in functions_in(path.name) if (m := re.match(r"test_check_(\d+)_", n))
        }:
            known = (number, path.name) in listed or any(
                f"_check_{number}_" in tests for row, _, tests in ROWS if row == number
            )
            assert known, f"{path.name} has a test of check {number} that the page does not know"


def test_every_field_of_a_recipe_is_on_the_page():
    missing = [n for n in FIELDS if n != "name" and not re.search(rf"`{n}(?: = [^`]*)?`", PAGE)]
    assert missing == []


def test_defaults_on_the_page_are_those_of_the_code():
    stated = re.findall(r"`(\w+) = ([^`]+)`", PAGE)
    known = {name: ast.literal_eval(value) for name, value in stated if name in FIELDS}
    assert len(known) >= 35
    assert known == {name: FIELDS[name] for name in known}


def test_owners_on_the_page_are_those_of_the_code():
    """Recipe fields carry [P], [R], [F] or [open] in a comment; the page has the same mark."""
    source = (ROOT / "unet2015" / "recipe.py").read_text("utf-8")
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    for name, comment in re.findall(r"^    (\w+): [^#\n]+?# (.*)$", source, re.MULTILINE):
        marks = {mark.replace("open", "ours") for mark in MARKS.findall(comment)}
        if name not in FIELDS or not marks:
            continue
        owners = [row.rstrip("| ").rpartition("|")[2] for row in rows if f"`{name} = " in row]
        assert owners, name
        assert any(f"[{mark}]" in owner for owner in owners for mark in marks), (name, owners)


def test_options_on_the_page_exist():
    words = set(re.findall(r"`(--[a-z][a-z-]*)", PAGE))
    source = "".join(p.read_text("utf-8") for p in ROOT.glob("*/*cli*.py"))
    assert words
    assert [word for word in words if f'"{word}"' not in source] == []


def test_every_mark_is_explained():
    assert set(MARKS.findall(PAGE)) == {"P", "R", "F", "open", "ours"}
    for mark in ("P", "R", "F", "ours"):
        assert f"- **[{mark}]** " in PAGE
