"""What the values of two files are for a measure: probabilities, ids of objects, or classes.

A prediction with one value beside 0 is a mask for the ISBI measures; for the others it is one where
that value is usual in masks. What `unet2015 predict` wrote says itself what it holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet2015.score_files import ScoredPair
from unet2015.sweep import as_probability
from unet2015.truth import TruthError, true_labels, whole_truth
from weightmaps.labels import instances_from_mask, whole_numbers

__all__ = ["as_classes", "as_map", "as_objects"]

_Read = tuple[NDArray[Any], NDArray[Any], list[str]]
_OBJECTS = "--measure seg or ap compares objects, iou classes"


def as_map(pair: ScoredPair) -> _Read:
    """Probability of cell interior, float32 (S, H, W), the truth, and notes.

    Raises
    ------
    ValueError
        The prediction holds objects, classes or logits.
    TypeError
        It holds integers whose largest value is not the probability 1.
    """
    notes = []
    found, true = pair.prediction, pair.truth
    if ((true > 0) & (true != true.max())).any():
        notes.append(
            "the truth has more than two values; all above 0 are interior, touching cells merge"
        )
    value = 0 if pair.saved == "probability" else _value_of_mask(found)
    if pair.saved == "logits":
        raise ValueError("holds logits; predict with --save probability")
    if pair.saved == "instances" or (pair.saved == "label" and not value and found.any()):
        what = "objects" if pair.saved == "instances" else "classes"
        raise ValueError(f"holds {what} and no probabilities; {_OBJECTS}")
    if value and not (found.dtype in (bool, np.uint8, np.uint16) and value == _one(found.dtype)):
        notes.append(
            "the prediction holds no value above 1; read as a mask" if value == 1 else
            f"the prediction holds 0 and {value} only; read as a mask"
        )  # fmt: skip
        return as_probability(found == value), true, notes
    try:
        probability = as_probability(found)
    except TypeError as error:
        raise TypeError(f"{error}; of ids or classes, {_OBJECTS}") from error
    largest = float(probability.max(initial=0))
    if found.dtype.kind in "iu" and largest < 0.5 and pair.saved != "probability":
        notes.append(
            f"the prediction reaches {found.max()}, read as the probability {largest:.3g}; if its "
            f"values are ids or classes, {_OBJECTS}"
        )
    return probability, true, notes


def as_objects(pair: ScoredPair) -> _Read:
    """Ids of the prediction and of the truth, integers (S, H, W), 0 for background, and notes.

    Of a mask each piece is an object. The one value of a mask is 255 or the largest of its type, or
    1 in 8 bits and floats; any other may be the id of the only object, in one piece or several.

    Raises
    ------
    ValueError
        The prediction holds probabilities or several classes, or values that are no whole numbers.
    TruthError
        The truth holds negative values, or such that are no whole numbers.
    """
    _refuse_probabilities(pair, "objects", "instances")
    true = true_labels(pair.truth, zero="background")
    found = whole_numbers(pair.prediction)
    if pair.saved == "label" and not _value_of_mask(found) and found.any():
        raise ValueError("holds classes and no objects; predict with --save instances")
    notes: list[str] = []
    if pair.saved != "instances":
        found = _pieces("prediction", found, pair.prediction.dtype, notes)
    return found, _pieces("truth", true, pair.truth.dtype, notes), notes


def _pieces(
    name: str, labels: NDArray[Any], stored: np.dtype[Any], notes: list[str]
) -> NDArray[Any]:
    """The pieces of a mask as ids, anything else as it is; a note where there are several."""
    value = _value_of_mask(labels)
    if not value:
        return labels
    pieces = instances_from_mask(labels == value)
    id_or_mask = value == 1 and stored.kind in "iu" and stored.itemsize > 1
    is_mask = _is_usual(value, stored) and not id_or_mask
    if pieces.max() > 1:
        notes.append(
            f"the {name} holds 0 and {value} only; "
            + ("each piece (of pixels that share sides) is taken as an object" if is_mask else
               f"taken as one object in {pieces.max()} pieces")
        )  # fmt: skip
    return pieces if is_mask else labels


def as_classes(pair: ScoredPair, ignore: int | None) -> _Read:
    """Classes of the counted pixels of prediction and truth, integers (N,), and notes.

    Two masks, whose one value is 1, 255 or the largest of its type, are both read as 0 and 1.

    Parameters
    ----------
    pair
        The files.
    ignore
        Value of the truth whose pixels are left out.

    Raises
    ------
    ValueError
        The prediction holds probabilities, objects, or values that are no whole numbers.
    TruthError
        Values of the truth are no whole numbers, or all of its pixels are left out.
    """
    _refuse_probabilities(pair, "classes", "label")
    if pair.saved == "instances":
        raise ValueError("holds objects and no classes; --measure seg or ap compares objects")
    found, true = whole_numbers(pair.prediction), whole_truth(pair.truth)
    counted = np.ones(true.shape, bool) if ignore is None else true != ignore
    found, true = found[counted], true[counted]
    if not true.size:
        raise TruthError(
            f"holds the ignore label {ignore} in every pixel; give another one with --ignore, or"
            " name the right truth"
        )
    values = _value_of_mask(found), _value_of_mask(true)
    usual = zip(values, (pair.prediction.dtype, pair.truth.dtype), strict=True)
    if values[0] == values[1] or not all(_is_usual(*one) for one in usual):
        return found, true, []
    note = (
        f"the foreground is {values[0]} in the prediction and {values[1]} in the truth; both are "
        "read as 1"
    )
    return (found > 0).astype(np.uint8), (true > 0).astype(np.uint8), [note]


def _refuse_probabilities(pair: ScoredPair, wanted: str, save: str) -> None:
    if pair.saved in ("probability", "logits"):
        raise ValueError(
            f"holds {'probabilities' if pair.saved == 'probability' else 'logits'} and no {wanted};"
            f" predict with --save {save}"
        )


def _value_of_mask(values: NDArray[Any]) -> int:
    """The one value beside 0; 1 where there are no others than 1; 0 of anything but a mask."""
    largest = values.max(initial=0)
    if not largest >= 1 or (values.dtype.kind == "f" and not float(largest).is_integer()):
        return 0
    if not ((values == 0) | (values == largest)).all():
        return 0
    return int(largest) if largest == 1 or (values == 0).any() else 0


def _is_usual(value: int, dtype: np.dtype[Any]) -> bool:
    """Whether this is what programs write into masks."""
    return value > 0 and value in (1, 255, _one(dtype))


def _one(dtype: np.dtype[Any]) -> int:
    """What stands for all in a type: its largest integer, or 1."""
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 1
