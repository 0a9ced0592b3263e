"""What is noticed of an image's values while its tiles pass to the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

__all__ = ["Watched"]


class Watched:
    """A tile function that notices whether all pixels it is shown are one value.

    Parameters
    ----------
    function
        From tiles as stored, (N, C, H, W), to what is written.
    """

    def __init__(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._function = function
        self._low: float | None = None
        self._varied = False

    def __call__(self, tiles: NDArray[Any]) -> NDArray[Any]:
        """What the function makes of the tiles."""
        if not self._varied:
            low, high = float(tiles.min()), float(tiles.max())
            self._varied = low != high or low != (low if self._low is None else self._low)
            self._low = low
        return self._function(tiles)

    @property
    def constant(self) -> float | None:
        """The one value, or None."""
        return None if self._varied else self._low
