"""Draw docs/images/seams.png: what goes wrong at a step of 388 px, and how the certificate sees it.

    unet2015 demo --out demo && python docs/make_seam_picture.py demo

Everything is computed here, from the trained network and the large image of a demo: one pass over
the whole image, tiles at the paper's step, tiles at the exact step, and the probe tile.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from tiling import Summary, plan, stitch
from tiling.certificate import SeamRule, SeamWatch
from tiling.safe_write import write_bytes
from tiling.strict_tiff import read_stack
from unet2015.checkpoint import build_network, load
from unet2015.intensity import scale_for_dtype
from unet2015.predict import covering_output, geometry_of, predict_array
from unet2015.report_canvas import INK, LINES, QUIET
from unet2015.report_colours import grey_rgb
from unet2015.tile_function import as_tile_function

OUTPUT = 388


def main() -> int:
    """Exit code: 0 drawn, 2 something is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder of `unet2015 demo`")
    default = Path(__file__).parent / "images" / "seams.png"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    checkpoint = options.demo / "run" / "best.safetensors"
    images = sorted(options.demo.rglob("large.tif"))
    if not checkpoint.is_file() or not images:
        sys.stderr.write(f"{options.demo}: no run/best.safetensors or large.tif; run the demo\n")
        return 2
    state = load(checkpoint)
    net, image = build_network(state), read_stack(images[0])[0]
    output = covering_output(net, image.shape)
    whole = predict_array(net, image, output=output, scale="dtype-range")[1]
    drawn = {step: tiled(net, image, step) for step in ("paper", "exact")}
    figure = draw(net, image, whole, drawn)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    write_bytes(options.out, buffer.getvalue(), overwrite=True)
    for step, (result, summary) in drawn.items():
        off = np.abs(result - whole)
        sys.stdout.write(
            f"{step}: step {summary.step}, largest difference from one pass {off.max():.3g}, "
            f"labels that differ {np.mean((result > 0.5) != (whole > 0.5)):.3%}, "
            f"strip {summary.seam_max_difference}, probe {summary.probe_difference:.3g}\n"
        )
    return 0


def tiled(net: Any, image: NDArray[Any], step: Any) -> tuple[NDArray[np.float32], Summary]:
    """Foreground probability from tiles of 388 px, and what the run says about its seams."""
    function = as_tile_function(net, scale=scale_for_dtype(image.dtype))
    result = np.empty((2, *image.shape), np.float32)
    summary = stitch(image, function, result, geometry_of(net, OUTPUT), step=step)
    return result[1], summary


def draw(net: Any, image: NDArray[Any], whole: NDArray[Any], drawn: dict[str, Any]) -> Figure:
    """Four panels: image with the probe, result, and both differences on one scale."""
    paper, exact = drawn["paper"], drawn["exact"]
    off = np.abs(paper[0] - whole)
    figure = Figure(figsize=(10.8, 9.4), layout="constrained")
    (top_left, top_right), (left, right) = figure.subplots(2, 2)
    top_left.imshow(grey_rgb(image))
    _borders(top_left, net, image, "paper", LINES[4])
    tiles = plan(image.shape, geometry_of(net, OUTPUT), step="paper")
    window = SeamWatch(tiles, SeamRule()).probe_window
    if window is not None:
        y0, y1, x0, x1 = window
        box = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=LINES[5], lw=2.5)
        top_left.add_patch(box)
        paper_white = {"fc": "white", "ec": LINES[5], "pad": 3}
        top_left.text(x0 + 14, y0 + 42, "probe tile", color=INK, bbox=paper_white)
    top_left.set_title("a  the image, tiles 388 px apart, and the probe tile", loc="left")
    top_right.imshow(paper[0], cmap="gray", vmin=0, vmax=1)
    top_right.set_title("b  probability from these tiles: no seam to be seen", loc="left")
    scale = {"cmap": "magma", "norm": PowerNorm(0.5, 0, float(off.max()))}  # shows small ones too
    left.imshow(off, **scale)
    left.set_title(
        f"c  step 388: off by up to {off.max():.2g} from one pass\n"
        f"    the probe tile says {paper[1].probe_difference:.2g}",
        loc="left",
    )
    shown = right.imshow(np.abs(exact[0] - whole), **scale)
    right.set_title(
        f"d  step {exact[1].step}: off by {np.abs(exact[0] - whole).max():.2g}\n"
        f"    probe {exact[1].probe_difference:.2g}, strips {exact[1].seam_max_difference:.2g}",
        loc="left",
    )
    _borders(left, net, image, "paper", QUIET)
    _borders(right, net, image, "exact", QUIET)
    bar = figure.colorbar(shown, ax=[left, right], shrink=0.85)
    bar.set_label("difference in probability", color=INK)
    for axes in (top_left, top_right, left, right):
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def _borders(axes: Any, net: Any, image: NDArray[Any], step: Any, colour: str) -> None:
    """Lines where one tile's writing ends and the next one's begins."""
    tiles = plan(image.shape, geometry_of(net, OUTPUT), step=step)
    for row in range(1, tiles.rows):
        axes.axhline(tiles.band(row)[0] - 0.5, color=colour, lw=1, ls=(0, (6, 4)))
    for column in range(1, tiles.columns):
        axes.axvline(tiles.tile(0, column).write[2] - 0.5, color=colour, lw=1, ls=(0, (6, 4)))


if __name__ == "__main__":
    sys.exit(main())
