"""Measures worked by hand, held against their slow references, against skimage, and symmetries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import metrics

from tests.faults.invariants import invariant
from tests.label_maps import some
from unet2015 import score, segments, thinning, warping
from unet2015.objects import ctc_jaccards, dsb_image_ap
from unet2015.score_reference import (
    cells_reference,
    information_f_reference,
    is_simple_reference,
    mismatches_reference,
    rand_f_reference,
    relax_reference,
    thin_reference,
)
from unet2015.segments import cells, information_f, pair_counts, rand_counts
from unet2015.simple_points import RING, is_simple, simple_table
from unet2015.thinning import thin
from unet2015.warping import Mismatch, mismatches, relax
from weightmaps.threads import set_threads

sides = st.integers(1, 9)
shapes = st.tuples(sides, sides)


def masks(shape):
    return hnp.arrays(bool, shape)


def maps(shape):
    # Tenths, so that thresholds are hit exactly and the order of visits is full of ties.
    return hnp.arrays(np.uint8, shape, elements=st.integers(0, 10)).map(
        lambda tenths: tenths.astype(np.float32) / np.float32(10)
    )


pairs_of_masks = shapes.flatmap(lambda shape: st.tuples(masks(shape), masks(shape)))
maps_and_truths = shapes.flatmap(lambda shape: st.tuples(maps(shape), masks(shape)))
pairs_of_labels = shapes.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.int32, shape, elements=st.integers(0, 4)),
        hnp.arrays(np.int32, shape, elements=st.integers(0, 4)),
    )
)


def art(*rows):
    """Mask from text: # is cell interior."""
    return np.array([[character == "#" for character in row] for row in rows])


# --- equations worked by hand ---------------------------------------------------------------


def test_pixel_error_is_one_minus_f_summed_over_the_stack():
    prediction = np.array([[[1, 1, 1, 1]], [[1, 0, 0, 0]]], bool)
    truth = np.array([[[1, 1, 0, 0]], [[1, 1, 1, 1]]], np.uint8)
    # tp = 2 + 1, fp = 2 + 0, fn = 0 + 3: F = 6 / (6 + 2 + 3)
    assert score.pixel_error(prediction, truth).at(0.5) == pytest.approx(1 - 6 / 11, abs=1e-15)
    assert score.wrong_pixels(prediction, truth).at(0.5) == 5 / 8


def test_rand_error_of_one_cell_cut_in_two():
    # Cell of 5, cut at the middle: S_A = 25, S_B = 4 + 4 + 1, S_AB = 9: F = 18 / 34.
    sweep = score.rand_error(art("##.##"), art("#####"))
    assert sweep.at(0.5) == pytest.approx(1 - 18 / 34, abs=1e-15)


def test_v_rand_of_two_cells_merged():
    # Cells of 2 and 3 in one proposed cell: S_A = 4 + 9, S_B = 25, S_AB = 13: F = 26 / 38.
    v_rand, _ = score.v_scores_at(art("######"), art("##.###"))
    assert v_rand == pytest.approx(26 / 38, abs=1e-15)


def test_v_info_of_a_thick_border_that_thins_to_a_line():
    # Truth 3 + 3 without a border; the proposal's flood leaves one line pixel, column 2 or 3.
    truth = np.array([[1, 1, 1, 0, 1, 1, 1]])
    assert score.v_scores_at(art("##...##"), truth) == (1.0, 1.0)
    assert score.v_scores_at(art("###.###"), truth) == (1.0, 1.0)
    # Line inside a cell of 3: p = 1/2, 1/3 and one singleton of 1/6.
    h_truth = np.log(2)
    h_proposal = np.log(2) / 2 + np.log(3) / 3 + np.log(6) / 6
    shared = h_truth + h_proposal - h_proposal  # the truth follows from the proposal
    expected = 2 * shared / (h_truth + h_proposal)
    _, v_info = score.v_scores_at(art("##.####"), truth)
    assert v_info == pytest.approx(expected, abs=1e-15)


