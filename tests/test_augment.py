"""Augmentation: checks 27 to 29 of docs/fidelity.md, and invariants of docs/reliability.md."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.invariants import invariant
from unet2015.augment import (
    Deformation,
    deform,
    deform_reference,
    displacement_field,
    draw_deformation,
    dtype_range,
    warp_nearest,
)
from unet2015.deformation import DEFORMATION
from unet2015.recipe import dic_hela, isbi2012, phc_u373, quick


def random_slice(seed, height, width, channels=1, dtype="uint8"):
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        image = random.normal(0, 2, (channels, height, width)).astype(dtype)
    else:
        image = random.integers(0, np.iinfo(dtype).max + 1, (channels, height, width), dtype=dtype)
    labels = random.integers(0, 5, (height, width))
    weights = random.random((height, width), dtype=np.float32) + 0.5
    return image, labels, weights


def random_deformation(seed, **changes):
    recipe = replace(quick(), tile_px=64, displacement_std_px=2.0, mirrored_weight=0.25, **changes)
    return draw_deformation(recipe, seed, 0, 0)


# Check 27: zero field, node std, interpolation, B-spline.


def test_displaced_ramp_in_digits():
    # One row; the middle node moves 1 px to the right, so each pixel is read further right.
    vectors = np.zeros((2, 3, 3))
    vectors[1] = [[0, 1, 0]] * 3
    ramp = np.tile(np.arange(5, dtype=np.float32) * 10, (5, 1))
    tile, labels, weights = deform(
        ramp[None], np.tile(np.arange(5), (5, 1)), None, Deformation(displacement=vectors),
        centre=(2, 2), input_px=5, output_px=5,
    )  # fmt: skip
    # u = 0, 0.5, 1, 0.5, 0: the cubic spline through 0, 1, 0 with mirrored ends.
    assert tile[0, 0].tolist() == pytest.approx([0, 15, 30, 35, 40])
    assert labels[0].tolist() == [0, 2, 3, 4, 4]
    assert (weights == 1).all()


def test_zero_field_is_the_identity_to_the_last_bit():
    image, labels, weights = random_slice(1, 40, 50, channels=2, dtype="float32")
    still = Deformation(displacement=np.zeros((2, 3, 3)))
    tile, label, weight = deform(
        image, labels, weights, still, centre=(19.5, 24.5), input_px=32, output_px=20
    )
    assert (tile == image[:, 4:36, 9:41]).all()
    assert (label == labels[10:30, 15:35]).all()
    assert (weight == weights[10:30, 15:35]).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_scaling_is_by_the_range_of_the_dtype_never_by_the_tile(dtype):
    image, labels, weights = random_slice(2, 30, 30, dtype=dtype)
    tile, _, _ = deform(
        image, labels, weights, Deformation(), centre=(14.5, 14.5), input_px=30, output_px=10
    )
    assert (tile == image.astype(np.float32) / np.float32(np.iinfo(dtype).max)).all()


def test_node_displacements_are_gaussian_of_10_px():
    vectors = np.stack([draw_deformation(isbi2012(), 0, s, 0).displacement for s in range(1000)])
    assert vectors.shape[1:] == (2, 3, 3)
    assert vectors.std() == pytest.approx(10, abs=0.2)
    assert vectors.mean() == pytest.approx(0, abs=0.2)
    assert abs(np.corrcoef(vectors[:, 0, 1, 1], vectors[:, 1, 1, 1])[0, 1]) < 0.1


def test_every_amplitude_is_drawn_to_both_sides_and_no_further():
    recipe = isbi2012()
    drawn = [draw_deformation(recipe, 0, step, 0) for step in range(300)]
    for values, bound in (
        ([d.rotation_deg for d in drawn], recipe.rotation_deg),
        ([d.shift_px[0] for d in drawn], recipe.shift_px),
        ([d.shift_px[1] for d in drawn], recipe.shift_px),
        ([d.gain - 1 for d in drawn], recipe.grey_gain),
        ([d.grey_shift for d in drawn], recipe.grey_shift),
        ([np.log(d.gamma) for d in drawn], recipe.grey_gamma),
    ):
        assert -bound <= min(values) < -0.9 * bound
        assert 0.9 * bound < max(values) <= bound
        assert abs(np.mean(values)) < 0.15 * bound
    assert 100 < sum(d.mirrored for d in drawn) < 200
    assert not any(
        draw_deformation(replace(recipe, mirror=False), 0, step, 0).mirrored for step in range(20)
    )
    other = replace(recipe, mirrored_weight=0.25, scale="none")
    assert draw_deformation(other, 0, 0, 0).mirrored_weight == 0.25
    assert draw_deformation(other, 0, 0, 0).divisor == 1
    assert len({d.noise_key for d in drawn}) == 300
    assert not any(d.noise_key == (0, step, 0, DEFORMATION) for step, d in enumerate(drawn))


@pytest.mark.parametrize("nodes", [2, 3, 4, 7])
def test_interpolate_passes_through_the_nodes(nodes):
    vectors = np.random.default_rng(3).normal(0, 10, (2, nodes, nodes))
    at = np.linspace(0, 571, nodes)
    field = displacement_field(Deformation(displacement=vectors), 572, at)
    assert np.abs(field - vectors).max() < 1e-6


def fields(recipe, count=250):
    at = np.arange(4, recipe.tile_px, 9, dtype=np.float64)
    return np.stack([
        displacement_field(draw_deformation(recipe, 0, s, 0), recipe.tile_px, at)
        for s in range(count)
    ])  # fmt: skip


def test_interpolate_has_an_rms_of_about_7_9_px():
    assert np.sqrt(np.square(fields(isbi2012())).mean()) == pytest.approx(7.9, abs=0.25)


def test_bspline_has_an_rms_of_5_px():
    recipe = replace(isbi2012(), displacement="bspline", tile_px=540)
    assert draw_deformation(recipe, 0, 0, 0).displacement.shape == (2, 4, 4)  # 150 px apart
    assert np.sqrt(np.square(fields(recipe)).mean()) == pytest.approx(5.0, abs=0.2)


def test_bspline_rms_in_closed_form():
    # Independent unit vectors: the variance at a pixel is the sum of the squared weights.
    unit = Deformation(displacement=np.zeros((2, 4, 4)), mode="bspline")
    squares = np.zeros((540, 540))
    for k in range(4):
        for m in range(4):
            vectors = np.zeros((2, 4, 4))
            vectors[0, k, m] = 10
            squares += displacement_field(replace(unit, displacement=vectors), 540)[0] ** 2
    assert np.sqrt(squares.mean()) == pytest.approx(5.026, abs=1e-3)


# The compiled pass, the reference and the torch twin are one function.


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    mode=st.sampled_from(["interpolate", "bspline"]),
    rgb=st.booleans(),
)
def test_compiled_pass_equals_the_reference_and_the_torch_twin(
    seed, height, width, dtype, mode, rgb
):
    image, labels, weights = random_slice(seed, height, width, 3 if rgb else 1, dtype)
    deformation = random_deformation(seed, displacement=mode, noise_std=0.1)
    centre = tuple(np.random.default_rng(seed).uniform(-10, 80, 2))
    size = {"centre": centre, "input_px": 64, "output_px": 40}
    ours = deform(image, labels, weights, deformation, **size)
    slow = deform_reference(image, labels, weights, deformation, **size)
    twin = [t.numpy() for t in deform(image, labels, weights, deformation, **size,
                                      device="cpu-torch")]  # fmt: skip
    for a, b, c in zip(ours, slow, twin, strict=True):
        assert a.dtype == b.dtype == c.dtype
        assert a.shape == b.shape == c.shape
        # A label may differ where a source point lies half-way between two pixels to 1e-12.
        allowed = 2e-5 if a.dtype == np.float32 else 0
        assert np.abs(a - b).max() <= allowed
        assert np.abs(a - c).max() <= 1e-4 if allowed else (a == c).all()


def test_tile_is_deformed_the_same_whatever_the_layout():
    image, labels, weights = random_slice(5, 61, 53, 2, "uint16")
    deformation = random_deformation(5)
    size = {"centre": (20.5, 30.5), "input_px": 64, "output_px": 40}
    expected = deform(image, labels, weights, deformation, **size)
    before = image.copy(), labels.copy(), weights.copy()
    big = image.astype(">u2")
    fortran = np.asfortranarray(labels)
    strided = np.repeat(weights, 2, axis=1)[:, ::2]
    backwards = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    for array in (image, labels, weights):
        array.flags.writeable = False
    for pictures in (image, big, backwards):
        for device in ("cpu", "cpu-torch"):
            found = deform(pictures, fortran, strided, deformation, **size, device=device)
            for a, b in zip(found, expected, strict=True):
                assert np.abs(np.asarray(a) - b).max() < 1e-6
    for array, old in zip((image, labels, weights), before, strict=True):
        assert (array == old).all()


# Check 28: one field for all, no new ids, no folding.


@invariant("augmentation", "image, labels and weights are warped by one field")
@given(seed=st.integers(0, 10_000))
def test_image_labels_and_weights_share_one_field(seed):
    # A smooth slice that holds its own coordinates tells where each pixel was read.
    y, x = np.mgrid[:100, :90].astype(np.float32)
    ids = np.arange(9000).reshape(100, 90)
    deformation = replace(
        random_deformation(seed), gain=1.0, grey_shift=0.0, gamma=1.0, mirrored_weight=1.0
    )
    size = {"centre": (50, 45), "input_px": 64, "output_px": 40}
    tile, label, weight = deform(np.stack([y, x]), ids, x, deformation, **size)
    read = tile[:, 12:52, 12:52]
    inside = (read[0] > 2) & (read[0] < 97) & (read[1] > 2) & (read[1] < 87)
    assert inside.any()
    for axis, found in enumerate(np.divmod(label, 90)):
        assert np.abs(found - read[axis])[inside].max() <= 0.5 + 1e-3
    assert (weight == read[1]).all()


@invariant("augmentation", "labels stay a subset of the labels of the slice")
@given(seed=st.integers(0, 10_000), big=st.booleans())
def test_labels_stay_among_the_labels_of_the_slice(seed, big):
    image, labels, weights = random_slice(seed, 37, 41)
    labels = labels * (2**60 if big else 3)
    deformation = random_deformation(seed)
    _, found, _ = deform(
        image, labels, weights, deformation, centre=(10, 30), input_px=64, output_px=40
    )
    assert set(np.unique(found)) <= set(np.unique(labels))
    window = warp_nearest(labels, deformation, centre=(10, 30), input_px=64, window_px=40)
    assert (window == found).all()


@pytest.mark.parametrize("make", [isbi2012, quick, dic_hela, phc_u373])
@pytest.mark.parametrize("mode", ["interpolate", "bspline"])
def test_default_fields_do_not_fold(make, mode):
    recipe = replace(make(), displacement=mode)
    for step in range(60):
        at = np.arange(0, recipe.tile_px, 4, dtype=np.float64)
        field = displacement_field(draw_deformation(recipe, 0, step, 0), recipe.tile_px, at)
        (yy, yx), (xy, xx) = (np.gradient(part, 4.0) for part in field)
        assert ((1 + yy) * (1 + xx) - yx * xy).min() > 0


def test_window_beyond_the_tile_continues_it():
    labels = np.arange(10_000).reshape(100, 100)
    deformation = random_deformation(9)
    size = {"centre": (50, 50), "input_px": 64}
    small = warp_nearest(labels, deformation, window_px=64, **size)
    large = warp_nearest(labels, deformation, window_px=90, **size)
    assert (large[13:-13, 13:-13] == small).all()


# Check 29: never zeros, seeded.


@invariant("augmentation", "context is mirrored, never zero")
@given(seed=st.integers(0, 10_000), height=st.integers(1, 30), width=st.integers(1, 30))
def test_context_is_mirrored_never_zero(seed, height, width):
    image = np.random.default_rng(seed).integers(100, 256, (1, height, width), dtype=np.uint8)
    labels = np.ones((height, width), np.int64)
    deformation = replace(random_deformation(seed), gain=1.0, grey_shift=0.0, gamma=1.0)
    tile, label, weight = deform(
        image, labels, None, deformation, centre=(-40, 90), input_px=64, output_px=40
    )
    assert tile.min() >= image.min() / 255 - 1e-6
    assert tile.max() <= image.max() / 255 + 1e-6
    assert (label == 1).all()
    assert set(np.unique(weight)) <= {np.float32(1), np.float32(0.25)}


@pytest.mark.parametrize("height", [1, 2, 5, 30])
def test_mirror_leaves_the_edge_out_as_numpy_reflect(height):
    image = np.arange(height * 7, dtype=np.float32).reshape(1, height, 7)
    tile, _, _ = deform(
        image, np.zeros((height, 7), np.int64), None, Deformation(),
        centre=((height - 1) / 2 + 0.5 * (height % 2 == 0), 3), input_px=41, output_px=1,
    )  # fmt: skip
    top = 20 - int((height - 1) / 2 + 0.5 * (height % 2 == 0))
    pad = ((top, 41 - height - top), (17, 17)) if height > 1 else ((20, 20), (17, 17))
    mode = "reflect" if height > 1 else "edge"
    rows = np.pad(image[0], (pad[0], (0, 0)), mode=mode)
    assert (tile[0] == np.pad(rows, ((0, 0), pad[1]), mode="reflect")).all()


def test_weight_of_mirrored_pixels_is_the_recipes():
    image, labels, weights = random_slice(0, 20, 20)
    _, _, weight = deform(
        image, labels, weights, Deformation(mirrored_weight=0.0),
        centre=(-0.5, 9.5), input_px=40, output_px=20,
    )  # fmt: skip
    assert (weight[:10] == 0).all()
    assert (weight[10:] == weights[:10]).all()


def test_deformation_depends_on_seed_step_and_sample_alone():
    def drawn(*counters):
        d = draw_deformation(isbi2012(), *counters)
        return (*d.displacement.ravel(), d.rotation_deg, *d.shift_px, d.gain, d.gamma)

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    first = [drawn(*key) for key in keys]
    assert first == [drawn(*key) for key in keys]
    assert len(set(first)) == 4


def test_switching_one_kind_off_leaves_the_others():
    full = draw_deformation(isbi2012(), 3, 4, 5)
    less = draw_deformation(replace(isbi2012(), displacement_std_px=0, grey_gain=0), 3, 4, 5)
    assert (less.displacement == 0).all()
    assert less.gain == 1
    assert (less.rotation_deg, less.shift_px, less.mirrored, less.gamma) == (
        full.rotation_deg, full.shift_px, full.mirrored, full.gamma,
    )  # fmt: skip


def test_grey_values_in_digits():
    image = np.array([[[0, 255], [51, 102]]], np.uint8)
    labels = np.zeros((2, 2), np.int64)
    grey = Deformation(gain=1.5, grey_shift=-0.1, gamma=2.0)
    tile, _, _ = deform(image, labels, None, grey, centre=(0.5, 0.5), input_px=2, output_px=2)
    assert tile[0].ravel().tolist() == pytest.approx([-0.1, 1.4, -0.04, 0.14])
    negative = np.array([[[-0.5, 0.5], [0, 1]]], np.float32)
    tile, _, _ = deform(negative, labels, None, grey, centre=(0.5, 0.5), input_px=2, output_px=2)
    assert tile[0].ravel().tolist() == pytest.approx([-0.475, 0.275, -0.1, 1.4])


def test_rotation_mirror_and_shift_in_digits():
    image = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    labels = np.arange(9).reshape(3, 3)

    def label_tile(**changes):
        found = deform(image, labels, None, Deformation(**changes), centre=(1, 1), input_px=3,
                       output_px=3)  # fmt: skip
        assert np.abs(found[0][0] - found[1]).max() < 1e-6
        return found[1].tolist()

    assert label_tile(rotation_deg=90) == np.rot90(labels, -1).tolist()
    assert label_tile(mirrored=True) == labels[:, ::-1].tolist()
    assert label_tile(shift_px=(1, 0)) == [[3, 4, 5], [6, 7, 8], [3, 4, 5]]


def test_misfits_are_refused_with_both_values():
    image, labels, weights = random_slice(0, 20, 30)
    size = {"centre": (9, 9), "input_px": 16, "output_px": 8}
    with pytest.raises(ValueError, match=r"labels have shape \(19, 30\), the image \(20, 30\)"):
        deform(image, labels[1:], None, Deformation(), **size)
    with pytest.raises(ValueError, match=r"weights have shape"):
        deform(image, labels, weights.T, Deformation(), **size)
    with pytest.raises(ValueError, match="16 -> 9 do not nest"):
        deform(image, labels, None, Deformation(), **(size | {"output_px": 9}))
    with pytest.raises(ValueError, match=r"\(C, H, W\) was expected"):
        deform(image[0], labels, None, Deformation(), **size)
    with pytest.raises(ValueError, match="int32 have no agreed grey range"):
        dtype_range(np.int32)
