"""What a user installs: three packages, their data and licences, and nothing else."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import unet2015

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = ("unet2015", "weightmaps", "tiling")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Names in the wheel and its metadata, and names in the source archive; built offline."""
    reason = "hatchling is not installed: the wheel cannot be built and looked into"
    pytest.importorskip("hatchling", reason=reason)
    folder = tmp_path_factory.mktemp("dist")
    code = (
        "import sys; from hatchling.builders.wheel import WheelBuilder;"
        "from hatchling.builders.sdist import SdistBuilder;"
        "[list(b('.').build(directory=sys.argv[1])) for b in (WheelBuilder, SdistBuilder)]"
    )
    subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    (source,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = [name for name in names if name.endswith("dist-info/METADATA")]
        metadata = email.message_from_string(archive.read(about).decode("utf-8"))
    with tarfile.open(source) as archive:
        sources = [name.partition("/")[2] for name in archive.getnames()]
    return names, metadata, sources


def test_the_wheel_holds_three_packages_and_nothing_else(built):
    names, _, _ = built
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == set(PACKAGES)
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|/tests?/|\.nb[ci]$", name)]


def test_the_wheel_holds_every_file_of_the_packages(built):
    names, _, _ = built
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in names, path
        assert f"{package}/py.typed" in names


def test_data_and_licences_travel(built):
    names, metadata, _ = built
    for wanted in ("unet2015/templates/report.html.j2", "unet2015/templates/report.css",
                   "unet2015/samples/nuclei.png", "unet2015/samples/axons.png"):  # fmt: skip
        assert wanted in names, wanted
    licences = {name.rpartition("/")[2] for name in names if "/licenses/" in name}
    assert {"LICENSE", "LICENSE-axons-MIT.txt", "LICENSE-nuclei-CC0.txt"} <= licences
    assert metadata["License-Expression"] == "MIT"


def test_the_metadata_is_what_the_project_says(built):
    _, metadata, _ = built
    assert metadata["Name"] == "unet2015"
    assert metadata["Version"] == PROJECT["project"]["version"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload().startswith("# unet2015")


def test_the_source_archive_can_test_itself(built):
    _, _, sources = built
    for wanted in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile",
                   "constraints.txt", "tests/conftest.py", "docs/fidelity.md"):  # fmt: skip
        assert wanted in sources, wanted


def test_versions_agree():
    version = PROJECT["project"]["version"]
    assert unet2015.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## \[([^\]]+)\]", changes, re.MULTILINE)[1] == version


def test_packages_are_listed_one_by_one():
    """Automatic discovery refuses a layout with several top-level packages."""
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)
    assert PROJECT["project"]["scripts"] == {"unet2015": "unet2015.__main__:run"}
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()


def test_every_dependency_has_a_floor_and_a_pin():
    """Ranges in pyproject.toml, known-good versions in constraints.txt; rivals are not pinned."""
    project = PROJECT["project"]
    groups = [*project["optional-dependencies"].values(), *PROJECT["dependency-groups"].values()]
    wanted = [*project["dependencies"], *(one for group in groups for one in group)]
    pins = (ROOT / "constraints.txt").read_text("utf-8").lower().replace(".", "-").replace("_", "-")
    for requirement in wanted:
        name = re.match(r"[\w.-]+", requirement)[0].lower().replace(".", "-").replace("_", "-")
        assert re.search(r"(>=|<)", requirement), requirement
        optional = requirement in PROJECT["dependency-groups"].get("bench", [])
        assert optional or re.search(rf"^{name}==", pins, re.MULTILINE), f"{name} has no pin"


def test_the_torch_floor_is_the_one_the_loader_demands():
    from unet2015.checkpoint import require_safe_torch

    (torch,) = [d for d in PROJECT["project"]["dependencies"] if d.startswith("torch>")]
    assert torch == "torch>=2.10"
    assert "2.10" in (require_safe_torch.__doc__ or "")
