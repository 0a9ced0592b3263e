"""Integers of the overlap-tile strategy: margin, period, legal sizes, seam-exact step.

A network of unpadded convolutions turns a tile of `input` pixels into one of `output` pixels,
`margin` fewer on each side. Its poolings make it commute only with shifts by multiples of
`period`, so tiles agree with each other (and with one pass over the whole image) only if their
origins differ by multiples of `period`: the step is the largest such multiple that fits into
the output. For the 2015 U-Net: run 572, get 388, step 384.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Geometry"]


@dataclass(frozen=True)
class Geometry:
    """Sizes of one square tile, in pixels.

    Parameters
    ----------
    margin
        Context the network consumes on each side of a tile.
    period
        Shifts by multiples of this commute with the network (2 ** number of poolings).
    output
        Side of the tile that comes out.
    remainder
        `output % period` of every legal output. The default, `-margin % period`, is right for
        unpadded U-Nets of any depth and for padded networks whose halo is a multiple of the
        period.

    Raises
    ------
    ValueError
        If `output` is not legal; the message names the two nearest legal outputs.

    Examples
    --------
    >>> unet = Geometry(margin=92, period=16, output=388)
    >>> unet.input, unet.output, unet.step, unet.overlap
    (572, 388, 384, 4)
    >>> Geometry(margin=92, period=16, output=390)
    Traceback (most recent call last):
    ...
    ValueError: output tile 390 is not legal here (legal outputs are 16k + 4, 20 or more); \
nearest: 388 or 404
    """

    margin: int
    period: int
    output: int
    remainder: int | None = None

    def __post_init__(self) -> None:
        if self.margin < 0 or self.period < 1:
            raise ValueError(
                f"margin {self.margin} and period {self.period} do not make a geometry; "
                "margin is 0 or more, period 1 or more"
            )
        rest = -self.margin if self.remainder is None else self.remainder
        object.__setattr__(self, "remainder", rest % self.period)
        if self.output < self.smallest or (self.output - self.smallest) % self.period:
            raise ValueError(self._refusal())

    def _refusal(self) -> str:
        below, above = self.nearest(self.output)
        names = f"{below} or {above}" if below != above else f"{above}"
        rule = f"{self.period}k + {self.remainder}" if self.remainder else f"{self.period}k"
        return (
            f"output tile {self.output} is not legal here (legal outputs are {rule}, "
            f"{self.smallest} or more); nearest: {names}"
        )

    @classmethod
    def for_unet(cls, depth: int = 4, output: int = 388) -> Geometry:
        """Geometry of an unpadded U-Net with `depth` poolings (Figure 1: depth 4, output 388).

        A level of two 3x3 convolutions, met once on the way down and once on the way up, costs
        the output 4 pixels at its own scale twice, the bottom once: 4 (3 * 2**depth - 2) in all.

        Examples
        --------
        >>> [Geometry.for_unet(d, output=68).margin for d in range(5)]
        [2, 8, 20, 44, 92]
        """
        if depth < 0:
            raise ValueError(f"depth {depth} is negative; a U-Net has 0 or more poolings")
        return cls(margin=2 * (3 * 2**depth - 2), period=2**depth, output=output)

    @property
    def input(self) -> int:
        """Side of the tile that goes in."""
        return self.output + 2 * self.margin

    @property
    def step(self) -> int:
        """Largest multiple of `period` within `output`: the seam-exact distance of two tiles."""
        return self.output - self.output % self.period

    @property
    def overlap(self) -> int:
        """Width of the strip that two neighbours both compute at the exact step."""
        return self.output - self.step

    @property
    def smallest(self) -> int:
        """Smallest legal output: it must hold one whole period."""
        return self.period + (self.remainder or 0)

    def nearest(self, output: int) -> tuple[int, int]:
        """Largest legal output <= `output` and smallest one >= it (both `smallest` below that).

        Examples
        --------
        >>> Geometry.for_unet().nearest(512)
        (500, 516)
        """
        periods = max(0, output - self.smallest) // self.period
        below = self.smallest + periods * self.period
        return below, below if below >= output else below + self.period

    def resized(self, output: int) -> Geometry:
        """The same network with another (legal) output tile."""
        return replace(self, output=output)

    def shrink_to(self, shape: tuple[int, ...]) -> Geometry:
        """Smallest legal tile whose output covers an image of `shape` (..., H, W), or `self`.

        Examples
        --------
        >>> Geometry.for_unet(output=772).shrink_to((512, 512)).output
        516
        """
        _, above = self.nearest(max(shape[-2:]))
        return self.resized(min(above, self.output))
