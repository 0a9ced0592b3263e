"""Every command and every line of Python in the documents works as it stands there.

Blocks of Python are executed, one page after the other in one namespace; `unet2015` commands are
run on the sample, cropped, with few steps and a narrow network. A block after an HTML comment
`<!-- not run: reason -->` is checked for syntax: commands, options, files and targets must exist.
"""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command

from tiling.strict_tiff import read_stack
from unet2015.cli import app, main
from unet2015.sample import _tiff_bytes, write_sample

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LANGUAGES = {"python", "sh", "text", "bibtex", "toml", "json"}
NARROW = ["--steps", "3", "--set", "base_channels=2", "--set", "checkpoint_every=2"]
CROPS = {"images": 140, "labels": 140, "instances": 140, "large": 220, "large-labels": 220}


@dataclass(frozen=True)
class Block:
    """One fenced block: language, text, line of its page, whether it may be run."""

    page: Path
    language: str
    text: str
    line: int
    run: bool


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text("utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = re.fullmatch(r"```(\w*)", lines[number])
        if opening:
            end = lines.index("```", number + 1)
            before = lines[number - 1] if number else ""
            text = "\n".join(lines[number + 1 : end])
            run = not re.fullmatch(r"<!-- not run: .+ -->", before)
            found.append(Block(page, opening[1], text, number + 2, run))
            number = end
        number += 1
    return found


def commands_of(text: str) -> list[list[str]]:
    """Words of each command of a shell block; environment settings in front are left out."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
            words = words[1:]
        if words:
            commands.append(words)
    return commands


# Syntax ------------------------------------------------------------------------------------------


def check_ours(words: list[str]) -> None:
    """Our command line takes these words (nothing is done: the commands are deferred)."""
    if "--help" not in words:
        work = get_command(app).main(args=words, prog_name="unet2015", standalone_mode=False)
        assert callable(work), words


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {w for w in words if "=" not in w} <= targets, words


def check_python(words: list[str]) -> None:
    """`python script.py --option ...`, or `python -m venv | pip | pytest | unet2015 ...`."""
    if words[0] == "-c":
        compile(words[1], "documents", "exec")
    elif words[0] == "-m":
        module, rest = words[1], words[2:]
        assert module in ("venv", "pip", "pytest", "unet2015", "weightmaps", "benchmarks"), words
        if module == "unet2015":
            check_ours(rest)
        elif module == "weightmaps":
            check_ours(["weights", *rest])
        elif module == "pip":
            check_pip(rest)
        elif module == "pytest":
            assert all((ROOT / w).exists() for w in rest if w.startswith("tests")), words
    else:
        source = (ROOT / words[0]).read_text("utf-8")
        options = [w.split("=")[0] for w in words[1:] if w.startswith("--")]
        assert all(f'"{option}"' in source for option in options), words


def check_pip(words: list[str]) -> None:
    assert words[0] == "install", words
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for word in words[1:]:
        if asked := re.search(r"\[([\w,]+)\]", word):
            assert set(asked[1].split(",")) <= set(extras["optional-dependencies"]), word
        if word.endswith(".txt"):
            assert (ROOT / word).is_file(), word


def check_syntax(words: list[str]) -> None:
    program, rest = Path(words[0]).name, words[1:]
    if program == "unet2015":
        check_ours(rest)
    elif program == "make":
        check_make(rest)
    elif program in ("python", "python3"):
        check_python(rest)
    elif words == [".", ".venv/bin/activate"]:
        return  # where the Makefile puts the environment
    elif program == "torchrun":
        check_python(rest[rest.index("-m") :])
    else:
        pytest.fail(f"no check for the command {' '.join(words)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page):
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{page.name}:{block.line}: ```{block.language}"
        if block.language == "sh":
            for words in commands_of(block.text):
                check_syntax(words)
        elif block.language == "python":
            compile(block.text, f"{page.name}:{block.line}", "exec")
    for line in re.findall(r"^    (?:\$ )?(unet2015 .+)$", page.read_text("utf-8"), re.MULTILINE):
        check_syntax(shlex.split(line.rstrip("\\"), comments=True))


def test_wrong_commands_are_noticed():
    for line in ("unet2015 train a b --out c --stepz 3", "unet2015 predict a b --out c --save x",
                 "make cake", "python benchmarks/score_speed.py --jsen x",
                 "pip install '.[nothing]'"):  # fmt: skip
        with pytest.raises(BaseException) as caught:
            check_syntax(shlex.split(line))
        assert not isinstance(caught.value, KeyboardInterrupt)


# Execution ---------------------------------------------------------------------------------------


def crop_sample(folder: Path) -> None:
    """The sample's stacks cut to a corner, so that a page takes seconds."""
    for name, side in CROPS.items():
        pages = read_stack(folder / f"{name}.tif")[:, :side, :side]
        (folder / f"{name}.tif").write_bytes(_tiff_bytes(pages if len(pages) > 1 else pages[0]))


@pytest.fixture(scope="module")
def small_sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents") / "sample"
    write_sample(folder)
    crop_sample(folder)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["unet2015"])
    return tmp_path


