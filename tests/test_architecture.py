"""The house stands as docs/design.md draws it: arrows, sizes, the one writing layer, no strangers.

Everything is read from the source text (AST); two interpreters are started to see what is loaded.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("unet2015", "weightmaps", "tiling")
MODULES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# Files of weightmaps that may use tiling's writer and reader are those that the core never needs.
CORE = ("formula", "nearest_two", "reference", "labels", "compiled", "class_balance", "spec")
# The parts of unet2015 that hold the paper's equations know neither files nor the other packages.
ALLOWED = {
    "tiling": {"numpy", "tifffile", "zarr", "imagecodecs", "PIL", "typer", "_typeshed"},
    "weightmaps core": {"numpy", "scipy", "numba"},
    "weightmaps": {
        "numpy", "scipy", "numba", "tifffile", "matplotlib", "typer", "rich", "tiling",
    },
}  # fmt: skip
LARGEST_FILE = 320  # lines; about 300 is meant (CONTRIBUTING.md)
LONGEST_FUNCTION = 55  # lines of code; about 50, a screen, are meant
MOST_ARGUMENTS = 9  # besides self
# Where a file is written without `tiling.safe_write`, and why that is right.
WRITERS = {
    "tiling/disk.py": "the layer itself",
    "tiling/safe_write.py": "the layer itself",
    "tiling/lock.py": "the lock file is no artefact",
    "tiling/zarr_growing.py": "shards in a folder of ours; the folder is published",
    "unet2015/export.py": "pieces of a package, in a temporary folder; the package is published",
    "unet2015/sample.py": "tifffile writes to memory",
    "weightmaps/compiled.py": "numba's private cache, with its own checksum and rename",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> frozenset[str]:
    """Full names of the modules imported anywhere in a file, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def strangers(path: Path) -> set[str]:
    """Top-level packages imported by a file, without the standard library and its own package."""
    tops = {name.split(".")[0] for name in imports(path)}
    return tops - set(sys.stdlib_module_names) - {path.relative_to(ROOT).parts[0]}


def reached(package: str, starts: tuple[str, ...]) -> set[Path]:
    """Files of a package that are imported, directly or not, from some of its modules."""
    todo = [ROOT / package / f"{name}.py" for name in starts]
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        parts = [name.split(".") for name in imports(path)]
        todo += [ROOT / package / f"{p[1]}.py" for p in parts if p[0] == package and len(p) > 1]
    return seen


def modules_of(package: str) -> list[Path]:
    return [path for path in MODULES if path.relative_to(ROOT).parts[0] == package]


# Arrows ------------------------------------------------------------------------------------------


def test_tiling_knows_neither_of_the_others():
    for path in modules_of("tiling"):
        assert strangers(path) <= ALLOWED["tiling"], name_of(path)


def test_weightmaps_knows_tiling_at_most():
    for path in modules_of("weightmaps"):
        assert strangers(path) <= ALLOWED["weightmaps"], name_of(path)


def test_the_core_of_weightmaps_knows_no_files():
    core = reached("weightmaps", CORE)
    assert {path.stem for path in core} >= {*CORE, "kernels", "fast_term"}
    for path in core:
        assert strangers(path) <= ALLOWED["weightmaps core"], name_of(path)


def test_only_unet2015_imports_torch():
    users = [path for path in MODULES if "torch" in strangers(path)]
    assert {path.relative_to(ROOT).parts[0] for path in users} == {"unet2015"}


def test_net_imports_torch_and_the_standard_library_alone():
    path = ROOT / "unet2015" / "net.py"
    assert strangers(path) == {"torch"}
    assert not [name for name in imports(path) if name.split(".")[0] in PACKAGES]


@pytest.mark.parametrize("module", ["energy", "recipe", "counter"])
def test_the_equations_know_nothing_of_ours(module):
    path = ROOT / "unet2015" / f"{module}.py"
    assert not [name for name in imports(path) if name.split(".")[0] in PACKAGES]


