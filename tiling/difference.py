"""How far two computations of the same pixels are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Difference", "noted"]

_LARGEST = float(np.finfo(np.float64).max)


@dataclass
class Difference:
    """Largest absolute difference met, and how many of the compared values differ.

    Parameters
    ----------
    maximum
        Largest absolute difference; None if nothing was compared, infinite for a NaN.
    compared, differing
        How many values were compared, and how many of them differ.

    Examples
    --------
    >>> found = Difference()
    >>> found.add(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    >>> found
    Difference(maximum=0.5, compared=2, differing=1)
    """

    maximum: float | None = None
    compared: int = 0
    differing: int = 0

    def include(self, other: Difference) -> None:
        """Take in what another one met."""
        if other.maximum is not None:
            self.maximum = max(self.maximum or 0.0, other.maximum)
        self.compared += other.compared
        self.differing += other.differing

    def to_json(self) -> list[float | int | None]:
        """Maximum, compared, differing, of which JSON can hold each."""
        largest = None if self.maximum is None else min(self.maximum, _LARGEST)
        return [largest, self.compared, self.differing]

    @classmethod
    def from_json(cls, value: Any) -> Difference:
        """What `to_json` made; anything else is no difference met."""
        usable = isinstance(value, list) and len(value) == 3
        if not usable or not all(isinstance(n, int | float) for n in value if n is not None):
            return cls()
        return cls(value[0], int(value[1] or 0), int(value[2] or 0))

    def add(self, one: npt.NDArray[Any], other: npt.NDArray[Any]) -> None:
        """Compare two blocks of one shape; a NaN against a number counts as infinite."""
        if one.size == 0:
            return
        self.compared += one.size
        unequal = (one != other) & ~(np.isnan(one) & np.isnan(other))
        self.differing += int(np.count_nonzero(unequal))
        largest = 0.0
        if unequal.any():
            with np.errstate(invalid="ignore", over="ignore"):
                gap = np.abs(one[unequal].astype(np.float64) - other[unequal].astype(np.float64))
            largest = float(gap.max())
            largest = largest if np.isfinite(largest) else np.inf
        self.maximum = max(self.maximum or 0.0, largest)


def noted(notes: Mapping[str, Any], name: str) -> Difference:
    """All that the bands of a file noted under `name`, in whatever run each was computed.

    Parameters
    ----------
    notes
        Of a file sink: "PAGE NAME BAND" and what `Difference.to_json` made.
    name
        "seams" or "probe".

    Examples
    --------
    >>> noted({"0 seams 0": [0.5, 10, 1], "0 seams 1": [0, 12, 0], "0 probe 1": [9, 9, 9]}, "seams")
    Difference(maximum=0.5, compared=22, differing=1)
    """
    found = Difference()
    for key, value in notes.items():
        if key.split(" ")[1:2] == [name]:
            found.include(Difference.from_json(value))
    return found
