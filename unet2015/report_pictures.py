"""The report's pictures as PNG bytes: Fig. 3 panel, predictions, curves, seams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet2015.report_canvas import (
    LINES,
    QUIET,
    draw_curve,
    panel_row,
    plot_row,
    rendered,
)
from unet2015.report_colours import (
    error_rgb,
    grey_rgb,
    instances_rgb,
    overlay_rgb,
    same_shape,
    shrunk,
    unit_probability,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "figure3_panel",
    "learning_curves",
    "prediction_panel",
    "seam_picture",
]

LIMIT_PX = 1100  # a larger slice is shown by every k-th pixel

# Columns of a log that are curves: name -> what the page calls it.
ERRORS = {"wrong_pixels": "wrong pixels", "pixel_error": "pixel error, 1 - F",
          "rand_error": "Rand error", "warping_error": "warping error"}  # fmt: skip
SCORES = {"v_info": "V_info", "v_rand": "V_rand", "ctc_seg": "SEG", "mean_iou": "mean IoU"}


def figure3_panel(
    image: ArrayLike,
    instances: ArrayLike,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> bytes:
    """PNG of the panels of Figure 3: image, instances, mask, weight map with its colour bar.

    Parameters
    ----------
    image
        Slice (H, W) of any number type.
    instances
        Instance ids (H, W), 0 = background.
    mask
        Labels (H, W), > 0 = inside a cell; left out where None.
    weights
        Weight map (H, W), floating; left out where None.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> ids = np.repeat([[1, 1, 0, 2, 2]], 5, axis=0)
    >>> figure3_panel(ids * 90, ids, ids > 0)[1:4]
    b'PNG'
    """
    image, instances = same_shape(image=image, instances=instances)
    image, instances = shrunk(image, LIMIT_PX), shrunk(instances, LIMIT_PX)
    panels = [
        ("image", grey_rgb(image)),
        ("cells, one colour each", instances_rgb(image, instances)),
    ]
    if mask is not None:
        inside = shrunk(np.asarray(mask), LIMIT_PX) > 0
        same_shape(image=image, mask=inside)
        panels.append(("mask, white = inside", grey_rgb(inside)))
    heat = None
    if weights is not None:
        heat = shrunk(np.asarray(weights, np.float32), LIMIT_PX)
        same_shape(image=image, weights=heat)
    return rendered(panel_row(panels, heat, "weight map")[0])


def prediction_panel(
    image: ArrayLike, probability: ArrayLike, truth: ArrayLike, *, outside: str = "membrane"
) -> bytes:
    """PNG of a slice beside what is predicted outside of cells and its wrong pixels.

    Parameters
    ----------
    image
        Slice (H, W).
    probability
        Probability (H, W) of the inside class, floating 0 .. 1 or integers over their range.
    truth
        Labels (H, W), > 0 = inside a cell.
    outside
        What to call that which is not inside.

    Examples
    --------
    >>> truth = np.eye(8) == 0
    >>> prediction_panel(truth * 200, truth * 0.8, truth)[1:4]
    b'PNG'
    """
    image, probability, truth = (
        shrunk(array, LIMIT_PX)
        for array in same_shape(image=image, probability=probability, truth=truth)
    )
    panels = [
        ("image", grey_rgb(image)),
        (f"predicted {outside}", overlay_rgb(image, probability)),
        ("wrong pixels", error_rgb(image, probability, truth)),
    ]
    return rendered(panel_row(panels)[0])


def learning_curves(
    rows: Mapping[int, Mapping[str, float]],
    *,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
) -> bytes:
    """PNG of the loss and the validation measures against the step.

    Parameters
    ----------
    rows
        Step -> figures of that step, as in `training_log.Log.rows`: `loss`, and any of the
        measures in `ERRORS` and `SCORES`. Other figures are not drawn.
    baselines
        Measure -> {name: value} drawn as dashed lines, e.g. of a blurred threshold.

    Raises
    ------
    ValueError
        If no row holds a figure that can be drawn.

    Examples
    --------
    >>> learning_curves({10: {"loss": 0.7}, 20: {"loss": 0.4, "wrong_pixels": 0.1}})[1:4]
    b'PNG'
    """
    groups = [
        (title, {name: words for name, words in names.items() if _column(rows, name)[0].size})
        for title, names in (
            ("loss", {"loss": "loss"}),
            ("held-out errors (lower is better)", ERRORS),
            ("held-out scores (higher is better)", SCORES),
        )
    ]
    groups = [(title, names) for title, names in groups if names]
    if not groups:
        raise ValueError("the log holds neither loss nor measures; nothing to draw")
    figure, plots = plot_row([title for title, _ in groups])
    for axes, (_, names) in zip(plots, groups, strict=True):
        for colour, (name, words) in zip(LINES, names.items(), strict=False):
            draw_curve(axes, *_column(rows, name), colour, words)
            for label, value in (baselines or {}).get(name, {}).items():
                axes.axhline(value, color=colour, linewidth=0.9, linestyle=(0, (4, 3)))
                axes.annotate(
                    label, (1, value), (-2, 2), xycoords=("axes fraction", "data"), ha="right",
                    textcoords="offset points", fontsize=7, color=QUIET,
                )  # fmt: skip
        if list(names) != ["loss"]:
            axes.legend(frameon=False, fontsize=7.5, labelcolor=QUIET, handlelength=1.4)
    return rendered(figure)


def _column(
    rows: Mapping[int, Mapping[str, float]], name: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps and values of the rows that hold a figure."""
    pairs = sorted((step, row[name]) for step, row in rows.items() if name in row)
    return (
        np.array([step for step, _ in pairs], np.int64),
        np.array([value for _, value in pairs], np.float64),
    )