def test_variants_import_the_core_and_only_the_list_of_networks_imports_variants():
    """A checkpoint names its network, so one literal table has to know every architecture."""
    for path in modules_of("unet2015"):
        if "variants" in path.relative_to(ROOT).parts:
            ours = {n for n in imports(path) if n.split(".")[0] in PACKAGES}
            assert all(n.startswith("unet2015.net") for n in ours), name_of(path)
        elif any(name.startswith("unet2015.variants") for name in imports(path)):
            assert path.name == "networks.py", name_of(path)


def test_the_libraries_do_not_import_the_command_line():
    verbs = {"cli", "cli_train", "cli_predict", "score_cli"}
    for path in modules_of("unet2015"):
        taken = {n.split(".")[1] for n in imports(path) if n.startswith("unet2015.")}
        assert path.stem in {*verbs, "__main__"} or not taken & verbs, name_of(path)


# What an interpreter loads -----------------------------------------------------------------------

HEAVY = ("torch", "numba", "matplotlib", "zarr", "scipy", "skimage", "tifffile")


def loaded_after(code: str) -> set[str]:
    """Heavy packages in `sys.modules` after running `code` in a new interpreter."""
    ending = f"\nimport json, sys\nheavy = [m for m in {HEAVY} if m in sys.modules]"
    ending += "\nsys.stderr.write(json.dumps(heavy))"
    run = subprocess.run(
        [sys.executable, "-c", code + ending], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(run.stderr.splitlines()[-1]))


def test_weightmaps_and_tiling_leave_torch_unloaded():
    assert "torch" not in loaded_after("import weightmaps, tiling, unet2015")


def test_help_of_every_verb_comes_before_anything_heavy():
    code = """
from unet2015.cli import app, main
verbs = [command.name for command in app.registered_commands]
assert len(verbs) == 10, verbs
for words in [["--help"], *([verb, "--help"] for verb in verbs)]:
    assert main(words) == 0, words
"""
    assert loaded_after(code) == set()


def test_public_names_are_no_modules():
    """`unet2015.name` would mean the module after `import unet2015.name`, the function before."""
    import unet2015

    assert not set(unet2015.__all__) & {path.stem for path in modules_of("unet2015")}
    assert all(getattr(unet2015, name) is not None for name in unet2015.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = unet2015.trian


# Sizes -------------------------------------------------------------------------------------------


def test_files_can_be_read_in_one_sitting():
    long = {name_of(p): len(p.read_text("utf-8").splitlines()) for p in MODULES}
    assert {name: lines for name, lines in long.items() if lines > LARGEST_FILE} == {}


def test_functions_fit_on_a_screen():
    """Counted without blank lines, comments and the docstring."""
    long = {}
    for path in MODULES:
        lines = path.read_text("utf-8").splitlines()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[bool(ast.get_docstring(node)) :][:1]
                code = lines[first[0].lineno - 1 : node.end_lineno] if first else []
                count = sum(bool(line.split("#")[0].strip()) for line in code)
                if count > LONGEST_FUNCTION:
                    long[f"{name_of(path)}: {node.name}"] = count
    assert long == {}


def test_functions_take_few_arguments():
    """Except commands, whose arguments are options, and compiled kernels, which take numbers."""
    many = []
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.FunctionDef):
                continue
            given = node.args
            names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            count = len([name for name in names if name not in ("self", "cls")])
            command = any("typer." in ast.unparse(a.annotation) for a in given.args if a.annotation)
            kernel = any("compiled" in ast.unparse(d) for d in node.decorator_list)
            if count > MOST_ARGUMENTS and not command and not kernel:
                many.append(f"{name_of(path)}: {node.name} takes {count}")
    assert many == []


# Writing and reading -----------------------------------------------------------------------------

BANNED = {
    "torch.load": "unet2015.checkpoint.load",
    "torch.save": "unet2015.checkpoint.save",
    "tifffile.imread": "tiling.strict_tiff",
    "tifffile.memmap": "tiling.strict_tiff",
    "tifffile.imwrite": "tiling.safe_write",
    "np.memmap": "tiling.strict_tiff",
    "np.save": "tiling.safe_write",
    "np.load": "tiling",
    "plt.savefig": "tiling.safe_write",
}


