"""The invariants of docs/reliability.md: property tests that name what they hold.

    @invariant("checkpoint", "any flipped bit is refused")
    @given(...)
    def test_...

Such a test runs with the 200 examples of the profile (2,000 in a soak), never with fewer.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest

from tests.faults.catalogue import TESTS

Test = TypeVar("Test", bound=Callable[..., object])


def invariant(area: str, says: str) -> Callable[[Test], Test]:
    """Mark a property test as holding an invariant, in words for docs/reliability.md."""
    return pytest.mark.invariant(area, says)


@dataclass(frozen=True)
class Invariant:
    """A property test: what it holds, where it stands, and whether it asks for fewer examples."""

    area: str
    says: str
    file: str
    test: str
    is_property: bool
    limited: bool


def found_invariants() -> list[Invariant]:
    """All of them, read from the source of the tests."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            marks = [mark for mark in node.decorator_list if isinstance(mark, ast.Call)]
            names = {ast.unparse(mark.func): mark for mark in marks}
            if "invariant" in names:
                area, says = (ast.literal_eval(word) for word in names["invariant"].args)
                file = path.relative_to(TESTS.parent).as_posix()
                limited = bool({"some", "settings"} & set(names))
                found.append(Invariant(area, says, file, node.name, "given" in names, limited))
    return found
