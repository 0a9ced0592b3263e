"""The public face is documented: a summary, every parameter, every error, an example that runs.

Read from the source (AST). The public face is what the three packages and the modules below list in
`__all__`; of all other modules every listed name has at least a summary. Where a docstring says
"Parameters ... are those of `name`", it is that function's section that counts.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FACE = {
    "unet2015": (
        "net", "energy", "augment", "data", "recipe", "train", "checkpoint", "caffe", "predict",
        "predict_file", "score", "report", "sample", "export", "variants/release",
    ),
    "weightmaps": (
        "formula", "nearest_two", "reference", "labels", "blocks", "class_balance", "spec", "files",
    ),
    "tiling": (
        "geometry", "plan", "mirror", "stitch", "certificate", "instances", "formats", "tiff",
        "zarr", "tiff_sink", "zarr_sink", "safe_write", "strict_tiff", "images", "faults",
    ),
}  # fmt: skip
PUBLIC_ERRORS = {
    "InputError", "UsageFault", "ModelFileError", "WriteError", "MemoryFault", "LockedError",
    "InputChangedError", "NumericsError", "SeamError", "ValueError", "TypeError",
}  # fmt: skip

RECORD = "a record that other functions fill; its fields are documented"
FILES = "deals with files of the disk; run by its tests and by the documents"
MINUTES = "needs a data set and minutes; docs/training.md runs it small"
EXTRA = "needs the packages of an extra; run by tests/test_export.py"
PAIR = "its pair has the example: open_source with open_sink, read with write"
NO_EXAMPLE = {
    RECORD: {"Run", "Job", "Model", "Settings", "Column", "KeyFigure", "ReportData",
             "SliceView", "SyntheticStack", "Census", "LabelFile", "LabelRule", "Tile", "Plan",
             "SeamRule", "SeamWatch", "Summary", "Limits", "TiffImage"},
    FILES: {"read_weights", "predict_file", "prepare", "write_report", "read_history", "write_map",
            "check_output", "check_zarr_target", "remove_stale", "remove_stale_beside",
            "write_bytes", "write_text", "discard_partial", "TiffSource", "ZarrSource",
            "TiffSink", "ZarrSink"},
    MINUTES: {"train"},
    EXTRA: {"export_onnx", "export_pt2", "export_bioimageio"},
    PAIR: {"open_source", "read_stack"},
}  # fmt: skip
WITHOUT_EXAMPLE = {name: reason for reason, names in NO_EXAMPLE.items() for name in names}
# Their fields carry a comment with unit and origin on their own line.
FIELDS_IN_COMMENTS = {"Recipe"}

Definition = ast.FunctionDef | ast.ClassDef


@cache
def definitions(path: Path) -> dict[str, Definition]:
    body = ast.parse(path.read_text("utf-8")).body
    return {node.name: node for node in body if isinstance(node, Definition)}


@cache
def listed(path: Path) -> tuple[str, ...]:
    """`__all__` of a file."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return tuple(ast.literal_eval(node.value))
    return ()


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def home_of(package: str, module: str, name: str) -> Path | None:
    """File that defines a listed name: the module itself, or the one it takes it from."""
    own = ROOT / package / f"{module}.py"
    homes = [path for path in [own, *modules(package)] if name in definitions(path)]
    return homes[0] if homes else None


def face() -> list[tuple[Path, str]]:
    found: dict[tuple[Path, str], None] = {}
    for package, names in FACE.items():
        for module in ("__init__", *names):
            for name in listed(ROOT / package / f"{module}.py"):
                home = home_of(package, module, name)
                if home is not None:  # constants and type names have no docstring
                    found[home, name] = None
    return sorted(found)


def arguments(node: Definition) -> list[str]:
    if isinstance(node, ast.ClassDef):
        inner = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
        if "__init__" not in inner:
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            return [ast.unparse(n.target) for n in fields]
        node = inner["__init__"]
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    names = [a.arg for a in every if a is not None]
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def raised(node: Definition) -> set[str]:
    """Public errors that the code raises itself, outside of a `try` that may catch them."""
    inside = [node]
    if isinstance(node, ast.ClassDef):
        makers = ("__init__", "__post_init__")
        inside = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name in makers]
    found = set()
    while inside:
        part = inside.pop()
        if isinstance(part, ast.Raise) and part.exc is not None:
            error = part.exc.func if isinstance(part.exc, ast.Call) else part.exc
            found.add(ast.unparse(error).split(".")[-1])
        children = list(ast.iter_child_nodes(part))
        if isinstance(part, ast.Try):
            children = [n for n in children if n not in part.body]
        inside += children
    return found & PUBLIC_ERRORS


def is_error_or_protocol(node: Definition) -> bool:
    bases = [ast.unparse(base) for base in getattr(node, "bases", [])]
    return any(re.search(r"(Fault|Error|Exception|Protocol)$", base) for base in bases)


def lacks(node: Definition, name: str) -> list[str]:
    """What the docstring of a public name lacks."""
    text = ast.get_docstring(node) or ""
    summary = text.split("\n\n")[0]
    if not re.search(r"[.:;][`)]*$", summary.strip()):
        return ["a summary of one sentence"]
    found = []
    elsewhere = re.search(r"[Pp]arameters[^.]* (?:as|as for|those of) `[\w.]+`", text)
    missing = [a for a in arguments(node) if not re.search(rf"\b{a}\b", text)]
    if missing and not elsewhere and name not in FIELDS_IN_COMMENTS:
        found.append(f"the parameters {', '.join(missing)}")
    silent = [error for error in raised(node) if error not in text]
    if silent and not elsewhere:
        found.append(f"Raises {', '.join(silent)}")
    needs_example = not is_error_or_protocol(node) and name not in WITHOUT_EXAMPLE
    if needs_example and ">>>" not in text:
        found.append("an example, or a reason in NO_EXAMPLE")
    if not needs_example and name in WITHOUT_EXAMPLE and ">>>" in text:
        found.append("nothing: take it out of NO_EXAMPLE")
    return found


@pytest.mark.parametrize(("path", "name"), face(), ids=lambda value: getattr(value, "stem", value))
def test_a_public_name_is_documented(path, name):
    assert lacks(definitions(path)[name], name) == [], f"{path.relative_to(ROOT)}: {name}"


def test_the_face_is_large_and_every_exception_belongs_to_it():
    names = {name for _, name in face()}
    assert len(names) > 140
    assert set(WITHOUT_EXAMPLE) <= names


@pytest.mark.parametrize("package", FACE)
def test_every_module_and_every_listed_name_has_a_summary(package):
    for path in modules(package):
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        assert re.search(r"[.:?!`]$", text.split("\n\n")[0].strip()), path
        for name in listed(path):
            if name in definitions(path):
                assert ast.get_docstring(definitions(path)[name]), f"{path}: {name}"


@pytest.mark.parametrize("package", FACE)
def test_every_module_lists_its_public_names(package):
    """`__all__` is there, and names only what the module holds."""
    for path in modules(package):
        if path.name in ("__init__.py", "__main__.py"):
            continue
        assert listed(path), f"{path} has no __all__"
        known = set(listed(path))
        source = path.read_text("utf-8")
        names = {name for name in known if not re.search(rf"\b{re.escape(name)}\b", source)}
        assert not names, f"{path}: __all__ names {names}, which are not there"
