"""True volumes: slabs change no bit, counts are those of the whole, memory is asked for first."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from tiling.faults import MemoryFault
from weightmaps import WeightMapSpec, survey, volumes
from weightmaps.carving import separate_touching_volume
from weightmaps.cli import main
from weightmaps.formula import map_of_volume


def blocks(seed, depth=50, side=12):
    """Cells in blocks of 3 voxels, some of which touch."""
    rng = np.random.default_rng(seed)
    small = rng.integers(1, 40, (depth // 3 + 1, side // 3, side // 3)) * (
        rng.random((depth // 3 + 1, side // 3, side // 3)) < 0.3
    )
    return np.kron(small, np.ones((3, 3, 3), np.int32))[:depth]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"separate": "watershed-before", "where": "everywhere"},
        {"separate": "before", "ignore_label": 7},
        {"spacing": (2.5, 0.7, 1.1)},
        {"class_weights": "falk2019", "sigma_px": 2.0},
    ],
)
def test_slabs_equal_the_whole_volume_bit_for_bit(options):
    labels = blocks(1)
    spec = WeightMapSpec(**{"class_weights": (0.5, 2.0), "sigma_px": 1.0, **options})
    whole = map_of_volume(labels, spec, np.float32)
    for pages in (1, 7):
        found = np.stack(list(volumes.volume_pages(labels, None, spec, np.float32, pages)))
        np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("separate", ["after", "watershed", "none"])
def test_the_census_of_a_volume_in_slabs(monkeypatch, separate):
    labels = blocks(2, 21)
    spec = WeightMapSpec(separate=separate)
    carved = labels
    if spec.line is not None:
        carved = separate_touching_volume(labels, method=spec.line)
    inner = np.count_nonzero(carved)
    monkeypatch.setattr(volumes, "_CENSUS_VOXELS", 4 * 12 * 12)
    found = volumes.volume_census(labels, None, spec)
    assert found.counts.tolist() == [labels.size - inner, inner]
    assert found.ids.tolist() == np.unique(labels)[1:].tolist()
    pairs = set()
    for z, y, x in np.argwhere(labels):
        near = labels[max(0, z - 1) : z + 2, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        here = labels[z, y, x]
        pairs |= {(min(here, o), max(here, o)) for o in np.unique(near) if o not in (0, here)}
    assert set(map(tuple, found.pairs.tolist())) == pairs


def test_f5_a_volume_larger_than_memory_is_refused_before_anything_is_read(
    tmp_path, capsys, monkeypatch
):
    tifffile.imwrite(tmp_path / "v.tif", blocks(0).astype(np.uint16), photometric="minisblack")
    monkeypatch.setattr(volumes, "free_memory", lambda: 1000)
    monkeypatch.setattr(survey, "volume_of", lambda *_: pytest.fail("read"))
    assert main([str(tmp_path / "v.tif"), "--out", str(tmp_path / "w"), "--3d"]) == 6
    told = capsys.readouterr().err
    assert "50 x 12 x 12 needs about 0.0 GiB" in told
    assert "leave out --3d" in told


def test_slabs_fill_half_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(volumes, "free_memory", lambda: 2 * 64 * 256 * 256 * 100)
    assert volumes.slab_pages((100, 256, 256), WeightMapSpec()) == 100
    assert volumes.slab_pages((101, 256, 256), WeightMapSpec()) == 100 - 2 * 32
    assert volumes.slab_pages((101, 4096, 4096), WeightMapSpec()) == 1


def test_an_impossible_volume_is_named_with_what_it_needs(monkeypatch):
    monkeypatch.setattr(volumes, "free_memory", lambda: 1 << 33)
    shape = (2000, 4096, 4096)
    with pytest.raises(MemoryFault, match="2000 x 4096 x 4096 needs about 8"):
        volumes.check_memory("v", shape, WeightMapSpec())
