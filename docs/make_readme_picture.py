"""Draw docs/images/overview.png from the folder of a demo: image, cells, weights, prediction.

Run `unet2015 demo --out demo` first, then `python docs/make_readme_picture.py demo`. The image,
its annotation and the stitched prediction are found by name below the folder; each can also be
given. Nothing is invented: without a prediction the script stops.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tiling.safe_write import write_bytes
from tiling.strict_tiff import read_stack
from unet2015.report_canvas import panel_row, rendered
from unet2015.report_colours import grey_rgb, instances_rgb, unit_probability
from weightmaps import instances_from_mask, weight_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Where a demo may keep its files, in the order they are looked for.
NAMES = {
    "image": ("large.tif",),
    "labels": ("large-labels.tif",),
    "prediction": ("large-probability.tif", "large-prob.tif", "probability.tif", "prob.tif"),
}
STEP_PX = 192  # tile borders of the demo's narrow network, drawn as small marks at the rim
WIDTH_PX = 1200


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 drawn, 2 something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("demo", type=Path, help="folder that `unet2015 demo --out` wrote")
    for name in NAMES:
        parser.add_argument(f"--{name}", type=Path, help=f"TIFF to use as the {name}")
    parser.add_argument("--page", type=int, default=0, help="slice of each file")
    parser.add_argument("--crop", type=int, nargs=4, default=(96, 512, 160, 576),
                        metavar=("Y0", "Y1", "X0", "X1"), help="part to show")  # fmt: skip
    parser.add_argument("--step", type=int, default=STEP_PX, help="distance of tile borders, px")
    parser.add_argument("--out", type=Path,
                        default=Path(__file__).parent / "images" / "overview.png")  # fmt: skip
    given = parser.parse_args(arguments)
    paths: dict[str, Any] = {
        name: getattr(given, name) or _found(given.demo, NAMES[name]) for name in NAMES
    }
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        words = f"no {' and no '.join(missing)} below {given.demo}; name it with --{missing[0]}"
        sys.stderr.write(words + "\n")
        return 2
    image, labels, prediction = (_slice(paths[name], given.page) for name in NAMES)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    y0, y1, x0, x1 = given.crop
    picture = overview(image, labels, prediction, np.s_[y0:y1, x0:x1], given.step)
    write_bytes(given.out, _small(picture), overwrite=True)
    sys.stdout.write(f"{given.out}\n")
    return 0


def overview(
    image: NDArray[Any],
    labels: NDArray[Any],
    prediction: NDArray[Any],
    part: tuple[slice, slice],
    step_px: int,
) -> bytes:
    """PNG of a row of panels: image, cells, prediction with marks at tile borders, weight map."""
    instances = instances_from_mask(labels)
    weights = weight_map(instances)  # of the whole slice: cells outside the part count too
    inside = unit_probability(prediction[part])
    grey = np.clip(np.rint(255 * inside), 0, 255).astype(np.uint8)
    panels = [
        ("image", grey_rgb(image[part])),
        ("annotated cells", instances_rgb(image[part], instances[part])),
        ("stitched prediction, unseen tissue", np.repeat(grey[..., None], 3, axis=-1)),
    ]
    figure, axes = panel_row(panels, np.asarray(weights[part], np.float32), "border weight map")
    _mark_borders(axes[2], part, step_px)
    return rendered(figure)


def _mark_borders(axes: Axes, part: tuple[slice, slice], step_px: int) -> None:
    """Small orange marks at the rim of a panel where tile borders run through it."""
    (y0, y1), (x0, x1) = ((one.start, one.stop) for one in part)
    mark = (y1 - y0) / 22
    lines = []
    for s in range(-(-y0 // step_px) * step_px, y1, step_px):
        for a, b in ((-0.5, mark), (x1 - x0 - mark, x1 - x0 - 0.5)):
            lines.append(([a, b], [s - y0 - 0.5] * 2))
    for s in range(-(-x0 // step_px) * step_px, x1, step_px):
        for a, b in ((-0.5, mark), (y1 - y0 - mark, y1 - y0 - 0.5)):
            lines.append(([s - x0 - 0.5] * 2, [a, b]))
    for xs, ys in lines:
        axes.plot(xs, ys, color="#E69F00", linewidth=1.4)
    axes.set_xlim(-0.5, x1 - x0 - 0.5)
    axes.set_ylim(y1 - y0 - 0.5, -0.5)


def _small(png: bytes) -> bytes:
    """The same picture as wide as a README shows it; 32 levels, which noise hides, pack better."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    height = round(picture.height * WIDTH_PX / picture.width)
    small = io.BytesIO()
    picture = picture.resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
    levels = [round(round(v / 255 * 31) * 255 / 31) for v in range(256)]
    picture.point(levels * 3).save(small, "PNG", optimize=True)
    return small.getvalue()


def _found(folder: Path, names: tuple[str, ...]) -> Path | None:
    """First file of one of these names in a folder or below it."""
    for name in names:
        for path in sorted(folder.rglob(name)):
            return path
    return None


def _slice(path: Path, page: int) -> NDArray[Any]:
    """One page (H, W) of a TIFF; of several channels the last one (the inside class)."""
    array: NDArray[Any] = read_stack(path)[page]
    return array if array.ndim == 2 else np.asarray(array[-1])


if __name__ == "__main__":
    raise SystemExit(main())
