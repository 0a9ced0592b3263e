"""A drawn deformation and its smooth displacement field u = B d B^T, section 3.1.

The paper draws displacement vectors on a coarse 3 x 3 grid (Gaussian, 10 px) and interpolates
them "bicubically"; the kernel and the extent of the grid are open. Two are offered by name:

- "interpolate": cubic spline through the vectors, the outer nodes on the corners of the tile.
  For 3 x 3 nodes of 10 px the field has an RMS of 7.9 px per component.
- "bspline" ([F], the authors' later code): the vectors are the coefficients of a uniform cubic
  B-spline, 150 px apart, and are not reached; RMS 5.0 px on a tile of 540. The authors let
  further random coefficients lie outside the tile (RMS 4.8); here the end nodes are mirrored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from unet2015.counter import generator

if TYPE_CHECKING:
    from unet2015.recipe import Recipe

__all__ = ["Deformation", "affine", "basis", "displacement_field", "draw_deformation"]

# Streams of randomness of one sample (see unet2015.counter): position, deformation, noise.
POSITION, DEFORMATION, NOISE = 1, 2, 3


@dataclass(frozen=True, eq=False, kw_only=True)
class Deformation:
    """One drawn deformation: everything random about a training tile except its place.

    Parameters
    ----------
    displacement
        Random vectors (y, x) on the coarse grid, float64, shape (2, n, n), px.
    mode
        "interpolate": the cubic spline through the vectors, the grid spanning the tile.
        "bspline": uniform cubic B-spline with the vectors as coefficients, `spacing_px` apart,
        centred on the tile; it stays below the vectors (authors' later code).
    spacing_px
        Node spacing of the mode "bspline", px.
    rotation_deg
        Angle about the tile centre, degrees.
    shift_px
        Shift (y, x), px.
    mirrored
        Whether the x axis is reflected before the rotation.
    gain, grey_shift, gamma
        Grey values: gain * sign(v) |v|^gamma + grey_shift, never clipped.
    noise_std, noise_key
        Gaussian noise added last, and the counters of its generator.
    divisor
        Stored grey values are divided by this; None: the range of the dtype.
    mirrored_weight
        Factor on the weight of pixels read from beyond the slice.

    Examples
    --------
    >>> Deformation().rotation_deg  # the identity
    0.0
    """

    displacement: NDArray[np.float64] | None = None
    mode: Literal["interpolate", "bspline"] = "interpolate"
    spacing_px: float = 150.0
    rotation_deg: float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = False
    gain: float = 1.0
    grey_shift: float = 0.0
    gamma: float = 1.0
    noise_std: float = 0.0
    noise_key: tuple[int, ...] = (0,)
    divisor: float | None = None
    mirrored_weight: float = 1.0


def draw_deformation(recipe: Recipe, seed: int, step: int, sample: int) -> Deformation:
    """Deformation of one training tile, a function of (seed, step, sample) and the recipe only.

    Every number is drawn whether it is used or not, so that switching one kind of augmentation
    off leaves the others as they were.

    Parameters
    ----------
    recipe
        Amplitudes; see the fields under "Augmentation".
    seed, step, sample
        Counters of the run, the step and the sample within its batch, >= 0.

    Examples
    --------
    >>> from unet2015.recipe import isbi2012
    >>> a, b = (draw_deformation(isbi2012(), 0, 7, 0) for _ in range(2))
    >>> a.displacement.shape, bool((a.displacement == b.displacement).all())
    ((2, 3, 3), True)
    """
    random = generator(seed, step, sample, DEFORMATION)
    angle, shift_y, shift_x, gain, grey_shift, gamma = random.uniform(-1.0, 1.0, 6)
    mirrored = bool(random.integers(2)) and recipe.mirror
    noise_std = recipe.noise_std * float(random.random())
    nodes = recipe.displacement_grid
    if recipe.displacement == "bspline":
        nodes = _bspline_nodes(recipe.tile_px, recipe.displacement_spacing_px)
    vectors = recipe.displacement_std_px * random.standard_normal((2, nodes, nodes))
    return Deformation(
        displacement=vectors,
        mode=recipe.displacement,
        spacing_px=recipe.displacement_spacing_px,
        rotation_deg=recipe.rotation_deg * float(angle),
        shift_px=(recipe.shift_px * float(shift_y), recipe.shift_px * float(shift_x)),
        mirrored=mirrored,
        gain=1.0 + recipe.grey_gain * float(gain),
        grey_shift=recipe.grey_shift * float(grey_shift),
        gamma=math.exp(recipe.grey_gamma * float(gamma)),
        noise_std=noise_std,
        noise_key=(seed, step, sample, NOISE),
        divisor=1.0 if recipe.scale == "none" else None,
        mirrored_weight=recipe.mirrored_weight,
    )


def displacement_field(
    deformation: Deformation, side_px: int, positions: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Dense displacement (y, x) of each tile pixel, float64, shape (2, P, P), px.

    Parameters
    ----------
    deformation
        Its coarse vectors and mode are used, not its rotation or shift.
    side_px
        Side of the tile the grid belongs to.
    positions
        Pixel coordinates (same for rows and columns), shape (P,); default every pixel.

    Examples
    --------
    >>> d = np.zeros((2, 3, 3)); d[0, 1, 1] = 8.0
    >>> displacement_field(Deformation(displacement=d), 5)[0].round(2)
    array([[0., 0., 0., 0., 0.],
           [0., 2., 4., 2., 0.],
           [0., 4., 8., 4., 0.],
           [0., 2., 4., 2., 0.],
           [0., 0., 0., 0., 0.]])
    """
    if positions is None:
        positions = np.arange(side_px, dtype=np.float64)
    offsets = positions - (side_px - 1) / 2
    splines, vectors = basis(deformation, offsets, side_px)
    field: NDArray[np.float64] = np.einsum("np,cnm,mq->cpq", splines, vectors, splines)
    return field


def _bspline_nodes(side_px: int, spacing_px: float) -> int:
    """Nodes per axis of the mode "bspline": as many as fit on the tile, at least two."""
    return max(2, int(side_px // spacing_px) + 1)


def basis(
    deformation: Deformation, offsets: NDArray[np.float64], side_px: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """B^T (n, P) at the offsets from the tile centre, and the vectors d (2, n, n)."""
    vectors = deformation.displacement
    if vectors is None:
        vectors = np.zeros((2, 2, 2))
    nodes = vectors.shape[1]
    if deformation.mode == "interpolate":
        # The spline coefficients c solve E c = d at the nodes, hence B = E(positions) E(nodes)^-1.
        at = (offsets / (side_px - 1) + 0.5) * (nodes - 1)
        knots = _spline_weights(np.arange(nodes, dtype=np.float64), nodes)
        splines = np.einsum("pk,kn->np", _spline_weights(at, nodes), np.linalg.inv(knots))
    else:
        at = offsets / deformation.spacing_px + (nodes - 1) / 2
        splines = _spline_weights(at, nodes).T
    return np.ascontiguousarray(splines), np.ascontiguousarray(vectors, dtype=np.float64)


def _spline_weights(at: NDArray[np.float64], nodes: int) -> NDArray[np.float64]:
    """Cubic B-spline weights (P, n) of n mirrored nodes at positions in node units."""
    last = nodes - 1
    at = last - np.abs(last - np.abs(at) % (2 * last))  # mirror into 0 .. last
    weights = np.zeros((at.size, nodes))
    for k in range(-2, nodes + 2):
        t = np.abs(at - k)
        value = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.maximum(2 - t, 0) ** 3 / 6)
        weights[:, last - abs(last - abs(k) % (2 * last))] += value
    return weights


def affine(deformation: Deformation, centre: tuple[float, float]) -> NDArray[np.float64]:
    """Matrix and origin (2, 3): source = A @ (q + u) + origin."""
    angle = math.radians(deformation.rotation_deg)
    cosine, sine = math.cos(angle), math.sin(angle)
    flip = -1.0 if deformation.mirrored else 1.0
    return np.array([
        [cosine, -sine * flip, centre[0] + deformation.shift_px[0]],
        [sine, cosine * flip, centre[1] + deformation.shift_px[1]],
    ])  # fmt: skip
