"""The weight map is Eq. 2: digits worked by hand, the reference, and its symmetries."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.invariants import invariant
from tests.label_maps import KINDS, label_maps, random_labels, some, voronoi_cells
from weightmaps import (
    EPSILON,
    WeightMapSpec,
    border_term,
    formula,
    halo_px,
    nearest_one,
    separate_touching,
    signed_term,
    threads,
    two_nearest_distances_reference,
    volume_weight_map,
    weight_map,
)
from weightmaps import fast_term as fast
from weightmaps.carving import separate_touching_volume
from weightmaps.reference import per_instance, two_nearest_by_bits
from weightmaps.spec import LINES
from weightmaps.threads import set_threads

GAPS = {1: 9.231, 2: 8.353, 3: 7.261, 5: 4.868, 10: 0.889, 15: 0.060}
DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def by_the_book(labels, w0=10.0, sigma=5.0, where="background", spacing=None):
    """Eq. 2's border term in float64 from one distance transform per instance."""
    d1, d2 = per_instance(labels, spacing)[:2]
    term = w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    if where == "background":
        term[labels != 0] = 0
    return term


def between(gap):
    labels = np.zeros((9, gap + 12), np.int32)
    labels[:, :6], labels[:, 6 + gap :] = 1, 2
    return labels


@pytest.mark.parametrize("gap", GAPS)
def test_the_gap_table(gap):
    centre = border_term(between(gap))[4, 6 + gap // 2]
    assert round(float(centre), 3) == GAPS[gap]


def test_the_two_readings_of_carving_by_hand():
    touching = np.repeat([[1] * 4 + [2] * 4], 5, axis=0).T  # one cell above the other
    after = weight_map(touching, class_weights="none")
    before = weight_map(touching, class_weights="none", separate="before")
    assert round(float(after[4, 2]) - 1, 3) == 9.231  # d1 = d2 = 1
    assert round(float(before[4, 2]) - 1, 3) == 9.802  # d1 = 0, d2 = 1
    assert (np.delete(after, 4, axis=0) == 1).all()
    assert (weight_map(touching, class_weights="none", separate="none") == 1).all()


def test_side_by_side_the_authors_rule_takes_a_pixel_of_either_cell():
    touching = np.repeat([[1] * 4 + [2] * 4], 5, axis=0)  # N-E of column 3 is the other cell
    weights = weight_map(touching, class_weights="none")
    assert (weights[2, 3:5].round(3) == np.float32(1 + 8.353)).all()  # a gap of 2


@invariant("weight map", "the border term equals its slow reference")
@given(
    labels=label_maps,
    w0=st.sampled_from([0.0, 1.0, 10.0, 50.0]),
    sigma=st.sampled_from([0.4, 1.0, 2.5, 5.0, 6.0, 11.0]),
    where=st.sampled_from(["background", "everywhere"]),
)
def test_the_border_term_equals_the_reference(labels, w0, sigma, where):
    found = border_term(labels, w0=w0, sigma_px=sigma, where=where)
    expected = by_the_book(labels, w0, sigma, where)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=EPSILON / 2)
    np.testing.assert_array_equal(found[expected < 0.49 * EPSILON], 0)


@some(60)
@given(
    label_maps,
    st.sampled_from(list(LINES)),
    st.sampled_from(["background", "everywhere"]),
)
def test_the_whole_map_equals_the_reference(labels, separate, where):
    found = weight_map(
        labels, class_weights=(0.5, 3.0), separate=separate, where=where, dtype=np.float64
    )
    carved = labels
    if LINES[separate]:
        carved = separate_touching(labels, method=LINES[separate])
    source = labels if separate.endswith("before") else carved
    term = by_the_book(source, where="everywhere")
    if where == "background":
        term[carved != 0] = 0
    expected = np.where(carved != 0, 3.0, 0.5) + term
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=EPSILON / 2)


