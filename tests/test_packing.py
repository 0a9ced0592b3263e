"""Bands that are packed while they still come give the bytes of bands that came whole."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiling.tiff_sink
from tiling import Geometry, open_sink, stitch
from tiling.packing import Packing
from tiling.row_groups import RowGroups


@st.composite
def bands(draw: st.DrawFn) -> tuple[tuple[int, int, int], list[tuple[int, list[int]]]]:
    """A shape (K, H, W), and how its bands arrive: (height, columns that are there by and by)."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 70)), draw(st.integers(1, 90))
    left, found = shape[1], []
    while left:
        height = draw(st.integers(1, left))
        stops = sorted(draw(st.lists(st.integers(1, shape[2]), max_size=4, unique=True)))
        found.append((height, stops))
        left -= height
    return shape, found


def write(path: Path, array: Any, arriving: list[tuple[int, list[int]]], **options: Any) -> bytes:
    """The bytes of a file whose bands arrive so; what is not there yet is garbage."""
    with (
        patch.object(tiling.tiff_sink, "tile_side", lambda _shape: 16),
        open_sink(path, array.shape, array.dtype, overwrite=True, **options) as sink,
    ):
        top, width = 0, array.shape[2]
        for height, stops in arriving:
            rows, start = slice(top, top + height), 0
            band = np.full_like(array[:, rows], 99)
            for stop in stops:
                band[..., start:stop] = array[:, rows, start:stop]
                sink.begin_band((..., rows, slice(start, stop)), band)
                start = stop
            sink[..., rows, 0:width] = array[:, rows]
            top += height
    return path.read_bytes()


@given(
    plan=bands(),
    kind=st.sampled_from(["u1", "<u2", "<f4", "?"]),
    pyramid=st.sampled_from(["", "mean", "mode"]),
)
def test_what_is_packed_early_changes_no_byte(plan: Any, kind: str, pyramid: str) -> None:
    shape, arriving = plan
    array = np.random.default_rng(sum(shape)).integers(0, 2, shape).astype(kind)
    with (
        tempfile.TemporaryDirectory() as name,
        patch.object(tiling.pyramid, "SMALLEST", 40),
    ):
        folder = Path(name)
        whole = [(height, []) for height, _ in arriving]
        late = write(folder / "late.tif", array, whole, pyramid=pyramid)
        assert write(folder / "early.tif", array, arriving, pyramid=pyramid) == late


def test_what_lies_left_of_a_column_is_packed_before_the_band_is_whole(tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 9, (2, 40, 100), np.uint8)
    packed, real = [], Packing.submit

    def counted(self: Packing, tiles: Any) -> Any:
        packed.append(len(tiles))
        return real(self, tiles)

    with patch.object(Packing, "submit", counted):
        write(tmp_path / "a.tif", array, [(20, [31, 32, 99]), (20, [50])])
    # Of two channels: rows 0 to 16 in four steps; the next two rows begin with the second band.
    assert packed[:6] == [1, 1, 1, 1, 4, 4]
    assert sum(packed) == 2 * 3 * 7


@pytest.mark.parametrize("batch", [1, 2])
def test_a_run_tells_the_sink_of_each_tile_before_the_band(tmp_path: Path, batch: int) -> None:
    image = np.random.default_rng(2).integers(0, 255, (50, 70), np.uint8)
    told: list[Any] = []

    class Sink:
        shape = (1, 50, 70)

        def begin_band(self, key: Any, block: Any) -> None:
            _, rows, columns = key
            assert threading.current_thread().name == "tiling write"
            np.testing.assert_array_equal(block[0, :, : columns.stop], image[rows, : columns.stop])
            told.append((rows.start, rows.stop, columns.start, columns.stop))

        def __setitem__(self, key: Any, block: Any) -> None:
            told.append((key[1].start, key[1].stop, "whole"))
            np.testing.assert_array_equal(block[0], image[key[1]])

    geometry = Geometry(margin=2, period=2, output=24)
    stitch(image, lambda tiles: tiles[..., 2:-2, 2:-2], Sink(), geometry, batch=batch)
    ends = [one for one in told if one[-1] == "whole"]
    assert ends[0][0] == 0
    assert ends[-1][1] == 50
    for start, stop, _ in ends:
        early = [one[2:] for one in told[: told.index((start, stop, "whole"))] if one[0] == start]
        assert early[0][0] == 0
        assert [a for a, _ in early[1:]] == [b for _, b in early[:-1]]
        assert early[-1][1] < 70, "the last tile comes with the whole band"


def test_a_band_that_is_not_due_is_refused_early_too() -> None:
    groups = RowGroups((1, 8, 4), 2)
    with pytest.raises(ValueError, match="row 0 of 8 was due"):
        list(groups.coming(2, np.zeros((1, 2, 4)), slice(0, 2)))