def test_micro_and_macro_differ_where_slices_differ():
    truth = np.array([[[1, 1, 0, 1, 1, 1]], [[1, 0, 1, 0, 0, 0]]])
    prediction = np.array([[[1, 1, 1, 1, 1, 1]], [[1, 0, 1, 0, 0, 0]]], bool)
    macro = score.v_rand(prediction, truth).at(0.5)
    micro = score.v_rand(prediction, truth, average="micro").at(0.5)
    assert macro == pytest.approx((26 / 38 + 1) / 2, abs=1e-15)
    assert micro == pytest.approx(2 * (13 + 2) / (13 + 25 + 2 + 2), abs=1e-15)


def test_empty_proposal_is_one_cell_after_thinning():
    truth = art("##.###")
    v_rand, _ = score.v_scores_at(np.zeros((1, 6), bool), truth)
    assert v_rand == pytest.approx(26 / 38, abs=1e-15)


WARPING_TOYS = [
    (["###", "#.#", "###"], ["###", "###", "###"], Mismatch.HOLE_DELETION),
    (["###", "###", "###"], ["###", "#.#", "###"], Mismatch.HOLE_ADDITION),
    (["...", "...", "..."], ["...", ".#.", "..."], Mismatch.OBJECT_ADDITION),
    (["...", ".#.", "..."], ["...", "...", "..."], Mismatch.OBJECT_DELETION),
    (["#.#", "#.#", "#.#"], ["#.#", "###", "#.#"], Mismatch.MERGE),
    (["#.#", "###", "#.#"], ["#.#", "#.#", "#.#"], Mismatch.SPLIT),
]


@pytest.mark.parametrize(("truth", "proposal", "kind"), WARPING_TOYS)
def test_each_class_of_topological_error(truth, proposal, kind):
    classes = mismatches(art(*proposal).astype(np.float32), art(*truth))
    assert np.unique(classes[classes > 0]).tolist() == [kind]
    assert np.array_equal(
        classes, mismatches_reference(art(*proposal).astype(np.float32), art(*truth))
    )


def test_a_split_costs_as_much_as_a_merger():
    bar = np.zeros((3, 5), np.float32)
    bar[1] = 1
    cut = bar.copy()
    cut[1, 2] = 0
    for prediction, truth in ((cut, bar), (bar, cut)):
        assert score.warping_error(prediction, truth.astype(int)).at(0.5) == 1 / 15


def test_a_shifted_border_costs_nothing_and_a_gap_one_pixel():
    truth = np.ones((7, 9), bool)
    truth[:, 4] = False
    shifted = np.roll(truth, 1, axis=1)
    shifted[:, 0] = True
    assert score.warping_error(shifted, truth).best == 0.0
    gap = truth.copy()
    gap[3, 4] = True
    assert score.warping_error(gap, truth).best == 1 / 63
    assert score.warping_counts(gap, truth)[0].merge == 1
    assert score.warping_counts(truth, gap)[0].split == 1


def test_a_cut_inside_a_ring_splits_only_within_the_window():
    # The pixel cuts a ring: nothing falls apart, unless the window is too small to see the detour.
    truth = art("#####", "#...#", "#...#", "#...#", "#####")
    cut = truth.astype(np.float32)
    cut[0, 2] = 0
    # Two components touch the pixel, so it is not simple and the cut is left over.
    assert mismatches(cut, truth, radius_px=4)[0, 2] == Mismatch.HOLE_DELETION
    assert mismatches(cut, truth, radius_px=1)[0, 2] == Mismatch.SPLIT
    for radius in (1, 4):
        expected = mismatches_reference(cut, truth, radius_px=radius)
        assert np.array_equal(mismatches(cut, truth, radius_px=radius), expected)


def test_seg_counts_only_reference_objects():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3, 3]])
    found = np.array([[5, 5, 5, 0, 5, 9, 0, 9, 0, 0]])
    # 1: 3 of 4, union 5; 2: exactly half, not more; 3: missed; the rest of 9 costs nothing.
    assert ctc_jaccards(found, truth).tolist() == [3 / 5, 0.0, 0.0]
    assert score.ctc_seg(found, truth) == pytest.approx(0.2, abs=1e-15)


