"""The report of a training run: held-out slices scored, drawn and put on one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tiling import SeamRule, plan
from tiling.safe_write import write_text
from unet2015.baselines import MEASURES
from unet2015.data import Stack
from unet2015.predict import covering_output, geometry_of, predict_array
from unet2015.provenance import versions
from unet2015.recipe import Recipe
from unet2015.report import (
    Column,
    KeyFigure,
    ReportData,
    Table,
    best_and_worst,
    figure3_panel,
    learning_curves,
    seam_picture,
    write_report,
)
from unet2015.scaled_stack import left_to_scale
from unet2015.score import isbi_scores
from unet2015.train import Run
from unet2015.validate import BEST_BY, measured, probabilities_of, with_weights

__all__ = ["COLUMNS", "measures_table", "run_report", "write_run_report"]

CORNER_PX = 1024  # of a larger slice, the corner that the seam certificate looks at

COLUMNS = {
    "wrong_pixels": Column("wrong pixels", "lower"),
    "pixel_error": Column("pixel error, 1 - F", "lower"),
    "v_rand": Column("V_rand", "higher"),
    "v_info": Column("V_info", "higher"),
    "warping_error": Column("warping error", "lower"),
}


def measures_table(rows: Mapping[str, Mapping[str, float]], caption: str = "") -> Table:
    """Table of ISBI measures: one row per name, one column per measure of `COLUMNS`."""
    return Table(
        tuple(COLUMNS.values()),
        tuple((name, *(row.get(key) for key in COLUMNS)) for name, row in rows.items()),
        caption,
    )


def write_run_report(
    run: Run, training: Stack, validation: Stack | None, *, commands: Sequence[str] = ()
) -> None:
    """Write `report.html`, and `scores.json` where two-class slices are held out."""
    data, scores = run_report(run, training, validation)
    if scores is not None:
        write_text(run.out / "scores.json", json.dumps(scores, indent=1) + "\n", overwrite=True)
    write_report(run.out / "report.html", replace(data, commands=commands), overwrite=True)


def run_report(
    run: Run, training: Stack, validation: Stack | None
) -> tuple[ReportData, dict[str, Any] | None]:
    """Contents of the report of a finished run, and the ISBI scores of its held-out slices.

    Parameters
    ----------
    run
        The finished run.
    training, validation
        Its slices, the training ones with weights.

    Returns
    -------
    data : ReportData
        The page.
    scores : dict or None
        As `unet2015 score --json` gives them; None without held-out slices of two classes that
        are labelled throughout and have foreground.
    """
    recipe = run.recipe
    data = ReportData(
        title=f"Training run {run.out.name}",
        lead=f"Recipe {recipe.name}: {run.step} steps on {len(training)} slices.",
        warnings=tuple(run.warnings),
        figure3=_figure3(training),
        curves=_curves(run, validation),
        recipe=recipe.to_dict(),
        versions=versions(),
        provenance={"data_sha256": training.fingerprint},
    )
    return (data, None) if validation is None else _with_held_out(data, run, validation)


def _with_held_out(
    data: ReportData, run: Run, validation: Stack
) -> tuple[ReportData, dict[str, Any] | None]:
    """The page with the measures, pictures and seams of held-out slices, and their ISBI scores."""
    recipe = run.recipe
    net = with_weights(run.net, run.averaged)
    maps = probabilities_of(net, validation, recipe)
    figures, notes = measured(maps, validation, recipe)
    inside = [1 - p[0] for p in maps]
    truths = [_truth(t, p, recipe) for t, p in zip(validation.labels, inside, strict=True)]
    seams, picture = _certificate(
        net, validation.images[0], left_to_scale(validation, recipe.scale)
    )
    data = replace(
        data,
        warnings=(*data.warnings, *(note for note in notes if note not in data.warnings)),
        key_figures=(KeyFigure("wrong pixels", figures[BEST_BY], "held out, most probable class"),),
        measures=_class_table(figures),
        slices=best_and_worst(
            [image.mean(0) for image in validation.images], inside, truths,
            names=[f"slice {name}" for name in validation.names],
            outside="membrane" if recipe.classes == 2 else "background",
        ),
        seams=seams,
        seam_picture=picture,
    )  # fmt: skip
    scored = [k for k, truth in enumerate(truths) if truth.any()]
    if recipe.classes != 2 or recipe.ignore_label is not None or not scored:
        return data, None
    return _with_isbi_scores(data, [inside[k] for k in scored], [truths[k] for k in scored])


def _with_isbi_scores(
    data: ReportData, maps: Sequence[NDArray[np.float32]], truths: Sequence[NDArray[Any]]
) -> tuple[ReportData, dict[str, Any]]:
    """The page with the challenge's measures in the place of the general ones, and the scores."""
    scores = _scores(maps, truths)
    at_half, best = ({key: scores[key][kind] for key in COLUMNS} for kind in ("at_0.5", "best"))
    return replace(
        data,
        key_figures=(
            KeyFigure("wrong pixels", best["wrong_pixels"], "held out, best threshold"),
            KeyFigure("V_info", best["v_info"], "held out, best threshold"),
        ),
        measures=measures_table(
            {"best threshold": best, "threshold 0.5": at_half, "all inside": _all_inside(truths)},
            "Held-out slices; measures as the ISBI 2012 challenge computes them.",
        ),
    ), scores