@some(25)
@given(label_maps, st.sampled_from([0, 2**31, 2**62]), st.sampled_from([-1, -(2**40)]))
def test_huge_ids_and_a_negative_ignore_label_go_together(labels, offset, ignore):
    plain = np.where(labels == 1, -1, labels).astype(np.int64)
    huge = np.where(labels > 0, labels.astype(np.int64) + offset, 0)
    huge[labels == 1] = ignore
    expected = weight_map(plain, ignore_label=-1)
    np.testing.assert_array_equal(weight_map(huge, ignore_label=ignore), expected)


@some(20)
@given(
    st.integers(0, 2**32),
    st.sampled_from(KINDS),
    st.sampled_from([(1, 1500), (300, 7), (140, 160)]),
    st.sampled_from(list(LINES)),
    st.sampled_from([None, 2]),
)
def test_the_2019_form_by_blocks_equals_one_distance_transform(seed, kind, shape, separate, ignore):
    labels = random_labels(seed, *shape, kind)
    spec = WeightMapSpec(class_weights="falk2019", separate=separate, ignore_label=ignore)
    term, _ = signed_term.signed_border_term(labels[None], spec, np.dtype(np.float32))
    expected, found = term[0].copy(), term[0].copy()
    nearest_one._nearness_by_transform(expected, labels, spec)
    nearest_one._compiled_nearness(found, labels, spec)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float16", {"w0": 1e5}),
        ("float16", {"class_weights": (65000.0, 1.0), "w0": 1e3}),
        ("float32", {"w0": 1e39}),
        ("float32", {"class_weights": (1.0, 1e39)}),
    ],
)
def test_weights_that_the_dtype_cannot_hold_are_refused(dtype, options):
    with pytest.raises(ValueError, match="above the largest number of " + dtype):
        weight_map(between(1), dtype=dtype, **options)


@some(30)
@given(
    label_maps,
    st.sampled_from(["watershed", "watershed-before"]),
    st.sampled_from(["background", "everywhere"]),
    st.sampled_from([None, 2]),
)
def test_watershed_lines_are_the_same_with_and_without_numba(labels, separate, where, ignore):
    spec = WeightMapSpec(separate=separate, where=where, ignore_label=ignore)
    plain, plain_counts = signed_term._by_arrays(labels, spec, np.dtype(np.float64))
    quick, counts = signed_term.signed_border_term(labels[None], spec, np.dtype(np.float64))
    np.testing.assert_array_equal(counts[0], plain_counts)
    np.testing.assert_array_equal(np.signbit(quick[0]), np.signbit(plain))
    np.testing.assert_allclose(quick[0], plain, rtol=1e-14, atol=0)


@some(30)
@given(label_maps, st.integers(0, 3), st.sampled_from([3, 11, 128]))
def test_compiled_blocks_equal_whole_array_operations(labels, variant, rows):
    spec = WeightMapSpec(
        sigma_px=3.0,
        separate=("after", "before", "none", "after")[variant],
        where=("background", "everywhere")[variant % 2],
        ignore_label=2 if variant == 3 else None,
    )
    kind = np.dtype(np.float64)
    plain, plain_counts = signed_term._by_arrays(labels, spec, kind)
    plan = replace(fast.plan_for(spec), rows=rows)
    quick, counts = fast.fast_signed_term(labels[None], spec, plan, kind)
    np.testing.assert_array_equal(counts[0], plain_counts)
    np.testing.assert_array_equal(np.signbit(quick[0]), np.signbit(plain))
    np.testing.assert_allclose(quick[0], plain, rtol=1e-14)


def test_many_blocks_equal_the_reference(monkeypatch):
    labels = voronoi_cells(500, 300, 3.0)
    labels[100:300, 50:400] = 0  # and something sparse
    d1, d2 = two_nearest_by_bits(labels)
    expected = np.where(labels == 0, 10 * np.exp(-np.square(d1 + d2) / 50), 0)
    for monkey in (False, True):
        if monkey:
            monkeypatch.setattr(fast, "_BLOCKS", ((32, 64),))
        np.testing.assert_allclose(border_term(labels), expected, rtol=1e-6, atol=EPSILON / 2)


