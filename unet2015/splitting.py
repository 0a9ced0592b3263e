"""Training and validation slices: by list, by name, or as a fraction in contiguous blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from unet2015.stack import Stack

__all__ = ["about_ignored", "held_out_slices", "parse_slices", "split"]

_NUMBER = re.compile("[0-9]{1,18}")
BLOCKS = 2  # a fraction is taken from the end of this many equal parts of the stack

SHOWN = 5  # names of slices listed in a message


def split(
    stack: Stack, val: str | float | Sequence[int], *, ignore_label: int | None = None
) -> tuple[Stack, Stack]:
    """Training stack and validation stack, without a slice in common.

    Parameters
    ----------
    stack
        Labelled slices.
    val
        Held-out slices: numbers from 0 ("12-14,27-29" or a sequence), slice names separated by
        commas, or a fraction between 0 and 1 ("0.2" or a float), which is taken as contiguous
        blocks from the end of each half of the stack: neighbouring slices look alike. Where the
        names are numbers (1.tif, 2.tif), the numbers of a text are these names.
    ignore_label
        Label that counts as no class.

    Raises
    ------
    ValueError
        If a part is empty, has a single class, or shares an identical image with the other.

    Examples
    --------
    >>> images = np.arange(30, dtype=np.uint8).reshape(30, 1, 1, 1) * np.ones((4, 4), np.uint8)
    >>> stack = Stack(images, np.tile(np.eye(4, dtype=np.int64), (30, 1, 1)))
    >>> ",".join(split(stack, 0.2)[1].names)
    '12,13,14,27,28,29'
    """
    held = held_out_slices(stack, val)
    kept = [i for i in range(len(stack)) if i not in set(held)]
    for part, indices in (("validation", held), ("training", kept)):
        _refuse_one_class(stack, indices, part, ignore_label)
    training, validation = stack.take(kept), stack.take(held)
    names_by_hash = dict(zip(training.hashes, training.names, strict=True))
    for name, digest in zip(validation.names, validation.hashes, strict=True):
        if digest in names_by_hash:
            raise ValueError(
                f"leak: held-out slice {name!r} is identical to training slice"
                f" {names_by_hash[digest]!r}; put both on the same side"
            )
    return training, validation


def parse_slices(text: str, count: int) -> list[int]:
    """Slice numbers of a list like "12-14,27-29", checked against the number of slices.

    Examples
    --------
    >>> parse_slices("0,3-5", 6)
    [0, 3, 4, 5]
    """
    found: list[int] = []
    for word in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})(?:-([0-9]{1,9}))?\s*", word)
        if match is None:
            raise ValueError(f"{word!r} is no slice number or range; write e.g. 12-14,27-29")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < count:
            raise ValueError(f"slices {word.strip()} are outside 0 .. {count - 1}")
        found.extend(range(first, last + 1))
    return found


def held_out_slices(stack: Stack, val: str | float | Sequence[int]) -> list[int]:
    """Ascending slice numbers of the held-out part, as `split` takes them.

    Raises
    ------
    ValueError
        If `val` cannot be read, names a slice that is not there or twice, or leaves nothing for
        one of the parts.

    Examples
    --------
    >>> stack = Stack(np.zeros((4, 1, 2, 2), np.uint8), np.zeros((4, 2, 2), np.int64))
    >>> held_out_slices(stack, "1,3"), held_out_slices(stack, 0.5)
    ([1, 3], [1, 3])
    >>> numbered = Stack(stack.images, stack.labels, names=("1", "2", "3", "10"))
    >>> held_out_slices(numbered, "2-3,10")
    [1, 2, 3]
    """
    count = len(stack)
    if isinstance(val, str):
        if re.fullmatch(r"\s*0?\.[0-9]+\s*", val):
            return held_out_slices(stack, float(val))
        chosen = _chosen_by_text(stack.names, val)
    elif isinstance(val, float):
        if not 0 < val < 1:
            raise ValueError(f"the held-out fraction {val} is not between 0 and 1")
        blocks = BLOCKS if round(val * count) >= BLOCKS else 1
        edges = [round(k * count / blocks) for k in range(blocks + 1)]
        chosen = [
            i
            for start, end in pairwise(edges)
            for i in range(end - max(1, round(val * (end - start))), end)
        ]
    else:
        chosen = [int(i) for i in val]
    for i in chosen:
        if not 0 <= i < count:
            raise ValueError(f"held-out slice {i} is outside 0 .. {count - 1}")
        if chosen.count(i) > 1:
            raise ValueError(f"held-out slice {stack.names[i]} is named twice in {val!r}")
    if not 0 < len(chosen) < count:
        part = "training" if chosen else "validation"
        raise ValueError(
            f"held-out slices {val!r} leave no slice for {part}; the stack has {count}"
        )
    return sorted(chosen)


def _chosen_by_text(names: Sequence[str], text: str) -> list[int]:
    """Slice numbers of a list of names, numbers and ranges; what could be both is a name.

    The name of a file of several pages ("a" of "a[0]", "a[1]") means all of them.
    """
    words = [word.strip() for word in text.split(",")]
    named: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        for known in dict.fromkeys((name, re.sub(r"\[[0-9]+\]\Z", "", name))):
            named.setdefault(known, []).append(i)
    unknown = [word for word in words if word not in named]
    if not unknown:
        return [i for word in words for i in named[word]]
    numbers = all(re.fullmatch(r"[0-9]+(-[0-9]+)?", word) for word in words)
    by_value = {int(name): found for name, found in named.items() if _NUMBER.fullmatch(name)}
    counted = by_value == {i: [i] for i in range(len(names))}  # their names are their numbers
    if numbers and by_value and not counted:
        return [i for word in words for i in _named_by_number(names, by_value, word)]
    if len(unknown) < len(words) and not (numbers and counted):
        raise ValueError(f"no slice has the name {unknown[0]!r}; {_named(names)}")
    try:
        return parse_slices(text, len(names))
    except ValueError as error:
        raise ValueError(
            f"{error}; name slices by number or by name, or give a fraction such as 0.2"
        ) from error


def _named_by_number(
    names: Sequence[str], by_value: Mapping[int, Sequence[int]], word: str
) -> list[int]:
    """Slices of a number or range where names are numbers: 1-3 are 001, 002 and 003."""
    first, _, last = word.partition("-")
    if len(word) > 37 or int(last or first) < int(first):
        raise ValueError(f"the range {word[:40]!r} holds no slice; write e.g. 12-14")
    asked = range(int(first), int(last or first) + 1)
    missing = next((k for k in asked if k not in by_value), None)
    if missing is not None:
        raise ValueError(f"no slice has the name '{missing}'; {_named(names)}")
    return [i for k in asked for i in by_value[k]]


def _refuse_one_class(
    stack: Stack, indices: Sequence[int], part: str, ignore_label: int | None
) -> None:
    """A part in which every labelled pixel is of one class can teach and measure nothing."""
    values: set[int] = set()
    for i in indices:
        values |= set(np.unique(stack.labels[i]).tolist())
        if len(values - {ignore_label}) > 1:
            return
    classes = values - {ignore_label}
    found = f"only class {classes.pop()}" if classes else "no labelled pixel"
    doubt = about_ignored(ignore_label) if ignore_label in values else ""
    raise ValueError(f"the {part} slices hold {found}; choose other slices with --val{doubt}")


def about_ignored(ignore_label: int | None) -> str:
    """End of a sentence about labels of one class: perhaps the other one was ignored.

    Examples
    --------
    >>> about_ignored(255)[:40]
    '; the value 255 means no annotation here'
    """
    return (
        f"; the value {ignore_label} means no annotation here: where it is a class in the files,"
        f" train with --set ignore_label={254 if ignore_label == 255 else 255}"
    )


def _named(names: Sequence[str]) -> str:
    """What the slices are called, the first few of them."""
    return f"the names are {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
