"""Outputs lie apart from inputs, also their hidden files and whole folders."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from tiling.apart import check_apart
from tiling.faults import WriteError

HIDDEN = (".part", ".part.journal", ".lock", ".part.zarr", ".old.zarr", ".trash.zarr")


@pytest.mark.parametrize("ending", HIDDEN)
def test_b6_an_input_under_the_hidden_name_of_an_output_is_refused(tmp_path, ending):
    given = tmp_path / f".o.tif{ending}"
    given.write_bytes(b"precious")
    with pytest.raises(WriteError, match="would take the name of the input"):
        check_apart([tmp_path / "o.tif"], [given])
    with pytest.raises(WriteError, match="would take the name of the input"):
        check_apart([tmp_path / "o.tif"], [given / "0"])  # an array in such a folder
    check_apart([tmp_path / "a" / "o.tif", tmp_path / "p.tif", tmp_path / "o.ti"], [given])


def test_b6_a_link_under_the_hidden_name_counts_as_well(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"precious")
    link = tmp_path / ".o.tif.part"
    try:
        link.symlink_to("a.tif")
    except OSError:
        pytest.skip("no links on this system")
    with pytest.raises(WriteError, match="would take the name of the input"):
        check_apart([tmp_path / "o.tif"], [link])


def test_b6_an_output_in_the_zarr_that_is_read_is_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(4, 4), dtype="u1")[...] = np.uint8(1)
    for inside in ("o.tif", "0/o.tif", "c/k.zarr"):
        with pytest.raises(WriteError, match=r"lies in the input .*a\.zarr; choose another place"):
            check_apart([tmp_path / "a.zarr" / inside], [tmp_path / "a.zarr"])
    check_apart([tmp_path / "a.zarr.tif", tmp_path / "b" / "a.tif"], [tmp_path / "a.zarr"])
