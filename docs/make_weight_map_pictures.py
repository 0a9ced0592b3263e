"""Draws the pictures of docs/weight-maps.md: `python docs/make_weight_map_pictures.py`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiling.images import read_image
from tiling.safe_write import write_bytes
from weightmaps import (
    separate_touching,
    two_nearest_distances,
    weight_map,
)

HERE = Path(__file__).parent / "images"
Labels = npt.NDArray[Any]

_rng = np.random.default_rng(5)
_COLOURS = np.vstack([[0.08, 0.08, 0.08], 0.35 + 0.6 * _rng.random((400, 3))])
CELLS = ListedColormap(_COLOURS)


def figure(columns: int, rows: int = 1, side: float = 2.9) -> tuple[Figure, Any]:
    """An empty figure with square panels."""
    drawn = Figure(figsize=(side * columns, side * rows + 0.25), dpi=90)
    FigureCanvasAgg(drawn)
    drawn.set_layout_engine("constrained")
    panels = drawn.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_xticks([])
        panel.set_yticks([])
    return drawn, panels


def save(drawn: Figure, name: str) -> None:
    """Write the picture, always with the same bytes."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(HERE / name, buffer.getvalue(), overwrite=True)


def show(panel: Any, values: Labels, title: str, **options: Any) -> Any:
    """One panel."""
    panel.set_title(title, fontsize=9)
    return panel.imshow(values, interpolation="nearest", **options)


def cells_of(labels: Labels) -> Labels:
    """Labels as colour numbers that stay apart."""
    return np.where(labels > 0, 1 + labels.astype(np.int64) * 37 % 399, 0)


