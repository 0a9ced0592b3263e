"""B7: outputs that are mount points, or lie in a layer of a container that cannot be renamed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.small_world import in_small_world
from tiling.mounts import is_mounted

MOUNT_FILE = """
import subprocess, sys
from pathlib import Path
from tiling.faults import WriteError
from tiling.safe_write import check_output, write_bytes
folder = Path(sys.argv[1])
host, out = folder / "host.bin", folder / "with blank.bin"
for path in (host, out):
    path.write_bytes(b"old")
if subprocess.run(["mount", "--bind", host, out]).returncode:
    sys.exit(77)
for refused in (lambda: check_output(out, overwrite=True),
                lambda: write_bytes(out, b"new", overwrite=True)):
    try:
        refused()
    except WriteError as error:
        print(error)
print(host.read_bytes(), sorted(path.name for path in folder.iterdir()))
"""

MOUNT_FOLDER = """
import subprocess, sys
from pathlib import Path
from tests.faults.test_b_mounts import read_zarr, write_zarr
from tiling.faults import WriteError
folder = Path(sys.argv[1])
for name in ("host.zarr", "o.zarr"):
    write_zarr(folder / name, 1)
if subprocess.run(["mount", "--bind", folder / "host.zarr", folder / "o.zarr"]).returncode:
    sys.exit(77)
try:
    write_zarr(folder / "o.zarr", 2, overwrite=True)
except WriteError as error:
    print(error)
print(sorted(path.name for path in folder.iterdir()))
"""

OVERLAY = """
import shutil, subprocess, sys
from pathlib import Path
from tests.faults.test_b_mounts import read_zarr, write_zarr
from tiling.faults import WriteError
folder = Path(sys.argv[1])
if subprocess.run(["mount", "-t", "tmpfs", "none", folder]).returncode:
    sys.exit(77)
for name in ("low", "up", "work", "seen"):
    (folder / name).mkdir()
write_zarr(folder / "low/o.zarr", 1)
layers = "lowerdir=low,upperdir=up,workdir=work,userxattr"
if subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", "seen"], cwd=folder).returncode:
    sys.exit(77)
out = folder / "seen/o.zarr"
try:
    write_zarr(out, 2, overwrite=True)
except WriteError as error:
    print(error)
print(read_zarr(out))
shutil.rmtree(out)
write_zarr(out, 3, resume=True, rows_done=20)
print(read_zarr(out), sorted(path.name for path in out.parent.iterdir()))
"""


def write_zarr(out: Path, value: int, *, rows_done: int = 0, **how: bool) -> None:
    """An array of one value; of a resumed one only the rows after `rows_done`."""
    import numpy as np

    from tiling import open_sink

    with open_sink(out, (20, 30), "uint8", **how) as sink:
        assert sink.page(0).rows_done == rows_done
        if rows_done < 20:
            sink[:, rows_done:20, 0:30] = np.full((1, 20 - rows_done, 30), value, np.uint8)


def read_zarr(path: Path) -> list[int]:
    """Values in it."""
    import numpy as np

    from tiling import open_source

    with open_source(path) as source:
        return np.unique(source[..., 0:20, 0:30]).tolist()


def test_b7_a_file_that_is_mounted_by_itself_is_refused_before_the_work(tmp_path: Path) -> None:
    done = in_small_world(MOUNT_FILE, tmp_path)
    assert done.returncode == 0, done.stderr
    *refusals, last = done.stdout.splitlines()
    assert len(refusals) == 2
    for line in refusals:
        assert "is mounted by itself" in line
        assert "mount its folder instead" in line
    assert last == "b'old' ['host.bin', 'with blank.bin']"


def test_b7_a_zarr_that_is_mounted_by_itself_is_refused_before_the_work(tmp_path: Path) -> None:
    done = in_small_world(MOUNT_FOLDER, tmp_path)
    assert done.returncode == 0, done.stderr
    refusal, last = done.stdout.splitlines()
    assert "is mounted by itself" in refusal
    assert last == "['host.zarr', 'o.zarr']"


def test_b7_a_zarr_in_a_layer_below_stays_and_the_new_one_is_kept(tmp_path: Path) -> None:
    done = in_small_world(OVERLAY, tmp_path)
    assert done.returncode == 0, done.stderr
    refusal, kept, last = done.stdout.splitlines()
    assert "another layer of a container" in refusal
    assert "remove it, then run again with --resume" in refusal
    assert kept == "[1]"
    assert last == "[2] ['o.zarr']"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (r"36 35 98:0 /a /out/r.tif rw,noatime master:1 - ext4 /dev/root rw", True),
        (r"36 35 98:0 /a /out/r\040x.tif rw - ext4 /dev/root rw", False),
        (r"36 35 98:0 / /out rw - ext4 /dev/root rw", False),
        ("36 35", False),
        ("", False),
    ],
)
def test_b7_a_mount_point_is_read_from_the_list_of_the_system(
    tmp_path: Path, line: str, found: bool
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / / rw - tmpfs none rw\n{line}\n")
    assert is_mounted(Path("/out/r.tif"), table) == found
    assert is_mounted(Path("/"), table)
    assert is_mounted(Path("/out/r x.tif"), table) == ("040" in line)
    assert not is_mounted(Path("/"), tmp_path / "none")