@pytest.mark.parametrize("sigma", [20.0, 45.0, 90.0])
def test_a_wide_sigma_is_exact_too(sigma):
    labels = voronoi_cells(150, 9, 4.0)
    np.testing.assert_allclose(
        border_term(labels, sigma_px=sigma), by_the_book(labels, 10, sigma), rtol=1e-6, atol=EPSILON
    )


@pytest.mark.parametrize("sigma", [5.0, 58.0])
def test_more_cells_than_the_keys_can_tell_apart(sigma):
    labels = np.arange(1, 1 + 90 * 90).reshape(90, 90) * 997
    labels[np.random.default_rng(0).random(labels.shape) < 0.3] = 0
    plan = fast.plan_for(WeightMapSpec(sigma_px=sigma))
    assert (2**plan.bits > 90 * 90) == (sigma == 5.0)
    d1, d2 = two_nearest_by_bits(labels)
    expected = np.where(labels == 0, 10 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)), 0)
    np.testing.assert_allclose(border_term(labels, sigma_px=sigma), expected, rtol=1e-6)


@invariant("weight map", "flips, quarter turns and the transpose commute")
@given(label_maps, st.sampled_from(["flip0", "flip1", "rot90", "transpose"]))
def test_symmetries(labels, name):
    turn = {
        "flip0": np.flipud,
        "flip1": np.fliplr,
        "rot90": np.rot90,
        "transpose": np.transpose,
    }[name]
    options = {"separate": "none"}  # the authors' carving has a direction
    np.testing.assert_array_equal(
        weight_map(turn(labels), **options), turn(weight_map(labels, **options))
    )


@invariant("weight map", "permuted and shifted labels change no weight")
@given(label_maps, st.integers(0, 2**32))
def test_weight_is_unchanged_by_relabelling(labels, seed):
    rng = np.random.default_rng(seed)
    ids = np.concatenate([[0], rng.permutation(2**20)[: labels.max()] + 1])
    expected = weight_map(labels)
    for offset in (0, 2**29, 2**40, 2**63):
        renamed = ids.astype(np.uint64)[labels]
        renamed[renamed > 0] += np.uint64(offset)
        np.testing.assert_array_equal(weight_map(renamed), expected)


@invariant("weight map", "padding with background keeps the inside")
@given(label_maps)
def test_padding_with_background_keeps_the_inside(labels):
    kept = weight_map(labels, class_weights="none")
    padded = weight_map(np.pad(labels, 7), class_weights="none")
    np.testing.assert_array_equal(padded[7:-7, 7:-7], kept)


def test_every_layout_and_integer_type_gives_the_same_map():
    labels = random_labels(11, 37, 45, "voronoi")
    expected = weight_map(labels)
    variants = [labels.astype(t) for t in DTYPES]
    variants += [
        np.asfortranarray(labels),
        labels[::-1, ::-1].copy()[::-1, ::-1],
        np.repeat(labels, 3, axis=1)[:, ::3],
        labels.astype(">u2"),
        labels.astype(np.float32),
        labels.tolist(),
    ]
    locked = labels.copy()
    locked.setflags(write=False)
    variants.append(locked)
    for variant in variants:
        before = np.array(variant)
        np.testing.assert_array_equal(weight_map(variant), expected)
        np.testing.assert_array_equal(variant, before)


@pytest.mark.parametrize("cells", [0, 1])
@pytest.mark.parametrize("where", ["background", "everywhere"])
def test_no_cell_and_one_cell_have_no_border_term(cells, where):
    labels = np.zeros((40, 50), np.uint8)
    labels[10:20, 10:20] = cells
    assert (border_term(labels, where=where) == 0).all()
    weights = weight_map(labels, where=where)
    assert np.isfinite(weights).all()
    assert len(np.unique(weights)) == 1 + cells