def blobs(shape: tuple[int, int], discs: list[tuple[float, float, float]]) -> Labels:
    """Discs (y, x, radius) with ids 1, 2, ...; a pixel of several belongs to the nearest centre."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    far = np.stack([np.hypot(y - cy, x - cx) - r for cy, cx, r in discs])
    labels = 1 + far.argmin(axis=0)
    labels[far.min(axis=0) > 0] = 0
    return labels


D1, D2 = "#6fd3ff", "#ffb347"  # colours of the two distances


def distances() -> None:
    """What d1 and d2 are: three pixels and their two nearest cells, with the numbers."""
    labels = blobs((60, 80), [(20, 20, 16), (21, 58, 16), (46, 38, 11)])
    d1, d2 = two_nearest_distances(labels)
    term = weight_map(labels, class_weights=(0, 0))
    drawn = Figure(figsize=(9.6, 5.4), dpi=90)
    FigureCanvasAgg(drawn)
    drawn.set_layout_engine("constrained")
    grid = drawn.add_gridspec(3, 2, width_ratios=(2.5, 1))
    large = drawn.add_subplot(grid[:, 0])
    show(large, cells_of(labels), "Three cells, three pixels", cmap=CELLS, vmin=0, vmax=400)
    told = []
    for name, y, x in [("A", 24, 38), ("B", 48, 63), ("C", 13, 16)]:
        near = []
        for number in np.unique(labels[labels > 0]):
            ys, xs = np.nonzero(labels == number)
            k = int(np.argmin(np.hypot(ys - y, xs - x)))
            near.append((float(np.hypot(ys[k] - y, xs[k] - x)), int(xs[k]), int(ys[k])))
        for (_, x1, y1), colour in zip(sorted(near)[:2], (D1, D2), strict=True):
            large.plot([x, x1], [y, y1], "-", color=colour, lw=2.2)
        large.plot(x, y, "wo", ms=6)
        large.text(x + 1, y - 1.5, name, color="w", fontsize=11, weight="bold")
        told.append(f"{name}: d1 = {d1[y, x]:4.1f}, d2 = {d2[y, x]:4.1f}, term {term[y, x]:.2f}")
    large.text(2, 58, "d1, to the nearest cell", color=D1, fontsize=9, weight="bold")
    large.text(50, 58, "d2, to the second-nearest", color=D2, fontsize=9, weight="bold")
    large.set_xlabel("\n".join(told), fontsize=10, family="monospace")
    for row, (values, title, colours, most) in enumerate(
        [
            (d1, "d1", "viridis", 40),
            (d2, "d2", "viridis", 40),
            (term, "10 exp(-(d1 + d2)² / 50)", "inferno", 10),
        ]
    ):
        panel = drawn.add_subplot(grid[row, 1])
        picture = show(panel, values, title, cmap=colours, vmin=0, vmax=most)
        drawn.colorbar(picture, ax=panel, ticks=[0, most // 2, most])
    for panel in drawn.axes:
        if panel.get_title():
            panel.set_xticks([])
            panel.set_yticks([])
    save(drawn, "weight-map-distances.png")


def gaps() -> None:
    """The border term at the centre of a gap between two straight cells."""
    widths = np.arange(1, 26)
    centre = []
    for gap in widths:
        row = np.zeros((1, gap + 2), np.int64)
        row[0, 0], row[0, -1] = 1, 2
        centre.append(float(weight_map(row, class_weights=(0, 0))[0, (gap + 1) // 2]))
    drawn = Figure(figsize=(6, 2.6), dpi=90)
    FigureCanvasAgg(drawn)
    drawn.set_layout_engine("constrained")
    panel = drawn.subplots()
    panel.plot(widths, centre, "o-", ms=3, color="#1f5fa8")
    for gap in (1, 2, 3, 5, 10, 15):
        panel.annotate(
            f"{centre[gap - 1]:.3f}", (gap, centre[gap - 1]), fontsize=8,
            xytext=(5, 3), textcoords="offset points",
        )  # fmt: skip
    panel.set_ylim(-0.3, 10.4)
    panel.set_xlabel("width of the gap, px")
    panel.set_ylabel("border term")
    save(drawn, "weight-map-gaps.png")


def carving() -> None:
    """Two touching cells: the two ways to carve, and distances after or before."""
    labels = blobs((30, 34), [(11, 10, 9), (15, 24, 9), (29, 12, 10)])
    drawn, panels = figure(3, 2)
    colours: dict[str, Any] = {"cmap": CELLS, "vmin": 0, "vmax": 400}
    show(panels[0], cells_of(labels), "touching cells", **colours)
    carved = [cells_of(separate_touching(labels, method=m)) for m in ("authors", "watershed")]
    show(panels[1], carved[0], "carved by the authors' rule", **colours)
    show(panels[2], carved[1], "carved by watershed", **colours)
    names = {"none": "nothing carved", "after": "distances after carving (default)",
             "before": "distances before carving"}  # fmt: skip
    for panel, (separate, title) in zip(panels[3:], names.items(), strict=True):
        values = weight_map(labels, class_weights=(0, 0), separate=separate)
        picture = show(panel, values, title, cmap="inferno", vmin=0, vmax=10)
    drawn.colorbar(picture, ax=panels[3:].tolist(), shrink=0.9, label="border term")
    save(drawn, "weight-map-carving.png")


def choices() -> None:
    """One labelled image of nuclei under several settings."""
    folder = files("unet2015") / "samples"
    image = read_image(str(folder / "nuclei.png"))[0]
    labels = read_image(str(folder / "nuclei-instances.png"))[0]
    image, labels = (part[..., :200, :260] for part in (image, labels))
    maps: list[tuple[str, dict[str, Any]]] = [
        ("default", {}),
        ("class weights none", {"class_weights": "none"}),
        ("border term everywhere", {"where": "everywhere"}),
        ("sigma 2", {"sigma_px": 2}),
        ("falk2019, w0 50, sigma 6", {"class_weights": "falk2019", "w0": 50, "sigma_px": 6}),
    ]
    drawn, panels = figure(4, 2, 3.1)
    show(panels[0], image[0] if image.ndim == 3 else image, "nuclei (CC0)", cmap="gray")
    show(panels[1], cells_of(labels), "instances", cmap=CELLS, vmin=0, vmax=400)
    show(panels[2], separate_touching(labels) > 0, "mask after carving", cmap="gray")
    for panel, (title, options) in zip(panels[3:], maps, strict=True):
        picture = show(panel, weight_map(labels, **options), title, cmap="inferno", vmin=0)
        drawn.colorbar(picture, ax=panel, shrink=0.75)
    save(drawn, "weight-map-choices.png")


def warped() -> None:
    """A map warped with the image, against the map of the warped labels."""
    labels = np.zeros((120, 120), np.int64)
    for k in range(4):
        for m in range(4):
            labels[30 * k + 2 : 30 * k + 28, 30 * m + 2 : 30 * m + 28] = 1 + 4 * k + m
    rng = np.random.default_rng(2)
    field = [ndimage.zoom(rng.normal(0, 10, (3, 3)), 40, order=3) for _ in range(2)]
    y, x = np.mgrid[:120, :120]
    place = [y + field[0], x + field[1]]
    before = weight_map(labels, class_weights=(0, 0))
    together = ndimage.map_coordinates(before, place, order=1, mode="mirror")
    moved = ndimage.map_coordinates(labels, place, order=0, mode="mirror")
    anew = weight_map(moved, class_weights=(0, 0))
    drawn, panels = figure(4)
    show(panels[0], cells_of(moved), "warped labels", cmap=CELLS, vmin=0, vmax=400)
    for panel, values, title in [(panels[1], together, "map warped with the image"),
                                 (panels[2], anew, "map of the warped labels")]:  # fmt: skip
        picture = show(panel, values, title, cmap="inferno", vmin=0, vmax=10)
    drawn.colorbar(picture, ax=panels[1:3].tolist(), shrink=0.7)
    picture = show(panels[3], together - anew, "difference", cmap="RdBu_r", vmin=-6, vmax=6)
    drawn.colorbar(picture, ax=panels[3], shrink=0.7)
    save(drawn, "weight-map-warping.png")


PICTURES: tuple[Callable[[], None], ...] = (distances, gaps, carving, choices, warped)

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for draw in PICTURES:
        draw()
