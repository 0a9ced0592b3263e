"""C14, C23 for Zarr: chunks under other names than the metadata imply, leftovers, odd levels."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.faults.test_c_zarr import shape_of_chunk, version_2, version_3
from tiling.faults import InputError
from tiling.zarr import ZarrSource
from unet2015.cli import main

HALVES = {"shape": [64, 64], "chunks": [32, 64]}
BLOCK = bytes([7]) * 2048
AXES = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]


def array_2(folder: Path, files: list[str], **changes: Any) -> Path:
    """Two chunks, one below the other, in files of these names."""
    path = version_2(folder, BLOCK, **HALVES, **changes)
    (path / "0.0").unlink()
    return laid(path, files)


def array_3(folder: Path, files: list[str], **changes: Any) -> Path:
    path = version_3(folder, BLOCK, chunk_grid=shape_of_chunk(32, 64), **changes)
    (path / "c" / "0" / "0").unlink()
    return laid(path, files)


def laid(path: Path, files: list[str]) -> Path:
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(BLOCK)
    return path


def opened(path: Path) -> tuple[Any, tuple[str, ...]]:
    with ZarrSource(path) as source:
        return source.whole()[0], source.doubts


V2 = {"name": "v2", "configuration": {"separator": "."}}


@pytest.mark.parametrize(
    ("made", "changes", "files", "expected"),
    [
        (array_2, {}, ["0/0", "1/0"], "0.0"),
        (array_2, {"dimension_separator": "/"}, ["0.0", "1.0"], "0/0"),
        (array_2, {}, ["0_0", "1_0"], "0.0"),
        (array_2, {}, ["5.5"], "0.0"),
        (array_3, {}, ["0.0", "1.0"], "c/0/0"),
        (array_3, {}, ["0/0", "1/0"], "c/0/0"),
        (array_3, {}, ["c.0.0", "c.1.0"], "c/0/0"),
        (array_3, {"chunk_key_encoding": V2}, ["c/0/0", "c/1/0"], "0.0"),
    ],
)
def test_c23_chunks_under_other_names_are_no_zeros(
    tmp_path: Path, made: Any, changes: dict[str, Any], files: list[str], expected: str
) -> None:
    path = made(tmp_path, [*files, "A.txt"], **changes)
    told = re.escape(f"({expected} was looked for, {files[0]} is there)")
    with pytest.raises(InputError, match=f"none of its chunks.*{told}; .*save the image anew"):
        ZarrSource(path)
    assert main(["info", str(path)]) == 3


@pytest.mark.parametrize("made", [array_2, array_3])
@pytest.mark.parametrize("files", [[], [".DS_Store", "._0.0", ".nfs0001", ".git/refs/0", ".x"]])
def test_c23_chunks_that_nobody_wrote_are_the_fill_value(
    tmp_path: Path, made: Any, files: list[str]
) -> None:
    pixels, doubts = opened(made(tmp_path, files, fill_value=9))
    assert (pixels == 9).all()
    assert doubts == ()


@pytest.mark.parametrize(
    ("made", "whole", "lost", "left"),
    [
        (array_2, "0.0", "1.0", ".1.0.Xy12Z"),
        (array_2, "0.0", "1.0", "1.0.tmp"),
        (array_2, "0.0", "1.0", ".~tmp~/1.0"),
        (array_2, "0.0", "1.0", "1.0 (conflicted copy 2026-11-28 101500)"),
        (array_2, "0.0", "1.0", "1.0 - Copy"),
        (array_3, "c/0/0", "c/1/0", "c/1/0(1)"),
        (array_3, "c/0/0", "c/1/0", "c/1/0.sync-conflict-20261128-101500-ABCDEFG"),
        (array_3, "c/0/0", "c/1/0", "c/1/.0.Xy12Za"),
        (array_3, "c/0/0", "c/1/0", "c/1/0.3fa94c.partial"),
        (array_3, "c/0/0", "c/1/0", "c/1/.rsync-partial/0"),
    ],
)
def test_c23_a_chunk_of_which_only_a_temporary_file_is_there(
    tmp_path: Path, made: Any, whole: str, lost: str, left: str
) -> None:
    path = made(tmp_path, [whole, left])
    told = re.escape(f"lacks its chunk {lost}, and {left} lies there")
    with pytest.raises(InputError, match=f"{told}.*copy the folder again"):
        ZarrSource(path)
    laid(path, [lost])
    pixels, doubts = opened(path)
    assert (pixels == 7).all()
    assert doubts == ()


def test_c23_nothing_but_temporary_files(tmp_path: Path) -> None:
    path = array_2(tmp_path, ["1.3fa94c.partial"])
    with pytest.raises(InputError, match=r"none of its chunks.*1.3fa94c.partial is there"):
        ZarrSource(path)


@pytest.mark.parametrize(
    "left", ["1.3fa94c.partial", ".0.0.Xy12Za", "9.9", "0/1", "1 (conflicted copy 2026-11-28).0"]
)
def test_c23_missing_chunks_beside_what_may_be_one_are_doubted(tmp_path: Path, left: str) -> None:
    """zarr drops the last number of a name that holds points: which chunk it was is not known."""
    pixels, doubts = opened(array_2(tmp_path, ["0.0", left, "A.txt"]))
    assert (pixels[:32] == 7).all()
    assert not pixels[32:].any()
    assert len(doubts) == 1
    assert doubts[0].startswith(
        f"lacks 1 of its 2 chunks, read as the fill value, and holds {left}"
    )


def test_c23_a_file_of_another_kind_beside_chunks_is_nobodys_concern(tmp_path: Path) -> None:
    assert opened(array_2(tmp_path, ["0.0", "read me.txt"]))[1] == ()


def test_c23_the_shards_of_an_array_are_counted_not_its_chunks(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(64, 64), chunks=(8, 8), shards=(32, 32), dtype="u1",
        dimension_names=["y", "x"],
    )  # fmt: skip
    array[:] = 1
    (tmp_path / "a.zarr" / "c" / "left.tmp").write_bytes(b"")
    assert opened(tmp_path / "a.zarr")[1] == ()
    (tmp_path / "a.zarr" / "c" / "1" / "1").unlink()
    assert "lacks 1 of its 4 chunks" in opened(tmp_path / "a.zarr")[1][0]


def test_c23_a_folder_of_chunks_that_is_a_link_is_followed(tmp_path: Path) -> None:
    path = array_3(tmp_path, ["c/0/0", "c/1/0"])
    (path / "c").rename(path / "elsewhere")
    (path / "c").symlink_to("elsewhere")
    (path / "loop").symlink_to("loop")
    assert (opened(path)[0] == 7).all()


def test_c23_the_folder_is_listed_no_oftener_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = array_3(tmp_path, ["c/0/0", "c/1/0"])
    listed: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: listed.append(str(place)) or real(place))
    with ZarrSource(path):
        assert len(listed) == len(set(listed)) == 4  # the array, c, c/0, c/1


@pytest.mark.parametrize("version", [2, 3])
def test_c14_levels_that_do_not_begin_with_the_finest(tmp_path: Path, version: int) -> None:
    path = image_of(tmp_path, version, {"0": (32, 40), "1": (16, 20)}, [["1", "0"]])
    told = re.escape("'0' of 32 x 40 pixels after '1' of 16 x 20")
    with pytest.raises(InputError, match=f"finest.*{told}.*name its array 0"):
        ZarrSource(path)
    image_of(tmp_path / "b", version, {"0": (32, 40), "1": (16, 20)}, [["0", "1", "missing"]])
    assert opened(tmp_path / "b" / "a.zarr")[1] == ()


def test_c14_a_second_image_is_told_of(tmp_path: Path) -> None:
    path = image_of(tmp_path, 3, {"0": (4, 4), "b": (4, 4)}, [["0"], ["b"]])
    assert opened(path)[1] == (
        "holds 2 images (multiscales); the first of them is read, name an array for another",
    )
    path = image_of(tmp_path / "b", 3, {"0": (4, 4)}, [["0"], ["0"]])
    assert opened(path)[1] == ()


def image_of(
    folder: Path, version: int, arrays: dict[str, tuple[int, ...]], paths: list[list[str]]
) -> Path:
    told = {
        "multiscales": [
            {"axes": AXES, "datasets": [{"path": name} for name in names]} for names in paths
        ]
    }
    attributes = {"ome": told} if version == 3 else told
    folder.mkdir(exist_ok=True)
    group = zarr.create_group(folder / "a.zarr", zarr_format=version, attributes=attributes)
    for name, shape in arrays.items():
        group.create_array(name, shape=shape, chunks=shape, dtype="u1")[...] = 1
    return folder / "a.zarr"


def test_c9_a_refusal_comes_without_foreign_warnings(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    codecs = [{"name": "bytes"}, {"name": "numcodecs.zlib", "configuration": {"level": 1}}]
    path = version_3(tmp_path, b"", codecs=codecs)
    for words in (["info"], ["weights"], ["score", str(path)]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert main([words[0], str(path), *words[1:]]) == 3
        assert caught == []
        said = capfd.readouterr().err
        assert "'numcodecs.zlib'" in said
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        (".zarray", '{"zarr_format": 3}', "says zarr_format 3, which is 2 in a file of this name"),
        (".zgroup", '{"zarr_format": 4}', "says zarr_format 4, which is 2"),
        ("zarr.json", '{"zarr_format": 2, "node_type": "array"}', "says zarr_format 2, which is 3"),
        (".zarray", '{"zarr_format": 3, "zarr_format": 2}', "names 'zarr_format' more than once"),
        (".zarray", '{"zarr_format": 2, "zarr_format": 3}', "names 'zarr_format' more than once"),
    ],
)
def test_c2_metadata_of_another_version_are_told_as_such(
    tmp_path: Path, name: str, text: str, match: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{match}.*save the image anew"):
        ZarrSource(tmp_path)


def test_c2_keys_that_an_attribute_repeats_are_nobodys_concern(tmp_path: Path) -> None:
    path = array_2(tmp_path, ["0.0", "1.0"])
    (path / ".zattrs").write_text('{"a": 1, "a": 2}')
    text = json.loads((path / ".zarray").read_text()) | {"attributes": {}}
    (path / ".zarray").write_text(json.dumps(text).replace("{}", '{"a": 1, "a": 2}'))
    assert np.all(opened(path)[0] == 7)
