"""B7, C23, B6: what others laid beside the output: pipes, links, folders. No hang, no victim."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.faults.killing import MAKE_MODEL
from tests.faults.warm import Warm
from tiling.faults import Fault, WriteError
from tiling.journal import journal_lines
from tiling.partial import Partial
from tiling.safe_write import OutputLock, remove_stale
from tiling.tiff_sink import TiffSink
from tiling.unfinished import discard_partial, unfinished_identity
from tiling.zarr_sink import ZarrSink

ENDINGS = (".part", ".part.journal", ".lock", ".part.zarr", ".old.zarr", ".7.swap.zarr")
KINDS = ("pipe", "link", "dangling link", "link to a folder", "folder")
BLOCK = np.full((20, 30), 7, np.uint8)


def plant(place: Path, kind: str, victim: Path) -> None:
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        names = {"link": "file", "dangling link": "new", "link to a folder": "folder"}
        place.symlink_to(victim / names[kind])


def state(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("form", ["tif", "zarr"])
def test_b7_what_lies_beside_an_output_is_never_written_through(
    tmp_path: Path, form: str, ending: str, kind: str
) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out" / f"o.{form}"
    (victim / "folder").mkdir(parents=True)
    (victim / "file").write_bytes(b"precious")
    out.parent.mkdir()
    before = state(victim)
    plant(out.parent / f".{out.name}{ending}", kind, victim)
    sink = TiffSink if form == "tif" else ZarrSink
    for resume in (False, True):
        try:
            with sink(out, (20, 30), np.uint8, resume=resume, overwrite=True) as written:
                written[..., 0:20, 0:30] = BLOCK
        except WriteError as error:
            told = error.reason
            assert "\n" not in told
            assert "disk may be failing" not in told
        unfinished_identity(out)  # neither hangs
        remove_stale(out.parent)
        assert state(victim) == before


def test_b7_a_link_in_the_place_of_resumable_data_is_not_taken_up(tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "o.bin"
    victim.write_bytes(b"precious")
    with Partial(out) as partial:
        partial.file.write(b"x" * 8)
        partial.append({"piece": 0})
    (tmp_path / ".o.bin.part").unlink()
    (tmp_path / ".o.bin.part").symlink_to(victim)
    with Partial(out) as partial:
        assert partial.records == []
        partial.file.write(b"new")
        partial.publish()
    assert out.read_bytes() == b"new"
    assert victim.read_bytes() == b"precious"


def test_b8_a_lock_that_is_no_file_is_named(tmp_path: Path) -> None:
    for kind in ("pipe", "dangling link", "folder"):
        out = tmp_path / f"{kind}.tif"
        plant(tmp_path / f".{kind}.tif.lock", kind, tmp_path)
        with pytest.raises(WriteError, match="is no lock file of ours; remove it"):
            OutputLock(out).acquire()
    assert not (tmp_path / "new").exists()


def test_a7_the_journal_of_another_format_is_junk(tmp_path: Path) -> None:
    (tmp_path / ".o.bin.part").write_bytes(b"x")
    lines, _ = journal_lines([{"format": "unet2015-journal/1", "identity": [1]}])
    (tmp_path / ".o.bin.part.journal").write_bytes(lines)
    assert unfinished_identity(tmp_path / "o.bin") is None
    with pytest.raises(Fault, match="no identity"), Partial(tmp_path / "o.bin"):
        pass
    assert len(discard_partial(tmp_path / "o.bin")) == 2


def test_c23_pipes_given_as_recipe_or_history_end_at_once(warm: Warm, tmp_path: Path) -> None:
    assert warm.run(tmp_path / "m.safetensors", "1", code=MAKE_MODEL).code == 0
    tifffile.imwrite(tmp_path / "i.tif", BLOCK, photometric="minisblack")
    os.mkfifo(tmp_path / "r.json")
    done = warm.run("train", tmp_path / "i.tif", tmp_path / "i.tif", "--out", tmp_path / "run",
                    "--recipe", tmp_path / "r.json")  # fmt: skip
    assert done.code == 3
    assert "is no recipe" in done.err
    os.mkfifo(tmp_path / ".o.tif.part.journal")
    done = warm.run("predict", tmp_path / "m.safetensors", tmp_path / "i.tif",
                    "--out", tmp_path / "o.tif", "--resume")  # fmt: skip
    assert done.code == 0, done.err


def test_c24_what_a_file_says_cannot_steer_a_terminal(warm: Warm, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", BLOCK, metadata=None,
                     description="x \x1b[2J \x9b31m y".encode())  # fmt: skip
    done = warm.run("info", tmp_path / "a.tif")
    assert done.code == 0
    assert "x \\x1b[2J" in done.out
    done = warm.run("info", tmp_path / "no\x1b[2J\u202ename.tif")
    assert done.code == 3
    assert "no\\x1b[2J\\u202ename.tif" in done.err
    assert "\x1b" not in done.out + done.err
