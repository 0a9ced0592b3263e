"""Block by block equals whole, bit by bit; the context is enough and not more than needed."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.faults.invariants import invariant
from weightmaps import WeightMapSpec, class_counts, class_weights, weight_map, weight_map_blocks
from weightmaps.blocks import census
from weightmaps.components import ComponentSource
from weightmaps.labels import instances_from_mask
from weightmaps.spec import LINES
from weightmaps.touching import touching_pairs

_spec = importlib.util.spec_from_file_location(
    "unet2015_label_maps", Path(__file__).with_name("label_maps.py")
)
label_maps = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(label_maps)


class Rows:
    """A source that is no array: it only slices, and counts what it gives."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.rows_read, self.widest = 0, 0

    def __getitem__(self, key):
        y0, y1, _ = key[1].indices(self.shape[0])
        self.rows_read += y1 - y0
        self.widest = max(self.widest, y1 - y0)
        return self._array[y0:y1, key[2]]


def joined(labels, spec, rows, dtype=np.float32):
    parts = list(weight_map_blocks(labels, spec, block_rows=rows, dtype=dtype))
    assert [top for top, _ in parts] == list(range(0, labels.shape[0], rows))
    return np.concatenate([block for _, block in parts])


def whole(labels, spec, dtype=np.float32):
    return weight_map(
        labels, w0=spec.w0, sigma_px=spec.sigma_px, class_weights=spec.class_weights,
        where=spec.where, separate=spec.separate, spacing=spec.spacing,
        ignore_label=spec.ignore_label, dtype=dtype,
    )  # fmt: skip


def test_two_cells_by_hand():
    labels = np.zeros((5, 3), np.int32)
    labels[0], labels[4] = 1, 2
    found = joined(labels, WeightMapSpec(class_weights="none"), 2)
    # Rows between: d1 + d2 = 4 everywhere, 10 exp(-16 / 50).
    assert found[:, 0] == pytest.approx([1, 8.2615, 8.2615, 8.2615, 1], abs=1e-4)


@invariant("weight map, blockwise", "block + halo = whole, bit for bit")
@given(
    labels=label_maps.label_maps,
    rows=st.integers(1, 45),
    balance=st.sampled_from(["balanced", "per-image", "falk2019", "none", (0.5, 2.0)]),
    where=st.sampled_from(["background", "everywhere"]),
    separate=st.sampled_from(list(LINES)),
    sigma=st.sampled_from([0.3, 1.0, 2.0, 5.0]),
    ignore=st.sampled_from([None, 2, 255]),
)
def test_blocks_equal_whole_bit_for_bit(labels, rows, balance, where, separate, sigma, ignore):
    spec = WeightMapSpec(10, sigma, balance, where, separate, None, ignore)
    assert joined(labels, spec, rows).tobytes() == whole(labels, spec).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("spacing", [None, (2.0, 0.5), (0.5, 3.0)])
def test_blocks_equal_whole_for_every_type_and_spacing(dtype, spacing):
    labels = label_maps.voronoi_cells(120, 40, 3)
    spec = WeightMapSpec(spacing=spacing)
    assert joined(labels, spec, 17, dtype).tobytes() == whole(labels, spec, dtype).tobytes()


@pytest.mark.parametrize("separate", list(LINES))
def test_larger_crowded_image(separate):
    labels = label_maps.voronoi_cells(300, 60, 2)
    spec = WeightMapSpec(separate=separate)
    for rows in (1, 31, 64, 299, 300):
        assert joined(labels, spec, rows).tobytes() == whole(labels, spec).tobytes()


def test_the_halo_is_necessary_and_sufficient():
    """Two cells as far apart as the border term reaches: one pixel of context less is seen."""
    spec = WeightMapSpec(class_weights=(0.0, 0.0), where="everywhere", separate="none")
    reach = spec.halo_px
    assert reach == 31
    near, far = np.zeros((2, reach + 2, 1), np.int64)
    near[0], near[reach] = 1, 2  # on the first cell d1 + d2 = 0 + reach
    far[0], far[reach + 1] = 1, 2
    assert whole(near, spec)[0, 0] > 0
    assert whole(near[: reach + 1], spec)[0, 0] == whole(near, spec)[0, 0]
    assert whole(near[:reach], spec)[0, 0] == 0  # necessary
    assert whole(far, spec)[0, 0] == 0  # sufficient
    for labels in (near, far):
        assert joined(labels, spec, 1).tobytes() == whole(labels, spec).tobytes()


def test_carving_needs_one_pixel_more():
    """The row above the reach decides whether a pixel at the reach is carved away."""
    spec = WeightMapSpec(class_weights="none", where="everywhere")
    assert spec.halo_px == replace(spec, separate="none").halo_px + 1
    rows = spec.halo_px + 40
    labels = np.zeros((rows, 2), np.int64)
    labels[-1] = 1
    top = rows - 1 - (spec.halo_px - 1)
    labels[top], labels[top - 1] = 2, 3
    assert joined(labels, spec, 1).tobytes() == whole(labels, spec).tobytes()