def seam_picture(
    probability: ArrayLike,
    step_px: int,
    *,
    difference: ArrayLike | None = None,
    difference_name: str = "|difference|",
) -> bytes:
    """PNG of a tiled prediction with its tile borders, and a corner of four tiles enlarged.

    Parameters
    ----------
    probability
        Tiled prediction (H, W), floating 0 .. 1 or integers over their range.
    step_px
        Distance between tile borders; the grid starts at pixel (0, 0).
    difference
        Optional (H, W), e.g. against the one-shot result, as a heat map.
    difference_name
        What the difference is.

    Raises
    ------
    ValueError
        If the shapes differ or the step is not positive.

    Examples
    --------
    >>> seam_picture(np.zeros((40, 50)), 16)[1:4]
    b'PNG'
    """
    if step_px < 1:
        raise ValueError(f"step_px = {step_px}; tile borders are at least one pixel apart")
    (whole,) = same_shape(probability=unit_probability(probability))
    height, width = whole.shape
    y, x = _middle_border(height, step_px), _middle_border(width, step_px)
    reach = max(8, min(48, height // 3, width // 3))
    top, left = max(0, y - reach), max(0, x - reach)
    detail = whole[top : y + reach, left : x + reach]
    heat = None
    if difference is not None:
        heat = np.asarray(difference, np.float32)
        same_shape(probability=whole, difference=heat)
    panels = [
        ("prediction, tile borders in orange", _fixed_grey(shrunk(whole, LIMIT_PX))),
        (f"around row {y}, column {x}, where tiles meet", _fixed_grey(detail)),
    ]
    shown = None if heat is None else shrunk(heat, LIMIT_PX)
    figure, (first, second, *_) = panel_row(panels, shown, difference_name)
    every = height / shrunk(whole, LIMIT_PX).shape[0]
    for s in range(step_px, height, step_px):
        first.axhline(s / every - 0.5, color=LINES[4], linewidth=0.7)
    for s in range(step_px, width, step_px):
        first.axvline(s / every - 0.5, color=LINES[4], linewidth=0.7)
    _mark_corner(second, y - top - 0.5, x - left - 0.5)
    return rendered(figure)


def _middle_border(length: int, step_px: int) -> int:
    """Tile border nearest the middle of a side; the middle itself where there is none."""
    borders = range(step_px, length, step_px)
    return min(borders, key=lambda border: abs(border - length // 2)) if borders else length // 2


def _fixed_grey(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey picture (H, W, 3) of a probability, 0 black and 1 white whatever its range."""
    grey = np.clip(np.rint(255 * probability), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _mark_corner(axes: Axes, y: float, x: float) -> None:
    """Ticks at the rim where the tile borders run; the picture itself stays untouched."""
    bottom, top = axes.get_ylim()
    left, right = axes.get_xlim()
    across, down = (right - left) / 12, (bottom - top) / 12
    for xs, ys in (
        ([left, left + across], [y, y]),
        ([right - across, right], [y, y]),
        ([x, x], [top, top + down]),
        ([x, x], [bottom - down, bottom]),
    ):
        axes.plot(xs, ys, color=LINES[4], linewidth=1.6, solid_capstyle="butt")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
