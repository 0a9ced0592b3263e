"""How the values of a label file are taken: as the ids of cells, or as a mask of their inside.

The rule is stated here once. `auto`: a file whose only values are 0 and one of 1, 255 or the
largest value of its type is a mask, and its cells are the connected components; every other file
holds ids. A file of grey levels (anti-aliased or JPEG masks, class codes) is refused, never
thresholded in silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "MOST_CLASSES",
    "LabelRule",
    "ids_of",
    "inside_of",
    "looks_like_image",
    "taken_as",
    "tally",
]

KINDS = ("auto", "mask", "instances", "classes")
INSIDES = ("nonzero", "zero")
MANY = 512  # with more distinct values than this nobody asks what they are
_TABLE = 1 << 16
_BRIGHT = 240  # grey levels of JPEG around 255
_FEW_CODES = 16
_SMALLEST_IMAGE = 4096
MOST_CLASSES = 16


@dataclass(frozen=True)
class LabelRule:
    """What the user says about the label files.

    Parameters
    ----------
    kind
        ``"auto"``, ``"mask"``, ``"instances"``, or ``"classes"``: the values are classes, 0 =
        background, and cells are the connected components of each class.
    connectivity
        4 or 8: the neighbours that belong to the same cell of a mask.
    inside
        ``"nonzero"`` (ISBI: 255 is cell, 0 membrane) or ``"zero"`` (the opposite polarity).
    threshold
        Mask pixels with this value or more are non-zero; for anti-aliased masks.
    ignore_label
        Value of the pixels that are neither.

    Raises
    ------
    ValueError
        For a value that is not known, or two that contradict each other.
    """

    kind: str = "auto"
    connectivity: int = 4
    inside: str = "nonzero"
    threshold: float | None = None
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.kind not in KINDS:
            raise ValueError(f"labels {self.kind!r} is not known; choose one of {', '.join(KINDS)}")
        if self.connectivity not in (4, 8):
            raise ValueError(f"connectivity {self.connectivity} is not known; choose 4 or 8")
        if self.inside not in INSIDES:
            raise ValueError(f"inside {self.inside!r} is not known; choose {' or '.join(INSIDES)}")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold {self.threshold} must be a finite number")
        of_masks = self.inside == "zero" or self.threshold is not None
        if self.kind in ("instances", "classes") and of_masks:
            raise ValueError(
                f"inside and threshold are about masks; they do not go with {self.kind}"
            )
        if self.kind == "instances" and self.connectivity != 4:
            raise ValueError(
                "connectivity is about masks and classes; ids are cells as they are: leave it out"
            )
        if self.ignore_label == 0:
            raise ValueError("ignore label 0 is the background; give ignored pixels another value")


def tally(counts: dict[Any, int] | None, rows: npt.NDArray[Any]) -> dict[Any, int] | None:
    """Return `counts` (value -> pixels) with the values of `rows` added; None: too many values.

    Examples
    --------
    >>> tally({}, np.array([[0, 255, 255]], np.uint8))
    {0: 1, 255: 2}
    """
    if counts is None or rows.size == 0:
        return counts
    if rows.dtype.kind == "b":
        rows = (rows.view(np.uint8) != 0).astype(np.uint8)  # some readers' True is byte 255
    if rows.dtype.kind in "iu" and rows.min() >= 0 and rows.max() < _TABLE:
        table = np.bincount(rows.ravel())
        values: npt.NDArray[Any] = np.flatnonzero(table)
        numbers = table[values]
    else:
        values, numbers = np.unique(rows, return_counts=True)
    total = dict(counts)
    for value, number in zip(values[: MANY + 1].tolist(), numbers.tolist(), strict=False):
        total[value] = total.get(value, 0) + number
    return total if len(total) <= MANY else None


def taken_as(rule: LabelRule, counts: dict[Any, int] | None, dtype: npt.DTypeLike) -> str:
    """Return ``"mask"``, ``"instances"`` or ``"classes"`` for a file with these values.

    Parameters
    ----------
    rule
        What the user said.
    counts
        Value -> pixels over the whole file; None for more than `MANY` values.
    dtype
        Type of the pixels.

    Raises
    ------
    ValueError
        The values are neither, and nobody said what to do.

    Examples
    --------
    >>> taken_as(LabelRule(), {0: 10, 255: 90}, np.uint8)
    'mask'
    >>> taken_as(LabelRule(), {0: 10, 1: 50, 2: 40}, np.uint8)
    'instances'
    """
    if rule.kind == "instances":
        return "instances"
    if rule.kind == "classes":
        _refuse_no_classes(rule, counts)
        return "classes"
    if rule.threshold is not None:
        return "mask"
    kind = np.dtype(dtype)
    known = {v for v in counts if v not in (0, rule.ignore_label)} if counts is not None else None
    if rule.kind == "mask" or rule.inside == "zero":
        if known is None or len(known) > 1:
            raise ValueError(
                f"a mask has the values 0 and one other, this file has {_listed(counts)}; "
                "use --threshold T to take values >= T as inside, or --labels instances"
            )
        return "mask"
    if known is None:
        return "instances"
    largest = {1, 255} | ({int(np.iinfo(kind).max)} if kind.kind in "iu" else set())
    if not known or (len(known) == 1 and known <= largest):
        return "mask"
    if kind == np.uint8 and counts is not None and _grey(counts, known):
        raise ValueError(
            f"values {_listed(counts)} look like grey levels or class codes, not cell ids; use "
            "--labels instances if they are ids, or --threshold T to take values >= T as inside"
        )
    return "instances"


def _refuse_no_classes(rule: LabelRule, counts: dict[Any, int] | None) -> None:
    known = None if counts is None else [v for v in counts if v != rule.ignore_label]
    if known is None or any(v != v or not 0 <= v < MOST_CLASSES or v % 1 for v in known):
        raise ValueError(
            f"classes are whole numbers from 0 to {MOST_CLASSES - 1}, this file has"
            f" {_listed(counts)}; number them 0, 1, 2, ..., or use --labels instances for ids"
        )


def _grey(counts: dict[Any, int], known: set[Any]) -> bool:
    """Whether 8-bit values with 255 among them are levels between black and white."""
    if 255 not in known:
        return False
    bright = sum(counts[v] for v in known if v >= _BRIGHT)
    return 2 * bright > sum(counts[v] for v in known) or len(known) <= _FEW_CODES


def _listed(counts: dict[Any, int] | None) -> str:
    if counts is None:
        return f"more than {MANY} values"
    values = sorted(counts)
    text = ", ".join(str(v) for v in values[:5])
    return text if len(values) <= 5 else f"{text}, ... {values[-1]} ({len(values)} values)"


def looks_like_image(rows: npt.NDArray[Any]) -> bool:
    """Whether more than half of the horizontal neighbours differ, as in no label image.

    Never for fewer than 4096 pixels. NaN, which differs from itself, is told by its own name later.
    """
    if rows.size < _SMALLEST_IMAGE or rows.shape[1] < 2:
        return False
    left, right = rows[:, :-1], rows[:, 1:]
    differ = left != right
    if rows.dtype.kind == "f":
        differ &= (left == left) & (right == right)
    return 2 * int(np.count_nonzero(differ)) > rows.size


def inside_of(rows: npt.NDArray[Any], rule: LabelRule) -> npt.NDArray[np.bool_]:
    """Return which pixels of a mask are inside a cell (`rows` of any shape and number type)."""
    values: Any = rows
    mask: Any
    mask = values != 0 if rule.threshold is None else values >= rule.threshold
    if rule.inside == "zero":
        mask = ~mask
    if rule.ignore_label is not None:
        mask = mask & (values != rule.ignore_label)
    return np.asarray(mask, np.bool_)


def ids_of(
    components: npt.NDArray[Any], rows: npt.NDArray[Any], rule: LabelRule
) -> npt.NDArray[Any]:
    """Return component numbers 1, 2, ... with the ignored pixels of `rows` marked again.

    No component keeps the ignore label as its id: from there on the ids are one higher.
    """
    ignore = rule.ignore_label
    if ignore is None:
        return components
    small = -(2**31) <= ignore < 2**31 - 1
    ids: npt.NDArray[Any] = components.astype(np.int32 if small else np.int64)
    if ignore > 0:
        np.add(ids, 1, out=ids, where=ids >= np.asarray(ignore))
    ids[rows == ignore] = ignore
    return ids