def test_seg_is_the_mean_over_all_objects_of_all_frames():
    truth = np.array([[[1, 2, 3]], [[7, 7, 7]]])
    found = np.array([[[1, 2, 3]], [[0, 0, 0]]])
    assert score.ctc_seg(found, truth) == 3 / 4


def test_average_precision_counts_thresholds_strictly():
    truth = np.array([[1] * 20, [2] * 20])
    found = np.array([[1] * 13 + [0] * 7, [0] * 20])
    # IoU 0.65: above 0.5, 0.55, 0.6, not above 0.65; one object missed: 3 of 10 times 1 / 2.
    assert dsb_image_ap(found, truth)[0] == pytest.approx(0.15, abs=1e-15)
    assert score.dsb_ap(np.zeros_like(truth), truth) == 0.0
    assert score.dsb_ap(truth, np.zeros_like(truth)) == 0.0
    assert score.dsb_ap(np.zeros_like(truth), np.zeros_like(truth)) == 1.0


def test_class_scores_from_the_summed_matrix():
    first = score.confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 4)
    second = score.confusion(np.array([1, 3, 1]), np.array([1, 1, 9]), 4, ignore_label=9)
    scores = score.ClassScores(first + second)
    assert scores.matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert scores.absent == (2,)
    np.testing.assert_allclose(scores.iou, [1 / 2, 2 / 4, np.nan, 0])
    np.testing.assert_allclose(scores.dice, [2 / 3, 4 / 6, np.nan, 0])
    np.testing.assert_allclose(scores.precision, [1, 2 / 3, np.nan, 0])
    np.testing.assert_allclose(scores.recall, [1 / 2, 2 / 3, np.nan, np.nan])
    assert score.mean_iou(first + second) == pytest.approx(1 / 3)
    assert scores.to_dict()["recall"][3] is None


# --- the slow reference ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bool", "uint8", "int16", "uint64"])
def test_class_maps_of_any_integer_type_are_the_same(kind):
    found, true = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    matrix = score.confusion(found.astype(kind), true.astype(kind), 2)
    np.testing.assert_array_equal(matrix, [[2, 1], [0, 1]])


def test_a_threshold_between_those_of_a_sweep_has_no_value():
    sweep = score.wrong_pixels(np.float32([[0.9, 0.1]]), np.array([[1, 0]]))
    assert sweep.at(0.3) == sweep.at(0.3 + 1e-12) == 0
    with pytest.raises(ValueError, match=r"threshold 0\.35 is not in the sweep"):
        sweep.at(0.35)
    one = score.wrong_pixels(np.float32([[0.9, 0.1]]), np.array([[1, 0]]), thresholds=(0.2,))
    assert one.to_dict()["per_slice"] == [{"best": 0.0, "threshold": 0.2}]


def test_a_truth_with_a_negative_label_is_refused():
    with pytest.raises(ValueError, match="negative label -1; 0 is membrane"):
        score.wrong_pixels(np.float32([[0.9, 0.1]]), np.array([[1, -1]]))


def test_rounding_may_step_over_the_ends_of_a_probability_and_no_more():
    ends = np.array([-5e-7, 1 + 5e-7])
    np.testing.assert_array_equal(score.as_probability(ends), ends.astype(np.float32))
    for beyond in (-2e-6, 1 + 2e-6):
        with pytest.raises(ValueError, match=r"outside 0\.\.1"):
            score.as_probability(np.array([0.5, beyond]))


def test_simple_table_equals_counting_components_for_all_512_patches():
    for code in range(256):
        for centre in (False, True):
            patch = np.zeros((3, 3), bool)
            patch[1, 1] = centre
            for bit, (dy, dx) in enumerate(RING):
                patch[1 + dy, 1 + dx] = code >> bit & 1
            assert is_simple(code) == is_simple_reference(patch) == bool(simple_table()[code])
    assert simple_table().sum() == 116