def _curves(run: Run, validation: Stack | None) -> bytes | None:
    """Curves of the log, with the share of wrong pixels of the best constant class."""
    if not run.log.rows:
        return None
    if validation is None:
        return learning_curves(run.log.rows)
    counts = np.zeros(run.recipe.classes, np.int64)
    for label in validation.labels:
        known = label[label != run.recipe.ignore_label]
        counts += np.bincount(known.ravel(), minlength=run.recipe.classes)
    constant = {"constant": float(1 - counts.max() / max(counts.sum(), 1))}
    return learning_curves(run.log.rows, baselines={BEST_BY: constant})


def _all_inside(truths: Sequence[NDArray[Any]]) -> dict[str, float]:
    """Measures of the constant that calls every pixel inside, by the same means as `_scores`."""
    alike = len({t.shape for t in truths}) == 1
    stacks = [np.stack(list(truths))] if alike else [t[None] for t in truths]
    return {
        key: float(
            np.mean([
                MEASURES[key](np.ones(t.shape, np.float32), t, thresholds=(0.5,)).best
                for t in stacks
            ])
        )
        for key in COLUMNS
    }  # fmt: skip


def _certificate(
    net: nn.Module, image: NDArray[Any], scale: str
) -> tuple[dict[str, Any], bytes | None]:
    """A held-out slice (or its corner) in tiles of half its side against one pass over it."""
    image = image[:, :CORNER_PX, :CORNER_PX]
    whole = geometry_of(net, covering_output(net, image.shape))
    half = whole.nearest(max(image.shape[-2:]) // 2)[0]
    if half <= whole.smallest:
        return {}, None
    tiled, one = (
        predict_array(net, image, output=output, scale=scale, seams=SeamRule(probe=False))[1]
        for output in (half, whole.output)
    )
    difference = np.abs(tiled.astype(np.float64) - one)
    figures = {
        "tiles": len(plan(image.shape, geometry_of(net, half))),
        "output tile (px)": half,
        "largest difference from one pass (probability)": float(difference.max()),
    }
    step = geometry_of(net, half).step
    return figures, seam_picture(tiled, step, difference=difference,
                                 difference_name="|tiled - one pass|")  # fmt: skip


def _truth(label: NDArray[np.int64], inside: NDArray[np.float32], recipe: Recipe) -> NDArray[Any]:
    """Foreground of a slice; where there is no annotation the prediction counts as right."""
    foreground = label > 0
    if recipe.ignore_label is not None:
        foreground = np.where(label == recipe.ignore_label, inside > 0.5, foreground)
    return np.asarray(foreground)


def _class_table(figures: Mapping[str, float]) -> Table:
    """Measures that any number of classes and partial annotation allow."""
    columns = (COLUMNS["wrong_pixels"], Column("mean IoU", "higher"))
    row = ("held-out slices", figures["wrong_pixels"], figures["mean_iou"])
    return Table(columns, (row,), "Held-out slices, labelled pixels, most probable class.")


def _figure3(training: Stack) -> bytes | None:
    """Figure 3 for the first training slice, where it has cells and a weight map."""
    if training.instances is None or training.weights is None:
        return None
    ids = np.maximum(training.instances[0], 0)
    grey = training.images[0].mean(0)
    return figure3_panel(grey, ids, training.labels[0] > 0, training.weights[0])


def _scores(maps: Sequence[NDArray[np.float32]], truths: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """ISBI measures of slices that may differ in size, as `unet2015 score --json` gives them."""
    if len({p.shape for p in maps}) == 1:
        sweeps = isbi_scores(np.stack(maps), np.stack(list(truths)))
        return {name: sweep.to_dict() for name, sweep in sweeps.items()}
    each = [isbi_scores(p[None], t[None]) for p, t in zip(maps, truths, strict=True)]
    return {
        key: {
            "best": float(np.mean([sweeps[key].best for sweeps in each])),
            "at_0.5": float(np.mean([sweeps[key].at(0.5) for sweeps in each])),
        }
        for key in COLUMNS
    }
