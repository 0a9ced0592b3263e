"""Draw docs/images/augmentation.png: what section 3.1 does to a tile, in both modes of the grid.

    python docs/make_augmentation_pictures.py

Upper row: the displacement alone, three times its real size so that it can be seen, on a ruled
slice; arrows are the random vectors of the coarse grid. Lower row: real training tiles of the
synthetic sample with the recipe's amplitudes; the frame is the window of the labels.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiling.safe_write import write_bytes
from unet2015.augment import Deformation, deform, displacement_field, draw_deformation
from unet2015.recipe import Recipe, isbi2012
from unet2015.report_canvas import rendered
from unet2015.synthetic import synthetic_stack

TILE, OUTPUT, ENLARGED, STEP = 572, 388, 3.0, 6
BLUE, RED = "#0072B2", "#D55E00"


def ruled(side: int, every: int = 26) -> NDArray[np.float32]:
    """White slice (1, side, side) with black lines."""
    slice_ = np.ones((1, side, side), np.float32)
    for k in range(2):
        slice_[0, k::every, :] = slice_[0, :, k::every] = 0.25
    return slice_


def of_mode(mode: str, recipe: Recipe) -> Deformation:
    """Displacement alone, enlarged."""
    drawn = draw_deformation(replace(recipe, displacement=mode), 0, STEP, 0)
    assert drawn.displacement is not None
    return Deformation(displacement=ENLARGED * drawn.displacement, mode=drawn.mode)


def nodes_of(deformation: Deformation) -> NDArray[np.float64]:
    """Pixel coordinates of the nodes along one axis."""
    assert deformation.displacement is not None
    count = deformation.displacement.shape[1]
    if deformation.mode == "interpolate":
        return np.linspace(0, TILE - 1, count)
    return (np.arange(count) - (count - 1) / 2) * deformation.spacing_px + (TILE - 1) / 2


def main() -> None:
    """Draw and write the picture."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    recipe = isbi2012()
    figure = Figure(figsize=(10.8, 7.7), dpi=110)
    grid = {"left": 0.02, "right": 0.98, "top": 0.95, "bottom": 0.01, "wspace": 0.07}
    upper, lower = figure.subplots(2, 3, gridspec_kw=grid | {"hspace": 0.16})
    none = np.zeros((TILE, TILE), np.int64)
    whole = {"centre": ((TILE - 1) / 2,) * 2, "input_px": TILE, "output_px": OUTPUT}
    shown = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "antialiased"}
    titles = {"interpolate": "interpolate: 3 x 3 vectors, reached",
              "bspline": "bspline: every 150 px, approximated"}  # fmt: skip
    upper[0].imshow(ruled(TILE)[0], **shown)
    upper[0].set_title("a  undeformed", loc="left", fontsize=9, pad=10)
    for letter, axes, (mode, title) in zip("bc", upper[1:], titles.items(), strict=True):
        deformation = of_mode(mode, recipe)
        tile, _, _ = deform(ruled(TILE), none, None, deformation, **whole)
        axes.imshow(tile[0], **shown)
        at = nodes_of(deformation)
        y, x = np.meshgrid(at, at, indexing="ij")
        # The tile shows at p what was at p + u(p): structures move against the vectors.
        assert deformation.displacement is not None
        for field, colour, width in (
            (deformation.displacement, BLUE, 0.008),
            (displacement_field(deformation, TILE, at), RED, 0.005),
        ):
            axes.quiver(x, y, field[1], field[0], color=colour, angles="xy", scale_units="xy",
                        scale=1, width=width, clip_on=False, zorder=3)  # fmt: skip
        axes.set_title(f"{letter}  {title}", loc="left", fontsize=9, pad=10)
    stack = synthetic_stack()
    image = stack.images[0][None]
    labels = (stack.instances[0] > 0).astype(np.int64)
    middle = tuple((n - 1) / 2 for n in labels.shape)
    plain = {"centre": middle, "input_px": TILE, "output_px": OUTPUT}
    tiles = (
        ("d  slice with mirrored context", Deformation()),
        ("e  elastic alone, 10 px",
         Deformation(displacement=draw_deformation(recipe, 0, STEP, 0).displacement)),
        ("f  the whole recipe", draw_deformation(recipe, 0, STEP, 0)),
    )  # fmt: skip
    for axes, (title, deformation) in zip(lower, tiles, strict=True):
        tile, truth, _ = deform(image, labels, None, deformation, **plain)
        axes.imshow(tile[0], **shown)
        margin = (TILE - OUTPUT) // 2
        extent = (margin - 0.5, margin + OUTPUT - 0.5, margin + OUTPUT - 0.5, margin - 0.5)
        axes.contour(truth, [0.5], colors=[BLUE], linewidths=0.6, extent=extent, origin="upper")
        axes.add_patch(Rectangle((margin, margin), OUTPUT, OUTPUT, fill=False, color=RED))
        axes.set_title(title, loc="left", fontsize=9, pad=10)
    for axes in (*upper, *lower):
        axes.set_xlim(-0.5, TILE - 0.5)
        axes.set_ylim(TILE - 0.5, -0.5)
        axes.set_axis_off()
    target = Path(__file__).parent / "images" / "augmentation.png"
    target.parent.mkdir(exist_ok=True)
    write_bytes(target, rendered(figure), overwrite=True)


if __name__ == "__main__":
    main()