@pytest.mark.parametrize("value", [0, 7])
def test_an_image_of_one_value_weighs_one(value):
    assert (weight_map(np.full((3, 4), value)) == 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1), (65, 129)])
def test_thin_and_odd_shapes(shape):
    labels = np.zeros(shape, np.int32)
    labels.flat[:: max(2, labels.size // 9)] = np.arange(
        1, labels[::1].flat[:: max(2, labels.size // 9)].size + 1
    )
    np.testing.assert_allclose(
        border_term(labels), by_the_book(labels), rtol=1e-6, atol=EPSILON / 2
    )


@invariant("weight map", "w >= w_c, w <= w_c + w0, foreground = w_c")
@given(label_maps)
def test_bounds(labels):
    weights = weight_map(labels, class_weights=(0.7, 1.9))
    carved = separate_touching(labels)
    assert (weights[carved != 0] == np.float32(1.9)).all()
    assert (weights[carved == 0] >= np.float32(0.7)).all()
    assert (weights <= np.where(carved != 0, 1.9, 10.7) + 1e-6).all()


@some(30)
@given(label_maps, st.sampled_from([2, -1]))
def test_ignored_pixels_weigh_nothing_and_belong_to_nobody(labels, value):
    rng = np.random.default_rng(int(labels.sum()))
    hidden = rng.random(labels.shape) < 0.2
    marked = np.where(hidden, value, np.where(labels == 2, 3, labels))
    weights = weight_map(marked, ignore_label=value)
    assert (weights[hidden] == 0).all()
    cleared = np.where(hidden, 0, marked)
    others = weight_map(cleared, class_weights="none")
    assert (
        weight_map(marked, ignore_label=value, class_weights="none")[~hidden] == others[~hidden]
    ).all()
    if not hidden.all():
        flat = weight_map(marked, ignore_label=value, w0=0, dtype=np.float64)
        assert math.isclose(flat[~hidden].mean(), 1.0, rel_tol=1e-12)


def test_the_2019_form_by_the_book():
    labels = random_labels(3, 40, 40, "cells")
    carved = separate_touching(labels)
    d1 = two_nearest_distances_reference(labels)[0]
    background = 0.1 + 0.9 * np.exp(-(d1**2) / 200)
    expected = np.where(carved != 0, 1.0, background + by_the_book_uncarved(labels, carved, 50, 6))
    found = weight_map(
        labels, class_weights="falk2019", separate="before", w0=50, sigma_px=6, dtype=np.float64
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=EPSILON)


def by_the_book_uncarved(labels, carved, w0, sigma):
    term = by_the_book(labels, w0, sigma, "everywhere")
    term[carved != 0] = 0
    return term


def test_the_2019_form_of_an_empty_image():
    assert (weight_map(np.zeros((4, 4), int), class_weights="falk2019") == np.float32(0.1)).all()


def test_a_stack_is_slices_with_common_class_weights():
    stack = np.stack([random_labels(s, 30, 31, "voronoi") for s in range(4)])
    together = weight_map(stack)
    alone = np.stack([weight_map(one) for one in stack])
    np.testing.assert_array_equal(weight_map(stack, class_weights="per-image"), alone)
    term = np.stack([weight_map(one, class_weights=(0, 0)) for one in stack])
    carved = separate_touching(stack)
    for part in (carved == 0, carved != 0):
        constant = (together - term)[part]
        np.testing.assert_allclose(constant, constant.flat[0], rtol=1e-6)


def test_a_volume_measures_through_the_slices():
    rng = np.random.default_rng(4)
    labels = rng.integers(1, 9, (7, 12, 13)) * (rng.random((7, 12, 13)) < 0.05)
    spacing = (2.5, 1.0, 1.0)
    carved = separate_touching_volume(labels)
    found = volume_weight_map(labels, class_weights="none", spacing=spacing)
    np.testing.assert_allclose(found - 1, by_the_book(carved, spacing=spacing), atol=1e-6)
    with pytest.raises(ValueError, match="3 axes"):
        volume_weight_map([[1]])


SPACINGS = [(0.5, 2.0), (3.0, 1.0), (0.3, 0.3), (0.7, 1.1), (16.0, 15.0)]
WHOLE_SPACINGS = [(0.2901, 0.1625), (0.108, 0.1083)]  # whole numbers, but large ones
ODD_SPACINGS = [(math.pi, math.e), (0.1, math.sqrt(0.1))]


@some(40)
@given(
    label_maps,
    st.sampled_from([*SPACINGS, *WHOLE_SPACINGS, *ODD_SPACINGS]),
    st.sampled_from([1.0, 5.0]),
    st.sampled_from(["background", "everywhere"]),
)
def test_pixels_may_be_anisotropic(labels, spacing, sigma, where):
    found = border_term(labels, sigma_px=sigma, spacing=spacing, where=where)
    expected = by_the_book(labels, 10, sigma, where, spacing)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=EPSILON)


@pytest.mark.parametrize("spacing", [*SPACINGS, *WHOLE_SPACINGS, *ODD_SPACINGS])
def test_anisotropic_blocks_equal_whole_array_operations(spacing):
    labels = voronoi_cells(200, 60, 2.0)
    spec = WeightMapSpec(spacing=spacing, sigma_px=5 * min(spacing))
    plain, _ = signed_term._by_arrays(labels, spec, np.dtype(np.float64))
    assert (fast.plan_for(spec).key is np.int32) == (spacing in SPACINGS)
    quick, _ = signed_term.signed_border_term(labels[None], spec, np.dtype(np.float64))
    precise = 1e-8 if spacing in ODD_SPACINGS else 1e-12
    np.testing.assert_allclose(quick[0], plain, rtol=precise, atol=EPSILON / 2)


def test_odd_pixels_change_nothing_but_the_last_digits():
    labels = voronoi_cells(150, 40, 5.0)
    whole = border_term(labels, spacing=(0.3, 0.2), sigma_px=1.5)
    odd = border_term(labels, spacing=(0.3 + 1e-13, 0.2), sigma_px=1.5)
    np.testing.assert_allclose(odd, whole, rtol=1e-6, atol=EPSILON)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_output_types(dtype):
    weights = weight_map(between(3), dtype=dtype)
    assert weights.dtype == dtype
    np.testing.assert_allclose(weights, weight_map(between(3), dtype=float), rtol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_same_bits_for_any_thread_count(monkeypatch, count):
    monkeypatch.setattr(fast, "THREAD_PIXELS", 1000)
    monkeypatch.setattr(threads, "THREAD_PIXELS", 1000)
    stack = np.stack([voronoi_cells(200, 90, 2.0, seed) for seed in range(2)])
    set_threads(1)
    try:
        expected = weight_map(stack)
        set_threads(count)
        np.testing.assert_array_equal(weight_map(stack), expected)
    finally:
        set_threads(None)


@pytest.mark.parametrize("class_weights", [(0.4, 2.0), "falk2019"])
@pytest.mark.parametrize("separate", ["after", "before"])
def test_a_block_with_its_halo_equals_the_whole(class_weights, separate):
    labels = voronoi_cells(260, 60, 3.0, 7)
    spec = WeightMapSpec(class_weights=class_weights, separate=separate)
    options = {"class_weights": class_weights, "separate": separate}
    whole = weight_map(labels, **options)
    halo = spec.halo_px
    y0, y1, x0, x1 = 100, 140, 90, 150
    window = labels[y0 - halo : y1 + halo, x0 - halo : x1 + halo]
    block = weight_map(window, **options)[halo:-halo, halo:-halo]
    np.testing.assert_array_equal(block, whole[y0:y1, x0:x1])


def test_the_halo_is_sufficient_and_necessary():
    assert halo_px() == 31
    assert WeightMapSpec(separate="none").halo_px == 31
    assert WeightMapSpec().halo_px == 32  # one more for carving
    line = np.zeros((1, 100), int)
    line[0, 50], line[0, 50 + halo_px()] = 1, 2
    assert border_term(line, where="everywhere")[0, 50] > 0
    line[0, 50 + halo_px()], line[0, 51 + halo_px()] = 0, 2
    assert border_term(line, where="everywhere")[0, 50] == 0


def test_a_spec_is_a_checked_value():
    spec = WeightMapSpec(class_weights={0: 1, 1: 2}, spacing=(1, 2))
    assert spec.class_weights == (1.0, 2.0)
    assert spec == replace(spec)
    assert spec.to_dict()["class_weights"] == [1.0, 2.0]
    assert spec.to_dict()["spacing"] == [1.0, 2.0]
    assert WeightMapSpec(**spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"w0": -1}, ValueError, "w0 -1"),
        ({"w0": math.inf}, ValueError, "w0 inf"),
        ({"sigma_px": 0}, ValueError, "sigma_px 0"),
        ({"sigma_px": 1e4}, ValueError, "reaches 6.27e\\+04 pixels far"),
        ({"sigma_px": 1e300}, ValueError, "at most 10000"),
        ({"spacing": (2e-4, 2e-4)}, ValueError, "unit of spacing"),
        ({"spacing": (1, 1e-320)}, ValueError, "at most 10000"),
        ({"class_weights": "equal"}, ValueError, "equal"),
        ({"class_weights": (1, 2, 3)}, ValueError, "two"),
        ({"class_weights": {0: 1}}, ValueError, "classes 0 and 1"),
        ({"class_weights": (1, -2)}, ValueError, "two"),
        ({"where": "cells"}, ValueError, "cells"),
        ({"separate": "maybe"}, ValueError, "maybe"),
        ({"spacing": (1, 1, 1, 1)}, ValueError, "spacing"),
        ({"spacing": (1, 0)}, ValueError, "spacing"),
        ({"spacing": (1, 1, 1)}, ValueError, "spacing"),
        ({"spacing": 2}, TypeError, "spacing 2 must be numbers, one per axis"),
        ({"spacing": "12"}, TypeError, "spacing '12'"),
        ({"class_weights": None}, TypeError, "class_weights None must be numbers"),
        ({"ignore_label": 0}, ValueError, "background"),
        ({"ignore_label": 2.5}, TypeError, "2.5 must be one whole number"),
        ({"ignore_label": True}, TypeError, "True"),
        ({"ignore_label": [1, 2]}, TypeError, "whole number"),
        ({"dtype": np.int32}, TypeError, "int32"),
    ],
)
def test_bad_parameters_are_refused(options, error, word):
    with pytest.raises(error, match=word):
        weight_map([[1, 0, 2]], **options)


