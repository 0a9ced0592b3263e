"""Sheets for the report's pictures: a row of panels with letters, a plot with quiet axes.

The only file here that talks to matplotlib, by its object interface (no pyplot, no global state),
and only when a picture is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INK",
    "LINES",
    "QUIET",
    "draw_curve",
    "panel_row",
    "pixel_png",
    "plot_row",
    "rendered",
]

INK, QUIET, RULE = "#1c2430", "#5b6675", "#c9d0d9"
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008
WIDTH_IN, TALLEST_IN, GAP_IN, TITLE_IN, BAR_IN = 10.8, 4.3, 0.14, 0.25, 0.55
SHARPEST_DPI, COARSEST_DPI = 180, 130
EDGE_IN = 0.02  # so that letters at the rim are not cut

Panel = tuple[str, NDArray[np.uint8]]  # title, picture (H, W, 3)


def panel_row(
    panels: Sequence[Panel], heat: NDArray[np.float32] | None = None, heat_name: str = ""
) -> tuple[Figure, list[Axes]]:
    """Figure and its axes: pictures of equal height side by side, lettered a, b, c, ...

    Parameters
    ----------
    panels
        Title and RGB picture uint8 (H, W, 3) of each panel.
    heat
        Optional last panel, floating (H, W), drawn as a heat map with a colour bar.
    heat_name
        Its title.
    """
    shapes = [picture.shape for _, picture in panels] + ([] if heat is None else [heat.shape])
    aspects = [shape[1] / shape[0] for shape in shapes]
    bar = 0.0 if heat is None else BAR_IN
    free = WIDTH_IN - GAP_IN * (len(shapes) - 1) - bar
    height = min(free / sum(aspects), TALLEST_IN)
    width = height * sum(aspects) + WIDTH_IN - free + EDGE_IN
    # One pixel of the first panel is one pixel of the sheet, where that is fine enough.
    dpi = float(np.clip(shapes[0][0] / height, COARSEST_DPI, SHARPEST_DPI))
    figure = _figure(width, height + TITLE_IN, dpi)
    axes, left = [], EDGE_IN
    for k, aspect in enumerate(aspects):
        box = (left / width, 0.0, height * aspect / width, height / (height + TITLE_IN))
        axes.append(figure.add_axes(box))
        left += height * aspect + GAP_IN
        title = panels[k][0] if k < len(panels) else heat_name
        _letter(axes[k], "abcdefgh"[k] if len(shapes) > 1 else "", title)
    for k, (_, picture) in enumerate(panels):
        enlarged = picture.shape[0] < height * dpi
        axes[k].imshow(picture, interpolation="nearest" if enlarged else "antialiased")
    if heat is not None:
        _heat(figure, axes[-1], heat)
    return figure, axes


def _letter(axes: Axes, letter: str, title: str) -> None:
    axes.set_axis_off()
    if letter:
        axes.annotate(letter, (0, 1), (0, 5), xycoords="axes fraction", fontsize=9,
                      textcoords="offset points", fontweight="bold", color=INK)  # fmt: skip
    axes.annotate(title, (0, 1), (11 if letter else 0, 5), xycoords="axes fraction", fontsize=8,
                  textcoords="offset points", color=QUIET)  # fmt: skip


def _heat(figure: Figure, axes: Axes, heat: NDArray[np.float32]) -> None:
    """Heat map with a colour bar in the space to its right."""
    low, high = min(0.0, float(np.nanmin(heat))), float(np.nanmax(heat))
    # A map that is zero everywhere shows the zero end of the scale, not its middle.
    shown = axes.imshow(heat, cmap="inferno", vmin=low, vmax=high if high > low else low + 1.0)
    box = axes.get_position()
    inch = 1 / figure.get_figwidth()
    bar = figure.add_axes((box.x1 + 0.07 * inch, box.y0, 0.11 * inch, box.height))
    scale = figure.colorbar(shown, cax=bar)
    scale.outline.set_visible(False)
    bar.tick_params(labelsize=7, colors=QUIET, length=2, width=0.6, pad=2)
    bar.yaxis.get_offset_text().set_fontsize(7)
    # Labels at the very ends would stick out of the picture: keep those inside.
    low, high = shown.get_clim()
    margin = 0.02 * (high - low)
    ticks = [t for t in scale.get_ticks() if low + margin <= t <= high - margin]
    scale.set_ticks(ticks if len(ticks) > 1 else [low + margin, high - margin])


def plot_row(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Figure and its axes: plots side by side with steps on the x axis."""
    count = len(titles)
    width = WIDTH_IN if count > 1 else 0.6 * WIDTH_IN
    figure = _figure(width, 2.9, SHARPEST_DPI)
    axes = []
    for k, title in enumerate(titles):
        left = (k * width / count + 0.5) / width
        one = figure.add_axes((left, 0.15, (width / count - 0.62) / width, 0.73))
        one.set_title(title, loc="left", fontsize=9, color=INK, pad=8)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
        for side in ("bottom", "left"):
            one.spines[side].set_color(RULE)
        one.tick_params(labelsize=7.5, colors=QUIET, color=RULE, length=3)
        one.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.6)
        one.set_axisbelow(True)
        one.set_xlabel("step", fontsize=8, color=QUIET)
        axes.append(one)
    return figure, axes


def draw_curve(
    axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], colour: str, name: str
) -> None:
    """One curve; a long noisy one is drawn pale, with its running mean on top."""
    if len(values) < 40:
        axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=3, label=name)
        return
    window = max(5, len(values) // 25)
    kernel = np.ones(window) / window
    mean = np.convolve(values, kernel, mode="valid")
    middle = np.convolve(steps, kernel, mode="valid")
    axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35)
    axes.plot(middle, mean, color=colour, linewidth=1.7, label=name)


def rendered(figure: Figure) -> bytes:
    """PNG of a figure; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi="figure", facecolor="white", metadata={"Software": None}
    )
    return buffer.getvalue()


def pixel_png(picture: NDArray[np.uint8]) -> bytes:
    """PNG of an RGB picture uint8 (H, W, 3), pixel for pixel."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _figure(width_in: float, height_in: float, dpi: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=dpi)
