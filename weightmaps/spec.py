"""The parameters of a weight map as one frozen value, and how far they reach.

Numbers of the paper are written here once: w0 = 10, sigma = 5 px (section 3, Eq. 2). Numbers of
the authors' later code (Falk et al. 2019, Nat. Methods): v = 0.1, sigma1 = 10 px.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from weightmaps.flooding import REACH_PX

__all__ = [
    "EPSILON",
    "FALK_SIGMA1_PX",
    "FALK_V",
    "WeightMapSpec",
    "halo_px",
    "reach_px",
    "weights_of",
]

W0 = 10.0
SIGMA_PX = 5.0
FALK_V = 0.1
FALK_SIGMA1_PX = 10.0

# Distance to the exact formula that a map may have: half of it is where the border term is cut
# to exactly 0 (3e-8, half a float32 step at 0.5).
EPSILON = 2.0**-24

# A block reads the labels around it this far: a sigma of some 1,600 pixels, of 5 in the paper.
MOST_REACH_PX = 10_000

BALANCES = ("balanced", "per-image", "falk2019", "none")
PLACES = ("background", "everywhere")
LINES = {  # between touching cells: the rule of carving (see `separate_touching`)
    "after": "authors",
    "before": "authors",
    "watershed": "watershed",
    "watershed-before": "watershed",
    "none": None,
}


def reach_px(w0: float, sigma_px: float, epsilon: float = EPSILON) -> float:
    """Return the largest d1 + d2 at which the border term is still at least epsilon / 2.

    Solved from Eq. 2: sigma sqrt(2 ln(2 w0 / epsilon)); 0 where the term is never that large.

    Parameters
    ----------
    w0, sigma_px
        Height and width of the border term.
    epsilon
        Distance to the exact formula that a map may have.

    Examples
    --------
    >>> round(reach_px(10, 5), 2)
    31.33
    """
    if 2 * w0 <= epsilon:
        return 0.0
    return sigma_px * math.sqrt(2 * math.log(2 * w0 / epsilon))


def halo_px(w0: float = W0, sigma_px: float = SIGMA_PX, epsilon: float = EPSILON) -> int:
    """Return how many pixels around a block can change the border term inside it.

    Whole pixels that fit into `reach_px`: a pixel whose term is not cut to 0 has d1 + d2, hence
    d2, within that reach. Carving needs one pixel more (see `WeightMapSpec.halo_px`).
    Parameters are those of `reach_px`.

    Examples
    --------
    >>> halo_px(10, 5)
    31
    """
    return math.floor(reach_px(w0, sigma_px, epsilon))


@dataclass(frozen=True)
class WeightMapSpec:
    """Every number a weight map depends on, checked once.

    Parameters
    ----------
    w0
        Height of the border term (paper: 10; the 2019 form goes with 50).
    sigma_px
        Width of the border term in pixels, or in the unit of `spacing` (paper: about 5;
        2019: 6).
    class_weights
        ``"balanced"``, ``"per-image"``, ``"falk2019"``, ``"none"``, or two numbers: the weights of
        background and of cells. (`multiclass_weight_map`: one number per class.)
    where
        ``"background"`` or ``"everywhere"``: the pixels that receive the border term.
    separate
        ``"after"``: distances are measured after carving the separation border; ``"before"``:
        before carving (the authors' later code); ``"watershed"``, ``"watershed-before"``: the same
        two with the minimal border of `separate_touching`'s watershed; ``"none"``: nothing is
        carved.
    spacing
        Pixel size along each axis, or None for 1.
    ignore_label
        Label whose pixels have weight 0 and belong to no class and no cell.

    Raises
    ------
    ValueError
        For a value outside its range.
    TypeError
        For what is no number.

    Examples
    --------
    >>> WeightMapSpec(sigma_px=4.0).halo_px
    26
    """

    w0: float = W0
    sigma_px: float = SIGMA_PX
    class_weights: str | tuple[float, ...] = "balanced"
    where: str = "background"
    separate: str = "after"
    spacing: tuple[float, ...] | None = None
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        """Normalise the types and check the ranges."""
        object.__setattr__(self, "w0", float(self.w0))
        object.__setattr__(self, "sigma_px", float(self.sigma_px))
        object.__setattr__(self, "class_weights", weights_of(self.class_weights))
        if self.spacing is not None:
            numbers = _numbers("spacing", self.spacing, "one per axis, such as (0.5, 0.5)")
            object.__setattr__(self, "spacing", numbers)
        if self.ignore_label is not None:
            object.__setattr__(self, "ignore_label", _whole(self.ignore_label))
        self._check()

    def _check(self) -> None:
        if not (math.isfinite(self.w0) and self.w0 >= 0):
            raise ValueError(f"w0 {self.w0} must be a finite number >= 0 (the paper: 10)")
        if not (math.isfinite(self.sigma_px) and self.sigma_px > 0):
            raise ValueError(f"sigma_px {self.sigma_px} must be a finite number > 0 (the paper: 5)")
        if self.where not in PLACES:
            raise ValueError(f"where {self.where!r} is not known; choose {' or '.join(PLACES)}")
        if self.separate not in LINES:
            raise ValueError(
                f"separate {self.separate!r} is not known; choose one of {', '.join(LINES)}"
            )
        if self.spacing is not None:
            if len(self.spacing) not in (2, 3):
                raise ValueError(f"spacing {self.spacing} must be (y, x), or (z, y, x) of a volume")
            if not all(math.isfinite(s) and s > 0 for s in self.spacing):
                raise ValueError(f"spacing {self.spacing} must be finite numbers > 0")
        finest = 1.0 if self.spacing is None else min(self.spacing)
        if not self.reach_px / finest <= MOST_REACH_PX:
            raise ValueError(
                f"sigma_px {self.sigma_px:g} with pixels of {finest:g} reaches"
                f" {self.reach_px / finest:.3g} pixels far, at most {MOST_REACH_PX} are computed;"
                " give sigma in the unit of spacing (the paper: 5 pixels)"
            )
        if self.ignore_label == 0:
            raise ValueError("ignore_label 0 is the background; give ignored pixels another value")

    @property
    def reach_px(self) -> float:
        """Largest d1 + d2 that still has a border term, in pixels (or the unit of `spacing`)."""
        return reach_px(self.w0, self.sigma_px)

    @property
    def class_reach_px(self) -> float:
        """Largest d1 that still changes the class term; 0 save for the 2019 form."""
        if self.class_weights != "falk2019":
            return 0.0
        return FALK_SIGMA1_PX * math.sqrt(2 * math.log(2 * (1 - FALK_V) / EPSILON))

    @property
    def line(self) -> str | None:
        """Method of `separate_touching` by which touching cells are carved apart, or None."""
        return LINES[self.separate]

    @property
    def uncarved_distances(self) -> bool:
        """Distances are measured to the cells before carving."""
        return self.separate.endswith("before")

    @property
    def line_reach_px(self) -> int:
        """Pixels around a pixel that decide whether it is carved."""
        return {None: 0, "authors": 1, "watershed": REACH_PX}[self.line]

    @property
    def halo_px(self) -> int:
        """Pixels around a block that make its map equal to the whole image's, bit for bit."""
        finest = 1.0 if self.spacing is None else min(self.spacing)
        reach = max(self.reach_px, self.class_reach_px) / finest
        return math.floor(reach) + self.line_reach_px

    def check_axes(self, axes: int) -> None:
        """Raise `ValueError` if `spacing` is given for another number of axes.

        Examples
        --------
        >>> WeightMapSpec(spacing=(0.5, 0.5)).check_axes(2)
        """
        if self.spacing is not None and len(self.spacing) != axes:
            raise ValueError(f"spacing {self.spacing} must be {axes} numbers, one per axis")

    def check_range(self, dtype: npt.DTypeLike) -> None:
        """Raise `ValueError` if weights of this map may be too large for `dtype`.

        Examples
        --------
        >>> WeightMapSpec(w0=1e5).check_range("float32")
        """
        fixed = 1.0 if isinstance(self.class_weights, str) else max(self.class_weights)
        kind = np.dtype(dtype)
        largest = self.w0 + fixed
        if largest > float(np.finfo(kind).max):
            raise ValueError(
                f"weights of up to {largest:g} are above the largest number of {kind.name},"
                f" {float(np.finfo(kind).max):g}; use a larger type, or smaller weights"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as a plain dictionary for JSON."""
        plain = asdict(self)
        for name in ("class_weights", "spacing"):
            if isinstance(plain[name], tuple):
                plain[name] = list(plain[name])
        return plain


def _numbers(name: str, value: Any, rule: str) -> tuple[float, ...]:
    """Return several numbers as floats."""
    try:
        if isinstance(value, str):
            raise TypeError
        return tuple(float(v) for v in value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} {value!r} must be numbers, {rule}") from None


def _whole(label: Any) -> int:
    """Return the ignore label as an int."""
    try:
        if not isinstance(label, bool) and int(label) == label:
            return int(label)
    except (TypeError, ValueError, OverflowError):
        pass
    raise TypeError(f"ignore_label {label!r} must be one whole number, a value of the labels")


def weights_of(value: str | Sequence[float] | Mapping[int, float]) -> str | tuple[float, ...]:
    """Return the name of a class balance, or one weight per class (background first), checked.

    Parameters
    ----------
    value
        A name, two numbers or more, or a mapping of the classes 0, 1, ... to them.

    Raises
    ------
    ValueError
        For an unknown name, fewer than two numbers, or what are not finite numbers >= 0.

    Examples
    --------
    >>> weights_of({0: 2, 1: 0.5})
    (2.0, 0.5)
    """
    if isinstance(value, str):
        if value not in BALANCES:
            raise ValueError(
                f"class_weights {value!r} is not known; choose one of {', '.join(BALANCES)},"
                " or give two numbers: background, cells"
            )
        return value
    if isinstance(value, Mapping):
        if len(value) < 2 or set(value) != set(range(len(value))):
            raise ValueError(f"class_weights needs the classes 0 and 1, not {sorted(value)}")
        value = [value[k] for k in range(len(value))]
    weights = _numbers("class_weights", value, "one per class, background first, or a name")
    if len(weights) < 2 or not all(math.isfinite(v) and v >= 0 for v in weights):
        raise ValueError(
            f"class_weights {list(weights)} must be two finite numbers >= 0: background, cells"
            " (or one per class)"
        )
    return weights
