"""What a weight map file says about itself: parameters, labels, hashes, as JSON in its description.

Format "weight-map/1". The text lies at a fixed place of fixed length near the start of the file,
so that it can be completed when the last pixel is known.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiling.faults import InputError
from tiling.strict_tiff import open_tiff

__all__ = ["FORMAT", "complete", "history_text", "read_history", "told_by"]

FORMAT = "weight-map/1"
LENGTH = 2048  # bytes kept free for the text
_MAX_TEXT = 1 << 16


def history_text(history: dict[str, Any], length: int = LENGTH) -> str:
    """Return the description: compact JSON, filled up with spaces to `length` characters.

    Raises
    ------
    ValueError
        It is longer than that.

    Examples
    --------
    >>> history_text({"cells": 3}, 28)
    '{"unet2015":{"cells":3}}    '
    """
    text = json.dumps({"unet2015": history}, separators=(",", ":"), sort_keys=True)
    if len(text) > length:
        raise ValueError(f"history of {len(text)} characters is longer than {length}")
    return text.ljust(length)


def told_by(description: str) -> dict[str, Any] | None:
    """Return the history in an image description, or None where there is none of this format.

    Examples
    --------
    >>> told_by('{"unet2015": {"format": "weight-map/1", "cells": 3}}')["cells"]
    3
    >>> told_by("ImageJ=1.54f") is None
    True
    """
    if len(description) > _MAX_TEXT:
        return None
    try:
        found = json.loads(description)
    except (ValueError, RecursionError):
        return None
    history = found.get("unet2015") if isinstance(found, dict) else None
    if not isinstance(history, dict) or history.get("format") != FORMAT:
        return None
    if not all(isinstance(history.get(part, {}), dict) for part in ("labels", "parameters")):
        return None
    return history


def complete(history: dict[str, Any]) -> bool:
    """Whether a history says all that a map of ours says, each in its form.

    Examples
    --------
    >>> complete({"format": "weight-map/1", "labels": {}, "parameters": {}})
    False
    """
    labels = history.get("labels", {})
    counts = labels.get("counts")
    if not isinstance(counts, list) or len(counts) < 2:
        return False
    numbers = (
        history.get("cells"), history.get("touching_pairs"), labels.get("overlap_px"), *counts
    )  # fmt: skip
    largest = history.get("max_weight")
    return (
        all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)
        and isinstance(largest, int | float)
        and labels.get("taken_as") in ("mask", "instances", "classes")
        and (len(counts) == 2 or labels["taken_as"] == "classes")
    )


def read_history(path: str | Path) -> dict[str, Any] | None:
    """Return the history of a weight map file; None if it is another kind of TIFF, or none at all.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict or None
        Keys: format, parameters, labels (name, sha256, taken_as, counts), class_weights, cells,
        touching_pairs, max_weight, pixels_sha256, version.
    """
    try:
        with open_tiff(path) as image:
            return told_by(image.description)
    except InputError:
        return None