@invariant("metrics", "thinning equals its slow reference")
@given(masks(st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_thin_equals_the_reference_flood(mask):
    labels = cells(mask)
    assert np.array_equal(labels, cells_reference(mask))
    assert np.array_equal(thin(labels), thin_reference(labels))


@invariant("metrics", "pair scores equal visiting all pairs of pixels")
@given(pairs_of_labels.filter(lambda pair: pair[0].any()))
def test_pair_scores_equal_visiting_all_pairs_of_pixels(pair):
    truth, proposal = pair
    counts = pair_counts(truth, proposal)
    s_ab, s_a, s_b = rand_counts(counts)
    expected = rand_f_reference(truth, proposal)
    assert 2 * s_ab / (s_a + s_b) == pytest.approx(expected, abs=1e-12)
    expected = information_f_reference(truth, proposal)
    assert information_f(counts) == pytest.approx(expected, abs=1e-12)


@invariant("metrics", "relaxation (warping) equals its slow reference")
@given(maps_and_truths, st.sampled_from(score.SWEEP))
def test_relaxation_equals_the_reference(pair, threshold):
    probability, truth = pair
    expected = relax_reference(probability, truth, threshold)
    assert np.array_equal(relax(probability, truth, threshold), expected)


@invariant("metrics", "split and merge classes equal their slow reference")
@given(maps_and_truths, st.sampled_from(score.SWEEP), st.integers(1, 4))
def test_mismatch_classes_equal_the_reference(pair, threshold, radius_px):
    probability, truth = pair
    expected = mismatches_reference(probability, truth, threshold, radius_px=radius_px)
    found = mismatches(probability, truth, threshold, radius_px=radius_px)
    assert np.array_equal(found, expected)


# --- another program ------------------------------------------------------------------------


@invariant("metrics", "pair counts equal the contingency table of scikit-image")
@given(pairs_of_labels)
def test_pairs_equal_the_contingency_table_of_skimage(pair):
    truth, proposal = pair
    counts = pair_counts(truth, proposal)
    dense = np.zeros((5, 5), np.int64)
    dense[counts.truth_label, counts.proposal_label] = counts.pixels
    table = np.zeros((5, 5))
    found = metrics.contingency_table(truth, proposal).toarray()
    table[: found.shape[0], : found.shape[1]] = found
    assert np.array_equal(dense[1:], table[1:])


@invariant("metrics", "Rand and information scores relate to those of scikit-image")
@given(pairs_of_labels)
def test_scores_without_membrane_relate_to_skimage(pair):
    truth, proposal = pair[0] + 1, pair[1] + 1
    counts = pair_counts(truth, proposal)
    s_ab, s_a, s_b = rand_counts(counts)
    n = truth.size
    # skimage leaves out each pixel's pair with itself: N (N - 1) in place of N^2.
    if s_a + s_b > 2 * n and s_ab > n and s_a > n and s_b > n:
        ours = 1 - 2 * (s_ab - n) / (s_a + s_b - 2 * n)
        theirs = metrics.adapted_rand_error(truth, proposal)[0]
        assert ours == pytest.approx(theirs, abs=1e-12)
    # Variation of information = H(A) + H(B) - 2 I, in bits.
    h_truth, h_proposal = (
        -sum(p * np.log2(p) for p in np.unique(labels, return_counts=True)[1] / n)
        for labels in (truth, proposal)
    )
    variation = sum(metrics.variation_of_information(truth, proposal))
    expected = 1 - variation / (h_truth + h_proposal) if h_truth + h_proposal > 1e-12 else 1.0
    assert information_f(counts) == pytest.approx(expected, abs=1e-9)


# --- symmetries and bounds ------------------------------------------------------------------


@invariant("metrics", "a perfect map has error 0 and score 1")
@given(masks(shapes).filter(lambda mask: mask.any()))
def test_a_perfect_map_has_no_error(mask):
    scores = score.isbi_scores(mask, mask)
    for name in ("pixel_error", "rand_error", "warping_error", "wrong_pixels", "warping_classic"):
        assert scores[name].best == 0.0
        assert scores[name].at(0.5) == 0.0
    assert scores["v_rand"].best == pytest.approx(1.0, abs=1e-12)
    assert scores["v_info"].best == pytest.approx(1.0, abs=1e-12)


@invariant("metrics", "thinning never changes a cell")
@given(masks(shapes))
def test_thinning_never_changes_a_cell(mask):
    labels = cells(mask)
    assert np.array_equal(thin(labels)[mask], labels[mask])


@invariant("metrics", "scores stay within their bounds")
@given(maps_and_truths.filter(lambda pair: pair[1].any()))
def test_scores_stay_within_their_bounds(pair):
    scores = score.isbi_scores(*pair)
    for sweep in scores.values():
        assert (sweep.values >= -1e-12).all()
        assert (sweep.values <= 1 + 1e-12).all()
        chosen = sweep.values[sweep.thresholds.index(sweep.threshold)]
        assert sweep.best == chosen
    classic, challenge = scores["warping_classic"], scores["warping_error"]
    assert (challenge.values <= classic.values).all()
    assert (classic.values <= scores["wrong_pixels"].values[:-1] + 1e-12).all()


@invariant("metrics", "relabelling changes no score")
@given(pairs_of_labels.filter(lambda pair: pair[0].any()), st.permutations([1, 2, 3, 4]))
def test_scores_are_unchanged_by_relabelling(pair, order):
    truth, proposal = pair
    table = np.array([0, *order], np.int32)
    renamed = truth, table[proposal]
    before, after = pair_counts(truth, proposal), pair_counts(*renamed)
    assert rand_counts(before) == rand_counts(after)
    assert information_f(before) == pytest.approx(information_f(after), abs=1e-12)
    assert score.ctc_seg(proposal, truth) == score.ctc_seg(table[proposal], truth)
    assert score.dsb_ap(proposal, truth) == score.dsb_ap(table[proposal], truth)


@invariant("metrics", "split and merge parts swap with their arguments")
@given(pairs_of_labels)
def test_rand_information_and_precision_swap_with_their_arguments(pair):
    first, second = pair[0] + 1, pair[1] + 1
    there, back = pair_counts(first, second), pair_counts(second, first)
    s_ab, s_a, s_b = rand_counts(there)
    assert rand_counts(back) == (s_ab, s_b, s_a)
    assert information_f(there) == pytest.approx(information_f(back), abs=1e-12)
    assert score.dsb_ap(first, second) == score.dsb_ap(second, first)


@invariant("metrics", "the confusion matrix transposes when its arguments swap")
@given(pairs_of_labels)
def test_confusion_transposes_when_its_arguments_swap(pair):
    assert np.array_equal(score.confusion(*pair, 5), score.confusion(*pair[::-1], 5).T)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
def test_smallest_slices_are_scored(shape):
    white = np.ones(shape, np.uint8)
    scores = score.isbi_scores(white.astype(np.float32), white)
    assert scores["v_rand"].best == scores["v_info"].best == 1.0
    assert scores["warping_error"].best == 0.0


# --- refusals -------------------------------------------------------------------------------


def test_a_slice_without_foreground_is_named():
    truth = np.ones((3, 4, 4), np.uint8)
    truth[1] = 0
    for measure in (score.pixel_error, score.rand_error, score.v_rand, score.warping_error):
        with pytest.raises(ValueError, match="slice 1 of the truth has no foreground"):
            measure(np.ones((3, 4, 4), np.float32), truth)


def test_wrong_inputs_are_refused_in_one_sentence():
    ones = np.ones((4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"\(4, 5\) and truth \(4, 4\)"):
        score.v_info(np.ones((4, 5), np.float32), ones)
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        score.v_info(ones * np.float32(255), ones)
    with pytest.raises(ValueError, match="nan is outside"):
        score.v_info(np.full((4, 4), np.nan), ones)
    with pytest.raises(TypeError, match="int64 has no known scale"):
        score.v_info(ones.astype(np.int64), ones)
    with pytest.raises(TypeError, match="labels must be integers"):
        score.v_info(ones, ones.astype(complex))
    with pytest.raises(ValueError, match=r"label 0\.5 at \(0, 0\) is not a whole number"):
        score.v_info(ones, ones * np.float32(0.5))
    with pytest.raises(ValueError, match="'macro' or 'micro'"):
        score.v_rand(ones, ones, average="weighted")
    with pytest.raises(ValueError, match="negative label -1"):
        score.ctc_seg(-ones.astype(np.int8), ones)
    with pytest.raises(ValueError, match="no object"):
        score.ctc_seg(ones, ones * 0)
    with pytest.raises(ValueError, match=r"label 7; 2 classes are 0\.\.1"):
        score.confusion(ones * 7, ones, 2)


def test_inputs_are_left_as_they_were_and_layout_does_not_matter():
    rng = np.random.default_rng(5)
    prediction = rng.integers(0, 256, (2, 9, 12)).astype(np.uint8)
    truth = (rng.random((2, 9, 12)) < 0.7).astype(np.uint8)
    expected = {name: sweep.values for name, sweep in score.isbi_scores(prediction, truth).items()}
    for copy in (np.asfortranarray(prediction), prediction[:, ::-1][:, ::-1]):
        copy.flags.writeable = False
        found = score.isbi_scores(copy, truth.astype(">i8"))
        for name, sweep in found.items():
            assert np.array_equal(sweep.values, expected[name])
    as_uint16 = prediction.astype(np.uint16) * 257
    assert score.v_info(as_uint16, truth).best == expected["v_info"].max()


# --- empty and full, threads, and life without a compiler -----------------------------------


def test_black_and_white_maps_have_closed_forms():
    truth = art("###.##", "###.##")
    n, squares = 10, 6**2 + 4**2
    black, white = np.zeros(truth.shape, bool), np.ones(truth.shape, bool)
    assert score.pixel_error(black, truth).best == 1.0
    assert score.pixel_error(white, truth).best == pytest.approx(1 - 20 / 22, abs=1e-15)
    lone = 2 * n / (squares + n)
    assert score.rand_error(black, truth).best == pytest.approx(1 - lone, abs=1e-15)
    assert score.rand_error(white, truth).best == pytest.approx(1 - 104 / 152, abs=1e-15)
    # After thinning a black slice is one cell, as a white one.
    assert score.v_rand(black, truth).best == score.v_rand(white, truth).best
    assert score.v_info(black, truth).best == pytest.approx(0.0, abs=1e-12)


@some(60)
@given(pairs_of_masks.filter(lambda pair: pair[1].any()), st.integers(1, 3))
def test_scores_do_not_depend_on_the_number_of_threads(pair, count):
    prediction, truth = (np.stack([mask] * 3) for mask in pair)
    alone = score.isbi_scores(*pair)
    set_threads(count)
    try:
        found = score.isbi_scores(prediction, truth)
    finally:
        set_threads(None)
    for name, sweep in found.items():
        for row in sweep.per_slice:
            assert np.array_equal(row, alone[name].per_slice[0])


def test_plain_python_gives_the_same_as_compiled_code(monkeypatch):
    rng = np.random.default_rng(8)
    truth = rng.random((20, 23)) < 0.7
    probability = rng.random((20, 23), np.float32)
    expected = score.isbi_scores(probability, truth)
    for module, names in (
        (segments, ["_count_pairs"]),
        (thinning, ["_flood"]),
        (warping, ["_relax", "_stays_whole", "_classify"]),
    ):
        for name in names:
            kernel = getattr(module, name)
            monkeypatch.setattr(module, name, getattr(kernel, "py_func", kernel))
    for name, sweep in score.isbi_scores(probability, truth).items():
        assert np.array_equal(sweep.per_slice, expected[name].per_slice)