def test_no_scratch_memory_per_cell(monkeypatch):
    few, many = voronoi_cells(512, 20, 2.0), voronoi_cells(512, 3000, 2.0)
    peaks = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for labels in (few, many):
        weight_map(labels)  # compiled and imported
        tracemalloc.start()
        weight_map(labels)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert abs(peaks[0] - peaks[1]) < 100_000
    assert max(peaks) < 4 * 512 * 512 + 1_100_000  # the map itself, and under 1 MB of scratch


def test_the_numpy_class_term_equals_the_compiled_one(monkeypatch):
    labels = random_labels(2, 25, 30, "voronoi")
    expected = weight_map(labels, ignore_label=3)
    monkeypatch.setattr(formula, "available", lambda: False)
    np.testing.assert_array_equal(weight_map(labels, ignore_label=3), expected)


@pytest.mark.data
def test_real_membranes_give_borders_of_the_paper(real_data):
    import tifffile

    from weightmaps import instances_from_mask

    with tifffile.TiffFile(real_data / "isbi2012" / "train-labels.tif") as file:
        labels = instances_from_mask(file.pages[0].asarray())
    term = border_term(labels)
    np.testing.assert_allclose(term, by_the_book(labels), rtol=1e-6, atol=EPSILON / 2)
    assert 8 < term.max() < 10