def test_each_row_is_read_once_and_no_more_than_the_block_needs():
    labels = label_maps.voronoi_cells(200, 30, 2)
    spec = WeightMapSpec(class_weights=(1.0, 1.0))
    source = Rows(labels)
    joined(source, spec, 10)
    assert source.rows_read == 200
    assert source.widest <= 10 + 2 * spec.halo_px
    source = Rows(labels)
    joined(source, WeightMapSpec(), 10)
    assert source.rows_read == 400  # and once before, for the class counts


def test_the_labels_are_not_modified():
    labels = label_maps.voronoi_cells(64, 12, 0)
    before = labels.copy()
    labels.setflags(write=False)
    joined(labels, WeightMapSpec(), 9)
    assert (labels == before).all()


@pytest.mark.parametrize("labels", [np.zeros((3, 4), np.uint8), np.ones((3, 4), np.uint8)])
def test_no_cell_or_one_cell_gives_class_balance_only(labels):
    assert (joined(labels, WeightMapSpec(), 2) == 1).all()


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="not one image"):
        weight_map_blocks(np.zeros((2, 3, 4), int))
    with pytest.raises(ValueError, match="block_rows 0"):
        weight_map_blocks(np.zeros((3, 4), int), block_rows=0)


@settings(max_examples=40)
@given(labels=label_maps.label_maps, rows=st.integers(1, 45))
@pytest.mark.parametrize("separate", ["after", "none"])
def test_census_in_blocks_equals_the_whole(labels, rows, separate):
    spec = WeightMapSpec(separate=separate)
    found = census(labels, spec, block_rows=rows)
    assert found.counts.tolist() == class_counts(labels, separate=separate).tolist()
    assert found.ids.tolist() == [i for i in np.unique(labels).tolist() if i]
    assert found.pairs.tolist() == touching_pairs(labels).tolist()


def test_census_leaves_the_ignore_label_out():
    labels = np.array([[1, 1, 9], [9, 0, 2], [0, 2, 2]])
    found = census(labels, WeightMapSpec(ignore_label=9), block_rows=1)
    assert found.counts.tolist() == [3, 4]  # (1, 2) touches (0, 1) and is carved
    assert found.ids.tolist() == [1, 2]
    assert found.pairs.tolist() == [[1, 2]]
    assert class_weights(found.counts).round(3).tolist() == [1.167, 0.875]


def test_touching_pairs_equal_a_loop():
    labels = label_maps.random_labels(5, 20, 25, "noise")
    expected = set()
    for (y, x), a in np.ndenumerate(labels):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if 0 <= y + dy < 20 and 0 <= x + dx < 25:
                    b = labels[y + dy, x + dx]
                    if a and b and a < b:
                        expected.add((int(a), int(b)))
    assert [tuple(pair) for pair in touching_pairs(labels).tolist()] == sorted(expected)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    fill=st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.8, 1.0]),
    rows=st.integers(1, 31),
    connectivity=st.sampled_from([4, 8]),
)
def test_components_across_bands_are_those_of_the_whole(
    seed, height, width, fill, rows, connectivity
):
    mask = np.random.default_rng(seed).random((height, width)) < fill
    source = ComponentSource(mask, connectivity, rows)
    expected = instances_from_mask(mask, connectivity=connectivity)
    assert source.components == expected.max()
    assert (source[..., 0:height, 0:width] == expected).all()
    middle = height // 2
    assert (source[..., middle:height, 0:1] == expected[middle:, :1]).all()


def test_a_spiral_through_all_bands_is_one_cell():
    side = 41
    mask = np.zeros((side, side), bool)
    mask[::4] = True
    mask[:, 0] = True
    mask[0, 0] = False
    source = ComponentSource(mask, 4, 3)
    assert source.components == ndimage.label(mask)[1]


def test_bands_that_do_not_meet_need_no_graph(monkeypatch):
    def never(*_args, **_options):
        raise AssertionError("a graph was made")

    monkeypatch.setattr("scipy.sparse.csgraph.connected_components", never)
    mask = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    for rows in (2, 4):
        found = ComponentSource(mask, 8, rows)[..., 0:4, 0:3]
        assert found.tolist() == [[1, 0, 2], [0, 0, 0], [0, 3, 0], [0, 0, 0]]
        assert found.dtype == np.int32


def test_a_mask_of_one_band_is_read_once():
    class Once:
        shape, dtype = (4, 3), np.dtype(bool)
        reads = 0

        def __getitem__(self, key):
            self.reads += 1
            return np.eye(4, 3, dtype=bool)[key]

    mask = Once()
    source = ComponentSource(mask, 4, 4)
    assert source[..., 1:3, 0:3].tolist() == [[0, 2, 0], [0, 0, 3]]
    assert mask.reads == 1
