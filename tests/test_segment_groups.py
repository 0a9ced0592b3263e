"""Segments that are read and decoded together: each once, and the same pixels as one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

import tiling.segment_groups
from tiling.segment_groups import Group
from tiling.segments import Segments
from tiling.strict_tiff import open_tiff


@dataclass
class Bytes:
    """A file that remembers what was read of it."""

    content: bytes
    reads: list[tuple[int, int]] = field(default_factory=list)

    def read(self, start: int, length: int) -> bytes:
        self.reads.append((start, length))
        return self.content[start : start + length]


def lists(offsets: Any, counts: Any) -> Segments:
    return Segments(
        np.array(offsets, np.uint64).reshape(1, 1, -1),
        np.array(counts, np.uint64).reshape(1, 1, -1),
    )


def test_neighbours_in_one_piece_are_read_by_one_call():
    file = Bytes(bytes(range(100)))
    found = list(Group(0, 0, 0, 3, 1).stored(file, lists([10, 14, 15], [4, 1, 5])))  # type: ignore[arg-type]
    assert [data for _, data in found] == [bytes(range(10, 14)), bytes([14]), bytes(range(15, 20))]
    assert [where for where, _ in found] == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
    assert file.reads == [(10, 10)]


@pytest.mark.parametrize("offsets", [[10, 15, 16], [16, 10, 14], [15, 14, 10]])
def test_others_are_read_one_by_one(offsets):
    file = Bytes(bytes(range(100)))
    found = list(Group(0, 0, 0, 3, 1).stored(file, lists(offsets, [4, 1, 5])))  # type: ignore[arg-type]
    assert [data[0] for _, data in found] == offsets
    assert [len(data) for _, data in found] == [4, 1, 5]
    assert len(file.reads) == 3


def test_no_call_reads_much_more_than_is_decoded(monkeypatch):
    monkeypatch.setattr(tiling.segment_groups, "_READ", 9)
    file = Bytes(bytes(range(100)))
    list(Group(0, 0, 0, 3, 1).stored(file, lists([10, 14, 15], [4, 1, 5])))  # type: ignore[arg-type]
    assert file.reads == [(10, 4), (14, 1), (15, 5)]


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    tile=st.sampled_from([None, (16, 16), (16, 32), (48, 16)]),
    rows=st.integers(1, 90),
    samples=st.sampled_from([1, 3, -3]),
    dtype=st.sampled_from(["u1", "u2", "f4"]),
    together=st.sampled_from([1, 700, 5_000, 1 << 18]),
    part=st.tuples(st.integers(0, 89), st.integers(1, 90)),
)
def test_any_group_gives_the_same_pixels(
    tmp_path_factory, size, tile, rows, samples, dtype, together, part
):
    shape = {1: size, 3: (*size, 3), -3: (3, *size)}[samples]
    pixels = (np.random.default_rng(rows).random(shape) * 200).astype(dtype)
    path = tmp_path_factory.mktemp("groups") / "a.tif"
    tifffile.imwrite(
        path, pixels, compression="zlib", predictor=True, tile=tile,
        rowsperstrip=None if tile else min(rows, size[0]),
        photometric="minisblack" if samples == 1 else "rgb",
        planarconfig={1: None, 3: "contig", -3: "separate"}[samples],
    )  # fmt: skip
    whole = np.moveaxis(pixels, 2, 0) if samples == 3 else pixels.reshape(-1, *size)
    start = part[0] % size[0]
    stop = min(size[0], start + part[1])
    with pytest.MonkeyPatch.context() as patch, open_tiff(path) as image:
        patch.setattr(tiling.segment_groups, "_TOGETHER", together)
        np.testing.assert_array_equal(image.read_rows(0, start, stop), whole[:, start:stop])
