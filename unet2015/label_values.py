"""What the values of a label image mean: a mask, classes, or cell ids; asked for, never guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weightmaps.labels import whole_numbers

__all__ = ["Meaning", "as_class_labels", "as_integers", "parse_label_values"]

Meaning = Literal["auto", "mask", "classes", "instances"]
SHOWN = 10  # values listed in a message
LONGEST = 65_536  # values of one range of `parse_label_values`


def as_class_labels(
    slices: Sequence[NDArray[Any]],
    *,
    classes: int = 2,
    meaning: Meaning = "auto",
    label_values: Sequence[int] | Mapping[int, int] | None = None,
    ignore_label: int | None = None,
    unlabelled_value: int | None = None,
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]] | None]:
    """Class labels of every slice, and cell ids where the values are ids.

    Parameters
    ----------
    slices
        Integer (or integral float) label images (H, W).
    classes
        Number of classes K.
    meaning
        "mask": two values; the larger one is class 1 (ISBI: 255 = inside a cell, 0 = membrane).
        "classes": the values are classes 0 .. K-1. "instances": 0 is background, every other
        value is the id of a cell. "auto": a mask if the values are 0 and one other, classes if
        K > 2 and all values are below K, ids if they are stored in more than 8 bits; anything
        else is asked back.
    label_values
        The value of class 0, 1, ...; or a mapping value -> class (several values may share a
        class). Other values are refused. It overrules `meaning`.
    ignore_label
        Label of pixels without annotation in the result. In the slices they have the same value,
        among cell ids only a negative one (a cell may have any positive id, 255 too).
    unlabelled_value
        Value of these pixels in the slices, where it is another one; any id will do.

    Returns
    -------
    labels
        One int64 array (H, W) per slice.
    instances
        The same with cell ids, or None.

    Raises
    ------
    ValueError
        If values are negative, not whole, or not what was expected; it lists the values found.

    Examples
    --------
    >>> as_class_labels([np.array([[0, 255]], np.uint8)])
    ([array([[0, 1]])], None)
    >>> as_class_labels([np.array([[0, 7, 300]], np.uint16)])
    ([array([[0, 1, 1]])], [array([[  0,   7, 300]])])
    >>> as_class_labels([np.array([[0, 127, 255]], np.uint8)], classes=3,
    ...                 label_values=[0, 127, 255])[0]
    [array([[0, 1, 2]])]
    """
    wide = any(a.dtype.itemsize > 1 for a in slices)
    unlabelled = ignore_label if unlabelled_value is None else unlabelled_value
    if unlabelled is not None and ignore_label is None:
        raise ValueError(f"the value {unlabelled} of no annotation needs an ignore label")
    integers = [as_integers(a, unlabelled) for a in slices]
    found = sorted(set().union(*(np.unique(a).tolist() for a in integers)) - {unlabelled})
    if label_values is not None:
        table = (
            dict(label_values)
            if isinstance(label_values, Mapping)
            else {value: k for k, value in enumerate(label_values)}
        )
        if unlabelled in table:
            raise ValueError(
                f"the value {unlabelled} is that of class {table[unlabelled]} and that of pixels"
                " without annotation; name another one with --ignore, or --set ignore_label=N"
            )
        _refuse_others(found, table, classes)
        labels = [_looked_up(a, table) for a in integers]
        return _marked(labels, integers, unlabelled, ignore_label), None
    if meaning == "auto":
        meaning = _meaning(found, classes, wide)
    if meaning == "classes":
        _refuse_others(found, {k: k for k in range(classes)}, classes)
        return _marked(integers, integers, unlabelled, ignore_label), None
    labels = [(a > 0).astype(np.int64) for a in integers]
    if meaning == "instances":
        if unlabelled_value is None and unlabelled is not None and unlabelled > 0:
            unlabelled = None  # a cell like any other
        ids = integers
        if unlabelled is not None:
            ids = [np.where(a == unlabelled, 0, a) for a in integers]
        return _marked(labels, integers, unlabelled, ignore_label), ids
    if len(found) > 2 or (len(found) == 2 and found[0] != 0):
        raise ValueError(
            f"a mask has the values 0 and one other, not {_listed(found)}; --label-values B,F"
            " names the values of background and foreground, --labels instances reads cell ids"
        )
    return _marked(labels, integers, unlabelled, ignore_label), None


def parse_label_values(text: str) -> list[int] | dict[int, int]:
    """The `label_values` of "0,255" (the value of class 0, 1, ...) or "0-127=0,128-255=1".

    Raises
    ------
    ValueError
        If the text is neither, a value has two classes, or a range is empty or longer than 65,536.

    Examples
    --------
    >>> parse_label_values("0,255")
    [0, 255]
    >>> parse_label_values("0-2=0,255=1")
    {0: 0, 1: 0, 2: 0, 255: 1}
    """
    words = [word.strip() for word in text.split(",")]
    if all(re.fullmatch(r"[0-9]{1,18}", word) for word in words):
        return [int(word) for word in words]
    table: dict[int, int] = {}
    for word in words:
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?=([0-9]{1,3})", word)
        if match is None:
            raise ValueError(f"{word!r} is neither a whole number nor VALUE=CLASS or FROM-TO=CLASS")
        first, last, k = int(match[1]), int(match[2] or match[1]), int(match[3])
        if not 0 <= last - first < LONGEST:
            raise ValueError(f"{word!r} names {last - first + 1} values, not 1 to {LONGEST}")
        for value in range(first, last + 1):
            if table.setdefault(value, k) != k:
                raise ValueError(f"{value} is given to the classes {table[value]} and {k}")
    return table


def as_integers(array: NDArray[Any], ignore_label: int | None = None) -> NDArray[np.int64]:
    """Label values as int64; floats only where they are whole, bool as 0 and 1.

    Examples
    --------
    >>> as_integers(np.array([0.0, 3.0]))
    array([0, 3])
    """
    array = whole_numbers(array)
    if array.dtype.kind not in "biu":
        raise ValueError(f"labels of dtype {array.dtype} are not read; use whole numbers")
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 2**63:
        raise ValueError(f"label {int(array.max())} is beyond 2^63 - 1; renumber the cells")
    if array.dtype == np.bool_:
        array = array != 0
    integers = array.astype(np.int64)
    negative = integers < 0
    if ignore_label is not None:
        negative &= integers != ignore_label
    if negative.any():
        raise ValueError(f"label {integers[negative][0]} is negative; classes and ids are not")
    return integers


def _meaning(found: list[int], classes: int, wide: bool) -> Meaning:
    """Meaning of the values, where there is only one reading."""
    if classes == 2 and (len(found) <= 1 or (len(found) == 2 and found[0] == 0)):
        return "mask"
    if classes > 2 and found and found[-1] < classes:
        return "classes"
    if classes == 2 and wide:
        return "instances"
    raise ValueError(
        f"{classes} classes were expected, but the labels hold {_listed(found)}; name the value of"
        f" each class (e.g. --label-values {','.join(map(str, found[:classes]))}, or ranges: "
        f"{found[0]}-{found[0]}=0,{found[0] + 1}-{found[-1]}=1), the value of pixels without"
        " annotation (--ignore V), or say that the values are cell ids (--labels instances); a mask"
        " saved as JPEG is better made anew from its source"
    )


def _refuse_others(found: list[int], table: Mapping[int, int], classes: int) -> None:
    others = [value for value in found if value not in table]
    if others:
        raise ValueError(
            f"the labels hold {_listed(others)} besides the values of the {classes} classes"
            f" ({_listed(sorted(table))}); name the value of each class with --label-values (ranges"
            " too: 0-127=0,128-255=1), and of pixels without annotation with --ignore"
        )
    if not all(0 <= k < classes for k in table.values()):
        raise ValueError(
            f"--label-values names {max(table.values()) + 1} classes, the recipe has {classes};"
            " name as many values, or change the network with --set classes=N"
        )


def _looked_up(array: NDArray[np.int64], table: Mapping[int, int]) -> NDArray[np.int64]:
    """Classes of the values; 0 for one that is not in the table."""
    values, where = np.unique(array, return_inverse=True)
    classes = np.array([table.get(int(value), 0) for value in values], np.int64)
    return classes[where].reshape(array.shape)


def _marked(
    labels: list[NDArray[np.int64]],
    values: list[NDArray[np.int64]],
    unlabelled: int | None,
    ignore_label: int | None,
) -> list[NDArray[np.int64]]:
    """Labels with the ignore label where the value says that there is no annotation."""
    if unlabelled is None or ignore_label is None:
        return labels
    return [np.where(v == unlabelled, ignore_label, x) for x, v in zip(labels, values, strict=True)]


def _listed(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:SHOWN]))
    if len(values) == 1:
        return f"the value {shown}"
    return f"{len(values)} values ({shown}{', ...' if len(values) > SHOWN else ''})"
