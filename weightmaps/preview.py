"""A weight map as a picture one can look at: heat map, colour bar, scale, as in Figure 3d."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.input_file import as_input_error
from tiling.safe_write import write_bytes

__all__ = ["Thumbnail", "heat_map_png", "panel_pages", "shows", "write_preview"]

SIDE_PX = 1024
PANELS = 4
_HEAD = 4096  # bytes in which a PNG of ours says what it shows
_COLOURS = "inferno"  # readable in grey and for colour-blind eyes; Figure 3d uses jet


class Thumbnail:
    """The largest weight of each small square, so that thin bright lines stay visible.

    Parameters
    ----------
    height, width
        Size of the page.

    Attributes
    ----------
    pixels : ndarray of float32
        At most `SIDE_PX` along each side.

    Examples
    --------
    >>> small = Thumbnail(1, 2048)
    >>> small.add(np.arange(2048.0)[None])
    >>> small.pixels.shape, small.pixels[0, :3]
    ((1, 1024), array([1., 3., 5.], dtype=float32))
    """

    def __init__(self, height: int, width: int) -> None:
        self._factor = max(1, -(-max(height, width) // SIDE_PX))
        shape = -(-height // self._factor), -(-width // self._factor)
        self.pixels = np.zeros(shape, np.float32)
        self._columns = np.arange(0, width, self._factor)
        self._top = 0

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Take the next rows of the page."""
        narrow = np.maximum.reduceat(rows, self._columns, axis=1)
        squares = (self._top + np.arange(len(rows))) // self._factor
        begins = np.flatnonzero(np.diff(squares, prepend=-1))
        here = self.pixels[squares[0] : squares[-1] + 1]
        np.maximum(here, np.maximum.reduceat(narrow, begins, axis=0), out=here)
        self._top += len(rows)

    def watching(self, blocks: Iterable[npt.NDArray[Any]]) -> Iterator[npt.NDArray[Any]]:
        """Yield the blocks of rows as they are, taking each."""
        for block in blocks:
            self.add(block)
            yield block
            del block


def panel_pages(pages: int) -> list[int]:
    """Return which pages of a stack are shown: at most four, evenly spread.

    Examples
    --------
    >>> panel_pages(1), panel_pages(30)
    ([0], [0, 10, 19, 29])
    """
    count = min(pages, PANELS)
    return sorted({round(k * (pages - 1) / max(1, count - 1)) for k in range(count)})


def heat_map_png(
    pages: Mapping[int, npt.NDArray[Any]],
    *,
    title: str,
    size: tuple[int, int] | None = None,
    largest: float | None = None,
    pixels_sha256: str = "",
) -> bytes:
    """Return a PNG with a heat map of each page, one colour bar and pixel scales.

    Parameters
    ----------
    pages
        Page number -> weights, shape ``(H, W)``.
    title
        Line above.
    size
        Height and width in pixels of the whole page, if `pages` are thumbnails.
    largest
        Weight at the upper end of the colours; by default the largest shown.
    pixels_sha256
        What the history of the map says of its pixels; the picture keeps it for `shows`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 1 if len(pages) == 1 else 2
    rows = -(-len(pages) // columns)
    height, width = size or next(iter(pages.values())).shape
    stretch = min(2.0, max(0.4, height / width))
    figure = Figure(figsize=(5.2 * columns + 1.2, 5.2 * stretch * rows + 0.6), dpi=110)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    top = largest if largest else max(float(p.max()) for p in pages.values())
    picture = None
    for axis, (number, weights) in zip(axes, pages.items(), strict=False):
        picture = axis.imshow(
            weights,
            cmap=_COLOURS,
            vmin=0,
            vmax=max(top, 1e-6),
            interpolation="nearest",
            extent=(0, width, height, 0),
        )
        axis.tick_params(labelsize=7)
        if len(pages) > 1:
            axis.set_title(f"page {number}", fontsize=8)
    for axis in axes[len(pages) :]:
        axis.set_axis_off()
    figure.suptitle(_printable(title), fontsize=9)
    if picture is not None:
        bar = figure.colorbar(picture, ax=axes.tolist(), shrink=0.9, pad=0.02)
        bar.set_label("weight w(x)", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", metadata={"Software": None, "Source": pixels_sha256 or None}
    )
    return buffer.getvalue()


def shows(path: Path, pixels_sha256: str) -> bool:
    """Return whether the file is a heat map of the map with these pixels."""
    if not path.is_file():
        return False
    with as_input_error(path), path.open("rb") as file:
        return f"Source\0{pixels_sha256}".encode("ascii") in file.read(_HEAD)


def _printable(text: str) -> str:
    """Text that matplotlib draws as it is: no formulas, no missing glyphs, not too long."""
    if len(text) > 60:
        text = f"{text[:36]}...{text[-21:]}"
    return text.encode("ascii", "backslashreplace").decode().replace("$", r"\$")


def write_preview(
    path: Path,
    pages: Mapping[int, npt.NDArray[Any]],
    *,
    title: str,
    size: tuple[int, int] | None = None,
    largest: float | None = None,
    pixels_sha256: str = "",
    overwrite: bool = False,
) -> None:
    """Write `heat_map_png` to `path`, whole or not at all."""
    png = heat_map_png(pages, title=title, size=size, largest=largest, pixels_sha256=pixels_sha256)
    write_bytes(path, png, overwrite=overwrite)