def breaches(code: ast.AST, *, may_write: bool) -> list[str]:
    """Calls in `code` that go around the reader or the writing layer."""
    found = []
    for node in ast.walk(code):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        plain = called.replace("numpy.", "np.")
        banned = [b for b in BANNED if plain == b or plain.endswith("." + b)]
        if banned and not (may_write and banned[0] == "tifffile.imwrite"):
            found.append(f"line {node.lineno}: {called}; use {BANNED[banned[0]]}")
        if called == "print":
            found.append(f"line {node.lineno}: print; the command line speaks, a library does not")
        if any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords):
            found.append(f"line {node.lineno}: allow_pickle")
        if may_write:
            continue
        # `open(name, mode)` and `path.open(mode)`; os.open takes flags and is not this.
        if called == "open" or (
            called.endswith(".open") and called not in ("os.open", "zarr.open")
        ):
            place = 1 if called == "open" else 0
            given = [k.value for k in node.keywords if k.arg == "mode"] + node.args[place:]
            modes = [a.value for a in given[:1] if isinstance(a, ast.Constant)]
            if any(set(str(mode)) & set("wax+") for mode in modes):
                found.append(f"line {node.lineno}: {called} for writing; use tiling.safe_write")
        if re.search(r"\.write_(text|bytes)$", called) and not called.startswith("safe_write"):
            found.append(f"line {node.lineno}: {called}; use tiling.safe_write")
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_goes_around_the_reader_and_the_writing_layer(path):
    assert breaches(tree(path), may_write=name_of(path) in WRITERS) == []


def test_every_exception_to_the_writing_layer_is_still_there():
    assert [name for name in WRITERS if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p)", "torch.save(x, p)", "tifffile.imread(p)", "tifffile.imwrite(p, a)",
        "tifffile.memmap(p)", "np.load(p, allow_pickle=True)", "numpy.memmap(p)", "open(p, 'w')",
        "open(p, mode='ab')", "p.open('wb')", "Path(p).write_text('')", "print(1)",
        "read(p, allow_pickle=flag)",
    ],
)  # fmt: skip
def test_the_watchman_sees(line):
    assert breaches(ast.parse(line), may_write=False)


@pytest.mark.parametrize(
    "line", ["open(p)", "open(p, 'rb')", "p.open('rb')", "write_bytes(p, b'')", "zarr.open(p)"]
)
def test_the_watchman_sleeps(line):
    assert not breaches(ast.parse(line), may_write=False)


# Strangers in the text ---------------------------------------------------------------------------

# One letter of each word stands in brackets, so that this file does not hold what it forbids.
FORBIDDEN = {
    "a path of somebody's machine": r"(?<![\w.~-])/(?:[h]ome|[U]sers|[r]oot|[w]ork)/\w",
    "a package registry": r"[p]ypi\.org|[p]ythonhosted|[c]onda\.anaconda|[d]ownload\.pytorch"
    r"|[i]ndex-url\s*[=:]|[a]rtifactory",
    "a secret": r"[g]h[pousr]_\w{30}|[A]KIA[A-Z0-9]{16}|[B]EGIN [A-Z ]*PRIVATE KEY",
    "an unfinished place": r"\b(?:[F]IXME|[X]XX|[T]ODO)\b",
}
TEXTS = (".py", ".md", ".toml", ".txt", ".cff", ".css", ".j2", ".json", ".yml", ".yaml", ".sh", "")


def texts() -> list[Path]:
    kept = [
        ROOT / name
        for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile",
                     "pyproject.toml", "constraints.txt", "CITATION.cff", ".ci/run")
    ]  # fmt: skip
    for folder in (*PACKAGES, "tests", "docs", "benchmarks"):
        kept += [p for p in (ROOT / folder).rglob("*") if p.suffix in TEXTS and p.is_file()]
    return [p for p in kept if "__pycache__" not in p.parts and p.is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_text_holds(what):
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{name_of(path)}:{number}: {line.strip()[:100]}"
        for path in texts()
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
