"""What the pixels of a file mean: names of axes and channels, size of a pixel.

Sources tell it and sinks write it, each in the words of its format.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METRES", "Meaning", "Resolution", "in_unit"]

METRES = {"nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0, "inch": 0.0254}
"""Length of each unit that is known."""

Resolution = tuple[float, float, str]
"""Pixels per unit in x and y, and the unit ("um", "cm", "inch", ..., "" if unknown)."""


_LONGEST = 256


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """Axes, channels and pixel size of an image.

    Parameters
    ----------
    axes
        One letter per axis, "ZYX", "TCYX", ...; "" leaves them to the number of axes.
    resolution
        Pixels per unit in x and y, and the unit; None if unknown.
    z_step
        Distance of slices in that unit; 0 if unknown.
    channels
        Names of the channels; () if they have none. Kept are 256 printable characters of each.

    Examples
    --------
    >>> Meaning(axes="CYX", channels=("background", "cell")).channels[1]
    'cell'
    """

    axes: str = ""
    resolution: Resolution | None = None
    z_step: float = 0.0
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Names come from files of others: control characters are no part of them."""
        clean = (
            "".join(c if c.isprintable() else " " for c in name[:_LONGEST])
            for name in self.channels
        )
        object.__setattr__(self, "channels", tuple(clean))


def in_unit(length: float, unit: str, other: str) -> float:
    """A length in another unit; 0 where one of the two is not known.

    Examples
    --------
    >>> round(in_unit(300, "nm", "um"), 9), in_unit(1, "pixel", "um")
    (0.3, 0.0)
    """
    if unit == other:
        return length
    return length * METRES[unit] / METRES[other] if {unit, other} <= set(METRES) else 0.0