def run_ours(words: list[str]) -> None:
    """One command of ours, made small."""
    small = [*words, *(NARROW if words[0] == "train" else [])]
    assert main(small) == 0, " ".join(small)
    if words[0] == "sample":
        crop_sample(Path(words[1]))


def run_page(page: Path, namespace: dict[str, object]) -> int:
    """Run the blocks of a page from top to bottom; how many commands and blocks that were."""
    count = 0
    for block in blocks_of(page):
        if block.run and block.language == "python":
            code = compile(block.text, f"{page.name}:{block.line}", "exec")
            exec(code, namespace)
            count += 1
        elif block.run and block.language == "sh":
            for words in commands_of(block.text):
                if words[0] == "unet2015":
                    run_ours(words[1:])
                    count += 1
    return count


def test_the_readme_from_top_to_bottom(folder, capsys):
    """Nothing is prepared: the README makes its own sample, maps, network and prediction."""
    assert run_page(ROOT / "README.md", {}) >= 6
    assert "V_info" in (folder / "run" / "report.html").read_text("utf-8")
    assert "wrong_pixels" in capsys.readouterr().out


def prepare_network(folder: Path) -> None:
    """`run/` and `probability.tif`, as training and predicting leave them; not trained."""
    from unet2015 import Checkpoint, UNet, save
    from unet2015.checkpoint import describe_network

    net = UNet(base_channels=2, depth=3)
    (folder / "run").mkdir()
    for name in ("best", "last"):
        state = Checkpoint(
            network=describe_network(net), weights=net.state_dict(), recipe=None,
            preprocessing={"scale": "dtype-range"}, step=0, measures={}, provenance={},
            optimiser={}, averaged={},
        )  # fmt: skip
        save(folder / "run" / f"{name}.safetensors", state)
    truth = read_stack(folder / "sample" / "large-labels.tif")[0]
    (folder / "probability.tif").write_bytes(_tiff_bytes(truth))


NEED_A_NETWORK = {"predicting.md", "large-images.md", "reliability.md", "results.md", "measures.md"}
WITH_THEIR_OWN_SAMPLE = {"README.md", "index.md"}


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if p.name not in WITH_THEIR_OWN_SAMPLE and any(b.run for b in blocks_of(p))],
    ids=lambda page: page.name,
)
def test_the_blocks_of_a_page_run(page, folder, small_sample):
    (folder / "sample").symlink_to(small_sample)
    if page.name in NEED_A_NETWORK:
        prepare_network(folder)
        if page.name == "predicting.md":
            (folder / "probability.tif").unlink()  # the page makes it
    run_page(page, {})


# Links -------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Names of the headings of a page, as a web server makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def test_pages_are_on_the_index():
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def test_the_readme_names_tests_and_scripts_that_exist():
    text = (ROOT / "README.md").read_text("utf-8")
    table = text.split("## What is claimed")[1].split("\n## ")[0]
    named = re.findall(r"`((?:tests|benchmarks|docs)/[\w/.]+)`", table)
    assert len(named) >= 7
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_picture_is_small():
    picture = ROOT / "docs" / "images" / "overview.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size < 400_000


def test_design_lists_every_module():
    text = (ROOT / "docs" / "design.md").read_text("utf-8").split("## Every module")[1]
    for package in ("tiling", "weightmaps", "unet2015"):
        part = text.split(f"`{package}/`")[1].split("\n`")[0]
        listed = re.findall(r"^\| `([\w/]+)` \| .+ \|$", part, re.MULTILINE)
        files = [
            p.relative_to(ROOT / package).with_suffix("") for p in (ROOT / package).rglob("*.py")
        ]
        modules = {p.as_posix() for p in files if p.name not in ("__init__", "__main__")}
        assert set(listed) == modules


def test_limits_in_security_are_those_of_the_code():
    from tiling.strict_tiff import Limits

    text = (ROOT / "SECURITY.md").read_text("utf-8")
    stated = dict(re.findall(r"^\| `(max_\w+)` \| (\d+) \|", text, re.MULTILINE))
    assert {name: float(value) for name, value in stated.items()} == {
        name: float(value) for name, value in vars(Limits()).items()
    }


def test_the_cpu_build_to_install_first_is_the_one_that_is_pinned():
    pinned = re.findall(
        r"^torch==[\d.]+", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE
    )
    for page in (ROOT / "README.md", ROOT / "docs" / "install.md"):
        assert re.findall(r"`(torch==[\d.]+)`", page.read_text("utf-8")) == pinned


def test_exit_codes_on_the_page_and_in_the_help_are_those_of_the_code():
    from tiling import certificate, faults

    codes = {getattr(faults, name).exit_code for name in faults.__all__} | {0, 130, 143}
    codes.add(certificate.SeamError.exit_code)
    page = (ROOT / "docs" / "predicting.md").read_text("utf-8").split("## Exit codes")[1]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == codes
    assert {int(code) for code in re.findall(r"\d+", app.info.epilog)} == codes
