"""The separation border: a line of background carved between touching cells."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightmaps.flooding import dry_line
from weightmaps.labels import as_labels
from weightmaps.touching import meetings

__all__ = ["separate_touching", "separate_touching_volume"]

Labels: TypeAlias = npt.NDArray[Any]

METHODS = ("authors", "watershed")


def separate_touching(
    labels: npt.ArrayLike, *, method: str = "authors", ignore_label: int | None = None
) -> Labels:
    """Return the labels with a background line carved between touching cells.

    Eq. 2 weighs background, and touching cells leave none between them: the paper computes a
    separation border "using morphological operations" and does not say which. Afterwards no two
    8-neighbours carry different ids.

    Parameters
    ----------
    labels
        Instance labels, shape ``(H, W)`` or ``(S, H, W)`` (slice by slice).
    method
        ``"authors"``: the rule of the authors' later code (Falk et al. 2019): a cell pixel becomes
        background when one of its already-scanned neighbours W, NW, N, NE belongs, before any
        carving, to a different cell. Where cells lie above each other the line is one pixel wide,
        taken from the lower cell; side by side it is two, one from either (N-E sees the other).
        ``"watershed"``: the band of pixels that touch another cell is flooded back from both sides
        in four interleaved passes; what would join two cells stays dry. The line is
        minimal (no pixel of it could be given back) and takes from either side.
    ignore_label
        Pixels of this value belong to no cell and stay as they are.

    Returns
    -------
    ndarray
        A new array of the same shape and dtype.

    Raises
    ------
    ValueError
        For another method, and as `as_labels`.

    Examples
    --------
    >>> separate_touching([[1, 1, 2, 2]])
    array([[1, 1, 0, 2]])
    """
    array = as_labels(labels, ignore_label=ignore_label)
    _check_method(method)
    result = np.array(array, order="C")
    for one in result[None] if result.ndim == 2 else result:
        one[_line(_cells(one, ignore_label), method)] = 0
    return result


def separate_touching_volume(labels: npt.ArrayLike, *, method: str = "authors") -> Labels:
    """Return a true volume ``(Z, Y, X)`` carved (13 scanned neighbours, or eight passes)."""
    array = as_labels(labels)
    _check_method(method)
    if array.ndim != 3:
        raise ValueError(f"a volume has 3 axes (Z, Y, X), not {array.ndim}")
    result = np.array(array, order="C")
    result[_line(result, method)] = 0
    return result


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not known; choose one of {', '.join(METHODS)}")


def _line(cells: Labels, method: str) -> npt.NDArray[np.bool_]:
    return _authors_line(cells) if method == "authors" else dry_line(cells)


def _cells(labels: Labels, ignore_label: int | None) -> Labels:
    """Return the labels with the ignore label cleared to background."""
    if ignore_label is None:
        return labels
    return np.where(labels == ignore_label, labels.dtype.type(0), labels)


def _authors_line(cells: Labels) -> npt.NDArray[np.bool_]:
    line = np.zeros(cells.shape, np.bool_)
    for here, _, meet in meetings(cells):
        line[here] |= meet
    return line
